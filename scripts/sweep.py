"""Search the head's parameters with Optuna, then train with the best and register, in one run."""

import sys
from pathlib import Path

from catdog import command
from catdog.config import SweepConfig


def main(config: SweepConfig) -> int:
    """From a data set's name to the best of many trials, registered."""
    from catdog import runs, sweep
    from catdog.device import pick_device
    from catdog.download import SAMPLE_NOTICE, fetch, locate
    from catdog.model import check_backbone
    from catdog.prepare import prepare_source
    from catdog.prepared import Prepared

    config = runs.as_begun(config, "sweep")
    check_backbone(config.backbone)
    pick_device(config.device)
    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    if source.kind == "sample":
        command.say(SAMPLE_NOTICE)

    def prepared_pictures() -> Prepared:
        return prepare_source(source, fetch(source, seed=config.seed), config, command.say)

    name = f"{source.name}-sweep-seed{config.seed}-{config.backbone}"
    with runs.open_run(config, "sweep", name, prepared_pictures, command.say) as (prepared, folder):
        sweep.sweep_and_register(config, prepared, command.say, folder=folder)
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, SweepConfig))
