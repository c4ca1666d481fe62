"""Processes"""

from __future__ import annotations

import os
import signal

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from torch.utils.data import get_worker_info

from catdog import CatdogError
from catdog.data import loaders
from catdog.data.dataset import load_dataset
from tests.faults.conftest import TINY, Child

SLOW_PREPARE = """
from catdog.data import images
real = images.check
def slow(content):
    time.sleep(0.1); return real(content)
images.check = slow
"""


@pytest.mark.slow
def test_killed_while_preparing_the_next_run_completes(run, pets, tmp_path, where):
    folder = tmp_path / "data" / "pets"
    child = Child(SLOW_PREPARE, "prepare", *where)
    child.kill_when(lambda _: (folder / ".preparing" / "3").exists())
    assert (folder / ".preparing").exists()
    with pytest.raises(CatdogError, match="holds no prepared data set"):
        load_dataset(folder)
    assert run("prepare", *where).status == 0
    assert run("prepare", "--dataset", pets, "--data_dir", tmp_path / "other").status == 0
    unbroken = load_dataset(tmp_path / "other" / "pets")
    assert load_dataset(folder).digest == unbroken.digest
    assert not (folder / ".preparing").exists()


def _newest_run() -> mlflow.entities.Run:
    client = MlflowClient()
    (experiment,) = [one for one in client.search_experiments() if one.name == "catdog"]
    return client.search_runs([experiment.experiment_id])[0]


def test_a_killed_decoding_process_is_told(run, where, monkeypatch):
    def killed(*_: object) -> object:
        assert get_worker_info() is not None
        return os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(loaders, "pick_workers", lambda _: 2)
    monkeypatch.setattr(loaders, "load", killed)
    assert run("prepare", *where).status == 0
    ended = run("train", *where, *TINY, "--views", "0")
    assert ended.status == 2
    assert ended.sentence.startswith("a process that decodes pictures was killed")
    assert _newest_run().info.status == "FAILED"
