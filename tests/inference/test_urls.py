from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from catdog.data.images import UnreadableImageError
from catdog.inference import inputs, urls
from tests.conftest import encoded, tiny_picture

PHOTO = encoded(tiny_picture("dog", 1))


class Pages(BaseHTTPRequestHandler):
    """What a friendly, a careless and a hostile server answer, by path."""

    def do_GET(self):
        path, _, query = self.path.partition("?")
        getattr(self, path.strip("/").split("/")[0], self.missing)(query)

    def photo(self, _):
        self._send(PHOTO)

    def chunked(self, _):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(PHOTO), 100):
            piece = PHOTO[start : start + 100]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def missing(self, _):
        self.send_error(404, "Not Found")

    def endless(self, _):
        self.send_response(200)
        self.end_headers()
        self._drip(b"x" * 10_000, pause=0)

    def short(self, _):
        self._send(PHOTO[:100], length=len(PHOTO))

    def slow(self, _):
        self.send_response(200)
        self.end_headers()
        self._drip(b"x", pause=0.05)

    def silent(self, _):
        time.sleep(2)

    def to(self, target):
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def count(self, left):
        self.to(f"/count?{int(left) - 1}" if left != "0" else "/photo")

    def _send(self, body: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, drop: bytes, pause: float) -> None:
        with contextlib.suppress(OSError):  # it hung up
            for _ in range(400):
                self.wfile.write(drop)
                time.sleep(pause)

    def log_message(self, *_):
        return


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as started:
        thread = threading.Thread(target=started.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{started.server_port}"
        started.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "path", ["/photo", "/photo?size=9#part", "/chunked", "/to?/photo", "/count?2"]
)
def test_a_photo_arrives_as_it_is(server, path):
    assert urls.fetch(server + path) == PHOTO


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nothing", "the server answered 404 Not Found"),
        ("/short", "no connection: IncompleteRead"),
        ("/count?3", "redirected more than 3 times"),
        ("/to?file:///etc/passwd", "only http and https addresses are read"),
        ("/to?http://[::1/", "the address can't be understood"),
    ],
)
def test_each_failure_is_one_sentence(server, path, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        urls.fetch(server + path)


def test_an_answer_without_end_is_cut_off_at_the_bound(server, monkeypatch):
    monkeypatch.setattr(urls, "MAX_BYTES", 200_000)
    with pytest.raises(UnreadableImageError, match="larger than 200,000 bytes"):
        urls.fetch(f"{server}/endless")


@pytest.mark.parametrize("path", ["/slow", "/silent"])
def test_a_slow_server_is_left_at_the_deadline(server, monkeypatch, path):
    monkeypatch.setattr(urls, "DEADLINE_S", 0.4)
    started = time.monotonic()
    with pytest.raises(UnreadableImageError, match=r"took longer than 0\.4 seconds"):
        urls.fetch(server + path)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a.jpg", "gopher://x/"])
def test_other_schemes_are_refused(url):
    assert inputs.is_url(url)
    with pytest.raises(UnreadableImageError, match="only http and https"):
        urls.fetch(url)


def test_an_address_without_a_server_is_told():
    with pytest.raises(UnreadableImageError, match=r"can't be understood: .*No host"):
        urls.fetch("http:///a.jpg")


def test_a_port_that_nobody_listens_on_is_told():
    with pytest.raises(UnreadableImageError, match="no connection: Connection refused"):
        urls.fetch("http://127.0.0.1:9/")
