"""Search the head's parameters with Optuna, then train with the best and register, in one run."""

import logging
import sys
from pathlib import Path

from catdog import cli
from catdog.config import SweepConfig

logger = logging.getLogger("catdog")


def main(config: SweepConfig) -> int:
    """From a data set's name to the best of many trials, registered."""
    from catdog import sweep
    from catdog.data.dataset import PreparedDataset
    from catdog.data.prepare import prepare
    from catdog.data.sources import SAMPLE_NOTICE, fetch, locate
    from catdog.models.backbone import check_backbone
    from catdog.models.device import pick_device
    from catdog.tracking import resume

    config = resume.as_begun(config, "sweep")
    check_backbone(config.backbone)
    pick_device(config.device)
    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    if source.kind == "sample":
        logger.info(SAMPLE_NOTICE)

    def prepared_pictures() -> PreparedDataset:
        fetch(source, seed=config.seed)
        return prepare(source, config)

    name = f"{source.name}-sweep-seed{config.seed}-{config.backbone}"
    with resume.open_run(config, "sweep", name, prepared_pictures) as (prepared, run):
        sweep.sweep_and_register(config, prepared, run)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, SweepConfig))
