"""A sweep from its first trial to the registered version, cut, extended and shared."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from catdog import CatdogError, cli, sweep
from catdog.config import MainConfig, OptimConfig, SweepConfig
from catdog.data.dataset import Picture, PreparedDataset
from catdog.data.split import split_off
from catdog.evaluation.metrics import Confusion, Scores
from catdog.tracking import resume
from catdog.training.loop import Epoch
from tests.conftest import heard
from tests.mlflow_server import postgres
from tests.sources import prepare_pictures

CONFIG = SweepConfig(
    data_dir="data",
    trials=4,
    epochs=2,
    most_views=2,
    backbone="test_resnet",
    weights="none",
    device="cpu",
    promote="never",
)


@pytest.fixture
def prepared(tmp_path, draw_folder) -> PreparedDataset:
    draw_folder(tmp_path / "raw", 8)
    return prepare_pictures(tmp_path / "raw", tmp_path / "data" / "pets", val_fraction=0.25)


@pytest.fixture
def registered(monkeypatch, tracking_store) -> list[tuple[str, MainConfig]]:
    """The runs that trained with the best, and with which parameters, in place of doing it."""
    done: list[tuple[str, MainConfig]] = []
    monkeypatch.setattr(
        sweep, "train_and_register", lambda config, _, run: done.append((run.id, config))
    )
    return done


def _sweep(prepared: PreparedDataset, **options: object) -> tuple[Run, list[str]]:
    config = replace(CONFIG, **options)
    with heard() as said, resume.open_run(config, "sweep", "x", prepared) as run:
        sweep.sweep_and_register(config, prepared, run)
    return MlflowClient().get_run(run.id), said


def _trials_below(run: Run) -> list[Run]:
    below = f"tags.trial != '' and tags.mlflow.parentRunId = '{run.info.run_id}'"
    found = MlflowClient().search_runs([run.info.experiment_id], below)
    assert all(one.info.end_time for one in found)
    return sorted(found, key=lambda one: int(one.data.tags["trial"]))


def _numbers(run: Run) -> list[int]:
    return [int(one.data.tags["trial"]) for one in _trials_below(run)]


def _study(name: str = "s", storage: str = "sqlite:///sweeps.db") -> optuna.Study:
    return sweep.open_study(storage, name, Path())


# --- A whole sweep -------------------------------------------------------------------


def test_the_best_of_all_trials_is_trained_with_and_registered(prepared, registered):
    run, _ = _sweep(prepared)
    best = _study(run.data.tags["study"], "sqlite:///data/sweeps.db").best_trial
    ((run_id, chosen),) = registered
    assert run_id == run.info.run_id
    assert {name: getattr(chosen, name) for name in best.params} == best.params
    assert (chosen.epochs, chosen.promote, chosen.seed) == (2, "never", 0)
    assert run.data.tags["best_trial"] == str(best.number)
    assert run.data.metrics["best_search_loss"] == best.value
    assert run.data.metrics["trials_finished"] == 4
    assert run.data.params["trials"] == "4"
    logged = {one.path for one in MlflowClient().list_artifacts(run_id)}
    assert logged >= {"parallel_coordinates.png", "parameter_importances.png"}
    _check_trials(run)


def _check_trials(run: Run) -> None:
    """Each trial has a run of its own below, and the first tries what training does by itself."""
    first, second, *_ = _trials_below(run)
    usual = {name: str(getattr(MainConfig(), name)) for name in sweep.SEARCHED}
    assert first.data.params == usual != second.data.params
    assert (first.info.run_name, first.info.status) == ("trial 0", "FINISHED")
    assert first.info.end_time > first.info.start_time > run.info.start_time
    client = MlflowClient()
    history = client.get_metric_history(first.info.run_id, "search_loss")
    assert [metric.step for metric in history] == [1, 2]
    best = first.data.metrics["best_search_loss"]
    assert best == min(metric.value for metric in history)
    assert history[int(first.data.metrics["best_epoch"]) - 1].value == best
    assert {"train_loss", "search_accuracy"} <= first.data.metrics.keys()


def test_trials_see_no_validation_picture_and_features_are_computed_once(
    prepared, registered, monkeypatch
):
    seen: dict[str, set[str]] = {}

    def spied(name: str, pictures_in: Callable) -> None:
        whole = getattr(sweep, name)

        def spy(*given: object, **options: object) -> object:
            seen[name] = {picture.sha256 for picture in pictures_in(*given)}
            return whole(*given, **options)

        monkeypatch.setattr(sweep, name, spy)

    spied("labels_of", lambda pictures: pictures)
    spied("FeatureBatches", lambda _features, pictures: pictures)
    _, said = _sweep(prepared, trials=1)
    searched, learned = seen["labels_of"], seen["FeatureBatches"]
    assert not searched & learned
    training = prepared.pictures("training")
    assert searched | learned == {picture.sha256 for picture in training}
    assert f"Features: {2 * len(training)} computed by" in "\n".join(said)
    _, said = _sweep(prepared, trials=2)
    assert "Features: 0 computed by" in "\n".join(said)


def test_a_sweep_that_is_finished_registers_nothing_again_and_may_be_extended(prepared, registered):
    first, _ = _sweep(prepared, trials=2)
    _, said = _sweep(prepared, trials=2)
    assert len(registered) == 1
    assert said[-1].startswith(f"MLflow run {first.info.run_id} of this sweep trains")
    run, _ = _sweep(prepared, trials=3)
    assert _numbers(run) == [2]
    run, _ = _sweep(prepared, trials=3, registered_model_name="other", unfreeze="1")
    assert _numbers(run) == []
    assert (registered[-1][0], registered[-1][1].unfreeze) == (run.info.run_id, "1")
    assert len(registered) == 3


def test_a_sweep_that_was_cut_goes_on_as_the_same_run(prepared, registered, monkeypatch):
    whole, begun = sweep.fit, itertools.count()

    def fit(*given: object, **options: object) -> object:
        if next(begun) == 2:
            raise KeyboardInterrupt
        return whole(*given, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep, "fit", fit)
        _sweep(prepared)
    run, said = _sweep(prepared)
    everything = MlflowClient().search_runs([run.info.experiment_id])
    assert sum("trial" not in one.data.tags for one in everything) == 1
    assert run.info.status == "FINISHED"
    assert sum(line.startswith("trial") for line in said) == 2
    assert _numbers(run) == [0, 1, 3, 4]


def test_what_trials_rest_on_decides_the_studys_name(prepared, tmp_path):
    name = sweep.study_name(CONFIG, prepared)
    assert name.startswith("pets-")
    for same in ({"promote": "auto"}, {"trials": 9}, {"storage": "x"}, {"device": "auto"}):
        assert sweep.study_name(replace(CONFIG, **same), prepared) == name
    for other in ({"seed": 1}, {"epochs": 9}, {"most_views": 4}, {"backbone": "resnet18"}):
        assert sweep.study_name(replace(CONFIG, **other), prepared) != name
    assert sweep.study_name(CONFIG, replace(prepared, digest="other")) != name
    names = set()
    for file in ("one.pth", "two.pth"):  # known by its digest, wherever it lies
        (tmp_path / file).write_bytes(b"1")
        names.add(sweep.study_name(replace(CONFIG, weights=str(tmp_path / file)), prepared))
    assert len(names - {name}) == 1


@given(
    contents=st.lists(st.integers(0, 30), max_size=80),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 9),
)
def test_both_parts_have_both_classes_and_copies_stand_on_one_side(contents, fraction, seed):
    contents += [96, 97, 97, 98, 99]  # the label is a matter of the content; each class has two
    pictures = [Picture(Path("x"), content % 2, f"{content:064d}") for content in contents]
    search = split_off(pictures, fraction, seed)
    sides = [{pictures[i] for i in np.flatnonzero(side)} for side in (search, ~search)]
    assert not sides[0] & sides[1]
    assert all({picture.label for picture in side} == {0, 1} for side in sides)
    turned = split_off(pictures[::-1], fraction, seed)
    assert list(turned[::-1]) == list(search)


def test_too_few_pictures_are_told():
    pictures = [
        Picture(Path("x"), label, sha256) for label, sha256 in ((0, "a"), (0, "b"), (1, "c"))
    ]
    with pytest.raises(CatdogError, match="at least two different training pictures of each"):
        split_off([*pictures, pictures[-1]], 0.5, 0)


# --- The study, with a training that only says a loss --------------------------------


def _epoch(number: int, loss: float) -> Epoch:
    scores = Scores(loss, 0.5, 0.5, Confusion(1, 1, 1, 1), 4)
    return Epoch(number, scores, scores, 0.01, 1.0, 4.0, is_best=True)


def _train(head: OptimConfig, on_epoch, *, epochs: int = 2) -> float:
    """A training whose loss is its learning rate."""
    for number in range(1, epochs + 1):
        on_epoch(_epoch(number, head.learning_rate))
    return head.learning_rate


@pytest.fixture
def logged(monkeypatch) -> list[tuple]:
    """What would be logged of trials, in place of logging it."""
    calls: list[tuple] = []
    monkeypatch.setattr(sweep, "log_trial", lambda *given: calls.append(given))
    return calls


def _run(study: optuna.Study, trials: int, train=_train, *, seed: int = 0, run=None) -> list[float]:
    """Run trials until there are as many; the learning rates of all."""
    sweep.run_trials(replace(CONFIG, trials=trials, seed=seed), study, run, train)
    return [trial.params["learning_rate"] for trial in study.get_trials(states=sweep.FINISHED)]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A PostgreSQL server."""
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite:///sweeps.db", pytest.param("postgresql", marks=pytest.mark.slow)])
def storage(request) -> str:
    return request.getfixturevalue("server") if "post" in request.param else request.param


