"""Where a training stands: all that it takes to go on as if it had never stopped. Pure values.

`catdog.training.loop.fit` hands a `State` to a `Keeper`, and starts from one; what becomes of it in
between, a file for instance, is the keeper's business.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from catdog.evaluation.calibration import Labels, Logits
from catdog.evaluation.metrics import Scores
from catdog.training.distributed import SOLO, Team


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. Numbers count from 1; speed counts the training pictures.

    `val_labels` and `val_logits`, `(N,)`, stand in the order of the validation batches.
    """

    number: int
    train: Scores
    val: Scores
    val_labels: Labels
    val_logits: Logits
    learning_rate: float
    seconds: float
    images_per_second: float
    is_best: bool


@dataclass
class Underway:
    """An epoch that is not finished: how it began, and what it has met so far.

    `seen` are the labels and logits of the batches that were learned from, `(n,)` each.
    """

    learning_rate: float = float("nan")
    seconds: float = 0.0
    batches: int = 0
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, labels: Tensor, logits: Tensor) -> None:
        """Count one more batch."""
        self.seen.append((labels, logits))
        self.batches += 1


@dataclass(frozen=True)
class State:
    """A training between two batches.

    The tensors are those that the training changes: whoever keeps a state copies them before
    the next batch.

    Attributes:
        epochs: those that are finished.
        before: how many of them went before the training began.
        underway: the epoch after them, once it has begun.
        weights: of the model, without what is frozen.
        best: the same of the best epoch.
        best_epoch: its number, 0 for none.
        best_loss: its validation loss.
        optimizer: its `state_dict`.
        schedule: the learning rate's `state_dict`; empty where it has none.
        generators: the states of Python's, NumPy's and PyTorch's random generators.
    """

    epochs: tuple[Epoch, ...]
    before: int
    underway: Underway | None
    weights: dict[str, Tensor]
    best: dict[str, Tensor]
    best_epoch: int
    best_loss: float
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    generators: dict[str, Tensor]


class Keeper:
    """Keeps states, and says when to stop; this one keeps nothing and never stops."""

    @property
    def start(self) -> State | None:
        """The state to go on from; None at a beginning."""
        return None

    def due(self, *, epoch_ended: bool) -> bool:  # noqa: ARG002
        """Whether it is time to keep a state."""
        return False

    def keep(self, state: State) -> None:
        """Keep a state instead of the one before."""

    def watching(self) -> AbstractContextManager[None]:
        """While inside, a request to stop waits until the training asks for it with `stop`."""
        return contextlib.nullcontext()

    def stop(self) -> bool:
        """Whether the training shall stop now, to go on another time."""
        return False


@dataclass(frozen=True)
class Resumable:
    """What makes a training one that can stop at any batch, and go on.

    Attributes:
        keeper: where it starts from, and who keeps its state.
        schedule: of the learning rate, where a step moves one on.
        before: epochs that went before it begins.
        team: who trains together.
    """

    keeper: Keeper = field(default_factory=Keeper)
    schedule: LRScheduler | None = None
    before: Sequence[Epoch] = ()
    team: Team = SOLO


ALONE = Resumable()
"""A training that nobody keeps."""


