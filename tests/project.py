"""A copy of the project in which tests run the real `mlflow run`, as a newcomer would."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.conftest import ROOT, tiny_picture
from tests.mlflow_server import free_port

SPY = """
import os, sys

def note(event, given):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        name = given[0].decode() if isinstance(given[0], bytes) else given[0]
        if name not in (None, "", "127.0.0.1", "localhost", "::1", os.uname().nodename):
            with open(os.environ["ASKED"], "a") as asked:
                print(name, *sys.argv, file=asked)
            raise OSError(f"no test asks for {name}")

sys.addaudithook(note)
"""
"""Run by each Python process that finds it as sitecustomize.py: no name is looked up elsewhere."""


@dataclass(frozen=True)
class Project:
    """A copy of the project, as a fresh clone would be."""

    root: Path

    @property
    def client(self) -> MlflowClient:
        uri = f"sqlite:///{self.root}/mlflow.db"
        return MlflowClient(tracking_uri=uri, registry_uri=uri)

    @property
    def asked(self) -> list[str]:
        """The names that were to be looked up, each with the command line of the process."""
        path = self.root / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def environment(self, **extra: str) -> dict[str, str]:
        """A newcomer's environment."""
        hidden = ("MLFLOW_", "KAGGLE_", "PYTEST_", "GRADIO_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden) and k != "CI"}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "HOME": str(self.root / "home"),
            "PYTHONPATH": f"{self.root}{os.pathsep}{self.root / 'site'}",
            "ASKED": str(self.root / "asked"),
            **extra,
        }

    def begin(self, *command: str, **options) -> subprocess.Popen:
        """Start a command in a newcomer's environment, in the project's folder."""
        return subprocess.Popen(
            command,
            **{"cwd": self.root, "env": self.environment(), "stderr": subprocess.PIPE} | options,
        )

    def start(self, *command: str, status: int = 0, cwd: Path | None = None, **extra: str):
        """Run a command in a newcomer's environment and check its exit status."""
        ended = subprocess.run(
            command,
            cwd=cwd or self.root,
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert ended.returncode == status, ended.stdout + ended.stderr
        return ended

    def mlflow_run(self, *parameters: str, **options):
        return self.start(*mlflow_run(*parameters), **options)

    def script(self, name: str, *arguments: str, **options):
        return self.start(sys.executable, f"scripts/{name}.py", *arguments, **options)

    @contextlib.contextmanager
    def serving(self, *command: str) -> Iterator[str]:
        """The address at which a command answers, which is given `--port`, and ended after."""
        port = str(free_port())
        address = f"http://127.0.0.1:{port}"
        with (self.root / f"{port}.log").open("w") as log:
            process = self.begin(*command, "--port", port, stderr=log, start_new_session=True)
            try:
                deadline = time.monotonic() + 120
                while not _answers(address):
                    assert process.poll() is None and time.monotonic() < deadline, command
                    time.sleep(0.2)
                yield address
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        return self.client.search_runs(["0"])


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5)
    except urllib.request.HTTPError:
        return True
    except OSError:
        return False
    return True


def mlflow_run(*parameters: str) -> list[str]:
    """The words of `mlflow run`, with a `-P` for each parameter."""
    pairs = [word for parameter in parameters for word in ("-P", parameter)]
    return ["mlflow", "run", ".", "--env-manager=local", *pairs]


def copied(target: Path) -> Project:
    """The project in a folder of its own."""
    for name in ("catdog", "scripts"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, target / name)
    (target / "home").mkdir()
    (target / "site").mkdir()
    (target / "site" / "sitecustomize.py").write_text(SPY)
    return Project(target)


def draw(folder: Path, count: int, *, labelled: bool = True) -> Path:
    """A folder with `count` tiny pictures of each class, which their names tell if `labelled`."""
    folder.mkdir(parents=True)
    for number in range(count):
        for name in ("cat", "dog"):
            path = folder / (f"{name}.{number}.jpg" if labelled else f"{number}{name}.jpg")
            tiny_picture(name, number if labelled else number + 1000, (240, 200)).save(path)
    return folder
