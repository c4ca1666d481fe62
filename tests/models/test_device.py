from __future__ import annotations

import pytest
import torch

from catdog import CatdogError
from catdog.models.device import pick_device


def test_the_device_is_named_with_the_reason():
    device, why = pick_device("cpu")
    assert (device.type, why) == ("cpu", "CPU (as asked)")


@pytest.mark.skipif(torch.cuda.is_available(), reason="only without a GPU")
def test_cuda_without_a_gpu_is_an_error_and_never_the_cpu():
    with pytest.raises(CatdogError, match="device=cuda was asked for"):
        pick_device("cuda")
    assert pick_device("auto")[0].type in ("cpu", "mps")


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ((True, True), ("cuda", "H9 (the first found of CUDA, MPS and CPU)")),
        ((False, True), ("mps", "MPS (the first found of CUDA, MPS and CPU)")),
        ((False, False), ("cpu", "CPU (no GPU was found)")),
    ],
)
def test_the_first_that_is_there_is_taken(monkeypatch, present, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present[0])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: present[1])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H9")
    device, why = pick_device("auto")
    assert (device.type, why) == expected
