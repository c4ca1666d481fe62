"""What comes from others (models, archives, addresses, parameters) does no more than it should."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import pickle
import subprocess
from pathlib import Path

import onnx
import pytest
import yaml
from mlflow.projects import _project_spec

from catdog import CatdogError, cli, config
from catdog.cli import parse
from catdog.config import MainConfig
from catdog.data import images
from catdog.data.images import UnreadableImageError
from tests.conftest import ROOT, encoded, tiny_classifier, tiny_picture


class Planted:
    """Unpickled, it leaves a file where the test looks for it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trace(tmp_path) -> Path:
    """What planted code makes when it runs; it must not be there in the end."""
    path = tmp_path / "trace"
    yield path
    assert not path.exists(), "planted code has run"


@pytest.fixture
def photo(tmp_path) -> Path:
    """A picture that the model can answer for."""
    path = tmp_path / "cat.jpg"
    tiny_picture("cat", 1).save(path)
    return path


def _predict(*arguments: object, capsys) -> tuple[int, str, str]:
    script = importlib.import_module("scripts.predict")
    status = cli.run(script.main, config.PredictConfig, [str(word) for word in arguments])
    return status, *capsys.readouterr()


# --- No code from a model ------------------------------------------------------------


@pytest.fixture
def model(tmp_path, trace) -> Path:
    """A model as MLflow stores it, with code planted wherever a loader might look for it."""
    folder = tmp_path / "model"
    tiny_classifier().save(folder / "data" / "classifier")
    code = f"import os; os.mkdir({str(trace)!r})"
    for place in ("code", "code/catdog", "data/classifier"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name in ("evil.py", "__init__.py", "sitecustomize.py", "classifier.py", "conftest.py"):
            (folder / place / name).write_text(code)
    for name in ("python_model.pkl", "model.pkl", "model.pth", "data/classifier/weights.pkl"):
        (folder / name).write_bytes(pickle.dumps(Planted(trace)))
    flavour = {"loader_module": "evil", "code": "code", "data": "data", "python_model": "model.pkl"}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": flavour}}))
    return folder


def test_predict_runs_no_code_that_comes_with_a_model(model, photo, capsys, monkeypatch):
    monkeypatch.chdir(model)
    status, out, _ = _predict(photo, "--model_uri", model, "--format", "json", capsys=capsys)
    assert status == 0
    assert json.loads(out)[0]["path"] == str(photo)


def test_the_server_runs_no_code_that_comes_with_a_model(model, monkeypatch):
    from starlette.testclient import TestClient

    from catdog.serving import server as serve

    monkeypatch.chdir(model)
    served = serve.web_app(serve.load_model(str(model), device="cpu"), "127.0.0.1", 10**6)
    photo = base64.b64encode(encoded(tiny_picture("cat", 1))).decode()
    asked = {"dataframe_records": [{"image": photo}]}
    answer = TestClient(served, base_url="http://127.0.0.1").post("/invocations", json=asked)
    assert answer.json()["predictions"][0]["label"] == "cat"


def _described_anew(saved: Path, **changes: object) -> None:
    """Give the changed files the digests they need to be believed, as an attacker would."""
    described = json.loads((saved / "model.json").read_text()) | changes
    files = described["files"]
    described["files"] = {
        name: hashlib.sha256((saved / name).read_bytes()).hexdigest() for name in files
    }
    (saved / "model.json").write_text(json.dumps(described))


@pytest.mark.parametrize("name", ["weights.safetensors", "arrays.safetensors", "backbone.onnx"])
def test_a_pickle_in_place_of_a_file_of_the_model_is_not_loaded(model, photo, trace, capsys, name):
    saved = model / "data" / "classifier"
    (saved / name).write_bytes(pickle.dumps(Planted(trace)))
    _described_anew(saved)
    status, out, err = _predict(photo, "--model_uri", model, "--format", "json", capsys=capsys)
    assert "Traceback" not in err
    # Weights are read only where the graph can't be used, and the graph only as a graph.
    assert (status, bool(out)) in ((0, True), (2, False))


def test_an_operator_that_is_not_onnxs_own_is_not_run(model, photo, capsys):
    saved = model / "data" / "classifier"
    graph = onnx.load(saved / "backbone.onnx")
    graph.graph.node[0].op_type, graph.graph.node[0].domain = "Evil", "evil.so"
    graph.opset_import.append(onnx.helper.make_opsetid("evil.so", 1))
    onnx.save(graph, saved / "backbone.onnx")
    _described_anew(saved)
    status, out, _ = _predict(photo, "--model_uri", model, "--format", "json", capsys=capsys)
    assert status == 0  # PyTorch answers from the weights
    assert json.loads(out)[0]["error"] in ("", None)


@pytest.mark.parametrize("name", ["hf-hub:somebody/evil", "local-dir:/tmp/evil", "../evil"])
def test_a_model_can_not_name_a_backbone_that_is_fetched_from_elsewhere(
    model, tmp_path, capsys, name
):
    saved = model / "data" / "classifier"
    (saved / "backbone.onnx").write_bytes(b"no graph: the backbone is built by its name")
    _described_anew(saved, backbone=name)
    status, _, err = _predict(tmp_path, "--model_uri", model, capsys=capsys)
    assert status == 2
    assert "error: " in err
    assert "Traceback" not in err


# --- Parameters ----------------------------------------------------------------------


HOSTILE = [
    "$(touch trace)",
    "`touch trace`",
    "a; touch trace",
    "a && touch trace",
    "a | touch trace",
    "> trace",
    'it\'s "quoted"',
    " two  spaces ",
    "two\nlines",
    "-rf",
    "--epochs",
    "--seed=3",
    "{data_dir}",
    "$HOME ~ * ? !! %s",
    "#comment",
    "\\",
    "größe",
]


def _typed(tmp_path: Path, **parameters: str) -> list[str]:
    """What `mlflow run` hands to the script: its command, run by the shell it uses."""
    project = _project_spec.load_project(str(ROOT))
    cli = project.get_entry_point("main").compute_command(parameters, None)
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done\n')
    stub.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-c", cli],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        check=True,
    )
    return os.fsdecode(ended.stdout).split("\0")[2:-1]  # after -m scripts.main


