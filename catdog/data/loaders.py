"""Labelled pictures in batches: torchvision's ImageFolder and PyTorch's DataLoader.

What is drawn depends on seed, epoch and picture alone, never on a generator that runs on: so
any epoch can be gone through again, in whatever process, and a cut training needs no generator's
state to go on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder

from catdog import CatdogError, Classes
from catdog.data import images
from catdog.data.images import load
from catdog.data.transforms import Preprocessing, Transform, training_transform
from catdog.parallel import cores

Batch = tuple[Tensor, Tensor, float]
"""Inputs, labels `(N,) int64`, and the weight of their mean loss in the optimizer step.

Inputs are pictures `(N, 3, S, S) uint8` or features `(N, D) float32`; label 0 is the first class.
The weight is 1, but where several processes share a batch.
"""


class TrainingBatches(Protocol):
    """What a model learns from: other batches in each epoch, the same ones whenever it is asked."""

    def __len__(self) -> int:
        """How many batches an epoch has."""

    def epoch(self, number: int) -> Iterable[Batch]:
        """The batches of an epoch, which count from 1."""


class LabelledFolder(ImageFolder):
    """Pictures in one sub-folder per class, as `((3, H, W) uint8, label)`.

    The labels follow the order of `classes`, never that of a directory listing.
    """

    def __init__(
        self, folder: Path, transform: Transform | None = None, *, classes: Classes
    ) -> None:
        self._wanted = classes
        super().__init__(
            str(folder), transform=transform, loader=load, is_valid_file=images.is_image_name
        )

    def find_classes(
        self,
        directory: str | Path,  # noqa: ARG002  it does not decide
    ) -> tuple[list[str], dict[str, int]]:
        """Class names and their labels, in their order."""
        return list(self._wanted), {name: label for label, name in enumerate(self._wanted)}


@dataclass(frozen=True)
class Share:
    """Which of several processes that train together this one is."""

    rank: int = 0
    world_size: int = 1

    def of(self, count: int) -> slice:
        """Which of `count` things in a row are this rank's; parts differ by one at most."""
        return slice(
            count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size
        )


ALONE = Share()
"""A process that shares with nobody."""


def shuffled_batches(count: int, batch_size: int, *, seed: int, epoch: int) -> list[Tensor]:
    """The places of `count` things, `(B,) int64` a batch, in an order of this epoch's own."""
    order = torch.randperm(count, generator=seeded(seed, epoch))
    return list(order.split(batch_size))


def seeded(*parts: int) -> torch.Generator:
    """A random generator that only `parts` decide, such as a seed and an epoch."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class PictureBatches:
    """Pictures that are augmented anew in each epoch, decoded by worker processes.

    Of several processes that train together each gets its part of every batch. The mean of its
    part is weighted so that the mean over all processes is that over all pictures. Who would
    get none gets one picture of weight 0, as all must take part in each step.
    """

    def __init__(
        self,
        folder: LabelledFolder,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        share: Share = ALONE,
    ) -> None:
        self._count, self._batch_size = len(folder), batch_size
        self._seed, self._share = seed, share
        self._parts: list[list[tuple[int, int]]] = []
        dataset = _Augmented(folder, preprocessing, seed)
        self._loader = _loader(dataset, device, batch_sampler=self._parts)

    def __len__(self) -> int:
        return math.ceil(self._count / self._batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch, which count from 1."""
        weights = []
        self._parts.clear()
        for places in shuffled_batches(
            self._count, self._batch_size, seed=self._seed, epoch=number
        ):
            mine = places[self._share.of(len(places))]
            weights.append(self._share.world_size * len(mine) / len(places))
            part = mine if len(mine) else places[:1]
            self._parts.append([(number, place) for place in part.tolist()])
        loaded = _with_worker_errors(self._loader)
        for (pictures, labels), weight in zip(loaded, weights, strict=True):
            yield pictures, labels, weight


class EvaluationBatches:
    """Pictures as evaluation sees them, in their order; of several processes' a part each."""

    def __init__(
        self,
        folder: LabelledFolder,
        *,
        batch_size: int,
        device: torch.device,
        share: Share = ALONE,
    ) -> None:
        mine = range(len(folder))[share.of(len(folder))]
        self._loader = _loader(Subset(folder, mine), device, batch_size=batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return _with_worker_errors(self._loader)


class _Augmented(Dataset[tuple[Tensor, int]]):
    """The pictures of a folder, augmented as only seed, epoch and place decide."""

    def __init__(self, folder: LabelledFolder, preprocessing: Preprocessing, seed: int) -> None:
        self._folder, self._augment, self._seed = folder, training_transform(preprocessing), seed

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, which: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, place = which
        path, label = self._folder.samples[place]
        with torch.random.fork_rng(devices=[]):  # torchvision draws from PyTorch's own generator
            torch.default_generator.manual_seed(seeded(self._seed, epoch, place).initial_seed())
            return self._augment(load(path)), label


def _loader(
    dataset: Dataset[Any], device: torch.device, **batching: Any
) -> DataLoader[tuple[Tensor, Tensor]]:
    workers = pick_workers(device)
    return DataLoader(
        dataset,
        generator=torch.Generator(),  # else each epoch would draw from PyTorch's own
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,  # more would not fit a container's /dev/shm
        pin_memory=device.type == "cuda",
        **batching,
    )


def pick_workers(device: torch.device) -> int:
    """The number of decoding processes that suits the device.

    On a CPU the forward pass keeps all cores busy, and a second process only competes.
    """
    return min(cores(), 16) if device.type == "cuda" else 0


def _with_worker_errors(
    loader: Iterable[tuple[Tensor, Tensor]],
) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches; says in a sentence what went wrong in one of its processes."""
    try:
        yield from loader
    except images.UnreadableImageError as error:
        # From another process it comes with that one's traceback, its own text at the end.
        reason = str(error).strip().splitlines()[-1]
        prefix = f"{images.__name__}.{type(error).__name__}: "
        raise images.UnreadableImageError(reason.removeprefix(prefix)) from error
    except RuntimeError as error:
        if "bus error" in str(error).lower():
            raise CatdogError(
                "a process that decodes pictures has no shared memory: in a container give it "
                "some, with docker run --shm-size=2g say, or train with views=1."
            ) from error
        if not any(end in str(error) for end in ("is killed by signal", "exited unexpectedly")):
            raise
        raise CatdogError(
            "a process that decodes pictures was killed, most likely by the system for want "
            "of memory: give a smaller batch_size, or views=1, which needs no such process."
        ) from error
