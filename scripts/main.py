"""Download, prepare and train, as one MLflow run: what `mlflow run .` starts."""

from __future__ import annotations

import sys
from pathlib import Path

from catdog import cli
from catdog.config import MainConfig


def main(config: MainConfig) -> int:
    """From a data set's name to a registered classifier."""
    from catdog import pipeline
    from catdog.data.prepare import prepare
    from catdog.data.sources import fetch, locate
    from catdog.models.backbone import check_backbone
    from catdog.models.device import pick_device
    from catdog.tracking import resume
    from catdog.training import distributed

    config = resume.as_begun(config, "main")
    check_backbone(config.backbone)
    pick_device(config.device)
    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    fetch(source, seed=config.seed)
    dataset = prepare(source, config)
    if distributed.must_launch(config.processes):
        return distributed.launch(config.processes)  # each process finds what is prepared
    name = pipeline.run_name(config, source.name)
    with resume.open_run(config, "main", name, dataset) as run:
        pipeline.train_and_register(config, dataset, run)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, MainConfig))
