"""The real sweep by `mlflow run`, on one machine and on two."""

from __future__ import annotations

import subprocess
import sys

import pytest
from mlflow.entities import Run

from tests.project import Project, copied, draw

pytestmark = [pytest.mark.project, pytest.mark.slow]


def _trials_of(project: Project, run: Run) -> list[Run]:
    below = f"tags.mlflow.parentRunId = '{run.info.run_id}' and tags.trial != ''"
    return project.client.search_runs(["0"], below)


def test_a_sweep_registers_the_best_of_its_trials_by_the_same_way(tmp_path):
    project = copied(tmp_path)
    draw(tmp_path / "pets", 15)
    project.mlflow_run("dataset=pets", "trials=3", "epochs=2", "most_views=2", entry_point="sweep")
    (run,) = [one for one in project.runs() if "trial" not in one.data.tags]
    trials = _trials_of(project, run)
    assert (run.info.status, len(trials)) == ("FINISHED", 3)
    best = min(trials, key=lambda one: one.data.metrics["best_search_loss"])
    assert run.data.tags["best_trial"] == best.data.tags["trial"]
    for name, value in best.data.params.items():
        assert run.data.params[name] == value
    version = project.client.get_model_version_by_alias("catdog", "production")
    assert version.run_id == run.info.run_id
    assert run.data.metrics["parity_max_abs_diff"] < 0.001
    logged = {one.path for one in project.client.list_artifacts(run.info.run_id)}
    assert logged >= {"parallel_coordinates.png", "parameter_importances.png", "report.html"}


def test_two_machines_sweep_together_and_one_of_them_registers(tmp_path):
    project = copied(tmp_path)
    draw(tmp_path / "pets", 15)
    sweep = (sys.executable, "-m", "scripts.sweep", "--dataset=pets", "--trials=40", "--epochs=2")
    shared = "--storage=sqlite:///shared.db"

    def begin(*own: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*sweep, shared, *own],
            cwd=project.root,
            env=project.environment(),
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    first = begin("--data_dir=data")
    second = begin("--data_dir=elsewhere")
    for process in (first, second):
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
    (version,) = project.client.search_model_versions("name = 'catdog'")
    run = project.client.get_run(version.run_id)
    (other,) = [
        one
        for one in project.runs()
        if "trial" not in one.data.tags and one.info.run_id != run.info.run_id
    ]
    assert other.data.tags["mlflow.parentRunId"] == run.info.run_id
    shared_out = [_trials_of(project, one) for one in (run, other)]
    assert all(shared_out)
    numbers = sorted(int(one.data.tags["trial"]) for trials in shared_out for one in trials)
    assert numbers[:40] == list(range(40))
    assert len(numbers) <= 41  # both may begin the last one
