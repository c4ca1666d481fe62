from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from catdog import NEITHER, CatdogError
from catdog.data.images import UnreadableImageError, to_tensor
from catdog.data.transforms import evaluation_transform
from catdog.inference.classifier import (
    ARRAYS_FILE,
    BACKBONE_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    Classifier,
    ServedClassifier,
)
from catdog.inference.prediction import Options
from tests.conftest import encoded, tiny_picture

PHOTOS = [encoded(tiny_picture(name, seed)) for name in ("cat", "dog") for seed in range(3)]


@pytest.fixture(scope="session")
def saved(classifier, tmp_path_factory) -> Path:
    """A folder that the classifier was saved in; not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    classifier.save(folder)
    return folder


@pytest.fixture
def own(classifier, tmp_path) -> Path:
    """A folder that the classifier was saved in, of the test's own."""
    classifier.save(tmp_path / "own")
    return tmp_path / "own"


def test_bytes_are_answered_as_the_network_answers_prepared_tensors(classifier):
    network = classifier.network()
    transform = evaluation_transform(classifier.preprocessing)
    pictures = torch.stack([transform(to_tensor(photo)) for photo in PHOTOS])
    with torch.inference_mode():
        expected = network(pictures) / classifier.about.temperature
    assert classifier.about.temperature != 1
    logits = [logit for _, (logit, _) in classifier.outputs(PHOTOS, bytes)]
    assert logits == pytest.approx(expected.tolist(), abs=1e-3)


def test_what_is_no_picture_gets_an_error_and_the_others_are_answered(classifier):
    answers = classifier.predict([PHOTOS[0], b"<html>", PHOTOS[1], b""])
    assert [bool(answer.error) for answer in answers] == [False, True, False, True]
    assert answers[0].label == classifier.predict([PHOTOS[0]])[0].label
    assert answers[1].label == ""
    assert np.isnan(answers[1].p_positive)
    assert classifier.predict([]) == []


def test_what_reading_an_item_gives_is_its_error(classifier):
    def read(number: int) -> bytes:
        if number == 1:
            raise FileNotFoundError(2, "No such file or directory", "x.jpg")
        if number == 2:
            raise UnreadableImageError("the server answered 404")
        return PHOTOS[0]

    answers = dict(classifier.stream(range(4), read, batch_size=2))
    errors = ["", "No such file or directory", "the server answered 404", ""]
    assert [answers[number].error for number in range(4)] == errors
    outputs = [outputs for _, outputs in classifier.outputs(range(4), read)]
    assert outputs[1:3] == errors[1:3]
    assert [type(it) for it in outputs] == [tuple, str, str, tuple]


def test_a_stream_takes_only_a_few_items_ahead_of_its_answers(classifier):
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100_000):
            taken.append(number)
            yield number

    read: Callable[[int], bytes] = lambda _: PHOTOS[0]  # noqa: E731
    answers = classifier.stream(items(), read)
    assert taken == []
    for _ in range(10):
        next(answers)
    answers.close()
    assert len(taken) < 500


def test_a_mirrored_picture_gets_the_same_answer_when_both_ways_are_looked_at(classifier):
    picture = tiny_picture("dog", 1, (224, 224))
    mirrored = picture.transpose(0)  # left to right
    both = [encoded(one, "PNG") for one in (picture, mirrored)]
    first, second = classifier.predict(both, Options(tta=True))
    plain, turned = classifier.predict(both)
    assert first.p_positive == pytest.approx(second.p_positive, abs=1e-4)
    assert plain.p_positive != pytest.approx(turned.p_positive, abs=1e-6)


def test_a_saved_classifier_gives_the_same_answers(classifier, saved):
    names = {path.name for path in saved.iterdir()}  # nothing in them runs
    assert names == {ARRAYS_FILE, BACKBONE_FILE, MODEL_FILE, WEIGHTS_FILE}
    twin = Classifier.load(saved)
    assert twin.about == classifier.about
    pairs = zip(twin.predict(PHOTOS), classifier.predict(PHOTOS), strict=True)
    assert all(repr(one) == repr(other) for one, other in pairs)  # nan is not nan
    for name, tensor in classifier.network().state_dict().items():
        assert torch.equal(twin.network().state_dict()[name], tensor), name


def test_without_an_onnx_export_pytorch_answers_the_same(classifier, tmp_path):
    engine = dataclasses.replace(classifier.engine, portable=None)
    bare = Classifier(
        classifier.about, classifier.preprocessing, engine, classifier.head, classifier.network
    )
    bare.save(tmp_path)
    twin = Classifier.load(tmp_path)
    assert twin.engine.name.startswith("pytorch")
    expected = [answer.p_positive for answer in classifier.predict(PHOTOS)]
    found = [answer.p_positive for answer in twin.predict(PHOTOS)]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", [MODEL_FILE, WEIGHTS_FILE, ARRAYS_FILE, BACKBONE_FILE])
def test_a_damaged_or_missing_file_is_one_sentence(own, name):
    content = (own / name).read_bytes()
    (own / name).write_bytes(content[:-1])
    damaged = "not the file that was saved"
    if name == MODEL_FILE:
        (own / name).write_bytes(content[: len(content) // 2])
        damaged = "whole catdog model"
    with pytest.raises(CatdogError, match=damaged):
        Classifier.load(own)
    (own / name).unlink()
    with pytest.raises(CatdogError, match="does not hold a whole catdog model"):
        Classifier.load(own)


def test_a_model_of_another_format_is_refused(own):
    described = json.loads((own / MODEL_FILE).read_text())
    (own / MODEL_FILE).write_text(json.dumps(described | {"format": 99}))
    with pytest.raises(CatdogError, match="is of format 99"):
        Classifier.load(own)


def test_the_served_model_answers_a_table_with_a_table(classifier):
    answers = ServedClassifier(classifier).predict(pd.DataFrame({"image": [*PHOTOS * 8, b""]}))
    assert list(answers.columns) == ["label", "confidence", "p_dog", "familiarity", "error"]
    assert len(answers) == 49
    expected = [answer.p_positive for answer in classifier.predict(PHOTOS)]
    assert answers["p_dog"][:6].tolist() == pytest.approx(expected, abs=1e-6)
    assert answers.iloc[-1].tolist() == ["", None, None, None, "the file is empty"]


def test_the_served_model_takes_options(classifier):
    served = ServedClassifier(classifier)
    stranger = pd.DataFrame({"image": [encoded(tiny_picture("cat", 0).convert("L"), "PNG")]})
    assert served.predict(stranger)["label"].tolist() == [NEITHER]
    options = {"reject": False, "threshold": 1.0, "tta": True}
    assert served.predict(stranger, options)["label"].tolist() == ["cat"]
    with pytest.raises(ValueError, match="threshold=2 must be from 0 to 1"):
        served.predict(stranger, {"threshold": 2})
