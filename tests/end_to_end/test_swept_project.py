"""The real sweep, on two machines."""

from __future__ import annotations

import sys

import pytest
from mlflow.entities import Run

from tests.project import Project, copied, draw

pytestmark = [pytest.mark.project, pytest.mark.slow]


def _trials_of(project: Project, run: Run) -> list[Run]:
    below = f"tags.mlflow.parentRunId = '{run.info.run_id}' and tags.trial != ''"
    return project.client.search_runs(["0"], below)


def test_two_machines_sweep_together_and_one_of_them_registers(tmp_path):
    project = copied(tmp_path)
    draw(tmp_path / "pets", 15)
    sweep = (sys.executable, "-m", "scripts.sweep", "--dataset=pets", "--trials=40", "--epochs=2")
    sweep += ("--storage=sqlite:///shared.db",)
    places = ("--data_dir=data", "--data_dir=elsewhere")
    both = [project.begin(*sweep, place, text=True) for place in places]
    for process in both:
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
