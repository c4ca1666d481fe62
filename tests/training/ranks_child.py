"""What `tests/test_ranks.py` starts through torchrun: a training without MLflow, and its end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from catdog import trained
from catdog.config import TrainConfig
from catdog.data.dataset import load_dataset
from catdog.models.network import build_network
from catdog.training import distributed, stages
from catdog.training.checkpoint import FINETUNE, HEAD
from catdog.training.distributed import Team
from catdog.training.following import follow
from catdog.training.loop import Fit, seed_everything
from catdog.training.state import Keeper, Resumable


def learn(config: TrainConfig, team: Team) -> tuple[Fit, dict[str, torch.Tensor], int]:
    """Train as process 0; how it went, the weights, and how many features were computed."""
    seed_everything(config.seed)
    prepared = load_dataset(Path(config.data_dir) / "pets")
    network = build_network(config.backbone, weights=config.weights)
    trained._begin_together(config, prepared, network, team)
    prepare_lesson = stages.on_features if config.views else stages.on_pictures
    lesson = prepare_lesson(config, prepared, network, team)
    together = distributed.SOLO if lesson.features else team
    together.tell({"do": HEAD})
    result = trained._train_head(config, lesson, Resumable(team=together), _told)
    if config.unfreeze != "none":
        team.tell({"do": FINETUNE})
        result = stages.finetune(
            config,
            prepared,
            network,
            result,
            on_epoch=_told,
            keeper=Keeper(),
            team=team,
        )
    computed = lesson.features.computed if lesson.features else 0
    return result, network.state_dict(), computed


def losses(fit: Fit) -> list[tuple[float, float]]:
    """Of training and validation, epoch by epoch."""
    return [(epoch.train.loss, epoch.val.loss) for epoch in fit.epochs]


def _told(_epoch: object) -> None:
    pass


def main(config: TrainConfig, target: Path) -> int:
    with distributed.joined() as team:
        if team.rank:
            return follow(team)
        fit, weights, computed = learn(config, team)
        save_file({name: value.contiguous() for name, value in weights.items()}, target)
        told = {"losses": losses(fit), "computed": computed}
        target.with_suffix(".json").write_text(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(TrainConfig(**json.loads(sys.argv[1])), Path(sys.argv[2])))
