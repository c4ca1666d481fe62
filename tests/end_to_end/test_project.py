"""The real `mlflow run`, read back from its store; slow, so each run serves many tests."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.entities import Run
from PIL import Image

from tests.conftest import ROOT
from tests.project import Project, copied, draw

pytestmark = pytest.mark.project


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project in which `mlflow run` has trained twice on tiny pictures."""
    project = copied(tmp_path_factory.mktemp("project"))
    draw(project.root / "pets" / "train", 15)
    draw(project.root / "pets" / "test", 2, labelled=False)
    project.mlflow_run("dataset=pets", "epochs=2", "learning_rate=1e-2")
    project.mlflow_run("dataset=pets", "epochs=1", "learning_rate=0.0000001", "seed=0")
    return project


@pytest.fixture
def first_run(project) -> Run:
    """The first of the two runs."""
    return project.runs()[-1]


def test_the_run_holds_what_was_typed_and_where_it_is_found_again(project, first_run):
    assert [run.info.status for run in project.runs()] == ["FINISHED", "FINISHED"]
    assert project.client.get_experiment("0").name == "catdog"
    assert first_run.info.artifact_uri.startswith(str(project.root / "mlruns"))
    assert first_run.data.params["learning_rate"] == "1e-2"
    assert first_run.data.params["val_fraction"] == "0.2"
    names = {item.path for item in project.client.list_artifacts(first_run.info.run_id)}
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


def test_metrics_have_the_epoch_as_their_step(project, first_run):
    for name in ("train_loss", "val_loss", "val_accuracy", "epoch_true_positives", "epoch_seconds"):
        history = project.client.get_metric_history(first_run.info.run_id, name)
        assert [metric.step for metric in history] == [1, 2], name


def test_the_second_run_computes_no_feature_anew(project):
    second, first = project.runs()
    assert (first.data.metrics["features_computed"], first.data.metrics["features_found"]) == (
        30,
        0,
    )
    assert second.data.metrics["features_computed"] == 0
    assert second.data.tags["feature_engine"] == "openvino"


@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path):
    project = copied(tmp_path)
    draw(tmp_path / "pets", 12)
    options = ("backbone=test_resnet", "weights=none", "unfreeze=all", "finetune_epochs=1")
    project.mlflow_run("dataset=pets", "epochs=1", "processes=2", *options)
    (run,) = project.runs()
    assert (run.info.status, run.data.params["processes"]) == ("FINISHED", "2")
    assert run.data.metrics["features_computed"] == 24
    assert run.data.metrics["stopped_epoch"] == 2
    (version,) = project.client.search_model_versions("name = 'catdog'")
    assert version.run_id == run.info.run_id


def test_metrics_have_mlflows_names_and_intervals(first_run):
    metrics = first_run.data.metrics
    assert metrics["val_accuracy_score"] == metrics["best_val_accuracy"]
    for name in ("accuracy_score", "roc_auc", "log_loss", "f1_score"):
        low, high = metrics[f"val_{name}_ci_low"], metrics[f"val_{name}_ci_high"]
        assert low <= metrics[f"val_{name}"] <= high, name
    for name in ("ece", "log_loss", "brier_score"):
        assert metrics[f"val_{name}"] >= 0
        assert f"val_{name}_uncalibrated" in metrics
    assert metrics["temperature"] > 0
    assert 0.5 < metrics["neither_roc_auc"] <= 1


def test_the_report_tells_the_verdict_and_needs_nothing_else(project, first_run):
    mlflow.set_tracking_uri(f"sqlite:///{project.root}/mlflow.db")
    uri = f"runs:/{first_run.info.run_id}/report.html"
    page = Path(mlflow.artifacts.download_artifacts(uri)).read_text(encoding="utf-8")
    assert "catdog version 1" in page
    assert f"run {first_run.info.run_id}, 20" in page
    assert "of 6 held back photos" in page
    assert "went to Production" in page
    assert 'src="http' not in page


