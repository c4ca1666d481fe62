"""The http(s) address of a photo → its bytes, within bounds of size and time."""

from __future__ import annotations

from time import monotonic

import requests
import urllib3

from catdog import __version__
from catdog.data.images import UnreadableImageError

MAX_BYTES = 50_000_000
DEADLINE_S = 30.0
"""For the content; and for each silence of the server before it."""
MAX_REDIRECTS = 3
HEADERS = {
    "User-Agent": f"catdog/{__version__}",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
}


def fetch(url: str) -> bytes:
    """The bytes behind an http or https address, after at most `MAX_REDIRECTS` redirects.

    Raises:
        UnreadableImageError: another scheme, an answer other than 200, more than `MAX_BYTES`,
            longer than `DEADLINE_S`, or a broken connection.
    """
    end = monotonic() + DEADLINE_S
    try:
        with requests.Session() as session:
            session.max_redirects = MAX_REDIRECTS
            with session.get(url, headers=HEADERS, timeout=DEADLINE_S, stream=True) as response:
                return _body(response, end)
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
        raise UnreadableImageError(_reason(error)) from error


def _body(response: requests.Response, end: float) -> bytes:
    if response.status_code != 200:
        told = f"the server answered {response.status_code} {response.reason}"
        raise UnreadableImageError(told.rstrip())
    content = bytearray()
    # Not iter_content: it waits until a piece is full, and a slow server's never is.
    while piece := response.raw.read1(65_536, decode_content=True):
        content += piece
        if len(content) > MAX_BYTES:
            raise UnreadableImageError(f"larger than {MAX_BYTES:,} bytes")
        if monotonic() > end:
            raise TimeoutError
    return bytes(content)


def _reason(error: BaseException) -> str:
    if isinstance(error, requests.exceptions.InvalidSchema):
        return "only http and https addresses are read"
    if isinstance(error, requests.TooManyRedirects):
        return f"the server redirected more than {MAX_REDIRECTS} times"
    if isinstance(error, ValueError):
        return f"the address can't be understood: {error}"
    cause = error
    while cause.__context__ is not None:  # what the system said, below the words of two packages
        cause = cause.__context__
    if isinstance(cause, TimeoutError):
        return f"the server took longer than {DEADLINE_S:g} seconds"
    return f"no connection: {getattr(cause, 'strerror', None) or cause}"
