from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from catdog import CatdogError
from catdog.training.early_stopping import EarlyStopping
from catdog.training.loop import Epoch, Loaders, fit, predict, seed_everything
from catdog.training.optim import make_optimizer, make_train_step


class Line(nn.Linear):
    """Two features → one logit."""

    def __init__(self) -> None:
        super().__init__(2, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs).squeeze(-1)


class Separable:
    """Batches of points that a line can tell apart, the same in each epoch."""

    def __init__(self, count: int = 48, batch: int = 10) -> None:
        inputs = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
        labels = (inputs.sum(dim=1) > 0).long()
        self.pairs = list(zip(inputs.split(batch), labels.split(batch), strict=True))

    def __len__(self) -> int:
        return len(self.pairs)

    def epoch(self, _number: int) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
        return [(*pair, 1.0) for pair in self.pairs]


def run_fit(
    model: nn.Module, *, epochs: int = 5, rate: float = 0.05, patience: int = 99
) -> tuple[list[Epoch], EarlyStopping]:
    """Fit a model to separable points; each epoch as it was told, and what stopped it."""
    stopping, told, points = EarlyStopping(patience), [], Separable()
    step = make_train_step(
        model, make_optimizer((model, rate), weight_decay=0.0), nn.BCEWithLogitsLoss()
    )
    fit(
        model,
        Loaders(points, points.pairs),
        step,
        epochs=range(1, epochs + 1),
        stopping=stopping,
        on_epoch=told.append,
    )
    return told, stopping


def test_the_loss_of_an_epoch_is_the_mean_over_pictures_and_not_over_batches():
    model, points, told = Line(), Separable(count=13, batch=10), []  # the last batch is smaller
    step = make_train_step(
        model, torch.optim.SGD(model.parameters(), 1e-30), nn.BCEWithLogitsLoss()
    )
    loaders = Loaders(points, points.pairs)
    fit(model, loaders, step, epochs=range(1, 2), stopping=EarlyStopping(1), on_epoch=told.append)
    inputs, labels = (torch.cat(part) for part in zip(*points.pairs, strict=True))
    expected = nn.functional.binary_cross_entropy_with_logits(model(inputs), labels.float()).item()
    assert told[0].train.loss == pytest.approx(expected, rel=1e-5)
    assert told[0].val.loss == pytest.approx(expected, rel=1e-5)


def test_fit_leaves_the_best_weights_in_the_model_and_not_the_last():
    seed_everything(0)
    model = Line()
    epochs, stopping = run_fit(model, epochs=12, rate=30.0)  # so large a rate overshoots
    assert [epoch.number for epoch in epochs] == list(range(1, 13))
    assert epochs[stopping.best_epoch - 1].val.accuracy > 0.95
    best = min(epochs, key=lambda epoch: epoch.val.loss)
    assert stopping.best_epoch == best.number != epochs[-1].number
    assert [epoch.number for epoch in epochs if epoch.is_best][-1] == best.number
    labels, logits = predict(model, Separable().pairs)
    loss = nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits), torch.from_numpy(labels).double()
    )
    assert loss.item() == pytest.approx(best.val.loss)


def test_a_logit_that_is_not_finite_in_the_first_epoch_names_epoch_and_learning_rate():
    model = Line()
    nn.init.constant_(model.weight, math.inf)
    with pytest.raises(CatdogError, match=r"diverged in epoch 1.*learning_rate below 0\.05"):
        run_fit(model)


def test_a_logit_that_is_not_finite_later_ends_training_with_the_best_weights():
    model = Line()
    stopping = EarlyStopping(9, best_epoch=3, best_loss=0.1, trouble="The head diverged.")
    stopping.weights = {name: value.clone() for name, value in model.state_dict().items()}
    kept, points = model.weight.detach().clone(), Separable()
    nn.init.constant_(model.weight, math.inf)
    step = make_train_step(
        model, make_optimizer((model, 0.1), weight_decay=0.0), nn.BCEWithLogitsLoss()
    )
    loaders = Loaders(points, points.pairs)
    fit(model, loaders, step, epochs=range(4, 9), stopping=stopping, on_epoch=pytest.fail)
    assert torch.equal(model.weight, kept)
    assert stopping.trouble.startswith("The head diverged. training diverged in epoch 4")
