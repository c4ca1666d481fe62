"""A tiny judged classifier with one wrong answer, and where it went."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from catdog.data.dataset import PreparedDataset
from catdog.evaluation.metrics import metrics_of, score
from catdog.inference.classifier import Classifier
from catdog.registry.compare import Comparison
from catdog.registry.promotion import STAGING, Decision
from catdog.registry.register import Released
from catdog.reporting.findings import PREFIX, Findings, find
from catdog.training.features import FeatureSet
from catdog.training.judge import Trained, judge
from catdog.training.loop import Epoch, Fit
from tests.conftest import tiny_classifier, tiny_picture
from tests.sources import prepare_pictures


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> PreparedDataset:
    """Fifteen pictures a class, labelled tests, one picture excluded and one unreadable."""
    folder = tmp_path_factory.mktemp("findings")
    for part, first, count in (("train", 0, 15), ("test", 50, 4)):
        (folder / "raw" / part).mkdir(parents=True)
        for name in ("cat", "dog"):
            for number in range(first, first + count):
                picture = tiny_picture(name, number, (60 + number, 50))
                picture.save(folder / "raw" / part / f"{name}.{number}.jpg")
    (folder / "raw" / "train" / "cat.99.jpg").write_bytes(b"no picture")
    known = [f"train/cat.{number}.jpg,{'old' if number % 2 else 'new'}" for number in range(15)]
    known += [f"test/dog.{number}.jpg,{'old' if number % 2 else 'new'}" for number in range(50, 54)]
    (folder / "raw" / "metadata.csv").write_text("\n".join(["file_name,camera", *known]))
    options = {"origin": "here", "val_fraction": 0.4, "seed": 0}
    whole = prepare_pictures(folder / "raw", folder / "whole", **options)
    gone = folder / "exclude.txt"
    gone.write_text(whole.rows("validation")[0]["sha256"] + "\n")
    return prepare_pictures(folder / "raw", folder / "data", exclude=str(gone), **options)


@pytest.fixture(scope="session")
def trained(dataset) -> Trained:
    """What a training of two epochs would leave; the label of the first photo is turned."""
    tiny = tiny_classifier()
    training, validation = (features_of(tiny, dataset, s) for s in ("training", "validation"))
    pictures = dataset.pictures("validation")
    labels = np.array([picture.label for picture in pictures])
    labels[0] = 1 - labels[0]
    features = FeatureSet(tiny.engine, training[None], validation, training[:3] * 3 + 1)
    classifier, judgement = judge(
        tiny.network(), features, labels, tiny.about, keep=0.9, learned=()
    )
    logits = judgement.logits
    epochs = tuple(epoch(number, labels, logits / number) for number in (2, 1))
    return Trained(
        classifier=classifier,
        judgement=judgement,
        pretrained=(training, validation),
        validation=pictures,
        fit=Fit(epochs, epochs[1], stopped_early=False),
        baseline=score(labels, logits[::-1]),
        baseline_logits=logits[::-1],
        metrics=metrics_of(labels, logits, calibrated=judgement.calibrated, prefix=PREFIX),
        licence="apache-2.0",
    )


@pytest.fixture(scope="session")
def findings(dataset, trained) -> Findings:
    """What is found about the two."""
    return find(dataset, trained, seed=0)


@pytest.fixture(scope="session")
def released() -> Released:
    """Version 7, which went to Staging as it could not be compared with version 2."""
    metrics = {"val_accuracy_score": 0.5, "val_accuracy_score_ci_low": 0.4}
    metrics |= {"val_accuracy_score_ci_high": 0.6}
    comparison = Comparison(SimpleNamespace(version="2"), "too few photos", metrics, 5)
    decision = Decision(STAGING, "it is new", "5 photos")
    return Released(SimpleNamespace(name="pets", version="7"), decision, comparison)


def features_of(classifier: Classifier, dataset: PreparedDataset, split: str) -> np.ndarray:
    """The features of a split's pictures, `(N, D)`, in the manifest's order."""
    import torch

    from catdog.data.images import to_tensor
    from catdog.data.transforms import evaluation_transform

    transform = evaluation_transform(classifier.preprocessing)
    contents = [picture.path.read_bytes() for picture in dataset.pictures(split)]
    return classifier.engine.compute(torch.stack([transform(to_tensor(c)) for c in contents]))


def epoch(number: int, labels: np.ndarray, logits: np.ndarray) -> Epoch:
    """An epoch whose answers are alike for training and validation."""
    scores = score(labels, logits)
    return Epoch(number, scores, scores, 0.1, 1.0, 10.0, is_best=number == 1)
