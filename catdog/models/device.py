"""Which device computes, why, and in which precision."""

from __future__ import annotations

import contextlib
import shutil
from contextlib import AbstractContextManager

import torch

from catdog import CatdogError
from catdog.parallel import local_size

KINDS = ("cuda", "mps", "cpu")


def pick_device(asked: str) -> tuple[torch.device, str]:
    """The device to use, and in a few words why.

    What is computed in float32 is exact from here on: a GPU would else round the factors of
    convolutions to TF32's ten bits, and answer otherwise than the CPU that serves.

    Raises:
        CatdogError: the device that was asked for is unknown, or not there, or must be shared
            with other processes.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if asked not in ("auto", *KINDS):
        raise CatdogError(f"device={asked} is none of auto, {', '.join(KINDS)}.")
    if asked == "cpu":  # nothing is asked of CUDA, which would take memory of the GPU for it
        return torch.device("cpu"), "CPU (as asked)"
    lacking = {"cuda": _cuda_lacks(), "mps": _mps_lacks()}
    if asked == "auto":
        kind = next((name for name, reason in lacking.items() if not reason), "cpu")
        why = "the first found of CUDA, MPS and CPU" if kind != "cpu" else lacking["cuda"]
    elif lacking[asked]:
        raise CatdogError(
            f"device={asked} was asked for, but {lacking[asked]}: use device=auto or device=cpu, "
            "or install the driver and a PyTorch built for it."
        )
    else:
        kind, why = asked, "as asked"
    if kind == "cuda" and local_size() > torch.cuda.device_count():
        raise CatdogError(
            f"{local_size()} processes on this machine have {torch.cuda.device_count()} GPUs: "
            "each needs one, so start fewer, or use device=cpu."
        )
    name = torch.cuda.get_device_name() if kind == "cuda" else kind.upper()
    return torch.device(kind), f"{name} ({why})"


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """Bfloat16 for what is learned, where the device computes it in hardware.

    That is Ampere and later. Older GPUs (T4, P100, V100) emulate it, slower than float32, in
    which they and CPUs compute.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _cuda_lacks() -> str:
    """Why CUDA can't compute here; empty when it can."""
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") is None:
            return "no GPU was found"
        if torch.version.cuda is None:
            return f"PyTorch {torch.__version__} was built without CUDA"
        return f"the GPU's driver is older than PyTorch {torch.__version__} wants"
    if not _has_kernels():
        return (
            f"PyTorch {torch.__version__} has no code for {torch.cuda.get_device_name()}, "
            "which an older PyTorch may have"
        )
    return ""


def _has_kernels() -> bool:
    """Whether this PyTorch was built for a GPU like the one that is here."""
    here = torch.cuda.get_device_capability()
    for arch in torch.cuda.get_arch_list():
        kind, _, number = arch.partition("_")
        if kind not in ("sm", "compute"):
            return True  # not of NVIDIA, which has names of its own
        built = divmod(int(number.rstrip("af")), 10)
        # Machine code runs on later GPUs of its own generation, PTX on all later ones.
        if built <= here and (kind == "compute" or built[0] == here[0]):
            return True
    return False


def _mps_lacks() -> str:
    if not torch.backends.mps.is_available():
        return f"PyTorch {torch.__version__} finds none"
    return "it can't be shared by several processes" if local_size() > 1 else ""
