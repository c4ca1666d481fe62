"""Time and memory of the feature pass as the number of pictures grows.

    python benchmarks/growth.py ARCHIVE [--counts 500 2000 8000 25000]

More pictures than the archive holds are made of its own by changing their bytes after the end
of the JPEG, which the cache takes for other pictures and the decoder does not notice. Each
count has a process of its own, so that the peak of memory is its own, too.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from chart import lines


@dataclass(frozen=True)
class Options:
    """What to measure."""

    archive: tyro.conf.Positional[str]
    counts: tuple[int, ...] = (500, 2000, 8000, 25000)
    count: int = 0
    picture: str = "docs/benchmark_growth.png"


def measure(archive: Path, count: int, scratch: Path) -> dict[str, float]:
    """Seconds of the feature pass and of ten epochs on `count` pictures, and the peak in MB."""
    import os

    import torch
    from torch import nn

    from catdog.models.engine import pick_engine
    from catdog.models.network import build_network
    from catdog.training.early_stopping import EarlyStopping
    from catdog.training.feature_cache import open_cache
    from catdog.training.features import FeatureBatches, extract, labels_of
    from catdog.training.loop import Loaders, fit
    from catdog.training.optim import make_optimizer, make_train_step

    pictures = _multiply(archive, count, scratch)
    network = build_network("tf_efficientnet_lite0")
    engine = pick_engine(network, cores=os.cpu_count() or 1)
    cache = open_cache(scratch, network)
    before = _peak_mb()
    start = time.perf_counter()
    features, _ = extract(pictures, network, engine, cache)
    passed = time.perf_counter()
    held_back = count // 5
    train = FeatureBatches(features[:, held_back:], pictures[held_back:], batch_size=32, seed=0)
    val = [(torch.from_numpy(features[0, :held_back]), labels_of(pictures[:held_back]))]
    optimizer = make_optimizer((network.head, 0.002), weight_decay=0.01)
    fit(
        network.head,
        Loaders(train, val),
        make_train_step(network.head, optimizer, nn.BCEWithLogitsLoss()),
        epochs=range(1, 11),
        stopping=EarlyStopping(10),
        on_epoch=lambda _: None,
    )
    trained = time.perf_counter()
    return {
        "features": passed - start,
        "epochs": trained - passed,
        "before_mb": before,
        "peak_mb": _peak_mb(),
    }


def _multiply(archive: Path, count: int, scratch: Path) -> list:
    from catdog.data.archive import members
    from catdog.data.dataset import Picture

    made = []
    folder = scratch / "pictures"
    folder.mkdir()
    while len(made) < count:
        for name, content in members(archive):
            if "cat." not in name and "dog." not in name:
                continue
            changed = content + f"{len(made)}".encode()
            path = folder / f"{len(made)}.jpg"
            path.write_bytes(changed)
            label = int("dog." in name)
            made.append(Picture(path, label, hashlib.sha256(changed).hexdigest()))
            if len(made) == count:
                break
    # In turns, so that both classes stand on both sides.
    return sorted(made, key=lambda picture: picture.sha256)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(options: Options) -> None:
    """Measure every count and print a table."""
    if options.count:
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(Path(options.archive), options.count, Path(scratch))
        print(json.dumps(found))
        return
    print("| pictures | feature pass, s | pictures/s | ten epochs, s | peak memory, MB |")
    print("|---|---|---|---|---|")
    passes, peaks = [], []
    for count in options.counts:
        command = [sys.executable, __file__, options.archive, "--count", str(count)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(ended.stdout.splitlines()[-1])
        print(
            f"| {count:,} | {found['features']:.1f} | {count / found['features']:.0f} "
            f"| {found['epochs']:.2f} | {found['peak_mb']:.0f} |",
            flush=True,
        )
        passes.append(found["features"])
        peaks.append(found["peak_mb"] / 10)
    lines(
        list(options.counts),
        {"feature pass, seconds": passes, "peak memory, units of 10 MB": peaks},
        Path(options.picture),
        title="Growth",
        unit="seconds; 10 MB",
    )


if __name__ == "__main__":
    main(tyro.cli(Options, use_underscores=True))
