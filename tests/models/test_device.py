from __future__ import annotations

import pytest
import torch

from catdog import CatdogError
from catdog.models import device as module
from catdog.models.device import mixed_precision, pick_device


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that PyTorch can use, though there is none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H9")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(module.shutil, "which", lambda _: None)


def test_a_gpu_is_taken_before_any_other_device_one_for_each_process(gpu, monkeypatch):
    device, why = pick_device("auto")
    assert (device.type, why) == ("cuda", "H9 (the first found of CUDA, MPS and CPU)")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(CatdogError, match="2 processes on this machine have 1 GPUs"):
        pick_device("auto")


def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error(no_gpu):
    assert pick_device("auto")[1] == "CPU (no GPU was found)"
    with pytest.raises(CatdogError, match="device=cuda was asked for, but no GPU was found"):
        pick_device("cuda")
    with pytest.raises(CatdogError, match="device=tpu is none of auto, cuda, mps, cpu"):
        pick_device("tpu")


def test_a_driver_that_is_too_old_is_not_taken_for_no_gpu(no_gpu, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "driver is older than PyTorch" in pick_device("auto")[1]
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built without CUDA" in pick_device("auto")[1]


@pytest.mark.parametrize(
    ("capability", "built_for", "usable"),
    [
        ((8, 9), ["sm_80", "sm_90"], True),  # code for 8.0 runs on 8.9
        ((7, 0), ["sm_75", "sm_90"], False),  # a V100, older than 7.5
        ((12, 0), ["sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),  # compiled when it is loaded
        ((9, 0), ["sm_90a"], True),
        ((9, 4), ["gfx942"], True),  # AMD's
    ],
)
def test_a_gpu_that_pytorch_was_not_built_for_is_not_used(
    gpu, monkeypatch, capability, built_for, usable
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    device, why = pick_device("auto")
    assert (device.type == "cuda") is usable
    assert usable or "has no code for H9" in why


def test_the_cpu_is_taken_without_touching_cuda_and_computes_exactly(monkeypatch):
    def touched(*_args):
        raise AssertionError("CUDA was asked")

    for name in ("is_available", "device_count", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, touched)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert pick_device("cpu")[1] == "CPU (as asked)"
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("in_hardware", [True, False])
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_bfloat16_is_used_only_where_the_gpu_computes_it(monkeypatch, in_hardware):
    # A T4 says that it supports bfloat16, unless it is asked not to count emulation.
    def supported(including_emulation: bool = True) -> bool:
        return in_hardware or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    chosen = mixed_precision(torch.device("cuda"))
    assert isinstance(chosen, torch.autocast) is in_hardware
    assert not isinstance(mixed_precision(torch.device("cpu")), torch.autocast)
