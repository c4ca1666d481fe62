"""Where a training stands, on disk: written whole or not at all, and checked when it is read.

A checkpoint is one safetensors file, whose metadata hold as JSON what is no tensor, and whose
name holds the digest of its bytes. The last two are kept; the older one serves when the newer
one is damaged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from catdog import CatdogError, interrupts
from catdog.evaluation.metrics import Confusion, Scores
from catdog.files import sha256_of, sync
from catdog.training.loop import Fit
from catdog.training.named import (
    below,
    optimizer_memories,
    optimizer_tensors,
    schedule_numbers,
    schedule_state,
    taken,
)
from catdog.training.state import Epoch, Keeper, State, Underway

logger = logging.getLogger(__name__)


EPOCH_END_S, WITHIN_S = 2.0, 30.0
"""How long after a checkpoint the next is due: at the end of an epoch, and within one."""

SHARE = 0.05
"""Of the time, what writing checkpoints may take at most."""

HEAD, FINETUNE = "head", "finetune"
KEPT = 2
ENDING = ".safetensors"


@dataclass(frozen=True)
class Stage:
    """The state of one of a run's trainings: first of the `head`, then to `finetune`."""

    name: str
    state: State


class Checkpoints:
    """The checkpoints of one run in a folder."""

    def __init__(self, folder: Path) -> None:
        """Read the newest checkpoint that is whole; what is damaged is told and removed."""
        self._folder = folder
        self._seconds = 0.0
        self._told_trouble = False
        self.newest: Stage | None = None
        for part in folder.glob(".checkpoint-*"):
            part.unlink()
        paths = _in_order(folder)
        self._number = _number(paths[-1]) if paths else 0
        for path in reversed(paths):
            self.newest = self._read(path)
            if self.newest is not None:
                break
        if paths and self.newest is None:
            logger.info("No checkpoint of the run is whole: its training begins anew")

    def keeper(self, stage: str) -> Keeper:
        """Who keeps the states of a stage, and has the newest one of it to start from."""
        start = self.newest.state if self.newest and self.newest.name == stage else None
        return _FileKeeper(self, stage, start)

    def settled(self) -> Fit | None:
        """How training the head went, when fine-tuning has begun after it."""
        if self.newest is None or self.newest.name != FINETUNE:
            return None
        epochs = self.newest.state.epochs[: self.newest.state.before]
        best = max(epochs, key=lambda epoch: epoch.number if epoch.is_best else 0)
        return Fit(epochs, best, stopped_early=False)

    def affordable(self, seconds: float) -> bool:
        """Whether, `seconds` after the last checkpoint, another keeps to its share of the time."""
        return seconds * SHARE >= self._seconds

    def write(self, stage: Stage) -> None:
        """Write a checkpoint, then remove all but the last two.

        A disk that is full or broken is told once, and stops nothing: the last good one stays.
        """
        begun = time.monotonic()
        part = self._folder / f".checkpoint-{self._number + 1}"
        try:
            tensors, told = _packed(stage)
            save_file(tensors, part, metadata={"catdog": json.dumps(told)})
            self._settle(part)
        except (OSError, SafetensorError) as error:
            part.unlink(missing_ok=True)
            if not self._told_trouble:
                logger.warning(
                    f"no checkpoint could be written in {self._folder} ({error}); the "
                    "training goes on, and resuming it would begin further back"
                )
            self._told_trouble = True
        self._seconds = time.monotonic() - begun

    def _settle(self, part: Path) -> None:
        digest = sha256_of(part)
        sync(part)
        self._number += 1
        part.replace(self._folder / f"checkpoint-{self._number}-{digest}{ENDING}")
        sync(self._folder)
        for old in _in_order(self._folder)[:-KEPT]:
            old.unlink()

    def _read(self, path: Path) -> Stage | None:
        """The stage in a file; None, and the file goes, where it is not what was written."""
        try:
            if path.name.endswith(f"-{sha256_of(path)}{ENDING}"):
                return _unpacked(path)
        except OSError as error:
            raise CatdogError(
                f"{path} can't be read ({error.strerror or error}): see that it can, and resume "
                "again."
            ) from error
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise CatdogError(
                f"{path} is of another catdog version: resume with the one that began the run, "
                "or begin a new run."
            ) from error
        logger.info(f"Checkpoint {_number(path)} is damaged: the one before it is used")
        path.unlink(missing_ok=True)
        return None


