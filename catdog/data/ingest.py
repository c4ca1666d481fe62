"""A source → its readable pictures, each checked, copied and described, and what is left out.

What a picture is, and on which side it belongs, is read from its name; whether it is one, from
its bytes. The source is never changed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from catdog import CLASSES, Classes
from catdog.data import images
from catdog.data.archive import Member, is_archive_name, is_table_name, members
from catdog.data.classes import SPLIT_WORDS, classes_in, label_of
from catdog.data.dataset import TEST
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


def find_classes(source: Path) -> Classes:
    """The classes that the names in a source speak of."""
    names = (name for name, _ in members(source) if not is_table_name(name))
    found = classes_in(name for name in names if _split_of(name) != TEST)
    if found != CLASSES:
        logger.info(
            f"Classes: {found[0]} (negative) and {found[1]} (positive), as the folders are called; "
            "-P classes=NEGATIVE,POSITIVE names others."
        )
    return found


def ingest(
    source: Path, staging: Path, classes: Classes
) -> tuple[list[SourcePicture], list[LeftOut], list[Member]]:
    """Copy every readable picture below `staging`, checking as many at once as there are cores.

    Pictures without a label are taken from a folder named `test` alone.

    Returns:
        The readable pictures, the files left out, and the tables of metadata.

    Raises:
        CatdogError: the source can't be read.
    """
    pictures: list[SourcePicture] = []
    left_out: list[LeftOut] = []
    tables: list[Member] = []

    def found() -> Iterator[tuple[int, Member]]:
        for number, member in enumerate(members(source)):
            if is_table_name(member[0]):
                tables.append(member)
            else:
                yield number, member

    def check(numbered: tuple[int, Member]) -> SourcePicture | LeftOut:
        return _check_and_copy(numbered[1], staging / f"{numbered[0]}", classes)

    for count, result in enumerate(in_order(check, found()), 1):
        if isinstance(result, SourcePicture):
            pictures.append(result)
        else:
            left_out.append(result)
        if count % 5_000 == 0:
            logger.info(f"Checked {count:,} pictures")
    return pictures, left_out, tables


def _check_and_copy(member: Member, target: Path, classes: Classes) -> SourcePicture | LeftOut:
    name, content = member
    label, split = label_of(name, classes), _split_of(name)
    if not label and split != TEST:
        return name, f"neither {classes[0]} nor {classes[1]} in its folder's or its own name"
    try:
        width, height = images.check(content)
    except images.UnreadableImageError as error:
        return name, str(error)
    target.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return SourcePicture(name, target, label, split, sha256, width, height)


def _split_of(name: str) -> str:
    """The split that the nearest folder or archive with such a name says; "" when none does."""
    for part in reversed(PurePosixPath(name).parts[:-1]):
        stem = part.lower().split(".")[0] if is_archive_name(part) else part.lower()
        for split, words in SPLIT_WORDS.items():
            if stem in words:
                return split
    return ""