@pytest.mark.parametrize("value", HOSTILE)
def test_a_parameter_means_what_was_typed_and_nothing_more(tmp_path, value):
    (tmp_path / "bin").mkdir()
    words = _typed(tmp_path / "bin", dataset=value, data_dir=value)
    if value in ("--epochs", "--seed=3"):  # flags: the value before them was forgotten
        with pytest.raises(SystemExit):
            parse(MainConfig, words)
    else:
        read = parse(MainConfig, words)
        assert (read.dataset, read.data_dir, read.epochs) == (value, value, 10)
    assert sorted(path.name for path in (tmp_path / "bin").iterdir()) == ["python"]


@pytest.mark.parametrize(
    "name", ["it's", "a/b", "a:b", "a?b", "a' OR name = 'b", "$(touch x)", "-x", "", "a b "]
)
def test_a_name_that_the_registry_could_misread_is_refused_before_anything_is_done(name):
    with pytest.raises(CatdogError, match=r"registered_model_name=.* is no name: use letters"):
        parse(MainConfig, [f"--registered_model_name={name}"])


# --- Servers -------------------------------------------------------------------------


def test_the_page_and_both_servers_listen_on_loopback_by_default():
    from mlflow.models.cli import commands

    (host,) = [one for one in commands.commands["serve"].params if one.name == "host"]
    assert config.AppConfig().host == config.ServeConfig().host == "127.0.0.1"
    assert host.default == "127.0.0.1"


def test_a_picture_of_more_bytes_than_a_photo_has_is_not_decoded(monkeypatch):
    photo = encoded(tiny_picture("cat", 1))
    monkeypatch.setattr(images, "MAX_BYTES", len(photo) - 1)
    with pytest.raises(UnreadableImageError, match="bytes are more than the limit"):
        images.decode(photo)
