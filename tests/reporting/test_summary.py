from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

from catdog.cli import parse
from catdog.config import DownloadConfig, MainConfig, PrepareConfig, TrainConfig
from catdog.data.dataset import PreparedDataset
from catdog.registry.promotion import NO_STAGE, PRODUCTION, STAGING, Decision
from catdog.reporting.summary import _description, _reproduce

STEPS = {"": MainConfig, "download": DownloadConfig, "prepare": PrepareConfig, "train": TrainConfig}


def _prepared(**options: object) -> PreparedDataset:
    return PreparedDataset(Path("data/pets"), "here", "a", "b", {}, 0, **options)


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


def _described(others: dict[str, float], stage: str = STAGING) -> str:
    metrics = {f"val_accuracy_score{end}": 0.9 for end in ("", "_ci_low", "_ci_high")}
    trained = SimpleNamespace(
        metrics=metrics,
        best=SimpleNamespace(number=2),
        fit=SimpleNamespace(epochs=[1, 2, 3]),
        validation=[1] * 1234,
        classifier=SimpleNamespace(about=SimpleNamespace(classes=("ant", "bee"))),
    )
    findings = SimpleNamespace(others=others)
    released = SimpleNamespace(
        version=SimpleNamespace(name="pets", version="7"), decision=Decision(stage, "it is new")
    )
    return _description("pets version 7", "models:/pets/7", released, trained, findings)


def test_the_description_gives_figures_with_the_excluded_photos_where_there_are_any():
    raw = {f"val_raw_accuracy_score{end}": 0.875 for end in ("", "_ci_low", "_ci_high")}
    raw |= {"val_raw_log_loss": 0.25, "val_raw_example_count": 1240.0}
    shown = " ".join(_described(raw).split())
    assert "With the excluded photos, 1,240 in all: accuracy 87.5 % (87.5 % to 87.5 %)," in shown
    assert "| accuracy | 0.9000 | 0.9000 to 0.9000 |" in shown
    assert "excluded" not in _described({})


def test_the_description_says_how_to_change_who_serves():
    assert "`python scripts/promote.py --name pets --to 7`" in _described({})
    assert "`python scripts/promote.py --name pets --rollback`" in _described({}, PRODUCTION)
    assert "promote.py" not in _described({}, NO_STAGE)


def test_the_description_names_what_is_told_apart():
    assert "It tells ant and bee apart." in _described({})


def test_the_classes_that_the_data_was_prepared_for_stand_in_the_line():
    config = TrainConfig(dataset="insects.zip", registered_model_name="insects")
    (command,) = _reproduce(config, _prepared(classes=("bee", "ant"), asked="bee,ant"))
    _, typed = _typed(command.line)
    assert (typed.classes, typed.registered_model_name) == ("bee,ant", "insects")
