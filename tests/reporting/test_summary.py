from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from catdog.cli import parse
from catdog.config import DownloadConfig, MainConfig, PrepareConfig, TrainConfig
from catdog.data.dataset import PreparedDataset
from catdog.registry.promotion import NO_STAGE, PRODUCTION, STAGING, Decision
from catdog.reporting.summary import (
    commands_to_reproduce,
    commands_to_use,
    describe,
)
from tests.faults.conftest import NOTHING_FOUND

STEPS = {"": MainConfig, "download": DownloadConfig, "prepare": PrepareConfig, "train": TrainConfig}
AS_PREPARED = {"val_fraction": 0.3, "exclude": "a b.txt"}


def _dataset(**options: object) -> PreparedDataset:
    return PreparedDataset(Path("data/pets"), "here", "a", "b", {}, 0, **options)


def _typed(line: str) -> tuple[str, object]:
    """The entry point that a line of `mlflow run` starts, and the config that reaches it."""
    words = shlex.split(line)
    name = words[words.index("-e") + 1] if "-e" in words else ""
    given = [f"--{words[place + 1]}" for place, word in enumerate(words) if word == "-P"]
    return name, parse(STEPS[name], given)


@pytest.mark.parametrize(
    ("config", "dataset", "typed"),
    [
        pytest.param(
            MainConfig(dataset="my pets.zip", epochs=2, **AS_PREPARED),
            _dataset(val_fraction=0.3, exclude="elsewhere.txt"),
            MainConfig(dataset="my pets.zip", epochs=2, **AS_PREPARED),
            id="what the main job was given",
        ),
        pytest.param(
            TrainConfig(dataset="pets.zip", seed=3),
            _dataset(seed=3, **AS_PREPARED),
            MainConfig(dataset="pets.zip", seed=3, **AS_PREPARED),
            id="what the data was prepared with, where training ran alone",
        ),
        pytest.param(
            TrainConfig(dataset="insects.zip", registered_model_name="insects"),
            _dataset(classes=("bee", "ant"), asked="bee,ant"),
            MainConfig(dataset="insects.zip", registered_model_name="insects", classes="bee,ant"),
            id="the classes that the data was prepared for",
        ),
    ],
)
def test_the_line_to_reproduce_trains_with_the_same_parameters(config, dataset, typed):
    (command,) = commands_to_reproduce(config, dataset)
    assert command.line.startswith("mlflow run . --env-manager=local -P ")
    assert _typed(command.line) == ("", typed)


def test_data_with_a_seed_of_its_own_needs_three_lines():
    config = TrainConfig(dataset="pets.zip", seed=3, epochs=2)
    commands = commands_to_reproduce(config, _dataset(val_fraction=0.3, seed=1))
    assert [_typed(command.line) for command in commands] == [
        ("download", DownloadConfig(dataset="pets.zip", seed=1)),
        ("prepare", PrepareConfig(dataset="pets.zip", seed=1, val_fraction=0.3)),
        ("train", config),
    ]


def test_the_description_names_the_result_and_what_is_told_apart(trained, released, findings):
    shown = describe(released, trained, findings)
    assert shown.startswith("**pets version 7** went to **Staging**: it is new: 5 photos.\n\n")
    assert "It tells cat and dog apart." in shown
    assert "\n\nWith the excluded photos, 12 in all: accuracy " in shown
    ends = (trained.metrics[f"val_accuracy_score{end}"] for end in ("", "_ci_low", "_ci_high"))
    assert "| `val_accuracy_score` | {:.4f} | {:.4f} to {:.4f} |\n".format(*ends) in shown


@pytest.mark.parametrize(
    ("stage", "uri", "promote"),
    [
        (PRODUCTION, "models:/pets/Production", "--name pets --rollback`"),
        (STAGING, "models:/pets/7", "--name pets --to 7`"),
        (NO_STAGE, None, None),
    ],
)
def test_what_to_type_next_names_who_serves_and_how_to_change_it(
    trained, released, stage, uri, promote
):
    released = replace(released, decision=Decision(stage, "it is new"))
    shown = describe(released, trained, NOTHING_FOUND)
    assert promote in shown if promote else "scripts/" not in shown
    lines = [command.line for command in commands_to_use(released)]
    assert all(f"`{line}`" in shown for line in lines)
    assert lines[:1] == ([f"python scripts/predict.py --model-uri {uri}"] if uri else [])
    assert len(lines) == (4 if uri else 0)


def test_a_name_with_blanks_and_parentheses_is_one_word_of_each_command(trained, released):
    version = SimpleNamespace(name="my pets (2)", version="7")
    for stage, shown in ((PRODUCTION, PRODUCTION), (STAGING, "7")):
        typed = replace(released, version=version, decision=Decision(stage, "it is new"))
        uris = [shlex.split(command.line)[3] for command in commands_to_use(typed)]
        assert uris[:3] == [f"models:/my pets (2)/{shown}", *["models:/my pets (2)/7"] * 2]
        assert uris[3] == "my pets (2)"
