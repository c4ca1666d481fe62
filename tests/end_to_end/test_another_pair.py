"""Ants and bees, from a folder to answers: nothing that is said of them is of cats and dogs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from catdog.config import (
    EvaluateConfig,
    ExportConfig,
    MainConfig,
    PredictConfig,
)
from catdog.registry import versions
from catdog.tracking.store import connect
from scripts import evaluate, export, main, predict
from tests.conftest import OTHER_COLOURS, encoded, tiny_picture

pytestmark = pytest.mark.slow

URI = "models:/insects/Production"
CATS_AND_DOGS = re.compile(r"\b(cat|dog)s?\b|p_dog", re.IGNORECASE)

INSECTS = MainConfig(
    dataset="raw",
    epochs=15,
    patience=15,
    learning_rate=0.1,
    backbone="test_resnet",
    weights="none",
    device="cpu",
    registered_model_name="insects",
)


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
def insects(tmp_path_factory, draw_folder) -> Iterator[Insects]:
    """A run on the folders Ant/ and bee/, whose names it finds by itself, and a proof of it."""
    root = tmp_path_factory.mktemp("insects")
    draw_folder(root / "raw", 60, names=OTHER_COLOURS)
    (root / "raw" / "ant").rename(root / "raw" / "Ant")
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
        assert main.main(INSECTS) == 0
        yield Insects(root, store)
    mlflow.set_tracking_uri(None)


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


def test_nothing_that_answers_speaks_of_cats_and_dogs(said, here, tmp_path, draw_folder, capsys):
    folder = draw_folder(tmp_path / "mine", 3, start=400, names=OTHER_COLOURS)
    where = {"model_uri": URI, "format": "json"}
    target, exported = str(tmp_path / "sorted"), str(tmp_path / "exported")
    asked = {"images": (str(folder),), "sort_into": target, "explain": str(tmp_path / "why")}
    assert predict.main(PredictConfig(**asked, **where, reject="no")) == 0
    assert evaluate.main(EvaluateConfig(data=str(folder), **where)) == 0
    assert export.main(ExportConfig(to=exported, model_uri=URI)) == 0
    shown = capsys.readouterr().out
    told = [shown, *said, *(path.name for path in tmp_path.rglob("*"))]
    told += [path.read_text() for path in Path(exported).glob("*.[pj][ys]*")]
    assert '"p_bee"' in shown
    assert {path.name for path in Path(target).iterdir()} == {"ant", "bee", "neither"}
    for text in told:
        found = CATS_AND_DOGS.search(text.replace("catdog", "").replace(str(tmp_path), ""))
        assert not found, text
