"""What the owner of a run reads first: its report, its description, and what to type next."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields

import numpy as np

from catdog import AUTO
from catdog.config import DataConfig, DownloadConfig, MainConfig, PrepareConfig, TrainConfig
from catdog.data.classes import both, probability_name
from catdog.data.dataset import PreparedDataset
from catdog.evaluation.slices import worst_slice
from catdog.registry import versions
from catdog.registry.promotion import NO_STAGE, PRODUCTION
from catdog.registry.register import Released
from catdog.reporting import plots
from catdog.reporting.findings import Findings
from catdog.reporting.model_card import table_of_metrics
from catdog.reporting.report import Command, RunDetails, render, thumbnail, with_excluded
from catdog.tracking import provenance, store
from catdog.tracking.log import Run
from catdog.training.judge import Trained

logger = logging.getLogger(__name__)


def report(
    config: TrainConfig,
    dataset: PreparedDataset,
    trained: Trained,
    released: Released,
    findings: Findings,
    run: Run,
) -> None:
    """Log tables and a report of what the model gets wrong and of the data."""
    details = RunDetails(
        identity=run.identity(),
        parameters=_settings(config, dataset),
        versions=provenance.versions(),
        reproduce=commands_to_reproduce(config, dataset),
        use=commands_to_use(released),
    )
    page = render(dataset, trained, released, findings, details)
    worst = worst_slice(findings.slices)
    # A tag that people search by: in the words that earlier runs have.
    slice_ = f"{worst.group}: {worst.name} ({worst.verdict})" if worst else ""
    run.log_findings(findings.other_metrics, findings.tables(), slice_, page)
    if findings.mistakes:
        shown = [
            np.asarray(it.heat_map or thumbnail((dataset.folder / it.path).read_bytes()))
            for it in findings.mistakes
        ]
        column = probability_name(dataset.classes)
        captions = [f"{it.label}, {column} {it.p_positive:.2f}" for it in findings.mistakes]
        # The UI shows a thumbnail, in which a row of eight would be a line.
        grid = plots.picture_grid(shown, captions, columns=min(4, len(shown)))
        run.log_image(grid, "worst_errors")
    counts = Counter(issue.issue for issue in findings.issues)
    logger.info(
        f"Worst slice: {slice_ or 'none is worse'}; in the data: "
        f"{counts['wrong_label']} doubtful labels, "
        f"{counts['near_duplicate']} near-duplicates across the split, "
        f"{counts['unlike_others']} pictures unlike all others (report.html, audit.csv)"
    )


def summarize(released: Released, trained: Trained, findings: Findings, run: Run) -> None:
    """Tag and describe the run, and log what was registered and what to type next."""
    version, decision = released.version, released.decision
    name = f"{version.name} version {version.version}"
    run.set_tags(
        {
            "mlflow.runName": f"{run.name} (version {version.version})",
            "registered_version": version.version,
            "stage": decision.stage,
            "stage_reason": decision.summary,
            "validation_status": "rejected" if decision.stage == NO_STAGE else "approved",
        }
    )
    run.describe(describe(released, trained, findings))
    if decision.stage == NO_STAGE:
        logger.info(f"REJECTED: {name} was registered, and is in no stage: {decision.summary}.")
    else:
        logger.info(f"Registered {name} in {decision.stage}: {decision.summary}.")
    logger.info(f"Compare runs:  {store.ui_hint()}")
    logger.info(f"               {store.runs_page(run.experiment_id)}")
    logger.info(f"This run:      {store.run_page(run.experiment_id, run.id)}")
    for command in commands_to_use(released)[:1]:
        logger.info(f"Label photos:  {command.line}")


def describe(released: Released, trained: Trained, findings: Findings) -> str:
    """What the MLflow UI shows on top of the run, in Markdown."""
    version, decision = released.version, released.decision
    use = "".join(f"\n- {it.purpose}: `{it.line}`" for it in commands_to_use(released))
    paragraphs = [
        f"**{version.name} version {version.version}** went to **{decision.stage}**: "
        f"{decision.summary}.",
        f"It tells {both(trained.classifier.about.classes)} apart.",
        f"Kept epoch {trained.best.number} of {len(trained.fit.epochs)}; on "
        f"{len(trained.validation):,} held back photos, calibrated:",
        table_of_metrics(trained.metrics, ("accuracy_score", "roc_auc", "log_loss")),
        with_excluded(findings.other_metrics),
        f"- What it gets wrong, and what is wrong with the data: the artifact `report.html`{use}",
    ]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def commands_to_reproduce(config: TrainConfig, dataset: PreparedDataset) -> list[Command]:
    """The lines that train the same again: one, unless data and head had seeds of their own."""
    values = _settings(config, dataset)
    if config.seed == dataset.seed:
        return [Command("Train the same again", _line(MainConfig, values))]
    as_prepared = values | {"seed": dataset.seed}
    return [
        Command("Get the same pictures", _line(DownloadConfig, as_prepared, "download")),
        Command("Sort them the same way", _line(PrepareConfig, as_prepared, "prepare")),
        Command("Train the same again", _line(TrainConfig, values, "train")),
    ]


def commands_to_use(released: Released) -> list[Command]:
    """The lines that use the version or change who serves; none where it may not serve."""
    version, stage = released.version, released.decision.stage
    if stage == NO_STAGE:
        return []
    uri, promote = shlex.quote(versions.uri_of(version)), versions.promoting(version.name)
    shown, change = uri, Command("Promote it", f"{promote} --to {version.version}")
    if stage == PRODUCTION:
        shown = shlex.quote(f"models:/{version.name}/{PRODUCTION}")
        change = Command("Go back to the version before", f"{promote} --rollback")
    return [
        Command("Label photos", f"python scripts/predict.py --model-uri {shown}"),
        Command("Export it", f"python scripts/export.py --model-uri {uri} --to exported"),
        Command("Serve it", f"python scripts/serve.py --model-uri {uri}"),
        change,
    ]


def _settings(config: TrainConfig, dataset: PreparedDataset) -> dict[str, object]:
    """The parameters of the run, with those of its data where `config` does not have them."""
    settings = {"val_fraction": dataset.val_fraction, "exclude": dataset.exclude} | asdict(config)
    return settings | ({"classes": dataset.asked} if config.classes == AUTO else {})


def _line(step: type[DataConfig], values: Mapping[str, object], name: str = "") -> str:
    """The command for an entry point: only what is not the default is spelled out."""
    entry = f" -e {name}" if name else ""
    given = "".join(
        f" -P {shlex.quote(f'{field.name}={values[field.name]}')}"
        for field in fields(step)
        if values[field.name] != field.default
    )
    return f"mlflow run .{entry} --env-manager=local{given}"
