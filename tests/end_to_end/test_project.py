"""The real `mlflow run`, read back from its store; slow, so one run serves many tests."""

from __future__ import annotations

import base64
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from tests.project import Project, copied, draw

pytestmark = pytest.mark.project


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project in which `mlflow run` has trained on tiny pictures."""
    project = copied(tmp_path_factory.mktemp("project"))
    draw(project.root / "pets" / "train", 15)
    draw(project.root / "pets" / "test", 2, labelled=False)
    project.mlflow_run("dataset=pets", "epochs=2", "learning_rate=1e-2")
    return project


@pytest.fixture(scope="module")
def trained(project) -> Run:
    """What the store says of the run."""
    (run,) = project.runs()
    return run


def test_the_run_holds_what_was_typed_and_where_it_is_found_again(project, trained):
    assert trained.info.status == "FINISHED"
    assert project.client.get_experiment("0").name == "catdog"
    assert trained.info.artifact_uri.startswith(str(project.root / "mlruns"))
    assert trained.data.params["learning_rate"] == "1e-2"
    assert trained.data.params["val_fraction"] == "0.2"
    assert trained.data.metrics["features_computed"] == 30
    assert trained.data.tags["feature_engine"] == "openvino"
    names = {item.path for item in project.client.list_artifacts(trained.info.run_id)}
    assert names >= {
        "augmented_batch.png",
        "config.json",
        "confusion_matrix.json",
        "confusion_matrix.png",
        "data",
        "familiarity.png",
        "images",
        "learning_curves.png",
        "predictions",
        "report.html",
        "reliability.png",
        "sample_images.png",
        "tables",
    }


def test_the_version_is_proven_by_a_fresh_process_and_serves(project, trained):
    assert trained.data.metrics["parity_max_abs_diff"] <= 1e-3
    version = project.client.get_model_version_by_alias("catdog", "production")
    assert (str(version.version), version.current_stage) == ("1", "Production")
    assert version.run_id == trained.info.run_id
    assert version.tags["validation_status"] == "approved"
    assert version.description.startswith("# Cat and dog")


def test_no_file_of_the_registered_model_is_a_pickle(project):
    mlflow.set_tracking_uri(f"sqlite:///{project.root}/mlflow.db")
    folder = Path(mlflow.artifacts.download_artifacts("models:/catdog/1"))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    ours = {"model.json", "weights.safetensors", "backbone.onnx", "model_card.md"}
    assert names >= ours | {"MLmodel"}
    assert not {name for name in names if name.endswith((".pkl", ".pth", ".pt", ".bin"))}
    pins = (folder / "requirements.txt").read_text().split()
    assert all("==" in pin and "+" not in pin for pin in pins)


def test_predict_labels_the_test_photos_of_the_data_set(project):
    ended = project.script("predict", "--model-uri", "models:/catdog/Production")
    header, *rows = ended.stdout.splitlines()
    assert header.split() == ["label", "confidence", "p_dog", "familiarity", "path"]
    assert len(rows) == 4
    for row in rows:
        assert row.split()[0] == ("cat" if "cat" in row.split()[-1] else "dog")


@pytest.fixture(scope="module")
def served(project) -> Iterator[str]:
    """The address of MLflow's own server, started as docs/serving.md says."""
    command = ("mlflow", "models", "serve", "-m", "models:/catdog/Production")
    with project.serving(*command, "--env-manager", "local") as address:
        yield address


def _post(address: str, *contents: bytes, **params: object) -> tuple[int, list[dict]]:
    records = [{"image": base64.b64encode(content).decode()} for content in contents]
    body = json.dumps({"dataframe_records": records, "params": params}).encode()
    kind = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{address}/invocations", body, kind)
    try:
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return answer.status, json.load(answer)["predictions"]
    except urllib.error.HTTPError as refused:
        return refused.code, []


def test_the_server_answers_photos_as_predict_does(project, served):
    photos = sorted((project.root / "pets" / "test").iterdir())
    status, answers = _post(served, *(photo.read_bytes() for photo in photos))
    assert status == 200
    ended = project.script("predict", *map(str, photos), "--format", "json")
    for answer, row in zip(answers, json.loads(ended.stdout), strict=True):
        assert answer["label"] == row["label"]
        assert answer["p_dog"] == pytest.approx(row["p_dog"], abs=1e-6)
        assert answer["familiarity"] == pytest.approx(row["familiarity"], abs=1e-4)


def test_the_server_takes_options_and_survives_what_is_no_photo(project, served):
    photo = (project.root / "pets" / "test" / "0dog.jpg").read_bytes()
    _, (answer,) = _post(served, photo, threshold=1.0, reject=False)
    assert answer["label"] == "cat"
    assert _post(served, photo, threshold=7.0) == (400, [])
    status, answers = _post(served, b"plain text", photo, bytes(37_500_000))  # 50 MB in base64
    assert status == 200
    assert [answer["label"] for answer in answers] == ["", "dog", ""]


def test_nothing_is_told_to_anybody_by_what_trained_and_answers(project, served):
    _post(served, (project.root / "pets" / "test" / "0dog.jpg").read_bytes())
    labelled = project.root / "data" / "pets" / "validation"
    project.script("evaluate", "--data", str(labelled))
    with project.serving(sys.executable, "scripts/app.py", "--open", "no"):
        pass
    # MLflow's own command, which the user has typed, asks what it shall report.
    mlflows = f"config.mlflow-telemetry.io {Path(sys.executable).parent / 'mlflow'} run "
    assert [line for line in project.asked if not line.startswith(mlflows)] == []
    assert not (project.root / "home" / "intel").exists()


@pytest.mark.timeout(1800)
def test_photos_are_learned_to_985_in_a_thousand(tmp_path, photos):
    project = copied(tmp_path)
    project.mlflow_run(f"dataset={photos}", "epochs=10")
    (run,) = project.runs()
    assert run.data.metrics["best_val_accuracy"] >= 0.985
    assert run.data.metrics["baseline_accuracy"] > 0.95
    assert run.data.metrics["features_computed"] == 2002
    assert run.data.tags["data"] == "photos"
    ended = project.script("predict", "--format", "jsonl", "--model-uri", "models:/catdog/1")
    assert len(ended.stdout.splitlines()) == 1001
