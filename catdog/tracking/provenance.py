"""From which code and pictures, with which versions, a model was made."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import warnings
from collections import defaultdict
from importlib import metadata
from typing import Any

import pandas as pd

import catdog
from catdog.data.dataset import PreparedDataset
from catdog.tracking import store

DIGEST_LENGTH = 36
"""MLflow's limit for the digest of a data set."""

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


def dataset_inputs(dataset: PreparedDataset) -> list[list[Any]]:
    """Each split as `mlflow.log_input` would log it: [context, data set]."""
    from mlflow.data.pandas_dataset import from_pandas

    # What a user's column holds is left as it is written: "01", or nothing.
    kinds: defaultdict[str, type] = defaultdict(lambda: str, width=int, height=int)
    rows = pd.read_csv(dataset.manifest, keep_default_na=False, dtype=kinds)
    inputs: list[list[Any]] = []
    for split in ("training", "validation"):
        name, digest = name_and_digest(dataset, split)
        with warnings.catch_warnings():
            # That integer columns can't hold missing values, and that a path is a path.
            warnings.simplefilter("ignore", UserWarning)
            logged = from_pandas(
                rows[rows["split"] == split].reset_index(drop=True),
                source=str(dataset.manifest.resolve()),
                targets="label",
                name=name,
                digest=digest,  # MLflow's own reads the first 10,000 rows only
            )
            inputs.append([split, dict(logged._to_mlflow_entity())])
    return inputs


def name_and_digest(dataset: PreparedDataset, split: str) -> tuple[str, str]:
    """By which MLflow knows a split as a data set."""
    digest = dataset.validation_digest if split == "validation" else dataset.digest
    return f"{dataset.folder.name}-{split}", digest[:DIGEST_LENGTH]
