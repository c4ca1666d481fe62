"""How much a photo looks like those that the model was made for: the ground for "neither".

A head that knows two classes answers one of them for a tree, too. Its backbone's features tell
more: how near they are to those of training photos (Sun et al., "Out-of-distribution Detection
with Deep Nearest Neighbors", 2022), and, where the backbone has an ImageNet classifier and the
task is cats and dogs, how much of its belief lies on the classes of cats and dogs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

NEIGHBOURS = 5
REFERENCES = 2_000
"""Training features that are kept to compare with: more cost time and space, and tell no more."""

LEVELS = 1_000
"""Points of the distribution of validation photos that are kept."""

STEEPEST = 10
"""By how much the familiarity may grow within one standard deviation of the raw score.

Two photos of the same score would make it jump there, and rounding would decide the answer.
"""

NARROWEST = 1e-3
"""The smallest standard deviation that a part of the raw score is divided by."""


class ImageNetBelief(nn.Module):
    """Features → the log of the share of ImageNet's belief that lies on cats and dogs.

    `weight` `(1000, D)` and `bias` `(1000,)` are those of the layer of ImageNet's classes, of
    which `pets` `(1000,) bool` are those of the task. They are rounded as they are saved.
    """

    weight: Tensor
    bias: Tensor
    pets: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, pets: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.half().float())
        self.register_buffer("bias", bias.float())
        self.register_buffer("pets", pets.bool())

    def forward(self, features: Tensor) -> Tensor:
        """Features `(N, D) float32` → `(N,) float64`."""
        logits = (features @ self.weight.T + self.bias).double()
        on_pets = logits.masked_fill(~self.pets, -torch.inf)
        return on_pets.logsumexp(1) - logits.logsumexp(1)


class NoveltyDetector(nn.Module):
    """Features → familiarity in [0, 1): the share of validation photos that are less familiar.

    Attributes:
        references: training features of length 1, `(R, D)`, in half precision as they are saved.
        centre: mean of each part of the raw score on validation photos, `(parts,) float64`.
        spread: its standard deviation.
        levels: quantiles of the raw score of validation photos, ascending, `(L,) float64`.
        imagenet: for a task that ImageNet knows.
    """

    references: Tensor
    centre: Tensor
    spread: Tensor
    levels: Tensor

    def __init__(
        self,
        references: Tensor,
        imagenet: ImageNetBelief | None,
        *,
        centre: Tensor,
        spread: Tensor,
        levels: Tensor,
    ) -> None:
        super().__init__()
        self.imagenet = imagenet
        self.register_buffer("references", references.half().float())
        self.register_buffer("centre", centre.double())
        self.register_buffer("spread", spread.double())
        self.register_buffer("levels", levels.double())

    @classmethod
    def fit(
        cls, training: Tensor, validation: Tensor, imagenet: ImageNetBelief | None = None
    ) -> Self:
        """Learn from training features `(N, D)` what is near, from validation ones how near."""
        chosen = np.random.default_rng(0).permutation(len(training))[:REFERENCES]
        references = _unit(training[torch.from_numpy(np.sort(chosen))])
        nothing = torch.zeros(1)
        detector = cls(references, imagenet, centre=nothing, spread=nothing + 1, levels=nothing)
        parts = detector._parts(validation)
        detector.centre = parts.mean(0)
        detector.spread = parts.std(0, correction=0).clamp(min=NARROWEST)
        raw = detector.raw(validation)
        shares = torch.linspace(0, 1, min(LEVELS, len(raw)), dtype=torch.float64)
        detector.levels = _ascending(raw.quantile(shares))
        return detector

    def forward(self, features: Tensor) -> Tensor:
        """Features `(N, D) float32` → familiarity `(N,) float64`.

        Below all validation photos it goes on falling, so that what is farther away always
        has less of it.
        """
        raw = self.raw(features)
        return self._share_below(raw) * (raw - self.levels[0]).clamp(max=0).exp()

    def raw(self, features: Tensor) -> Tensor:
        """The score `(N,)` before it is compared with validation photos: larger is nearer."""
        return ((self._parts(features) - self.centre) / self.spread).mean(1)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything that `from_tensors` needs."""
        tensors = {
            "familiarity.references": self.references.half(),
            "familiarity.centre": self.centre,
            "familiarity.spread": self.spread,
            "familiarity.levels": self.levels,
        }
        if self.imagenet is not None:
            tensors["familiarity.pets.weight"] = self.imagenet.weight.half()
            tensors["familiarity.pets.bias"] = self.imagenet.bias
            tensors["familiarity.pets.classes"] = self.imagenet.pets.to(torch.uint8)
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The detector that `to_tensors` gave.

        Raises:
            KeyError: a tensor is missing.
        """
        imagenet = None
        if "familiarity.pets.weight" in tensors:
            imagenet = ImageNetBelief(
                *(tensors[f"familiarity.pets.{name}"] for name in ("weight", "bias", "classes"))
            )
        return cls(
            tensors["familiarity.references"],
            imagenet,
            centre=tensors["familiarity.centre"],
            spread=tensors["familiarity.spread"],
            levels=tensors["familiarity.levels"],
        )

    def _parts(self, features: Tensor) -> Tensor:
        """What the raw score is made of, `(N, parts)`."""
        likeness = _unit(features) @ self.references.T
        nearest = likeness.topk(min(NEIGHBOURS, len(self.references)), dim=1).values
        parts = [nearest.double().mean(1)]
        if self.imagenet is not None:
            parts.append(self.imagenet(features))
        return torch.stack(parts, dim=1)

    def _share_below(self, raw: Tensor) -> Tensor:
        """The share of validation photos of a lower raw score, interpolated between the levels."""
        count = len(self.levels)
        # Not `searchsorted`, which ONNX does not have.
        lower = ((raw[:, None] >= self.levels).sum(1) - 1).clamp(0, count - 2)
        below, above = self.levels[lower], self.levels[lower + 1]
        inside = ((raw - below) / (above - below).clamp(min=1e-12)).clamp(0, 1)
        return (lower + 1 + inside) / (count + 1)


def _unit(features: Tensor) -> Tensor:
    return nn.functional.normalize(features, eps=1e-12)


def _ascending(levels: Tensor) -> Tensor:
    """The levels, raised where they lie nearer to the one before than `STEEPEST` allows."""
    ramp = torch.arange(len(levels), dtype=torch.float64) / (STEEPEST * (len(levels) + 1))
    return (levels - ramp).cummax(0).values + ramp
