"""Batches that can be gone through again: what is drawn for them depends on seed and epoch alone.

No generator runs on from epoch to epoch, so a training that was cut goes on at any batch without
going through those before it, and what worker processes draw needs no saving.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Batches = Iterable[tuple[Tensor, Tensor]]
"""Pairs of inputs and labels. Inputs are pictures `(N, 3, S, S) uint8` or features
`(N, D) float32`; labels are `(N,) int64`, 0 = cat, 1 = dog."""


class EpochBatches:
    """Batches whose order, and all that is drawn for them, only the seed and the epoch decide.

    So any epoch can be gone through again, from any batch on, in whatever process. Iterating
    gives one epoch after the other.
    """

    def __init__(self, count: int, batch_size: int, seed: int | None) -> None:
        """Take how many items there are; without a seed they keep their order."""
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._iterated = 0

    def __len__(self) -> int:
        return math.ceil(self._count / self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._iterated += 1
        return self.batches(self._iterated, 0)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, which count from 1, without the first `skip`."""
        raise NotImplementedError

    def order(self, epoch: int, skip: int) -> list[tuple[int, Tensor]]:
        """The number of each batch, from 0, and the places of its items, `(B,) int64`."""
        places = torch.arange(self._count)
        if self._seed is not None:
            places = torch.randperm(self._count, generator=seeded(self._seed, epoch))
        return list(enumerate(places.split(self._batch_size)))[skip:]


@dataclass(frozen=True)
class _OneEpoch:
    batches: EpochBatches
    number: int
    skip: int

    def __len__(self) -> int:
        return len(self.batches) - self.skip

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches.batches(self.number, self.skip)


def of_epoch(batches: Batches, number: int, *, skip: int = 0) -> Batches:
    """The batches of epoch `number`, without the first `skip`; a list is the same in each."""
    if isinstance(batches, EpochBatches):
        return _OneEpoch(batches, number, skip)
    return itertools.islice(batches, skip, None) if skip else batches


def seeded(*parts: int) -> torch.Generator:
    """A random generator that only `parts` decide, such as a seed, an epoch and a place in it."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
