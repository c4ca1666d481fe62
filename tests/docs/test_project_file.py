from __future__ import annotations

import shlex
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from mlflow.projects import _project_spec
from mlflow.utils.virtualenv import _PythonEnv

from catdog import config
from catdog.cli import parse
from tests.conftest import ROOT


def _entry_points(folder: Path) -> dict[str, dict]:
    return yaml.safe_load((folder / "MLproject").read_text())["entry_points"]


CONFIGS = {
    "main": config.MainConfig,
    "download": config.DownloadConfig,
    "prepare": config.PrepareConfig,
    "train": config.TrainConfig,
    "sweep": config.SweepConfig,
    "evaluate": config.EvaluateConfig,
    "predict": config.PredictConfig,
    "score": config.ScoreConfig,
    "audit": config.AuditConfig,
    "export": config.ExportConfig,
    "serve": config.ServeConfig,
    "promote": config.PromoteConfig,
    "clear_cache": config.ClearCacheConfig,
}
VARIED = (
    *("dataset", "classes", "data_dir", "seed", "epochs", "batch_size", "learning_rate"),
    *("patience", "backbone", "unfreeze", "device", "resume"),
)
ANOTHER = {int: "7", float: "0.75", str: "b c"}


def _default(field) -> object:
    # A tuple of one word is written as that word.
    return field.default[0] if isinstance(field.default, tuple) else field.default


def _required(name: str) -> dict[str, str]:
    return {field.name: "given" for field in fields(CONFIGS[name]) if field.default is MISSING}


def _another(config_class: type, name: str) -> str:
    """A value of the parameter that is not its default."""
    (field,) = [field for field in fields(config_class) if field.name == name]
    hint = get_type_hints(config_class)[name]
    if get_origin(hint) is Literal:
        return next(word for word in get_args(hint) if word != field.default)
    if name == "classes":
        return "ant,bee"
    return ANOTHER[str if field.default is MISSING else type(_default(field))]


def _read(name: str, parameters: dict[str, str]):
    """The config that reaches the script when MLflow is given the parameters."""
    entry_point = _project_spec.load_project(str(ROOT)).get_entry_point(name)
    words = shlex.split(entry_point.compute_command(parameters, None))
    assert words[:3] == ["python", "-m", f"scripts.{name}"]
    return parse(CONFIGS[name], words[3:])


def test_the_project_has_an_entry_point_for_every_step():
    assert set(_entry_points(ROOT)) == set(CONFIGS)


def test_both_projects_have_the_same_entry_points():
    prefix = "cd /opt/catdog && "
    assert _entry_points(ROOT) == {
        name: entry_point | {"command": entry_point["command"].removeprefix(prefix)}
        for name, entry_point in _entry_points(ROOT / "docker").items()
        if entry_point["command"].startswith(prefix)
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_declared_is_a_flag_of_the_script_with_its_type_and_default(name):
    entry_point = _entry_points(ROOT)[name]
    known = {field.name: field for field in fields(CONFIGS[name])}
    types = {int: "int", float: "float", str: "string"}
    for key, written in entry_point["parameters"].items():
        default = _default(known[key])
        if default is MISSING:
            assert written == {"type": "string"}
        else:
            assert written == {"type": types[type(default)], "default": default}
    # MLflow drops one that the command does not mention, without a word.
    flags = "".join(f" --{key} {{{key}}}" for key in entry_point["parameters"])
    assert entry_point["command"] == f"python -m scripts.{name}{flags}"
    assert _required(name).keys() <= entry_point["parameters"].keys()


@pytest.mark.parametrize("name", ["main", "train"])
def test_what_people_vary_is_declared(name):
    assert tuple(_entry_points(ROOT)[name]["parameters"]) == VARIED


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_reaches_the_script_declared_or_not(name):
    required = _required(name)
    assert _read(name, required) == CONFIGS[name](**required)
    for field in fields(CONFIGS[name]):
        value = _another(CONFIGS[name], field.name)
        read = _read(name, required | {field.name: value})
        kind = type(field.default) if field.default is not MISSING else str
        expected = (value,) if kind is tuple else kind(value)
        assert read == CONFIGS[name](**required | {field.name: expected})
        assert read != CONFIGS[name](**required)


@pytest.mark.parametrize("value", ["-x", "", "a b", "$(touch x)", "it's", "--", "{epochs}"])
def test_an_undeclared_value_means_itself_also_where_it_looks_like_a_flag_or_is_empty(value):
    assert _read("main", {"exclude": value}).exclude == value


def test_mlflow_finds_in_conda_yaml_what_pyproject_declares():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    project = _project_spec.load_project(str(ROOT))
    environment = _PythonEnv.from_conda_yaml(project.env_config_path)
    assert environment.python.startswith("3.11")
    assert environment.dependencies == declared["dependencies"]
