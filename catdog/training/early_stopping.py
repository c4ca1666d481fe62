"""When to stop training, and the best weights until then."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class EarlyStopping:
    """Keeps a copy of the best weights, and says when to give up waiting for better.

    An epoch is better when its validation loss is more than `min_delta` below the best.
    Patience is counted from the epoch `started` at the earliest. `trouble` says why training
    had to be stopped, where it had to be.
    """

    patience: int
    min_delta: float = 0.0
    started: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    weights: dict[str, Tensor] = field(default_factory=dict)
    trouble: str = ""

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
        load_trained_weights(model, self.weights)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights as they are, without what is frozen and so never changes."""
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    return {
        name: value.detach() for name, value in model.state_dict().items() if name not in frozen
    }


def load_trained_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put back what `trained_weights` gave; what is frozen stays as it is.

    Raises:
        RuntimeError: `weights` are not those that learn in `model`.
    """
    expected = trained_weights(model).keys()
    if weights.keys() != expected:
        raise RuntimeError(f"weights of another model: {sorted(weights.keys() ^ expected)}")
    model.load_state_dict(weights, strict=False)