def test_the_first_version_is_in_production_and_a_worse_one_in_staging(project):
    versions = project.client.search_model_versions("name = 'catdog'")
    stages = {version.version: version.current_stage for version in versions}
    accuracies = [run.data.metrics["best_val_accuracy"] for run in reversed(project.runs())]
    assert accuracies[0] > accuracies[1]
    assert {int(version): stage for version, stage in stages.items()} == {
        1: "Production",
        2: "Staging",
    }
    reason = project.runs()[0].data.tags["stage_reason"]
    assert reason.startswith("not comparable with version 1: of 6 photos only 3 and 3 of the")
    alias = project.client.get_model_version_by_alias("catdog", "production")
    assert int(alias.version) == 1


def test_a_fresh_process_answers_as_the_training_process_did(project, first_run, tmp_path):
    store = f"sqlite:///{project.root}/mlflow.db"
    mlflow.set_tracking_uri(store)
    uri = f"runs:/{first_run.info.run_id}/predictions/validation.parquet"
    expected = pd.read_parquet(mlflow.artifacts.download_artifacts(uri))
    assert len(expected) == 6
    photos = [str(project.root / "data" / "pets" / path) for path in expected["path"]]
    code = (
        "import json, sys, mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model('models:/catdog/Production')\n"
        "photos = [open(path, 'rb').read() for path in json.load(sys.stdin)]\n"
        "answers = model.predict(pd.DataFrame({'image': photos}))\n"
        "json.dump(answers.to_dict('list'), open('answers.json', 'w'))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment
        | {"MLFLOW_TRACKING_URI": store, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        input=json.dumps(photos),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert answers["p_dog"] == pytest.approx(expected["p_dog"].tolist(), abs=1e-4)
    assert answers["familiarity"] == pytest.approx(expected["familiarity"].tolist(), abs=1e-4)
    assert answers["label"] == expected["answer"].tolist()
    assert answers["error"] == [""] * 6


def test_the_version_is_proven_in_the_run(project, first_run):
    metrics = first_run.data.metrics
    assert metrics["parity_max_abs_diff"] <= 1e-3
    version = project.client.get_model_version("catdog", "1")
    assert version.tags["validation_status"] == "approved"
    assert version.description.startswith("# Cat and dog")


def test_no_file_of_the_registered_model_is_a_pickle(project):
    version = project.client.get_model_version("catdog", "1")
    mlflow.set_tracking_uri(f"sqlite:///{project.root}/mlflow.db")
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/catdog/{version.version}"))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {
        "MLmodel",
        "model.json",
        "weights.safetensors",
        "backbone.onnx",
        "model_card.md",
    } <= names
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


@pytest.mark.slow
def test_predict_from_another_folder_finds_the_same_store(project, tmp_path):
    photo = project.root / "pets" / "test" / "0dog.jpg"
    ended = project.start(
        sys.executable,
        str(project.root / "scripts" / "predict.py"),
        *("--model-uri", "models:/catdog@production", "--format", "json", str(photo)),
        cwd=tmp_path,
    )
    (row,) = json.loads(ended.stdout)
    assert row["label"] == "dog"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def served(project) -> Iterator[str]:
    """The address of MLflow's own server, started as docs/serving.md says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "mlflow"), "models", "serve"]
    command += ["-m", "models:/catdog/Production", "--env-manager", "local", "-p", str(port)]
    environment = project.environment()
    with (project.root / "served.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=project.root, env=environment, stderr=log, start_new_session=True
        )
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while not _alive(address) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
        yield address
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _alive(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/ping", timeout=5).status == 200
    except OSError:
        return False


def _post(address: str, body: bytes) -> tuple[int, bytes]:
    kind = {"Content-Type": "application/json"}
    try:
        asked = urllib.request.Request(f"{address}/invocations", body, kind)
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def _asked(*contents: bytes, **params: object) -> bytes:
    records = [{"image": base64.b64encode(content).decode()} for content in contents]
    return json.dumps({"dataframe_records": records, "params": params}).encode()


def test_the_server_answers_photos_as_predict_does(project, served):
    photos = sorted((project.root / "pets" / "test").iterdir())
    status, body = _post(served, _asked(*(photo.read_bytes() for photo in photos)))
    assert status == 200
    answers = json.loads(body)["predictions"]
    ended = project.script("predict", *map(str, photos), "--format", "json")
    for answer, row in zip(answers, json.loads(ended.stdout), strict=True):
        assert answer["label"] == row["label"]
        assert answer["p_dog"] == pytest.approx(row["p_dog"], abs=1e-6)
        assert answer["familiarity"] == pytest.approx(row["familiarity"], abs=1e-4)


def test_the_pages_curl_sends_a_photo_as_large_as_phones_take(project, served, tmp_path):
    large = Image.effect_noise((1600, 1200), 80).convert("RGB")
    large.save(tmp_path / "photo.jpg", quality=95)
    assert (tmp_path / "photo.jpg").stat().st_size > 500_000
    page = (ROOT / "docs" / "serving.md").read_text()
    line = page[page.index("{ printf") : page.index("--data-binary @-")]
    line = line.replace("http://127.0.0.1:5001", served) + "--data-binary @-"
    ended = project.start("bash", "-c", line, cwd=tmp_path)
    (answer,) = json.loads(ended.stdout)["predictions"]
    assert answer["label"] == "neither"
    assert answer["confidence"] is None
    assert answer["error"] == ""


def test_the_server_takes_options(project, served):
    photo = (project.root / "pets" / "test" / "0dog.jpg").read_bytes()
    _, body = _post(served, _asked(photo, threshold=1.0, reject=False))
    (answer,) = json.loads(body)["predictions"]
    assert answer["label"] == "cat"
    status, _ = _post(served, _asked(photo, threshold=7.0))
    assert status == 400


def test_the_server_survives_what_is_no_photo(project, served):
    photo = (project.root / "pets" / "test" / "0cat.jpg").read_bytes()
    status, body = _post(served, _asked(b"plain text", photo, b""))
    answers = json.loads(body)["predictions"]
    assert status == 200
    assert [answer["error"] for answer in answers] == [
        "not a picture in a format that can be read",
        "",
        "the file is empty",
    ]
    assert _post(served, b"")[0] == 400
    assert _post(served, b"no json")[0] == 400
    status, body = _post(served, _asked(bytes(37_500_000)))  # 50 MB in base64
    assert (status, json.loads(body)["predictions"][0]["label"]) == (200, "")
    assert _post(served, _asked(photo))[0] == 200


def test_an_export_answers_without_catdog_and_pytorch(project, tmp_path):
    folder = tmp_path / "exported"
    ended = project.script(
        "export", "--model-uri", "models:/catdog/Production", "--to", str(folder)
    )
    assert ended.stdout.strip() == str(folder)
    assert {path.name for path in folder.iterdir()} == {
        "catdog",
        "example.py",
        "model.onnx",
        "model_card.md",
        "preprocessing.json",
    }
    hidden = "import sys; sys.modules.update(torch=None, catdog=None, mlflow=None); "
    code = f"{hidden}import example; print(example.classify(sys.argv[1])['label'])"
    photo = project.root / "pets" / "test" / "0dog.jpg"
    ended = project.start(sys.executable, "-c", code, str(photo), cwd=folder)
    assert ended.stdout.strip() == "dog"
    rows = project.script("predict", "--model-uri", str(folder), str(photo), "--format", "json")
    assert json.loads(rows.stdout)[0]["label"] == "dog"


@pytest.mark.slow
def test_evaluate_and_predict_are_entry_points_too(project):
    folder = project.root / "data" / "pets" / "validation"
    before = len(project.runs())
    assert "accuracy" in project.mlflow_run(f"data={folder}", entry_point="evaluate").stdout
    assert "0cat.jpg" in project.mlflow_run(entry_point="predict").stdout
    for run in project.runs()[: len(project.runs()) - before]:
        project.client.delete_run(run.info.run_id)


@pytest.mark.slow
def test_the_steps_one_by_one_give_what_main_gives(tmp_path):
    project = copied(tmp_path)
    draw(tmp_path / "pets" / "train", 6)
    for step in ("download", "prepare"):
        project.script(step, "--dataset", "pets")
    project.script("train", "--dataset", "pets", "--epochs", "1")
    (run,) = project.runs()
    assert run.info.status == "FINISHED"
    assert run.data.tags["registered_version"] == "1"


@pytest.mark.slow
def test_a_wrong_parameter_is_one_sentence_and_no_run_stays_running(tmp_path):
    project = copied(tmp_path)
    ended = project.mlflow_run("epochs=0", status=1)  # the status of `mlflow run` itself
    assert "error: epochs=0 is out of range" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert project.runs()[0].info.status == "FAILED"


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
