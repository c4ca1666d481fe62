"""Names that a user gives → a lazy row of photos: files, folders, globs, addresses, stdin.

Nothing is read before its turn, and of a folder only the names of one directory at a time
are held, so a million photos take no more memory than a thousand.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from catdog import CatdogError
from catdog.data.images import MAX_BYTES, UnreadableImageError, is_image_name, too_large
from catdog.files import portable

STDIN = "-"
READ_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo to be read: `name` is its path or address, as answers show it.

    `trouble` says why it can't be read, where that is known before.
    """

    name: str
    trouble: str = ""

    @property
    def file_name(self) -> str:
        """The last part of the path, also of an address: a name that a file can have."""
        if not is_url(self.name):
            return Path(self.name).name
        last = PurePosixPath(unquote(urlsplit(self.name).path)).name
        return portable(last) or "photo"

    def read(self) -> bytes:
        """The photo's bytes.

        Raises:
            OSError: the file can't be read.
            UnreadableImageError: the address can't be read, or `trouble`.
        """
        if self.trouble:
            raise UnreadableImageError(self.trouble)
        if is_url(self.name):
            from catdog.inference import urls  # requests, for an address alone

            return urls.fetch(self.name)
        if (size := Path(self.name).stat().st_size) > MAX_BYTES:
            raise UnreadableImageError(too_large(size))
        return Path(self.name).read_bytes()


def is_url(name: str) -> bool:
    """Whether the name is an address with a scheme, of whatever kind."""
    return re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE) is not None


def find_photos(names: Sequence[str], *, stdin: BinaryIO | None = None) -> Iterator[Photo]:
    """The photos that the names stand for, in order.

    A name is a file, a folder (with all below it), a glob, an http(s) address, or "-" for
    paths and addresses on stdin: one a line, or separated by NUL where there is one. A file
    that is named itself is tried whatever its suffix, and also when it is missing: reading
    it then fails, and the others are labelled all the same.

    Raises:
        CatdogError: before the first photo, when a folder or a glob holds none.
    """
    for name in names:
        if name != STDIN and not is_url(name) and not _holds_photo(_as_path(name)):
            raise CatdogError(f"{name} holds no picture: name a folder, file or glob that does.")
    return chain.from_iterable(_named(name, stdin) for name in names)


def _named(name: str, stdin: BinaryIO | None) -> Iterator[Photo]:
    if name == STDIN:
        return (_listed(line) for line in _lines(stdin or sys.stdin.buffer))
    if is_url(name):
        return iter([Photo(name)])
    return _photos(_as_path(name))


def _listed(name: str) -> Photo:
    """A photo of a list: no glob and no folder, as lists are made by other programs."""
    return Photo(name) if is_url(name) else Photo(str(_as_path(name)))


def _as_path(name: str) -> Path:
    return Path(name).expanduser() if name.startswith("~") else Path(name)


def _photos(path: Path) -> Iterator[Photo]:
    if _is_folder(path):
        yield from _walk(path)
    elif _is_glob(path):
        matches = [match for match in glob.iglob(str(path), recursive=True) if _is_file(match)]
        yield from map(Photo, sorted(map(str, map(Path, matches)), key=_natural_path))
    else:
        yield Photo(str(path))


def _holds_photo(path: Path) -> bool:
    if _is_folder(path):
        return _has_photo(path)
    if _is_glob(path):
        return any(map(_is_file, glob.iglob(str(path), recursive=True)))
    return True


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for a file: reading it says so
        return False


def _is_glob(path: Path) -> bool:
    try:
        return glob.has_magic(str(path)) and not path.exists()
    except OSError:
        return False


def _is_file(name: str) -> bool:
    return Path(name).is_file()


def _has_photo(folder: Path) -> bool:
    """Whether a photo is found below; also true where a folder can't be searched, to be told."""
    waiting = [folder]
    while waiting:
        directory = waiting.pop()
        try:
            for name, is_folder in _scan(directory):
                if not is_folder:
                    return True
                waiting.append(directory / name)
        except OSError:
            return True
    return False


def _walk(folder: Path) -> Iterator[Photo]:
    """The photos of a folder, then those of the folders in it."""
    waiting = [folder]
    while waiting:
        directory = waiting.pop()
        try:
            photos, folders = _listing(directory)
        except OSError as error:
            trouble = f"the folder can't be searched: {error.strerror or error}"
            yield Photo(str(directory), trouble=trouble)
            continue
        yield from (Photo(str(directory / name)) for name in photos)
        waiting.extend(directory / name for name in reversed(folders))


def _listing(directory: Path) -> tuple[list[str], list[str]]:
    """The names of a directory's photos and of its folders, each in order."""
    photos: list[str] = []
    folders: list[str] = []
    for name, is_folder in _scan(directory):
        (folders if is_folder else photos).append(name)
    _sort(photos)
    _sort(folders)
    return photos, folders


def _scan(directory: Path) -> Iterator[tuple[str, bool]]:
    """Each photo's name with False, each folder's with True, in no order.

    A link to a folder is left out, as it may lead in a ring.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.name, True
            elif is_image_name(entry.name) and entry.is_file():
                yield entry.name, False


def _sort(names: list[str]) -> None:
    names.sort()  # decides between 1.jpg and 01.jpg
    names.sort(key=_natural)


def _natural(name: str) -> str:
    # 2.jpg before 10.jpg, as people number their photos: a number's length is put before its
    # digits. Strings, as a million tuples would take three times the memory of the names.
    return re.sub(r"\d+", _with_length, name)


def _with_length(number: re.Match[str]) -> str:
    digits = number.group().lstrip("0")
    return f"{len(digits):03d}{digits}"


def _natural_path(name: str) -> tuple[str, str, str]:
    path = Path(name)
    return _natural(str(path.parent)), _natural(path.name), name


def _lines(stream: BinaryIO) -> Iterator[str]:
    """The entries of a list as they come: lines, or from the first NUL on what NULs part."""
    separator, rest = b"\n", b""
    for block in _blocks(stream):
        rest += block
        if b"\0" in rest:
            separator = b"\0"
        *whole, rest = rest.split(separator)
        yield from _entries(whole, separator)
    yield from _entries([rest], separator)


def _entries(pieces: Iterable[bytes], separator: bytes) -> Iterator[str]:
    for piece in pieces:
        entry = piece.removesuffix(b"\r") if separator == b"\n" else piece
        if entry.strip():
            yield os.fsdecode(entry)


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    # read1 gives what is there: the first answer must not wait for the last name.
    read = getattr(stream, "read1", stream.read)
    return iter(lambda: read(READ_BYTES), b"")
