"""Features on disk, each known by the picture's content, the view of it and the backbone."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catdog.files import delete_folder, disk_errors
from catdog.models.engine import Features
from catdog.models.network import Network

RECIPE = 1
"""Raised when decoding, resizing or augmenting change, so that old features are not used."""


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
    with disk_errors(features_folder(data_dir)):
        return FeatureCache(features_folder(data_dir) / known_by.hexdigest()[:16])


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
            freed += delete_folder(folder)
    return freed
