"""The storyboard: prepared pictures → features → trained → tracked → registered."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

import catdog
from catdog import CLASSES, CatdogError, figures, lessons, parity, registry, tracking
from catdog.calibration import Logits
from catdog.card import Facts, model_card
from catdog.classifier import CARD_FILE, About, Classifier, to_prediction
from catdog.config import TrainConfig
from catdog.data import (
    JPEG_START,
    evaluation_transform,
    load,
    training_transform,
)
from catdog.device import pick_device
from catdog.engine import Engine, Features
from catdog.evaluate import Scores, metrics_of
from catdog.explain import as_jpeg
from catdog.export import export
from catdog.features import (
    FeatureCache,
    Picture,
    extract,
    open_cache,
)
from catdog.findings import PREFIX, find
from catdog.images import decode
from catdog.judgement import (
    Evidence,
    Judgement,
    judge,
    seen_in_training,
    serving_engine,
    spread,
)
from catdog.lessons import Lesson, pictures_of, progress
from catdog.model import Network, build_network, licence_of
from catdog.others import neither_folder
from catdog.page import as_report
from catdog.parity import Answer, FreshProcess, Parity
from catdog.prepare import Prepared
from catdog.registry import Candidate, Decision
from catdog.report import Command, render
from catdog.train import (
    EarlyStopping,
    Epoch,
    Fit,
    fit,
    make_optimizer,
    seed_everything,
)
from catdog.workers import ONE_CORE_EACH

Say = Callable[[str], None]
Thing = TypeVar("Thing")

PARITY_PHOTOS = 32
"""Validation photos on which the registered version is compared with the training process."""


@dataclass(frozen=True)
class Trained:
    """What training leaves: a classifier, how good it is, and what that was seen on."""

    classifier: Classifier
    judgement: Judgement
    evidence: Evidence
    validation: list[Picture]
    fit: Fit
    baseline: Scores | None
    baseline_logits: Logits | None
    metrics: dict[str, float]
    licence: str

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return self.fit.best


def train_and_register(config: TrainConfig, prepared: Prepared, say: Say) -> ModelVersion:
    """Train on prepared pictures within the active MLflow run, and register the best model.

    Raises:
        CatdogError: a parameter does not fit, the data has gone, or the registry refuses.
    """
    with contextlib.closing(FreshProcess(tracking.store_uri())) as fresh:
        trained = train(config, prepared, say, meanwhile=fresh.start)
        champion = registry.champion(config.registered_model_name)
        version, decision = register(config, prepared, trained, fresh, say)
    report_findings(config, prepared, trained, champion, (version, decision), say)
    _tell(version, decision, trained, say)
    return version


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
    prepare_lesson = lessons.on_features if config.views else lessons.on_pictures
    lesson = prepare_lesson(config, prepared, network, say)
    meanwhile()
    if lesson.features:
        tracking.log_features(lesson.features)
    # On features a step is too small to share: cores that wait for each other take four times
    # as long when others are busy, too.
    with ONE_CORE_EACH if lesson.features else contextlib.nullcontext():
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
            watch=progress if lesson.model is network else lambda batches, _: batches,
        )
    if config.unfreeze != "none":
        result = lessons.finetune(
            config,
            prepared,
            network,
            result,
            on_epoch=lambda epoch: _log_epoch(epoch, say),
            say=say,
        )
    trained = _judge(config, prepared, network, lesson, result, say)
    _log_result(result, lesson, say)
    _log_judgement(trained, prepared, say)
    return trained


def run_name(config: TrainConfig, dataset: str) -> str:
    """A name for the run that can be told from its neighbours in the MLflow UI."""
    return f"{dataset}-lr{config.learning_rate:g}-seed{config.seed}-{config.backbone}"


def _judge(
    config: TrainConfig,
    prepared: Prepared,
    network: Network,
    lesson: Lesson,
    result: Fit,
    say: Say,
) -> Trained:
    """Score the best weights as they will be served, calibrate them, and learn what is neither."""
    frozen = lesson.features is not None and config.unfreeze == "none"
    exact = frozen and lesson.features.engine.precision == "float32"
    engine = (
        lesson.features.engine if exact else serving_engine(network, say, cores=os.cpu_count() or 1)
    )
    about = About(
        backbone=config.backbone,
        dataset=prepared.folder.name,
        origin=prepared.origin,
        best_epoch=result.best.number,
        best_val_accuracy=result.best.val.accuracy,
    )
    data_dir = Path(config.data_dir)
    validation = pictures_of(prepared, "validation")
    with _cache(data_dir, network, engine, keep=frozen) as cache:

        def features(pictures: list[Picture]) -> Features:
            return extract(pictures, network, engine, cache, watch=progress)[0][0]

        evidence = Evidence(
            features(pictures_of(prepared, "training")),
            features(validation),
            np.array([picture.label for picture in validation]),
            features([Picture(path, 0, _sha256(path)) for path in neither_folder(data_dir)]),
        )
    classifier, judgement = judge(network, engine, about, evidence, keep=config.keep_share)
    return Trained(
        classifier,
        judgement,
        evidence,
        validation,
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
    tracking.log_metrics(trained.metrics | metrics)
    paths = [picture.path.relative_to(prepared.folder).as_posix() for picture in trained.validation]
    answers = [
        to_prediction(seen, classifier.about) for seen in seen_in_training(classifier, judgement)
    ]
    tracking.log_predictions(paths, judgement.labels, judgement.logits, answers)
    plot = figures.reliability_figure(judgement)
    tracking.log_figure(plot, "reliability.png")
    tracking.show(plot, "reliability", step=trained.best.number)
    tracking.log_figure(
        figures.familiarity_figure(judgement, classifier.about.reject_below), "familiarity.png"
    )


def register(
    config: TrainConfig, prepared: Prepared, trained: Trained, fresh: FreshProcess, say: Say
) -> tuple[ModelVersion, Decision]:
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
        card = model_card(trained.classifier.about, _facts(config, prepared, trained))
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        logged = tracking.log_model(
            folder, _as_jpeg(sample[0].path), step=best.number, tags=candidate.to_tags()
        )
        version = registry.add(
            logged.model_uri, config.registered_model_name, candidate, digest=digest, card=card
        )
        proof = _prove(trained, version, sample, fresh, say)
    decision = registry.place(version, candidate, proven=proof is not None and proof.holds)
    return version, decision


def report_findings(
    config: TrainConfig,
    prepared: Prepared,
    trained: Trained,
    champion: ModelVersion | None,
    placed: tuple[ModelVersion, Decision],
    say: Say,
) -> None:
    """Look at what the model gets wrong and at the data, and log tables and a report of it.

    Raises:
        CatdogError: a picture can't be read any more.
    """
    version, decision = placed
    evidence = trained.evidence
    findings = find(
        prepared,
        trained.classifier,
        trained.judgement,
        trained.metrics,
        (evidence.training, evidence.validation),
        seed=config.seed,
    )
    page = as_report(
        findings,
        title=f"{version.name} version {version.version}",
        prepared=prepared,
        classifier=trained.classifier,
        judgement=trained.judgement,
        fit=trained.fit,
        baseline=trained.baseline,
        baseline_logits=trained.baseline_logits,
        production=_comparable(champion, prepared),
        decision=f"version {version.version} went to {decision.stage}: {decision.reason}",
        parameters=asdict(config),
        versions=tracking.versions(),
        reproduce=_reproduce(config),
        use=_use(version, decision),
        run=tracking.run_identity(),
    )
    tracking.log_findings(findings, render(page))
    if page.mistakes:
        shown = [np.asarray(decode(one.heat_map)) for one in page.mistakes]
        captions = [f"{one.label}, p_dog {one.p_dog:.2f}" for one in page.mistakes]
        tracking.show(
            figures.picture_grid(shown, captions), "worst_errors", step=trained.best.number
        )
    counts = Counter(issue.issue for issue in findings.issues)
    worst = findings.worst
    say(
        "Worst slice: "
        f"{f'{worst.group}, {worst.name} ({worst.verdict})' if worst else 'none is worse'}; "
        f"in the data: {counts['wrong_label']} doubtful labels, "
        f"{counts['near_duplicate']} near-duplicates across the split, "
        f"{counts['unlike_others']} pictures unlike all others (report.html, audit.csv)"
    )


def _comparable(champion: ModelVersion | None, prepared: Prepared) -> dict[str, float]:
    """The metrics of the version in Production, where they are of the same photos."""
    if champion is None or champion.tags.get("validation_digest") != prepared.validation_digest:
        return {}
    return tracking.metrics_of_run(champion.run_id)


def _reproduce(config: TrainConfig) -> list[Command]:
    """The line that trains the same again: the parameters that are not the defaults."""
    changed = {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if getattr(config, field.name) != field.default
    }
    given = "".join(f" -P {shlex.quote(f'{name}={value}')}" for name, value in changed.items())
    return [Command("Train the same again", f"mlflow run . --env-manager=local{given}")]


def _use(version: ModelVersion, decision: Decision) -> list[Command]:
    if decision.stage == registry.NO_STAGE:
        return []  # it does not answer as its training did: nobody should use it
    uri = f"models:/{version.name}/{version.version}"
    lines = [
        Command("Label photos with this version", f"python scripts/predict.py --model-uri {uri}"),
        Command("Export it", f"python scripts/export.py --model-uri {uri} --to exported"),
        Command("Serve it", f"mlflow models serve -m {uri} --env-manager local"),
    ]
    if decision.stage != registry.PRODUCTION:
        return lines
    current = f"models:/{version.name}/{registry.PRODUCTION}"
    return [
        Command("Label photos", f"python scripts/predict.py --model-uri {current}"),
        *lines[1:],
    ]


def _facts(config: TrainConfig, prepared: Prepared, trained: Trained) -> Facts:
    return Facts(
        name=config.registered_model_name,
        version=catdog.__version__,
        counts={split: prepared.counts[split] for split in ("training", "validation")},
        digest=prepared.digest,
        metrics=trained.metrics,
        judged=trained.judgement.metrics(trained.classifier.about),
        licence=trained.licence,
    )


def _as_jpeg(path: Path) -> bytes:
    """The file as it is if it is a JPEG, else what it shows as one."""
    content = path.read_bytes()
    return content if content.startswith(JPEG_START) else as_jpeg(decode(content))


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


def _tell(version: ModelVersion, decision: Decision, trained: Trained, say: Say) -> None:
    name = f"{version.name} version {version.version}"
    shown = decision.stage if decision.stage != registry.NO_STAGE else version.version
    uri = f"models:/{version.name}/{shown}"
    tracking.set_tags(
        {
            "registered_version": version.version,
            "stage": decision.stage,
            "stage_reason": decision.reason,
            "validation_status": "rejected" if decision.stage == registry.NO_STAGE else "approved",
        }
    )
    tracking.describe_run(_description(name, uri, decision, trained))
    if decision.stage == registry.NO_STAGE:
        say(f"REJECTED: {name} was registered, and is in no stage: {decision.reason}.")
        say(f"Compare runs:  {tracking.ui_hint()}")
        return
    say(f"Registered {name} in {decision.stage}: {decision.reason}.")
    say(f"Compare runs:  {tracking.ui_hint()}")
    say(f"Label photos:  python scripts/predict.py --model-uri {uri}")


def _description(name: str, uri: str, decision: Decision, trained: Trained) -> str:
    """What the MLflow UI shows on top of the run, in Markdown."""
    metrics, best = trained.metrics, trained.best
    rows = [
        (
            told,
            metrics.get(f"val_{key}"),
            metrics.get(f"val_{key}_ci_low"),
            metrics.get(f"val_{key}_ci_high"),
        )
        for told, key in (
            ("accuracy", "accuracy_score"),
            ("ROC AUC", "roc_auc"),
            ("log-loss", "log_loss"),
        )
    ]
    table = "\n".join(
        f"| {told} | {value:.4f} | {low:.4f} to {high:.4f} |"
        for told, value, low, high in rows
        if None not in (value, low, high)
    )
    return (
        f"**{name}** went to **{decision.stage}**: {decision.reason}.\n\n"
        f"Kept epoch {best.number} of {len(trained.fit.epochs)}; on {len(trained.validation):,} "
        f"held back photos, calibrated:\n\n"
        f"| metric | value | 95 % |\n|---|---|---|\n{table}\n\n"
        f"- What it gets wrong, and what is wrong with the data: the artifact `report.html`\n"
        f"- Label photos: `python scripts/predict.py --model-uri {uri} PHOTO...`\n"
        f"- Export: `python scripts/export.py --model-uri {uri} --to DIR`\n"
    )
