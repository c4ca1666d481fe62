"""Train on prepared pictures, track the run in MLflow, and register the best model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from catdog import command
from catdog.config import TrainConfig

if TYPE_CHECKING:
    from catdog.ranks import Team


def main(config: TrainConfig) -> int:
    """Train on the data set that prepare has sorted."""
    from catdog import following, launch, ranks

    if launch.must_start(config.processes):
        return launch.start(config.processes)
    with ranks.joined() as team:
        return following.follow(team) if team.rank else lead(config, team)


def lead(config: TrainConfig, team: Team) -> int:
    """The same, in the process that the others of the team follow."""
    from catdog import pipeline, runs
    from catdog.device import pick_device
    from catdog.download import locate
    from catdog.model import check_backbone
    from catdog.prepared import load_prepared

    config = runs.as_begun(config, "train")
    check_backbone(config.backbone)
    pick_device(config.device)
    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    prepared = load_prepared(Path(config.data_dir) / source.name, classes=config.classes)
    name = pipeline.run_name(config, source.name)
    begun = runs.open_run(config, "train", name, lambda: prepared, command.say)
    with begun as (_, folder), team.leading():
        pipeline.train_and_register(config, prepared, command.say, folder=folder, team=team)
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, TrainConfig))
