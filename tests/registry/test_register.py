"""From a trained classifier to a registered version that serves, or is rejected; in one process."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.config import TrainConfig
from catdog.data.dataset import PreparedDataset
from catdog.registry import register, versions
from catdog.registry.promotion import Candidate
from catdog.registry.proof import Proof
from catdog.registry.register import Released
from catdog.reporting import summary
from catdog.reporting.report import compared
from catdog.tracking.log import Run
from catdog.tracking.run import start_run
from catdog.training.judge import Trained
from tests.conftest import tiny_picture
from tests.faults.conftest import NOTHING_FOUND, QuickProof
from tests.sources import prepare_pictures
from tests.test_pipeline import train_and_judge

CARD = "# A card"
CONFIG = TrainConfig(
    dataset="pets",
    data_dir="data",
    epochs=2,
    batch_size=8,
    backbone="test_resnet",
    weights="none",
    device="cpu",
    registered_model_name="pets",
)


class Dishonest(QuickProof):
    """A version that answers otherwise than the training did."""

    def answers(self, *asked: object) -> Proof:
        told = super().answers(*asked)
        return replace(told, answers=told.answers + 0.01)


class OtherEngine(QuickProof):
    """A version that is served by another engine than the one that was judged."""

    def answers(self, *asked: object) -> Proof:
        return replace(super().answers(*asked), engine="pytorch-cpu")


class Broken(QuickProof):
    """A version that can't be used."""

    def answers(self, *_: object) -> Proof:
        raise CatdogError("models:/pets/1 can't be used in a fresh process: no reason given")


@dataclass
class Shop:
    """A tiny training in its run, from which versions are released."""

    home: Path
    prepared: PreparedDataset
    trained: Trained
    run: Run

    def release(self, proof: type[QuickProof] = QuickProof, **options: object) -> Released:
        config = replace(CONFIG, **options)
        saved = register.save(self.trained, CARD, Path("model"))
        return register.register(config, self.prepared, self.trained, saved, proof(""), self.run)

    def tags(self) -> dict[str, str]:
        return mlflow.get_run(self.run.id).data.tags


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Iterator[Shop]:
    """One training for all tests, in a store and a folder of its own."""
    home = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
        mlflow.set_tracking_uri(None)
        for name in ("cat", "dog"):
            (home / "raw" / name).mkdir(parents=True)
            for number in range(10):
                tiny_picture(name, number).save(home / "raw" / name / f"{number}.jpg")
        prepared = prepare_pictures(Path("raw"), Path("data/pets"), val_fraction=0.4)
        with start_run("x") as run:
            fitted = train_and_judge(CONFIG, prepared, run)
        yield Shop(home, prepared, fitted, run)
    mlflow.set_tracking_uri(None)


@pytest.fixture
def store(learned, monkeypatch) -> Iterator[Shop]:
    """The training and its store, with an empty registry."""
    monkeypatch.chdir(learned.home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{learned.home}/mlflow.db")
    mlflow.set_tracking_uri(None)
    yield learned
    for model in MlflowClient().search_registered_models():
        MlflowClient().delete_registered_model(model.name)


@pytest.fixture
def champion(store) -> str:
    """The number of a version that serves, of a run that has finished."""
    with start_run("w") as run:
        released = replace(store, run=run).release()
    return str(released.version.version)


@pytest.fixture
def shop(store) -> Iterator[Shop]:
    """The training, in a run of the test's own."""
    with start_run("x") as run:
        yield replace(store, run=run)


def _version(number: int) -> object:
    return MlflowClient().get_model_version("pets", str(number))


def test_a_version_that_answers_alike_is_described_and_serves(said, shop):
    released = shop.release()
    version = _version(1)
    assert (released.decision.stage, version.current_stage) == ("Production", "Production")
    assert version.tags["validation_status"] == "approved"
    assert version.description.startswith("# ")
    assert version.run_id == shop.run.id
    assert any(line.startswith("A fresh process answers alike to within") for line in said)
    metrics = mlflow.get_run(shop.run.id).data.metrics
    assert metrics["parity_max_abs_diff"] < 1e-3
    model = mlflow.get_logged_model(version.source.removeprefix("models:/"))
    ranked = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics}
    assert ranked["val_log_loss"] == (shop.trained.metrics["val_log_loss"], "pets-validation")
    loaded = versions.fetch("models:/pets/Production")
    assert (loaded / "model.json").read_bytes() == Path("model/model.json").read_bytes()


