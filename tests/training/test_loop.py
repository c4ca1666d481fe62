from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from catdog import CatdogError
from catdog.training.loop import (
    EarlyStopping,
    fit,
    make_optimizer,
    make_train_step,
    predict,
    seed_everything,
    warmup_and_cosine,
)
from catdog.training.state import Resumable


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
    optimizer = make_optimizer((model, rate), weight_decay=0.0)
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
    decaying, others = make_optimizer((model, 0.1), weight_decay=0.3).param_groups
    assert decaying["params"] == [model[1].weight]
    assert decaying["weight_decay"] == 0.3
    assert others["params"] == [model[1].bias]
    assert others["weight_decay"] == 0.0


def test_parts_learn_at_their_own_rates():
    body, head = nn.Linear(2, 2), nn.Linear(2, 1)
    optimizer = make_optimizer((head, 0.1), (body, 0.001), weight_decay=0.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, 0.001, 0.001]


def test_the_rate_warms_up_and_falls_along_a_cosine():
    model = _Line()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    schedule = warmup_and_cosine(optimizer, steps=100, warmup=10)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_gradient_is_clipped():
    model = _Line()
    before = model.weight.detach().clone()
    step = make_train_step(
        model, torch.optim.SGD(model.parameters(), 1.0), nn.BCEWithLogitsLoss(), clip_norm=0.01
    )
    step(torch.full((4, 2), 1e4), torch.tensor([0, 0, 1, 1]))
    assert (model.weight - before).norm() <= 0.0101


class _Forgetful(_Line):
    """A model for which more than `room` pictures are too many at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.sizes: list[int] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(inputs))
        return super().forward(inputs)


def _stepped(model: nn.Module, **options) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        model.weight.fill_(0.3)
        model.bias.fill_(0.1)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    step = make_train_step(model, optimizer, nn.BCEWithLogitsLoss(), **options)
    return model, *step(*_separable(count=13, batch=13)[0])


def test_too_little_memory_halves_the_batch_and_changes_nothing_else(said):
    plain, loss, logits = _stepped(_Line())
    small, small_loss, small_logits = _stepped(_Forgetful(room=4))
    assert torch.allclose(plain.weight, small.weight, atol=1e-6)
    assert torch.allclose(loss, small_loss, atol=1e-6)
    assert torch.allclose(logits, small_logits, atol=1e-6)
    assert small.sizes == [3, 3, 3, 3, 1]
    assert said == [
        "Out of GPU memory: 6 pictures at once now, 13 in a step",
        "Out of GPU memory: 3 pictures at once now, 13 in a step",
    ]


def test_one_picture_that_is_too_large_is_not_tried_for_ever():
    with pytest.raises(torch.OutOfMemoryError):
        _stepped(_Forgetful(room=0))


def test_epochs_count_on_and_the_best_of_before_is_kept_when_nothing_is_better():
    seed_everything(0)
    model = _Line()
    settled = _fit(model, epochs=4, rate=0.3)
    kept = model.weight.detach().clone()
    stopping = EarlyStopping(patience=2, started=4)
    stopping.offer(settled.best.number, settled.best.val.loss, model)
    wild = make_optimizer((model, 50.0), weight_decay=0.0)
    batches = _separable()
    result = fit(
        model,
        batches,
        batches,
        optimizer=wild,
        epochs=9,
        stopping=stopping,
        resumable=Resumable(before=settled.epochs),
    )
    assert [epoch.number for epoch in result.epochs] == [1, 2, 3, 4, 5, 6]
    assert result.best == settled.best
    assert torch.equal(model.weight, kept)
