"""Who runs which trial: in one process, in several, and after one of them was killed."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, make_url, text

from catdog import CatdogError
from catdog.sweep import storage, study
from catdog.sweep.storage import open_storage
from catdog.sweep.study import RUN, FrozenTrial, Study, Trial, TrialPruned, open_study
from tests.conftest import child_environment
from tests.mlflow_server import postgres

WORKER = """
import sys, time
from pathlib import Path
from catdog.sweep import storage, study
where, run_id, count, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
storage.HEARTBEAT_S, storage.DEAD_AFTER_S = 1, 2
mine = study.open_study("s", storage.open_storage(where, Path()), run_id=run_id, seed=0)
def objective(trial):
    value = trial.suggest_float("x", 0, 1)
    print("began", flush=True)
    time.sleep(seconds)
    return value
print("ready", flush=True)
sys.stdin.readline()
mine.work(objective, count)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[URL]:
    """A PostgreSQL server."""
    with postgres() as url:
        yield make_url(url)


@pytest.fixture(
    params=[
        "sqlite:///sweeps.db",
        "shared/sweep.log",
        pytest.param("postgresql", marks=pytest.mark.slow),
    ]
)
def where(request) -> str:
    """A database in a file, a file of Optuna's, and a new database on a server."""
    if request.param != "postgresql":
        return request.param
    url: URL = request.getfixturevalue("server")
    name = f"sweeps_{uuid.uuid4().hex}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.set(database=name).render_as_string()


def _study(where: str = "auto", *, run_id: str = "a", seed: int = 0, **options) -> Study:
    return open_study("s", open_storage(where, Path()), run_id=run_id, seed=seed, **options)