def test_the_trial_of_a_killed_process_is_run_again(storage, logged, monkeypatch):
    monkeypatch.setattr(sweep, "HEARTBEAT_S", 1)
    forked = multiprocessing.get_context("fork")  # a new one would spend its time with imports
    begun = forked.Event()

    def hang(*_: object) -> None:
        begun.set()
        time.sleep(60)

    process = forked.Process(target=lambda: _run(_study("killed", storage), 2, hang))
    process.start()
    assert begun.wait(30)
    process.kill()
    process.join()
    stale = time.time() + 4  # by the clock that heartbeats are written with
    while time.time() < stale:
        time.sleep(0.1)
    study = _study("killed", storage)
    _run(study, 2)
    usual = OptimConfig().learning_rate
    assert [(trial.state, trial.params.get("learning_rate")) for trial in study.trials][:2] == [
        (TrialState.FAIL, usual),
        (TrialState.COMPLETE, usual),
    ]


def test_the_seed_decides_what_is_tried_and_nothing_is_drawn_twice(logged):
    whole = _run(_study("whole"), 12)
    _run(_study("cut"), 4)
    assert _run(_study("cut"), 12) == whole
    assert len(set(whole)) == 12
    assert not set(_run(_study("other"), 3, seed=1)[1:]) & set(whole)


