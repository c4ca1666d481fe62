from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catdog import CatdogError
from catdog.models.engine import Engine, Portable
from catdog.registry import register
from catdog.registry.promotion import Candidate
from catdog.registry.proof import FreshProcess, Proof, UnprovenError
from catdog.tracking.run import start_run
from tests.conftest import encoded, tiny_classifier, tiny_picture

CANDIDATE = Candidate("abc", drawn=False)
ENGINE = Engine("openvino", lambda _: np.empty(0), callers=1, batch=1)


def test_the_largest_difference_counts_and_what_is_no_number_proves_nothing():
    proof = Proof("openvino", np.array([[0.5, 0.2], [0.9, 0.8]]))
    assert proof.difference(np.array([[0.5, 0.3], [0.9, 0.8]])) == pytest.approx(0.1)
    assert not proof.difference(np.array([[0.5, np.nan], [0.9, 0.8]])) <= 1.0


@pytest.mark.parametrize(
    ("judged", "exported", "served", "alike"),
    [
        ("openvino", True, "openvino", True),
        ("openvino", True, "pytorch-cpu", False),
        ("openvino", True, "onnxruntime", False),
        ("pytorch-cpu", False, "pytorch-cpu", True),
        ("pytorch-cuda", True, "openvino", True),
        ("pytorch-cuda", True, "pytorch-cpu", False),
        ("pytorch-cuda", False, "pytorch-cpu", True),
    ],
)
def test_the_engine_that_serves_is_the_one_that_was_judged(judged, exported, served, alike):
    portable = Portable(b"", np.empty(0), 1) if exported else None
    engine = replace(ENGINE, name=judged, portable=portable)
    assert Proof(served, np.empty((0, 2))).is_served_as_judged(engine) is alike


@pytest.fixture
def fresh(tracking_store):
    process = FreshProcess(tracking_store)
    yield process
    process.close()


def test_a_fresh_process_answers_as_this_one(fresh, tmp_path):
    classifier = tiny_classifier()
    classifier.save(tmp_path / "saved")
    photos = [tmp_path / f"{name}.png" for name in ("cat", "dog")]
    for photo in photos:
        tiny_picture(photo.stem, 1).save(photo)
    with start_run("x") as run:
        example = encoded(tiny_picture("cat", 0))
        logged = register.log_model(tmp_path / "saved", example, run, CANDIDATE, step=1)
    fresh.ask(logged.model_uri, photos)
    proof = fresh.answers()
    seen = classifier.predict([photo.read_bytes() for photo in photos])
    assert proof.difference(np.array([(one.p_positive, one.familiarity) for one in seen])) < 1e-6
    assert proof.is_served_as_judged(classifier.engine)


def test_it_has_no_gpu_takes_no_pickle_and_begins_in_an_empty_folder(monkeypatch, tmp_path):
    child = tmp_path / "child.py"
    child.write_text(
        "import json, os\n"
        "names = ('CUDA_VISIBLE_DEVICES', 'MLFLOW_ALLOW_PICKLE_DESERIALIZATION')\n"
        "engine = [*(os.environ[name] for name in names), os.listdir()]\n"
        "print(json.dumps({'engine': engine, 'answers': []}))\n"
    )
    monkeypatch.setattr("catdog.registry.proof.CHILD", child)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with contextlib.closing(FreshProcess("sqlite:///none.db")) as fresh:
        fresh.ask("models:/pets/1", [])
        assert fresh.answers().engine == ["", "false", ["complaint"]]


def test_a_process_that_was_killed_says_nothing_of_the_version(fresh):
    fresh._process.kill()
    fresh._process.wait()
    fresh.ask("models:/pets/1", [])
    with pytest.raises(UnprovenError, match="was killed, most likely for want of memory"):
        fresh.answers()


def test_a_model_that_is_not_there_is_one_sentence(fresh, tmp_path):
    folder = Path(fresh._folder.name)
    fresh.ask(str(tmp_path / "gone"), [])
    with pytest.raises(CatdogError, match=r"gone can't be used in a fresh process: ") as error:
        fresh.answers()
    assert len(str(error.value).splitlines()) == 1
    fresh.close()
    assert not folder.exists()
