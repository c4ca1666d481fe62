"""The storyboard: prepared pictures → features → trained → tracked → registered."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

import catdog
from catdog import CLASSES, CatdogError, figures, parity, registry, tracking
from catdog.card import model_card
from catdog.classifier import CARD_FILE, About, Classifier, to_prediction
from catdog.config import TrainConfig
from catdog.data import (
    Batches,
    LabelledFolder,
    evaluation_transform,
    load,
    make_batches,
    pick_workers,
    training_transform,
)
from catdog.device import pick_device
from catdog.engine import Engine, Features, pick_engine
from catdog.evaluate import Scores, score
from catdog.export import export
from catdog.features import (
    FeatureCache,
    Picture,
    as_batches,
    extract,
    features_folder,
    open_cache,
)
from catdog.judgement import Judgement, Sample, judge, seen_in_training, serving_engine, spread
from catdog.model import Network, build_network
from catdog.others import neither_folder
from catdog.parity import Answer, FreshProcess, Parity
from catdog.pixels import PixelBatches, decode_all
from catdog.prepare import Prepared
from catdog.registry import Candidate, Decision
from catdog.train import (
    EarlyStopping,
    Epoch,
    Fit,
    fit,
    make_optimizer,
    make_train_step,
    seed_everything,
    warmup_and_cosine,
)

Say = Callable[[str], None]
Thing = TypeVar("Thing")

CLIP_NORM = 1.0
"""Of the gradient while fine-tuning: one odd batch shall not undo the pretraining."""

PARITY_PHOTOS = 32
"""Validation photos on which the registered version is compared with the training process."""


@dataclass(frozen=True)
class Lesson:
    """What is trained, on which batches; `baseline` is what ImageNet's classes know untrained.

    `engine` has computed the features, where it was features that were learned from.
    """

    model: nn.Module
    train_batches: Batches
    val_batches: Batches
    engine: Engine | None = None
    baseline: Scores | None = None


@dataclass(frozen=True)
class Trained:
    """What training leaves: a classifier, how good it is, and the photos that say so."""

    classifier: Classifier
    judgement: Judgement
    validation: list[Picture]
    best: Epoch


def train_and_register(config: TrainConfig, prepared: Prepared, say: Say) -> ModelVersion:
    """Train on prepared pictures within the active MLflow run, and register the best model.

    Raises:
        CatdogError: a parameter does not fit, the data has gone, or the registry refuses.
    """
    with contextlib.closing(FreshProcess(tracking.store_uri())) as fresh:
        trained = train(config, prepared, say, meanwhile=fresh.start)
        return register(config, prepared, trained, fresh, say)


def train(
    config: TrainConfig,
    prepared: Prepared,
    say: Say,
    *,
    meanwhile: Callable[[], None] = lambda: None,
) -> Trained:
    """Train on prepared pictures, judge the best model, and log all of it in the active run.

    `meanwhile` is called when what is left to do keeps only one core busy.

    Raises:
        CatdogError: a parameter does not fit, or the data has gone.
    """
    seed_everything(config.seed)
    device, device_name = pick_device(config.device)
    say(f"Device: {device_name}")
    tracking.log_params(asdict(config))
    tracking.log_environment(device_name)
    _log_data(prepared)

    network = build_network(config.backbone, weights=config.weights).to(device)
    network.blocks(config.unfreeze)  # a wrong value is better told now than after the head
    _log_pictures(network, prepared)
    prepare_lesson = _lesson_on_features if config.views else _lesson_on_pictures
    lesson = prepare_lesson(config, prepared, network, say)
    meanwhile()
    result = fit(
        lesson.model,
        lesson.train_batches,
        lesson.val_batches,
        optimizer=make_optimizer(
            (lesson.model, config.learning_rate), weight_decay=config.weight_decay
        ),
        epochs=config.epochs,
        stopping=EarlyStopping(config.patience, config.min_delta),
        on_epoch=lambda epoch: _log_epoch(epoch, say),
        watch=_progress if lesson.model is network else lambda batches, _: batches,
    )
    if config.unfreeze != "none":
        result = _finetune(config, prepared, network, result, say)
    trained = _judge(config, prepared, network, lesson, result, say)
    _log_result(result, lesson, say)
    _log_judgement(trained, prepared, say)
    return trained


def run_name(config: TrainConfig, dataset: str) -> str:
    """A name for the run that can be told from its neighbours in the MLflow UI."""
    return f"{dataset}-lr{config.learning_rate:g}-seed{config.seed}-{config.backbone}"


def _lesson_on_features(
    config: TrainConfig, prepared: Prepared, network: Network, say: Say
) -> Lesson:
    """The head alone, on features that are computed once or found in the cache."""
    start = time.perf_counter()
    engine = pick_engine(network, say, cores=os.cpu_count() or 1)
    cache = open_cache(Path(config.data_dir), network, engine)
    pictures = {split: _pictures(prepared, split) for split in ("training", "validation")}
    computed = 0
    features = {}
    for split, views in (("validation", 1), ("training", config.views)):
        features[split], new = extract(
            pictures[split], network, engine, cache, views=views, watch=_progress
        )
        computed += new
    seconds = time.perf_counter() - start
    total = len(pictures["validation"]) + config.views * len(pictures["training"])
    say(
        f"Features: {computed:,} computed by {engine.name} and {total - computed:,} found, in "
        f"{seconds:.1f} s; the cache holds {cache.bytes_used / 1e6:.0f} MB in "
        f"{features_folder(Path(config.data_dir))} (python scripts/clear_cache.py clears it)"
    )
    tracking.log_features(engine.name, computed=computed, found=total - computed, seconds=seconds)
    device = next(network.head.parameters()).device
    train, val = pictures["training"], pictures["validation"]
    return Lesson(
        model=network.head,
        train_batches=as_batches(
            features["training"], train, device, batch_size=config.batch_size, seed=config.seed
        ),
        val_batches=as_batches(features["validation"], val, device, batch_size=4096, seed=None),
        engine=engine,
        baseline=_baseline(network, features["validation"][0], val),
    )


def _lesson_on_pictures(
    config: TrainConfig, prepared: Prepared, network: Network, _say: Say
) -> Lesson:
    """The whole network, on pictures that are augmented anew in each epoch."""
    device = next(network.parameters()).device
    train = LabelledFolder(prepared.training, training_transform(network.preprocessing))
    val = LabelledFolder(prepared.validation, evaluation_transform(network.preprocessing))
    shared = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "workers": pick_workers(device),
        "pin_memory": device.type == "cuda",
    }
    return Lesson(
        model=network,
        train_batches=make_batches(train, shuffle=True, **shared),
        val_batches=make_batches(val, shuffle=False, **shared),
    )


def _finetune(
    config: TrainConfig, prepared: Prepared, network: Network, settled: Fit, say: Say
) -> Fit:
    """Train head and backbone together, from the settled head on, and keep the best of both."""
    network.unfreeze(config.unfreeze)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    say(f"Fine-tuning unfreeze={config.unfreeze}: {learning:,} weights learn")
    train, val = (
        _pixel_batches(config, prepared, network, split) for split in ("training", "validation")
    )
    optimizer = make_optimizer(
        (network.head, config.learning_rate),
        (network.backbone, config.finetune_rate),
        weight_decay=config.weight_decay,
    )
    steps = len(train) * config.finetune_epochs
    stopping = EarlyStopping(config.patience, config.min_delta, started=settled.epochs[-1].number)
    stopping.offer(settled.best.number, settled.best.val.loss, network)
    return fit(
        network,
        train,
        val,
        optimizer=optimizer,
        epochs=config.finetune_epochs,
        stopping=stopping,
        train_step=make_train_step(
            network,
            optimizer,
            nn.BCEWithLogitsLoss(),
            schedule=warmup_and_cosine(optimizer, steps=steps, warmup=steps // 10),
            clip_norm=CLIP_NORM,
            say=say,
        ),
        on_epoch=lambda epoch: _log_epoch(epoch, say),
        watch=_progress,
        before=settled.epochs,
    )


def _pixel_batches(
    config: TrainConfig, prepared: Prepared, network: Network, split: str
) -> PixelBatches:
    wanted = network.preprocessing
    learns = split == "training"
    pictures = _pictures(prepared, split)
    # What is augmented needs the margin that evaluation cuts off.
    stored = replace(wanted, crop_px=wanted.resize_px) if learns else wanted
    return PixelBatches(
        decode_all(pictures, stored, Path(config.data_dir), watch=_progress),
        torch.tensor([picture.label for picture in pictures]),
        next(network.parameters()).device,
        crop_px=wanted.crop_px,
        batch_size=config.batch_size,
        seed=config.seed if learns else None,
    )


def _pictures(prepared: Prepared, split: str) -> list[Picture]:
    return [
        Picture(prepared.folder / row["path"], CLASSES.index(row["label"]), row["sha256"])
        for row in prepared.rows(split)
    ]


def _baseline(network: Network, features: Features, pictures: list[Picture]) -> Scores | None:
    """How well the classes that the backbone learned elsewhere tell cats from dogs."""
    if network.imagenet is None:
        return None
    logits = network.imagenet.dog_logits(torch.from_numpy(features)).double().numpy()
    return score(np.array([picture.label for picture in pictures]), logits)


def _judge(
    config: TrainConfig,
    prepared: Prepared,
    network: Network,
    lesson: Lesson,
    result: Fit,
    say: Say,
) -> Trained:
    """Score the best weights as they will be served, calibrate them, and learn what is neither."""
    frozen = lesson.engine is not None and config.unfreeze == "none"
    exact = frozen and lesson.engine.precision == "float32"
    engine = lesson.engine if exact else serving_engine(network, say, cores=os.cpu_count() or 1)
    data_dir = Path(config.data_dir)
    sample = Sample(
        _pictures(prepared, "training"),
        _pictures(prepared, "validation"),
        [Picture(path, 0, _sha256(path)) for path in neither_folder(data_dir)],
    )
    about = About(
        backbone=config.backbone,
        dataset=prepared.folder.name,
        origin=prepared.origin,
        best_epoch=result.best.number,
        best_val_accuracy=result.best.val.accuracy,
    )
    with _cache(data_dir, network, engine, keep=frozen) as cache:
        classifier, judgement = judge(
            network,
            engine,
            about,
            sample,
            lambda pictures: extract(pictures, network, engine, cache, watch=_progress)[0][0],
            keep=config.keep_share,
        )
    return Trained(classifier, judgement, sample.validation, result.best)


@contextlib.contextmanager
def _cache(
    data_dir: Path, network: Network, engine: Engine, *, keep: bool
) -> Iterator[FeatureCache]:
    """The features' cache; one that goes again for a backbone that no other run will have."""
    if keep:
        yield open_cache(data_dir, network, engine)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield FeatureCache(Path(scratch))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _log_data(prepared: Prepared) -> None:
    tracking.log_data(
        prepared.manifest,
        name=prepared.folder.name,
        origin=prepared.origin,
        digests={"training": prepared.digest, "validation": prepared.validation_digest},
        drawn=prepared.drawn,
    )