@dataclass
class EarlyStopping:
    """Keeps a copy of the best weights, and says when to give up waiting for better.

    An epoch is better when its validation loss is more than `min_delta` below the best.
    Patience is counted from the epoch `started` at the earliest.
    """

    patience: int
    min_delta: float = 0.0
    started: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, epoch: int, loss: float, model: nn.Module) -> bool:
        """Take a copy of `model`'s weights if `loss` is the best so far; say whether."""
        if loss >= self.best_loss - (self.min_delta if self.best_epoch else 0.0):
            return False
        self.best_epoch, self.best_loss = epoch, loss
        # Clones, because state_dict() hands out the live tensors.
        self.weights = {name: value.clone() for name, value in trained_weights(model).items()}
        return True

    def out_of_patience(self, epoch: int) -> bool:
        """Whether `patience` epochs have passed without a better one."""
        return epoch - max(self.best_epoch, self.started) >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Put the best weights back into `model`."""
        model.load_state_dict(self.weights, strict=False)


class Course:
    """A training on its way: what it has behind it, and when its state is kept."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, stopping: EarlyStopping, by: Resumable
    ) -> None:
        self._model, self._optimizer, self._stopping = model, optimizer, stopping
        self._keeper, self._schedule = by.keeper, by.schedule
        self._before = len(by.before)
        self.epochs = list(by.before)
        self._underway: Underway | None = None
        self._news = True
        if by.keeper.start is not None:
            self._restore(by.keeper.start)

    def begin_epoch(self) -> Underway:
        """The epoch that a state was kept in the midst of, else a new one."""
        if self._underway is None:
            self._underway = Underway(self._optimizer.param_groups[0]["lr"])
        return self._underway

    def after_batch(self) -> None:
        """Keep the state if it is time, or if the training shall stop.

        Raises:
            KeyboardInterrupt: it shall stop, and the state has been kept.
        """
        self._news = True
        if self._keeper.stop():
            self._keep()
            raise KeyboardInterrupt
        if self._keeper.due(epoch_ended=False):
            self._keep()

    def end_epoch(self, epoch: Epoch) -> None:
        """Count a finished epoch."""
        self.epochs.append(epoch)
        self._underway, self._news = None, True

    def after_epoch(self) -> None:
        """Keep the state if it is time."""
        if self._keeper.due(epoch_ended=True):
            self._keep()

    def finish(self) -> None:
        """Keep the last state, unless it is what was kept last."""
        if self._news:
            self._keep()

    def _keep(self) -> None:
        self._news = False
        self._keeper.keep(
            State(
                epochs=tuple(self.epochs),
                before=self._before,
                underway=self._underway,
                weights=trained_weights(self._model),
                best=self._stopping.weights,
                best_epoch=self._stopping.best_epoch,
                best_loss=self._stopping.best_loss,
                optimizer=self._optimizer.state_dict(),
                schedule=self._schedule.state_dict() if self._schedule else {},
                generators=generator_states(),
            )
        )

    def _restore(self, state: State) -> None:
        self.epochs, self._underway = list(state.epochs), state.underway
        self._model.load_state_dict(state.weights, strict=False)
        self._optimizer.load_state_dict(state.optimizer)
        lay_out_as_weights(self._optimizer)
        if self._schedule is not None:
            self._schedule.load_state_dict(state.schedule)
        self._stopping.weights = state.best
        self._stopping.best_epoch, self._stopping.best_loss = state.best_epoch, state.best_loss
        restore_generators(state.generators)
        self._news = False


def lay_out_as_weights(optimizer: Optimizer) -> None:
    """Give what an optimizer remembers of each weight the weight's own memory format.

    Fused steps take for granted that they agree.
    """
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == weight.shape:
                values[name] = torch.empty_like(weight).copy_(value)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights as they are, without what is frozen and so never changes."""
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    return {
        name: value.detach() for name, value in model.state_dict().items() if name not in frozen
    }


def gather(seen: Sequence[tuple[Tensor, Tensor]]) -> tuple[Labels, Logits]:
    """Labels and logits of batches as two arrays `(N,)`."""
    # One copy from the device for the epoch: a copy for each batch would wait each time.
    # (Those of a checkpoint lie on the CPU already, and meet those of the device there.)
    labels = torch.cat([labels.cpu() for labels, _ in seen])
    logits = torch.cat([logits.cpu() for _, logits in seen])
    return labels.numpy(), logits.double().numpy()


def generator_states() -> dict[str, Tensor]:
    """The states of Python's, NumPy's and PyTorch's random generators."""
    _, words, python_spare = random.getstate()
    _, keys, place, has_spare, spare = cast(
        "tuple[str, NDArray[np.uint32], int, int, float]", np.random.get_state()
    )
    states = {
        # All whole numbers in them are below 2**32, which a double holds exactly.
        "python": torch.tensor([*words, _or_nan(python_spare)], dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), place, has_spare, spare], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: dict[str, Tensor]) -> None:
    """Put the random generators back to where `generator_states` found them."""
    *words, python_spare = states["python"].tolist()
    spare = None if math.isnan(python_spare) else python_spare
    random.setstate((3, tuple(map(int, words)), spare))
    *keys, place, has_spare, spare = states["numpy"].tolist()
    np.random.set_state(
        ("MT19937", np.array(keys, dtype=np.uint32), int(place), int(has_spare), spare)
    )
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"])


def _or_nan(number: float | None) -> float:
    return float("nan") if number is None else number
