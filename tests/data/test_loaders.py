from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catdog import CLASSES
from catdog.data import loaders
from catdog.data.images import UnreadableImageError
from catdog.data.loaders import EvaluationBatches, LabelledFolder, PictureBatches, Share
from catdog.data.transforms import Preprocessing, evaluation_transform

SMALL = Preprocessing(40, 32, "bilinear", (0.5,) * 3, (0.5,) * 3)
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, draw_folder) -> Path:
    return draw_folder(tmp_path / "pets", 5)


def _batches(folder: Path, **options) -> PictureBatches:
    given = {"batch_size": 4, "seed": 7, "device": CPU} | options
    return PictureBatches(LabelledFolder(folder, classes=CLASSES), SMALL, **given)


def _epoch(batches: PictureBatches, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels, weights = zip(*batches.epoch(number), strict=True)
    assert set(weights) == {1.0}
    return torch.cat(pictures), torch.cat(labels)


@given(count=st.integers(0, 100), size=st.integers(1, 9))
def test_parts_are_even_and_make_the_whole(count, size):
    parts = [list(range(count))[Share(rank, size).of(count)] for rank in range(size)]
    assert list(itertools.chain(*parts)) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_epoch_is_the_same_whenever_and_wherever_it_is_drawn(folder, monkeypatch):
    first, others = _epoch(_batches(folder), 2), _batches(folder)
    _epoch(others, 1)
    torch.manual_seed(5)  # which decides nothing
    assert all(map(torch.equal, _epoch(others, 2), first))
    monkeypatch.setattr(loaders, "pick_workers", lambda _device: 2)
    assert all(map(torch.equal, _epoch(_batches(folder), 2), first))


def test_epochs_and_seeds_differ_in_order_and_augmentation(folder):
    one, later, other = (
        _epoch(_batches(folder), 1),
        _epoch(_batches(folder), 2),
        _epoch(_batches(folder, seed=8), 1),
    )
    for pictures, labels in (later, other):
        assert sorted(labels.tolist()) == [0] * 5 + [1] * 5
        assert not torch.equal(pictures, one[0])
    # No picture of one epoch is there in the other: each was cut out anew.
    assert not any(torch.equal(a, b) for a in one[0] for b in later[0])


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_parts_of_all_ranks_are_the_batch_and_weigh_as_much(folder, world_size):
    whole = list(_batches(folder).epoch(1))  # 4, 4 and 2 pictures: a part may be empty
    ranks = [
        list(_batches(folder, share=Share(rank, world_size)).epoch(1)) for rank in range(world_size)
    ]
    for (pictures, labels, _), *parts in zip(whole, *ranks, strict=True):
        learned = [part for part in parts if part[2]]
        assert torch.equal(torch.cat([part[0] for part in learned]), pictures)
        assert torch.equal(torch.cat([part[1] for part in learned]), labels)
        assert all(len(part[0]) == 1 for part in parts if not part[2])
        # The mean over ranks of weighted means is the mean over pictures.
        weighted = sum(part[2] * part[1].double().mean() for part in parts) / world_size
        assert weighted.item() == pytest.approx(labels.double().mean().item())


@pytest.mark.parametrize("world_size", [1, 3, 11])
def test_evaluation_sees_each_picture_once_in_order(folder, world_size):
    dataset = LabelledFolder(folder, evaluation_transform(SMALL), classes=CLASSES)
    batches = [
        EvaluationBatches(dataset, batch_size=4, device=CPU, share=Share(rank, world_size))
        for rank in range(world_size)
    ]
    pictures = torch.cat([pictures for rank in batches for pictures, _ in rank])
    assert torch.equal(pictures, torch.stack([dataset[place][0] for place in range(10)]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_while_training_is_named(folder, monkeypatch, workers):
    monkeypatch.setattr(loaders, "pick_workers", lambda _device: workers)
    batches = _batches(folder)
    (folder / "cat" / "0.jpg").unlink()
    with pytest.raises(UnreadableImageError, match=r"0\.jpg: No such file"):
        list(batches.epoch(1))
