from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from catdog import CatdogError, trained
from catdog.config import TrainConfig
from catdog.data.dataset import PreparedDataset
from catdog.evaluation.calibration import predicted_labels
from catdog.evaluation.metrics import confusion_counts
from catdog.models.network import ImageNetClassifier, Network, build_network
from catdog.tracking import run as tracking
from catdog.training import stages
from catdog.training.features import extract, open_cache
from catdog.training.judge import Trained
from catdog.training.loop import Fit
from tests.conftest import tiny_picture
from tests.sources import prepare_pictures

TINY = TrainConfig(
    data_dir="data",
    epochs=2,
    batch_size=8,
    unfreeze="all",
    finetune_epochs=1,
    finetune_rate=0.01,
    backbone="test_resnet",
    weights="none",
    device="cpu",
)


@pytest.fixture
def prepared(tmp_path) -> PreparedDataset:
    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(10):
            tiny_picture(name, number).save(tmp_path / "raw" / name / f"{number}.jpg")
    exclude = tmp_path / "exclude.txt"
    exclude.write_text("cat/0.jpg\n")
    return prepare_pictures(
        tmp_path / "raw",
        tmp_path / "data" / "pets",
        val_fraction=0.4,
        exclude=str(exclude),
    )


@pytest.fixture
def run() -> Iterator[mlflow.ActiveRun]:
    with tracking.start_run("x") as active:
        yield active


def _train(prepared: PreparedDataset, **options: object) -> Trained:
    return trained.train(replace(TINY, **options), prepared)


@pytest.mark.parametrize("classes", ["cat,dog", "dog,cat"])
def test_what_imagenet_knows_of_cats_and_dogs_steps_aside_for_other_pairs(
    tmp_path, prepared, run, monkeypatch, classes
):
    def with_imagenet(*args: object, **options: object) -> Network:
        network = build_network(*args, **options)
        width = network.head.linear.in_features
        network.imagenet = ImageNetClassifier(torch.zeros(1000, width), torch.zeros(1000))
        return network

    monkeypatch.setattr(trained, "build_network", with_imagenet)
    if classes != "cat,dog":
        source, folder = tmp_path / "raw", tmp_path / "data" / "other"
        prepared = prepare_pictures(source, folder, val_fraction=0.4, classes=classes)
    result = _train(prepared, unfreeze="none")
    known = classes == "cat,dog"
    assert result.classifier.about.classes == tuple(classes.split(","))
    assert (result.baseline is not None) is known
    assert (result.classifier.familiarity.pets is not None) is known
    metrics = mlflow.get_run(run.info.run_id).data.metrics
    assert ("baseline_accuracy" in metrics) is known


def _pretrained(prepared: PreparedDataset, split: str) -> np.ndarray:
    trained.seed_everything(TINY.seed)
    network = build_network(TINY.backbone, weights=TINY.weights)
    engine = trained.serving_engine(network, cores=1)
    cache = open_cache(Path("data"), network, engine)
    features, computed = extract(prepared.pictures(split), network, engine, cache)
    assert computed == 0
    return features[0]


@pytest.mark.parametrize("views", [0, 2])
def test_the_audit_gets_features_that_fine_tuning_has_not_touched(prepared, run, views):
    result = _train(prepared, views=views)
    splits = ("training", "validation")
    for split, features in zip(splits, result.pretrained, strict=True):
        assert np.array_equal(features, _pretrained(prepared, split))
        assert not np.allclose(features, getattr(result.evidence, split), atol=1e-3)


def test_the_confusion_matrix_is_of_the_served_answers(prepared, run):
    result = _train(prepared, unfreeze="none")
    assert result.pretrained[0] is result.evidence.training
    served = replace(result.judgement, logits=np.full(len(result.judgement.labels), -1.0))
    trained._log_judgement(replace(result, judgement=served), prepared)
    logged = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/confusion_matrix.json")
    expected = confusion_counts(served.labels, predicted_labels(served.logits))
    assert logged == expected.to_dict()
    assert logged["true_positives"] == 0


def test_what_was_excluded_is_logged_with_the_run(prepared, run):
    _train(prepared, unfreeze="none", epochs=1)
    logged = mlflow.get_run(run.info.run_id)
    assert logged.data.tags["excluded_count"] == "1"
    assert logged.data.tags["excluded_digest"] == prepared.exclude_digest
    lines = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/data/exclude.txt")
    assert lines == "cat/0.jpg\n"


def test_a_disk_without_room_for_other_pictures_is_told_before_training(prepared, run, monkeypatch):
    def full(_data_dir: Path, _classes: tuple[str, str]) -> list[Path]:
        raise CatdogError("the disk is full")

    monkeypatch.setattr(trained, "neither_folder", full)
    monkeypatch.setattr(trained, "_train_head", lambda *_: pytest.fail("a fit would be lost"))
    with pytest.raises(CatdogError, match="the disk is full"):
        _train(prepared)


def test_that_the_head_diverged_is_known_after_fine_tuning(prepared, run, monkeypatch):
    real, finetune = trained._train_head, stages.finetune

    def troubled(*given: object) -> Fit:
        return replace(real(*given), trouble="the head diverged.")

    def cut(*given: object, **options: object) -> Fit:
        tags = mlflow.get_run(run.info.run_id).data.tags
        assert tags["stopped_because"] == "the head diverged."
        return replace(finetune(*given, **options), trouble="The rest did, too.")

    monkeypatch.setattr(trained, "_train_head", troubled)
    monkeypatch.setattr(stages, "finetune", cut)
    both = "the head diverged. The rest did, too."
    assert _train(prepared).fit.trouble == both
    assert mlflow.get_run(run.info.run_id).data.tags["stopped_because"] == both
