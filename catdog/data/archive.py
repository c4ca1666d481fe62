"""The pictures and tables in an archive or a folder, one after the other; nothing is unpacked.

In: what a user has, which may hold archives in its turn. Out: names and bytes. A name is
only ever read, never written to, so that no member can choose where it lands; an archive
that tries is refused whole, because what it holds can't be trusted either.
"""

from __future__ import annotations

import errno
import lzma
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from catdog import CatdogError
from catdog.data.images import MAX_BYTES, is_image_name

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_DEPTH = 2
"""An archive in an archive is Kaggle's habit; a third level is nobody's."""
TABLE = "metadata.csv"
"""What the user knows of the pictures beside it, see `catdog.data.metadata`."""
MAX_PICTURE_BYTES = MAX_BYTES
MAX_TABLE_BYTES = 50_000_000
"""Room for some hundred thousand pictures."""
MAX_RATIO = 1_000
"""Deflate's own limit is 1,032; photos hardly shrink, so only a bomb comes near it."""
BOMB_BYTES = 10_000_000
"""A smaller member does no harm however well it shrinks."""

DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
    OSError,
)
"""What reading a damaged archive raises: an OSError when bzip2 or gzip finds it so, or when it
names a place before its beginning."""

Member = tuple[str, bytes]
"""Name within the source, with `/`, and content."""


def is_archive_name(path: Path | str) -> bool:
    """Whether the name looks like an archive's that can be read."""
    return str(path).lower().endswith(ZIP_SUFFIXES + TAR_SUFFIXES)


def is_table_name(name: str) -> bool:
    """Whether the name is that of a table of properties."""
    return PurePosixPath(name).name.lower() == TABLE


def members(source: Path) -> Iterator[Member]:
    """The pictures and tables of an archive or a folder, also those in archives within it.

    They are known by their names. Hidden files and all others are passed over.

    Raises:
        CatdogError: the source is missing or no archive, or the archive is damaged,
            encrypted, or has a member that would be written elsewhere, is a link or
            swells beyond measure.
    """
    if source.is_dir():
        yield from _in_folder(source)
    elif source.is_file():
        with source.open("rb") as stream:
            yield from _in_archive(stream, source.name, depth=1)
    else:
        raise CatdogError(f"{source} does not exist: give an archive or a folder of pictures.")


def tables_in(folder: Path) -> Iterator[Member]:
    """The tables of properties in a folder and below it, and no picture.

    Raises:
        CatdogError: one has more bytes than a table has.
    """
    for path in sorted(path for path in folder.rglob("*") if is_table_name(path.name)):
        name = path.relative_to(folder).as_posix()
        if not _is_hidden(name):
            yield name, _read_file(path)


def _in_folder(folder: Path) -> Iterator[Member]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if _is_wanted(name):
                yield relative, _read_file(path)
            elif is_archive_name(name) and not name.startswith("."):
                with path.open("rb") as stream:
                    yield from _in_archive(stream, relative, depth=1)


def _in_archive(stream: IO[bytes], name: str, *, depth: int) -> Iterator[Member]:
    if depth > MAX_DEPTH:
        raise CatdogError(f"{name} is an archive in an archive in an archive: unpack it first.")
    with _damage_is_told(name):
        if zipfile.is_zipfile(stream):
            stream.seek(0)
            yield from _in_zip(stream, name, depth)
        else:
            stream.seek(0)
            yield from _in_tar(stream, name, depth)


def _in_zip(stream: IO[bytes], name: str, depth: int) -> Iterator[Member]:
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        for member in members:
            _check_zip_member(member, name)
        for member in members:
            inner = f"{name}/{member.filename}"
            if member.is_dir() or _is_hidden(member.filename):
                continue
            if _is_wanted(member.filename):
                yield inner, archive.read(member)
            elif is_archive_name(member.filename):
                with archive.open(member) as packed:
                    yield from _spooled(packed, inner, depth)


def _in_tar(stream: IO[bytes], name: str, depth: int) -> Iterator[Member]:
    with tarfile.open(fileobj=stream) as archive:
        for member in archive:
            _check_name(member.name, name)
            if member.isdir():
                continue
            content = archive.extractfile(member) if member.isfile() else None
            if content is None:
                _refuse(name, member.name, "is a link or a device")
            inner = f"{name}/{member.name}"
            if _is_hidden(member.name):
                continue
            if _is_wanted(member.name):
                _check_size(member.name, member.size, name)
                yield inner, content.read()
            elif is_archive_name(member.name):
                yield from _spooled(content, inner, depth)
        _check_tar_end(archive)


def _check_tar_end(archive: tarfile.TarFile) -> None:
    """Raise when the tar just ends: tarfile takes that for its end, and skips gzip's checksum."""
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("it was cut off")
    while archive.fileobj.read(1 << 20):
        pass


def _spooled(packed: IO[bytes], name: str, depth: int) -> Iterator[Member]:
    """Read an archive within another from a temporary file: seeking in a packed one is slow."""
    with tempfile.TemporaryFile() as unpacked:
        while chunk := packed.read(1 << 20):
            unpacked.write(chunk)
        unpacked.seek(0)
        yield from _in_archive(unpacked, name, depth=depth + 1)


def _check_zip_member(member: zipfile.ZipInfo, archive: str) -> None:
    # orig_filename is what the archive says; filename has been cleaned by zipfile.
    _check_name(member.orig_filename, archive)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        _refuse(archive, member.filename, "is a link or a device")
    if member.flag_bits & 0x1:
        raise CatdogError(f"{archive} is encrypted: unpack it, and give the folder.")
    if _is_wanted(member.filename):
        _check_size(member.filename, member.file_size, archive)
    swells = member.file_size > MAX_RATIO * max(member.compress_size, 1)
    if member.file_size > BOMB_BYTES and swells:
        _refuse(archive, member.filename, f"swells to {member.file_size:,} bytes")


def _check_size(member: str, size: int, archive: str) -> None:
    if size > _most_bytes(member):
        kind = "table" if is_table_name(member) else "picture"
        _refuse(archive, member, f"says it has {size:,} bytes, more than a {kind} has")


def _check_name(member: str, archive: str) -> None:
    """Refuse a name that would leave the folder it is unpacked into, on any system."""
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        _refuse(archive, member, "would be written outside of its folder")
    if "\0" in member:
        _refuse(archive, member.replace("\0", "\\0"), "has a name that no file can have")


def _refuse(archive: str, member: str, why: str) -> NoReturn:
    raise CatdogError(
        f"{archive} is refused: its member {member!r} {why}. "
        "Get the archive from a source you trust, or unpack it yourself and give the folder."
    )


def _is_wanted(name: str) -> bool:
    return is_image_name(name) or is_table_name(name)


def _most_bytes(name: str) -> int:
    return MAX_TABLE_BYTES if is_table_name(name) else MAX_PICTURE_BYTES


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > _most_bytes(path.name):
        kind = "table" if is_table_name(path.name) else "picture"
        raise CatdogError(f"{path} has more bytes than a {kind} has: move it out of the folder.")
    return path.read_bytes()


@contextmanager
def _damage_is_told(name: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk's trouble, not the archive's
        reason = (str(error) or "it ends too early").splitlines()[0].rstrip(":")
        raise CatdogError(
            f"{name} is not a whole zip or tar archive ({reason}): "
            "delete it and get it again, or give another."
        ) from error
