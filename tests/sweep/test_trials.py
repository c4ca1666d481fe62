from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catdog import CatdogError
from catdog.config import HeadConfig, SweepConfig
from catdog.data.dataset import Picture, PreparedDataset
from catdog.models.network import Head, build_network
from catdog.sweep import trials
from catdog.sweep.storage import open_storage
from catdog.sweep.study import Trial, open_study
from catdog.sweep.trials import BEST_EPOCH, EPOCHS, TROUBLE, Ground, split_off, view_counts
from catdog.tracking import nested
from catdog.training.feature_cache import open_cache
from catdog.training.loop import seed_everything
from tests.conftest import heard, tiny_picture
from tests.sources import prepare_pictures

CONFIG = SweepConfig(
    data_dir="data", epochs=4, most_views=2, backbone="test_resnet", weights="none", device="cpu"
)


def _pictures(labels: list[tuple[int, int]]) -> list[Picture]:
    return [
        Picture(Path(f"{place}.jpg"), label, f"{label}{content:063d}")
        for place, (label, content) in enumerate(labels)
    ]


@pytest.fixture
def prepared(tmp_path) -> PreparedDataset:
    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(12):
            tiny_picture(name, number).save(tmp_path / "raw" / name / f"{number}.jpg")
    return prepare_pictures(tmp_path / "raw", tmp_path / "data" / "pets", val_fraction=0.25)


@pytest.fixture
def logged(monkeypatch) -> list[nested.Told]:
    """What MLflow would be told of trials."""
    told: list[nested.Told] = []
    monkeypatch.setattr(nested, "log", lambda one: told.append(one) or True)
    return told


def _ground(labels: list[int]) -> Ground:
    """Features by which the classes are told apart, the same for both parts."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, len(labels), 6)).astype(np.float32)
    features[..., 0] += 4 * np.array(labels)
    pictures = _pictures([(label, place) for place, label in enumerate(labels)])
    torch.manual_seed(0)
    return Ground(Head(6), features, pictures, features[:1], pictures)


@given(
    labels=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=4, max_size=80),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 9),
)
def test_both_parts_have_both_classes_and_no_picture_is_in_both(labels, fraction, seed):
    pictures = _pictures([*labels, (0, 98), (0, 99), (1, 98), (1, 99)])
    learn, search = split_off(pictures, fraction, seed)
    assert sorted([*learn, *search]) == list(range(len(pictures)))
    learned, searched = ({pictures[place].sha256 for place in part} for part in (learn, search))
    assert not learned & searched
    for part in (learn, search):
        assert {pictures[place].label for place in part} == {0, 1}


def test_names_and_order_do_not_matter_and_the_seed_does():
    pictures = _pictures([(place % 2, place) for place in range(80)])
    searched = {pictures[place].sha256 for place in split_off(pictures, 0.25, 0)[1]}
    assert len(searched) == 20
    turned = [Picture(Path("x"), one.label, one.sha256) for one in reversed(pictures)]
    assert {turned[place].sha256 for place in split_off(turned, 0.25, 0)[1]} == searched
    assert {pictures[place].sha256 for place in split_off(pictures, 0.25, 1)[1]} != searched


def test_too_few_pictures_are_told():
    with pytest.raises(CatdogError, match="at least two different training pictures of each"):
        split_off(_pictures([(0, 1), (0, 2), (1, 3), (1, 3)]), 0.5, 0)


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_views_double(most, counts):
    assert view_counts(most) == counts


def test_trials_see_no_validation_picture_and_features_are_computed_once(said, prepared):
    ground = trials.prepare_ground(CONFIG, prepared)
    seen = {one.sha256 for one in [*ground.learn_pictures, *ground.search_pictures]}
    assert seen == {one.sha256 for one in prepared.pictures("training")}
    seed_everything(CONFIG.seed)
    network = build_network(CONFIG.backbone, weights=CONFIG.weights)
    cache = open_cache(Path("data"), network)
    assert not any(one.key(0) in cache for one in prepared.pictures("validation"))
    assert all(one.key(1) in cache for one in prepared.pictures("training"))
    assert ground.learn.shape[:2] == (2, len(ground.learn_pictures))
    assert ground.search.shape[:2] == (1, len(ground.search_pictures))
    trials.prepare_ground(CONFIG, prepared)
    (first, second) = [line for line in said if line.startswith("Features")]
    assert "Features: 36 computed by" in first
    assert "Features: 0 computed by" in second


def test_a_head_begins_anew_in_each_trial_and_ends_the_same():
    ground = _ground([0, 1] * 20)
    before = ground.head.linear.weight.clone()
    one, same = (trials.learn(CONFIG, ground, HeadConfig(), lambda _: None) for _ in "ab")
    assert one.best.val.loss == same.best.val.loss
    assert torch.equal(ground.head.linear.weight, before)
    faster = trials.learn(CONFIG, ground, HeadConfig(learning_rate=0.05), lambda _: None)
    assert faster.best.val.loss < one.best.val.loss


def _run(ground: Ground, count: int = 1, **first: float):
    mine = open_study("s", open_storage("auto", Path()), run_id="a", seed=0)
    given_first = {"learning_rate": 0.05, "weight_decay": 0.01, "batch_size": 16, "views": 2}

    def objective(trial: Trial) -> float:
        return trials.run_trial(CONFIG, ground, "s", trial)

    with heard() as said:
        mine.work(objective, count, first=given_first | first)
    return mine.finished(), said


def test_a_trials_value_is_the_search_loss_of_its_best_epoch(logged):
    ((trial,), (line,)) = _run(_ground([0, 1] * 20))
    assert len(trial.user_attrs[EPOCHS]) == len(trial.intermediate_values)
    best = trial.user_attrs[EPOCHS][trial.user_attrs[BEST_EPOCH] - 1]
    assert trial.value == best["search_loss"] == min(trial.intermediate_values.values())
    assert line.startswith(f"trial   0: search loss {trial.value:.4f}, 4 epochs, ")
    (told,) = logged
    assert told.metrics["best_search_loss"] == trial.value
    assert told.params == trial.params
    assert told.state == "COMPLETE"
    # The same can be told later, from the study alone.
    again = trials.told_of("s", trial, "COMPLETE", told.ended_ms / 1000)
    assert again == told


def test_a_trial_that_diverges_says_why_and_is_pruned(logged):
    ground = _ground([0, 1] * 20)
    ground.learn[...] = np.inf
    ((trial,), (line,)) = _run(ground)
    assert trial.state.name == "PRUNED"
    assert "diverged in epoch 1" in trial.user_attrs[TROUBLE]
    assert line.startswith("trial   0: diverged, 0 epochs, pruned")
    assert logged[0].metrics == {}


def test_a_trial_is_pruned_in_the_midst(logged, monkeypatch):
    monkeypatch.setattr(Trial, "should_prune", lambda _: True)
    ((trial,), _) = _run(_ground([0, 1] * 20))
    assert (trial.state.name, len(trial.user_attrs[EPOCHS])) == ("PRUNED", 1)
    assert logged[0].state == "PRUNED"


def test_an_interrupted_trial_tells_nothing(logged, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trial, "report", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _run(_ground([0, 1] * 20))
    assert logged == []
