from __future__ import annotations

import io

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from catdog.evaluation.novelty import REFERENCES, ImageNetBelief, NoveltyDetector

WIDTH = 8


def _cloud(seed: int, count: int, where: float = 1.0) -> Tensor:
    """Features around one direction, `where` of it, `(count, WIDTH) float32`."""
    features = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)) / 5
    features[:, 0] += where
    return features


def _belief(seed: int = 3) -> ImageNetBelief:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1000, WIDTH, generator=generator)
    bias = torch.randn(1000, generator=generator)
    return ImageNetBelief(weight, bias, torch.arange(1000) < 100)


FITTED = {
    "neighbours alone": NoveltyDetector.fit(_cloud(0, 60), _cloud(1, 40)),
    "with ImageNet's classes": NoveltyDetector.fit(_cloud(0, 60), _cloud(1, 40), _belief()),
    "two training photos": NoveltyDetector.fit(_cloud(0, 2), _cloud(1, 40)),
}


@pytest.fixture(params=FITTED.values(), ids=FITTED.keys())
def fitted(request) -> NoveltyDetector:
    return request.param


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(FITTED)), st.integers(0, 10_000), st.floats(-3, 3))
def test_familiarity_is_a_share_that_grows_with_the_raw_score(which, seed, where):
    fitted, features = FITTED[which], _cloud(seed, 30, where)
    raw, familiarity = fitted.raw(features), fitted(features)
    assert familiarity.shape == (30,)
    assert ((familiarity >= 0) & (familiarity < 1)).all()
    assert (familiarity[raw.argsort()].diff() >= 0).all()


def test_familiarity_is_the_share_of_validation_photos_that_are_less_familiar():
    validation = _cloud(1, 99)
    fitted = NoveltyDetector.fit(_cloud(0, 60), validation)
    raw = fitted.raw(validation)
    less = (raw[:, None] > raw[None]).double().mean(1)
    assert fitted(validation).tolist() == pytest.approx(less.tolist(), abs=0.03)


def test_beyond_all_validation_photos_what_is_farther_has_less_of_it():
    fitted = FITTED["neighbours alone"]
    angles = torch.linspace(1.2, 3.0, 12)
    features = torch.zeros(12, WIDTH)
    features[:, 0], features[:, 1] = angles.cos(), angles.sin()
    raw, familiarity = fitted.raw(features), fitted(features)
    assert (raw < fitted.levels[0]).all()
    assert (familiarity.diff() < 0).all()
    assert familiarity[0] < 1 / len(fitted.levels)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_belief_is_the_log_of_the_share_of_the_probability_on_pets(seed):
    belief, features = _belief(seed), _cloud(seed, 4)
    shares = (features @ belief.weight.T + belief.bias).double().softmax(1)
    assert torch.allclose(belief(features), shares[:, :100].sum(1).log(), atol=1e-4)
    assert (belief(features) <= 0).all()


def test_it_survives_a_round_trip_through_tensors_to_the_last_bit(fitted):
    twin = NoveltyDetector.from_tensors(fitted.to_tensors())
    features = _cloud(7, 30, 0.3)
    assert torch.equal(twin(features), fitted(features))


@pytest.mark.filterwarnings("ignore")  # what the exporter says of itself
def test_as_an_onnx_graph_it_says_the_same(fitted):
    stream = io.BytesIO()
    torch.onnx.export(
        fitted,
        (_cloud(0, 2),),
        stream,
        input_names=["features"],
        dynamic_axes={"features": {0: "count"}},
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    features = torch.cat([_cloud(8, 20), _cloud(9, 20, -0.5)])
    (found,) = session.run(None, {"features": features.numpy()})
    assert found == pytest.approx(fitted(features).numpy(), abs=1e-4)


def test_no_more_training_features_are_kept_than_need_be_and_always_the_same():
    training, validation = _cloud(0, REFERENCES + 50), _cloud(1, 20)
    first, second = (NoveltyDetector.fit(training, validation) for _ in range(2))
    assert first.references.shape == (REFERENCES, WIDTH)
    assert torch.equal(first.references, second.references)
