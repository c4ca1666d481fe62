"""A training's tensors by name: for a checkpoint, and for the other processes of a team."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from catdog.training.distributed import Team
from catdog.training.state import lay_out_as_weights, trained_weights


def match(team: Team, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler | None) -> None:
    """Give all of a team what process 0 has: weights, and what its next step depends on.

    `schedule` is that of the learning rate, where a step moves one on.
    """
    if team.size == 1:
        return
    held = optimizer.state_dict()
    told, tensors = team.match(
        {
            "param_groups": held["param_groups"],
            "schedule": schedule_numbers(schedule.state_dict() if schedule else {}),
        },
        below("weights", trained_weights(model)) | below("optimizer", optimizer_tensors(held)),
    )
    if team.rank == 0:
        return
    model.load_state_dict(taken("weights", tensors), strict=False)
    memories = optimizer_memories(taken("optimizer", tensors))
    optimizer.load_state_dict({"state": memories, "param_groups": told["param_groups"]})
    lay_out_as_weights(optimizer)
    if schedule is not None:
        schedule.load_state_dict(schedule_state(told["schedule"]))


def match_weights(team: Team, model: nn.Module) -> None:
    """Give the models of all of a team the weights that process 0 has, frozen ones too."""
    _, weights = team.match({}, model.state_dict())
    if team.rank:
        model.load_state_dict(weights)


def optimizer_tensors(held: dict[str, Any]) -> dict[str, Tensor]:
    """What an optimizer's `state_dict` remembers, as `<place of the weight>/<name>`."""
    return {
        f"{place}/{name}": value
        for place, values in held["state"].items()
        for name, value in values.items()
    }


def optimizer_memories(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """What `optimizer_tensors` was given."""
    memories: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        place, _, key = name.partition("/")
        memories.setdefault(int(place), {})[key] = value
    return memories


def schedule_numbers(state: dict[str, Any]) -> dict[str, Any]:
    """A schedule's `state_dict` without its functions, which come with the code."""
    return {k: v for k, v in state.items() if k != "lr_lambdas"}


def schedule_state(numbers: dict[str, Any]) -> dict[str, Any]:
    """A `state_dict` of what `schedule_numbers` gave."""
    return numbers | {"lr_lambdas": [None] * len(numbers["base_lrs"])} if numbers else {}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix/` before their names."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def taken(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the tensors that `below` has put under `prefix`."""
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
