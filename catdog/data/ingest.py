"""A source → its readable pictures, each checked, copied and described, and what is left out.

What a picture is, and on which side it belongs, is read from its name; whether it is one, from
its bytes. The source is never changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from catdog import CLASSES, Classes
from catdog.data import images
from catdog.data.archive import Member, is_archive_name, is_table_name, members
from catdog.data.classes import SPLIT_WORDS, classes_in, label_of
from catdog.data.dataset import TEST
from catdog.files import sha256_of

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


@dataclass(frozen=True)
class Contents:
    """What a source holds: readable pictures, files left out, and tables of metadata."""

    pictures: list[SourcePicture]
    left_out: list[LeftOut]
    tables: list[Member]

    def names(self) -> list[str]:
        """The names of all pictures, readable or not."""
        return [picture.source for picture in self.pictures] + [name for name, _ in self.left_out]


def fingerprint(source: Path) -> str:
    """Changes when the source does: the bytes of an archive, the listing of a folder."""
    if source.is_file():
        return sha256_of(source)
    listing = sorted(
        (path.relative_to(source).as_posix(), status.st_size, status.st_mtime_ns)
        for path in source.rglob("*")
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


def ingest(source: Path, staging: Path, classes: Classes) -> Contents:
    """Copy every readable picture below `staging`, checking as many at once as there are cores.

    Pictures without a label are taken from a folder named `test` alone.

    Raises:
        CatdogError: the source can't be read.
    """
    tables: list[Member] = []
    results: list[SourcePicture | LeftOut] = []
    waiting: deque[Future[SourcePicture | LeftOut]] = deque()
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        for number, member in enumerate(members(source)):
            if is_table_name(member[0]):
                tables.append(member)
                continue
            waiting.append(pool.submit(_check_and_copy, member, staging / f"{number}", classes))
            if len(waiting) > 8 * cores:  # pictures in memory at once
                results.append(waiting.popleft().result())
            if number and number % 5_000 == 0:
                logger.info(f"Checked {number:,} pictures")
        results += [future.result() for future in waiting]
    pictures = [result for result in results if isinstance(result, SourcePicture)]
    left_out = [result for result in results if not isinstance(result, SourcePicture)]
    return Contents(pictures, left_out, tables)


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
