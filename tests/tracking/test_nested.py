from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import mlflow
import pytest
from mlflow import entities
from mlflow.tracking import MlflowClient

from catdog.tracking import nested
from catdog.tracking import run as tracking
from catdog.tracking.log import Run
from catdog.tracking.nested import Told

TOLD = Told(
    study="pets-1",
    number=3,
    state="COMPLETE",
    began_ms=1_000,
    ended_ms=3_000,
    params={"learning_rate": 0.01, "views": 2},
    epochs=[{"search_loss": 0.5}, {"search_loss": 0.25}],
    metrics={"best_search_loss": 0.25},
)


@pytest.fixture
def parent(tracking_store) -> Iterator[Run]:
    with tracking.start_run("x") as active:
        yield active


def _nested(parent: Run) -> list[entities.Run]:
    of_trials = "tags.trial != ''"
    return MlflowClient().search_runs([parent.experiment_id], of_trials)


def test_a_trial_has_a_run_of_its_own_below_the_active_one(parent):
    assert nested.log(TOLD)
    (run,) = _nested(parent)
    assert (run.info.run_name, run.info.status) == ("trial 3", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == (1_000, 3_000)
    assert run.data.params == {"learning_rate": "0.01", "views": "2"}
    assert run.data.tags["mlflow.parentRunId"] == parent.id
    assert run.data.metrics == {"search_loss": 0.25, "best_search_loss": 0.25}
    history = MlflowClient().get_metric_history(run.info.run_id, "search_loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.25)]


def test_a_pruned_trial_looks_like_one(parent):
    nested.log(replace(TOLD, state="PRUNED", params={}, epochs=[], metrics={}))
    (run,) = _nested(parent)
    assert (run.info.status, run.data.tags["trial_state"]) == ("KILLED", "PRUNED")


def test_a_trial_of_very_many_epochs_is_logged_in_parts(parent):
    nested.log(replace(TOLD, epochs=[{"search_loss": 0.5}] * 1_500))
    (run,) = _nested(parent)
    history = MlflowClient().get_metric_history(run.info.run_id, "search_loss")
    assert [metric.step for metric in history] == list(range(1, 1_501))


def test_a_server_that_is_away_holds_up_no_trial(parent, monkeypatch):
    def away(*_: object, **__: object) -> None:
        raise mlflow.MlflowException("away") from ConnectionError()

    monkeypatch.setattr(MlflowClient, "create_run", away)
    assert not nested.log(TOLD)


def test_missing_runs_are_made_up_for_and_those_of_other_runs_come_below_the_active_one(parent):
    client = MlflowClient()
    for number in (1, 2):
        nested.log(replace(TOLD, number=number))
    for run in _nested(parent):
        client.set_tag(run.info.run_id, "mlflow.parentRunId", "another")
    told = [replace(TOLD, number=number) for number in (1, 2, 3)]
    for _ in range(2):
        nested.complete("pets-1", told, failed=[])
        runs = _nested(parent)
        assert sorted(run.data.tags["trial"] for run in runs) == ["1", "2", "3"]
        assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent.id}


def test_what_a_kill_left_is_cleared_away(parent):
    client = MlflowClient()
    experiment = parent.experiment_id
    begun = {"study": "pets-1", "trial": "3", "mlflow.parentRunId": parent.id}
    half_made = client.create_run(experiment, tags=begun)
    nested.log(replace(TOLD, number=4))
    of_another = client.create_run(experiment, tags=begun | {"study": "pets-2"})
    at_work = client.create_run(experiment, tags=begun | {"trial": "5"})
    nested.complete("pets-1", [TOLD], failed=[4])
    left = {run.info.run_id: run for run in _nested(parent)}
    assert half_made.info.run_id not in left
    assert left.keys() > {of_another.info.run_id, at_work.info.run_id}
    (whole,) = [run for run in left.values() if run.info.end_time]
    assert whole.data.tags["trial"] == "3"
