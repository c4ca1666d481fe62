"""A model's name and photos → answers, one after the other; a labelled folder → scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catdog import CatdogError
from catdog.answers import Answer, Row
from catdog.classifier import Classifier, Options, saved_in
from catdog.device import pick_device
from catdog.images import UnreadableImageError, is_image_name
from catdog.photos import Photo
from catdog.prepare import load_prepared
from catdog.sorting import free_names, short_name

if TYPE_CHECKING:
    from catdog.evaluate import Scores


def load_classifier(model_uri: str, *, device: str = "auto") -> Classifier:
    """The classifier that a model URI names, ready to label photos.

    Raises:
        CatdogError: the URI names none, or the device is not there.
    """
    pick_device(device)
    folder = Path(model_uri).expanduser()
    if folder.is_dir():
        return Classifier.load(saved_in(folder), device=device)
    from catdog import registry  # MLflow, which takes longer to import than a photo to label

    return Classifier.load(registry.fetch(model_uri), device=device)


def test_photos(classifier: Classifier, data_dir: Path) -> Path:
    """The unlabelled test/ folder of the data set that the classifier was trained on.

    Raises:
        CatdogError: it is not here, or holds nothing.
    """
    folder = load_prepared(data_dir / classifier.about.dataset).test
    if not any(map(is_image_name, folder.iterdir())):
        raise CatdogError(f"{folder} holds no picture: name the photos to label.")
    return folder


def answer_photos(
    classifier: Classifier,
    photos: Iterable[Photo],
    options: Options,
    *,
    batch_size: int | None = None,
    keep: bool = False,
) -> Iterator[Answer]:
    """The answers in the order of the photos, which are read shortly before their turn.

    A photo that can't be read gives a prediction with `error`. With `keep`, an answer holds
    the bytes it was given for, so that no photo is read twice.
    """
    opened = (_Opened(photo, keep) for photo in photos)
    answered = classifier.stream(opened, _Opened.read, options, batch_size=batch_size)
    for item, prediction in answered:
        yield Answer(item.photo, prediction, item.content)


def explain(classifier: Classifier, answers: Iterable[Answer], folder: Path) -> Iterator[Answer]:
    """The same answers, each handed on after a picture of its reasons was saved in `folder`.

    The picture of `1.jpg` is `1.png`, or `1-2.png` where that is taken.

    Raises:
        CatdogError: the folder or a picture can't be written.
    """
    from catdog import explain as drawing

    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for answer in answers:
            if not answer.prediction.error:
                path = folder / f"{Path(short_name(answer.photo.file_name)).stem}.png"
                target = next(free for free in free_names(path) if not free.exists())
                drawing.save(classifier, answer.content, answer.prediction, target)
            yield answer
    except OSError as error:
        raise CatdogError(
            f"explain={folder} can't be written: {error.strerror or error}. Name another folder."
        ) from error


def evaluate_folder(
    classifier: Classifier, folder: Path, *, batch_size: int = 32
) -> tuple[Scores, list[Row]]:
    """Score the classifier on `folder/{cat,dog}`; also a row for each unreadable picture.

    Raises:
        CatdogError: a class has no folder or no picture, or none can be read.
    """
    from catdog.data import LabelledFolder
    from catdog.evaluate import score

    samples = LabelledFolder(folder).samples
    answers = _logits(classifier, [path for path, _ in samples], batch_size=batch_size)
    read: list[tuple[int, float]] = []
    unreadable: list[Row] = []
    for (path, label), answer in zip(samples, answers, strict=True):
        if isinstance(answer, float):
            read.append((label, answer))
        else:
            unreadable.append(_failed(path, answer))
    if not read:
        raise CatdogError(f"no picture in {folder} can be read: {unreadable[0].error}")
    labels, logits = zip(*read, strict=True)
    return score(np.array(labels), np.array(logits)), unreadable


@dataclass
class _Opened:
    photo: Photo
    keep: bool
    content: bytes = b""

    def read(self) -> bytes:
        content = self.photo.read()
        if self.keep:
            self.content = content
        return content


def _logits(
    classifier: Classifier, paths: Iterable[str], *, batch_size: int
) -> Iterator[float | OSError | UnreadableImageError]:
    waiting = iter(paths)
    while batch := list(islice(waiting, batch_size)):
        contents = [_read(path) for path in batch]
        answers = iter(classifier.logits([c for c in contents if isinstance(c, bytes)]))
        for content in contents:
            yield next(answers) if isinstance(content, bytes) else content


def _read(path: str) -> bytes | OSError:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        return error


def _failed(path: str, error: OSError | UnreadableImageError) -> Row:
    reason = error.strerror if isinstance(error, OSError) else None
    return Row(path, None, None, None, None, reason or str(error))
