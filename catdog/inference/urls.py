"""The http(s) address of a photo → its bytes, within bounds of size, time and place.

A list of addresses may come from anybody, so a fetch must not reach into the network that
catdog runs in, fill the memory or wait for ever. The host's name is resolved once; what was
checked is what is connected to, or a name that changes its address would slip through. That
rules out proxies: they are not used.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterator
from threading import Timer
from time import monotonic
from typing import Self, cast
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from catdog import __version__
from catdog.data.images import UnreadableImageError

MAX_BYTES = 50_000_000
DEADLINE_S = 30.0
"""For all of a photo: connecting, redirects and the last byte."""
MAX_REDIRECTS = 3
PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"User-Agent": f"catdog/{__version__}", "Accept": "image/*", "Connection": "close"}

NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that stand for the IPv4 address in their last four bytes."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Place = tuple[str, int] | tuple[str, int, int, int]
"""What a socket connects to: an address in digits, a port, and for IPv6 flow and scope."""


def is_url(name: str) -> bool:
    """Whether the name is an address with a scheme, of whatever kind."""
    return re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE) is not None


def fetch(url: str, *, allow_private: bool = False) -> bytes:
    """The bytes behind an http or https address, after at most `MAX_REDIRECTS` redirects.

    Args:
        url: the address.
        allow_private: also connect to this machine and its own network.

    Raises:
        UnreadableImageError: another scheme, a place that is refused, an answer other than
            200, more than `MAX_BYTES`, longer than `DEADLINE_S`, or a broken connection.
    """
    with _Deadline(DEADLINE_S) as deadline:
        try:
            return _follow(url, deadline, allow_private=allow_private)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnreadableImageError(_reason(error, deadline)) from error


def _follow(url: str, deadline: _Deadline, *, allow_private: bool) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        answer = _get(_split(url), deadline, allow_private=allow_private)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise UnreadableImageError(f"the server redirected more than {MAX_REDIRECTS} times")


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise UnreadableImageError(f"only http and https addresses are read, not {parts.scheme}")
    if not parts.hostname:
        raise UnreadableImageError("the address names no server")
    return parts


def _get(parts: SplitResult, deadline: _Deadline, *, allow_private: bool) -> bytes | str:
    """The content; or where the server sends us instead."""
    connection = _Connection(parts, deadline, allow_private=allow_private)
    with contextlib.closing(connection):
        connection.request("GET", _target(parts), headers=HEADERS)
        response = connection.getresponse()
        location = response.getheader("Location")
        if response.status in REDIRECTS and location:
            return location
        if response.status != 200:
            raise UnreadableImageError(
                f"the server answered {response.status} {response.reason}".rstrip()
            )
        return _body(response, deadline)


def _target(parts: SplitResult) -> str:
    # What is escaped already stays as it is.
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    return f"{path}?{quote(parts.query, safe='/%:@!$&()*+,;=~?')}" if parts.query else path


def _body(response: http.client.HTTPResponse, deadline: _Deadline) -> bytes:
    told = response.length
    if told is not None and told > MAX_BYTES:
        raise UnreadableImageError(f"larger than {MAX_BYTES:,} bytes")
    content = response.read(MAX_BYTES + 1)
    if deadline.passed:  # the end of a connection that we shut looks like the end of the answer
        raise TimeoutError
    if len(content) > MAX_BYTES:
        raise UnreadableImageError(f"larger than {MAX_BYTES:,} bytes")
    if told is not None and len(content) < told:
        raise UnreadableImageError(f"cut off after {len(content):,} of {told:,} bytes")
    return content


def _reason(error: Exception, deadline: _Deadline) -> str:
    if deadline.passed or isinstance(error, TimeoutError):
        return f"the server took longer than {DEADLINE_S:g} seconds"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "there is no server of that name"
    if isinstance(error, ssl.SSLError):
        return f"no safe connection: {getattr(error, 'verify_message', '') or error.reason}"
    if isinstance(error, OSError):
        return f"no connection: {error.strerror or error}"
    if isinstance(error, ValueError | http.client.InvalidURL):
        return f"the address can't be understood: {error}"
    return f"the server's answer can't be understood: {error!r}"


class _Deadline:
    """Shuts the watched socket when time is up, whatever is being waited for on it.

    A timeout of the socket alone would start anew with every byte of a slow answer.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._end = monotonic() + seconds
        self._socket: socket.socket | None = None
        self._timer = Timer(seconds, self._shut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def left(self) -> float:
        """Seconds to the deadline; raises TimeoutError after it."""
        seconds = self._end - monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def watch(self, connected: socket.socket) -> None:
        """Shut this socket, and no other, when time is up."""
        self._socket = connected
        self.left()

    def _shut(self) -> None:
        self.passed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed already
                # The plain socket's shutdown: TLS's own would change state under the reader.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Connection(http.client.HTTPConnection):
    """A connection to an address of the host that has been checked, over TLS for https."""

    def __init__(self, parts: SplitResult, deadline: _Deadline, *, allow_private: bool) -> None:
        self.default_port = PORTS[parts.scheme]
        host = str(parts.hostname)
        ascii_host = host if host.isascii() else host.encode("idna").decode()
        super().__init__(ascii_host, parts.port or self.default_port)
        self._tls = parts.scheme == "https"
        self._deadline = deadline
        self._allow_private = allow_private

    def connect(self) -> None:
        """Resolve, check, connect; called by http.client before the request is sent."""
        places = _resolve(self.host, self.port)
        if not self._allow_private:
            _refuse_private(self.host, [place[0] for _, place in places])
        self.sock = self._first_connected(places)
        self._deadline.watch(self.sock)
        if self._tls:
            self.sock = ssl.create_default_context().wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self._deadline.watch(self.sock)
            self.sock.do_handshake()

    def _first_connected(self, places: list[tuple[int, Place]]) -> socket.socket:
        failure: OSError = OSError("the name has no address")
        for family, place in places:
            connecting = socket.socket(family, socket.SOCK_STREAM)
            try:
                connecting.settimeout(self._deadline.left())
                connecting.connect(place)
                return connecting
            except OSError as error:
                connecting.close()
                failure = error
        raise failure


def _resolve(host: str, port: int) -> list[tuple[int, Place]]:
    """The family and socket address of each address of the host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, cast("Place", place)) for family, _, _, _, place in found]


def _refuse_private(host: str, numbers: list[str]) -> None:
    for number in numbers:
        if not all(map(_is_public, _meanings(ipaddress.ip_address(number)))):
            raise UnreadableImageError(
                f"{host} is {number}, which is not a public address: "
                "add --allow-private-urls if it is yours"
            )


def _meanings(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 address that an IPv6 address may stand for."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    mapped = address.ipv4_mapped
    if mapped is None and address in NAT64:
        mapped = ipaddress.IPv4Address(address.packed[-4:])
    yield mapped or address
    if address.sixtofour:
        yield address.sixtofour


def _is_public(address: Address) -> bool:
    site_local = getattr(address, "is_site_local", False)
    closed = address.is_multicast or address.is_reserved or site_local
    return address.is_global and not closed
