"""Search the head's parameters with Optuna, then train with the best and register, in one run."""

import sys
from pathlib import Path

from catdog import AUTO, cli
from catdog.config import SweepConfig


def main(config: SweepConfig) -> int:
    """From a data set's name to the best of many trials, registered."""
    from catdog import pipeline, sweep
    from catdog.data.prepare import prepare
    from catdog.data.sources import fetch, locate
    from catdog.models.backbone import check_backbone
    from catdog.models.device import pick_device
    from catdog.tracking import resume, store

    if config.storage != AUTO:
        store.check_without_password("storage", config.storage)
    config = resume.as_begun(config, "sweep")
    check_backbone(config.backbone)
    pick_device(config.device)
    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    fetch(source, seed=config.seed)
    dataset = prepare(source, config)
    name = pipeline.run_name(config, f"{source.name} sweep")
    with resume.open_run(config, "sweep", name, dataset) as run:
        sweep.sweep_and_register(config, dataset, run)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, SweepConfig))
