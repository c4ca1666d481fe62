"""Train on prepared pictures, track the run in MLflow, and register the best model."""

import sys
from pathlib import Path

from catdog import command
from catdog.config import TrainConfig


def main(config: TrainConfig) -> int:
    """Train on the data set that prepare has sorted."""
    from catdog import pipeline, tracking
    from catdog.device import pick_device
    from catdog.download import locate
    from catdog.model import check_backbone
    from catdog.prepare import load_prepared

    check_backbone(config.backbone)
    pick_device(config.device)
    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    prepared = load_prepared(Path(config.data_dir) / source.name)
    with tracking.start_run(pipeline.run_name(config, source.name), Path(config.data_dir)):
        pipeline.train_and_register(config, prepared, command.say)
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, TrainConfig))
