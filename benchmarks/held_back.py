"""How good answers are on photos that had no say in them: not in the head, not in anything after.

    python benchmarks/held_back.py ARCHIVE [--folds 5]

Every labelled photo is held back once. The head, the kept epoch, the temperature and what counts
as familiar come from the other photos alone, four fifths of which are learned from; the figures
are of all held back photos together. `neither` is measured on pictures without the animals.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from catdog.config import PrepareConfig, TrainConfig
from catdog.data.dataset import Picture
from catdog.data.images import to_tensor
from catdog.data.ood_images import neither_pictures
from catdog.data.prepare import prepare
from catdog.data.sources import Source
from catdog.data.transforms import evaluation_transform
from catdog.evaluation.calibration import expected_calibration_error, log_loss, probability
from catdog.evaluation.intervals import wilson
from catdog.inference.prediction import About
from catdog.models.engine import Features, pick_engine
from catdog.models.network import Network, build_network
from catdog.training.early_stopping import EarlyStopping
from catdog.training.feature_cache import open_cache
from catdog.training.features import FeatureBatches, FeatureSet, extract
from catdog.training.judge import judge
from catdog.training.loop import Loaders, fit, seed_everything
from catdog.training.optim import make_optimizer, make_train_step


@dataclass(frozen=True)
class Options:
    """What to measure."""

    archive: tyro.conf.Positional[str]
    folds: int = 5


@dataclass(frozen=True)
class Held:
    """What a classifier says of photos `(N,)` and of other pictures that it has never met."""

    logits: np.ndarray
    calibrated: np.ndarray
    familiarity: np.ndarray
    others: np.ndarray


def main(options: Options) -> None:
    """Hold back every photo once, and print a table."""
    network = build_network("tf_efficientnet_lite0").eval()
    features, labels, others = _features(Path(options.archive), network)
    told = {name: np.empty(len(labels)) for name in ("logits", "calibrated", "familiarity")}
    strangers = []
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=0)
    for learned, held in folds.split(features, labels):
        answer = _hold_back(network, features, labels, others, learned, held)
        for name, values in told.items():
            values[held] = getattr(answer, name)
        strangers.append(answer.others)
    _print_table(labels, told, np.concatenate(strangers))


def _features(archive: Path, network: Network) -> tuple[Features, np.ndarray, Features]:
    engine = pick_engine(network, cores=os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(Source("x", "path", archive, ""), PrepareConfig(data_dir=scratch))
        pictures = prepared.pictures("training", "validation")
        cache = open_cache(Path(scratch), network)
        features, _ = extract(pictures, network, engine, cache)
    transform = evaluation_transform(network.preprocessing)
    shown = [transform(to_tensor(content)) for _, content in neither_pictures()]
    others = engine.compute(torch.stack(shown))
    return features[0], np.array([picture.label for picture in pictures]), others


def _hold_back(
    network: Network,
    features: Features,
    labels: np.ndarray,
    others: Features,
    learned: np.ndarray,
    held: np.ndarray,
) -> Held:
    inner = StratifiedKFold(5, shuffle=True, random_state=1)
    train, val = next(inner.split(features[learned], labels[learned]))
    train, val = learned[train], learned[val]
    _train_head(network, features, labels, train, val)
    engine = pick_engine(network, cores=1)
    seen = FeatureSet(engine, features[train][None], features[val], others)
    about = About("tf_efficientnet_lite0", "", "", 0, 0.0)
    classifier, judgement = judge(
        network, seen, labels[val], about, keep=TrainConfig.keep_share, learned=()
    )
    told = classifier.head(torch.from_numpy(features[held]))
    logits, familiarity = (column.numpy() for column in told)
    return Held(
        logits,
        logits / classifier.about.temperature,
        familiarity,
        judgement.neither,
    )


def _train_head(
    network: Network, features: Features, labels: np.ndarray, train: np.ndarray, val: np.ndarray
) -> None:
    config = TrainConfig()
    seed_everything(config.seed)
    network.head.linear.reset_parameters()

    pictures = [Picture(Path(), int(label), "") for label in labels[train]]
    learned = FeatureBatches(
        features[train][None], pictures, batch_size=config.batch_size, seed=config.seed
    )
    judged = [(torch.from_numpy(features[val]), torch.from_numpy(labels[val]))]
    optimizer = make_optimizer(
        (network.head, config.learning_rate), weight_decay=config.weight_decay
    )
    fit(
        network.head,
        Loaders(learned, judged),
        make_train_step(network.head, optimizer, torch.nn.BCEWithLogitsLoss()),
        epochs=range(1, config.epochs + 1),
        stopping=EarlyStopping(config.patience),
        on_epoch=lambda _: None,
    )


def _print_table(labels: np.ndarray, told: dict[str, np.ndarray], strangers: np.ndarray) -> None:
    right = (told["logits"] > 0) == labels
    low, high = wilson(int(right.sum()), len(right))
    known = np.repeat([1, 0], [len(labels), len(strangers)])
    auroc = roc_auc_score(known, np.append(told["familiarity"], strangers))
    print(f"| {len(labels):,} photos, each held back once | as trained | calibrated |")
    print("|---|---|---|")
    print(f"| accuracy (95 %: {low:.4f} to {high:.4f}) | {right.mean():.4f} | {right.mean():.4f} |")
    for name, measure in (("log-loss, nats", log_loss), ("calibration error", _error)):
        before, after = measure(labels, told["logits"]), measure(labels, told["calibrated"])
        print(f"| {name} | {before:.4f} | {after:.4f} |")
    limit = 1 - TrainConfig.keep_share
    print(f"\nROC AUC of familiarity against pictures that are neither: {auroc:.4f}")
    print(f"Called neither: {np.mean(strangers < limit):.1%} of those pictures, ", end="")
    print(f"{np.mean(told['familiarity'] < limit):.1%} of the held back photos")


def _error(labels: np.ndarray, logits: np.ndarray) -> float:
    return expected_calibration_error(labels, probability(logits))


if __name__ == "__main__":
    main(tyro.cli(Options, use_underscores=True))
