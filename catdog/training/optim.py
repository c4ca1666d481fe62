"""One optimizer step: the loss, its gradients, AdamW, and the schedule of the learning rate."""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]  # of timm's API
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from catdog import CatdogError
from catdog.training import distributed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainStep:
    """Learns from one batch; made by `make_train_step`."""

    model: nn.Module
    optimizer: Optimizer
    loss_fn: nn.Module
    schedule: LRScheduler | None = None
    clip_norm: float | None = None
    micro_batch: int | None = None

    def __call__(self, inputs: Tensor, labels: Tensor, weight: float = 1.0) -> Tensor:
        """Make one optimizer step from inputs `(N, ...)` and labels `(N,) int64`.

        `weight` is that of the mean loss; see `catdog.data.loaders.Batch`.

        Returns:
            The logits `(N,)` from before the step, detached.
        """
        self.optimizer.zero_grad(set_to_none=True)
        logits = self._accumulate(inputs, labels, weight)
        if self.clip_norm is not None:
            learning = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(learning, self.clip_norm)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return logits

    @property
    def learning_rate(self) -> float:
        """That of the next step, for the first group of weights."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _accumulate(self, inputs: Tensor, labels: Tensor, weight: float) -> Tensor:
        """Add up the gradients of as many pictures at once as there is memory for."""
        parts = list(
            zip(*(x.split(self.micro_batch or len(x)) for x in (inputs, labels)), strict=True)
        )
        seen = []
        for number, (part, wanted) in enumerate(parts, start=1):
            with self._averaged(last=number == len(parts)):
                logits = self.model(part).float()
                loss = self.loss_fn(logits, wanted.to(logits.dtype))
                (loss * (weight * len(part) / len(inputs))).backward()
            seen.append(logits.detach())
        return torch.cat(seen)

    def _averaged(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients are averaged over all ranks once, with those of the last part."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()


def make_train_step(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: nn.Module,
    *,
    schedule: LRScheduler | None = None,
    clip_norm: float | None = None,
    micro_batch: int | None = None,
) -> TrainStep:
    """A function that learns from one batch; see `TrainStep.__call__`.

    Args:
        model: turns inputs into logits `(N,)`; of several ranks that share each batch, what
            `catdog.training.distributed.data_parallel` gives.
        optimizer: of the parameters that shall learn.
        loss_fn: the mean loss of logits and labels.
        schedule: of the learning rate, moved on by each step.
        clip_norm: the largest norm of the gradient that is let pass.
        micro_batch: how many pictures are computed at once; without, all of a batch.
    """
    return TrainStep(model, optimizer, loss_fn, schedule, clip_norm, micro_batch)


def largest_micro_batch(model: nn.Module, batch_size: int, picture: Tensor) -> int:
    """How many pictures of a batch there is memory for at once; on all ranks the smallest such.

    Found once, before the first step, by passes that learn nothing. On a CPU it is the batch.

    Raises:
        CatdogError: the GPU has no memory for a single picture.
    """
    if not _is_gpu(model):
        return batch_size
    # Beside what a pass takes, a step has AdamW's two moments and gradients that are averaged.
    room = [torch.empty_like(p) for p in model.parameters() if p.requires_grad for _ in range(3)]
    size = batch_size
    picture = picture.to(next(model.parameters()).device)
    while not _fits(model, picture.expand(size, *picture.shape)):
        if size == 1:
            raise CatdogError(
                "the GPU has no memory to train on one picture: use another one, a smaller "
                "backbone, or unfreeze fewer blocks."
            )
        size = -(-size // 2)
    del room
    torch.cuda.empty_cache()
    smallest = int(distributed.all_gather(np.array([size])).min())
    if smallest < batch_size:
        logger.info(f"The GPU takes {smallest} pictures at once, {batch_size} make a step")
    return smallest


def _is_gpu(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cuda"


def _fits(model: nn.Module, pictures: Tensor) -> bool:
    try:
        model(pictures).float().sum().backward()
    except torch.OutOfMemoryError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return True


def make_optimizer(*parts: tuple[nn.Module, float], weight_decay: float) -> Optimizer:
    """AdamW over the parameters that may learn, a learning rate for each part of the model.

    Biases, and the scales of normalising layers, do not decay.
    """
    groups = [
        group | {"lr": learning_rate}
        for part, learning_rate in parts
        for group in param_groups_weight_decay(part, weight_decay)
    ]
    return torch.optim.AdamW(groups, fused=True)


def warmup_and_cosine(optimizer: Optimizer, *, steps: int, warmup: int) -> LRScheduler:
    """Learning rates that rise over `warmup` steps and fall along a cosine to nearly zero."""

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))

    return LambdaLR(optimizer, share)
