"""What is kept of a training, and that one which was killed goes on as if nothing had been."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from catdog import CatdogError, interrupts, trained
from catdog.config import TrainConfig
from catdog.data.dataset import load_dataset
from catdog.data.prepare import prepare
from catdog.models.engine import torch_engine
from catdog.models.network import build_network
from catdog.tracking.log import SilentRun
from catdog.training import checkpoint, stages
from catdog.training.checkpoint import HEAD, Checkpoints
from catdog.training.loop import Fit, fit, make_optimizer, seed_everything
from catdog.training.state import (
    EarlyStopping,
    Keeper,
    Resumable,
    generator_states,
    restore_generators,
)

WAYS = {
    "features": {"views": 2, "epochs": 4, "patience": 9},
    "pictures": {"views": 0, "epochs": 5, "patience": 9},
    "unfreeze": {"views": 1, "epochs": 2, "patience": 9, "unfreeze": "1", "finetune_epochs": 2},
}
EVERY_BATCH, EPOCH_ENDS, NEVER = (0, 0), (10**9, 0), (10**9, 10**9)
CUTS = ((2, EVERY_BATCH), (4, EVERY_BATCH), (9, EPOCH_ENDS), (3, NEVER), (8, EVERY_BATCH))
"""After how many batches, of training or validation, each process is killed, and how often it
writes checkpoints until then."""


def _config(data_dir: Path, way: str) -> TrainConfig:
    common = {"batch_size": 4, "backbone": "test_resnet", "weights": "none", "device": "cpu"}
    return TrainConfig(dataset="pets", data_dir=str(data_dir), **common, **WAYS[way])


def _learn(data_dir: Path, folder: Path, way: str, kill_after: int | None, when: tuple) -> None:
    """Train in this process, which kills itself on the way; what it learned goes to a file."""
    torch.set_num_threads(1)  # those of the process that this one was forked from are gone
    checkpoint.WITHIN_S, checkpoint.EPOCH_END_S = when
    checkpoint.SHARE = 1e9
    stages.pick_workers = lambda _device: 1
    stages.pick_engine = lambda network, **_cores: torch_engine(network)
    _die_after(kill_after)
    config = _config(data_dir, way)
    prepared = load_dataset(data_dir / "pets")
    seed_everything(config.seed)
    network = build_network(config.backbone, weights=config.weights)
    lesson = (stages.on_features if config.views else stages.on_pictures)(config, prepared, network)
    result = trained._learn(
        config, prepared, network, lesson, SilentRun("0", folder), Checkpoints(folder)
    )
    numbers = [
        (epoch.number, epoch.train.loss, epoch.val.loss, epoch.learning_rate, epoch.is_best)
        for epoch in result.epochs
    ]
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    np.savez(folder / "learned.npz", numbers=np.array(numbers), best=result.best.number, **weights)


def _die_after(batches: int | None) -> None:
    asked = 0

    def stop(_keeper: Keeper) -> bool:
        nonlocal asked
        asked += 1
        if asked == batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    checkpoint._FileKeeper.stop = stop


def _in_a_process(*arguments: object) -> int:
    # Forked, as a new one would spend most of its time with imports.
    process = multiprocessing.get_context("fork").Process(target=_learn, args=arguments)
    process.start()
    process.join()  # with a timeout it would wait for the process's orphaned workers, too
    return process.exitcode


@pytest.fixture
def data_dir(tmp_path, draw_folder) -> Path:
    pictures = draw_folder(tmp_path / "pets", 12)
    prepare(pictures, tmp_path / "data" / "pets", origin="pets", val_fraction=0.2, seed=0)
    return tmp_path / "data"


@pytest.mark.parametrize("way", WAYS)
def test_killed_again_and_again_it_learns_what_an_unbroken_run_learns(data_dir, tmp_path, way):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    assert _in_a_process(data_dir, unbroken, way, None, NEVER) == 0
    for cut, when in CUTS:
        assert _in_a_process(data_dir, broken, way, cut, when) == -signal.SIGKILL
    assert len(list(broken.glob("checkpoint-*"))) == 2
    assert _in_a_process(data_dir, broken, way, None, EPOCH_ENDS) == 0
    expected, found = np.load(unbroken / "learned.npz"), np.load(broken / "learned.npz")
    assert set(found) == set(expected)
    for name in expected:
        assert np.allclose(found[name], expected[name], rtol=0, atol=1e-6), name


class _Line(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs).squeeze(-1)


def _fit(checkpoints: Checkpoints, *, epochs: int = 4, **options) -> tuple[nn.Module, Fit]:
    seed_everything(0)
    model = _Line()
    inputs = torch.randn(24, 2)
    labels = (inputs.sum(1) > 0).long()
    batches = list(zip(inputs.split(6), labels.split(6), strict=True))
    optimizer = make_optimizer((model, 0.05), weight_decay=0.0)
    result = fit(
        model,
        batches,
        batches,
        optimizer=optimizer,
        epochs=epochs,
        stopping=EarlyStopping(9),
        resumable=Resumable(checkpoints.keeper(HEAD)),
        **options,
    )
    return model, result


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(checkpoint, "EPOCH_END_S", 0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)


def test_what_was_kept_is_what_is_read(tmp_path, eager):
    model, result = _fit(Checkpoints(tmp_path))
    state = Checkpoints(tmp_path).newest.state
    assert [epoch.number for epoch in state.epochs] == [1, 2, 3, 4]
    for told, epoch in zip(state.epochs, result.epochs, strict=True):
        assert (told.train, told.val) == (epoch.train, epoch.val)
        assert np.array_equal(told.val_logits, epoch.val_logits)
    assert torch.equal(state.best["weight"], model.weight)
    assert state.best_epoch == result.best.number


def test_a_training_that_was_over_is_not_trained_again(tmp_path, eager):
    model, result = _fit(Checkpoints(tmp_path))
    again, same = _fit(Checkpoints(tmp_path), on_epoch=lambda epoch: pytest.fail(str(epoch.number)))
    assert same.best.number == result.best.number
    assert torch.equal(again.weight, model.weight)


@pytest.mark.parametrize("spoil", ["cut", "changed", "emptied"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(said, tmp_path, eager, spoil):
    _fit(Checkpoints(tmp_path))
    older, newer = sorted(tmp_path.glob("checkpoint-*"))
    content = newer.read_bytes()
    spoiled = {"cut": content[:-7], "changed": content[:-1] + b"\x01", "emptied": b""}
    newer.write_bytes(spoiled[spoil])
    checkpoints = Checkpoints(tmp_path)
    assert said == ["Checkpoint 4 is damaged: the one before it is used"]
    assert len(checkpoints.newest.state.epochs) == 3
    assert older.exists()


def test_a_checkpoint_that_is_whole_and_can_not_be_used_is_told_and_kept(tmp_path, eager):
    _fit(Checkpoints(tmp_path))
    _, newer = sorted(tmp_path.glob("checkpoint-*"))
    content = newer.read_bytes().replace(b'"epochs', b'"epocs_')  # of the same length
    foreign = tmp_path / f"checkpoint-5-{hashlib.sha256(content).hexdigest()}.safetensors"
    foreign.write_bytes(content)
    with pytest.raises(CatdogError, match="is of another catdog version"):
        Checkpoints(tmp_path)
    foreign.unlink()
    (tmp_path / foreign.name).mkdir()  # what no process can read
    with pytest.raises(CatdogError, match="can't be read"):
        Checkpoints(tmp_path)
    assert newer.exists()


def test_when_no_checkpoint_is_whole_the_training_begins_anew(said, tmp_path, eager):
    _fit(Checkpoints(tmp_path))
    for path in tmp_path.glob("checkpoint-*"):
        path.write_bytes(b"nothing")
    assert Checkpoints(tmp_path).newest is None
    assert said[-1] == "No checkpoint of the run is whole: its training begins anew"


def test_a_full_disk_is_told_once_and_stops_nothing(said, tmp_path, eager):
    _fit(Checkpoints(tmp_path), epochs=2)
    kept = {path.name for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        _, result = _fit(Checkpoints(tmp_path), epochs=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(result.epochs) == 5
    assert len(said) == 1
    assert said[0].startswith("no checkpoint could be written")
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_signal_ends_the_training_after_the_batch_with_a_checkpoint(said, tmp_path):
    def signalled(batches, _what):
        for number, batch in enumerate(batches):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)  # at once: the same request
            yield batch

    with pytest.raises(KeyboardInterrupt):
        _fit(Checkpoints(tmp_path), watch=signalled)
    assert said == ["Stopping after this batch; once more stops at once"]
    state = Checkpoints(tmp_path).newest.state
    assert (len(state.epochs), state.underway.batches) == (0, 3)
    broken, _ = _fit(Checkpoints(tmp_path))
    (tmp_path / "other").mkdir()
    unbroken, _ = _fit(Checkpoints(tmp_path / "other"))
    assert torch.equal(broken.weight, unbroken.weight)


def test_a_second_signal_later_on_stops_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(interrupts, "TOGETHER_S", 0.0)

    def signalled(batches, _what):
        for batch in batches:
            yield batch
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        _fit(Checkpoints(tmp_path), watch=signalled)
    assert [path.name for path in tmp_path.glob("checkpoint-2*")] == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_checkpoints_are_not_written_more_often_than_they_are_worth(tmp_path):
    numbers = []
    _fit(
        Checkpoints(tmp_path),
        epochs=30,
        on_epoch=lambda _: numbers.append(len(list(tmp_path.iterdir()))),
    )
    assert set(numbers) == {0}  # all of it took less than two seconds
    assert len(list(tmp_path.glob("checkpoint-1-*"))) == 1  # the one at its end


def test_costly_checkpoints_are_written_seldom(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EPOCH_END_S", 0)
    checkpoints = Checkpoints(tmp_path)
    settle = checkpoints._settle

    def slowly(part: Path) -> None:
        time.sleep(0.3)
        settle(part)

    monkeypatch.setattr(checkpoints, "_settle", slowly)
    _fit(checkpoints, epochs=5)
    assert [path.name.split("-")[1] for path in sorted(tmp_path.iterdir())] == ["1", "2"]


def test_random_generators_go_on_where_they_were():
    def drawn() -> list[float]:
        return [random.gauss(0, 1), np.random.normal(), torch.rand(()).item()]

    seed_everything(1)
    drawn()  # a spare number of the pair is in store now
    states = generator_states()
    expected = drawn() + drawn()
    seed_everything(2)
    restore_generators(states)
    assert drawn() + drawn() == expected