class _FileKeeper(Keeper):
    """Writes a checkpoint when enough time has passed, and whenever it is told to keep."""

    def __init__(self, checkpoints: Checkpoints, stage: str, start: State | None) -> None:
        self._checkpoints, self._stage, self._start = checkpoints, stage, start
        self._asked: Callable[[], bool] = lambda: False
        self._last = time.monotonic()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with interrupts.after_this() as self._asked:
            yield

    def stop(self) -> bool:
        return self._asked()

    @property
    def start(self) -> State | None:
        return self._start

    def due(self, *, epoch_ended: bool) -> bool:
        passed = time.monotonic() - self._last
        enough = EPOCH_END_S if epoch_ended else WITHIN_S
        return passed >= enough and self._checkpoints.affordable(passed)

    def keep(self, state: State) -> None:
        self._checkpoints.write(Stage(self._stage, state))
        self._last = time.monotonic()


def _in_order(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"checkpoint-*{ENDING}"), key=_number)


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


def _packed(stage: Stage) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A stage as tensors by name, and as JSON what is no tensor."""
    state = stage.state
    tensors = below("weights", state.weights) | below("best", state.best)
    tensors |= below("generators", state.generators)
    tensors |= below("optimizer", optimizer_tensors(state.optimizer))
    if state.epochs:
        tensors["epochs/labels"] = _stacked(epoch.val_labels for epoch in state.epochs)
        tensors["epochs/logits"] = _stacked(epoch.val_logits for epoch in state.epochs)
    told = {
        "stage": stage.name,
        "epochs": [_numbers_of(epoch) for epoch in state.epochs],
        "before": state.before,
        "underway": None,
        "best_epoch": state.best_epoch,
        "best_loss": state.best_loss,
        "param_groups": state.optimizer["param_groups"],
        "schedule": schedule_numbers(state.schedule),
    }
    if state.underway is not None:
        begun = state.underway
        told["underway"] = [begun.learning_rate, begun.seconds, begun.batches]
        if begun.seen:
            labels, logits = (torch.cat(part) for part in zip(*begun.seen, strict=True))
            tensors |= {"underway/labels": labels, "underway/logits": logits}
    # Contiguous, because the file knows no memory format; what is restored takes its own again.
    return {name: value.cpu().contiguous() for name, value in tensors.items()}, told


def _unpacked(path: Path) -> Stage:
    """The stage that `_packed` was given."""
    with safe_open(path, framework="pt") as stored:
        told = json.loads(stored.metadata()["catdog"])
        # Clones, because what a safetensors file gives may be the file's own pages.
        tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
    memories = optimizer_memories(taken("optimizer", tensors))
    state = State(
        epochs=_epochs(told["epochs"], taken("epochs", tensors)),
        before=told["before"],
        underway=_underway(told["underway"], taken("underway", tensors)),
        weights=taken("weights", tensors),
        best=taken("best", tensors),
        best_epoch=told["best_epoch"],
        best_loss=told["best_loss"],
        optimizer={"state": memories, "param_groups": told["param_groups"]},
        schedule=schedule_state(told["schedule"]),
        generators=taken("generators", tensors),
    )
    return Stage(told["stage"], state)


def _stacked(arrays: Iterable[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays)))


def _numbers_of(epoch: Epoch) -> dict[str, Any]:
    numbers = {k: v for k, v in vars(epoch).items() if k not in ("val_labels", "val_logits")}
    return numbers | {"train": asdict(epoch.train), "val": asdict(epoch.val)}


def _epochs(told: list[dict[str, Any]], arrays: dict[str, Tensor]) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(
            **numbers | {"train": _scores(numbers["train"]), "val": _scores(numbers["val"])},
            val_labels=arrays["labels"][row].numpy(),
            val_logits=arrays["logits"][row].numpy(),
        )
        for row, numbers in enumerate(told)
    )


def _scores(told: dict[str, Any]) -> Scores:
    return Scores(**told | {"confusion": Confusion(**told["confusion"])})


def _underway(told: list[Any] | None, arrays: dict[str, Tensor]) -> Underway | None:
    if told is None:
        return None
    seen = [(arrays["labels"], arrays["logits"])] if arrays else []
    learning_rate, seconds, batches = told
    return Underway(learning_rate, seconds, batches, seen)
