"""Pictures → features through the frozen backbone, each computed once in its life.

In: the rows of a manifest. Out: an array of features, read from a cache where they are
known and computed where they are not. A feature is known by the picture's content, the
view of it, the preprocessing and the backbone's weights, so that another learning rate,
split, seed or name computes nothing anew.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Semaphore

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from catdog import CatdogError
from catdog.data.dataset import TRAINING, VALIDATION, Picture, PreparedDataset
from catdog.data.images import to_tensor
from catdog.data.loaders import Batch, shuffled_batches
from catdog.data.ood_images import neither_folder
from catdog.data.transforms import augmented, evaluation_transform
from catdog.files import disk_errors, sha256_of
from catdog.models.engine import Engine, Features, pick_engine
from catdog.models.network import Network
from catdog.parallel import cores, in_order
from catdog.training import distributed
from catdog.training.feature_cache import (
    FeatureCache,
    open_cache,
)

logger = logging.getLogger(__name__)

SHARD_ROWS = 1024
"""What a kill can lose at most: about ten seconds of work on two cores."""


@dataclass(frozen=True)
class FeatureSet:
    """The features of a prepared data set by one backbone, and what they cost.

    Attributes:
        engine: that computes them.
        training: of the training pictures, `(views, N, D)`; the first view is the plain one.
        validation: of the validation pictures, `(M, D)`.
        neither: of pictures that show neither class, `(K, D)`.
        computed: how many of the first two were computed, by all ranks.
        found: how many of them were known before.
        seconds: that it took.
    """

    engine: Engine
    training: Features
    validation: Features
    neither: Features
    computed: int = 0
    found: int = 0
    seconds: float = 0.0


def extract_features(
    network: Network,
    dataset: PreparedDataset,
    data_dir: Path,
    *,
    views: int = 1,
    cache_dir: Path | None = None,
) -> FeatureSet:
    """The features of a data set's pictures; of those to compute, each rank computes a part.

    Args:
        network: whose backbone computes them.
        dataset: whose training and validation pictures.
        data_dir: holds the cache, in which all ranks find what each has computed.
        views: of each training picture: the plain one, then augmented ones.
        cache_dir: holds it instead, for a backbone that no other run will have.

    Raises:
        CatdogError: a picture is gone, or the cache can't be written.
    """
    start = time.perf_counter()
    engine = pick_engine(network, cores=cores())
    cache = open_cache(cache_dir or data_dir, network)
    train, val = dataset.pictures(TRAINING), dataset.pictures(VALIDATION)
    computed = _compute_shares([(val, 1), (train, views)], network, engine, cache)
    validation, new = extract(val, network, engine, cache)
    training, more = extract(train, network, engine, cache, views=views)
    paths = neither_folder(data_dir, dataset.classes)
    strangers = [Picture(path, 0, sha256_of(path)) for path in paths]
    _compute_shares([(strangers, 1)], network, engine, cache)
    neither, _ = extract(strangers, network, engine, cache)
    computed += new + more
    found = len(val) + views * len(train) - computed
    seconds = time.perf_counter() - start
    logger.info(
        f"Features: {computed:,} computed by {engine.name} and {found:,} found, in "
        f"{seconds:.1f} s; they lie in {cache.folder.parent}"
    )
    return FeatureSet(engine, training, validation[0], neither[0], computed, found, seconds)


def _compute_shares(
    wanted: list[tuple[list[Picture], int]],
    network: Network,
    engine: Engine,
    cache: FeatureCache,
) -> int:
    """Compute this rank's part of some pictures' views; how many all ranks have computed."""
    if distributed.world_size() == 1:
        return 0
    computed = 0
    for pictures, views in wanted:
        mine = pictures[distributed.share().of(len(pictures))]
        if mine:
            computed += extract(mine, network, engine, cache, views=views)[1]
    distributed.barrier(distributed.PATIENCE)
    with disk_errors(cache.folder):
        cache.reread()
    return int(distributed.all_gather(np.array([computed])).sum())


def extract(
    pictures: Sequence[Picture],
    network: Network,
    engine: Engine,
    cache: FeatureCache,
    *,
    views: int = 1,
) -> tuple[Features, int]:
    """The features of `views` views of each picture, `(views, N, D) float32`.

    View 0 is the picture as evaluation sees it, the others are augmented, always the same
    way for the same picture. Only what the cache does not know is computed.

    Returns:
        The features, and how many of them were computed.

    Raises:
        CatdogError: a picture is gone, unreadable, or not the one that was prepared, or the
            features can't be written, or read again.
    """
    wanted = {picture.key(view): (picture, view) for view in range(views) for picture in pictures}
    missing = [(picture, view) for key, (picture, view) in wanted.items() if key not in cache]
    if missing:
        _compute(missing, network, engine, cache)
    keys = [picture.key(view) for view in range(views) for picture in pictures]
    with disk_errors(cache.folder):
        return cache.gather(keys).reshape(views, len(pictures), -1), len(missing)


def _compute(
    missing: Sequence[tuple[Picture, int]],
    network: Network,
    engine: Engine,
    cache: FeatureCache,
) -> None:
    """Decode and compute side by side, and write a shard whenever enough is there."""
    starts = range(0, len(missing), engine.batch)
    free = Semaphore(engine.callers)
    plain = evaluation_transform(network.preprocessing)

    def one_chunk(start: int) -> Features:
        chunk = missing[start : start + engine.batch]
        images = torch.stack([_look(picture, view, network, plain) for picture, view in chunk])
        with free:
            return engine.compute(images)

    waiting: list[Features] = []
    written = done = 0
    chunks = in_order(one_chunk, starts)
    # disable=None: a bar on a terminal, nothing in a log file.
    for computed in tqdm(chunks, "features", len(starts), leave=False, disable=None, unit="batch"):
        waiting.append(computed)
        done += len(computed)
        if done - written >= SHARD_ROWS or done == len(missing):
            keys = [picture.key(view) for picture, view in missing[written:done]]
            with disk_errors(cache.folder):
                cache.append(keys, np.concatenate(waiting))
            waiting, written = [], done


def read_picture(picture: Picture) -> Tensor:
    """Decode a prepared picture to `(3, H, W) uint8`.

    Raises:
        CatdogError: it is gone, unreadable, or not the one that was prepared.
    """
    try:
        content = picture.path.read_bytes()
    except OSError as error:
        raise CatdogError(
            f"{picture.path} can't be read ({error.strerror}): run scripts/prepare.py again, "
            "which makes it anew."
        ) from error
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        raise CatdogError(
            f"{picture.path} is not the picture that was prepared: delete it and run "
            "scripts/prepare.py again, which makes it anew."
        )
    return to_tensor(content)


def _look(
    picture: Picture, view: int, network: Network, plain: Callable[[Tensor], Tensor]
) -> Tensor:
    image = read_picture(picture)
    if view == 0:
        return plain(image)
    return augmented(image, network.preprocessing, Random(f"{picture.sha256}/{view}"))


class FeatureBatches:
    """Features as batches, in a new order in each epoch and with the next view of each picture."""

    def __init__(
        self, features: Features, pictures: Sequence[Picture], *, batch_size: int, seed: int
    ) -> None:
        """Take features `(views, N, D)` of N pictures."""
        self._features, self._labels = torch.from_numpy(features), labels_of(pictures)
        self._batch_size, self._seed = batch_size, seed

    def __len__(self) -> int:
        return math.ceil(len(self._labels) / self._batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch, which count from 1: features `(B, D)`, labels `(B,)`."""
        view = self._features[(number - 1) % len(self._features)]
        count, size = len(self._labels), self._batch_size
        for places in shuffled_batches(count, size, seed=self._seed, epoch=number):
            yield view[places], self._labels[places], 1.0


def labels_of(pictures: Sequence[Picture]) -> Tensor:
    """Their labels, `(N,) int64`."""
    return torch.tensor([picture.label for picture in pictures])
