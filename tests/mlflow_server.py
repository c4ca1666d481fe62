"""A real `mlflow server` on loopback that tests stop and start, and a proxy that spoils the way."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Server:
    """A server with proxied artifacts whose store survives a restart on the same port."""

    home: Path
    store: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        hidden = ("MLFLOW_", "PYTEST_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", "--workers=1"]
        command += [f"--port={self.port}", f"--backend-store-uri={self.store}"]
        command += [f"--artifacts-destination={self.home / 'artifacts'}"]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.home,
                env=environment | QUIET,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    def kill(self) -> None:
        """End the server and its workers at once, as a power cut does."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)
            self.process = None

    def _wait(self) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.uri}/health", timeout=2),
            ):
                return
            time.sleep(0.2)
        pytest.fail((self.home / "server.log").read_text()[-2000:])


@contextlib.contextmanager
def running(home: Path, store: str | None = None) -> Iterator[Server]:
    """A server that has started; `store` is SQLite in `home` unless named."""
    home.mkdir(parents=True, exist_ok=True)
    server = Server(home, store or f"sqlite:///{home / 'server.db'}")
    try:
        server.start()
        yield server
    finally:
        server.kill()


class Proxy:
    """Passes bytes on to a port of loopback.

    `refused` are statuses by what the first line of a request holds: it gets that for an answer.
    """

    def __init__(self, port: int) -> None:
        self.refused: dict[str, int] = {}
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while content := source.recv(65536):
                if asks and (status := _matching(content, self.refused)) is not None:
                    _refuse(source, content, status)
                    return
                target.sendall(content)


def _matching(content: bytes, statuses: dict[str, int]) -> int | None:
    line = content.partition(b"\r\n")[0].decode(errors="replace")
    if not line.endswith("HTTP/1.1"):
        return None
    return next((status for part, status in statuses.items() if part in line), None)


def _refuse(client: socket.socket, content: bytes, status: int) -> None:
    """Read a request to its end, as a polite gateway does, and answer with nothing but a status."""
    while b"\r\n\r\n" not in content:
        content += client.recv(65536)
    head, _, body = content.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    while length and len(body) < int(length[1]):
        body += client.recv(65536)
    head = f"HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    client.sendall(head.encode())


def has_postgres() -> bool:
    """Whether PostgreSQL is here, or has to be."""
    return _postgres_programs() is not None or bool(os.environ.get("CATDOG_REQUIRE_POSTGRES"))


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The URI of a PostgreSQL database of its own; the test is skipped where none is installed."""
    programs = _postgres_programs()
    if programs is None:
        if os.environ.get("CATDOG_REQUIRE_POSTGRES"):
            pytest.fail("CATDOG_REQUIRE_POSTGRES is set, but initdb and pg_ctl are not installed")
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    # The path of its socket may have 107 characters only.
    folder = Path(tempfile.mkdtemp(prefix="catdog-pg-"))
    owner = "postgres" if os.geteuid() == 0 else None  # it refuses to be run by root
    if owner:
        shutil.chown(folder, owner)

    def run(name: str, *arguments: str) -> None:
        subprocess.run(
            [programs / name, *arguments],
            user=owner,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(folder)},
            check=True,
            timeout=120,
            stdout=subprocess.DEVNULL,
        )

    data, port = folder / "data", free_port()
    try:
        created = ("--auth=trust", "--username=catdog", "--encoding=UTF8", "--no-sync")
        run("initdb", *created, f"--pgdata={data}")
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
        run("pg_ctl", "start", "--wait", f"--pgdata={data}", f"--log={folder}/log", "-o", options)
        try:
            yield f"postgresql+psycopg2://catdog@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "stop", "--mode=immediate", f"--pgdata={data}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs, of the newest version that is installed."""
    found = shutil.which("pg_ctl")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wanted = ("initdb", "pg_ctl", "postgres")
    return next((one for one in folders if all((one / name).exists() for name in wanted)), None)
