"""Names that a user gives → a lazy row of photos: files, folders, globs, addresses, stdin.

Nothing is read before its turn, and of a folder only the names of one directory at a time
are held, so a million photos take no more memory than a thousand.
"""

from __future__ import annotations

import base64
import codecs
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from catdog import CatdogError, __version__
from catdog.data.archive import is_litter
from catdog.data.images import MAX_BYTES, UnreadableImageError, is_image_name, too_large
from catdog.files import portable

if TYPE_CHECKING:
    from requests import Response

STDIN = "-"
READ_BYTES = 65_536

MAX_DOWNLOAD_BYTES = 50_000_000
DEADLINE_S = 30.0
"""For what an address holds; and for each silence of the server before it."""
MAX_REDIRECTS = 3
HEADERS = {
    "User-Agent": f"catdog/{__version__}",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
}


@dataclass(slots=True)
class Photo:
    """A photo to be read.

    Attributes:
        name: its path or address, as answers show it.
        trouble: why it can't be read, where that is known before.
        content: the bytes, once `keep` has read them.
    """

    name: str
    trouble: str = ""
    content: bytes = b""

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
            return fetch(self.name)
        path = Path(self.name)
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UnreadableImageError(too_large(size))
        return path.read_bytes()

    def keep(self) -> bytes:
        """What `read` gives, kept for who draws or copies the photo when it is answered."""
        self.content = self.read()
        return self.content


def is_url(name: str) -> bool:
    """Whether the name is an address with a scheme, of whatever kind."""
    return re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE) is not None


def find_photos(names: Sequence[str], *, stdin: BinaryIO | None = None) -> Iterator[Photo]:
    """The photos that the names stand for, in order.

    A name is a file, a folder (with all below it), a glob, an http(s) address, or "-" for
    paths and addresses on stdin, one a line. A file
    that is named itself is tried whatever its suffix, and also when it is missing: reading
    it then fails, and the others are labelled all the same.

    Raises:
        CatdogError: before the first photo, when a folder or a glob holds none.
    """
    for name in names:
        _check(name)
    return chain.from_iterable(_photos_of(name, stdin) for name in names)


def fetch(url: str) -> bytes:
    """The bytes behind an http or https address, after at most `MAX_REDIRECTS` redirects.

    Raises:
        UnreadableImageError: another scheme, an answer other than 200, more than
            `MAX_DOWNLOAD_BYTES`, longer than `DEADLINE_S`, or a broken connection.
    """
    import requests  # for an address alone
    from urllib3.exceptions import HTTPError

    end = monotonic() + DEADLINE_S
    try:
        with requests.Session() as session:
            session.max_redirects = MAX_REDIRECTS
            with session.get(url, headers=HEADERS, timeout=DEADLINE_S, stream=True) as response:
                return _body(response, end)
    except requests.exceptions.InvalidSchema as error:
        raise UnreadableImageError("only http and https addresses are read") from error
    except requests.TooManyRedirects as error:
        reason = f"the server redirected more than {MAX_REDIRECTS} times"
        raise UnreadableImageError(reason) from error
    except ValueError as error:
        raise UnreadableImageError(f"the address can't be understood: {error}") from error
    except (OSError, HTTPError) as error:
        raise UnreadableImageError(_why_broken(error)) from error


def sent_bytes(value: object) -> bytes:
    """The bytes of a picture that was sent as such, or as a text: base64, or a data URL of it.

    Raises:
        UnreadableImageError: it is none of these.
    """
    try:
        if not isinstance(value, str):
            return bytes(memoryview(value))  # type: ignore[arg-type]
        text = re.sub(r"^\s*data:[^,]*;base64,|\s|=*\s*$", "", value)
        padded = text.translate(str.maketrans("-_", "+/")) + "=" * (-len(text) % 4)
        return base64.b64decode(padded, validate=True)
    except (TypeError, ValueError) as error:
        reason = "neither the bytes of a picture, nor base64 or a data URL of them"
        raise UnreadableImageError(reason) from error


def _body(response: Response, end: float) -> bytes:
    if response.status_code != 200:
        status = f"{response.status_code} {response.reason}".rstrip()
        raise UnreadableImageError(f"the server answered {status}")
    content = bytearray()
    # Not iter_content: it waits until a piece is full, and a slow server's never is.
    while piece := response.raw.read1(READ_BYTES, decode_content=True):
        content += piece
        if len(content) > MAX_DOWNLOAD_BYTES:
            raise UnreadableImageError(f"larger than {MAX_DOWNLOAD_BYTES:,} bytes")
        if monotonic() > end:
            raise TimeoutError
    return bytes(content)


def _why_broken(error: BaseException) -> str:
    while error.__context__ is not None:  # what the system said, below the words of two packages
        error = error.__context__
    if isinstance(error, TimeoutError):
        return f"the server took longer than {DEADLINE_S:g} seconds"
    return f"no connection: {getattr(error, 'strerror', None) or error}"


def _check(name: str) -> None:
    """Raise CatdogError where there is nothing; what was found meanwhile is not kept."""
    if not name.strip():
        raise CatdogError("an empty name was given, of an unset variable perhaps: name a photo.")
    if name == STDIN or is_url(name) or next(_photos(_as_path(name)), None) is not None:
        return
    raise CatdogError(f"{name} holds no picture: name a folder, file or glob that does.")


def _photos_of(name: str, stdin: BinaryIO | None) -> Iterator[Photo]:
    if name == STDIN:  # no glob and no folder, as lists are made by other programs
        lines = _lines(stdin or sys.stdin.buffer)
        return (Photo(line if is_url(line) else str(_as_path(line))) for line in lines)
    if is_url(name):
        return iter([Photo(name)])
    return _photos(_as_path(name))


def _as_path(name: str) -> Path:
    return Path(name).expanduser() if name.startswith("~") else Path(name)


def _photos(path: Path) -> Iterator[Photo]:
    if path.is_dir():
        yield from _walk(path)
    elif glob.has_magic(str(path)) and not path.exists():
        known = str(path.parent) if path.parent.is_dir() else ""  # though it has brackets
        pattern = f"{glob.escape(known)}{str(path).removeprefix(known)}"
        matches = sorted(glob.iglob(pattern, recursive=True))
        yield from (Photo(match) for match in matches if Path(match).is_file())
    else:
        yield Photo(str(path))


def _walk(folder: Path) -> Iterator[Photo]:
    """The photos of a folder, then those of the folders in it, but not of links to folders."""
    unsearched: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=unsearched.append):
        folders[:] = sorted(name for name in folders if not is_litter(name))
        photos = (Path(parent, name) for name in sorted(files) if is_image_name(name))
        yield from (Photo(str(path)) for path in photos if path.is_file())
    for error in unsearched:
        yield Photo(str(error.filename), f"the folder can't be searched: {error.strerror}")


def _lines(stream: BinaryIO) -> Iterator[str]:
    """The entries of a list, each as soon as it comes, or all at once of one in UTF-16."""
    first = stream.readline().removeprefix(codecs.BOM_UTF8)
    lines: Iterable[bytes] = chain([first], stream)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        lines = (first + stream.read()).decode("utf-16", "replace").encode().splitlines()
    for line in lines:
        for entry in line.rstrip(b"\r\n").split(b"\0"):  # as `find -print0` parts them
            if entry.strip():
                # As old editors of Windows wrote it, where that is the name of a file.
                name, western = os.fsdecode(entry), entry.decode("cp1252", "replace")
                yield western if not Path(name).exists() and Path(western).exists() else name
