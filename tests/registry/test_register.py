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
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.config import TrainConfig
from catdog.data.dataset import PreparedDataset
from catdog.registry import compare, register, versions
from catdog.registry.proof import Proof
from catdog.registry.register import Released
from catdog.registry.versions import ModelVersion
from catdog.reporting import summary
from catdog.tracking.log import Run
from catdog.tracking.run import start_run
from catdog.training.judge import Trained
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

    def answers(self) -> Proof:
        proof = super().answers()
        return replace(proof, answers=proof.answers + 0.01)


class OtherEngine(QuickProof):
    """A version that is served by another engine than the one that was judged."""

    def answers(self) -> Proof:
        return replace(super().answers(), engine="pytorch-cpu")


class Broken(QuickProof):
    """A version that can't be used."""

    def answers(self) -> Proof:
        raise CatdogError("models:/pets/1 can't be used in a fresh process: no reason given")


@dataclass
class Shop:
    """A tiny training in its run, from which versions are released."""

    dataset: PreparedDataset
    trained: Trained
    run: Run

    def release(self, proof: type[QuickProof] = QuickProof, **options: object) -> Released:
        config = replace(CONFIG, **options)
        register.save(self.trained, CARD, self.run.folder / "model")
        fresh = proof("")
        version = register.register(config, self.dataset, self.trained, CARD, fresh, self.run)
        return register.release(config, self.dataset, self.trained, version, fresh, self.run)

    def summarize(self, released: Released) -> dict[str, str]:
        summary.summarize(released, self.trained, NOTHING_FOUND, self.run)
        return mlflow.get_run(self.run.id).data.tags


@pytest.fixture(scope="module")
def learned(tmp_path_factory, draw_folder) -> Iterator[tuple[PreparedDataset, Trained]]:
    """One training for all tests, in a folder and a store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("shop"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
        mlflow.set_tracking_uri(None)
        raw = draw_folder(Path("raw").resolve(), 10)
        prepared = prepare_pictures(raw, Path("data/pets").resolve())
        with start_run("x") as run:
            trained = train_and_judge(CONFIG, prepared, run)
        yield prepared, trained
    mlflow.set_tracking_uri(None)


@pytest.fixture
def shop(learned, tracking_store) -> Iterator[Shop]:
    """The training, in a run of the test's own and a registry that is empty."""
    with start_run("x") as run:
        yield Shop(*learned, run)


def _version(number: int) -> ModelVersion:
    return MlflowClient().get_model_version("pets", str(number))


def test_a_version_that_answers_alike_is_described_and_serves(said, shop):
    released = shop.release()
    version = _version(1)
    assert (released.decision.stage, version.current_stage) == ("Production", "Production")
    assert version.description.startswith(CARD)
    assert version.run_id == shop.run.id
    assert mlflow.get_run(shop.run.id).data.metrics["parity_max_abs_diff"] < 1e-3
    model = mlflow.get_logged_model(version.source.removeprefix("models:/"))
    ranked = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics}
    assert ranked["val_log_loss"] == (shop.trained.metrics["val_log_loss"], "pets-validation")
    loaded = versions.fetch("models:/pets/Production")
    kept = shop.run.folder / "model" / "model.json"
    assert (loaded / "model.json").read_bytes() == kept.read_bytes()
    tags = shop.summarize(released)
    assert (tags["registered_version"], tags["stage"]) == ("1", "Production")
    assert tags["validation_status"] == version.tags["validation_status"] == "approved"
    assert said[-1].endswith("predict.py --model-uri models:/pets/Production")


def test_photos_that_are_gone_after_training_are_named_and_the_version_gets_its_stage(
    learned, tracking_store, tmp_path, caplog
):
    dataset, trained = learned
    gone, damaged, *others = trained.validation
    gone = replace(gone, path=tmp_path / "gone.jpg")
    damaged = replace(damaged, path=tmp_path / "damaged.jpg")
    damaged.path.write_bytes(b"no picture")
    trained = replace(trained, validation=[gone, damaged, *others])
    for name in ("first", "second"):
        with start_run(name) as run:
            shop = Shop(dataset, trained, run)
            released = shop.release()
            assert shop.summarize(released)["validation_status"] == "approved"
    assert _version(1).current_stage == "Production"
    assert (released.decision.stage, released.comparison.count) == ("Staging", len(others))
    for path in (gone.path, damaged.path):
        assert f"{path} can't be read any more, it is left out" in caplog.text


@pytest.mark.parametrize("proof", [Dishonest, OtherEngine, Broken])
def test_a_version_that_was_not_proven_is_rejected_and_in_no_stage(said, shop, proof):
    released = shop.release(proof, promote="always")
    version = _version(1)
    assert (released.decision.stage, version.current_stage) == ("None", "None")
    assert shop.summarize(released)["validation_status"] == "rejected"
    assert version.tags["validation_status"] == "rejected"
    assert any(line.startswith("REJECTED: pets version 1 was reg") for line in said)
    assert not any("predict.py" in line for line in said)


def test_the_run_s_own_version_is_used_again_and_gets_its_card(shop):
    first = shop.release().version
    versions.describe(first, "")
    shop.release()
    (version,) = versions.versions("pets")
    assert version.description.startswith(CARD)
    assert version.current_stage == "Production"


def test_where_the_photos_are_too_few_for_evidence_the_champion_stays(learned, tracking_store):
    for name in ("first", "second"):
        with start_run(name) as run:
            released = Shop(*learned, run).release()
    assert (released.decision.stage, str(released.version.version)) == ("Staging", "2")
    assert "photos only" in released.decision.summary
    assert str(released.comparison.champion.version) == "1"
    assert not any("vs_champion" in name for name in mlflow.get_run(run.id).data.metrics)


def test_where_there_is_evidence_it_is_logged(learned, tracking_store, monkeypatch):
    monkeypatch.setattr(compare, "AT_LEAST", 1)
    for name in ("first", "second"):
        with start_run(name) as run:
            released = Shop(*learned, run).release()
    assert released.decision.summary.startswith("not surely better than version 1: 0 of 8 photos")
    logged = mlflow.get_run(run.id).data.metrics
    expected = released.comparison.evidence.to_dict("vs_champion_")
    assert (expected["vs_champion_count"], expected["vs_champion_accuracy"]) == (8, 0.0)
    assert {name: logged[name] for name in expected} == expected


def test_a_server_that_has_gone_says_nothing_against_a_version(shop, monkeypatch):
    def refuse(*_: object) -> None:
        raise MlflowException("nobody listens")

    monkeypatch.setattr(Run, "check_server", refuse)
    with pytest.raises(MlflowException, match="nobody listens"):
        shop.release(Broken)
    assert _version(1).tags["validation_status"] == "pending"


def test_a_model_that_can_not_be_written_leaves_the_one_before(shop, monkeypatch):
    register.save(shop.trained, CARD, Path("kept"))
    before = Path("kept/model.json").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CatdogError, match=r"can't be written to .*No space left.*: make room"):
        register.save(shop.trained, CARD, Path("kept"))
    assert Path("kept/model.json").read_bytes() == before
    assert not list(Path().glob(".kept*"))
