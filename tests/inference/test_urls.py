from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from catdog.data import images
from catdog.data.images import UnreadableImageError
from catdog.inference import urls
from tests.conftest import encoded, tiny_picture

PHOTO = encoded(tiny_picture("dog", 1))
REAL_RESOLVER = socket.getaddrinfo


class Pages(BaseHTTPRequestHandler):
    """What a friendly, a careless and a hostile server answer, by path."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers["Host"]))
        path, _, query = self.path.partition("?")
        getattr(self, path.strip("/").split("/")[0].replace("%20", "_"), self.missing)(query)

    def photo(self, _):
        self._send(PHOTO)

    def a_photo(self, _):
        self._send(PHOTO)

    def chunked(self, _):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(PHOTO), 100):
            piece = PHOTO[start : start + 100]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def text(self, _):
        self._send(b"<html>please log in</html>")

    def missing(self, _):
        self.send_error(404, "Not Found")

    def large(self, _):
        self._send(b"", length=10**12)

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

    def slow_header(self, _):
        self._drip(b"H", pause=0.05)

    def noise(self, _):
        self.wfile.write(b"\x00\x01 not http\r\n\r\n")

    def to(self, target):
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def loop(self, _):
        self.to("/loop")

    def count(self, left):
        self.to(f"/count?{int(left) - 1}" if left != "0" else "/photo")

    def _send(self, body: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, drop: bytes, pause: float) -> None:
        end = time.monotonic() + 20
        try:
            while time.monotonic() < end:
                self.wfile.write(drop)
                time.sleep(pause)
        except OSError:
            self.server.hung_up.set()

    def log_message(self, *_):
        return


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    yield from _serving(ThreadingHTTPServer(("127.0.0.1", 0), Pages))


def _serving(started: ThreadingHTTPServer) -> Iterator[ThreadingHTTPServer]:
    started.seen, started.hung_up = [], threading.Event()
    started.daemon_threads = True
    thread = threading.Thread(target=started.serve_forever, args=(0.02,))
    thread.start()
    yield started
    started.shutdown()
    started.server_close()
    thread.join()


def _url(server: ThreadingHTTPServer, path: str, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{server.server_port}{path}"


def _fetch(server: ThreadingHTTPServer, path: str) -> bytes:
    return urls.fetch(_url(server, path), allow_private=True)


def _resolve_to(monkeypatch, *answers: list[str]) -> list[str]:
    """Let each look-up of a name give the next list of addresses; return the names asked."""
    waiting, asked = list(answers), []

    def resolve(host, port, **options):
        asked.append(host)
        numbers = waiting.pop(0)
        return [part for number in numbers for part in REAL_RESOLVER(number, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


@pytest.mark.parametrize("path", ["/photo", "/photo?size=9#part", "/a photo", "/chunked"])
def test_a_photo_arrives_as_it_is(server, path):
    assert _fetch(server, path) == PHOTO


def test_a_redirect_is_followed_also_to_a_relative_address(server):
    assert _fetch(server, "/to?/photo") == PHOTO
    assert [path for path, _ in server.seen] == ["/to?/photo", "/photo"]


def test_three_redirects_are_followed_and_no_more(server):
    assert _fetch(server, "/count?2") == PHOTO
    with pytest.raises(UnreadableImageError, match="redirected more than 3 times"):
        _fetch(server, "/count?3")
    with pytest.raises(UnreadableImageError, match="redirected more than 3 times"):
        _fetch(server, "/loop")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nothing", "the server answered 404 Not Found"),
        ("/large", "larger than 50,000,000 bytes"),
        ("/short", r"cut off after 100 of [\d,]+ bytes"),
        ("/noise", "answer can't be understood"),
        ("/to?file:///etc/passwd", "only http and https addresses are read, not file"),
        ("/to?http://127.0.0.1:99999/", "the address can't be understood: Port out of range"),
        ("/to?http://[::1/", "the address can't be understood"),
    ],
)
def test_each_failure_is_one_sentence(server, path, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        _fetch(server, path)


def test_an_answer_without_end_is_cut_off_at_the_bound(server, monkeypatch):
    monkeypatch.setattr(urls, "MAX_BYTES", 200_000)
    with pytest.raises(UnreadableImageError, match="larger than 200,000 bytes"):
        _fetch(server, "/endless")
    assert server.hung_up.wait(5)


@pytest.mark.parametrize("path", ["/slow", "/slow_header"])
def test_a_slow_server_is_left_at_the_deadline_although_bytes_keep_coming(
    server, monkeypatch, path
):
    monkeypatch.setattr(urls, "DEADLINE_S", 0.4)
    started = time.monotonic()
    with pytest.raises(UnreadableImageError, match=r"took longer than 0\.4 seconds"):
        _fetch(server, path)
    assert time.monotonic() - started < 2


def test_redirects_do_not_prolong_the_deadline(server, monkeypatch):
    monkeypatch.setattr(urls, "DEADLINE_S", 0.4)
    started = time.monotonic()
    with pytest.raises(UnreadableImageError, match="took longer"):
        _fetch(server, "/to?/to?/slow")
    assert time.monotonic() - started < 2


def test_an_address_without_a_server_is_told():
    with pytest.raises(UnreadableImageError, match="names no server"):
        urls.fetch("http:///a.jpg")


def test_a_page_in_place_of_a_photo_is_no_picture(server):
    with pytest.raises(UnreadableImageError, match="not a picture"):
        images.decode(_fetch(server, "/text"))


def test_a_port_that_nobody_listens_on_is_told(server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(UnreadableImageError, match="no connection: Connection refused"):
            urls.fetch(url, allow_private=True)


def test_a_name_that_does_not_resolve_is_told(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UnreadableImageError, match="no server of that name"):
        urls.fetch("http://nowhere.example/a.jpg")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a.jpg", "gopher://x/"])
def test_other_schemes_are_refused(url):
    assert urls.is_url(url)
    with pytest.raises(UnreadableImageError, match="only http and https"):
        urls.fetch(url, allow_private=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1"])
def test_this_machine_is_refused_however_it_is_spelled_and_not_asked(server, host):
    with pytest.raises(UnreadableImageError, match="not a public address: add --allow-private"):
        urls.fetch(_url(server, "/photo", host))
    assert server.seen == []


@pytest.mark.parametrize(
    "number",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1"),
        *("::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::"),
        *("::127.0.0.1", "::ffff:0:10.0.0.1"),
    ],
)
def test_no_private_address_is_public_in_any_disguise(number):
    with pytest.raises(UnreadableImageError, match="not a public address"):
        urls._refuse_private("host", [number])


@pytest.mark.parametrize(
    "number", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8"]
)
def test_public_addresses_are_taken(number):
    urls._refuse_private("host", [number])


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch):
    _resolve_to(monkeypatch, ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(UnreadableImageError, match=r"photos.example is 10\.0\.0\.1"):
        urls.fetch("http://photos.example/a.jpg")


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch):
    # The second look-up of the name would give this machine; there must be none.
    asked = _resolve_to(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    connected = []

    class Unplugged(socket.socket):
        def connect(self, place):
            connected.append(place)
            raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "socket", Unplugged)
    with pytest.raises(UnreadableImageError, match="Connection refused"):
        urls.fetch("http://photos.example/a.jpg")
    assert asked == ["photos.example"]
    assert connected == [("93.184.216.34", 80)]


def test_the_server_is_told_the_name_and_not_the_address(server, monkeypatch):
    _resolve_to(monkeypatch, ["127.0.0.1"])
    url = _url(server, "/photo", "photos.example")
    assert urls.fetch(url, allow_private=True) == PHOTO
    assert server.seen == [("/photo", f"photos.example:{server.server_port}")]


def test_a_redirect_to_a_private_address_is_refused(server, monkeypatch):
    # 127.0.0.1 plays the public server, 127.0.0.2 is what it lures us to.
    monkeypatch.setattr(urls, "_is_public", lambda address: str(address) == "127.0.0.1")
    inner = _url(server, "/photo", "127.0.0.2")
    with pytest.raises(UnreadableImageError, match=r"127\.0\.0\.2, which is not a public"):
        urls.fetch(_url(server, f"/to?{inner}"))
    assert len(server.seen) == 1


@pytest.fixture
def certificate(tmp_path) -> Path:
    """A key and a certificate for photos.example, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "photos.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("photos.example"),
                    x509.IPAddress(ipaddress.ip_address("127.0.0.3")),
                ]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "photos.example.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def safe_server(certificate) -> Iterator[ThreadingHTTPServer]:
    started = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    started.socket = context.wrap_socket(started.socket, server_side=True)
    started.handle_error = lambda *_: None
    yield from _serving(started)


def test_https_asks_for_a_certificate_of_the_name(safe_server, certificate, monkeypatch):
    _resolve_to(monkeypatch, ["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"])
    url = _url(safe_server, "/photo", "photos.example").replace("http:", "https:")
    with pytest.raises(UnreadableImageError, match="no safe connection: self-signed"):
        urls.fetch(url, allow_private=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert urls.fetch(url, allow_private=True) == PHOTO
    with pytest.raises(UnreadableImageError, match="no safe connection: Hostname mismatch"):
        urls.fetch(url.replace("photos.", "other."), allow_private=True)


def test_a_tls_handshake_that_never_ends_is_left_at_the_deadline(monkeypatch):
    monkeypatch.setattr(urls, "DEADLINE_S", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(UnreadableImageError, match="took longer"):
            urls.fetch(f"https://127.0.0.1:{silent.getsockname()[1]}/", allow_private=True)
    assert time.monotonic() - started < 2