def _log_pictures(network: Network, prepared: Prepared) -> None:
    """Show what the model will see: pictures as they are, and as augmentation changes them."""
    samples = [
        (load(path), name)
        for name in CLASSES
        for path in sorted((prepared.training / name).iterdir())[:8]
    ]
    names = [name for _, name in samples]
    plain = [picture.permute(1, 2, 0).numpy() for picture, _ in samples]
    tracking.log_figure(figures.picture_grid(plain, names), "sample_images.png")
    augment = training_transform(network.preprocessing)
    with torch.random.fork_rng(devices=[]):  # looking must not change what training draws
        changed = [augment(picture).permute(1, 2, 0).numpy() for picture, _ in samples]
    tracking.log_figure(figures.picture_grid(changed, names), "augmented_batch.png")


def _progress(batches: Iterable[Thing], what: str) -> Iterable[Thing]:
    # disable=None: a bar on a terminal, nothing in a log file.
    return tqdm(batches, desc=what, leave=False, disable=None, unit="batch")


def _log_epoch(epoch: Epoch, say: Say) -> None:
    say(
        f"epoch {epoch.number:3}: train loss {epoch.train.loss:.4f}, "
        f"val loss {epoch.val.loss:.4f}, val accuracy {epoch.val.accuracy:.4f}, "
        f"{epoch.images_per_second:.0f} images/s{'  (best)' if epoch.is_best else ''}"
    )
    confusion = figures.confusion_figure(epoch.val.confusion, f"validation, epoch {epoch.number}")
    tracking.log_epoch(epoch, confusion)


