"""Download, prepare and train, as one MLflow run: what `mlflow run .` starts."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from catdog import cli
from catdog.config import MainConfig

if TYPE_CHECKING:
    from catdog.training.distributed import Team

logger = logging.getLogger("catdog")


def main(config: MainConfig) -> int:
    """From a data set's name to a registered classifier."""
    from catdog.training import distributed, following, launch

    if launch.must_start(config.processes):
        return launch.start(config.processes)
    with distributed.joined() as team:
        return following.follow(team) if team.rank else lead(config, team)


def lead(config: MainConfig, team: Team) -> int:
    """The same, in the process that the others of the team follow."""
    from catdog import pipeline
    from catdog.data.dataset import PreparedDataset
    from catdog.data.prepare import prepare_source
    from catdog.data.sources import SAMPLE_NOTICE, fetch, locate
    from catdog.models.device import pick_device
    from catdog.models.network import check_backbone
    from catdog.tracking import resume

    config = resume.as_begun(config, "main")
    check_backbone(config.backbone)
    pick_device(config.device)
    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    if source.kind == "sample":
        logger.info(SAMPLE_NOTICE)

    def prepared_pictures() -> PreparedDataset:
        return prepare_source(source, fetch(source, seed=config.seed), config)

    name = pipeline.run_name(config, source.name)
    begun = resume.open_run(config, "main", name, prepared_pictures)
    with begun as (prepared, folder, run), team.leading():
        pipeline.train_and_register(config, prepared, run, folder=folder, team=team)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, MainConfig))
