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
FOLDERS = {"": ROOT, "cd /opt/catdog && ": ROOT / "docker"}
"""Where an MLproject stands, by what its commands begin with."""

DECLARED = [
    (folder, name, parameter)
    for folder in FOLDERS.values()
    for name, entry_point in _entry_points(folder).items()
    for parameter in entry_point["parameters"].items()
]
VARIED = (
    *("dataset", "classes", "data_dir", "seed", "epochs", "batch_size", "learning_rate"),
    *("patience", "backbone", "unfreeze", "device", "resume"),
)
OTHERS = {int: "7", float: "0.75", str: "b c"}


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
    return OTHERS[str if field.default is MISSING else type(_default(field))]


def _read(folder: Path, name: str, parameters: dict[str, str]):
    """The config that reaches the script when MLflow is given the parameters."""
    entry_point = _project_spec.load_project(str(folder)).get_entry_point(name)
    words = shlex.split(entry_point.compute_command(parameters, None))
    start = words.index("-m")
    assert words[start - 1 : start + 2] == ["python", "-m", f"scripts.{name}"]
    return parse(CONFIGS[name], words[start + 2 :])


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=["root", "docker"])
def test_the_project_has_an_entry_point_for_every_step(folder):
    assert set(_entry_points(folder)) == set(CONFIGS)


def test_both_projects_have_the_same_entry_points():
    root, docker = (
        {
            name: (entry_point["parameters"], entry_point["command"].removeprefix(prefix))
            for name, entry_point in _entry_points(folder).items()
        }
        for prefix, folder in FOLDERS.items()
    )
    assert root == docker


@pytest.mark.parametrize(
    ("folder", "name", "parameter"),
    DECLARED,
    ids=[f"{folder.name}-{name}-{parameter[0]}" for folder, name, parameter in DECLARED],
)
def test_what_is_declared_is_a_flag_of_the_script_with_its_type_and_default(
    folder, name, parameter
):
    key, written = parameter
    (field,) = [field for field in fields(CONFIGS[name]) if field.name == key]
    words = {int: "int", float: "float", str: "string"}
    if field.default is MISSING:
        assert written == {"type": "string"}
    else:
        assert written == {"type": words[type(_default(field))], "default": _default(field)}


@pytest.mark.parametrize("prefix", FOLDERS, ids=["root", "docker"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_declared_parameter_reaches_the_flag_of_its_name(prefix, name):
    # MLflow drops one that the command does not mention, without a word.
    entry_point = _entry_points(FOLDERS[prefix])[name]
    flags = "".join(f" --{key} {{{key}}}" for key in entry_point["parameters"])
    assert entry_point["command"] == f"{prefix}python -m scripts.{name}{flags}"
    assert _required(name).keys() <= entry_point["parameters"].keys()


@pytest.mark.parametrize("name", ["main", "train"])
def test_what_people_vary_is_declared(name):
    assert tuple(_entry_points(ROOT)[name]["parameters"]) == VARIED


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=["root", "docker"])
@pytest.mark.parametrize("name", CONFIGS)
def test_without_parameters_the_defaults_reach_the_script(folder, name):
    required = _required(name)
    assert _read(folder, name, required) == CONFIGS[name](**required)


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=["root", "docker"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_reaches_the_script_declared_or_not(folder, name):
    required, others = _required(name), {}
    for field in fields(CONFIGS[name]):
        others[field.name] = _another(CONFIGS[name], field.name)
        read = _read(folder, name, required | {field.name: others[field.name]})
        kind = type(field.default) if field.default is not MISSING else str
        expected = (others[field.name],) if kind is tuple else kind(others[field.name])
        given = required | {field.name: expected}
        assert read == CONFIGS[name](**given)
        assert read != CONFIGS[name](**required)
    together = _read(folder, name, others)
    assert not [
        field.name for field in fields(together) if getattr(together, field.name) == field.default
    ]


def test_an_undeclared_value_means_itself_also_where_it_looks_like_a_flag_or_is_empty():
    for value in ("-x", "--nothing", "", "a b", "$(touch x)", "it's", "--", "{epochs}"):
        assert _read(ROOT, "main", {"exclude": value}).exclude == value
        assert _read(ROOT, "predict", {"sort_into": value}).sort_into == value


def test_conda_installs_what_pyproject_declares():
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pip,) = [part["pip"] for part in conda["dependencies"] if isinstance(part, dict)]
    assert pip == declared["dependencies"]


def test_mlflow_reads_the_project_and_its_environment():
    project = _project_spec.load_project(str(ROOT))
    environment = _PythonEnv.from_conda_yaml(project.env_config_path)
    assert project.name == "catdog"
    assert environment.python.startswith("3.11")
    assert any(line.startswith("torch") for line in environment.dependencies)
