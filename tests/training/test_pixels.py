from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from catdog import CatdogError
from catdog.data.dataset import Picture
from catdog.data.images import load
from catdog.data.transforms import Preprocessing, evaluation_transform
from catdog.training import pixels
from catdog.training.features import clear_caches
from catdog.training.pixels import PixelBatches, augment, decode_all

SMALL = Preprocessing(32, 28, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path, draw_folder) -> list[Picture]:
    folder = draw_folder(tmp_path / "pictures", 4)
    return [
        Picture(path, int(path.parent.name == "dog"), _digest(path))
        for path in sorted(folder.rglob("*.jpg"))
    ]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _batches(found: np.ndarray, **options) -> PixelBatches:
    labels = torch.arange(len(found))
    return PixelBatches(
        found, labels, CPU, **{"crop_px": 28, "batch_size": 3, "seed": None} | options
    )


def test_pictures_are_stored_as_evaluation_sees_them(tmp_path, pictures):
    stored = decode_all(pictures, SMALL, tmp_path)
    plain = evaluation_transform(SMALL)
    expected = torch.stack([plain(load(picture.path)) for picture in pictures])
    assert np.array_equal(stored, expected.numpy())
    assert isinstance(stored, np.memmap)


def test_a_picture_is_decoded_only_the_first_time(tmp_path, pictures, monkeypatch):
    first = decode_all(pictures, SMALL, tmp_path)
    monkeypatch.setattr(pixels, "read_picture", pytest.fail)
    assert np.array_equal(decode_all(pictures, SMALL, tmp_path), first)


def test_other_sizes_and_pictures_are_stored_apart(tmp_path, pictures):
    decode_all(pictures, SMALL, tmp_path)
    whole = decode_all(pictures, dataclasses.replace(SMALL, crop_px=32), tmp_path)
    assert whole.shape == (8, 3, 32, 32)
    assert len(decode_all(pictures[:3], SMALL, tmp_path)) == 3


def test_what_was_interrupted_leaves_nothing_and_is_done_again(tmp_path, pictures):
    def stop(done, _what):
        next(iter(done))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_all(pictures, SMALL, tmp_path / "data", watch=stop)
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []
    assert len(decode_all(pictures, SMALL, tmp_path / "data")) == 8


def test_a_changed_picture_is_told(tmp_path, pictures):
    pictures[0].path.write_bytes(pictures[1].path.read_bytes())
    with pytest.raises(CatdogError, match="is not the picture that was prepared"):
        decode_all(pictures, SMALL, tmp_path / "data")


def test_stored_pictures_are_cleared_with_the_features(tmp_path, pictures):
    decode_all(pictures, SMALL, tmp_path / "data")
    assert clear_caches(tmp_path / "data", days=0) > 0


def test_without_a_seed_pictures_come_in_order_and_unchanged(tmp_path, pictures):
    stored = decode_all(pictures, SMALL, tmp_path)
    batches = _batches(stored)
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    assert len(batches) == 3
    assert labels.tolist() == list(range(8))
    assert np.array_equal(images.numpy(), stored)


def test_with_a_seed_every_picture_comes_once_an_epoch_and_always_the_same_way(tmp_path, pictures):
    stored = decode_all(pictures, dataclasses.replace(SMALL, crop_px=32), tmp_path)
    first, second = _batches(stored, seed=3), _batches(stored, seed=3)
    for _ in range(2):
        pairs = zip(first, second, strict=True)
        epoch = [(a, b, c, d) for (a, b), (c, d) in pairs]
        assert all(torch.equal(a, c) and torch.equal(b, d) for a, b, c, d in epoch)
        assert sorted(torch.cat([b for _, b, _, _ in epoch]).tolist()) == list(range(8))
        assert {a.shape[1:] for a, *_ in epoch} == {(3, 28, 28)}


def test_augmentation_keeps_type_and_range_and_differs_from_picture_to_picture():
    picture = (torch.arange(32 * 32 * 3) % 256).to(torch.uint8).reshape(1, 3, 32, 32)
    changed = augment(picture.repeat(6, 1, 1, 1), 28, torch.Generator().manual_seed(0))
    assert changed.shape == (6, 3, 28, 28)
    assert changed.dtype == torch.uint8
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 6


def test_augmentation_mirrors_about_half_of_the_pictures():
    ramp = torch.arange(32, dtype=torch.uint8).mul(7).expand(400, 3, 32, 32).contiguous()
    changed = augment(ramp, 28, torch.Generator().manual_seed(0)).float()
    mirrored = (changed[..., -1].mean((1, 2)) < changed[..., 0].mean((1, 2))).float().mean()
    assert 0.4 < mirrored < 0.6


def test_augmentation_stays_inside_of_the_picture():
    grey = torch.full((50, 3, 32, 32), 100, dtype=torch.uint8)
    changed = augment(grey, 28, torch.Generator().manual_seed(1))
    assert (changed.flatten(1).amax(1) == changed.flatten(1).amin(1)).all()  # no border shows
    assert changed.min() >= 80
    assert changed.max() <= 120
