from __future__ import annotations

from dataclasses import fields

from catdog.config import MainConfig, TrainConfig


def test_main_takes_every_parameter_of_train_and_prepare():
    names = {field.name for field in fields(MainConfig)}
    assert {field.name for field in fields(TrainConfig)} < names
    assert "val_fraction" in names
