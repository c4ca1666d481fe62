from __future__ import annotations

import pytest
import torch
from torch import nn

from catdog import CatdogError
from catdog.training import optim
from catdog.training.optim import (
    largest_micro_batch,
    make_optimizer,
    make_train_step,
    warmup_and_cosine,
)
from tests.training.test_loop import Line, Separable


def _step(model: nn.Module, *, weight: float = 1.0, **options) -> torch.Tensor:
    """The logits of one step from the same weights on the same 13 points."""
    nn.init.constant_(model.weight, 0.3)
    nn.init.constant_(model.bias, 0.1)
    sgd = torch.optim.SGD(model.parameters(), 0.5)
    step = make_train_step(model, sgd, nn.BCEWithLogitsLoss(), **options)
    return step(*Separable(count=13, batch=13).pairs[0], weight)


def test_micro_batches_make_the_step_of_the_whole_batch():
    plain, small = Line(), Line()
    assert torch.allclose(_step(plain), _step(small, micro_batch=3), atol=1e-6)
    assert torch.allclose(plain.weight, small.weight, atol=1e-6)


def test_the_gradient_is_clipped():
    model = Line()
    before = model.weight.detach().clone()
    sgd = torch.optim.SGD(model.parameters(), 1.0)
    step = make_train_step(model, sgd, nn.BCEWithLogitsLoss(), clip_norm=0.01)
    step(torch.full((4, 2), 1e4), torch.tensor([0, 0, 1, 1]))
    assert (model.weight - before).norm() <= 0.0101


class _OnSmallGpu(Line):
    """A model that says it is on a GPU, where more than `room` pictures have no memory."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(inputs)


@pytest.mark.parametrize(("room", "found"), [(100, 32), (31, 16), (5, 4), (1, 1)])
def test_the_largest_micro_batch_is_found_by_halving(monkeypatch, room, found):
    monkeypatch.setattr(optim, "_is_gpu", lambda _model: True)
    model = _OnSmallGpu(room)
    assert largest_micro_batch(model, 32, torch.zeros(2)) == found
    assert model.weight.grad is None


def test_a_gpu_without_memory_for_one_picture_is_told(monkeypatch):
    monkeypatch.setattr(optim, "_is_gpu", lambda _model: True)
    with pytest.raises(CatdogError, match="no memory to train on one picture"):
        largest_micro_batch(_OnSmallGpu(0), 32, torch.zeros(2))


def test_parts_learn_at_their_own_rates_biases_do_not_decay_and_the_frozen_is_left_alone():
    head, body = (
        nn.Linear(2, 1),
        nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2)),
    )
    groups = make_optimizer((head, 0.1), (body, 0.001), weight_decay=0.3).param_groups
    assert [(group["params"], group["lr"], group["weight_decay"]) for group in groups] == [
        ([head.bias], 0.1, 0.0),
        ([head.weight], 0.1, 0.3),
        ([body[1].bias], 0.001, 0.0),
        ([body[1].weight], 0.001, 0.3),
    ]


def test_the_rate_warms_up_and_falls_along_a_cosine():
    optimizer = torch.optim.SGD(Line().parameters(), 1.0)
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
