from __future__ import annotations

import dataclasses
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catdog import CatdogError
from catdog.data.dataset import Picture
from catdog.data.images import load
from catdog.data.transforms import evaluation_transform
from catdog.files import sha256_of
from catdog.models.engine import Engine, torch_engine
from catdog.models.network import Network, build_network
from catdog.training import features
from catdog.training.feature_cache import FeatureCache, clear_caches, open_cache
from catdog.training.features import FeatureBatches, extract
from catdog.training.loop import seed_everything


@pytest.fixture(scope="module")
def network() -> Network:
    seed_everything(0)
    return build_network("test_resnet", weights="none").eval()


class _Counting:
    """An engine that counts the pictures it is given."""

    def __init__(self, network: Network, batch: int = 4) -> None:
        self.seen = 0
        self._inner = torch_engine(network)
        self.engine = Engine("counting", self._compute, callers=1, batch=batch)

    def _compute(self, images: torch.Tensor) -> np.ndarray:
        self.seen += len(images)
        return self._inner.compute(images)


@pytest.fixture
def counting(network) -> _Counting:
    return _Counting(network)


@pytest.fixture
def pictures(tmp_path, draw_folder) -> list[Picture]:
    folder = draw_folder(tmp_path / "pictures", 5)
    return [
        Picture(path, int(path.parent.name == "dog"), sha256_of(path))
        for path in sorted(folder.rglob("*.jpg"))
    ]


@pytest.fixture
def cache(tmp_path, network, counting) -> FeatureCache:
    return open_cache(tmp_path / "data", network)


def test_view_0_is_the_feature_of_the_picture_as_evaluation_sees_it(
    pictures, network, counting, cache
):
    found, computed = extract(pictures, network, counting.engine, cache)
    plain = evaluation_transform(network.preprocessing)
    images = torch.stack([plain(load(picture.path)) for picture in pictures])
    assert found.shape == (1, 10, network.head.linear.in_features)
    assert found.dtype == np.float32
    assert np.allclose(found[0], network.features(images).numpy(), atol=1e-5)
    assert computed == counting.seen == 10


def test_nothing_is_computed_twice(tmp_path, pictures, network, counting, cache):
    first, _ = extract(pictures + pictures[:1], network, counting.engine, cache)
    second, computed = extract(pictures, network, counting.engine, cache)
    later, also = extract(
        pictures[::-1], network, counting.engine, open_cache(tmp_path / "data", network)
    )
    assert (computed, also, counting.seen) == (0, 0, 10)
    assert np.array_equal(first[:, :10], second)
    assert np.array_equal(second[:, ::-1], later)
    assert extract(pictures, network, counting.engine, cache, views=3)[1] == 20


def test_augmented_views_differ_from_each_other_and_stay_the_same(
    tmp_path, pictures, network, counting, cache
):
    first, _ = extract(pictures, network, counting.engine, cache, views=3)
    assert not np.allclose(first[0], first[1])
    assert not np.allclose(first[1], first[2])
    other = open_cache(tmp_path / "elsewhere", network)
    second, _ = extract(pictures, network, counting.engine, other, views=3)
    assert np.allclose(first, second, atol=1e-5)


def test_other_weights_or_preprocessing_have_a_cache_of_their_own(tmp_path, network):
    seed_everything(1)
    other = build_network("test_resnet", weights="none").eval()
    narrow = build_network("test_resnet", weights="none").eval()
    narrow.backbone.load_state_dict(network.backbone.state_dict())
    narrow.preprocessing = dataclasses.replace(network.preprocessing, resize_px=200)
    folders = {
        open_cache(tmp_path, network).folder,
        open_cache(tmp_path, other).folder,
        open_cache(tmp_path, narrow).folder,
    }
    assert len(folders) == 3
    assert open_cache(tmp_path, network).folder in folders


