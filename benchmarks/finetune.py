"""What each part of a recipe for fine-tuning adds to the accuracy and the log-loss.

    python -m benchmarks.finetune ARCHIVE [--count 320] [--held_back 400] [--unfreeze 2]

For each seed the head is trained on `count` photos of its own, as the pipeline does, and then
fine-tuned with its recipe and with others that differ in one thing; what is held back is the same
for all. The stages that stay frozen are computed once for each picture, view and augmentation.
The log-loss is that after the last epoch, not calibrated; `against` is the mean over the seeds of
the difference to the pipeline's recipe, and the standard error of that mean.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch
import tyro
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from catdog.config import PrepareConfig, TrainConfig
from catdog.data.dataset import TRAINING, VALIDATION, Picture
from catdog.data.loaders import shuffled_batches
from catdog.data.prepare import prepare
from catdog.data.sources import Source
from catdog.data.transforms import augmented, evaluation_transform, training_transform
from catdog.evaluation.metrics import score
from catdog.models.engine import Engine, Portable, openvino_engine, to_onnx
from catdog.models.network import Network, build_network
from catdog.parallel import cores
from catdog.training.early_stopping import EarlyStopping
from catdog.training.features import FeatureBatches, labels_of, read_picture
from catdog.training.loop import Loaders, fit, predict, seed_everything
from catdog.training.optim import make_optimizer, make_train_step, warmup_and_cosine
from catdog.training.stages import CLIP_NORM

FROZEN_STAGES = 5
"""Of the seven of tf_efficientnet_lite0; with --unfreeze 1 or 2 these learn nothing."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    archive: tyro.conf.Positional[str]
    count: int = 320
    held_back: int = 400
    seeds: int = 3
    epochs: int = 3
    unfreeze: str = "2"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to fine-tune; the pipeline's way, but for what is given."""

    mild: bool = False
    cosine: bool = True
    layer_decay: float | None = None
    smoothing: float = 0.0


RECIPES = {
    "the pipeline's": Recipe(),
    "no warm-up, no cosine": Recipe(cosine=False),
    "layer decay 0.75": Recipe(layer_decay=0.75),
    "label smoothing 0.1": Recipe(smoothing=0.1),
    "the mild augmentation of further views": Recipe(mild=True),
}

EMA = (0.9, 0.98)
"""Decays of averages that are taken beside the first recipe; there are some thirty steps."""

CONFIG = TrainConfig()


class LastStages(nn.Module):
    """From what the frozen stages give, `(N, C, H, W)`, to the logits `(N,)`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def features(self, maps: Tensor) -> Tensor:
        """The same maps → features `(N, D)`."""
        backbone = self.network.backbone
        maps = backbone.blocks[FROZEN_STAGES:](maps)
        return backbone.forward_head(backbone.bn2(backbone.conv_head(maps)))

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        return self.network.head(self.features(maps))


class FirstStages(nn.Module):
    """From pictures `(N, 3, S, S) uint8` to what the frozen stages give."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        backbone = self.network.backbone
        maps = backbone.bn1(backbone.conv_stem(self.network.normalised(images)))
        return backbone.blocks[:FROZEN_STAGES](maps)


def engine_of(network: Network) -> Engine:
    """OpenVINO for the stages that stay frozen."""
    side = network.preprocessing.crop_px
    onnx = to_onnx(FirstStages(network).eval(), side, ["features"])
    return openvino_engine(Portable(onnx, np.empty(0, np.float32), side), cores=cores())


def computed(engine: Engine, looks: Iterable[Tensor]) -> Tensor:
    """What the frozen stages give of pictures `(3, S, S) uint8`."""
    maps = [torch.from_numpy(engine.compute(look[None])) for look in looks]
    return torch.cat(maps).contiguous(memory_format=torch.channels_last)


class Views:
    """Training pictures as an augmentation shows them in each epoch, behind the frozen stages."""

    def __init__(
        self, pictures: list[Picture], network: Network, engine: Engine, mild: bool, seed: int
    ) -> None:
        self._labels, self._seed = labels_of(pictures), seed
        wanted, images = network.preprocessing, [read_picture(picture) for picture in pictures]
        look = training_transform(wanted)

        def shown(epoch: int) -> Iterator[Tensor]:
            for place, image in enumerate(images):
                rng = Random(f"{seed}/{epoch}/{place}")
                torch.manual_seed(rng.getrandbits(62))
                yield augmented(image, wanted, rng) if mild else look(image)

        self._maps = [computed(engine, shown(epoch)) for epoch in range(1, OPTIONS.epochs + 1)]

    def __len__(self) -> int:
        return math.ceil(len(self._labels) / CONFIG.batch_size)

    def epoch(self, number: int) -> list[tuple[Tensor, Tensor, float]]:
        """The batches of an epoch, which count from 1."""
        batches = shuffled_batches(
            len(self._labels), CONFIG.batch_size, seed=self._seed, epoch=number
        )
        return [(self._maps[number - 1][places], self._labels[places], 1.0) for places in batches]


class SmoothedLoss(nn.BCEWithLogitsLoss):
    """The loss of labels that are a little less sure."""

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return super().forward(logits, labels * (1 - self.smoothing) + self.smoothing / 2)


