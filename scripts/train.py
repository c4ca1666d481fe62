"""Train on prepared pictures, track the run in MLflow, and register the best model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from catdog import cli
from catdog.config import TrainConfig

if TYPE_CHECKING:
    from catdog.training.distributed import Team


def main(config: TrainConfig) -> int:
    """Train on the data set that prepare has sorted."""
    from catdog.training import distributed, following, launch

    if launch.must_start(config.processes):
        return launch.start(config.processes)
    with distributed.joined() as team:
        return following.follow(team) if team.rank else lead(config, team)


def lead(config: TrainConfig, team: Team) -> int:
    """The same, in the process that the others of the team follow."""
    from catdog import pipeline
    from catdog.data.dataset import load_dataset
    from catdog.data.sources import locate
    from catdog.models.device import pick_device
    from catdog.models.network import check_backbone
    from catdog.tracking import resume

    config = resume.as_begun(config, "train")
    check_backbone(config.backbone)
    pick_device(config.device)
    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    prepared = load_dataset(Path(config.data_dir) / source.name, classes=config.classes)
    name = pipeline.run_name(config, source.name)
    begun = resume.open_run(config, "train", name, lambda: prepared)
    with begun as (_, folder, run), team.leading():
        pipeline.train_and_register(config, prepared, run, folder=folder, team=team)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, TrainConfig))