@pytest.mark.parametrize("proof", [Dishonest, OtherEngine, Broken])
def test_a_version_that_was_not_proven_is_rejected_and_in_no_stage(said, shop, proof):
    released = shop.release(proof)
    version = _version(1)
    assert (released.decision.stage, version.current_stage) == ("None", "None")
    assert version.tags["validation_status"] == "rejected"
    assert versions.champion("pets") is None
    _tell(shop, released)
    assert shop.tags()["validation_status"] == "rejected"
    assert "registered_version" in shop.tags()
    assert any(line.startswith("REJECTED: pets version 1 was reg") for line in said)
    assert not any("predict.py" in line for line in said)
    assert summary.commands_to_use(released) == []


def test_a_rejected_version_leaves_the_champion_alone(champion, shop):
    shop.release(Dishonest, promote="always")
    assert [_version(number).current_stage for number in (1, 2)] == ["Production", "None"]


def test_the_run_s_own_version_is_used_again_and_gets_its_card(shop):
    first = shop.release().version
    versions.describe(first, "")
    again = shop.release()
    assert again.version.version == first.version
    assert len(versions.versions("pets")) == 1
    assert _version(1).description.startswith("# ")
    assert _version(1).current_stage == "Production"


def test_an_equal_challenger_goes_to_staging_with_the_counts_that_say_why(champion, shop):
    released = shop.release()
    metrics = mlflow.get_run(shop.run.id).data.metrics
    # Eight photos are too few for any evidence.
    assert (released.decision.stage, str(released.version.version)) == ("Staging", "2")
    assert "of 8 photos only 4 of a cat and 4 of a dog" in released.decision.told
    assert str(released.comparison.champion.version) == champion
    assert not [name for name in metrics if name.startswith("vs_champion_")]
    assert compared(released.comparison).startswith(
        "Not compared with version 1 in Production: of 8 photos only"
    )


def test_what_is_told_names_stage_figures_and_the_next_command(said, shop):
    released = shop.release()
    _tell(shop, released)
    tags = shop.tags()
    assert (tags["registered_version"], tags["stage"]) == ("1", "Production")
    assert tags["validation_status"] == "approved"
    note = tags["mlflow.note.content"]
    assert note.startswith("**pets version 1** went to **Production**: no version was in")
    assert "| accuracy |" in note
    assert "python scripts/promote.py --name pets --rollback" in note
    assert said[-1] == (
        "Label photos:  python scripts/predict.py --model-uri models:/pets/Production"
    )


def test_a_model_that_can_not_be_written_leaves_the_one_before(shop, monkeypatch):
    register.save(shop.trained, CARD, Path("kept"))
    before = (Path("kept") / "model.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(register, "put_in_place", full)
    with pytest.raises(CatdogError, match=r"can't be written to .*No space left.*: make room"):
        register.save(shop.trained, CARD, Path("kept"))
    assert (Path("kept") / "model.json").read_bytes() == before
    assert not list(Path().glob(".kept*"))


def _tell(shop: Shop, released: Released) -> None:
    summary.summarize(released, shop.trained, NOTHING_FOUND, shop.run)


def test_a_version_whose_making_was_answered_too_late_is_made_once(logged_model, monkeypatch):
    real = mlflow.register_model

    def late(*given: object, **options: object) -> None:
        real(*given, **options)
        raise MlflowException("too late", TEMPORARILY_UNAVAILABLE)

    monkeypatch.setattr(mlflow, "register_model", late)
    monkeypatch.setattr(register, "PAUSES_S", (0.0,))
    candidate = Candidate("abc", drawn=False)
    made = register.add(logged_model, "late", candidate, digest="", card="# A card")
    (only,) = versions.versions("late")
    assert (only.version, only.description) == (made.version, "# A card")