@pytest.mark.parametrize("suffix", ["keys", "features"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_shard_is_computed_again(
    tmp_path, pictures, network, counting, cache, suffix, damage
):
    expected, _ = extract(pictures, network, counting.engine, cache)
    (shard,) = cache.folder.glob(f"*.{suffix}.npy")
    content = bytearray(shard.read_bytes())
    if damage == "flipped" and suffix == "features":
        content[-1] ^= 255
        shard.write_bytes(content)
    elif damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(content[: len(content) // 2])
    found, computed = extract(
        pictures, network, counting.engine, open_cache(tmp_path / "data", network)
    )
    assert computed == 10
    assert np.allclose(found, expected, atol=1e-5)


def test_a_cache_of_more_shards_than_a_process_may_open_is_read_whole(tmp_path):
    cache = FeatureCache(tmp_path / "cache")
    keys = [number.to_bytes(34, "big") for number in range(80)]
    for number, key in enumerate(keys):
        cache.append([key], np.full((1, 4), number, np.float32))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len([*Path("/proc/self/fd").iterdir()]) + 20, limits[1])
    )
    try:
        found = FeatureCache(cache.folder).gather(keys)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found[:, 0].tolist() == list(range(80))


def test_a_kill_loses_one_shard_at_most_and_never_the_others(
    tmp_path, pictures, network, monkeypatch
):
    monkeypatch.setattr(features, "SHARD_ROWS", 4)
    counting = _Counting(network, batch=2)
    cache = open_cache(tmp_path / "data", network)

    computed_in_order = features.in_order

    def stop_after_six(*given):
        for number, chunk in enumerate(computed_in_order(*given)):
            if number == 3:
                raise KeyboardInterrupt
            yield chunk

    with monkeypatch.context() as patch:
        patch.setattr(features, "in_order", stop_after_six)
        with pytest.raises(KeyboardInterrupt):
            extract(pictures, network, counting.engine, cache)
    _, computed = extract(
        pictures, network, counting.engine, open_cache(tmp_path / "data", network)
    )
    assert computed == 6


def test_a_picture_that_was_changed_since_is_told(pictures, network, counting, cache):
    pictures[3].path.write_bytes(pictures[4].path.read_bytes())
    with pytest.raises(CatdogError, match="is not the picture that was prepared"):
        extract(pictures, network, counting.engine, cache)


def test_old_caches_are_cleared_and_used_ones_kept(tmp_path, pictures, network, counting, cache):
    extract(pictures, network, counting.engine, cache)
    old = tmp_path / "data" / "features" / "0123456789abcdef"
    old.mkdir()
    (old / "x.features.npy").write_bytes(bytes(1000))
    os.utime(old, (0, 0))
    assert clear_caches(tmp_path / "data", days=30) == 1000
    assert not old.exists()
    assert cache.folder.exists()
    assert clear_caches(tmp_path / "data", days=0) > 0
    assert not cache.folder.exists()
    assert clear_caches(tmp_path / "nothing here", days=0) == 0


def _batches(count: int, views: int = 1, **options) -> FeatureBatches:
    values = np.arange(views * count, dtype=np.float32).reshape(views, count, 1)
    pictures = [Picture(Path(), number, "") for number in range(count)]
    return FeatureBatches(values, pictures, **{"batch_size": 4, "seed": 0} | options)


def test_an_epoch_takes_one_view_of_each_picture_in_turn():
    batches = _batches(10, views=3)
    for epoch in range(1, 7):
        taken = torch.cat([inputs for inputs, _, _ in batches.epoch(epoch)]).flatten()
        assert sorted(taken.tolist()) == [10.0 * ((epoch - 1) % 3) + n for n in range(10)]


@given(st.integers(1, 50), st.integers(1, 60))
def test_every_picture_comes_once_with_its_own_label(count, batch_size):
    batches = _batches(count, batch_size=batch_size)
    epoch = list(batches.epoch(1))
    assert len(epoch) == len(batches)
    pairs = [pair for inputs, labels, _ in epoch for pair in zip(inputs, labels, strict=True)]
    assert all(feature.item() == label.item() for feature, label in pairs)
    assert sorted(label.item() for _, label in pairs) == list(range(count))
