from __future__ import annotations

import base64
import contextlib
import io
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from catdog import CatdogError
from catdog.data.images import UnreadableImageError
from catdog.inference import inputs
from catdog.inference.inputs import Photo, fetch, find_photos, sent_bytes
from tests.conftest import encoded, tiny_picture
from tests.sources import fill


def _names(folder: Path, *names: str) -> list[str]:
    found = find_photos([str(folder / name) for name in names])
    return [str(Path(photo.name).relative_to(folder)) for photo in found]


def _listed(content: bytes) -> list[str]:
    return [photo.name for photo in find_photos(["-"], stdin=io.BytesIO(content))]


def test_folders_are_searched_to_the_bottom_in_the_order_of_names(tmp_path):
    fill(tmp_path, "2.jpg", "deep/er/1.jpg", "._2.jpg", "10.jpg", "album/1.jpg")
    (tmp_path / "notes.txt").write_text("no photo")
    assert _names(tmp_path, ".") == ["10.jpg", "2.jpg", "album/1.jpg", "deep/er/1.jpg"]


def test_files_folders_and_globs_can_be_mixed(tmp_path):
    fill(tmp_path, "a.jpg", "b/1.jpg", "c/8.png", "c/9.png", "c/y.jpg", "c/d/1.png")
    assert _names(tmp_path, "a.jpg", "b", "c/*.png") == ["a.jpg", "b/1.jpg", "c/8.png", "c/9.png"]
    assert _names(tmp_path, "c/**/*.png") == ["c/8.png", "c/9.png", "c/d/1.png"]


def test_a_file_with_brackets_in_its_name_is_that_file(tmp_path):
    fill(tmp_path, "me[1].jpg")
    assert _names(tmp_path, "me[1].jpg") == ["me[1].jpg"]


def test_a_file_that_is_named_is_tried_whatever_its_suffix(tmp_path):
    fill(tmp_path, "upload")
    (photo,) = find_photos([str(tmp_path / "upload")])
    assert photo.read() == (tmp_path / "upload").read_bytes()
    assert photo.content == b""
    assert photo.keep() == photo.content == photo.read()


def test_a_glob_below_a_folder_with_brackets_in_its_name_is_a_glob(tmp_path):
    fill(tmp_path, "holiday [2019]/1.jpg", "holiday [2019]/2.jpg", "holiday 2/1.jpg")
    assert _names(tmp_path, "holiday [2019]/*.jpg") == [f"holiday [2019]/{n}.jpg" for n in "12"]
    assert _names(tmp_path, "holiday [23]/*.jpg") == ["holiday 2/1.jpg"]


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_current_folder(name):
    with pytest.raises(CatdogError, match="an empty name was given"):
        find_photos([name])


@pytest.mark.parametrize("name", ["empty", "*.jpg"])
def test_a_folder_or_glob_without_a_photo_is_named_before_any_answer(tmp_path, name):
    fill(tmp_path / "full", "1.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatdogError, match="holds no picture"):
        find_photos([str(tmp_path / "full"), str(tmp_path / name)])


def test_a_link_to_a_folder_above_is_not_followed_in_a_ring(tmp_path):
    fill(tmp_path, "deep/1.jpg")
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "deep" / "again.jpg").symlink_to(tmp_path / "deep" / "1.jpg")
    assert _names(tmp_path, ".") == ["deep/1.jpg", "deep/again.jpg"]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"\n  \na.jpg\r\n\nb c.jpg", ["a.jpg", "b c.jpg"]),
        (b"b.jpg\0c.jpg\0", ["b.jpg", "c.jpg"]),
        (b"https://example.org/a.jpg\n[1].jpg\n", ["https://example.org/a.jpg", "[1].jpg"]),
        (b"", []),
    ],
)
def test_a_list_on_stdin_is_parted_by_lines_or_by_nul(content, names):
    assert _listed(content) == names


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"]
)
def test_a_list_is_read_in_whatever_encoding_an_editor_or_a_shell_wrote_it(tmp_path, encoding, end):
    names = [str(tmp_path / name) for name in ("Käthe.jpg", "café 2.jpg", "plain.jpg")]
    for name in names:
        Path(name).touch()
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    assert _listed((mark + "".join(f"{name}{end}" for name in names)).encode(encoding)) == names


