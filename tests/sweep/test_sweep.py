"""A sweep from its first trial to the registered version, and what goes on after it was cut."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.config import MainConfig, SweepConfig
from catdog.data.dataset import PreparedDataset
from catdog.sweep import sweep, trials
from catdog.sweep.storage import open_storage
from catdog.sweep.study import open_study
from catdog.tracking import resume
from tests.conftest import heard, tiny_picture
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


@dataclass(frozen=True)
class Version:
    name: str
    version: str


pytestmark = pytest.mark.usefixtures("tracking_store")


@pytest.fixture
def prepared(tmp_path) -> PreparedDataset:
    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(8):
            tiny_picture(name, number).save(tmp_path / "raw" / name / f"{number}.jpg")
    return prepare_pictures(tmp_path / "raw", tmp_path / "data" / "pets", val_fraction=0.25)


@pytest.fixture
def registered(monkeypatch) -> list[tuple[str, MainConfig]]:
    """The runs that trained with the best, and with which parameters, in place of doing it."""
    done: list[tuple[str, MainConfig]] = []

    def train_and_register(config, prepared, run, *, folder) -> Version:
        done.append((run.id, config))
        return Version(config.registered_model_name, str(len(done)))

    monkeypatch.setattr(sweep, "train_and_register", train_and_register)
    return done


def _sweep(prepared: PreparedDataset, **options: object) -> tuple[Run, list[str]]:
    config = replace(CONFIG, **options)
    with (
        heard() as said,
        resume.open_run(config, "sweep", "x", lambda: prepared) as (_, folder, run),
    ):
        sweep.sweep_and_register(config, prepared, run, folder=folder)
    return MlflowClient().get_run(folder.note.run_id), said


def _trials_below(run_id: str) -> list[int]:
    client = MlflowClient()
    found = client.search_runs(
        [client.get_run(run_id).info.experiment_id],
        f"tags.trial != '' and tags.mlflow.parentRunId = '{run_id}'",
    )
    assert all(run.info.end_time for run in found)
    return sorted(int(run.data.tags["trial"]) for run in found)


def _cut(monkeypatch, *, after: int) -> None:
    """Let Ctrl-C come in a later trial."""
    begun: list[object] = []

    def learn(*arguments: object) -> object:
        begun.append(arguments)
        if len(begun) == after + 1:
            raise KeyboardInterrupt
        return whole(*arguments)

    whole = trials.learn
    monkeypatch.setattr(trials, "learn", learn)


def test_the_best_of_all_trials_is_trained_with_and_registered(prepared, registered):
    run, said = _sweep(prepared)
    study = open_study(
        run.data.tags["study"], open_storage("auto", Path("data")), run_id="x", seed=0
    )
    best = study.best_of(study.finished())
    ((run_id, chosen),) = registered
    assert run_id == run.info.run_id
    assert {name: getattr(chosen, name) for name in best.params} == best.params
    assert (chosen.epochs, chosen.promote, chosen.seed) == (2, "never", 0)
    assert run.data.tags["best_trial"] == str(best.number)
    assert run.data.metrics["best_search_loss"] == best.value
    assert run.data.metrics["trials_finished"] == 4
    assert run.data.params["trials"] == "4"
    assert _trials_below(run_id) == [0, 1, 2, 3]
    logged = {one.path for one in MlflowClient().list_artifacts(run_id)}
    assert logged >= {"parallel_coordinates.png", "parameter_importances.png"}
    assert said[-1] == f"Of this sweep MLflow run {run_id} has registered catdog version 1."


def test_the_first_trial_is_what_training_does_by_itself(prepared, registered):
    run, _ = _sweep(prepared, trials=1)
    (first,) = MlflowClient().search_runs([run.info.experiment_id], "tags.trial = '0'")
    usual = {name: str(getattr(MainConfig(), name)) for name in sweep.SEARCHED}
    assert first.data.params == usual


def test_a_sweep_that_is_finished_registers_nothing_again_and_may_be_extended(prepared, registered):
    first, _ = _sweep(prepared)
    again, said = _sweep(prepared)
    assert len(registered) == 1
    assert not any(line.startswith(("trial", "Features")) for line in said)
    assert again.data.tags["mlflow.parentRunId"] == first.info.run_id
    more, said = _sweep(prepared, trials=5)
    assert len(registered) == 2
    assert sum(line.startswith("trial") for line in said) == 1
    assert _trials_below(more.info.run_id) == [0, 1, 2, 3, 4]


def test_what_decides_the_last_training_alone_trains_again_with_the_same_trials(
    prepared, registered
):
    _sweep(prepared)
    other = {"unfreeze": "all", "registered_model_name": "other", "keep_share": 0.9}
    run, said = _sweep(prepared, **other)
    assert [run_id for run_id, _ in registered][1:] == [run.info.run_id]
    assert {key: getattr(registered[1][1], key) for key in other} == other
    assert not any(line.startswith(("trial", "Features")) for line in said)
    assert said[-1].endswith("has registered other version 2.")
    assert _trials_below(run.info.run_id) == [0, 1, 2, 3]
    _sweep(prepared, **other)
    _, said = _sweep(prepared)
    assert said[-1].endswith("has registered catdog version 1.")
    assert len(registered) == 2


def test_a_sweep_that_was_cut_goes_on_as_the_same_run(prepared, registered, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _cut(patch, after=2)
        _sweep(prepared)
    run, said = _sweep(prepared)
    everything = MlflowClient().search_runs([run.info.experiment_id])
    assert [one.info.run_id for one in everything if "trial" not in one.data.tags] == [
        run.info.run_id
    ]
    assert run.info.status == "FINISHED"
    assert sum(line.startswith("trial") for line in said) == 2
    assert _trials_below(run.info.run_id) == [0, 1, 3, 4]
    whole = open_study(
        run.data.tags["study"], open_storage("auto", Path("data")), run_id="x", seed=0
    )
    assert whole.failed() == [2]


def test_where_training_with_the_best_fails_the_next_run_does_it(prepared, registered, monkeypatch):
    def refuses(*_: object, **__: object) -> None:
        raise CatdogError("the registry refuses")

    with monkeypatch.context() as patch, pytest.raises(CatdogError, match="the registry refuses"):
        patch.setattr(sweep, "train_and_register", refuses)
        _sweep(prepared)
    run, _ = _sweep(prepared)
    assert [run_id for run_id, _ in registered] == [run.info.run_id]
    assert _trials_below(run.info.run_id) == [0, 1, 2, 3]


def test_trials_that_could_not_be_logged_are_made_up_for(prepared, registered, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trials.nested, "log", lambda _: False)
        _cut(patch, after=2)
        _sweep(prepared)
    run, _ = _sweep(prepared)
    assert _trials_below(run.info.run_id) == [0, 1, 3, 4]


def test_what_trials_rest_on_decides_the_studys_name(prepared, tmp_path):
    name = sweep.study_name(CONFIG, prepared)
    assert name.startswith("pets-")
    for same in ({"promote": "auto"}, {"trials": 9}, {"storage": "x"}, {"device": "auto"}):
        assert sweep.study_name(replace(CONFIG, **same), prepared) == name
    for other in ({"seed": 1}, {"epochs": 9}, {"most_views": 4}, {"backbone": "resnet18"}):
        assert sweep.study_name(replace(CONFIG, **other), prepared) != name
    assert sweep.study_name(CONFIG, replace(prepared, digest="other")) != name
    (tmp_path / "one.pth").write_bytes(b"1")
    (tmp_path / "two.pth").write_bytes(b"1")
    by_file = [
        sweep.study_name(replace(CONFIG, weights=str(tmp_path / file)), prepared)
        for file in ("one.pth", "two.pth")
    ]
    assert by_file[0] == by_file[1] != name


# Those of the pictures, by the digest of what was prepared.
OF_THE_PICTURES = {"dataset", "classes", "val_fraction", "exclude"}
WHERE_AND_HOW = {"data_dir", "device", "resume", "storage"}


@pytest.mark.parametrize(
    "name",
    [
        field.name
        for field in fields(SweepConfig)
        if field.name not in OF_THE_PICTURES | WHERE_AND_HOW
    ],
)
def test_every_parameter_decides_what_is_done_at_the_end(name, prepared):
    value = getattr(CONFIG, name)
    changed = replace(CONFIG, **{name: f"{value}x" if isinstance(value, str) else value + 1})
    assert sweep.end_name(changed, prepared) != sweep.end_name(CONFIG, prepared)
    assert sweep.end_name(replace(CONFIG), prepared) == sweep.end_name(CONFIG, prepared)


@pytest.mark.parametrize("name", sorted(WHERE_AND_HOW))
def test_where_and_how_it_is_done_does_not_matter(name, prepared):
    elsewhere = replace(CONFIG, **{name: "x"})
    assert sweep.end_name(elsewhere, prepared) == sweep.end_name(CONFIG, prepared)


def test_other_classes_have_an_end_of_their_own(prepared):
    turned = replace(prepared, classes=("dog", "cat"))
    assert sweep.end_name(CONFIG, turned) != sweep.end_name(CONFIG, prepared)


def test_a_study_of_a_folder_with_an_odd_name_is_found_in_mlflow(prepared, registered, tmp_path):
    odd = prepared.folder.rename(prepared.folder.with_name("Ada's pets"))
    run, _ = _sweep(replace(prepared, folder=odd), trials=1)
    assert run.data.tags["study"].startswith("Ada_s_pets-")
    assert _trials_below(run.info.run_id) == [0]
    assert mlflow.active_run() is None
