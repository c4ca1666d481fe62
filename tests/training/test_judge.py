from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from catdog import NEITHER
from catdog.data.dataset import Picture
from catdog.data.images import load
from catdog.data.transforms import evaluation_transform
from catdog.evaluation.calibration import cross_fitted, log_loss, probability
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import About, to_prediction
from catdog.models.engine import torch_engine
from catdog.training.features import FeatureSet
from catdog.training.judge import Judgement, judge, seen_in_training
from tests.conftest import COLOURS, tiny_classifier, tiny_picture

KEEP = 0.9
LEARNED = ("ff" * 32, "01" * 32)


@dataclass(frozen=True)
class Sample:
    training: list[Picture]
    validation: list[Picture]
    neither: list[Picture]


@dataclass(frozen=True)
class Judged:
    classifier: Classifier
    judgement: Judgement
    sample: Sample


def _tiny_set(folder: Path, count: int) -> list[Picture]:
    """Tiny pictures of both classes as files; one label in ten is wrong."""
    folder.mkdir()
    pictures = []
    for label, name in enumerate(COLOURS):
        for number in range(count):
            path = folder / f"{name}-{number}.png"
            tiny_picture(name, f"{folder.name}{number}").save(path)
            pictures.append(Picture(path, 1 - label if number % 10 == 0 else label, ""))
    return pictures


def _grey_noise(folder: Path) -> list[Picture]:
    paths = [folder / f"noise-{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        noise = random.Random(number).randbytes(48 * 40)
        Image.frombytes("L", (48, 40), noise).save(path)
    return [Picture(path, 0, "") for path in paths]


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Sample:
    folder = tmp_path_factory.mktemp("judged")
    return Sample(
        _tiny_set(folder / "training", 20),
        _tiny_set(folder / "validation", 20),
        _grey_noise(folder),
    )


@pytest.fixture(scope="module")
def judged(sample) -> Judged:
    network = tiny_classifier().network()
    engine, plain = torch_engine(network), evaluation_transform(network.preprocessing)

    def features(pictures):
        return engine.compute(torch.stack([plain(load(picture.path)) for picture in pictures]))

    about = About("test_resnet", "tiny", "tiny pictures", 1, 0.9)
    seen = FeatureSet(
        engine,
        features(sample.training)[None],
        features(sample.validation),
        features(sample.neither),
    )
    labels = np.array([picture.label for picture in sample.validation])
    return Judged(*judge(network, seen, labels, about, keep=KEEP, learned=LEARNED), sample)


def test_the_classifier_answers_as_it_was_judged(judged):
    seen = seen_in_training(judged.classifier, judged.judgement)
    contents = [picture.path.read_bytes() for picture in judged.sample.validation]
    for one, answer in zip(seen, judged.classifier.predict(contents), strict=True):
        expected = to_prediction(*one, judged.classifier.about)
        assert answer.label == expected.label
        assert answer.p_positive == pytest.approx(expected.p_positive, abs=1e-5)
        assert answer.familiarity == pytest.approx(expected.familiarity, abs=1e-4)


def test_mistakes_make_the_classifier_less_sure(judged):
    found = judged.judgement
    temperature = judged.classifier.about.temperature
    assert temperature > 1
    calibrated = log_loss(found.labels, found.logits / temperature)
    assert calibrated < log_loss(found.labels, found.logits)


def test_numbers_are_measured_with_temperatures_that_a_photo_had_no_say_in(judged):
    found = judged.judgement
    metrics = found.metrics(judged.classifier.about)
    honest = cross_fitted(found.labels, found.logits)
    assert np.array_equal(found.calibrated, honest)
    assert np.array_equal(found.p_positive, probability(honest))
    assert metrics["val_log_loss"] == log_loss(found.labels, honest)
    assert metrics["val_log_loss_uncalibrated"] == log_loss(found.labels, found.logits)
    assert metrics["val_brier_score"] == pytest.approx(
        np.mean((found.p_positive - found.labels) ** 2)
    )
    assert metrics["val_ece"] < metrics["val_ece_uncalibrated"]


def test_the_share_of_photos_that_was_asked_for_is_kept(judged):
    metrics = judged.judgement.metrics(judged.classifier.about)
    assert metrics["val_kept_share"] == pytest.approx(KEEP, abs=1.5 / len(judged.judgement.labels))


def test_grey_noise_is_neither(judged):
    metrics = judged.judgement.metrics(judged.classifier.about)
    assert metrics["neither_rejected_share"] == 1.0
    assert metrics["neither_roc_auc"] > 0.99
    noise = [picture.path.read_bytes() for picture in judged.sample.neither]
    assert {answer.label for answer in judged.classifier.predict(noise)} == {NEITHER}


def test_the_classifier_knows_which_photos_it_learned_from_and_saves_it(judged, tmp_path):
    classifier = judged.classifier
    classifier.save(tmp_path / "model")
    for one in (classifier, Classifier.load(tmp_path / "model", device="cpu")):
        assert one.learned_from(["01" * 32, "02" * 32, "ff" * 32]).tolist() == [True, False, True]