def test_a_name_that_is_no_text_is_found_on_stdin_and_in_folders(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    Path(os.fsdecode(raw)).write_bytes(b"bytes")
    (listed,) = find_photos(["-"], stdin=io.BytesIO(raw))
    (found,) = find_photos([str(tmp_path)])
    assert listed.read() == found.read() == b"bytes"


def test_the_first_name_of_a_pipe_does_not_wait_for_the_last():
    reading, writing = os.pipe()
    with open(reading, "rb") as stdin, open(writing, "wb", buffering=0) as names:  # noqa: PTH123
        photos = find_photos(["-"], stdin=stdin)
        for name in ("a.jpg", "b.jpg"):
            names.write(f"{name}\n".encode())
            assert next(photos).name == name


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("holiday/a.jpg", "a.jpg"),
        ("https://example.org/a%20b.jpg?size=9", "a b.jpg"),
        ("https://example.org/x%2F..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://example.org/..", "photo"),
        ("https://example.org/a%00b.jpg", "a_b.jpg"),
    ],
)
def test_every_photo_has_a_name_that_a_file_can_have(name, file_name):
    assert Photo(name).file_name == file_name


PHOTO = encoded(tiny_picture("dog", 1))


CODED = base64.b64encode(PHOTO).decode()


@pytest.mark.parametrize(
    "sent",
    [
        PHOTO,
        bytearray(PHOTO),
        CODED,
        CODED.rstrip("="),
        base64.urlsafe_b64encode(PHOTO).decode(),
        base64.encodebytes(PHOTO).decode(),
        f"data:image/jpeg;base64,{CODED}",
        f" data:image/png;name=a.png;base64,{CODED}\n",
        f"data:;base64,{base64.urlsafe_b64encode(PHOTO).decode()}",
    ],
)
def test_a_picture_is_sent_as_bytes_base64_or_a_data_url(sent):
    assert sent_bytes(sent) == PHOTO


@pytest.mark.parametrize(
    "sent", ["/photos/1.jpg", "data:image/svg+xml,%3Csvg/%3E", "https://x.org/a.jpg", None, 7, 0.5]
)
def test_what_is_no_picture_in_any_of_these_forms_is_told(sent):
    with pytest.raises(UnreadableImageError, match="neither the bytes of a picture, nor base64"):
        sent_bytes(sent)


class Pages(BaseHTTPRequestHandler):
    """What a friendly, a careless and a hostile server answer, by path."""

    def do_GET(self):
        path, _, query = self.path.partition("?")
        getattr(self, path.strip("/"), self.missing)(query)

    def photo(self, _):
        self._send(PHOTO, {"Content-Length": len(PHOTO)})

    def short(self, _):
        self._send(PHOTO[:100], {"Content-Length": len(PHOTO)})

    def missing(self, _):
        self.send_error(404, "Not Found")

    def endless(self, _):
        self._drip(b"x" * 10_000, pause=0)

    def slow(self, _):
        self._drip(b"x", pause=0.05)

    def to(self, target):
        self._send(b"", {"Location": target}, status=302)

    def count(self, left):
        self.to(f"/count?{int(left) - 1}" if left != "0" else "/photo")

    def _send(self, body: bytes, headers: dict[str, object], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, drop: bytes, pause: float) -> None:
        with contextlib.suppress(OSError):  # it hung up
            self._send(b"", {})
            for _ in range(400):
                self.wfile.write(drop)
                time.sleep(pause)

    def log_message(self, *_):
        return


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as started:
        thread = threading.Thread(target=started.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{started.server_port}"
        started.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/photo?size=9#part", "/count?2"])
def test_what_lies_behind_an_address_arrives_as_it_is(server, path):
    assert fetch(server + path) == PHOTO


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("{server}/nothing", "the server answered 404 Not Found"),
        ("{server}/short", "no connection: IncompleteRead"),
        ("{server}/count?3", "redirected more than 3 times"),
        ("{server}/to?file:///etc/passwd", "only http and https addresses are read"),
        ("{server}/to?http://[::1/", "the address can't be understood"),
        ("{server}/endless", "larger than 200,000 bytes"),
        ("{server}/slow", r"took longer than 0\.4 seconds"),
        ("ftp://example.org/a.jpg", "only http and https addresses are read"),
        ("http://127.0.0.1:9/", "no connection: Connection refused"),
    ],
)
def test_an_address_that_gives_no_photo_is_one_sentence(server, monkeypatch, address, reason):
    monkeypatch.setattr(inputs, "MAX_DOWNLOAD_BYTES", 200_000)
    if "took longer" in reason:
        monkeypatch.setattr(inputs, "DEADLINE_S", 0.4)
    (photo,) = find_photos([address.format(server=server)])
    with pytest.raises(UnreadableImageError, match=reason):
        photo.read()
