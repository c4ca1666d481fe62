"""Train on prepared pictures, track the run in MLflow, and register the best model."""

from __future__ import annotations

import sys
from pathlib import Path

from catdog import cli
from catdog.config import TrainConfig


def main(config: TrainConfig) -> int:
    """Train on the data set that prepare has sorted."""
    from catdog import pipeline
    from catdog.data.dataset import load_dataset
    from catdog.data.sources import locate
    from catdog.models.backbone import check_backbone
    from catdog.models.device import pick_device
    from catdog.tracking import resume
    from catdog.training import distributed

    config = resume.as_begun(config, "train")
    check_backbone(config.backbone)
    pick_device(config.device)
    source = locate(config.dataset, Path(config.data_dir), seed=config.seed)
    dataset = load_dataset(Path(config.data_dir) / source.name, classes=config.classes)
    if distributed.must_launch(config.processes):
        return distributed.launch(config.processes)
    name = pipeline.run_name(config, source.name)
    with resume.open_run(config, "train", name, dataset) as run:
        pipeline.train_and_register(config, dataset, run)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, TrainConfig))
