"""Answered photos → copies in a folder for each label. Moves nothing and overwrites nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

from catdog import CLASSES, CatdogError, Classes
from catdog.inference.inputs import Photo
from catdog.inference.output import Answer, labels_of

NAME_BYTES, SUFFIX_CHARACTERS = 200, 20
"""File systems take 255 bytes; some are left for what we add to a name."""


class Sorter:
    """The folder `target` with one for each label in it, filled with copies of photos.

    A copy keeps its photo's name. Where a photo of that name lies already, it is the same
    and nothing is done, or another and the copy is called -2, -3 and so on.
    """

    def __init__(self, target: Path, sources: Sequence[str], classes: Classes = CLASSES) -> None:
        """Make the folders; `sources` are the names that the photos come from.

        Raises:
            CatdogError: a folder can't be made, or `target` lies in one that is searched for
                photos: the copies would be found and labelled as well, and to leave them out
                might leave out photos of the user's.
        """
        self.target = target.expanduser()
        refuse_inside(self.target, sources, flag="sort_into")
        try:
            for label in labels_of(classes):
                (self.target / label).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cant_write(self.target, error) from error

    def watch(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """The same answers, each handed on after its photo was copied; errors copy nothing.

        Raises:
            CatdogError: a copy can't be written.
        """
        for answer in answers:
            if not answer.prediction.error:
                self._copy(answer)
            yield answer

    def _copy(self, answer: Answer) -> None:
        name = short_name(answer.photo.file_name)
        try:
            for target in free_names(self.target / answer.prediction.label / name):
                if _holds(target, answer.content) or _put(target, answer):
                    return
        except OSError as error:
            raise _cant_write(self.target, error) from error


def short_name(name: str) -> str:
    """The name, cut in its middle where it is too long for a file system."""
    path = Path(name)
    stem, suffix = path.stem, path.suffix[:SUFFIX_CHARACTERS]
    while len(os.fsencode(stem + suffix)) > NAME_BYTES:
        stem = stem[:-1]
    return stem + suffix


def free_names(path: Path) -> Iterator[Path]:
    """The path itself, then with -2, -3 and so on before its suffix: without end."""
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _put(target: Path, answer: Answer) -> bool:
    """Write the photo to `target`, whole or not at all; False when the name is taken."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        # Renaming alone would replace what another program put there a moment ago.
        target.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        part.write_bytes(answer.content)
        _keep_time(answer.photo, part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        target.unlink()
        raise
    return True


def _keep_time(photo: Photo, copy: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # it is an address, or was deleted since
        taken = Path(photo.name).stat()
        os.utime(copy, ns=(taken.st_atime_ns, taken.st_mtime_ns))


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def refuse_inside(target: Path, sources: Sequence[str], *, flag: str) -> None:
    """Raise CatdogError when what is written to `target` would be found among the photos."""
    place = target.resolve()
    for source in sources:
        folder = Path(source).expanduser()
        if folder.is_dir() and place.is_relative_to(folder.resolve()):
            raise CatdogError(
                f"{flag}={target} lies inside {folder}, whose photos are being labelled: "
                "what is written would be labelled, too. Name a folder outside of it."
            )


def _cant_write(target: Path, error: OSError) -> CatdogError:
    return CatdogError(
        f"sort_into={target} can't be written: {error.strerror or error}. Name another folder."
    )
