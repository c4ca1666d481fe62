"""What Windows and macOS do otherwise, as far as Linux can be made to do it, too."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catdog.data.prepare import prepare
from tests.conftest import child_environment, tiny_picture
from tests.data.habits_child import train


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder with 22 prepared pictures, which somebody has looked at with a Mac."""
    for number in range(22):
        path = tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny_picture(path.parent.name, number).save(path)
    folder = tmp_path / "data" / "pets"
    prepare(tmp_path / "pets", folder, origin="here", val_fraction=0.3, seed=0)
    for place in ("training/cat", "validation/dog"):
        (folder / place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return tmp_path / "data"


def test_training_is_the_same_with_the_habits_of_windows_and_macos(
    pictures, tmp_path, tracking_store
):
    children = {method: _start(method, pictures, tmp_path) for method in ("spawn", "forkserver")}
    forked = train(str(pictures))
    assert forked["begun"] == ["fork"]
    for method, child in children.items():
        _, complaint = child.communicate(timeout=120)
        assert child.returncode == 0, complaint
        told = json.loads((tmp_path / method / "told.json").read_text())
        assert told["begun"] == [method]
        assert told["refused"] == []
        assert np.allclose(told["losses"], forked["losses"], rtol=0, atol=1e-6)
        assert np.allclose(told["features"], forked["features"], rtol=0, atol=1e-5)


def _start(method: str, pictures: Path, tmp_path: Path) -> subprocess.Popen[str]:
    folder = tmp_path / method
    shutil.copytree(pictures, folder / "data")
    shutil.copy(tmp_path / "mlflow.db", folder)
    program = Path(__file__).with_name("habits_child.py")
    return subprocess.Popen(
        [sys.executable, str(program), method, str(folder)],
        env=child_environment(MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
