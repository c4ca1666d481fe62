"""Two `mlflow run` that start together, with Kaggle credentials that must be found nowhere."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from catdog.data.dataset import load_dataset
from tests.conftest import COLOURS, encoded, tiny_picture
from tests.kaggle_server import KaggleServer
from tests.project import Project, copied, mlflow_run

pytestmark = [pytest.mark.project, pytest.mark.slow]

TOKEN, KEY = "KGAT_planted_0123456789", "planted9876543210"

REDIRECT = """
import importlib.util, os
if "TEST_KAGGLE_URL" in os.environ and importlib.util.find_spec("kagglesdk"):
    from kagglesdk import kaggle_env
    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = os.environ["TEST_KAGGLE_URL"]
"""
"""Run by each Python process that finds it as sitecustomize.py."""


@dataclass(frozen=True)
class TwoAtOnce:
    """Two `mlflow run` that were started together in one project, and what they wrote."""

    project: Project
    server: KaggleServer
    shown: str


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Iterator[TwoAtOnce]:
    """Two runs that download the same data set with planted credentials."""
    root = tmp_path_factory.mktemp("two")
    project = copied(root)
    with contextlib.chdir(root):  # two that make MLflow's tables at once fail within MLflow
        project.client.search_experiments()
    (root / "site" / "sitecustomize.py").write_text(REDIRECT)
    token = root / "home" / ".kaggle" / "kaggle.json"
    token.parent.mkdir()
    token.write_text(json.dumps({"username": "somebody", "key": KEY}))
    token.chmod(0o600)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in COLOURS:
            for number in range(6):
                photo = encoded(tiny_picture(name, number))
                archive.writestr(f"train/{name}.{number}.jpg", photo)
    with KaggleServer(stream.getvalue()) as server:
        environment = project.environment(
            KAGGLE_API_ENVIRONMENT="LOCALHOST",
            KAGGLE_API_TOKEN=TOKEN,
            TEST_KAGGLE_URL=server.url,
        )
        tiny = ("backbone=test_resnet", "weights=none", "epochs=2")
        command = mlflow_run("dataset=kaggle:somebody/pets", *tiny)
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        both = [project.begin(*command, env=environment, **output) for _ in range(2)]
        shown = [process.communicate(timeout=400)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], shown
        yield TwoAtOnce(project, server, "".join(shown))


def test_one_downloads_and_prepares_and_both_finish(two):
    assert [run.info.status for run in two.project.runs()] == ["FINISHED", "FINISHED"]
    assert two.server.asked.count("/signed") == 1
    versions = two.project.client.search_model_versions("name = 'catdog'")
    assert sorted(version.version for version in versions) == [1, 2]
    assert [version.current_stage for version in versions].count("Production") == 1
    load_dataset(two.project.root / "data" / "somebody-pets").check()


def test_kaggles_token_is_found_nowhere(two):
    root = two.project.root
    home = root / "home" / ".kaggle"
    files = [path for path in root.rglob("*") if path.is_file() and home not in path.parents]
    assert {"mlflow.db", "report.html", "MLmodel", "config.json"} <= {path.name for path in files}
    for secret in (TOKEN, KEY):
        assert secret not in two.shown
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
