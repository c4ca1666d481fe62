"""A small server on loopback that speaks to Kaggle's real client, with faults to switch on."""

from __future__ import annotations

import io
import json
import os
import random
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

MODIFIED = "Mon, 02 Jan 2023 03:04:05 GMT"
EXPIRED = b"<Error>ExpiredToken</Error>"


@dataclass
class KaggleServer:
    """What the server holds, what it shall do wrong, and what it was asked."""

    content: bytes
    status: int = 200
    """Of the call that asks for a data set."""
    token_active: bool = True
    cuts: list[int] = field(default_factory=list)
    """For each of the next transfers, after how many bytes the connection is closed."""
    ignores_range: bool = False
    lies: int = 0
    """How many bytes more (or fewer) it says to send than it does."""
    expires: int = 0
    """How many of the next ranged transfers are answered with an error page."""
    wrong: int = 0
    """How many of the next transfers carry damaged bytes of the right number."""
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)

    def __enter__(self) -> KaggleServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(state: KaggleServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.asked.append(self.path)
            if self.path.endswith("IntrospectToken"):
                self._send_json(200, {"active": state.token_active, "username": "somebody"})
            elif state.status != 200:
                self._send_json(state.status, {"code": state.status, "message": "no"})
            else:
                self.send_response(302)
                self.send_header("Location", f"{state.url}/signed")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def do_GET(self) -> None:
            state.asked.append(self.path)
            wanted = self.headers.get("Range")
            if wanted:
                state.ranges.append(wanted)
            if wanted and state.expires:
                state.expires -= 1
                self._send(403, EXPIRED, "application/xml")
                return
            content = state.content
            if state.wrong:
                state.wrong -= 1
                content = content[:100] + bytes(len(content) - 200) + content[-100:]
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted).group(1)) if wanted else 0
            if state.ignores_range:
                start = 0
            self._send_file(content[start:], start, len(content))

        def _send_file(self, body: bytes, start: int, total: int) -> None:
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("Content-Length", str(len(body) + state.lies))
            self.send_header("Last-Modified", MODIFIED)
            self.send_header("ETag", '"one"')
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts else len(body)
            self.wfile.write(body[:cut])
            self.close_connection = True

        def _send_json(self, status: int, answer: dict[str, object]) -> None:
            self._send(status, json.dumps(answer).encode(), "application/json")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    return Handler


@pytest.fixture
def empty_home(tmp_path, monkeypatch) -> Path:
    """An empty home: nobody's own Kaggle token is ever used."""
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def kaggle(empty_home, monkeypatch) -> Iterator[KaggleServer]:
    """Kaggle, on loopback, with the user logged in by a token and 3 MB to download."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(3):
            archive.writestr(f"train/cat.{number}.jpg", random.Random(number).randbytes(1_000_000))
    with KaggleServer(stream.getvalue()) as state:
        point_kaggle_client_to(state.url, monkeypatch)
        monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_planted_0123456789")
        yield state


def point_kaggle_client_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Kaggle's client in this process talk to `url`."""
    from kagglesdk import kaggle_env

    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, url)
