"""A source → its readable pictures, each checked, copied and described, and what is left out.

What a picture is, and on which side it belongs, is read from its name; whether it is one, from
its bytes. The source is never changed.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath

from catdog import CLASSES, CatdogError, Classes
from catdog.data import images
from catdog.data.archive import Member, is_table_name, members
from catdog.data.classes import class_of_folder, classes_in, label_of, split_of_folder
from catdog.data.dataset import TEST
from catdog.data.metadata import read_metadata
from catdog.parallel import in_order

logger = logging.getLogger(__name__)

LeftOut = tuple[str, str]
"""A file's name in the source, and why it can't be used."""


@dataclass(frozen=True)
class SourcePicture:
    """One readable picture of a source: where it was, where its bytes wait, what is known of it.

    `path` is where it belongs in the prepared folder, once its split is settled.
    """

    source: str
    staged: Path
    label: str
    split: str
    sha256: str
    width: int
    height: int
    path: str = ""


def fingerprint(source: Path) -> str:
    """Changes when a file of the source does, by the names, sizes and times of all of them."""
    listing = sorted(
        (path.relative_to(source).as_posix(), status.st_size, status.st_mtime_ns)
        for path in (source, *source.rglob("*"))
        if path.is_file()
        for status in [path.stat()]
    )
    return hashlib.sha256(repr(listing).encode("utf-8", "backslashreplace")).hexdigest()


class LabelledSource:
    """What the names and the tables in a source say of its pictures, before one is read.

    The name of the source says nothing, nor do folders in which all of its pictures lie. Without
    `classes` they are those that the source speaks of.

    Raises:
        CatdogError: the source can't be read, or a table in it.
    """

    def __init__(self, path: Path, classes: Classes | None = None) -> None:
        self.path = path
        names, tables, self._others = list[str](), [], Counter[str]()
        for name, read in members(path):
            if is_table_name(name):
                tables.append((name, read()))
            elif images.is_image_name(name):
                names.append(name)
            else:
                self._others[PurePosixPath(name).suffix.lower() or "without suffix"] += 1
        self.metadata = read_metadata(tables)
        levels = zip(*(PurePosixPath(name).parts[:-1] for name in names), strict=False)
        self._top = sum(1 for _ in takewhile(lambda level: len({*level}) == 1, levels))
        self.splits = {name: _split_of(self._inner(name)) for name in names}
        learned = [name for name in names if self.splits[name] != TEST]
        found = classes_in(map(self._inner, learned), filter(None, self.metadata.labels.values()))
        self.classes = classes or found
        self.labels = {name: label_of(self._inner(name), self.classes) for name in names}
        if not any(self.labels.values()):  # all of one class, it seems
            self.labels = {name: label_of(name, self.classes) for name in names}
        for name, label in self.labels.items():
            if not label:  # a number may be that of a test picture, too
                typed = self.metadata.label(name, by_id=self.splits[name] != TEST)
                self.labels[name] = class_of_folder(typed, self.classes)
        if classes is None and found != CLASSES:
            logger.info(
                f"Classes: {found[0]} (negative) and {found[1]} (positive), as the folders or the "
                "labels are called; -P classes=NEGATIVE,POSITIVE names others."
            )

    def log(self) -> None:
        """Say which folders were taken for splits, and what was passed over."""
        folders = {
            part for name in self.splits for part in PurePosixPath(self._inner(name)).parts[:-1]
        }
        if taken := sorted(filter(split_of_folder, folders)):
            listed = ", ".join(f"{name} for {split_of_folder(name)}" for name in taken)
            logger.info(f"Folders: {listed}.")
        if self._others:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self._others.most_common())
            logger.info(f"Passed over, by their names no pictures: {kinds}.")

    def require_both(self) -> None:
        """Raise CatdogError when the names speak of pictures of one class alone, or of none."""
        if not {*self.classes}.issubset(self.labels.values()):
            first, second = self.classes
            raise CatdogError(
                f"{self.path} needs pictures in both {first}/ and {second}/, or named after them."
            )

    def pictures(self) -> Iterator[Member]:
        """The pictures, each to be read before the next one is asked for."""
        return ((name, read) for name, read in members(self.path) if name in self.labels)

    def where(self, name: str) -> Path:
        """What people find a picture by."""
        return (self.path if self.path.is_dir() else self.path.parent) / name

    def _inner(self, name: str) -> str:
        return "/".join(PurePosixPath(name).parts[self._top :])


def ingest(source: LabelledSource, staging: Path) -> tuple[list[SourcePicture], list[LeftOut]]:
    """Copy every readable picture below `staging`, checking as many at once as there are cores.

    Pictures without a label are taken from a folder named `test` alone.

    Returns:
        The readable pictures, and the files left out.

    Raises:
        CatdogError: the source can't be read.
    """
    pictures: list[SourcePicture] = []
    left_out: list[LeftOut] = []
    classes = source.classes

    def found() -> Iterator[tuple[Path, str, bytes]]:
        for number, (name, read) in enumerate(source.pictures()):
            if not source.labels[name] and source.splits[name] != TEST:
                reason = f"neither {classes[0]} nor {classes[1]} in its folder's or its own name"
                left_out.append((name, reason))
                continue
            try:
                yield staging / f"{number}", name, read()
            except OSError as error:
                left_out.append((name, error.strerror or str(error)))

    def check(item: tuple[Path, str, bytes]) -> SourcePicture | LeftOut:
        target, name, content = item
        try:
            width, height = images.check(content)
        except images.UnreadableImageError as error:
            return name, str(error)
        target.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        label, split = source.labels[name], source.splits[name]
        return SourcePicture(name, target, label, split, sha256, width, height)

    for count, result in enumerate(in_order(check, found()), 1):
        if isinstance(result, SourcePicture):
            pictures.append(result)
        else:
            left_out.append(result)
        if count % 5_000 == 0:
            logger.info(f"Checked {count:,} pictures")
    return pictures, left_out


def _split_of(name: str) -> str:
    """The split that the nearest folder or archive with such a name says; "" when none does."""
    folders = reversed(PurePosixPath(name).parts[:-1])
    return next(filter(None, map(split_of_folder, folders)), "")
