"""The frozen job and fine-tuning on a GPU, each against its limit; fine-tuning against timm, too.

    python benchmarks/gpu.py ARCHIVE [--count 8192] [--batch 128] [--device cuda]

The frozen job is the feature pass over pictures that are decoded before, then ten epochs of the
head. Its limit is the backbone's forward pass on one batch that stays on the device.

Fine-tuning trains all of the network, for one epoch to warm up and then `timed_epochs` whole
ones. catdog does what its pipeline does, with a schedule and the gradient clipped; timm is put
together as its training script does: the loader with the fast prefetcher and a worker for each
core, its optimizer, cuDNN's search for the fastest kernels. The limit is forward and backward
on one batch that stays on the device. All have the same model, batch and precision (bfloat16 on
a GPU, float32 on a CPU), BatchNorm that keeps its statistics, and a process each. Decoding is
in timm's figure, whose loader does it in each epoch; catdog does it once before, for which a
line below the table gives the seconds. On a CPU this only shows that the script runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm.data
import torch
import tyro
from chart import bars
from growth import _multiply
from timm.optim import create_optimizer_v2
from torch import nn

from catdog import CLASSES
from catdog.config import Device
from catdog.data.dataset import Picture
from catdog.models.device import pick_device
from catdog.models.engine import Engine, Features, pick_engine
from catdog.models.network import Network, build_network
from catdog.training.features import as_batches
from catdog.training.loop import (
    EarlyStopping,
    autocast,
    fit,
    make_optimizer,
    make_train_step,
    train_epoch,
    warmup_and_cosine,
)
from catdog.training.pixels import PixelBatches, Pixels, decode_all
from catdog.training.stages import CLIP_NORM

BACKBONE = "tf_efficientnet_lite0"
RATE, DECAY = 1e-4, 0.01
COMPILED, LIST = ", torch.compile", "pictures.json"
CORES = os.cpu_count() or 1
FROZEN, LIMIT = "frozen job", "limit: forward + backward alone"
PASS, EPOCHS = "feature pass (catdog)", "ten epochs of the head (catdog)"
BOTH = "frozen job, both (catdog)"


@dataclass(frozen=True)
class Options:
    """What to measure; a contestant's own process is told its name and the pictures' folder."""

    archive: tyro.conf.Positional[str]
    count: int = 8192
    batch: int = 128
    timed_epochs: int = 3
    device: Device = "cuda"
    compiled: bool = True
    contestant: str = "all"
    folder: str = ""
    picture: str = "docs/benchmark_gpu.png"

    @property
    def torch_device(self) -> torch.device:
        """Where to compute."""
        return torch.device(self.device)

    def whole_batches(self) -> Options:
        """The same with at least two batches, and no picture beyond the last whole one."""
        batch = min(self.batch, max(1, self.count // 2))
        return replace(self, batch=batch, count=self.count // batch * batch)


def frozen_job(options: Options) -> dict[str, float]:
    """Seconds of the feature pass and of ten epochs, and of the limit of the feature pass."""
    network = build_network(BACKBONE).to(options.torch_device).eval()
    pictures = _pictures(options)
    pixels = decode_all(pictures, network.preprocessing, Path(options.folder))
    engine = pick_engine(network, lambda text: print(text, file=sys.stderr), cores=CORES)
    _compute(engine, pixels[: 4 * engine.batch])
    features: list[Features] = []
    return {
        PASS: _seconds(lambda: features.append(_compute(engine, pixels))),
        EPOCHS: _seconds(lambda: _ten_epochs(pictures, network, features[0], options)),
        "limit of the pass: forward alone": _forward_limit(options, network, pixels),
    }


def catdog(options: Options) -> dict[str, float]:
    """Speed of fine-tuning as catdog's pipeline does it."""
    network = build_network(BACKBONE).to(options.torch_device)
    network.unfreeze("all")
    pictures, wanted = _pictures(options), network.preprocessing
    stored = replace(wanted, crop_px=wanted.resize_px)  # with the margin that augmenting needs
    batches = PixelBatches(
        decode_all(pictures, stored, Path(options.folder)),
        torch.tensor([picture.label for picture in pictures]),
        options.torch_device,
        crop_px=wanted.crop_px,
        batch_size=options.batch,
        seed=0,
    )
    optimizer = make_optimizer((network.head, RATE), (network.backbone, RATE), weight_decay=DECAY)
    steps = len(batches) * (1 + options.timed_epochs)
    step = make_train_step(
        network,
        optimizer,
        nn.BCEWithLogitsLoss(),
        schedule=warmup_and_cosine(optimizer, steps=steps, warmup=steps // 10),
        clip_norm=CLIP_NORM,
    )
    if options.compiled:
        network.compile()
    return _after_one(lambda: train_epoch(network, batches, step), options)


def timm_script(options: Options) -> dict[str, float]:
    """Speed of fine-tuning by a loop of timm's own parts."""
    torch.backends.cudnn.benchmark = True
    model, network = _bare_model(options)
    loader = _timm_loader(options, network)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=DECAY)
    loss_fn = nn.BCEWithLogitsLoss()

    def epoch() -> None:
        for images, labels in loader:
            with autocast(images.device):
                logits = model(images.contiguous(memory_format=torch.channels_last))
                loss = loss_fn(logits, labels.to(logits.dtype))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return _after_one(epoch, options)


