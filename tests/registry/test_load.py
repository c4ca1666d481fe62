from __future__ import annotations

import pytest
import torch

from catdog import CatdogError
from catdog.registry import versions
from catdog.registry.load import load_classifier


def _touched(*_args):
    raise AssertionError("was asked")


def test_a_device_that_is_not_there_is_told_before_a_model_is_fetched(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(versions, "fetch", _touched)
    with pytest.raises(CatdogError, match="device=cuda was asked for"):
        load_classifier("models:/pets/1", device="cuda")
