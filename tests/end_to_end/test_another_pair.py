"""Ants and bees, from a folder to answers: nothing that is said of them is of cats and dogs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.config import (
    EvaluateConfig,
    ExportConfig,
    MainConfig,
    PredictConfig,
    PrepareConfig,
    PromoteConfig,
    SweepConfig,
    TrainConfig,
)
from catdog.registry import register, versions
from catdog.registry.promotion import Candidate
from catdog.tracking.store import connect
from scripts import evaluate, export, main, predict, prepare, promote, sweep, train
from tests.conftest import OTHER_COLOURS, encoded, tiny_picture

pytestmark = pytest.mark.slow

URI = "models:/insects/Production"
CATS_AND_DOGS = re.compile(r"\b(cat|dog)s?\b|p_dog", re.IGNORECASE)


@dataclass(frozen=True)
class Insects:
    """Where a run has trained, and its store."""

    root: Path
    store: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.store, registry_uri=self.store)

    @property
    def run(self) -> Run:
        return self.client.search_runs(["0"])[-1]

    def text(self, name: str) -> str:
        mlflow.set_tracking_uri(self.store)
        return mlflow.artifacts.load_text(f"{self.run.info.artifact_uri}/{name}")


@pytest.fixture(scope="module")
def insects(tmp_path_factory) -> Iterator[Insects]:
    """A run on the folders Ant/ and bee/, whose names it finds by itself, and a proof of it."""
    root = tmp_path_factory.mktemp("insects")
    for name, folder in (("ant", "Ant"), ("bee", "bee")):
        (root / "raw" / folder).mkdir(parents=True)
        for number in range(60):
            picture = tiny_picture(name, number)
            picture.save(root / "raw" / folder / f"{number}.jpg")
    (root / "raw" / "test").mkdir()
    tiny_picture("bee", 99).save(root / "raw" / "test" / "1.jpg")
    tiny_picture("ant", 3).save(root / "raw" / "bee" / "wrong.jpg", quality=60)
    store = f"sqlite:///{root}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", store)
        for name in ("RUN_ID", "EXPERIMENT_ID", "EXPERIMENT_NAME", "REGISTRY_URI"):
            patch.delenv(f"MLFLOW_{name}", raising=False)
        connect()
        begun = MlflowClient().create_run("0")  # as `mlflow run` does
        patch.setenv("MLFLOW_RUN_ID", begun.info.run_id)
        assert main.main(_config(MainConfig)) == 0
        yield Insects(root, store)
    mlflow.set_tracking_uri(None)


def _config(kind: type, **options: object):
    fixed = {
        "dataset": "raw",
        "epochs": 15,
        "patience": 15,
        "learning_rate": 0.1,
        "backbone": "test_resnet",
        "weights": "none",
        "device": "cpu",
        "registered_model_name": "insects",
    }
    return kind(**(fixed | options))


@pytest.fixture
def here(insects, monkeypatch) -> Insects:
    monkeypatch.chdir(insects.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", insects.store)
    return insects


def test_the_classes_stand_in_the_run_the_version_and_the_model(here):
    assert here.run.data.tags["classes"] == "ant,bee"
    version = versions.version_of(URI)
    assert version.tags["classes"] == "ant,bee"
    assert version.description.startswith("# Ant and bee")
    described = json.loads((versions.fetch(URI) / "model.json").read_text())
    assert described["classes"] == ["ant", "bee"]
    assert here.run.data.metrics["val_accuracy_score"] > 0.9
    model = mlflow.pyfunc.load_model(URI)
    columns = ["label", "confidence", "p_bee", "familiarity", "error"]
    assert [column.name for column in model.metadata.signature.outputs] == columns
    photos = [encoded(tiny_picture(name, 200)) for name in OTHER_COLOURS]
    answers = model.predict(pd.DataFrame({"image": photos}), {"reject": False})
    assert list(answers.columns) == columns
    assert answers["label"].tolist() == ["ant", "bee"]
    assert here.run.data.metrics["parity_max_abs_diff"] <= 1e-3


def test_nothing_that_the_run_says_speaks_of_cats_and_dogs(here):
    page = re.sub(r'base64,[^"]*', "", here.text("report.html"))
    assert "ant taken for bee" in page
    assert "an ant" in page
    assert "p_bee" in page
    told = {
        "report": page,
        "card": versions.version_of(URI).description,
        "description": here.run.data.tags["mlflow.note.content"],
        "thresholds": here.text("tables/thresholds.csv"),
        "classes": here.text("tables/per_class_metrics.csv"),
        "slices": here.text("tables/slices.csv"),
        "audit": here.text("data/audit.csv"),
        "predictions": here.text("predictions/validation.json"),
        "tags": json.dumps(here.run.data.tags),
        "experiment": json.dumps(here.client.get_experiment("0").tags),
    }
    for name, text in told.items():
        assert not CATS_AND_DOGS.search(text), (name, CATS_AND_DOGS.search(text))


def test_new_photos_are_labelled_sorted_and_explained(said, here, tmp_path):
    for name in OTHER_COLOURS:
        tiny_picture(name, 300).save(tmp_path / f"{name}.png")
    output, target = tmp_path / "rows.csv", tmp_path / "sorted"
    status = predict.main(
        PredictConfig(
            images=(str(tmp_path / "ant.png"), str(tmp_path / "bee.png")),
            model_uri=URI,
            format="csv",
            output=str(output),
            sort_into=str(target),
            explain=str(tmp_path / "why"),
            reject="no",
        )
    )
    assert status == 0
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == ["ant", "bee"]
    assert float(rows[0]["p_bee"]) < 0.5 < float(rows[1]["p_bee"])
    assert "p_dog" not in rows[0]
    assert {path.name for path in target.iterdir()} == {"ant", "bee", "neither"}
    assert [path.name for path in (target / "bee").iterdir()] == ["bee.png"]
    assert len(list((tmp_path / "why").iterdir())) == 2
    assert "(1 ant, 1 bee, 0 neither)" in said[-1]


def test_a_labelled_folder_is_named_after_the_classes(here, tmp_path, draw_folder, capsys):
    folder = draw_folder(tmp_path / "mine", 6, start=400, names=OTHER_COLOURS)
    assert evaluate.main(EvaluateConfig(data=str(folder), model_uri=URI, format="json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == 1
    assert {row["name"] for row in found["slices"] if row["group"] == "class"} == {"ant", "bee"}
    with pytest.raises(CatdogError, match="needs pictures in both ant/ and bee/"):
        evaluate.main(EvaluateConfig(data=str(draw_folder(tmp_path / "pets", 2)), model_uri=URI))


def test_the_export_answers_for_the_pair(here, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    target = tmp_path / "exported"
    assert export.main(ExportConfig(to=str(target), model_uri=URI)) == 0
    described = json.loads((target / "preprocessing.json").read_text())
    assert described["classes"] == ["ant", "bee"]
    assert described["output"].startswith("p_bee (N,)")
    assert not CATS_AND_DOGS.search((target / "example.py").read_text())


def test_versions_are_compared_and_promoted_under_the_models_name(
    here, tmp_path, draw_folder, capsys
):
    first = versions.version_of(URI)
    approved = replace(Candidate.from_tags(first.tags), status="approved")
    digest = first.tags["model_digest"]
    register.add(first.source, "insects", approved, digest=digest, card="# The same again")
    fresh = draw_folder(tmp_path / "mine", 30, start=500, names=OTHER_COLOURS)
    asked = PromoteConfig(name="insects", data=str(fresh), dry_run="yes")
    assert promote.main(asked) == 1
    assert "not surely better than version 1" in capsys.readouterr().out
    assert promote.main(PromoteConfig(name="insects", to="2", because="we agreed")) == 0
    pets = draw_folder(tmp_path / "pets", 3)
    with pytest.raises(CatdogError, match="needs pictures in both ant/ and bee/"):
        promote.main(replace(asked, version="1", data=str(pets)))


def test_training_alone_refuses_pictures_of_another_pair(here):
    with pytest.raises(CatdogError, match=r"was prepared for \w+ and \w+, not for classes=x,y"):
        train.main(_config(TrainConfig, classes="x,y"))


@pytest.mark.parametrize(
    ("script", "config"),
    [
        (main, MainConfig(classes="ant,bee", backbone="test_resnet", resume="auto")),
        (sweep, SweepConfig(classes="ant,bee", backbone="test_resnet", resume="auto")),
        (prepare, PrepareConfig(classes="ant,bee")),
    ],
)
def test_the_classes_that_are_typed_reach_whoever_sorts_the_pictures(
    tmp_path, monkeypatch, draw_folder, script, config
):
    asked: list[str] = []

    def enough(_source: object, config: PrepareConfig) -> None:
        asked.append(config.classes)
        raise CatdogError("enough is known")

    monkeypatch.setattr("catdog.data.prepare.prepare", enough)
    folder = draw_folder(tmp_path / "raw", 2, names=OTHER_COLOURS)
    with pytest.raises(CatdogError, match="enough is known"):
        script.main(replace(config, dataset=str(folder)))
    assert asked == ["ant,bee"]
