"""The real `mlflow run` that is killed, and how it goes on."""

from __future__ import annotations

import psutil
import pytest

from tests.project import Project, copied, draw, mlflow_run

pytestmark = pytest.mark.project


MANY = 40
"""Epochs that last well beyond the first checkpoints, on fast machines also."""

SMALL = ("dataset=pets", "backbone=test_resnet", "weights=none")
LONG = (*SMALL, f"epochs={MANY}", f"patience={MANY}")


def _killed(project: Project) -> str:
    """Start `mlflow run`, and kill its script once there is a checkpoint; the run's id."""
    with project.begin(*mlflow_run(*LONG)) as launcher:
        for line in launcher.stderr:
            if line.startswith(b"epoch") and any(project.root.glob("data/runs/*/checkpoint-*")):
                break
        for process in psutil.Process(launcher.pid).children(recursive=True):
            if "scripts.main" in process.cmdline():
                process.kill()
        launcher.stderr.read()
    assert launcher.returncode == 1
    return project.runs()[0].info.run_id


def _check_went_on(project: Project, run_id: str) -> None:
    aside, run = project.runs()
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert "resume_with" not in run.data.tags
    for name in ("val_loss", "features_computed"):
        steps = [m.step for m in project.client.get_metric_history(run_id, name)]
        assert steps == (list(range(1, MANY + 1)) if name == "val_loss" else [0])
    assert run.data.params["epochs"] == str(MANY)
    (version,) = project.client.search_model_versions("name = 'catdog'")
    assert version.run_id == run_id
    assert list((project.root / "data" / "runs").iterdir()) == []
    assert (aside.info.status, aside.data.tags["mlflow.parentRunId"]) == ("FINISHED", run_id)


def test_a_run_that_was_killed_goes_on_as_the_same_run(tmp_path):
    project = copied(tmp_path)
    draw(tmp_path / "pets", 12)
    run_id = _killed(project)
    said = project.mlflow_run(f"resume={run_id}").stderr
    assert f"Resuming run {run_id}" in said
    assert "epoch   1:" not in said  # it did not begin anew
    _check_went_on(project, run_id)
