"""The storyboard: prepared pictures → features → a trained head → judged → registered → told."""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch

from catdog import CLASSES
from catdog.config import SweepConfig, TrainConfig
from catdog.data.dataset import PreparedDataset
from catdog.data.images import is_image_name, load
from catdog.data.sources import SAMPLE_NOTICE
from catdog.data.transforms import training_transform
from catdog.evaluation.calibration import predicted_labels
from catdog.evaluation.metrics import confusion_counts
from catdog.inference.prediction import to_prediction
from catdog.models.device import pick_device
from catdog.models.network import Network, build_network
from catdog.registry.proof import FreshProcess
from catdog.registry.register import register, release, save
from catdog.registry.versions import ModelVersion
from catdog.reporting import plots
from catdog.reporting.findings import find
from catdog.reporting.model_card import model_card
from catdog.reporting.summary import report, summarize
from catdog.tracking import store
from catdog.tracking.log import Run
from catdog.tracking.resume import NONE
from catdog.tracking.run import MODEL
from catdog.training import distributed
from catdog.training.checkpoint import CheckpointFolder
from catdog.training.features import extract_features
from catdog.training.judge import Learned, Trained, judge_as_served, seen_in_training
from catdog.training.loop import Epoch, seed_everything
from catdog.training.stages import finetune, train_head

logger = logging.getLogger(__name__)

WHERE = {"dataset", "data_dir", "device", "processes", "resume", "storage"}
"""Parameters that say where and on what a run is done: its name leaves them out."""


def train_and_register(
    config: TrainConfig, dataset: PreparedDataset, run: Run
) -> ModelVersion | None:
    """Train on prepared pictures, log it all in a run, and register the best model.

    Every process that trains along calls it; of these only the main one judges, registers and
    reports, and the others return None.

    Raises:
        CatdogError: a parameter does not fit, the data has gone, or the registry refuses.
        KeyboardInterrupt: a signal came; the run can go on from its last epoch.
    """
    # `resume` would mislead from here on; torchrun may have been told how many processes.
    config = replace(config, resume=NONE, processes=distributed.world_size())
    if not distributed.is_main():
        train(config, dataset, run)
        return None

    # It imports while this one trains.
    with contextlib.closing(FreshProcess(store.absolute_uri())) as fresh:
        trained = judge_as_served(train(config, dataset, run), dataset, config)
        _log_fit(run, trained)
        _log_judgement(run, trained, dataset)
        card = model_card(config.registered_model_name, dataset, trained)
        save(trained, card, run.folder / MODEL)  # before a server is asked
        with run.registering():
            version = register(config, dataset, trained, card, fresh, run)
        findings = find(dataset, trained, seed=config.seed)  # while the fresh process answers
        with run.registering():
            released = release(config, dataset, trained, version, fresh, run)
    report(config, dataset, trained, released, findings, run)
    summarize(released, trained, findings, run)
    return released.version


def train(config: TrainConfig, dataset: PreparedDataset, run: Run) -> Learned:
    """Features → the head → maybe the backbone; goes on from the run's newest checkpoint."""
    seed_everything(config.seed)
    device, device_name = pick_device(config.device)
    logger.info(f"Device: {device_name}")
    if dataset.drawn:
        logger.info(SAMPLE_NOTICE)
    run.log_params(asdict(config))
    run.log_environment(device_name)
    if distributed.is_main():  # once is enough: it reads every picture
        dataset.check()
        run.log_dataset(dataset)

    with distributed.process_group(device):
        network = _network(config, dataset).to(device)
        _log_pictures(run, network, dataset)
        folder = Path(distributed.from_main(str(run.folder)))
        checkpoints = CheckpointFolder(folder)
        on_epoch = functools.partial(_log_epoch, run, dataset)

        views = max(1, config.views)
        features = extract_features(network, dataset, Path(config.data_dir), views=views)
        if not run.logged_steps("features_computed"):  # before it was cut
            run.log_features(features)
        fit = train_head(network, features, dataset, config, checkpoints, on_epoch)
        if config.unfreeze == "none":
            return Learned(network, fit, features, features)
        fit = finetune(network, dataset, config, fit, checkpoints, on_epoch)
        tuned = extract_features(network, dataset, Path(config.data_dir), cache_dir=folder)
        return Learned(network, fit, tuned, features)


def run_name(config: TrainConfig | SweepConfig, dataset: str) -> str:
    """A name that tells a run from its neighbours: the data set, and what is not the default."""
    own = [
        f"{field.name}={getattr(config, field.name)}"
        for field in fields(config)
        if field.name not in WHERE and getattr(config, field.name) != field.default
    ]
    return " ".join([dataset, *own])


