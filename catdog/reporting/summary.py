"""What the owner of a run is told of it: the report, its description, what to type next."""

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
from catdog.data.images import decode
from catdog.evaluation.comparison import Paired
from catdog.registry import versions
from catdog.registry.compare import Contest
from catdog.registry.promotion import NO_STAGE, PRODUCTION, Decision
from catdog.registry.register import Released
from catdog.registry.versions import ModelVersion
from catdog.reporting import figures
from catdog.reporting.findings import Findings, find
from catdog.reporting.page import as_report, raw_figures
from catdog.reporting.report import Command, render
from catdog.tracking import provenance, store
from catdog.tracking.log import Run
from catdog.training.judge import Trained

logger = logging.getLogger(__name__)


def report_findings(
    config: TrainConfig,
    prepared: PreparedDataset,
    trained: Trained,
    released: Released,
    run: Run,
) -> Findings:
    """Look at what the model gets wrong and at the data, and log tables and a report of it.

    Returns:
        What was found.

    Raises:
        CatdogError: a picture can't be read any more.
    """
    version, decision = released.version, released.decision
    findings = find(
        prepared,
        trained.classifier,
        trained.judgement,
        trained.metrics,
        trained.pretrained,
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
        production=released.contest.metrics,
        production_is=_served(released.contest, len(trained.validation)),
        champion=_told(released.contest),
        decision=f"version {version.version} went to {decision.stage}: {decision.reason}",
        parameters=_settings(config, prepared),
        versions=provenance.versions(),
        reproduce=_reproduce(config, prepared),
        use=_use(version, decision),
        run=run.identity(),
    )
    run.log_findings(findings.others, findings.tables(), _worst_slice(findings), render(page))
    if page.mistakes:
        shown = [np.asarray(decode(one.heat_map)) for one in page.mistakes]
        column = probability_name(prepared.classes)
        captions = [f"{one.label}, {column} {one.p_positive:.2f}" for one in page.mistakes]
        # The UI shows a thumbnail, in which a row of eight would be a line.
        grid = figures.picture_grid(shown, captions, columns=min(4, len(shown)))
        run.log_image(grid, "worst_errors")
    counts, worst = Counter(issue.issue for issue in findings.issues), findings.worst
    logger.info(
        "Worst slice: "
        f"{f'{worst.group}, {worst.name} ({worst.verdict})' if worst else 'none is worse'}; "
        f"in the data: {counts['wrong_label']} doubtful labels, "
        f"{counts['near_duplicate']} near-duplicates across the split, "
        f"{counts['unlike_others']} pictures unlike all others (report.html, audit.csv)"
    )
    return findings


def _worst_slice(findings: Findings) -> str:
    """The slice with the lowest accuracy, as a tag says it; "" where none is worse."""
    worst = findings.worst
    return f"{worst.group}: {worst.name} ({worst.verdict})" if worst else ""


def _told(contest: Contest) -> str:
    """How this version compares with the one in Production, in a sentence; "" where none is."""
    if contest.champion is None:
        return ""
    version = contest.champion.version
    if isinstance(contest.evidence, Paired):
        told = f"Against version {version} in Production, on photos that neither learned from: "
        return f"{told}{contest.evidence.told()}."
    return f"Not compared with version {version} in Production: {contest.evidence}."


def _served(contest: Contest, total: int) -> str:
    """The head of the column of the version in Production."""
    if contest.champion is None:
        return ""
    some = "" if contest.count == total else f", {contest.count} of {total} photos"
    return f"Production (version {contest.champion.version}{some})"


def _reproduce(config: TrainConfig, prepared: PreparedDataset) -> list[Command]:
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


def _use(version: ModelVersion, decision: Decision) -> list[Command]:
    if decision.stage == NO_STAGE:
        return []  # it does not answer as its training did: nobody should use it
    uri = f"models:/{version.name}/{version.version}"
    lines = [
        Command("Label photos with this version", f"python scripts/predict.py --model-uri {uri}"),
        Command("Export it", f"python scripts/export.py --model-uri {uri} --to exported"),
        Command("Serve it", f"python scripts/serve.py --model-uri {uri}"),
    ]
    if decision.stage != PRODUCTION:
        return lines
    current = f"models:/{version.name}/{PRODUCTION}"
    return [
        Command("Label photos", f"python scripts/predict.py --model-uri {current}"),
        *lines[1:],
    ]


def tell(released: Released, trained: Trained, findings: Findings, run: Run) -> None:
    """Tag and describe the run, and say what was registered and what to type next."""
    version, decision = released.version, released.decision
    name = f"{version.name} version {version.version}"
    # By number where it does not serve: Staging may hold many, and means the newest.
    shown = PRODUCTION if decision.stage == PRODUCTION else version.version
    uri = f"models:/{version.name}/{shown}"
    run.set_tags(
        {
            "registered_version": version.version,
            "stage": decision.stage,
            "stage_reason": decision.told,
            "validation_status": "rejected" if decision.stage == NO_STAGE else "approved",
        }
    )
    run.describe(_description(name, uri, released, trained, findings))
    if decision.stage == NO_STAGE:
        logger.info(f"REJECTED: {name} was registered, and is in no stage: {decision.told}.")
        logger.info(f"Compare runs:  {store.ui_hint()}")
        return
    logger.info(f"Registered {name} in {decision.stage}: {decision.told}.")
    logger.info(f"Compare runs:  {store.ui_hint()}")
    logger.info(f"Label photos:  python scripts/predict.py --model-uri {uri}")


def _description(
    name: str, uri: str, released: Released, trained: Trained, findings: Findings
) -> str:
    """What the MLflow UI shows on top of the run, in Markdown."""
    version, decision = released.version, released.decision
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
    raw = "".join(f"{line}\n\n" for line in [raw_figures(findings.others)] if line)
    return (
        f"**{name}** went to **{decision.stage}**: {decision.told}.\n\n"
        f"It tells {both(trained.classifier.about.classes)} apart.\n\n"
        f"Kept epoch {best.number} of {len(trained.fit.epochs)}; on {len(trained.validation):,} "
        f"held back photos, calibrated:\n\n"
        f"| metric | value | 95 % |\n|---|---|---|\n{table}\n\n"
        f"{raw}"
        f"- What it gets wrong, and what is wrong with the data: the artifact `report.html`\n"
        f"- Label photos: `python scripts/predict.py --model-uri {uri} PHOTO...`\n"
        f"{_promote(version, decision)}"
        f"- Export: `python scripts/export.py --model-uri {uri} --to DIR`\n"
    )


def _promote(version: ModelVersion, decision: Decision) -> str:
    """The line of the description that says how to change who serves."""
    command = versions.promoting(version.name)
    if decision.stage == PRODUCTION:
        return f"- Go back to the version before: `{command} --rollback`\n"
    if decision.stage == NO_STAGE:
        return ""
    return f"- Promote it: `{command} --to {version.version}`\n"
