"""What is kept of a training, and that one which was cut goes on as if nothing had been."""

from __future__ import annotations

import hashlib
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from catdog import CatdogError
from catdog.config import TrainConfig
from catdog.models.engine import torch_engine
from catdog.training import features, stages
from catdog.training.checkpoint import Checkpoint, CheckpointFolder
from catdog.training.early_stopping import EarlyStopping
from catdog.training.loop import Epoch, Fit, Loaders, seed_everything
from catdog.training.optim import make_optimizer, make_train_step
from tests.sources import prepare_pictures
from tests.training.ranks_child import epochs_of, learn
from tests.training.test_loop import Line, Separable

KINDS = {
    "features": {"views": 2, "epochs": 4},
    "pictures": {"views": 0, "epochs": 3},
    "fine-tuning": {"views": 1, "epochs": 2, "unfreeze": "1", "finetune_epochs": 3},
    "patience": {"views": 1, "epochs": 9, "patience": 1, "min_delta": 0.9, "learning_rate": 1e-5},
}


class _CutError(Exception):
    """The process ends here."""


def _cut_after(count: int, patch: pytest.MonkeyPatch) -> None:
    """Let training be cut before the checkpoint of its next epoch, once `count` were written."""
    written = 0
    save = CheckpointFolder.save

    def saved(folder: CheckpointFolder, checkpoint: Checkpoint) -> None:
        nonlocal written
        if written == count:
            raise _CutError
        written += 1
        save(folder, checkpoint)

    patch.setattr(CheckpointFolder, "save", saved)


@pytest.fixture
def config(tmp_path, draw_folder, monkeypatch) -> TrainConfig:
    """Of a training on 12 tiny pictures, with features by PyTorch, which needs no export."""
    pictures = draw_folder(tmp_path / "pets", 6)
    prepare_pictures(pictures, tmp_path / "data" / "pets", val_fraction=0.2)
    monkeypatch.setattr(features, "pick_engine", lambda network, **_cores: torch_engine(network))
    monkeypatch.setattr(features, "neither_folder", lambda *_: sorted(pictures.glob("cat/*")))
    common = {"batch_size": 4, "patience": 9, "backbone": "test_resnet", "weights": "none"}
    return TrainConfig(dataset="pets", data_dir=str(tmp_path / "data"), device="cpu", **common)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_again_and_again_it_learns_what_an_unbroken_run_learns(config, tmp_path, kind):
    config = replace(config, **KINDS[kind])
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    expected, fitted, _ = learn(config, unbroken)
    for count in (0, 1, 2):
        with pytest.MonkeyPatch.context() as patch:
            _cut_after(count, patch)
            try:
                learn(config, broken)
            except _CutError:
                continue
            break  # by then it had no epochs left
    found, went_on, _ = learn(config, broken)
    assert epochs_of(went_on) == epochs_of(fitted)
    assert replace(went_on, epochs=(), best=fitted.best) == replace(fitted, epochs=())
    for name, value in expected.state_dict().items():
        assert torch.allclose(found.state_dict()[name], value, rtol=0, atol=1e-6), name
    assert len(list(broken.glob("checkpoint-*"))) == 2


def _fit(folder: Path, *, epochs: int = 4) -> tuple[nn.Module, Fit]:
    seed_everything(0)
    model, points = Line(), Separable()
    optimizer = make_optimizer((model, 0.05), weight_decay=0.0)
    checkpoint = Checkpoint(stages.HEAD, model, optimizer, EarlyStopping(9))
    step = make_train_step(model, optimizer, nn.BCEWithLogitsLoss())
    loaders = Loaders(points, points.pairs)
    told: list[Epoch] = []
    fitted = stages._train(checkpoint, loaders, step, epochs, CheckpointFolder(folder), told.append)
    assert list(fitted.epochs[len(fitted.epochs) - len(told) :]) == told
    return model, fitted


@pytest.mark.parametrize("spoil", ["cut", "changed", "emptied"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(said, tmp_path, spoil):
    _fit(tmp_path)
    older, newer = sorted(tmp_path.glob("checkpoint-*"))
    content = newer.read_bytes()
    spoiled = {"cut": content[:-7], "changed": content[:-1] + b"\x01", "emptied": b""}
    newer.write_bytes(spoiled[spoil])
    _fit(tmp_path, epochs=3)  # which the older one has behind it
    assert said == ["Checkpoint 4 is damaged: the one before it is used"]
    assert older.exists()


def test_a_checkpoint_of_another_optimizer_or_model_is_refused_in_a_sentence(tmp_path):
    _fit(tmp_path)
    line, two = Line(), nn.Linear(2, 2)
    one_group = torch.optim.Adam(line.parameters())
    two_groups = make_optimizer((line, 0.1), (two, 0.1), weight_decay=0.0)
    for model, optimizer in ((line, two_groups), (two, one_group)):
        other = Checkpoint(stages.HEAD, model, optimizer, EarlyStopping(9))
        with pytest.raises(CatdogError, match="is of another catdog version: resume with"):
            CheckpointFolder(tmp_path).restore(other)


def test_a_checkpoint_of_another_program_is_told_kept_and_can_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self) -> tuple:
            return (shutil.rmtree, (str(tmp_path),))

    torch.save({"epochs": Evil()}, tmp_path / "evil")
    digest = hashlib.sha256((tmp_path / "evil").read_bytes()).hexdigest()
    foreign = (tmp_path / "evil").rename(tmp_path / f"checkpoint-1-{digest}.pt")
    with pytest.raises(CatdogError, match="is of another catdog version"):
        CheckpointFolder(tmp_path)
    assert foreign.exists()


def test_when_no_checkpoint_is_whole_the_training_begins_anew(said, tmp_path):
    _fit(tmp_path)
    for path in tmp_path.glob("checkpoint-*"):
        path.write_bytes(b"nothing")
    assert CheckpointFolder(tmp_path).newest is None
    assert said[-1] == "No checkpoint of the run is whole: its training begins anew"


def test_a_full_disk_is_told_once_and_stops_nothing(said, tmp_path):
    _fit(tmp_path, epochs=2)
    kept = {path.name for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        _, fitted = _fit(tmp_path, epochs=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(fitted.epochs) == 5
    assert len(said) == 1
    assert said[0].startswith("no checkpoint could be written")
    assert {path.name for path in tmp_path.iterdir()} == kept
