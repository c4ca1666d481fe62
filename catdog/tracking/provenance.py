"""From which code, with which versions, a model was made."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from importlib import metadata

import catdog
from catdog.tracking import store

PINNED = (
    "mlflow",
    "torch",
    "torchvision",
    "timm",
    "openvino",
    "onnxruntime",
    "safetensors",
    "pillow",
    "numpy",
    "pandas",
    "pillow-heif",
)
"""What the registered model needs, or uses where it is installed; written into it with the
versions in use."""


def versions() -> dict[str, str]:
    """The versions of what the model needs, and of Python."""
    return {"python": platform.python_version(), "catdog": catdog.__version__} | installed()


def installed() -> dict[str, str]:
    """The versions of those of `PINNED` that are installed."""
    found = {}
    for name in PINNED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_state() -> dict[str, str]:
    """The commit as the tag `git_commit`, and in `git_dirty` whether files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(store.ROOT), *arguments]
        ended = subprocess.run(command, capture_output=True, check=True)
        return ended.stdout.decode(errors="replace").strip()

    try:
        return {
            "git_commit": git("rev-parse", "HEAD"),
            "git_dirty": str(bool(git("status", "--porcelain"))).lower(),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": "unknown"}  # a copy without its history, or no git here