def _network(config: TrainConfig, dataset: PreparedDataset) -> Network:
    network = build_network(config.backbone, weights=config.weights)
    if dataset.classes != CLASSES:
        network.imagenet = None  # of what it knows, only cats and dogs are known to us
    network.blocks(config.unfreeze)  # a wrong value is better told now than after the head
    return network


def _log_pictures(run: Run, network: Network, dataset: PreparedDataset) -> None:
    """Show what the model will see: pictures as they are, and as augmentation changes them."""
    if not distributed.is_main():
        return  # what is drawn would go nowhere
    samples = [
        (load(path), name)
        for name in dataset.classes
        for path in sorted(filter(is_image_name, (dataset.training / name).iterdir()))[:8]
    ]
    names = [name for _, name in samples]
    plain = [picture.permute(1, 2, 0).numpy() for picture, _ in samples]
    run.log_figure(plots.picture_grid(plain, names), "sample_images.png")
    augment = training_transform(network.preprocessing)
    with torch.random.fork_rng(devices=[]):  # looking must not change what training draws
        changed = [augment(picture).permute(1, 2, 0).numpy() for picture, _ in samples]
    run.log_figure(plots.picture_grid(changed, names), "augmented_batch.png")


def _log_epoch(run: Run, dataset: PreparedDataset, epoch: Epoch) -> None:
    if not distributed.is_main():
        return
    logger.info(
        f"epoch {epoch.number:3}: train loss {epoch.train.loss:.4f}, "
        f"val loss {epoch.val.loss:.4f}, val accuracy {epoch.val.accuracy:.4f}, "
        f"{epoch.images_per_second:.0f} images/s{'  (best)' if epoch.is_best else ''}"
    )
    if epoch.number not in run.logged_steps("val_loss"):  # when it was cut
        title = f"validation, epoch {epoch.number}"
        run.log_epoch(epoch, plots.confusion_figure(epoch.val.confusion, title, dataset.classes))


def _log_fit(run: Run, trained: Trained) -> None:
    fit, best, baseline = trained.fit, trained.best, trained.baseline
    why = "no better epoch came" if fit.stopped_early else "all epochs are done"
    if fit.trouble:
        why = "it diverged"
        logger.warning(f"{fit.trouble}")
    logger.info(
        f"Stopped after epoch {fit.epochs[-1].number} ({why}); kept epoch {best.number}: "
        f"validation accuracy {best.val.accuracy:.4f}, loss {best.val.loss:.4f}"
    )
    run.log_fit(fit)
    if baseline:
        logger.info(f"Without any training, ImageNet's classes reach {baseline.accuracy:.4f}")
        run.log_baseline(baseline)
    curves = plots.learning_curves(fit.epochs, best.number, baseline)
    run.log_figure(curves, "learning_curves.png")


def _log_judgement(run: Run, trained: Trained, dataset: PreparedDataset) -> None:
    classifier, judgement = trained.classifier, trained.judgement
    metrics = judgement.metrics(classifier.about)
    logger.info(
        f"Calibrated with temperature {metrics['temperature']:.2f}: log-loss "
        f"{metrics['val_log_loss']:.4f} (before {metrics['val_log_loss_uncalibrated']:.4f}), "
        f"calibration error {metrics['val_ece']:.4f}"
    )
    logger.info(
        f"Neither: {metrics['neither_rejected_share']:.1%} of pictures that show neither are "
        f"told, {metrics['val_kept_share']:.1%} of validation photos kept"
    )
    run.log_metrics(trained.metrics | metrics)
    confusion = confusion_counts(judgement.labels, predicted_labels(judgement.logits))
    title = f"validation, kept epoch {trained.best.number}"
    run.log_confusion(confusion, plots.confusion_figure(confusion, title, dataset.classes))
    paths = [picture.path.relative_to(dataset.folder).as_posix() for picture in trained.validation]
    answers = [
        to_prediction(*seen, classifier.about) for seen in seen_in_training(classifier, judgement)
    ]
    run.log_predictions(paths, judgement.labels, judgement.logits, answers, dataset.classes)
    plot = plots.to_figure(plots.draw_reliability, judgement, dataset.classes)
    run.log_figure(plot, "reliability.png")
    run.log_image(plot, "reliability")
    below = classifier.about.reject_below
    plot = plots.to_figure(plots.draw_familiarity, judgement, below)
    run.log_figure(plot, "familiarity.png")
