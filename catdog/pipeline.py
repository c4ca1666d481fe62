"""The storyboard: prepared pictures → trained → tracked → registered."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from mlflow.entities.model_registry import ModelVersion
from tqdm import tqdm

from catdog import CLASSES, figures, registry, tracking
from catdog.classifier import About, Classifier
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
from catdog.model import Network, build_network, pick_device
from catdog.prepare import Prepared
from catdog.registry import Candidate, Decision
from catdog.train import EarlyStopping, Epoch, Fit, fit, make_optimizer, seed_everything

Say = Callable[[str], None]


def train_and_register(config: TrainConfig, prepared: Prepared, say: Say) -> ModelVersion:
    """Train on prepared pictures within the active MLflow run, and register the best model.

    Raises:
        CatdogError: a parameter does not fit, the data has gone, or the registry refuses.
    """
    seed_everything(config.seed)
    device, device_name = pick_device(config.device)
    say(f"Device: {device_name}")
    tracking.log_params(asdict(config))
    tracking.log_environment(device_name)
    _log_data(prepared)

    network = build_network(config.backbone, weights=config.weights).to(device)
    train_batches, val_batches = _batches(config, prepared, network, device)
    _log_pictures(train_batches, prepared)
    result = fit(
        network,
        train_batches,
        val_batches,
        optimizer=make_optimizer(
            network, learning_rate=config.learning_rate, weight_decay=config.weight_decay
        ),
        epochs=config.epochs,
        stopping=EarlyStopping(config.patience, config.min_delta),
        on_epoch=lambda epoch: _log_epoch(epoch, say),
        watch=_progress,
    )
    _log_result(result, prepared, say)
    return _register(config, prepared, network, result, say)


def run_name(config: TrainConfig, dataset: str) -> str:
    """A name for the run that can be told from its neighbours in the MLflow UI."""
    return f"{dataset}-lr{config.learning_rate:g}-seed{config.seed}-{config.backbone}"


def _batches(
    config: TrainConfig, prepared: Prepared, network: Network, device: torch.device
) -> tuple[Batches, Batches]:
    preprocessing = network.preprocessing
    shared = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "workers": pick_workers(config.workers, device),
        "pin_memory": device.type == "cuda",
    }
    train = LabelledFolder(prepared.training, training_transform(preprocessing))
    val = LabelledFolder(prepared.validation, evaluation_transform(preprocessing))
    return make_batches(train, shuffle=True, **shared), make_batches(val, shuffle=False, **shared)


def _log_data(prepared: Prepared) -> None:
    tracking.log_data(
        prepared.manifest,
        name=prepared.folder.name,
        origin=prepared.origin,
        digests={"training": prepared.digest, "validation": prepared.validation_digest},
        drawn=prepared.drawn,
    )


def _log_pictures(train_batches: Batches, prepared: Prepared) -> None:
    """Show what the model will see: pictures as they are, and an augmented batch."""
    samples = [
        (path, name)
        for name in CLASSES
        for path in sorted((prepared.training / name).iterdir())[:8]
    ]
    plain = [load(path).permute(1, 2, 0).numpy() for path, _ in samples]
    tracking.log_figure(
        figures.picture_grid(plain, [name for _, name in samples]), "sample_images.png"
    )
    with torch.random.fork_rng(devices=[]):  # looking must not change what training draws
        inputs, labels = next(iter(train_batches))
    augmented = [picture.permute(1, 2, 0).numpy() for picture in inputs[:16]]
    captions = [CLASSES[label] for label in labels[:16].tolist()]
    tracking.log_figure(figures.picture_grid(augmented, captions), "augmented_batch.png")


def _progress(batches: Batches, what: str) -> Batches:
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


def _log_result(result: Fit, prepared: Prepared, say: Say) -> None:
    best = result.best
    why = "no better epoch came" if result.stopped_early else "all epochs are done"
    say(
        f"Stopped after epoch {result.epochs[-1].number} ({why}); kept epoch {best.number}: "
        f"validation accuracy {best.val.accuracy:.4f}, loss {best.val.loss:.4f}"
    )
    tracking.log_fit(result)
    samples = LabelledFolder(prepared.validation).samples
    paths = [Path(path).relative_to(prepared.folder).as_posix() for path, _ in samples]
    tracking.log_predictions(paths, best.val_labels, best.val_logits)
    tracking.log_figure(
        figures.confusion_figure(best.val.confusion, f"validation, kept epoch {best.number}"),
        "confusion_matrix.png",
    )
    tracking.log_figure(figures.learning_curves(result.epochs, best.number), "learning_curves.png")


def _register(
    config: TrainConfig, prepared: Prepared, network: Network, result: Fit, say: Say
) -> ModelVersion:
    best = result.best
    candidate = Candidate(best.val.accuracy, prepared.validation_digest, prepared.drawn)
    about = About(
        backbone=config.backbone,
        dataset=prepared.folder.name,
        origin=prepared.origin,
        best_epoch=best.number,
        best_val_accuracy=best.val.accuracy,
    )
    example = next(iter(sorted((prepared.validation / CLASSES[0]).iterdir())))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "classifier"
        Classifier(network, about).save(folder)
        logged = tracking.log_model(
            folder, example.read_bytes(), step=best.number, tags=candidate.to_tags()
        )
    version, decision = registry.register(logged.model_uri, config.registered_model_name, candidate)
    _tell(version, decision, best, say)
    return version


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
