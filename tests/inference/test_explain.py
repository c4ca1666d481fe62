from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from catdog import CatdogError
from catdog.data.images import to_tensor
from catdog.data.transforms import evaluation_steps
from catdog.inference.explain import CAPTION_PX, SHADE, draw, heat_map, overlay
from catdog.inference.prediction import Prediction
from catdog.models.network import Network, build_network
from catdog.training.loop import seed_everything
from tests.conftest import COLOURS, encoded, tiny_picture

KINDS = ["test_resnet", "test_vit", "test_convnext"]
PATCH_PX, BLUR_PX = 48, 16
"""A planted patch, and how far a backbone of cells of 32 px may spill over its edge."""


@pytest.fixture(scope="module", params=KINDS)
def network(request) -> Network:
    seed_everything(0)
    return build_network(request.param, weights="none").eval()


def _crop(network: Network, seed: int = 0) -> torch.Tensor:
    size = network.preprocessing.crop_px
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator)


def test_heat_is_a_number_from_0_to_1_for_each_pixel_and_each_answer_has_its_own(network):
    crop = _crop(network)
    with torch.no_grad():
        both = [heat_map(network, crop, towards_positive=towards) for towards in (True, False)]
    for heat in both:
        assert (heat.shape, heat.dtype) == (crop.shape[-2:], torch.float32)
        assert ((heat >= 0) & (heat <= 1)).all()
    assert max(heat.max() for heat in both) == 1.0
    assert not np.allclose(*both)


def test_photos_that_are_looked_at_at_the_same_time_do_not_mix(network):
    crops = [_crop(network, seed) for seed in range(6)]

    def look(crop):
        return heat_map(network, crop, towards_positive=True)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(look, crops))
    for crop, heat in zip(crops, together, strict=True):
        assert np.allclose(heat, look(crop), atol=1e-4)


def _planted(rng: np.random.Generator, name: str, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """Grey noise with a patch of the class's colour somewhere, and a mask of where it is."""
    picture = rng.integers(90, 150, (size, size, 3), dtype=np.uint8)
    left, top = rng.integers(0, size - PATCH_PX, 2)
    picture[top : top + PATCH_PX, left : left + PATCH_PX] = COLOURS[name]
    near = np.zeros((size, size), dtype=bool)
    end = PATCH_PX + BLUR_PX
    near[max(0, top - BLUR_PX) : top + end, max(0, left - BLUR_PX) : left + end] = True
    return torch.from_numpy(picture).permute(2, 0, 1), near


@pytest.mark.parametrize("kind", ["test_resnet", "test_convnext"])
def test_it_is_warm_where_the_answer_comes_from(kind):
    seed_everything(0)
    network = build_network(kind, weights="none").eval()
    rng, size = np.random.default_rng(0), network.preprocessing.crop_px
    names = list(COLOURS) * 16
    pictures = torch.stack([_planted(rng, name, size)[0] for name in names])
    with torch.no_grad():
        features = network.features(pictures).numpy()
    middle, width = features.mean(0), features.std(0) + 1e-8
    fitted = LogisticRegression().fit((features - middle) / width, names)
    with torch.no_grad():
        network.head.linear.weight.copy_(torch.from_numpy(fitted.coef_ / width))
    for name in names[:12]:
        crop, near = _planted(rng, name, size)
        heat = heat_map(network, crop, towards_positive=name == "dog")
        assert near.ravel()[heat.argmax()]
        assert heat[near].mean() > 2 * heat[~near].mean()


def test_a_backbone_without_a_map_is_one_sentence(network):
    class Blind(nn.Module):
        def forward(self, pixels):
            return pixels.mean((2, 3))

    blind = Network(Blind(), network.head, network.preprocessing)
    with pytest.raises(CatdogError, match="has no map of features to show: leave out --explain"):
        heat_map(blind, _crop(network), towards_positive=True)


WIDE = encoded(tiny_picture("dog", 1).resize((320, 160)), "PNG")
ANSWER = Prediction("dog", 0.9, 0.9, 0.5)


def test_the_photo_is_drawn_with_a_darker_margin_and_the_answer_below(classifier):
    resize, _ = evaluation_steps(classifier.preprocessing)
    before = resize(to_tensor(WIDE)).permute(1, 2, 0).numpy().astype(float)
    height, width, _ = before.shape
    drawn = np.asarray(draw(classifier, WIDE, ANSWER))
    assert drawn.shape == (height + CAPTION_PX, width, 3)
    assert np.abs(drawn[:height, 0] - SHADE * before[:, 0]).max() <= 1
    middle = slice(width // 2 - 20, width // 2 + 20)
    assert drawn[:height, middle].mean() > 0.8 * before[:, middle].mean()
    assert 0.5 < (drawn[height:] == 255).mean() < 1


def test_the_heat_is_that_of_the_label_which_was_given(classifier):
    # As under a threshold of 0.9: "cat", though a dog is more likely.
    both = [Prediction(label, 0.9, 0.8, 0.5) for label in ("dog", "cat")]
    dog, cat = (np.asarray(overlay(classifier, WIDE, one)) for one in both)
    assert not np.array_equal(dog, cat)
