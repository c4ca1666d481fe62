from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, fields

import pytest
import yaml
from mlflow.projects import _project_spec
from mlflow.utils.virtualenv import _PythonEnv

from catdog import config
from tests.conftest import ROOT

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
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())


def _default(field) -> object:
    # A tuple of one word is written as that word.
    return field.default[0] if isinstance(field.default, tuple) else field.default


def test_the_project_has_an_entry_point_for_every_step():
    assert set(PROJECT["entry_points"]) == set(CONFIGS)


@pytest.mark.parametrize("entry_point", CONFIGS)
def test_the_parameters_of_an_entry_point_are_the_flags_of_its_script(entry_point):
    declared = PROJECT["entry_points"][entry_point]["parameters"]
    expected = {
        field.name: {} if field.default is MISSING else {"default": _default(field)}
        for field in fields(CONFIGS[entry_point])
    }
    written = {
        name: {key: value for key, value in parameter.items() if key == "default"}
        for name, parameter in declared.items()
    }
    assert written == expected


@pytest.mark.parametrize("entry_point", CONFIGS)
def test_types_are_declared(entry_point):
    words = {int: "int", float: "float", str: "string"}
    for field in fields(CONFIGS[entry_point]):
        parameter = PROJECT["entry_points"][entry_point]["parameters"][field.name]
        default = "" if field.default is MISSING else _default(field)
        assert parameter["type"] == words[type(default)], field.name


@pytest.mark.parametrize("entry_point", CONFIGS)
def test_every_parameter_reaches_the_flag_of_its_name(entry_point):
    # MLflow drops a parameter that the command does not mention, without a word.
    command = PROJECT["entry_points"][entry_point]["command"]
    flags = dict(re.findall(r"--(\w+) \{(\w+)\}", command))
    names = {field.name for field in fields(CONFIGS[entry_point])} - {"images"}
    assert flags == {name: name for name in names}
    assert command.startswith(f"python -m scripts.{entry_point} ")
    assert command.endswith("-- {images}") == (entry_point == "predict")


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
