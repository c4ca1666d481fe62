"""What `benchmarks/gpu.py` measures with: pictures, networks, and three ways to fine-tune one.

timm's own training script is no part of its wheel: `timm_epoch` puts together what it is made of,
the loader with the fast prefetcher and a worker for each core, its optimizer, cuDNN's search.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm.data
import torch
import tyro
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from catdog import CLASSES
from catdog.config import PrepareConfig, TrainConfig
from catdog.data.dataset import TRAINING, PreparedDataset
from catdog.data.loaders import LabelledFolder, PictureBatches
from catdog.data.prepare import prepare
from catdog.data.sources import Source
from catdog.data.transforms import evaluation_transform
from catdog.models.backbone import PACKAGED
from catdog.models.device import mixed_precision
from catdog.models.network import Network, build_network
from catdog.sample.dataset import draw_sample
from catdog.training.features import read_picture
from catdog.training.loop import seed_everything, train_epoch
from catdog.training.optim import TrainStep, make_optimizer, make_train_step, warmup_and_cosine
from catdog.training.stages import CLIP_NORM

CORES = os.cpu_count() or 1
RATE, DECAY = 1e-4, 0.01


@dataclass(frozen=True)
class Options:
    """What to measure, on `count` pictures, or on `few` where no speed is.

    `folder` and `cut_in` are for the processes of part 7.
    """

    archive: tyro.conf.Positional[str] = "sample"
    count: int = 8192
    few: int = 320
    batch: int = 128
    device: str = "cuda"
    backbones: tuple[str, ...] = (PACKAGED, "resnet18", "vit_base_patch16_224")
    only: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
    folder: str = ""
    cut_in: int = 0


@dataclass(frozen=True)
class Bench:
    """Where to compute, and on which pictures: few of them, and many."""

    device: torch.device
    folder: Path
    few: PreparedDataset
    many: PreparedDataset
    options: Options

    def network(self, backbone: str = PACKAGED) -> Network:
        """A new one on the device, with random weights but for the packaged backbone's."""
        seed_everything(0)
        weights = "pretrained" if backbone == PACKAGED else "none"
        return build_network(backbone, weights=weights).to(self.device).eval()

    def config(self, **values: object) -> TrainConfig:
        """Parameters of a training on the few pictures."""
        return TrainConfig(data_dir=str(self.folder), device=self.device.type, **values)  # type: ignore[arg-type]

    def seconds(self, work: Callable[[], object]) -> float:
        """How long it takes, until the device has done it."""
        synchronize = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        return time.perf_counter() - start


