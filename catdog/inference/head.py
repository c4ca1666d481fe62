"""Features → logit and familiarity: all that comes after the backbone, in double precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn

from catdog.evaluation.novelty import NoveltyDetector


class ScoringHead(nn.Module):
    """The trained neuron, and beside it the detector of what is neither.

    The same module is judged in training, answers in the saved model, and is part of the graph
    of an export. Its buffers are `weight` `(D,)` and `bias` `(1,)`.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, novelty: NoveltyDetector) -> None:
        super().__init__()
        # On the CPU first: MPS has no double precision.
        self.register_buffer("weight", weight.detach().cpu().double())
        self.register_buffer("bias", bias.detach().cpu().double())
        self.novelty = novelty

    def logits(self, features: Tensor) -> Tensor:
        """Features `(N, D) float32` → logits `(N,) float64`, not yet calibrated."""
        return features.double() @ self.weight + self.bias

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(N, D) float32` → what `logits` gives, and familiarity `(N,) float64`."""
        return self.logits(features), self.novelty(features)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything that `from_tensors` needs."""
        own = {"head.weight": self.weight, "head.bias": self.bias}
        return own | self.novelty.to_tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The head that `to_tensors` gave.

        Raises:
            KeyError: a tensor is missing.
        """
        novelty = NoveltyDetector.from_tensors(tensors)
        return cls(tensors["head.weight"], tensors["head.bias"], novelty)
