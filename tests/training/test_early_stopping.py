from __future__ import annotations

from torch import nn

from catdog.training.early_stopping import EarlyStopping


def test_it_gives_up_after_patience_epochs_without_a_better_loss():
    stopping, model = EarlyStopping(patience=2), nn.Linear(2, 1)
    told = []
    for epoch, loss in enumerate([0.9, 0.5, 0.6, 0.55], start=1):
        stopping.offer(epoch, loss, model)
        told.append(stopping.out_of_patience(epoch))
    assert told == [False, False, False, True]
    assert (stopping.best_epoch, stopping.best_loss) == (2, 0.5)


def test_patience_begins_with_the_stage():
    stopping = EarlyStopping(patience=2, started=4, best_epoch=1)
    assert [stopping.out_of_patience(epoch) for epoch in (4, 5, 6)] == [False, False, True]


def test_an_improvement_smaller_than_min_delta_does_not_count():
    stopping, model = EarlyStopping(patience=1, min_delta=0.1), nn.Linear(2, 1)
    assert stopping.offer(1, 0.5, model)
    assert not stopping.offer(2, 0.45, model)
    assert stopping.offer(3, 0.39, model)
