"""What breaks things for real: disks that fill, processes that are killed."""

from __future__ import annotations

import contextlib
import importlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from catdog import cli, config, pipeline
from catdog.registry.load import load_classifier
from catdog.registry.proof import Proof
from catdog.reporting.findings import Findings
from tests.conftest import child_environment
from tests.sources import snapshot

TINY = ("--backbone", "test_resnet", "--weights", "none", "--epochs", "2")
"""A training that takes seconds."""

NOTHING_FOUND = Findings({}, {}, pd.DataFrame(), (), (), (), (), ())


RUN = """
import importlib
from catdog import cli, config
name = sys.argv.pop(1)
script = importlib.import_module(f"scripts.{name}")
sys.exit(cli.run(script.main, getattr(config, f"{name.title()}Config")))
"""


class Child:
    """A script in a process of its own, slowed down so that it can be killed at a chosen moment."""

    def __init__(self, slow: str, name: str, *arguments: object) -> None:
        self._out = Path(f"{name}-{id(self)}.out").resolve()
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import sys, time\n{slow}\n{RUN}", name]
                + [str(argument) for argument in arguments],
                env=child_environment(),
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def kill_when(self, ready: Callable[[str], bool]) -> None:
        """Send SIGKILL as soon as `ready` says so of what it has printed."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            if ready(self._out.read_text()):
                break
            time.sleep(0.01)
        self._process.send_signal(signal.SIGKILL)
        ended = self._process.wait(30)
        assert ended == -signal.SIGKILL, self._out.read_text()


@dataclass(frozen=True)
class Ended:
    """How a script ended, and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What the user is told, once and without a traceback."""
        (sentence,) = re.findall(r"^error: (.*)", self.err, re.MULTILINE)
        assert "Traceback" not in self.err, self.err
        return sentence


Run = Callable[..., Ended]


@pytest.fixture
def run(capfd) -> Run:
    """A function that runs a script with its arguments, in this process."""

    def run(name: str, *arguments: object) -> Ended:
        script = importlib.import_module(f"scripts.{name}")
        kind = getattr(config, f"{name.title().replace('_', '')}Config")
        capfd.readouterr()
        status = cli.run(script.main, kind, [str(argument) for argument in arguments])
        shown = capfd.readouterr()
        return Ended(status, shown.out, shown.err)

    return run


@pytest.fixture
def untouched() -> Iterator[Callable[[Path], Path]]:
    """A function that takes a folder whose files must be the same when the test is over."""
    before: dict[Path, dict] = {}

    def watch(folder: Path) -> Path:
        before[folder] = snapshot(folder)
        return folder

    yield watch
    for folder, files in before.items():
        assert snapshot(folder) == files, f"{folder} was changed"


@pytest.fixture
def pets(tmp_path, draw_folder, untouched) -> Path:
    """A folder of the user's with six pictures of each class, which must stay as it is."""
    return untouched(draw_folder(tmp_path / "pets"))


@contextlib.contextmanager
def _mounted(folder: Path, *command: str) -> Iterator[None]:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"nothing may be mounted here: {ended.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with _mounted(folder, "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)):
        yield folder


def fill(disk: Path) -> None:
    """Leave no room on a disk."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], Path]]:
    """A function that makes a folder one that can be read and not written, whoever tries."""
    with contextlib.ExitStack() as stack:

        def protect(folder: Path) -> Path:
            stack.enter_context(_mounted(folder, "mount", "--bind", str(folder), str(folder)))
            again = ["mount", "-o", "remount,ro,bind", str(folder)]
            subprocess.run(again, check=True)
            return folder

        yield protect


class QuickProof:
    """In place of a fresh process: the registered version is loaded here, and asked here."""

    def __init__(self, _tracking_uri: str) -> None: ...

    def close(self) -> None: ...

    def ask(self, model_uri: str, photos: list[Path]) -> None:
        self.model_uri, self.asked = model_uri, photos

    def answers(self) -> Proof:
        classifier = load_classifier(self.model_uri, device="cpu")
        seen = classifier.predict([photo.read_bytes() for photo in self.asked])
        answers = [(one.p_positive, one.familiarity) for one in seen]
        return Proof(classifier.engine.name, np.array(answers))


@pytest.fixture
def trains_quickly(monkeypatch) -> None:
    """Prove a version in this process, and write no report: they take most of the time."""
    monkeypatch.setattr(pipeline, "FreshProcess", QuickProof)
    monkeypatch.setattr(pipeline, "find", lambda *_, **_options: NOTHING_FOUND)
    monkeypatch.setattr(pipeline, "report", lambda *_: None)


@pytest.fixture
def where(pets, tmp_path) -> tuple[object, ...]:
    return ("--dataset", pets, "--data_dir", tmp_path / "data")
