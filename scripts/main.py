"""Download, prepare and train, as one MLflow run: what `mlflow run .` starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from catdog import command
from catdog.config import MainConfig

if TYPE_CHECKING:
    from catdog.ranks import Team


def main(config: MainConfig) -> int:
    """From a data set's name to a registered classifier."""
    from catdog import following, launch, ranks

    if launch.must_start(config.processes):
        return launch.start(config.processes)
    with ranks.joined() as team:
        return following.follow(team) if team.rank else lead(config, team)


def lead(config: MainConfig, team: Team) -> int:
    """The same, in the process that the others of the team follow."""
    from catdog import pipeline, runs
    from catdog.device import pick_device
    from catdog.download import SAMPLE_NOTICE, fetch, locate
    from catdog.model import check_backbone
    from catdog.prepare import prepare_source
    from catdog.prepared import Prepared

    config = runs.as_begun(config, "main")
    check_backbone(config.backbone)
    pick_device(config.device)
    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    if source.kind == "sample":
        command.say(SAMPLE_NOTICE)

    def prepared_pictures() -> Prepared:
        return prepare_source(source, fetch(source, seed=config.seed), config, command.say)

    name = pipeline.run_name(config, source.name)
    begun = runs.open_run(config, "main", name, prepared_pictures, command.say)
    with begun as (prepared, folder), team.leading():
        pipeline.train_and_register(config, prepared, command.say, folder=folder, team=team)
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, MainConfig))