def test_what_is_worse_than_half_of_the_others_is_pruned_in_its_third_epoch(logged):
    study, losses = _study(), iter([0.1] * 8 + [1.0] * 2)

    def train(head, on_epoch) -> float:
        loss = next(losses)
        return _train(replace(head, learning_rate=loss), on_epoch, epochs=5)

    _run(study, 10, train)
    pruned = study.get_trials(states=[TrialState.PRUNED])
    assert [trial.number for trial in pruned] == [8, 9]
    assert all(list(trial.intermediate_values) == [1, 2, 3] for trial in pruned)
    assert [state for *_, state in logged] == ["COMPLETE"] * 8 + ["PRUNED"] * 2


def test_a_trial_that_diverges_is_pruned_and_where_all_do_it_is_told(said, logged):
    study = _study()
    _run(study, 2, Mock(side_effect=CatdogError("training diverged in epoch 1")))
    assert {trial.state for trial in study.trials} == {TrialState.PRUNED}
    assert said[0].startswith("trial   0: pruned after 0 epochs, diverged")
    with pytest.raises(CatdogError, match="no trial came to its end"):
        sweep._best(CONFIG, study, None)


# --- The storage ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("postgresql://ada:Zq7@db/sweeps", "storage=postgresql://ada:***@db/sweeps holds"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dada%3BPWD%3DZq7", "storage=mssql+pyodbc:/// holds"),
        ("sweep.log", "storage=sweep.log is no URL of a database"),
    ],
)
def test_a_password_in_the_storage_is_refused_and_shown_nowhere(where, shown, tmp_path, capsys):
    script = importlib.import_module("scripts.sweep")
    assert cli.run(script.main, SweepConfig, ["--storage", where, "--resume", "0123"]) == 2
    said = capsys.readouterr()
    assert f"error: {shown}" in said.err
    assert "Zq7" not in said.out + said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("nosuch://ada@host/db", "Can't load plugin"),
        ("sqlite:////proc/no/sweeps.db", "unable to open"),
        ("sqlite:///damaged.db", "file is not a database"),
        ("postgresql+psycopg2://ada@127.0.0.1:1/db", "connection to server"),
    ],
)
def test_a_storage_that_can_not_be_opened_is_one_sentence(where, reason, tracking_store):
    Path("damaged.db").write_text("no database\n", encoding="utf-8")
    with pytest.raises(CatdogError, match=rf"^storage=\S+ does not answer \(.*{reason}") as caught:
        _study("s", where)
    assert "\n" not in str(caught.value)


def test_the_database_of_mlflow_is_left_as_it_is(tracking_store):
    with contextlib.closing(sqlite3.connect("mlflow.db")) as database:
        before = list(database.iterdump())
        with pytest.raises(CatdogError, match=r"MLflow's own.*a database of the study's own"):
            _study("s", "sqlite:///mlflow.db")
        assert list(database.iterdump()) == before
