from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from catdog import pipeline
from catdog.config import TrainConfig
from catdog.data.dataset import PreparedDataset
from catdog.evaluation.calibration import predicted_labels
from catdog.evaluation.metrics import confusion_counts
from catdog.models.network import ImageNetClassifier, Network, build_network
from catdog.tracking.log import Run
from catdog.tracking.run import start_run
from catdog.training import features, loop
from catdog.training.judge import Trained, judge_as_served
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


def train_and_judge(config: TrainConfig, dataset: PreparedDataset, run: Run) -> Trained:
    """What is registered of a training, without registering it."""
    return judge_as_served(pipeline.train(config, dataset, run), dataset, config)


@pytest.fixture
def prepared(tmp_path, draw_folder) -> PreparedDataset:
    draw_folder(tmp_path / "raw", 10)
    exclude = tmp_path / "exclude.txt"
    exclude.write_text("cat/0.jpg\n")
    return prepare_pictures(tmp_path / "raw", tmp_path / "data" / "pets", exclude=str(exclude))


@pytest.fixture
def run() -> Iterator[Run]:
    with start_run("x") as active:
        yield active


@pytest.mark.parametrize("classes", ["cat,dog", "dog,cat"])
def test_what_imagenet_knows_of_cats_and_dogs_steps_aside_for_other_pairs(
    tmp_path, prepared, run, monkeypatch, classes
):
    def with_imagenet(*args: object, **options: object) -> Network:
        network = build_network(*args, **options)
        width = network.head.linear.in_features
        network.imagenet = ImageNetClassifier(torch.zeros(1000, width), torch.zeros(1000))
        return network

    monkeypatch.setattr(pipeline, "build_network", with_imagenet)
    if classes != "cat,dog":
        prepared = prepare_pictures(tmp_path / "raw", tmp_path / "data" / "other", classes=classes)
    trained = train_and_judge(replace(TINY, unfreeze="none"), prepared, run)
    known = classes == "cat,dog"
    assert trained.classifier.about.classes == tuple(classes.split(","))
    assert (trained.baseline is not None) is known
    assert (trained.classifier.head.novelty.imagenet is not None) is known


@pytest.mark.parametrize("views", [0, 2])
def test_the_audit_gets_features_that_fine_tuning_has_not_touched(prepared, run, views):
    config = replace(TINY, views=views)
    learned = pipeline.train(config, prepared, run)
    trained = judge_as_served(learned, prepared, config)
    loop.seed_everything(TINY.seed)
    network = build_network(TINY.backbone, weights=TINY.weights)
    before = features.extract_features(network, prepared, Path("data"))
    assert before.computed == 0
    for plain, found, tuned in (
        (before.training[0], trained.pretrained[0], learned.features.training[0]),
        (before.validation, trained.pretrained[1], learned.features.validation),
    ):
        assert np.array_equal(found, plain)
        assert not np.allclose(found, tuned, atol=1e-3)


def test_the_confusion_matrix_is_of_the_served_answers(prepared, run):
    trained = train_and_judge(replace(TINY, unfreeze="none"), prepared, run)
    served = replace(trained.judgement, logits=np.full(len(trained.judgement.labels), -1.0))
    pipeline._log_judgement(run, replace(trained, judgement=served), prepared)
    logged = mlflow.artifacts.load_dict(f"runs:/{run.id}/confusion_matrix.json")
    expected = confusion_counts(served.labels, predicted_labels(served.logits))
    assert logged == expected.to_dict()
    assert logged["true_positives"] == 0


def test_what_was_excluded_is_logged_with_the_run(prepared, run):
    run.log_dataset(prepared)
    tags = mlflow.get_run(run.id).data.tags
    assert tags["excluded_count"] == "1"
    assert tags["excluded_digest"] == prepared.exclude_digest
    assert mlflow.artifacts.load_text(f"runs:/{run.id}/data/exclude.txt") == "cat/0.jpg\n"