def _log_result(result: Fit, lesson: Lesson, say: Say) -> None:
    best = result.best
    why = "no better epoch came" if result.stopped_early else "all epochs are done"
    say(
        f"Stopped after epoch {result.epochs[-1].number} ({why}); kept epoch {best.number}: "
        f"validation accuracy {best.val.accuracy:.4f}, loss {best.val.loss:.4f}"
    )
    tracking.log_fit(result)
    if lesson.baseline:
        say(f"Without any training, ImageNet's classes reach {lesson.baseline.accuracy:.4f}")
        tracking.log_baseline(lesson.baseline)
    confusion = figures.confusion_figure(
        best.val.confusion, f"validation, kept epoch {best.number}"
    )
    tracking.log_figure(confusion, "confusion_matrix.png")
    curves = figures.learning_curves(result.epochs, best.number, lesson.baseline)
    tracking.log_figure(curves, "learning_curves.png")


def _log_judgement(trained: Trained, prepared: Prepared, say: Say) -> None:
    classifier, judgement = trained.classifier, trained.judgement
    metrics = judgement.metrics(classifier.about)
    say(
        f"Calibrated with temperature {metrics['temperature']:.2f}: log-loss "
        f"{metrics['val_log_loss']:.4f} (before {metrics['val_log_loss_uncalibrated']:.4f}), "
        f"calibration error {metrics['val_ece']:.4f}"
    )
    say(
        f"Neither: {metrics['neither_rejected_share']:.1%} of pictures without the animals are "
        f"told, {metrics['val_kept_share']:.1%} of validation photos kept"
    )
    tracking.log_metrics(metrics)
    paths = [picture.path.relative_to(prepared.folder).as_posix() for picture in trained.validation]
    answers = [
        to_prediction(seen, classifier.about) for seen in seen_in_training(classifier, judgement)
    ]
    tracking.log_predictions(paths, judgement.labels, judgement.logits, answers)
    tracking.log_figure(figures.reliability_figure(judgement), "reliability.png")
    tracking.log_figure(
        figures.familiarity_figure(judgement, classifier.about.reject_below), "familiarity.png"
    )


