"""The whole ten-epoch job: decode, train, evaluate and log, by four ways of doing it.

    python benchmarks/whole_job.py ARCHIVE [--epochs 10] [--measured_epochs 1]

Every contestant gets the same prepared pictures, the same backbone with the same weights,
a process of its own, and trains the same number of epochs. The loops that do the same work
in each epoch are measured for `measured_epochs` and their epoch time is multiplied; catdog
and the bare forward passes are measured whole. fastai takes part when it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro
from chart import bars

BACKBONE = "tf_efficientnet_lite0"
BATCH = 32


@dataclass(frozen=True)
class Options:
    """What to measure."""

    archive: tyro.conf.Positional[str]
    epochs: int = 10
    measured_epochs: int = 1
    contestant: str = "all"
    folder: str = ""
    picture: str = "docs/benchmark_whole_job.png"


def article(folder: Path, epochs: int) -> float:
    """The usual tutorial: every epoch decodes with Pillow and runs the backbone anew."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from catdog.models.network import build_network

    network = build_network(BACKBONE)
    model = nn.Sequential(network.backbone, nn.Linear(1280, 1)).to(
        memory_format=torch.contiguous_format
    )
    normalise = transforms.Normalize([0.5] * 3, [0.5] * 3)
    train_transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            normalise,
        ]
    )
    val_transform = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), normalise]
    )
    train = DataLoader(ImageFolder(folder / "training", train_transform), BATCH, shuffle=True)
    val = DataLoader(ImageFolder(folder / "validation", val_transform), BATCH)
    optimizer = torch.optim.Adam(model[1].parameters(), lr=1e-3)
    loss_fn = nn.BCEWithLogitsLoss()
    start = time.perf_counter()
    for _ in range(epochs):
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            loss = loss_fn(model(images).squeeze(1), labels.float())
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for images, labels in val:
                loss_fn(model(images).squeeze(1), labels.float()).item()
    return (time.perf_counter() - start) / epochs


def eager(folder: Path, epochs: int) -> float:
    """The careful loop: frozen part without gradients, channels_last, workers that decode."""
    import torch
    from torch import nn

    from catdog import CLASSES
    from catdog.data import loaders
    from catdog.data.loaders import EvaluationBatches, LabelledFolder, PictureBatches
    from catdog.data.transforms import evaluation_transform
    from catdog.models.network import build_network
    from catdog.training.loop import predict, train_epoch
    from catdog.training.optim import make_optimizer, make_train_step

    loaders.pick_workers = lambda _device: os.cpu_count() or 1
    network = build_network(BACKBONE)
    look = network.preprocessing
    shared = {"batch_size": BATCH, "device": torch.device("cpu")}
    train = PictureBatches(
        LabelledFolder(folder / "training", classes=CLASSES), look, seed=0, **shared
    )
    plain = LabelledFolder(folder / "validation", evaluation_transform(look), classes=CLASSES)
    val = EvaluationBatches(plain, **shared)
    optimizer = make_optimizer((network, 1e-3), weight_decay=0.01)
    step = make_train_step(network, optimizer, nn.BCEWithLogitsLoss())
    start = time.perf_counter()
    for number in range(1, epochs + 1):
        train_epoch(network, train.epoch(number), step)
        predict(network, val)
    return (time.perf_counter() - start) / epochs


def fastai(folder: Path, epochs: int) -> float:
    """fastai's Learner with its own data blocks, the body frozen."""
    from fastai.vision.all import (
        BCEWithLogitsLossFlat,
        CategoryBlock,
        DataBlock,
        ImageBlock,
        Learner,
        RandomResizedCrop,
        aug_transforms,
        get_image_files,
        parent_label,
    )
    from torch import nn

    from catdog.models.network import build_network

    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=lambda _: [
            *get_image_files(folder / "training"),
            *get_image_files(folder / "validation"),
        ],
        get_y=parent_label,
        splitter=lambda items: (
            [i for i, item in enumerate(items) if "training" in item.parts],
            [i for i, item in enumerate(items) if "validation" in item.parts],
        ),
        item_tfms=RandomResizedCrop(224, min_scale=0.7),
        batch_tfms=aug_transforms(size=224),
    )
    loaders = block.dataloaders(folder, bs=BATCH, num_workers=os.cpu_count() or 1)
    backbone = build_network(BACKBONE).backbone
    model = nn.Sequential(backbone, nn.Linear(1280, 1))
    loss = BCEWithLogitsLossFlat()
    learner = Learner(
        loaders,
        model,
        loss_func=lambda out, y: loss(out, y.float()),
        splitter=lambda m: [list(m[0].parameters()), list(m[1].parameters())],
    )
    learner.freeze()
    start = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs, 1e-3)
    return (time.perf_counter() - start) / epochs


