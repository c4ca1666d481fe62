"""Pictures → features through the frozen backbone, each computed once in its life.

In: the rows of a manifest. Out: an array of features, read from a cache where they are
known and computed where they are not. A feature is known by the picture's content, the
view of it, the preprocessing and the backbone's weights, so that another learning rate,
split, seed or name computes nothing anew.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from threading import Semaphore
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catdog import CatdogError
from catdog.data.batches import Batches, EpochBatches
from catdog.data.dataset import Picture
from catdog.data.images import to_tensor
from catdog.data.transforms import augmented, evaluation_transform
from catdog.models.engine import Engine, Features
from catdog.models.network import Network
from catdog.parallel import in_order

RECIPE = 1
"""Raised when decoding, resizing or augmenting change, so that old features are not used."""

SHARD_ROWS = 1024
"""What a kill can lose at most: about ten seconds of work on two cores."""

Watch = Callable[[Iterable[Features], str], Iterable[Features]]


class FeatureCache:
    """Features on disk, in shards that are written whole and never changed.

    Several processes may use one folder: each writes shards of its own, and a shard
    appears only when it is complete. A damaged one is removed, and so computed again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # when it was last used decides what is old
        self.reread()

    def reread(self) -> None:
        """Know also what other processes have written since."""
        self._rows: dict[bytes, tuple[int, int]] = {}
        self._shards: list[Path] = []
        for keys in sorted(self.folder.glob("*.keys.npy")):
            self._open(keys)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def gather(self, keys: Sequence[bytes]) -> Features:
        """The features `(len(keys), D) float32` of keys that are all known."""
        places = np.array([self._rows[key] for key in keys])
        result = np.empty((len(keys), self._width), dtype=np.float32)
        for number in np.unique(places[:, 0]):
            here = places[:, 0] == number
            # Open for this moment only: a process may have far fewer files open than there are
            # shards.
            result[here] = np.load(self._shards[number], mmap_mode="r")[places[here, 1]]
        return result

    def append(self, keys: Sequence[bytes], features: Features) -> None:
        """Write a shard of features `(len(keys), D) float32`."""
        name = f"{zlib.crc32(np.ascontiguousarray(features).data):08x}-{uuid.uuid4().hex}"
        packed = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1)
        # A shard counts once its keys are there, so they come last.
        self._write(f"{name}.features.npy", features)
        self._open(self._write(f"{name}.keys.npy", packed))

    @property
    def bytes_used(self) -> int:
        """How large the folder is."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def _write(self, name: str, array: NDArray[Any]) -> Path:
        part, target = self.folder / f".{name}", self.folder / name
        packed = io.BytesIO()
        np.save(packed, array)  # straight to a file, it does not say why it can't be written
        try:
            part.write_bytes(packed.getbuffer())
        except OSError:
            part.unlink(missing_ok=True)
            raise
        return part.replace(target)

    def _open(self, path: Path) -> None:
        stored = path.with_name(path.name.replace(".keys.", ".features."))
        shard = _read_shard(path, stored)
        if shard is None:
            path.unlink(missing_ok=True)
            stored.unlink(missing_ok=True)
            return
        keys, self._width = shard
        self._shards.append(stored)
        for row, key in enumerate(keys):
            self._rows[key.tobytes()] = (len(self._shards) - 1, row)


def _read_shard(keys: Path, stored: Path) -> tuple[NDArray[np.uint8], int] | None:
    """Keys of a shard and how wide its features are; None when it is not whole.

    Raises:
        OSError: it can't be read now, which does not say that it is damaged.
    """
    try:
        known, features = np.load(keys), np.load(stored, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):
        return None
    whole = len(known) == len(features) and zlib.crc32(features) == int(keys.name[:8], 16)
    return (known, features.shape[1]) if whole else None


def open_cache(data_dir: Path, network: Network) -> FeatureCache:
    """The cache for this backbone, its weights and its preprocessing; its features are float32."""
    known_by = hashlib.sha256()
    known_by.update(json.dumps(network.preprocessing.to_dict(), sort_keys=True).encode())
    known_by.update(f"{RECIPE} float32".encode())
    for name, tensor in network.backbone.state_dict().items():
        known_by.update(name.encode())
        known_by.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    with cache_trouble_is_told(features_folder(data_dir)):
        return FeatureCache(features_folder(data_dir) / known_by.hexdigest()[:16])


@contextlib.contextmanager
def cache_for(
    data_dir: Path, network: Network, *, keep: bool, shared: bool
) -> Iterator[FeatureCache]:
    """The cache of `open_cache`; or one that goes again, for a backbone no other run will have.

    `shared` says that other processes compute for it, too, perhaps on other machines.
    """
    if keep:
        yield open_cache(data_dir, network)
        return
    folder = features_folder(data_dir)
    if shared:
        with cache_trouble_is_told(folder):
            folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder if shared else None) as scratch:
        yield FeatureCache(Path(scratch))


@contextlib.contextmanager
def cache_trouble_is_told(folder: Path) -> Iterator[None]:
    """Raise what the disk refuses below the cache's `folder` as a CatdogError."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise CatdogError(
                f"the disk is full, there is no room for features in {folder}: free some space, "
                "with python scripts/clear_cache.py --days 0 for one, and run this again, or "
                "choose another folder with --data_dir."
            ) from error
        raise CatdogError(
            f"the feature cache in {folder} can't be used ({error.strerror or error}): run this "
            "again, or choose another folder with --data_dir."
        ) from error


