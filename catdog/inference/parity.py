"""How far the answers of one way to a model are from those of another. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LIMIT = 1e-3
"""The largest difference of a probability or a familiarity that counts as the same answer."""

PILLOW_LIMIT = 0.1
"""The same for the export's example. Pillow rounds one pixel in some hundred otherwise, which
shows where an answer is in doubt; a wrong size or colour would show by far more."""

LIMITS = {"model": LIMIT, "http": LIMIT, "onnx": LIMIT, "example": PILLOW_LIMIT}


@dataclass(frozen=True)
class Answer:
    """What one way said of one photo."""

    p_positive: float
    familiarity: float


@dataclass(frozen=True)
class Parity:
    """How far each way's answers are from the training process's, at most."""

    differences: dict[str, float]

    @property
    def max_abs_diff(self) -> float:
        """The largest difference of the ways that start from the same pixels."""
        exact = [found for way, found in self.differences.items() if LIMITS[way] == LIMIT]
        return float(np.max(exact))

    @property
    def holds(self) -> bool:
        """Whether every way gives the same answers."""
        return all(found <= LIMITS[way] for way, found in self.differences.items())


def compare(expected: Sequence[Answer], found: dict[str, list[Answer]]) -> Parity:
    """How far `found` is from `expected`, for each way; nan where a photo got no number.

    Raises:
        ValueError: a way answered another number of photos.
    """
    return Parity({way: _largest_difference(expected, found[way]) for way in found})


def _largest_difference(expected: Sequence[Answer], found: Sequence[Answer]) -> float:
    if len(expected) != len(found):
        raise ValueError(f"{len(found)} answers for {len(expected)} photos")
    # NumPy's maximum is nan when one of the numbers is; Python's depends on the order.
    return float(np.abs(_table(expected) - _table(found)).max())


def _table(answers: Sequence[Answer]) -> NDArray[np.float64]:
    # JSON has no nan: over HTTP it comes as None, which becomes nan again here.
    return np.array([(one.p_positive, one.familiarity) for one in answers], dtype=np.float64)