def catdog(
    folder: Path,
    epochs: int,
    *,
    cache: Path | None = None,
    rate: float = 0.002,
    registered: bool = False,
) -> float:
    """catdog's own pipeline, tracked in a fresh store; the cache begins empty.

    With `registered`, the model is also saved, registered, and proven to answer alike.
    """
    from catdog import pipeline
    from catdog.config import TrainConfig
    from catdog.data.dataset import load_dataset
    from catdog.tracking import store
    from catdog.tracking.run import start_run
    from catdog.training.judge import judge_as_served

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch}/mlflow.db"
        os.chdir(scratch)
        store.connect()
        config = TrainConfig(
            data_dir=str(cache or scratch), epochs=epochs, patience=epochs, learning_rate=rate
        )
        prepared = load_dataset(folder)
        with start_run("benchmark") as run:
            start = time.perf_counter()
            if registered:
                pipeline.train_and_register(config, prepared, run)
            else:
                judge_as_served(pipeline.train(config, prepared, run), prepared, config)
            seconds = time.perf_counter() - start
        os.chdir("/")
    return seconds


def catdog_again(folder: Path, epochs: int) -> float:
    """A second run of catdog on the same pictures, with another learning rate."""
    with tempfile.TemporaryDirectory() as cache:
        catdog(folder, 1, cache=Path(cache))
        return catdog(folder, epochs, cache=Path(cache), rate=0.001)


def catdog_registered(folder: Path, epochs: int) -> float:
    """The same, and the model registered and compared in a fresh process."""
    return catdog(folder, epochs, registered=True)


def onnx_forward(folder: Path, _epochs: int) -> float:
    """Nothing but ONNX Runtime's forward pass over the same pictures, decoded before."""
    return _forward(folder, "onnx_engine")


def openvino_forward(folder: Path, _epochs: int) -> float:
    """Nothing but OpenVINO's forward pass over the same pictures, decoded before."""
    return _forward(folder, "openvino_engine")


def _forward(folder: Path, make: str) -> float:
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from catdog.data.images import load
    from catdog.data.transforms import evaluation_transform
    from catdog.models import engine as engines
    from catdog.models.network import build_network

    network = build_network(BACKBONE).eval()
    plain = evaluation_transform(network.preprocessing)
    paths = sorted(
        path for split in ("training", "validation") for path in (folder / split).rglob("*.jpg")
    )
    cores = os.cpu_count() or 1
    engine = getattr(engines, make)(engines.export(network), cores=cores)
    images = torch.stack([plain(load(path)) for path in paths])
    chunks = images.split(engine.batch)
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(engine.compute, chunks[:8]))
        start = time.perf_counter()
        list(pool.map(engine.compute, chunks))
        return time.perf_counter() - start


PER_EPOCH: dict[str, Callable[[Path, int], float]] = {
    "article's loop": article,
    "fastai": fastai,
    "eager frozen loop": eager,
}
WHOLE: dict[str, Callable[[Path, int], float]] = {
    "catdog": catdog,
    "catdog, second run": catdog_again,
    "catdog, registered and proven": catdog_registered,
    "OpenVINO's forward alone": openvino_forward,
    "ONNX Runtime's forward alone": onnx_forward,
}


def main(options: Options) -> None:
    """Measure all contestants one after the other, and print a table."""
    if options.contestant != "all":
        work = (PER_EPOCH | WHOLE)[options.contestant]
        epochs = options.measured_epochs if options.contestant in PER_EPOCH else options.epochs
        print(json.dumps({"seconds": work(Path(options.folder), epochs)}))
        return
    from catdog.config import PrepareConfig
    from catdog.data.prepare import prepare
    from catdog.data.sources import Source

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        archive = Path(options.archive).resolve()
        source = Source(folder.name, "path", archive, str(archive))
        prepare(source, PrepareConfig(data_dir=scratch))
        seconds = {}
        for name in [*PER_EPOCH, *WHOLE]:
            if name == "fastai" and importlib.util.find_spec("fastai") is None:
                continue
            measured = _measure(name, folder, options)
            seconds[name] = measured * (options.epochs if name in PER_EPOCH else 1)
            print(f"{name}: {seconds[name]:.1f} s", file=sys.stderr, flush=True)
    _print_table(seconds, options)
    title = f"The whole job, {options.epochs} epochs"
    bars(seconds, Path(options.picture), title=title, unit="seconds")


def _measure(name: str, folder: Path, options: Options) -> float:
    command = [
        *(sys.executable, __file__, options.archive, "--contestant", name),
        *("--folder", str(folder), "--epochs", str(options.epochs)),
        *("--measured_epochs", str(options.measured_epochs)),
    ]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])["seconds"]


def _print_table(seconds: dict[str, float], options: Options) -> None:
    print(f"| {options.epochs} epochs | seconds | times catdog | times ONNX Runtime's forward |")
    print("|---|---|---|---|")
    for name, value in seconds.items():
        note = f" ({options.measured_epochs} measured)" if name in PER_EPOCH else ""
        ratio = value / seconds["catdog"]
        print(
            f"| {name}{note} | {value:.1f} | {ratio:.2f} | {value / seconds[list(WHOLE)[-1]]:.2f} |"
        )


if __name__ == "__main__":
    main(tyro.cli(Options, use_underscores=True))
