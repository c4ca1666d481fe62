"""Where a training stands at the end of an epoch, on disk: written whole, checked when read.

A checkpoint is what `torch.save` writes of numbers and tensors, and its name holds the digest of
its bytes. The last two are kept; the older one serves when the newer one is damaged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from catdog import CatdogError
from catdog.files import sha256_of, sync
from catdog.training.distributed import barrier, is_main
from catdog.training.early_stopping import (
    EarlyStopping,
    load_trained_weights,
    trained_weights,
)
from catdog.training.loop import Epoch

logger = logging.getLogger(__name__)

KEPT = 2
ENDING = ".pt"


@dataclass
class Checkpoint:
    """All that a stage of training changes: what it takes to go on after its last epoch.

    `epochs` are those behind it, those of the stage before among them. What is drawn depends on
    the seed and the epoch alone, so that no generator's state is needed.
    """

    stage: str
    model: nn.Module
    optimizer: Optimizer
    stopping: EarlyStopping
    schedule: LRScheduler | None = None
    epochs: list[Epoch] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """The same as numbers and tensors, without what is frozen."""
        return {
            "stage": self.stage,
            "epochs": json.dumps([asdict(epoch) for epoch in self.epochs]),
            "model": trained_weights(self.model),
            "optimizer": self.optimizer.state_dict(),
            "stopping": vars(self.stopping),
            "schedule": self.schedule.state_dict() if self.schedule else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.epochs = epochs_of(state)
        load_trained_weights(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        vars(self.stopping).update(state["stopping"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])


class CheckpointFolder:
    """The checkpoints of one run. All ranks read them, rank 0 alone writes."""

    def __init__(self, folder: Path) -> None:
        """Read the newest checkpoint that is whole; what is damaged is told.

        Raises:
            CatdogError: it is whole and can't be used.
        """
        self._folder = folder
        self._has_warned = False
        self.newest: dict[str, Any] | None = None
        paths = _in_order(folder)
        for path in reversed(paths):
            self.newest = _read(path)
            if self.newest is not None:
                break
            logger.info(f"Checkpoint {_number(path)} is damaged: the one before it is used")
        if paths and self.newest is None:
            logger.info("No checkpoint of the run is whole: its training begins anew")
        barrier()  # rank 0 may write, and delete, once all have read

    def restore(self, checkpoint: Checkpoint) -> None:
        """Let a stage go on where the newest checkpoint stands, if that is one of this stage.

        Raises:
            CatdogError: it is of another model or optimizer, as an earlier catdog made them.
        """
        if self.newest is not None and self.newest["stage"] == checkpoint.stage:
            with _of_this_catdog(self._folder):
                checkpoint.load_state_dict(self.newest)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove all but the last two.

        A disk that is full or broken is told once, and stops nothing: the last good one stays.
        """
        if not is_main():
            return
        number = len(checkpoint.epochs)
        part = self._folder / f".checkpoint-{number}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as stream:
                torch.save(checkpoint.state_dict(), stream)
            sync(part)
            part.replace(self._folder / f"checkpoint-{number}-{sha256_of(part)}{ENDING}")
            sync(self._folder)
            for old in _in_order(self._folder)[:-KEPT]:
                old.unlink()
        except (OSError, RuntimeError) as error:  # torch.save raises the latter
            part.unlink(missing_ok=True)
            if not self._has_warned:
                logger.warning(
                    f"no checkpoint could be written in {self._folder} ({error}); the "
                    "training goes on, and resuming it would begin further back"
                )
            self._has_warned = True


def _read(path: Path) -> dict[str, Any] | None:
    """What is in a file; None where it is not what was written."""
    if not path.name.endswith(f"-{sha256_of(path)}{ENDING}"):
        return None
    with _of_this_catdog(path):
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        epochs_of(state)
        return state


@contextlib.contextmanager
def _of_this_catdog(path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, pickle.UnpicklingError, KeyError, ValueError, TypeError) as error:
        raise CatdogError(
            f"{path} is of another catdog version: resume with the one that began the run, or "
            "begin a new run."
        ) from error


def epochs_of(state: dict[str, Any]) -> list[Epoch]:
    """The epochs behind a checkpoint."""
    return [Epoch.from_dict(epoch) for epoch in json.loads(state["epochs"])]


def _in_order(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"checkpoint-*{ENDING}"), key=_number)


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])