def _objective(trial: Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def _work(mine: Study, count: int, objective: Callable[[Trial], float] = _objective) -> None:
    mine.work(objective, count)


def _drawn(mine: Study) -> list[float]:
    return [trial.params["x"] for trial in mine.finished()]


def _start(where: str, run_id: str, *, count: int, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, where, run_id, str(count), str(seconds)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, env=child_environment(), text=True, stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert process.stdout.readline() == "ready\n"
    return process


def _killed_in_a_trial(where: str, run_id: str) -> None:
    process = _start(where, run_id, count=2, seconds=60)
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def test_two_processes_share_the_trials(where):
    processes = [_start(where, run_id, count=12, seconds=0.2) for run_id in "ab"]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate(timeout=120)[1] == ""
        assert process.returncode == 0
    mine = _study(where)
    assert len(mine.finished()) == 12
    assert {trial.user_attrs[RUN] for trial in mine.finished()} == {"a", "b"}
    assert len(set(_drawn(mine))) == 12


def test_only_missing_trials_are_run(where):
    _work(_study(where), 3)
    _work(_study(where), 3)
    _work(_study(where), 5)
    assert [trial.number for trial in _study(where).finished()] == [0, 1, 2, 3, 4]


def test_the_trial_of_a_killed_process_is_made_up_for_at_once_by_the_run_that_goes_on(where):
    _killed_in_a_trial(where, "a")
    mine = _study(where)
    _work(mine, 2)
    assert [trial.number for trial in mine.finished()] == [1, 2]
    assert mine.failed() == [0]


def test_the_trial_of_a_killed_process_is_made_up_for_by_others(monkeypatch):
    _killed_in_a_trial("auto", "a")
    monkeypatch.setattr(storage, "DEAD_AFTER_S", 2)
    other = _study(run_id="b")
    start = time.monotonic()
    _work(other, 1)
    assert [trial.number for trial in other.finished()] == [1]
    assert time.monotonic() - start < 30


def test_a_file_knows_from_mlflow_that_a_process_has_ended(said, monkeypatch):
    _killed_in_a_trial("sweep.log", "a")
    answers = iter(["RUNNING", "KILLED"])
    monkeypatch.setattr(study.run, "status_of", lambda _: next(answers))
    monkeypatch.setattr(study, "PATIENCE_S", 0.0)
    other = _study("sweep.log", run_id="b")
    other.work(_objective, 1)
    assert "Waiting for trial 0 of study s, which MLflow run a began" in said[0]
    assert [trial.number for trial in other.finished()] == [1]


def test_a_sweep_that_was_cut_draws_what_an_unbroken_one_draws():
    whole = _study("sqlite:///whole.db")
    _work(whole, 14)
    cut = _study("sqlite:///cut.db")
    _work(cut, 5)

    def interrupt(trial: Trial) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _work(cut, 14, interrupt)
    _work(_study("sqlite:///cut.db"), 14)
    assert _drawn(cut) == _drawn(whole)
    other = _study("sqlite:///other.db", seed=1)
    _work(other, 14)
    assert not set(_drawn(other)) & set(_drawn(whole))


def test_the_first_trial_is_the_given_one():
    mine = _study()
    mine.work(_objective, 3, first={"x": 0.125})
    assert _drawn(mine)[0] == 0.125
    assert 0.125 not in _drawn(mine)[1:]


def test_an_error_ends_the_work_and_the_trial_is_missing():
    def fails(trial: Trial) -> float:
        raise CatdogError("x")

    mine = _study()
    with pytest.raises(CatdogError):
        _work(mine, 1, fails)
    assert mine.finished() == []
    assert mine.failed() == [0]


def _break(where: str) -> None:
    """Lose a table of a database, or write into a file what no study says."""
    if "://" not in where:
        with Path(where).open("a", encoding="utf-8") as log:
            log.write("no study\n")
        return
    engine = create_engine(where)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE trial_intermediate_values"))
    engine.dispose()


def test_a_storage_that_fails_in_a_trial_is_told_as_what_it_is(where, capfd):
    def breaks(trial: Trial) -> float:
        _break(where)
        trial.report(0.5, 1)
        trial.report(0.5, 2)
        return 0.5

    mine = _study(where)
    with pytest.raises(CatdogError) as caught:
        _work(mine, 1, breaks)
    assert str(caught.value).startswith(f"storage={where} does not answer (")
    assert ("trial_intermediate_values" in str(caught.value)) == ("://" in where)
    assert "Traceback" not in capfd.readouterr().err  # of the heartbeat's thread, say


def test_a_heartbeat_outlives_a_short_failure_of_the_storage(monkeypatch):
    monkeypatch.setattr(storage, "HEARTBEAT_S", 1)
    beats: list[object] = []

    def last_beat() -> object:
        with contextlib.closing(sqlite3.connect("sweeps.db")) as database:
            return database.execute("SELECT heartbeat FROM trial_heartbeats").fetchone()

    def objective(trial: Trial) -> float:
        time.sleep(0.5)
        whole = Path("sweeps.db").read_bytes()
        Path("sweeps.db").write_bytes(b"no database" * 1000)
        time.sleep(1)
        Path("sweeps.db").write_bytes(whole)
        beats.append(last_beat())
        time.sleep(2)
        beats.append(last_beat())
        return 0.5

    mine = _study()
    _work(mine, 1, objective)
    assert len(mine.finished()) == 1
    assert beats[0] != beats[1]


def test_a_storage_that_fails_between_trials_is_told_so_too():
    mine = _study()
    _work(mine, 2)
    Path("sweeps.db").write_bytes(b"no database" * 1000)
    for ask in (mine.finished, mine.failed, mine.figures, lambda: _work(mine, 3), _study):
        with pytest.raises(
            CatdogError, match=r"sweeps.db (does not answer|can't be opened) \(file"
        ):
            ask()


@pytest.mark.parametrize("error", [CatdogError("pictures are gone"), KeyboardInterrupt()])
def test_what_cut_a_trial_is_told_where_the_storage_fails_as_well(error):
    def fails(trial: Trial) -> float:
        Path("sweeps.db").write_bytes(b"no database" * 1000)
        raise error

    with pytest.raises(type(error)) as caught:
        _work(_study(), 1, fails)
    assert caught.value is error


def test_a_process_that_was_taken_for_dead_goes_on_with_another_trial(where):
    mine, other = _study(where), _study(where, run_id="b")

    def slow(trial: Trial) -> float:
        if trial.number == 0:
            other.study.tell(0, state=study.TrialState.FAIL)
        trial.report(0.5, 1)
        return 0.5

    _work(mine, 1, slow)
    assert [trial.number for trial in mine.finished()] == [1]


def test_an_error_of_the_objective_is_never_taken_for_that():
    def wrong(trial: Trial) -> float:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        _work(_study(), 1, wrong)


def test_what_is_worse_than_half_of_the_others_is_pruned_after_its_third_epoch():
    def objective(trial: Trial) -> float:
        loss = 1.0 if trial.number >= 8 else 0.1
        for epoch in range(1, 6):
            trial.report(loss, epoch)
            if trial.should_prune():
                raise TrialPruned
        return loss

    mine = _study()
    _work(mine, 10, objective)
    pruned = [trial for trial in mine.finished() if trial.state.name == "PRUNED"]
    assert [trial.number for trial in pruned] == [8, 9]
    assert all(list(trial.intermediate_values) == [1, 2, 3] for trial in pruned)


def test_the_best_is_the_lowest_that_was_not_pruned():
    mine = _study()
    _work(mine, 5)
    best: FrozenTrial = mine.best_of(mine.finished())
    assert best.value == min(_drawn(mine))

    def pruned(trial: Trial) -> float:
        raise TrialPruned

    none = open_study("none", open_storage("auto", Path()), run_id="a", seed=0)
    _work(none, 2, pruned)
    with pytest.raises(CatdogError, match="no trial of study none came to its end"):
        none.best_of(none.finished())
    assert none.figures() == {}


def test_the_pictures_show_parameters():
    mine = _study()
    _work(mine, 4, lambda trial: _objective(trial) + trial.suggest_categorical("views", [1]))
    assert set(mine.figures()) == {"parallel_coordinates", "parameter_importances"}
