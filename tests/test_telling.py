from __future__ import annotations

import shlex
from pathlib import Path

from catdog.config import DownloadConfig, MainConfig, PrepareConfig, TrainConfig, parse
from catdog.prepare import Prepared
from catdog.telling import _reproduce

STEPS = {"": MainConfig, "download": DownloadConfig, "prepare": PrepareConfig, "train": TrainConfig}


def _prepared(**options: object) -> Prepared:
    return Prepared(Path("data/pets"), "here", "a", "b", {}, 0, **options)


def _typed(line: str) -> tuple[str, object]:
    """The entry point that a line of `mlflow run` starts, and the config that reaches it."""
    words = shlex.split(line)
    name = words[words.index("-e") + 1] if "-e" in words else ""
    given = [f"--{words[place + 1]}" for place, word in enumerate(words) if word == "-P"]
    return name, parse(STEPS[name], given)


def test_the_line_to_reproduce_trains_with_the_same_parameters():
    config = MainConfig(dataset="my pets.zip", val_fraction=0.3, exclude="out.txt", epochs=2)
    (command,) = _reproduce(config, _prepared(val_fraction=0.3, exclude="elsewhere.txt"))
    assert _typed(command.line) == ("", config)
    assert command.line.startswith("mlflow run . --env-manager=local -P 'dataset=my pets.zip'")


def test_what_the_data_was_prepared_with_stands_in_the_line_when_training_ran_alone():
    config = TrainConfig(dataset="pets.zip", seed=3)
    (command,) = _reproduce(config, _prepared(val_fraction=0.3, exclude="a b.txt", seed=3))
    expected = MainConfig(dataset="pets.zip", seed=3, val_fraction=0.3, exclude="a b.txt")
    assert _typed(command.line) == ("", expected)


def test_data_with_a_seed_of_its_own_needs_three_lines():
    config = TrainConfig(dataset="pets.zip", seed=3, epochs=2)
    commands = _reproduce(config, _prepared(val_fraction=0.3, seed=1))
    assert [_typed(command.line) for command in commands] == [
        ("download", DownloadConfig(dataset="pets.zip", seed=1)),
        ("prepare", PrepareConfig(dataset="pets.zip", seed=1, val_fraction=0.3)),
        ("train", config),
    ]
