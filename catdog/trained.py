"""PreparedDataset pictures → a trained and judged classifier, logged in an MLflow run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import torch

from catdog import CLASSES, Classes
from catdog.config import TrainConfig
from catdog.data.dataset import Picture, PreparedDataset
from catdog.data.images import is_image_name, load
from catdog.data.ood_images import neither_folder
from catdog.data.transforms import training_transform
from catdog.evaluation.calibration import predicted_labels
from catdog.evaluation.metrics import confusion_counts, metrics_of
from catdog.files import sha256_of
from catdog.inference.prediction import About, to_prediction
from catdog.models.backbone import licence_of
from catdog.models.device import pick_device
from catdog.models.engine import Engine, Features, pick_engine
from catdog.models.network import Network, build_network
from catdog.parallel import ONE_CORE_EACH, cores
from catdog.reporting import figures
from catdog.reporting.findings import PREFIX
from catdog.tracking.log import Run
from catdog.training import stages
from catdog.training.checkpoint import FINETUNE, HEAD, Checkpoints
from catdog.training.distributed import SOLO, Team
from catdog.training.features import cache_for, extract
from catdog.training.judge import (
    Evidence,
    Trained,
    judge,
    seen_in_training,
)
from catdog.training.loop import Fit, fit, make_optimizer, seed_everything
from catdog.training.named import match_weights
from catdog.training.stages import FEATURES, Lesson, progress, share_pass
from catdog.training.state import EarlyStopping, Epoch, Keeper, Resumable

logger = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    prepared: PreparedDataset,
    run: Run,
    *,
    checkpoints: Checkpoints | None = None,
    meanwhile: Callable[[], None] = lambda: None,
    team: Team = SOLO,
) -> Trained:
    """Train on prepared pictures, judge the best model, and log all of it in the run.

    Training goes on from the newest of the `checkpoints`. `meanwhile` is called when what is left
    to do keeps only one core busy. The others of the `team` are in
    `catdog.training.following.follow`.

    Raises:
        CatdogError: a parameter does not fit, or the data has gone.
        KeyboardInterrupt: a signal came, and a checkpoint was written.
    """
    seed_everything(config.seed)
    device, device_name = pick_device(config.device)
    logger.info(f"Device: {device_name}")
    run.log_params(asdict(config))
    run.log_environment(device_name)
    prepared.check()
    run.log_dataset(prepared)

    network = build_network(config.backbone, weights=config.weights).to(device)
    if prepared.classes != CLASSES:
        network.imagenet = None  # of what it knows, only cats and dogs are known to us
    network.blocks(config.unfreeze)  # a wrong value is better told now than after the head
    _log_pictures(network, prepared, run)
    _begin_together(config, prepared, network, team)
    prepare_lesson = stages.on_features if config.views else stages.on_pictures
    lesson = prepare_lesson(config, prepared, network, team)
    meanwhile()
    if lesson.features and not run.logged_steps("features_computed"):
        run.log_features(lesson.features)
    # A disk that is too full is better told before training.
    neither = neither_folder(Path(config.data_dir), prepared.classes)
    result = _learn(config, prepared, network, lesson, run, checkpoints, team)
    trained = _judge(config, prepared, network, lesson, result, neither, team)
    _log_result(result, lesson, run)
    _log_judgement(trained, prepared, run)
    return trained


def _begin_together(
    config: TrainConfig, prepared: PreparedDataset, network: Network, team: Team
) -> None:
    """Tell the others of the team what to train, on which pictures, from which weights."""
    parameters = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    team.tell({"config": parameters, "folder": str(prepared.folder)})
    match_weights(team, network)


def _learn(
    config: TrainConfig,
    prepared: PreparedDataset,
    network: Network,
    lesson: Lesson,
    run: Run,
    checkpoints: Checkpoints | None,
    team: Team = SOLO,
) -> Fit:
    """Train the head, then what shall not stay frozen; each goes on from its checkpoint."""
    logged = run.logged_steps("val_loss")  # before the run was cut

    def on_epoch(epoch: Epoch) -> None:
        _say_epoch(epoch)
        if epoch.number not in logged:
            _log_epoch(epoch, prepared.classes, run)

    def keeper(stage: str) -> Keeper:
        return checkpoints.keeper(stage) if checkpoints else Keeper()

    result = checkpoints.settled() if checkpoints else None
    if result is None:
        together = SOLO if lesson.features else team  # on features it takes less than a second
        together.tell({"do": HEAD})
        result = _train_head(config, lesson, Resumable(keeper(HEAD), team=together), on_epoch)
    if config.unfreeze == "none":
        return result
    if result.trouble:
        run.set_tags({"stopped_because": result.trouble})  # fine-tuning may be cut
    team.tell({"do": FINETUNE})
    tuned = stages.finetune(
        config,
        prepared,
        network,
        result,
        on_epoch=on_epoch,
        keeper=keeper(FINETUNE),
        team=team,
    )
    troubles = filter(None, (result.trouble, tuned.trouble))
    return replace(tuned, trouble=" ".join(troubles))


def _train_head(
    config: TrainConfig, lesson: Lesson, by: Resumable, on_epoch: Callable[[Epoch], None]
) -> Fit:
    # On features a step is too small to share: cores that wait for each other take four times
    # as long when others are busy, too.
    with ONE_CORE_EACH if lesson.features else contextlib.nullcontext():
        return fit(
            lesson.model,
            lesson.train_batches,
            lesson.val_batches,
            optimizer=make_optimizer(
                (lesson.model, config.learning_rate), weight_decay=config.weight_decay
            ),
            epochs=config.epochs,
            stopping=EarlyStopping(config.patience, config.min_delta),
            on_epoch=on_epoch,
            watch=(lambda batches, _: batches) if lesson.features else progress,
            resumable=by,
        )


def _judge(
    config: TrainConfig,
    prepared: PreparedDataset,
    network: Network,
    lesson: Lesson,
    result: Fit,
    neither: list[Path],
    team: Team,
) -> Trained:
    """Score the best weights as they will be served, calibrate them, and learn what is neither."""
    frozen = lesson.features if config.unfreeze == "none" else None
    engine = frozen.engine if frozen else pick_engine(network, cores=cores())
    about = About(
        backbone=config.backbone,
        dataset=prepared.folder.name,
        origin=prepared.origin,
        best_epoch=result.best.number,
        best_val_accuracy=result.best.val.accuracy,
        classes=prepared.classes,
    )
    evidence = _evidence(config, prepared, network, lesson, engine, neither, team)
    classifier, judgement = judge(
        network,
        engine,
        about,
        evidence,
        keep=config.keep_share,
        learned=(picture.sha256 for picture in prepared.pictures("training")),
    )
    return Trained(
        classifier,
        judgement,
        evidence,
        (evidence.training, evidence.validation)
        if config.unfreeze == "none" or lesson.pretrained is None
        else lesson.pretrained,
        prepared.pictures("validation"),
        result,
        lesson.baseline,
        lesson.baseline_logits,
        metrics_of(
            judgement.labels,
            judgement.logits,
            calibrated=judgement.calibrated,
            prefix=PREFIX,
            seed=config.seed,
        ),
        licence_of(config.backbone, config.weights),
    )


def _evidence(
    config: TrainConfig,
    prepared: PreparedDataset,
    network: Network,
    lesson: Lesson,
    engine: Engine,
    neither: list[Path],
    team: Team,
) -> Evidence:
    """The features that the engine which will serve sees; none that the lesson has is read anew."""
    frozen = lesson.features if config.unfreeze == "none" else None
    known = lesson.pretrained if frozen is not None else None
    together = SOLO if known else team
    training, validation = (prepared.pictures(split) for split in ("training", "validation"))
    with cache_for(
        Path(config.data_dir), network, keep=frozen is not None, shared=team.size > 1
    ) as before:
        together.tell({"do": FEATURES, "folder": str(before.folder)})
        match_weights(together, network)
        cache, _ = share_pass(prepared, network, engine, before, together)

        def features(pictures: list[Picture]) -> Features:
            views, _ = extract(pictures, network, engine, cache, watch=progress)
            plain: Features = views[0]
            return plain

        seen = known or (features(training), features(validation))
        return Evidence(
            *seen,
            np.array([picture.label for picture in validation]),
            features([Picture(path, 0, sha256_of(path)) for path in neither]),
        )


def _log_pictures(network: Network, prepared: PreparedDataset, run: Run) -> None:
    """Show what the model will see: pictures as they are, and as augmentation changes them."""
    samples = [
        (load(path), name)
        for name in prepared.classes
        for path in sorted(filter(is_image_name, (prepared.training / name).iterdir()))[:8]
    ]
    names = [name for _, name in samples]
    plain = [picture.permute(1, 2, 0).numpy() for picture, _ in samples]
    run.log_figure(figures.picture_grid(plain, names), "sample_images.png")
    augment = training_transform(network.preprocessing)
    with torch.random.fork_rng(devices=[]):  # looking must not change what training draws
        changed = [augment(picture).permute(1, 2, 0).numpy() for picture, _ in samples]
    run.log_figure(figures.picture_grid(changed, names), "augmented_batch.png")


def _say_epoch(epoch: Epoch) -> None:
    logger.info(
        f"epoch {epoch.number:3}: train loss {epoch.train.loss:.4f}, "
        f"val loss {epoch.val.loss:.4f}, val accuracy {epoch.val.accuracy:.4f}, "
        f"{epoch.images_per_second:.0f} images/s{'  (best)' if epoch.is_best else ''}"
    )


def _log_epoch(epoch: Epoch, classes: Classes, run: Run) -> None:
    title = f"validation, epoch {epoch.number}"
    confusion = figures.confusion_figure(epoch.val.confusion, title, classes)
    run.log_epoch(epoch, confusion)


def _log_result(result: Fit, lesson: Lesson, run: Run) -> None:
    best = result.best
    why = "no better epoch came" if result.stopped_early else "all epochs are done"
    if result.trouble:
        why = "it diverged"
        logger.warning(f"{result.trouble}")
    logger.info(
        f"Stopped after epoch {result.epochs[-1].number} ({why}); kept epoch {best.number}: "
        f"validation accuracy {best.val.accuracy:.4f}, loss {best.val.loss:.4f}"
    )
    run.log_fit(result)
    if lesson.baseline:
        logger.info(
            f"Without any training, ImageNet's classes reach {lesson.baseline.accuracy:.4f}"
        )
        run.log_baseline(lesson.baseline)
    curves = figures.learning_curves(result.epochs, best.number, lesson.baseline)
    run.log_figure(curves, "learning_curves.png")


def _log_judgement(trained: Trained, prepared: PreparedDataset, run: Run) -> None:
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
    run.log_confusion(confusion, figures.confusion_figure(confusion, title, prepared.classes))
    paths = [picture.path.relative_to(prepared.folder).as_posix() for picture in trained.validation]
    answers = [
        to_prediction(*seen, classifier.about) for seen in seen_in_training(classifier, judgement)
    ]
    run.log_predictions(paths, judgement.labels, judgement.logits, answers, prepared.classes)
    plot = figures.reliability_figure(judgement, prepared.classes)
    run.log_figure(plot, "reliability.png")
    run.log_image(plot, "reliability")
    below = classifier.about.reject_below
    plot = figures.familiarity_figure(judgement, below, prepared.classes)
    run.log_figure(plot, "familiarity.png")