def register(
    config: TrainConfig, prepared: Prepared, trained: Trained, fresh: FreshProcess, say: Say
) -> ModelVersion:
    """Save and register what was trained, prove that it answers alike, and give it its stage.

    Raises:
        CatdogError: the registry refuses.
    """
    best = trained.best
    candidate = Candidate(best.val.accuracy, prepared.validation_digest, prepared.drawn)
    sample = spread(trained.validation, PARITY_PHOTOS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "classifier"
        digest = trained.classifier.save(folder)
        card = model_card(
            trained.classifier.about,
            catdog.__version__,
            {"best_val_accuracy": best.val.accuracy}
            | trained.judgement.metrics(trained.classifier.about),
        )
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        logged = tracking.log_model(
            folder, sample[0].path.read_bytes(), step=best.number, tags=candidate.to_tags()
        )
        version = registry.add(
            logged.model_uri, config.registered_model_name, candidate, digest=digest, card=card
        )
        proof = _prove(trained, version, sample, fresh, say)
    decision = registry.place(version, candidate, proven=proof is not None and proof.holds)
    _tell(version, decision, best, say)
    return version


def _prove(
    trained: Trained, version: ModelVersion, sample: list[Picture], fresh: FreshProcess, say: Say
) -> Parity | None:
    """Compare the registered version with the training process; None when it can't be used."""
    classifier = trained.classifier
    seen = seen_in_training(classifier, trained.judgement)
    answers = {
        picture: to_prediction(one, classifier.about)
        for picture, one in zip(trained.validation, seen, strict=True)
    }
    expected = [Answer(answers[one].p_dog, answers[one].familiarity) for one in sample]
    uri = f"models:/{version.name}/{version.version}"
    with tempfile.TemporaryDirectory() as scratch:
        exported = _exported(classifier, Path(scratch) / "export", say)
        pixels = Path(scratch) / "pixels.npy"
        np.save(pixels, _as_seen(classifier, sample))
        try:
            found = fresh.answers(uri, [one.path for one in sample], exported, pixels)
        except CatdogError as error:
            say(f"REJECTED: {error}")
            return None
    proof = parity.compare(expected, found)
    tracking.log_parity(proof)
    ways = ", ".join(f"{way} {difference:.1e}" for way, difference in proof.differences.items())
    say(f"A fresh process answers alike to within {proof.max_abs_diff:.1e} ({ways})")
    return proof


def _exported(classifier: Classifier, folder: Path, say: Say) -> Path | None:
    if classifier.engine.portable is None:
        return None
    try:
        return export(classifier, folder)
    except CatdogError as error:
        say(f"The ONNX export is not checked: {error}")
        return None


def _as_seen(classifier: Classifier, pictures: list[Picture]) -> NDArray[np.uint8]:
    transform = evaluation_transform(classifier.preprocessing)
    return np.stack([transform(load(picture.path)).numpy() for picture in pictures])


def _tell(version: ModelVersion, decision: Decision, best: Epoch, say: Say) -> None:
    name = f"{version.name} version {version.version}"
    uri = f"models:/{version.name}/{decision.stage}"
    tracking.set_tags(
        {
            "registered_version": version.version,
            "stage": decision.stage,
            "stage_reason": decision.reason,
        }
    )
    tracking.describe_run(
        f"**{name}** went to **{decision.stage}**: {decision.reason}.\n\n"
        f"| kept epoch | validation accuracy | validation loss |\n|---|---|---|\n"
        f"| {best.number} | {best.val.accuracy:.4f} | {best.val.loss:.4f} |\n\n"
        f"Label photos: `python scripts/predict.py --model-uri {uri} PHOTO...`\n"
    )
    say(f"Registered {name} in {decision.stage}: {decision.reason}.")
    say(f"Compare runs:  {tracking.ui_hint()}")
    say(f"Label photos:  python scripts/predict.py --model-uri {uri}")
