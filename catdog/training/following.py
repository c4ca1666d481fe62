"""What the processes of a team do that do not lead: their share, as they are told."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from catdog import interrupts
from catdog.config import TrainConfig
from catdog.data.dataset import PreparedDataset, load_dataset
from catdog.models.device import pick_device
from catdog.models.engine import pick_engine
from catdog.models.network import Network, build_network
from catdog.parallel import cores
from catdog.training.checkpoint import FINETUNE, HEAD
from catdog.training.distributed import Ended, Team
from catdog.training.features import FeatureCache, open_cache
from catdog.training.loop import fit_along, seed_everything
from catdog.training.named import match_weights
from catdog.training.stages import (
    FEATURES,
    Practice,
    practise_finetuning,
    practise_on_pictures,
    share_pass,
)


def follow(team: Team) -> int:
    """Work along with process 0 until it ends; the exit status.

    It says nothing and logs nothing. What the user can mend is raised here, and told there.

    Raises:
        CatdogError: the pictures are not here, or the other processes are gone.
        KeyboardInterrupt: a signal came.
    """
    with team.following(), contextlib.suppress(Ended):
        begun = team.hear()
        config = TrainConfig(**begun["config"])
        seed_everything(config.seed)
        device, _ = pick_device(config.device)
        prepared = load_dataset(Path(begun["folder"]))
        network = build_network(config.backbone, weights="none").to(device)
        match_weights(team, network)
        if config.views or config.unfreeze != "none":
            _compute_share(config, prepared, network, team)
        while True:
            _obey(team.hear(), config, prepared, network, team)
    return 0


def _obey(
    order: dict[str, Any],
    config: TrainConfig,
    prepared: PreparedDataset,
    network: Network,
    team: Team,
) -> None:
    if order["do"] == HEAD:
        _train_along(practise_on_pictures(config, prepared, network, team), team)
    elif order["do"] == FINETUNE:
        _train_along(practise_finetuning(config, prepared, network, team), team)
    elif order["do"] == FEATURES:
        match_weights(team, network)
        engine = pick_engine(network, cores=cores())
        share_pass(prepared, network, engine, FeatureCache(Path(order["folder"])), team)


def _compute_share(
    config: TrainConfig, prepared: PreparedDataset, network: Network, team: Team
) -> None:
    engine = pick_engine(network, cores=cores())
    cache = open_cache(Path(config.data_dir), network)
    share_pass(prepared, network, engine, cache, team, views=max(1, config.views))


def _train_along(practice: Practice, team: Team) -> None:
    # A signal to end reaches process 0 as well, which first brings the batch to its end.
    with interrupts.after_this():
        fit_along(
            practice.model,
            practice.train_batches,
            practice.val_batches,
            optimizer=practice.optimizer,
            train_step=practice.train_step,
            schedule=practice.schedule,
            team=team,
        )
