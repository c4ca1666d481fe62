"""A model's name and photos → answers, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from catdog import CatdogError
from catdog.data.dataset import load_dataset
from catdog.data.images import is_image_name
from catdog.inference.classifier import Classifier
from catdog.inference.inputs import Photo
from catdog.inference.output import Answer
from catdog.inference.prediction import Options
from catdog.inference.sorting import free_names, short_name


def test_photos(classifier: Classifier, data_dir: Path) -> Path:
    """The unlabelled test/ folder of the data set that the classifier was trained on.

    Raises:
        CatdogError: it is not here, or holds nothing.
    """
    folder = load_dataset(data_dir / classifier.about.dataset).test
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
    from catdog.inference import explain as drawing

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
