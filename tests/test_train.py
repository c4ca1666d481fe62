from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from catdog import CatdogError
from catdog.train import (
    EarlyStopping,
    fit,
    make_optimizer,
    make_train_step,
    predict,
    seed_everything,
)


class _Line(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs).squeeze(-1)


def _separable(count: int = 48, batch: int = 10) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 2, generator=generator)
    labels = (inputs.sum(dim=1) > 0).long()
    return list(zip(inputs.split(batch), labels.split(batch), strict=True))


def _fit(model: nn.Module, *, epochs: int = 5, patience: int = 99, rate: float = 0.05, **options):
    optimizer = make_optimizer(model, learning_rate=rate, weight_decay=0.0)
    stopping = EarlyStopping(patience)
    batches = _separable()
    return fit(
        model, batches, batches, optimizer=optimizer, epochs=epochs, stopping=stopping, **options
    )


def test_a_train_step_lowers_the_loss_and_returns_the_logits_from_before():
    seed_everything(0)
    model = _Line()
    inputs, labels = _separable()[0]
    before = model(inputs).detach()
    step = make_train_step(model, torch.optim.SGD(model.parameters(), 0.5), nn.BCEWithLogitsLoss())
    first, logits = step(inputs, labels)
    second, _ = step(inputs, labels)
    assert torch.equal(logits, before)
    assert second < first
    assert not logits.requires_grad


def test_fit_learns_from_features_as_from_any_batch():
    seed_everything(0)
    result = _fit(_Line(), epochs=30, rate=0.2)
    assert result.best.val.accuracy > 0.95
    assert [epoch.number for epoch in result.epochs] == list(range(1, 31))


def test_the_loss_of_an_epoch_is_the_mean_over_pictures_and_not_over_batches():
    model = _Line()
    batches = _separable(count=13, batch=10)  # the last batch is smaller
    result = fit(
        model,
        batches,
        batches,
        optimizer=torch.optim.SGD(model.parameters(), 1e-30),
        epochs=1,
        stopping=EarlyStopping(1),
    )
    inputs, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    expected = nn.functional.binary_cross_entropy_with_logits(model(inputs), labels.float())
    assert result.epochs[0].train.loss == pytest.approx(expected.item(), rel=1e-5)
    assert result.epochs[0].val.loss == pytest.approx(expected.item(), rel=1e-5)


def test_early_stopping_gives_up_after_patience_epochs_without_a_better_loss():
    stopping = EarlyStopping(patience=2)
    model = _Line()
    told = []
    for epoch, loss in enumerate([0.9, 0.5, 0.6, 0.55], start=1):
        stopping.offer(epoch, loss, model)
        told.append(stopping.out_of_patience(epoch))
    assert told == [False, False, False, True]
    assert (stopping.best_epoch, stopping.best_loss) == (2, 0.5)


def test_an_improvement_smaller_than_min_delta_does_not_count():
    stopping = EarlyStopping(patience=1, min_delta=0.1)
    model = _Line()
    assert stopping.offer(1, 0.5, model)
    assert not stopping.offer(2, 0.45, model)
    assert stopping.offer(3, 0.39, model)


def test_early_stopping_keeps_copies_that_later_steps_do_not_change():
    model = _Line()
    stopping = EarlyStopping(patience=1)
    stopping.offer(1, 0.5, model)
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    stopping.offer(2, 0.7, model)
    stopping.restore(model)
    assert all(torch.equal(a, b) for a, b in zip(kept, model.parameters(), strict=True))


def test_fit_leaves_the_best_weights_in_the_model_and_not_the_last():
    seed_everything(0)
    model = _Line()
    weights = {}

    def remember(epoch):
        weights[epoch.number] = {k: v.clone() for k, v in model.state_dict().items()}

    result = _fit(model, epochs=12, rate=30.0, on_epoch=remember)  # so large a rate overshoots
    best = min(result.epochs, key=lambda epoch: epoch.val.loss)
    assert result.best == best
    assert best.number != result.epochs[-1].number
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[best.number][name])


def test_the_kept_epoch_answers_as_the_restored_model_does():
    seed_everything(1)
    model = _Line()
    result = _fit(model, epochs=3)
    _, logits = predict(model, _separable())
    assert logits == pytest.approx(result.best.val_logits)


def test_fit_stops_early():
    seed_everything(0)
    result = _fit(_Line(), epochs=50, patience=2, rate=30.0)
    assert result.stopped_early
    assert len(result.epochs) == result.best.number + 2


def test_the_same_seed_gives_the_same_weights():
    def trained(seed: int) -> torch.Tensor:
        seed_everything(seed)
        model = _Line()
        _fit(model)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    assert torch.equal(trained(3), trained(3))
    assert not torch.equal(trained(3), trained(4))


def test_a_loss_that_is_not_finite_stops_with_epoch_and_learning_rate():
    model = _Line()
    with torch.no_grad():
        model.weight.fill_(math.inf)
    with pytest.raises(CatdogError, match=r"diverged in epoch 1.*learning_rate below 0\.05"):
        _fit(model)


def test_biases_do_not_decay_and_frozen_parameters_are_left_alone():
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
    decaying, others = make_optimizer(model, learning_rate=0.1, weight_decay=0.3).param_groups
    assert decaying["params"] == [model[1].weight]
    assert decaying["weight_decay"] == 0.3
    assert others["params"] == [model[1].bias]
    assert others["weight_decay"] == 0.0