def prepared(options: Options, scratch: Path) -> tuple[PreparedDataset, PreparedDataset]:
    """Prepared data sets of the few and of the many pictures, copies of the archive's."""
    archive = Path(options.archive)
    if options.archive == "sample":
        archive = draw_sample(scratch / "sample", seed=0)
    config = PrepareConfig(data_dir=str(scratch))
    known = prepare(Source("archive", "path", archive, ""), config).pictures(TRAINING)
    made = []
    for name, count in (("few", options.few), ("many", options.count)):
        folder = scratch / f"source-{name}"
        folder.mkdir()
        for label, kind in enumerate(CLASSES):
            of_kind = itertools.cycle(one.path for one in known if one.label == label)
            for number in range(count // 2):
                content = next(of_kind).read_bytes() + str(number).encode()
                (folder / f"{kind}.{number}.jpg").write_bytes(content)
        made.append(prepare(Source(name, "path", folder, ""), config))
    return made[0], made[1]


def photos(bench: Bench, network: Network, count: int) -> Tensor:
    """Some of the few pictures as the network sees them, `(count, 3, S, S) uint8`, on the CPU."""
    look = evaluation_transform(network.preprocessing)
    pictures = itertools.islice(itertools.cycle(bench.few.pictures(TRAINING)), count)
    return torch.stack([look(read_picture(picture)) for picture in pictures])


def forward_speed(bench: Bench, network: Network, images: Tensor, half: bool) -> float:
    """Pictures a second of one batch that stays on the device."""
    there, rounds = images.to(bench.device), 30 if bench.device.type == "cuda" else 1

    def forward() -> None:
        precision = mixed_precision(bench.device) if half else contextlib.nullcontext()
        with torch.inference_mode(), precision:
            for _ in range(rounds):
                network.features(there)

    forward()
    return rounds * len(images) / bench.seconds(forward)


def step_of(network: Network, model: nn.Module | None = None, **options: int) -> TrainStep:
    """An optimizer step of fine-tuning; `model` is the network, or what is wrapped around it."""
    optimizer = make_optimizer((network.head, RATE), (network.backbone, RATE), weight_decay=DECAY)
    schedule = warmup_and_cosine(optimizer, steps=1000, warmup=100)
    loss_fn, limits = nn.BCEWithLogitsLoss(), {"schedule": schedule, "clip_norm": CLIP_NORM}
    return make_train_step(model or network, optimizer, loss_fn, **limits, **options)


def to_finetune(bench: Bench, backbone: str, count: int) -> tuple[Network, Tensor, Tensor]:
    """A network of which all weights learn, and a batch for it on its device."""
    network = bench.network(backbone)
    network.unfreeze("all")
    labels = torch.arange(count, device=bench.device) % 2
    return network, photos(bench, network, count).to(bench.device), labels


def catdog_epoch(bench: Bench, backbone: str) -> Callable[[], object]:
    """Fine-tune for an epoch of the many pictures as the pipeline does."""
    network = bench.network(backbone)
    network.unfreeze("all")
    batches = PictureBatches(
        LabelledFolder(bench.many.training, classes=CLASSES),
        network.preprocessing,
        batch_size=bench.options.batch,
        seed=0,
        device=bench.device,
    )
    step, numbers = step_of(network), itertools.count(1)
    return lambda: train_epoch(network, batches.epoch(next(numbers)), step)


def timm_epoch(bench: Bench, backbone: str) -> Callable[[], object]:
    """Fine-tune for an epoch of the many pictures as timm's script does."""
    network = bench.network(backbone)
    network.unfreeze("all")
    model = nn.Sequential(network.backbone, network.head)
    wanted = timm.data.resolve_data_config({}, model=network.backbone)
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(bench.many.training), is_training=True),
        batch_size=bench.options.batch,
        is_training=True,
        # catdog's augmentation in timm's terms.
        scale=(0.7, 1.0),
        ratio=(3 / 4, 4 / 3),
        color_jitter=0.2,
        **{name: wanted[name] for name in ("input_size", "interpolation", "mean", "std")},
        num_workers=CORES if bench.device.type == "cuda" else 0,
        pin_memory=bench.device.type == "cuda",
        device=bench.device,
        use_prefetcher=True,
    )
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=DECAY)
    loss_fn = nn.BCEWithLogitsLoss()

    def epoch() -> None:
        torch.backends.cudnn.benchmark = True
        for images, labels in loader:
            with mixed_precision(bench.device):
                logits = model(images.contiguous(memory_format=torch.channels_last))
            loss = loss_fn(logits.float(), labels.float())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()  # which timm's script logs
        torch.backends.cudnn.benchmark = False

    return epoch


def learning_limit(bench: Bench, backbone: str) -> float:
    """Pictures a second of forward and backward over one batch that stays on the device."""
    network, images, labels = to_finetune(bench, backbone, bench.options.batch)
    rounds = 20 if bench.device.type == "cuda" else 1

    def learn() -> None:
        for _ in range(rounds):
            nn.functional.binary_cross_entropy_with_logits(
                network(images), labels.float()
            ).backward()

    learn()
    return rounds * len(images) / bench.seconds(learn)


def host_waits(work: Callable[[], object]) -> int:
    """How often the host waits for the GPU, but for the end."""
    if not torch.cuda.is_initialized():
        return 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in told)
