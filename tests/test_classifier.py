from __future__ import annotations

import json

import pandas as pd
import pytest
import torch

from catdog import CatdogError
from catdog.classifier import (
    MODEL_FILE,
    WEIGHTS_FILE,
    About,
    Classifier,
    ServedClassifier,
    to_prediction,
)
from catdog.data import evaluation_transform, to_tensor
from catdog.model import build_network
from catdog.train import seed_everything
from tests.conftest import encoded, tiny_picture

PHOTOS = [encoded(tiny_picture(name, seed)) for name in ("cat", "dog") for seed in range(3)]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    seed_everything(0)
    network = build_network("test_resnet", weights="none")
    return Classifier(network, About("test_resnet", "pets", "sample:seed=0", 3, 0.75))


def test_bytes_are_answered_as_the_network_answers_prepared_tensors(classifier):
    transform = evaluation_transform(classifier.network.preprocessing)
    pictures = torch.stack([transform(to_tensor(photo)) for photo in PHOTOS])
    with torch.inference_mode():
        expected = classifier.network(pictures)
    assert torch.allclose(torch.tensor(classifier.logits(PHOTOS)), expected, atol=1e-6)


def test_the_answer_does_not_depend_on_what_else_is_in_the_batch(classifier):
    alone = [classifier.logits([photo])[0] for photo in PHOTOS]
    assert classifier.logits(PHOTOS) == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    ("logit", "label", "p_dog"), [(2.0, "dog", 0.880797), (-2.0, "cat", 0.119203)]
)
def test_confidence_is_the_probability_of_the_label(logit, label, p_dog):
    answer = to_prediction(logit)
    assert answer.label == label
    assert answer.p_dog == pytest.approx(p_dog, abs=1e-6)
    assert answer.confidence == pytest.approx(max(p_dog, 1 - p_dog), abs=1e-6)
    assert answer.error == ""


def test_what_is_no_picture_gets_an_error_and_the_others_are_answered(classifier):
    answers = classifier.predict([PHOTOS[0], b"<html>", PHOTOS[1], b""])
    assert [bool(answer.error) for answer in answers] == [False, True, False, True]
    assert answers[0] == classifier.predict([PHOTOS[0]])[0]
    assert answers[1].label == ""


def test_nothing_but_unreadable_bytes_is_answered_too(classifier):
    assert [answer.error != "" for answer in classifier.predict([b"", b"x"])] == [True, True]


def test_a_saved_classifier_gives_the_same_answers(classifier, tmp_path):
    classifier.save(tmp_path)
    twin = Classifier.load(tmp_path, device="cpu")
    assert twin.about == classifier.about
    assert twin.logits(PHOTOS) == classifier.logits(PHOTOS)


def test_a_saved_classifier_is_json_and_safetensors_and_nothing_else(classifier, tmp_path):
    classifier.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MODEL_FILE, WEIGHTS_FILE]


@pytest.mark.parametrize("name", [MODEL_FILE, WEIGHTS_FILE])
def test_a_damaged_or_missing_file_is_one_sentence(classifier, tmp_path, name):
    classifier.save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CatdogError, match="does not hold a whole catdog model"):
        Classifier.load(tmp_path, device="cpu")
    (tmp_path / name).unlink()
    with pytest.raises(CatdogError, match="does not hold a whole catdog model"):
        Classifier.load(tmp_path, device="cpu")


def test_a_model_of_a_newer_format_is_refused(classifier, tmp_path):
    classifier.save(tmp_path)
    described = json.loads((tmp_path / MODEL_FILE).read_text())
    (tmp_path / MODEL_FILE).write_text(json.dumps(described | {"format": 99}))
    with pytest.raises(CatdogError, match="is of format 99"):
        Classifier.load(tmp_path, device="cpu")


def test_the_served_model_answers_a_table_with_a_table(classifier):
    answers = ServedClassifier(classifier).predict(pd.DataFrame({"image": PHOTOS * 8 + [b""]}))
    assert list(answers.columns) == ["label", "confidence", "p_dog", "error"]
    assert len(answers) == 49
    expected = [answer.p_dog for answer in classifier.predict(PHOTOS)]
    assert answers["p_dog"][:6].tolist() == pytest.approx(expected, abs=1e-6)
    assert answers["error"].iloc[-1] == "the file is empty"