def features_folder(data_dir: Path) -> Path:
    """Where all feature caches lie."""
    return data_dir / "features"


def clear_caches(data_dir: Path, *, days: float) -> int:
    """Delete caches that were not used for `days` days; return how many bytes that freed.

    Raises:
        CatdogError: one can't be deleted.
    """
    freed = 0
    oldest = time.time() - days * 86_400
    for folder in features_folder(data_dir).glob("*"):
        if folder.is_dir() and folder.stat().st_mtime <= oldest:
            freed += remove(folder)
    return freed


def remove(folder: Path) -> int:
    """Delete a folder; return how many bytes that freed.

    Raises:
        CatdogError: it can't be deleted.
    """
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise CatdogError(
            f"{folder} can't be deleted ({error.strerror or error}): end the runs that use it, or "
            "see that it can be written to, and run this again."
        ) from error
    return size


def extract(
    pictures: Sequence[Picture],
    network: Network,
    engine: Engine,
    cache: FeatureCache,
    *,
    views: int = 1,
    watch: Watch = lambda chunks, _: chunks,
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
        _compute(missing, network, engine, cache, watch)
    keys = [picture.key(view) for view in range(views) for picture in pictures]
    with cache_trouble_is_told(cache.folder):
        return cache.gather(keys).reshape(views, len(pictures), -1), len(missing)


def _compute(
    missing: Sequence[tuple[Picture, int]],
    network: Network,
    engine: Engine,
    cache: FeatureCache,
    watch: Watch,
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
    for computed in watch(in_order(one_chunk, starts), "features"):
        waiting.append(computed)
        done += len(computed)
        if done - written >= SHARD_ROWS or done == len(missing):
            keys = [picture.key(view) for picture, view in missing[written:done]]
            with cache_trouble_is_told(cache.folder):
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


class FeatureBatches(EpochBatches):
    """Features as batches, in a new order in each epoch and with the next view of each picture.

    Iterating gives `(B, D) float32` features and `(B,) int64` labels on the features' device.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, *, batch_size: int, seed: int | None
    ) -> None:
        """Take features `(views, N, D)` and labels `(N,)`; without a seed, keep their order."""
        super().__init__(len(labels), batch_size, seed)
        self._features, self._labels = features, labels

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, which count from 1, without the first `skip`."""
        view = self._features[(epoch - 1) % len(self._features)]
        for _, places in self.order(epoch, skip):
            chosen = places.to(self._labels.device)
            yield view[chosen], self._labels[chosen]


def as_batches(
    features: Features,
    pictures: Sequence[Picture],
    device: torch.device,
    *,
    batch_size: int,
    seed: int | None,
) -> Batches:
    """Batches of features `(views, N, D)` with the labels of their pictures, on `device`."""
    labels = torch.tensor([picture.label for picture in pictures])
    return FeatureBatches(
        torch.from_numpy(features).to(device),
        labels.to(device),
        batch_size=batch_size,
        seed=seed,
    )