def limit(options: Options) -> dict[str, float]:
    """Speed of forward and backward over one batch that is on the device already."""
    torch.backends.cudnn.benchmark = True
    model, network = _bare_model(options)
    size = network.preprocessing.crop_px
    images = torch.rand(options.batch, 3, size, size, device=options.torch_device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.ones(options.batch, device=images.device)
    loss_fn = nn.BCEWithLogitsLoss()

    def epoch() -> None:
        for _ in range(options.count // options.batch):
            with autocast(images.device):
                loss = loss_fn(model(images).float(), labels)
            loss.backward()
            model.zero_grad(set_to_none=True)

    return _after_one(epoch, options)


FINETUNING: dict[str, Callable[[Options], dict[str, float]]] = {
    "catdog": catdog,
    "timm's parts": timm_script,
    LIMIT: limit,
}


def main(options: Options) -> None:
    """Measure all contestants one after the other, and print two tables."""
    if options.contestant != "all":
        print(json.dumps(({FROZEN: frozen_job} | FINETUNING)[options.contestant](options)))
        return
    device, device_name = pick_device(options.device)  # a missing one is better told now
    options = replace(options.whole_batches(), device=device.type)
    print(f"{device_name}, {CORES} cores, PyTorch {torch.__version__}\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        decoding = _make_pictures(options, folder)
        _print_frozen(_measure(FROZEN, folder, options), options)
        speeds = _speeds(folder, options)
    _print_finetuning(speeds, decoding, options)
    title = f"Fine-tuning {BACKBONE}, batch of {options.batch}"
    unit = f"pictures a second; {device_name}, {CORES} cores"
    bars(speeds, Path(options.picture), title=title, unit=unit)


def _speeds(folder: Path, options: Options) -> dict[str, float]:
    """Pictures a second of each way of fine-tuning, without and with torch.compile."""
    variants = {"": False, COMPILED: True} if options.compiled else {"": False}
    speeds = {}
    for name in FINETUNING:
        for suffix, compiled in variants.items():
            found = _measure(name, folder, replace(options, compiled=compiled))
            speeds[name + suffix] = found["speed"]
            print(f"{name}{suffix} is measured", file=sys.stderr, flush=True)
    return speeds


def _make_pictures(options: Options, folder: Path) -> float:
    """Write pictures, their list, and links to them in a folder for each class; decode all.

    Returns:
        Seconds of decoding for fine-tuning.
    """
    pictures = _multiply(Path(options.archive), options.count, folder)
    listed = [(str(picture.path), picture.label, picture.sha256) for picture in pictures]
    (folder / LIST).write_text(json.dumps(listed))
    for picture in pictures:
        link = folder / "classes" / CLASSES[picture.label] / picture.path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(picture.path)
    wanted = build_network(BACKBONE, weights="none").preprocessing
    decode_all(pictures, wanted, folder)
    start = time.perf_counter()
    decode_all(pictures, replace(wanted, crop_px=wanted.resize_px), folder)
    return time.perf_counter() - start


def _pictures(options: Options) -> list[Picture]:
    listed = json.loads(Path(options.folder, LIST).read_text(encoding="utf-8"))
    return [Picture(Path(path), label, sha256) for path, label, sha256 in listed]


def _measure(name: str, folder: Path, options: Options) -> dict[str, float]:
    command = [
        *(sys.executable, __file__, options.archive, "--contestant", name),
        *("--folder", str(folder), "--device", options.device, "--count", str(options.count)),
        *("--batch", str(options.batch), "--timed_epochs", str(options.timed_epochs)),
        "--compiled" if options.compiled else "--no_compiled",
    ]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


def _compute(engine: Engine, pixels: Pixels) -> Features:
    """The features of pictures `(N, 3, S, S) uint8`, by as many threads as the engine takes."""

    def chunk(start: int) -> Features:
        return engine.compute(torch.from_numpy(np.array(pixels[start : start + engine.batch])))

    with ThreadPoolExecutor(engine.callers) as pool:
        return np.concatenate(list(pool.map(chunk, range(0, len(pixels), engine.batch))))


def _ten_epochs(
    pictures: list[Picture], network: Network, features: Features, options: Options
) -> None:
    views, device, held_back = features[None], options.torch_device, len(features) // 5
    train, val = pictures[held_back:], pictures[:held_back]
    fit(
        network.head,
        as_batches(views[:, held_back:], train, device, batch_size=32, seed=0),
        as_batches(views[:, :held_back], val, device, batch_size=4096, seed=None),
        optimizer=make_optimizer((network.head, 0.002), weight_decay=DECAY),
        epochs=10,
        stopping=EarlyStopping(10),
    )


def _forward_limit(options: Options, network: Network, pixels: Pixels) -> float:
    """Seconds of as many forward passes of one batch that stays on the device."""
    torch.backends.cudnn.benchmark = True
    images = torch.from_numpy(np.array(pixels[: options.batch])).to(options.torch_device)

    def forward() -> None:
        with torch.inference_mode(), autocast(images.device):
            for _ in range(len(pixels) // options.batch):
                network.features(images)

    forward()
    return _seconds(forward)


def _bare_model(options: Options) -> tuple[nn.Module, Network]:
    """Normalised pictures to logits with every weight learning, and the network it is of."""
    network = build_network(BACKBONE).to(options.torch_device)
    network.unfreeze("all")
    model = nn.Sequential(network.backbone, network.head)
    if options.compiled:
        model.compile()
    return model, network


def _timm_loader(options: Options, network: Network) -> timm.data.loader.PrefetchLoader:
    wanted = timm.data.resolve_data_config({}, model=network.backbone)
    return timm.data.create_loader(
        timm.data.create_dataset("", root=str(Path(options.folder) / "classes"), is_training=True),
        batch_size=options.batch,
        is_training=True,
        # catdog's augmentation in timm's terms; its own is stronger and takes longer.
        scale=(0.7, 1.0),
        ratio=(3 / 4, 4 / 3),
        color_jitter=0.2,
        **{name: wanted[name] for name in ("input_size", "interpolation", "mean", "std")},
        num_workers=CORES,
        pin_memory=options.torch_device.type == "cuda",
        device=options.torch_device,
        use_prefetcher=True,
    )


def _after_one(epoch: Callable[[], object], options: Options) -> dict[str, float]:
    """Pictures a second in the timed epochs, after one to warm up."""
    epoch()
    seconds = _seconds(lambda: [epoch() for _ in range(options.timed_epochs)])
    return {"speed": options.timed_epochs * options.count / seconds}


def _seconds(work: Callable[[], object]) -> float:
    synchronize = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def _print_frozen(found: dict[str, float], options: Options) -> None:
    print(f"| frozen, {options.count:,} decoded pictures | seconds | pictures/s |")
    print("|---|---|---|")
    for name, seconds in (found | {BOTH: found[PASS] + found[EPOCHS]}).items():
        print(f"| {name} | {seconds:.2f} | {options.count / seconds:.0f} |")
    print(flush=True)


def _print_finetuning(speeds: dict[str, float], decoding: float, options: Options) -> None:
    print(f"| fine-tuning, batch of {options.batch} | pictures/s | of its limit |")
    print("|---|---|---|")
    for name, speed in speeds.items():
        its_limit = speeds[LIMIT + (COMPILED if name.endswith(COMPILED) else "")]
        print(f"| {name} | {speed:,.1f} | {speed / its_limit:.2f} |")
    print(f"\ncatdog decoded the pictures before, once, in {decoding:.1f} s")


if __name__ == "__main__":
    main(tyro.cli(Options, use_underscores=True))
