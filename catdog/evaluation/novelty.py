"""How much a photo looks like those that the model was made for: the ground for "neither".

A head that knows two classes answers one of them for a tree, too. Its backbone's features tell
more: how near they are to those of training photos (Sun et al., "Out-of-distribution Detection
with Deep Nearest Neighbors", 2022), and, where the backbone has an ImageNet classifier and the
task is cats and dogs, how much of its belief lies on the classes of cats and dogs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Features = NDArray[np.float32]
Scores = NDArray[np.float64]
Real = TypeVar("Real", np.float32, np.float64)

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


@dataclass(frozen=True)
class PetClassifier:
    """The layer of ImageNet's 1,000 classes: weight `(1000, D)`, bias `(1000,)`.

    `pets` says which of the classes are those that the task is about, `(1000,) bool`.
    """

    weight: Features
    bias: NDArray[np.float32]
    pets: NDArray[np.bool_]

    def belief(self, features: Features) -> Scores:
        """The log of the share of ImageNet's belief that lies on `pets`, `(N,)`."""
        logits = (product(features, self.weight.T) + self.bias).astype(np.float64)
        pets: Scores = np.logaddexp.reduce(logits[:, self.pets], axis=1)
        everything: Scores = np.logaddexp.reduce(logits, axis=1)
        return pets - everything


@dataclass(frozen=True)
class Familiarity:
    """Features → familiarity in [0, 1): the share of validation photos that are less familiar.

    Attributes:
        references: training features of length 1, `(R, D)`, rounded to half precision, in which
            they are saved.
        pets: ImageNet's classifier, for a task that it knows.
        centre: mean of each part of the raw score on validation photos.
        spread: its standard deviation.
        levels: quantiles of the raw score of validation photos, ascending.
    """

    references: Features
    pets: PetClassifier | None
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    levels: Scores

    @classmethod
    def fit(
        cls,
        training: Features,
        validation: Features,
        pets: PetClassifier | None = None,
        *,
        seed: int = 0,
    ) -> Self:
        """Learn from training features `(N, D)` what is near, from validation ones how near."""
        chosen = np.random.default_rng(seed).permutation(len(training))[:REFERENCES]
        references = _halved(_unit(training[np.sort(chosen)]))
        parts = _parts(validation, references, pets)
        centre, spread = parts.mean(1), np.maximum(parts.std(1), NARROWEST)
        raw = _raw(parts, centre, spread)
        levels = _ascending(np.quantile(raw, np.linspace(0, 1, min(LEVELS, len(raw)))))
        return cls(references, pets, tuple(centre.tolist()), tuple(spread.tolist()), levels)

    def raw(self, features: Features) -> Scores:
        """The score `(N,)` before it is compared with validation photos: larger is nearer."""
        parts = _parts(features, self.references, self.pets)
        return _raw(parts, np.array(self.centre), np.array(self.spread))

    def score(self, features: Features) -> Scores:
        """The familiarity `(N,)` of features `(N, D)`.

        Below all validation photos it goes on falling, so that what is farther away always
        has less of it.
        """
        raw = self.raw(features)
        count = len(self.levels)
        shares = np.arange(1, count + 1) / (count + 1)
        beyond = np.minimum(raw - self.levels[0], 0.0)
        familiarity: Scores = np.interp(raw, self.levels, shares) * np.exp(beyond)
        return familiarity

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that `from_arrays` needs."""
        arrays: dict[str, NDArray[Any]] = {
            "familiarity.references": self.references.astype(np.float16),
            "familiarity.centre": np.array(self.centre),
            "familiarity.spread": np.array(self.spread),
            "familiarity.levels": self.levels,
        }
        if self.pets is not None:
            arrays["familiarity.pets.weight"] = self.pets.weight.astype(np.float16)
            arrays["familiarity.pets.bias"] = self.pets.bias
            arrays["familiarity.pets.classes"] = self.pets.pets.astype(np.uint8)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The familiarity that `to_arrays` gave.

        Raises:
            KeyError: an array is missing.
        """
        pets = None
        if "familiarity.pets.weight" in arrays:
            pets = PetClassifier(
                arrays["familiarity.pets.weight"].astype(np.float32),
                arrays["familiarity.pets.bias"],
                arrays["familiarity.pets.classes"].astype(bool),
            )
        return cls(
            arrays["familiarity.references"].astype(np.float32),
            pets,
            tuple(arrays["familiarity.centre"].tolist()),
            tuple(arrays["familiarity.spread"].tolist()),
            arrays["familiarity.levels"],
        )


def _ascending(levels: Scores) -> Scores:
    """The levels, raised where they lie nearer to the one before than `STEEPEST` allows."""
    ramp = np.arange(len(levels)) / (STEEPEST * (len(levels) + 1))
    return np.maximum.accumulate(levels - ramp) + ramp


def product(one: NDArray[Real], other: NDArray[Real]) -> NDArray[Real]:
    """The product of two matrices, by PyTorch, which keeps to one core where it is told to.

    NumPy would use all of them in each of the threads that answer, and take half as long again.
    """
    found: NDArray[Real] = (torch.from_numpy(one) @ torch.from_numpy(other)).numpy()
    return found


def _unit(features: Features) -> Features:
    unit: Features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return unit


def _halved(features: Features) -> Features:
    return features.astype(np.float16).astype(np.float32)


def _parts(features: Features, references: Features, pets: PetClassifier | None) -> Scores:
    """What the raw score is made of, `(parts, N)`."""
    likeness = product(_unit(features), references.T)
    count = min(NEIGHBOURS, likeness.shape[1])
    nearest = np.partition(likeness, -count, axis=1)[:, -count:].mean(1)
    parts = [nearest] if pets is None else [nearest, pets.belief(features)]
    return np.stack(parts).astype(np.float64)


def _raw(parts: Scores, centre: Scores, spread: Scores) -> Scores:
    raw: Scores = ((parts - centre[:, None]) / spread[:, None]).mean(0)
    return raw
