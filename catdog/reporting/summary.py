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
from catdog.registry import versions
from catdog.registry.promotion import NO_STAGE, PRODUCTION
from catdog.registry.register import Released
from catdog.reporting import figures
from catdog.reporting.findings import Findings
from catdog.reporting.report import Command, RunDetails, render, thumbnail, with_excluded
from catdog.tracking import provenance, store
from catdog.tracking.log import Run
from catdog.training.judge import Trained

logger = logging.getLogger(__name__)


def report(
    config: TrainConfig,
    prepared: PreparedDataset,
    trained: Trained,
    released: Released,
    findings: Findings,
    run: Run,
) -> None:
    """Log tables and a report of what the model gets wrong and of the data."""
    details = RunDetails(
        identity=run.identity(),
        parameters=_settings(config, prepared),
        versions=provenance.versions(),
        reproduce=commands_to_reproduce(config, prepared),
        use=commands_to_use(released),
    )
    page = render(prepared, trained, released, findings, details)
    worst = findings.worst
    # A tag that people search by: in the words that earlier runs have.
    slice_ = f"{worst.group}: {worst.name} ({worst.verdict})" if worst else ""
    run.log_findings(findings.other_metrics, findings.tables(), slice_, page)
    if findings.mistakes:
        shown = [
            np.asarray(it.heat_map or thumbnail((prepared.folder / it.path).read_bytes()))
            for it in findings.mistakes
        ]
        column = probability_name(prepared.classes)
        captions = [f"{it.label}, {column} {it.p_positive:.2f}" for it in findings.mistakes]
        # The UI shows a thumbnail, in which a row of eight would be a line.
        grid = figures.picture_grid(shown, captions, columns=min(4, len(shown)))
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
    metrics = trained.metrics
    shown = {"accuracy": "accuracy_score", "ROC AUC": "roc_auc", "log-loss": "log_loss"}
    table = "".join(
        f"| {name} | {metrics[f'val_{key}']:.4f} | "
        f"{metrics[f'val_{key}_ci_low']:.4f} to {metrics[f'val_{key}_ci_high']:.4f} |\n"
        for name, key in shown.items()
        if f"val_{key}_ci_low" in metrics
    )
    use = "".join(f"- {it.purpose}: `{it.line}`\n" for it in commands_to_use(released))
    paragraphs = [
        f"**{version.name} version {version.version}** went to **{decision.stage}**: "
        f"{decision.summary}.",
        f"It tells {both(trained.classifier.about.classes)} apart.",
        f"Kept epoch {trained.best.number} of {len(trained.fit.epochs)}; on "
        f"{len(trained.validation):,} held back photos, calibrated:",
        f"| metric | value | 95 % |\n|---|---|---|\n{table}",
        with_excluded(findings.other_metrics),
        "- What it gets wrong, and what is wrong with the data: the artifact `report.html`\n"
        f"{use}{_line_to_promote(released)}",
    ]
    return "\n\n".join(paragraph.rstrip("\n") for paragraph in paragraphs if paragraph) + "\n"


def commands_to_reproduce(config: TrainConfig, prepared: PreparedDataset) -> list[Command]:
    """The lines that train the same again: one, unless data and head had seeds of their own."""
    values = _settings(config, prepared)
    if config.seed == prepared.seed:
        return [Command("Train the same again", _line(MainConfig, values))]
    as_prepared = values | {"seed": prepared.seed}
    return [
        Command("Get the same pictures", _line(DownloadConfig, as_prepared, "download")),
        Command("Sort them the same way", _line(PrepareConfig, as_prepared, "prepare")),
        Command("Train the same again", _line(TrainConfig, values, "train")),
    ]


def commands_to_use(released: Released) -> list[Command]:
    """The lines that use the version; none where it does not answer as its training did."""
    version, decision = released.version, released.decision
    if decision.stage == NO_STAGE:
        return []
    uri = shlex.quote(versions.uri_of(version))
    label = "Label photos" if decision.stage == PRODUCTION else "Label photos with this version"
    return [
        Command(label, f"python scripts/predict.py --model-uri {_uri(released)}"),
        Command("Export it", f"python scripts/export.py --model-uri {uri} --to exported"),
        Command("Serve it", f"python scripts/serve.py --model-uri {uri}"),
    ]


def _settings(config: TrainConfig, prepared: PreparedDataset) -> dict[str, object]:
    """The parameters of the run, with those of its data where `config` does not have them."""
    of_data = {"val_fraction": prepared.val_fraction, "exclude": prepared.exclude}
    settings = of_data | asdict(config)
    return settings | ({"classes": prepared.asked} if config.classes == AUTO else {})


def _line(step: type[DataConfig], values: Mapping[str, object], name: str = "") -> str:
    """The command for an entry point: only what is not the default is spelled out."""
    entry = f" -e {name}" if name else ""
    given = "".join(
        f" -P {shlex.quote(f'{field.name}={values[field.name]}')}"
        for field in fields(step)
        if values[field.name] != field.default
    )
    return f"mlflow run .{entry} --env-manager=local{given}"


def _uri(released: Released) -> str:
    """How a shell names the version: by number if it doesn't serve, as Staging may hold many."""
    version, decision = released.version, released.decision
    shown = PRODUCTION if decision.stage == PRODUCTION else version.version
    return shlex.quote(f"models:/{version.name}/{shown}")


def _line_to_promote(released: Released) -> str:
    """The line of the description that says how to change who serves."""
    version, decision = released.version, released.decision
    command = versions.promoting(version.name)
    if decision.stage == PRODUCTION:
        return f"- Go back to the version before: `{command} --rollback`\n"
    if decision.stage == NO_STAGE:
        return ""
    return f"- Promote it: `{command} --to {version.version}`\n"
