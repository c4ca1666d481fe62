"""Two `mlflow run` that start together, with Kaggle credentials that must be found nowhere."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.conftest import COLOURS, encoded, tiny_picture
from tests.kaggle_server import KaggleServer

if TYPE_CHECKING:
    from tests.project import Project

PLANTED = {"KAGGLE_API_TOKEN": "KGAT_planted_0123456789", "KAGGLE_KEY": "planted9876543210"}
"""Kaggle credentials that must be found nowhere."""


REDIRECT = """
import importlib.util, os
if "TEST_KAGGLE_URL" in os.environ and importlib.util.find_spec("kagglesdk"):
    from kagglesdk import kaggle_env
    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = os.environ["TEST_KAGGLE_URL"]
"""
"""Run by each Python process that finds it as sitecustomize.py."""


@dataclass(frozen=True)
class TwoAtOnce:
    """Two `mlflow run` that were started together in one project, and how they ended."""

    project: Project
    server: KaggleServer
    ended: list[subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def two_at_once(tmp_path_factory) -> Iterator[TwoAtOnce]:
    """Two runs that download the same data set with planted credentials."""
    from tests.project import copied

    root = tmp_path_factory.mktemp("two")
    project = copied(root)
    with contextlib.chdir(root):  # two that make MLflow's tables at once fail within MLflow
        project.client.search_experiments()
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(REDIRECT)
    (root / "home" / ".kaggle").mkdir()
    login = {"username": "somebody", "key": PLANTED["KAGGLE_KEY"]}
    (root / "home" / ".kaggle" / "kaggle.json").write_text(json.dumps(login))
    (root / "home" / ".kaggle" / "kaggle.json").chmod(0o600)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in COLOURS:
            for number in range(6):
                photo = encoded(tiny_picture(name, number))
                archive.writestr(f"train/{name}.{number}.jpg", photo)
    with KaggleServer(stream.getvalue()) as server:
        environment = project.environment(
            KAGGLE_API_ENVIRONMENT="LOCALHOST",
            KAGGLE_API_TOKEN=PLANTED["KAGGLE_API_TOKEN"],
            TEST_KAGGLE_URL=server.url,
            PYTHONPATH=f"{root}{os.pathsep}{root / 'site'}",
        )
        wanted = [
            "dataset=kaggle:somebody/pets",
            "backbone=test_resnet",
            "weights=none",
            "epochs=2",
        ]
        command = ["mlflow", "run", ".", "--env-manager=local"]
        command += [word for pair in wanted for word in ("-P", pair)]
        both = []
        for _ in range(2):
            both.append(
                subprocess.Popen(
                    command,
                    cwd=root,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        shown = [process.communicate(timeout=400) for process in both]
        ended = [
            subprocess.CompletedProcess(process.args, process.returncode, *texts)
            for process, texts in zip(both, shown, strict=True)
        ]
        yield TwoAtOnce(project, server, ended)
