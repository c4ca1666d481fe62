"""Which device computes, and why."""

from __future__ import annotations

import torch

from catdog import CatdogError
from catdog.parallel import local_size

KINDS = ("cuda", "mps", "cpu")


def pick_device(asked: str) -> tuple[torch.device, str]:
    """The device to use, and in a few words why.

    Raises:
        CatdogError: the device that was asked for is unknown, or not there, or must be shared
            with other processes.
    """
    if asked not in ("auto", *KINDS):
        raise CatdogError(f"device={asked} is none of auto, {', '.join(KINDS)}.")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if local_size() > 1:
        present["mps"] = False  # it can't be shared
    if asked == "auto":
        asked = next((name for name, there in present.items() if there), "cpu")
        why = "the first found of CUDA, MPS and CPU" if asked != "cpu" else "no GPU was found"
    elif present.get(asked, True):
        why = "as asked"
    else:
        raise CatdogError(
            f"device={asked} was asked for, but PyTorch {torch.__version__} finds none: "
            "use device=auto or device=cpu, or install the driver and a PyTorch built for it."
        )
    if asked == "cuda" and local_size() > max(1, torch.cuda.device_count()):
        raise CatdogError(
            f"{local_size()} processes on this machine have {torch.cuda.device_count()} GPUs: "
            "each needs one, so start fewer, or use device=cpu."
        )
    name = torch.cuda.get_device_name() if asked == "cuda" else asked.upper()
    return torch.device(asked), f"{name} ({why})"
