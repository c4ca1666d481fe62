"""The storyboard: prepared pictures → trained → registered → told."""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace

from catdog.config import TrainConfig
from catdog.data.dataset import PreparedDataset
from catdog.registry.proof import FreshProcess
from catdog.registry.register import register, save
from catdog.registry.versions import ModelVersion
from catdog.reporting.model_card import model_card
from catdog.reporting.summary import report_findings, summarize
from catdog.tracking import store
from catdog.tracking.log import Run
from catdog.tracking.resume import NONE, TRAINED, RunFolder
from catdog.trained import train
from catdog.training.checkpoint import Checkpoints
from catdog.training.distributed import SOLO, Team

WHERE = {"dataset", "data_dir", "device", "processes", "resume"}
"""Parameters that say where and on what a run is done: its name leaves them out."""


def train_and_register(
    config: TrainConfig,
    prepared: PreparedDataset,
    run: Run,
    *,
    folder: RunFolder | None = None,
    team: Team = SOLO,
) -> ModelVersion:
    """Train on prepared pictures, log it all in a run, and register the best model.

    What it takes to go on after a cut is in `folder`, which is gone when all is done. The others of
    the `team` are in `catdog.training.following.follow`.

    Raises:
        CatdogError: a parameter does not fit, the data has gone, or the registry refuses.
    """
    # `resume` would mislead from here on; torchrun may have been told how many processes.
    config = replace(config, resume=NONE, processes=team.size)
    folder = folder or RunFolder.begin(config, run.id, "main")
    with contextlib.closing(FreshProcess(store.absolute_uri())) as fresh:
        checkpoints = Checkpoints(folder.path)
        trained = train(
            config, prepared, run, checkpoints=checkpoints, meanwhile=fresh.start, team=team
        )
        card = model_card(config.registered_model_name, prepared, trained)
        saved = save(trained, card, folder.model)  # before a server is asked
        folder.mark(TRAINED)
        with run.registering():
            released = register(config, prepared, trained, saved, fresh, run)
    findings = report_findings(config, prepared, trained, released, run)
    summarize(released, trained, findings, run)
    return released.version


def run_name(config: TrainConfig, dataset: str) -> str:
    """A name that tells a run from its neighbours: the data set, and what is not the default."""
    own = [
        f"{field.name}={getattr(config, field.name)}"
        for field in fields(config)
        if field.name not in WHERE and getattr(config, field.name) != field.default
    ]
    return " ".join([dataset, *own])
