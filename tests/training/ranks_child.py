"""What `tests/training/test_distributed.py` starts through torchrun: a training without MLflow."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from catdog.config import TrainConfig
from catdog.data.dataset import load_dataset
from catdog.models.network import Network, build_network
from catdog.training import distributed
from catdog.training.checkpoint import CheckpointFolder
from catdog.training.features import extract_features
from catdog.training.loop import Fit, seed_everything
from catdog.training.stages import finetune, train_head


def learn(config: TrainConfig, folder: Path) -> tuple[Network, Fit, int]:
    """Train with checkpoints in `folder`; the network, how it went, and the features computed."""
    seed_everything(config.seed)
    dataset = load_dataset(Path(config.data_dir) / "pets")
    network = build_network(config.backbone, weights=config.weights)
    checkpoints = CheckpointFolder(folder)
    views = max(1, config.views)
    features = extract_features(network, dataset, Path(config.data_dir), views=views)
    fit = train_head(network, features, dataset, config, checkpoints, _ignore)
    if config.unfreeze != "none":
        fit = finetune(network, dataset, config, fit, checkpoints, _ignore)
    return network, fit, features.computed


def epochs_of(fit: Fit) -> list[dict]:
    """What each epoch gave, without the time that it took."""
    timed = {"seconds": 0, "images_per_second": 0}
    return [asdict(epoch) | timed for epoch in fit.epochs]


def _ignore(_epoch: object) -> None:
    pass


def main(config: TrainConfig, target: Path) -> None:
    """Train along, and as the main process write what came of it beside `target`."""
    with distributed.process_group(torch.device("cpu")):
        network, fit, computed = learn(config, target.parent)
    if distributed.is_main():
        weights = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(weights, target)
        told = {"epochs": epochs_of(fit), "computed": computed}
        target.with_suffix(".json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(TrainConfig(**json.loads(sys.argv[1])), Path(sys.argv[2]))
