"""Batches of pictures for `views=0`, decoded and transformed by worker processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from catdog import CatdogError
from catdog.data import images
from catdog.data.batches import EpochBatches, seeded
from catdog.data.folder import LabelledFolder
from catdog.parallel import cores
from catdog.training.distributed import SOLO, Team


class PictureBatches(EpochBatches):
    """Batches of a folder's pictures, decoded and transformed by worker processes, if any.

    Each process of a team gets its part of a batch's pictures, and the labels of all.
    """

    def __init__(
        self,
        dataset: LabelledFolder,
        *,
        batch_size: int,
        seed: int | None,
        workers: int,
        pin_memory: bool,
        team: Team = SOLO,
    ) -> None:
        super().__init__(len(dataset), batch_size, seed)
        self._labels, self._team = torch.tensor(dataset.targets), team
        self._places = _Places(self, team)
        self._loader = DataLoader(
            _Drawn(dataset, seed or 0),
            batch_sampler=self._places,
            generator=torch.Generator(),  # else each epoch would draw from PyTorch's own
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
        )

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, which count from 1, without the first `skip`."""
        self._places.epoch, self._places.skip = epoch, skip
        loaded = _with_trouble_told(self._loader)
        return loaded if self._team.size == 1 else self._parts(loaded, epoch, skip)

    def _parts(
        self, loaded: Iterator[tuple[Tensor, Tensor]], epoch: int, skip: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for _, places in self.order(epoch, skip):
            has_any = len(places[self._team.part(len(places))]) > 0
            yield next(loaded)[0] if has_any else torch.empty(0), self._labels[places]


class _Places:
    """What a DataLoader asks for which pictures come next: their epoch and place."""

    def __init__(self, batches: EpochBatches, team: Team) -> None:
        self._batches, self._team, self.epoch, self.skip = batches, team, 1, 0

    def __len__(self) -> int:
        return len(self._batches) - self.skip

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for _, places in self._batches.order(self.epoch, self.skip):
            mine = places[self._team.part(len(places))].tolist()
            if mine:
                yield [(self.epoch, place) for place in mine]


class _Drawn(Dataset[tuple[Tensor, int]]):
    """Pictures whose transform draws what only the seed, the epoch and the place decide."""

    def __init__(self, dataset: LabelledFolder, seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, wanted: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, place = wanted
        before = torch.get_rng_state()
        torch.set_rng_state(seeded(self._seed, epoch, place).get_state())
        try:
            return self._dataset[place]
        finally:
            torch.set_rng_state(before)


def make_batches(
    dataset: LabelledFolder,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    workers: int,
    pin_memory: bool = False,
    team: Team = SOLO,
) -> EpochBatches:
    """Batches of `dataset`; with `shuffle`, in an order that only `seed` and epoch decide."""
    return PictureBatches(
        dataset,
        batch_size=batch_size,
        seed=seed if shuffle else None,
        workers=workers,
        pin_memory=pin_memory,
        team=team,
    )


def _with_trouble_told(
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
        if "DataLoader worker" not in str(error):
            raise
        raise CatdogError(
            "a process that decodes pictures was killed, most likely by the system for want "
            "of memory: give a smaller batch_size, or views=1, which needs no such process."
        ) from error


def pick_workers(device: torch.device) -> int:
    """The number of decoding processes that suits the device.

    On a CPU the forward pass keeps all cores busy, and a second process only competes.
    """
    return min(cores(), 16) if device.type == "cuda" else 0
