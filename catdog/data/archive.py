"""The files in an archive or a folder, one after the other; nothing is unpacked.

In: what a user has, which may hold archives in its turn. Out: names, and what reads the bytes. A
name is only ever read, never written to, so no member can choose where it lands.
"""

from __future__ import annotations

import errno
import io
import lzma
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from catdog import CatdogError
from catdog.data.images import MAX_BYTES, is_image_name

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_DEPTH = 2
"""An archive in an archive is Kaggle's habit; a third level is nobody's."""
TABLES = ("metadata.csv", "train.csv", "labels.csv")
"""What is known of the pictures beside it, see `catdog.data.metadata`."""
MAX_RATIO = 1_000
"""Deflate's own limit is 1,032; photos hardly shrink, so only a bomb comes near it."""
BOMB_BYTES = 10_000_000
"""A smaller member does no harm however well it shrinks."""

LITTER = {
    *("__macosx", "resource.frk", "network trash folder", "temporary items"),  # macOS
    *("thevolumesettingsfolder", "icon\r"),
    *("$recycle.bin", "recycler", "system volume information"),  # Windows
    *("found.000", "thumbs.db", "ehthumbs.db", "desktop.ini", "lost+found", "lost.dir"),
    *("@eadir", "@tmp", "@sharebin", "#recycle", "#snapshot", "@recycle"),  # file servers
    *("@recently-snapshot", "~snapshot", "files_trashbin", "_gsdata_"),
    *("thmbnl", "avf_info"),  # cameras
    *("ipynb_checkpoints", "__pycache__"),  # editors
}
"""What is left beside photos, in small letters; names that begin with a dot are hidden anyway."""

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

Member = tuple[str, Callable[[], bytes]]
"""Name within the source, with `/`, and what reads the content before the next member comes."""


def is_archive_name(path: Path | str) -> bool:
    """Whether the name looks like an archive's that can be read."""
    return str(path).lower().endswith(ARCHIVE_SUFFIXES)


def is_table_name(name: str) -> bool:
    """Whether the name is that of a table of metadata."""
    return PurePosixPath(name).name.lower() in TABLES


def is_litter(name: str) -> bool:
    """Whether a path within a source is hidden, or what a system or a program left there."""
    return any(
        part.startswith((".", "~$")) or part.casefold() in LITTER
        for part in PurePosixPath(name).parts
    )


def members(source: Path) -> Iterator[Member]:
    """The files of an archive or a folder, also those in archives within it, without litter.

    Raises:
        CatdogError: the source is missing or no archive, or the archive is damaged,
            encrypted, or has a member that swells beyond measure.
    """
    if source.is_dir():
        yield from _in_folder(source)
    elif source.is_file():
        with source.open("rb") as stream:
            yield from _in_archive(stream, source.name, depth=1)
    else:
        raise CatdogError(f"{source} does not exist: give an archive or a folder of pictures.")


def _in_folder(folder: Path) -> Iterator[Member]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if is_litter(name) or path.is_dir():
            continue
        if is_archive_name(name):
            with path.open("rb") as stream:
                yield from _in_archive(stream, name, depth=1)
        else:
            yield name, partial(_read_file, path)


def _read_file(path: Path) -> bytes:
    """A file's bytes; of one that no picture can be, no more than it takes to see that."""
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _in_archive(stream: IO[bytes], name: str, *, depth: int) -> Iterator[Member]:
    if depth > MAX_DEPTH:
        raise CatdogError(f"{name} is an archive in an archive in an archive: unpack it first.")
    with _archive_errors(name):
        is_zip = zipfile.is_zipfile(stream)
        stream.seek(0)
        yield from _in_zip(stream, name, depth) if is_zip else _in_tar(stream, name, depth)


def _in_zip(stream: IO[bytes], name: str, depth: int) -> Iterator[Member]:
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        for member in members:  # all, before the first of them is read
            _check_zip_member(member, name)
        for member in members:
            inner = f"{name}/{member.filename}"
            if inner.endswith("/") or is_litter(member.filename):  # a folder, or hidden
                continue
            if is_archive_name(inner):
                with archive.open(member) as packed:
                    yield from _in_packed_archive(packed, inner, depth)
            else:
                yield inner, _archive_errors(name)(partial(archive.read, member))


def _in_tar(stream: IO[bytes], name: str, depth: int) -> Iterator[Member]:
    with tarfile.open(fileobj=stream) as archive:
        for member in archive:
            inner = f"{name}/{member.name}"
            if member.isdir() or is_litter(member.name):
                continue
            # A link or a device holds nothing: it is an empty file, and left out as one.
            packed = (archive.extractfile(member) if member.isfile() else None) or io.BytesIO()
            if not is_archive_name(inner):
                _check_size(member.name, member.size, name)
                yield inner, _archive_errors(name)(packed.read)
            elif member.isfile():
                yield from _in_packed_archive(packed, inner, depth)
        _check_tar_end(archive)


def _check_tar_end(archive: tarfile.TarFile) -> None:
    """Raise when the tar just ends: tarfile takes that for its end, and skips gzip's checksum."""
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("it was cut off")
    while archive.fileobj.read(1 << 20):
        pass


def _in_packed_archive(packed: IO[bytes], name: str, depth: int) -> Iterator[Member]:
    """Read an archive within another from a temporary file: seeking in a packed one is slow."""
    with tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(packed, unpacked)
        unpacked.seek(0)
        yield from _in_archive(unpacked, name, depth=depth + 1)


def _check_zip_member(member: zipfile.ZipInfo, archive: str) -> None:
    if member.flag_bits & 0x1:
        raise CatdogError(f"{archive} is encrypted: unpack it, and give the folder.")
    _check_size(member.filename, member.file_size, archive)
    swells = member.file_size > MAX_RATIO * max(member.compress_size, 1)
    if member.file_size > BOMB_BYTES and swells:
        _refuse(archive, member.filename, f"swells to {member.file_size:,} bytes")


def _check_size(member: str, size: int, archive: str) -> None:
    if size > MAX_BYTES and (is_image_name(member) or is_table_name(member)):
        _refuse(archive, member, f"says it has {size:,} bytes, more than a picture has")


def _refuse(archive: str, member: str, why: str) -> NoReturn:
    raise CatdogError(
        f"{archive} is refused: its member {member!r} {why}. "
        "Get the archive from a source you trust, or unpack it yourself and give the folder."
    )


@contextmanager
def _archive_errors(name: str) -> Iterator[None]:
    """Say in a sentence that the archive `name` is damaged; other trouble of the disk passes."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = (str(error) or "it ends too early").splitlines()[0].rstrip(":")
        raise CatdogError(
            f"{name} is not a whole zip or tar archive ({reason}): "
            "delete it and get it again, or unpack it and give the folder."
        ) from error
