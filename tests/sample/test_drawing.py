"""Drawn pictures: the same for the same source of randomness, and no two classes alike."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from catdog.sample.drawing import SIDE_PX, draw_animal, draw_scene


def _draw(label: int | None, seed: object) -> Image.Image:
    rng = Random(seed)
    return draw_scene(rng) if label is None else draw_animal(label, rng)


@given(seed=st.integers(0, 2**31 - 1), label=st.sampled_from([0, 1, None]))
@settings(max_examples=30, deadline=None)
def test_any_seed_draws_an_rgb_picture_within_the_limits(seed, label):
    picture = _draw(label, seed)
    assert picture.mode == "RGB"
    assert all(SIDE_PX[0] <= side <= SIDE_PX[1] for side in picture.size)
    assert any(low != high for low, high in picture.getextrema())
    assert picture == _draw(label, seed)


COLOURS = {
    0: [(188, 173, 166), (221, 209, 208), (126, 114, 70), (147, 129, 78)],
    1: [(177, 178, 175), (170, 173, 173), (137, 138, 107), (145, 143, 109)],
    None: [(192, 194, 191), (167, 169, 165), (136, 141, 97), (132, 137, 94)],
}
"""Of the quarters of what is drawn for one seed: other colours mean that each seed's pictures,
and all results on them, are others than they were."""


@pytest.mark.parametrize("label", COLOURS)
def test_a_seed_draws_what_it_always_drew(label):
    picture = _draw(label, "a")
    assert picture.size == (269, 329)
    quarters = np.asarray(picture.resize((2, 2), Image.Resampling.BOX)).reshape(4, 3)
    # Libraries may round otherwise from version to version.
    assert np.abs(quarters.astype(int) - COLOURS[label]).max() <= 2
