"""What becomes of answered photos besides a row of output: sorted copies, and explanations.

Each function hands its answers on, one after the other, so that they can be put in a row.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

from catdog import CatdogError, Classes
from catdog.data.dataset import load_dataset
from catdog.data.images import is_image_name
from catdog.inference.classifier import Classifier
from catdog.inference.inputs import Photo
from catdog.inference.output import Answered, labels_of


def test_photos(classifier: Classifier, data_dir: Path) -> Path:
    """The unlabelled test/ folder of the data set that the classifier was trained on.

    Raises:
        CatdogError: it is not here, or holds nothing.
    """
    folder = load_dataset(data_dir / classifier.about.dataset).test
    if not any(map(is_image_name, folder.iterdir())):
        raise CatdogError(f"{folder} holds no picture: name the photos to label.")
    return folder


def refuse_inside(target: Path, sources: Sequence[str], *, flag: str) -> None:
    """Raise CatdogError when what is written to `target` would be found among the photos.

    It would be labelled as well, and to leave it out might leave out photos of the user's.
    """
    place = target.resolve()
    for source in sources:
        folder = Path(source).expanduser()
        if folder.is_dir() and place.is_relative_to(folder.resolve()):
            raise CatdogError(
                f"{flag}={target} lies inside {folder}, whose photos are being labelled: "
                "what is written would be labelled, too. Name a folder outside of it."
            )


def sort(answers: Iterable[Answered], target: Path, classes: Classes) -> Iterator[Answered]:
    """The same answers, each handed on after its photo was copied into a folder for its label.

    Moves nothing and overwrites nothing. A copy keeps its photo's name. Where a photo of that
    name lies already, it is the same and nothing is done, or another and the copy is called -2,
    -3 and so on. The photos must have kept their bytes.

    Raises:
        CatdogError: at once when a folder can't be made, later when a copy can't be written.
    """
    with _write_errors("sort_into", target):
        for label in labels_of(classes):
            (target / label).mkdir(parents=True, exist_ok=True)
    return _sorted(answers, target)


def _sorted(answers: Iterable[Answered], target: Path) -> Iterator[Answered]:
    for photo, prediction in answers:
        if not prediction.error:
            with _write_errors("sort_into", target):
                _copy(photo, target / prediction.label)
        yield photo, prediction


def explain(
    answers: Iterable[Answered], target: Path, classifier: Classifier
) -> Iterator[Answered]:
    """The same answers, each handed on after a picture of its reasons was saved in `target`.

    The picture of `1.jpg` is `1.png`, or `1-2.png` where that is taken. The photos must have
    kept their bytes.

    Raises:
        CatdogError: the folder or a picture can't be written.
    """
    from catdog.inference import explain as drawing

    with _write_errors("explain", target):
        target.mkdir(parents=True, exist_ok=True)
    for photo, prediction in answers:
        if not prediction.error:
            path = target / f"{Path(photo.file_name).stem}.png"
            free = next(name for name in _names(path) if not name.exists())
            drawn = drawing.draw(classifier, photo.content, prediction)
            with _write_errors("explain", target):
                drawn.save(free)
        yield photo, prediction


@contextlib.contextmanager
def _write_errors(flag: str, target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CatdogError(
            f"{flag}={target} can't be written: {error.strerror or error}. Name another folder."
        ) from error


def _names(path: Path) -> Iterator[Path]:
    """The path itself, then with -2, -3 and so on before its suffix: without end."""
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _copy(photo: Photo, folder: Path) -> None:
    """Write the photo, with its date, under a name that is free; not where it lies already.

    The name appears with the whole photo behind it, whatever ends the program meanwhile.
    """
    for target in _names(folder / photo.file_name):
        if target.is_file() and target.read_bytes() == photo.content:
            return
        if not (target.exists() or target.is_symlink()):
            break
    part = folder / f".{secrets.token_hex(8)}.part"
    try:
        part.write_bytes(photo.content)
        with contextlib.suppress(FileNotFoundError):  # it is an address, or was deleted since
            taken = Path(photo.name).stat()
            os.utime(part, ns=(taken.st_atime_ns, taken.st_mtime_ns))
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
