"""Files that hold the old or the new, come what may; digests; and which names mean one file.

macOS may give an accent apart from its letter, where people type both as one. There and on
Windows `Cat.jpg` and `cat.jpg` are one file. Windows has no file `con.jpg`, and none with a `:`
in its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catdog import CatdogError

REFUSED = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])\s*(\.|$)", re.IGNORECASE)
"""What Windows takes for a device, whatever the suffix."""


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values` to `path`, which holds either them or what it held before, come what may."""
    with atomic_write(path) as part, part.open("w", encoding="utf-8") as stream:
        json.dump(values, stream, indent=2)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of the file `path` on leaving; on an error it goes."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        sync(part)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong before it matters more
            part.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Raise what the disk refuses at or below `folder` as one sentence.

    Raises:
        CatdogError: the disk is full, or a file can't be read or written.
    """
    try:
        yield
    except OSError as error:
        raise CatdogError(
            f"{error.filename or folder} can't be used ({error.strerror or error}): free some "
            "space or change its permissions and run this again, or choose another folder with "
            "--data_dir."
        ) from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make sure that a file's content, or the names in a folder, outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `folder` on leaving; on an error it goes.

    For what can be made again: a kill between the two steps may leave neither of them.
    """
    new = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def delete_folder(folder: Path) -> int:
    """Delete a folder; return how many bytes that freed.

    Raises:
        CatdogError: it can't be deleted.
    """
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise CatdogError(
            f"{folder} can't be deleted ({error.strerror or error}): end the runs that use it, or "
            "see that it can be written to, and run this again."
        ) from error
    return size


def normal(name: str) -> str:
    """The name with each accent and its letter as one sign, as people type it."""
    return unicodedata.normalize("NFC", name)


def alike(name: str) -> str:
    """What is equal for names that some system takes for one file's."""
    return normal(unicodedata.normalize("NFD", name).casefold())


def portable(name: str) -> str:
    """A name like this one that a file can have on any system; "" where nothing is left of it."""
    plain = REFUSED.sub("_", normal(name)).rstrip(". ")
    return f"_{plain}" if RESERVED.match(plain) else plain
