"""Two real processes that torchrun starts, or two of it, train as one and end together."""

from __future__ import annotations

import dataclasses
import datetime
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from catdog import CatdogError
from catdog.config import TrainConfig
from catdog.parallel import cores
from catdog.training import distributed
from tests.conftest import child_environment
from tests.mlflow_server import free_port
from tests.sources import prepare_pictures
from tests.training.ranks_child import epochs_of, learn

TINY = TrainConfig(
    dataset="pets",
    batch_size=5,  # 26 training pictures: the last batch has one, which leaves a part empty
    epochs=2,
    learning_rate=0.01,
    finetune_epochs=2,
    backbone="test_resnet",
    weights="none",
    device="cpu",
)


def _torchrun(*command: str, restarts: int = 0, hosts: int = 1) -> list[str]:
    """A command that starts both processes, or on each of two hosts one of them."""
    options = ["--nproc-per-node=2", f"--max-restarts={restarts}", "--standalone"]
    if hosts == 2:
        options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=x"]
        options.append(f"--rdzv-endpoint=127.0.0.1:{free_port()}")
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", *command]


@pytest.fixture
def pictures(tmp_path, draw_folder) -> Path:
    """A folder of 26 training and 10 validation pictures, prepared in data/pets."""
    prepare_pictures(
        draw_folder(tmp_path / "pets", 18), tmp_path / "data" / "pets", val_fraction=0.29
    )
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("how", "hosts"),
    [
        pytest.param({"views": 0}, 1, marks=pytest.mark.slow),
        ({"views": 2, "unfreeze": "all"}, 1),
        pytest.param({"views": 2, "unfreeze": "all"}, 2, marks=pytest.mark.slow),
    ],
)
def test_two_processes_learn_what_one_learns(pictures, tmp_path, how, hosts):
    config = dataclasses.replace(TINY, data_dir=str(pictures), **how)
    target = tmp_path / "together" / "weights.safetensors"
    target.parent.mkdir()
    words = ("tests.training.ranks_child", json.dumps(dataclasses.asdict(config)), str(target))
    command = _torchrun(*words, hosts=hosts)
    started = [subprocess.Popen(command, env=child_environment()) for _ in range(hosts)]
    try:
        assert [process.wait(200) for process in started] == [0] * hosts
    finally:
        for process in started:
            process.kill()
    told = json.loads(target.with_suffix(".json").read_text())
    assert told["computed"] == max(1, config.views) * 26 + 10  # each by one of the two
    (tmp_path / "alone").mkdir()
    network, fit, found = learn(config, tmp_path / "alone")
    assert found == 0
    losses = [
        [(one["train"]["loss"], one["val"]["loss"]) for one in epochs]
        for epochs in (told["epochs"], epochs_of(fit))
    ]
    assert torch.allclose(*map(torch.tensor, losses), atol=1e-4)
    together = load_file(target)
    assert together.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.allclose(together[name], value, atol=1e-4), name


def test_a_rank_that_falls_silent_is_named():
    forked = multiprocessing.get_context("fork")
    said, port = forked.SimpleQueue(), str(free_port())

    def work(rank: int) -> None:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update(meeting, RANK=str(rank), WORLD_SIZE="2")
        try:
            with distributed.process_group(torch.device("cpu")):
                time.sleep(4 * rank)
                distributed.barrier(datetime.timedelta(seconds=1))
        except CatdogError as error:
            said.put(str(error))

    processes = [forked.Process(target=work, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    first = said.get()
    assert first.startswith("rank 0 of 2 has lost the connection to another one")
    assert "Ranks 1 failed to pass monitoredBarrier" in first


def test_torchruns_number_of_processes_holds(monkeypatch):
    assert distributed.must_launch(3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not distributed.must_launch(1)
    assert not distributed.must_launch(2)
    with pytest.raises(CatdogError, match="processes=3, but torchrun has started 2"):
        distributed.must_launch(3)


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert cores() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert cores() == 2


LONG = (
    *("--dataset=pets", "--backbone=test_resnet", "--weights=none", "--learning_rate=0.01"),
    *("--device=cpu", "--unfreeze=all", "--finetune_epochs=80", "--patience=80", "--epochs=1"),
)


def _cut(
    how: signal.Signals, rank: str | None, *, restarts: int | None = None
) -> tuple[int, str, float]:
    """Train in two processes, and once that has a checkpoint, send a signal to a rank, or to all.

    Returns the exit status, what was said, and the seconds it took to end. They are started by
    torchrun where it shall restart them, else by the script itself.
    """
    command = [sys.executable, "-m", "scripts.train", *LONG, "--processes=2"]
    if restarts is not None:
        command = _torchrun("scripts.train", *LONG, restarts=restarts)
    torchrun = subprocess.Popen(
        command, env=child_environment(), stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    said, sent = "", 0.0
    with torchrun:
        for line in torchrun.stderr:
            said += line
            if not sent and line.startswith("epoch") and any(Path("data/runs").glob("*/check*")):
                sent = time.monotonic()
                _process(torchrun.pid, rank).send_signal(how)
    assert sent, said
    return torchrun.returncode, said, time.monotonic() - sent


def _process(torchrun: int, rank: str | None) -> psutil.Process:
    if rank is None:
        return psutil.Process(torchrun)
    return next(
        process
        for process in psutil.Process(torchrun).children()
        if process.environ().get("RANK") == rank
    )


def _only_run() -> Run:
    (run,) = MlflowClient().search_runs(
        [e.experiment_id for e in MlflowClient().search_experiments()]
    )
    return run


@pytest.mark.slow
@pytest.mark.project
def test_a_process_that_is_killed_ends_the_run_as_failed_and_is_named(pictures):
    status, said, seconds = _cut(signal.SIGKILL, "1")
    assert status == 2
    assert seconds < 60
    assert "error: rank 1 of 2 (process id " in said
    assert "was killed by SIGKILL" in said
    run = _only_run()
    assert run.info.status in ("FAILED", "KILLED")
    assert f"go on: {run.data.tags['resume_with']}" in said.replace("Go on", "go on")
    assert "ChildFailedError" not in said  # it is told as one sentence


@pytest.mark.slow
@pytest.mark.project
def test_torchrun_restarts_the_same_run_where_it_stopped(pictures):
    status, said, _ = _cut(signal.SIGKILL, "0", restarts=1)
    assert status == 0, said
    run = _only_run()
    assert run.info.status == "FINISHED"
    assert f"Resuming run {run.info.run_id}" in said
    assert said.count("epoch   1:") == 1
    history = MlflowClient().get_metric_history(run.info.run_id, "val_loss")
    assert [measured.step for measured in history] == list(range(1, 82))
    assert not list(Path("data/runs").iterdir())


@pytest.mark.slow
@pytest.mark.project
def test_a_signal_ends_all_and_the_run_can_go_on(pictures):
    status, said, seconds = _cut(signal.SIGTERM, None)
    assert status == 130
    assert seconds < 30  # after which torchrun kills
    assert _only_run().info.status == "KILLED"
    assert "Go on: mlflow run" in said
    assert "Traceback" not in said