def optimizer_of(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW as the recipe has it."""
    parts = (network.head, CONFIG.learning_rate), (network.backbone, CONFIG.finetune_rate)
    optimizer = make_optimizer(*parts, weight_decay=CONFIG.weight_decay)
    if recipe.layer_decay is None:
        return optimizer
    groups = param_groups_layer_decay(
        network.backbone, CONFIG.weight_decay, layer_decay=recipe.layer_decay
    )
    for group in groups:
        group["lr"] = CONFIG.finetune_rate * group.pop("lr_scale")
    head = [group for group in optimizer.param_groups if group["lr"] == CONFIG.learning_rate]
    return torch.optim.AdamW(head + groups)


def finetuned(network: Network, views: Views, recipe: Recipe) -> dict[str, nn.Module]:
    """A copy of the network that has learned by the recipe, and averages of its weights."""
    network = copy.deepcopy(network)
    network.unfreeze(OPTIONS.unfreeze)
    model = LastStages(network)
    averages = {
        f"EMA {decay}": AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        for decay in (EMA if recipe == Recipe() else ())
    }
    optimizer = optimizer_of(network, recipe)
    steps = len(views) * OPTIONS.epochs
    schedule = warmup_and_cosine(optimizer, steps=steps, warmup=steps // 10)
    step = make_train_step(
        model,
        optimizer,
        SmoothedLoss(recipe.smoothing),
        schedule=schedule if recipe.cosine else None,
        clip_norm=CLIP_NORM,
    )
    for number in range(1, OPTIONS.epochs + 1):
        model.train()
        for inputs, labels, _ in views.epoch(number):
            step(inputs, labels)
            for average in averages.values():
                average.update_parameters(model)
    return {"": model, **{name: average.module for name, average in averages.items()}}


def train_head(
    network: Network, train: list[Picture], maps: Tensor, judged: list[tuple[Tensor, Tensor]]
) -> None:
    """Train the head on what the frozen stages give, as the pipeline does."""
    with torch.no_grad():
        of_train, of_val = (
            torch.cat([LastStages(network).features(batch) for batch in batches])
            for batches in (maps.split(64), [batch for batch, _ in judged])
        )
    labels = torch.cat([labels for _, labels in judged])
    size = CONFIG.batch_size
    batches = FeatureBatches(of_train[None].numpy(), train, batch_size=size, seed=CONFIG.seed)
    optimizer = make_optimizer(
        (network.head, CONFIG.learning_rate), weight_decay=CONFIG.weight_decay
    )
    fit(
        network.head,
        Loaders(batches, [(of_val, labels)]),
        make_train_step(network.head, optimizer, nn.BCEWithLogitsLoss()),
        epochs=range(1, CONFIG.epochs + 1),
        stopping=EarlyStopping(CONFIG.patience),
        on_epoch=lambda _epoch: None,
    )


def measure(pictures: list[Picture]) -> dict[str, list[tuple[float, float]]]:
    """Accuracy and log-loss of each seed, by recipe."""
    order = np.random.default_rng(0).permutation(len(pictures))
    shuffled = [pictures[place] for place in order]
    val, rest = shuffled[: OPTIONS.held_back], shuffled[OPTIONS.held_back :]
    found: dict[str, list[tuple[float, float]]] = {}
    judged: list[tuple[Tensor, Tensor]] = []

    def judge(name: str, model: nn.Module) -> None:
        scores = score(*predict(model, judged))
        found.setdefault(name, []).append((scores.accuracy, scores.loss))
        print(f"  seed {seed}, {name}: {scores.accuracy:.4f} {scores.loss:.4f}", flush=True)

    for seed in range(OPTIONS.seeds):
        seed_everything(seed)
        network = build_network(CONFIG.backbone).eval()
        engine = engine_of(network)
        train = [rest[place] for place in np.random.default_rng(seed).permutation(len(rest))]
        train = train[: OPTIONS.count]
        if not judged:
            maps, labels = behind(network, engine, val), labels_of(val)
            judged = list(zip(maps.split(64), labels.split(64), strict=True))
        train_head(network, train, behind(network, engine, train), judged)
        judge("the head alone", LastStages(network))
        shown = {
            mild: Views(train, network, engine, mild, seed)
            for mild in {recipe.mild for recipe in RECIPES.values()}
        }
        for name, recipe in RECIPES.items():
            models = finetuned(network, shown[recipe.mild], recipe)
            judge(name, models.pop(""))
            for average, model in models.items():
                judge(average, model)
    return found


def behind(network: Network, engine: Engine, pictures: list[Picture]) -> Tensor:
    """What the frozen stages give of pictures as evaluation sees them."""
    plain = evaluation_transform(network.preprocessing)
    return computed(engine, (plain(read_picture(picture)) for picture in pictures))


def main() -> None:
    """Measure every recipe and print a table."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Source("x", "path", Path(OPTIONS.archive), "")
        prepared = prepare(source, PrepareConfig(data_dir=scratch))
        found = measure(prepared.pictures(TRAINING, VALIDATION))
    print(f"| {OPTIONS.count} photos, {OPTIONS.seeds} seeds, unfreeze={OPTIONS.unfreeze}, "
          f"{OPTIONS.epochs} epochs | accuracy | log-loss | against |")  # fmt: skip
    print("|---|---|---|---|")
    base = np.array(found["the pipeline's"])[:, 1]
    for name, rows in found.items():
        accuracy, loss = np.array(rows).T
        apart = loss - base
        error = apart.std(ddof=1) / len(apart) ** 0.5
        print(f"| {name} | {accuracy.mean():.4f} | {loss.mean():.4f} "
              f"| {apart.mean():+.4f} ± {error:.4f} |")  # fmt: skip


if __name__ == "__main__":
    OPTIONS = tyro.cli(Options, use_underscores=True)
    main()
