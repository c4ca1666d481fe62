"""Drawn pictures: the same for the same source of randomness, and no two classes alike."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from catdog.sample.drawing import SIDE_PX, draw_animal, draw_scene


@given(seed=st.integers(0, 2**31 - 1), label=st.sampled_from([0, 1, None]))
@settings(max_examples=30, deadline=None)
def test_any_seed_draws_an_rgb_picture_within_the_limits(seed, label):
    def draw() -> Image.Image:
        rng = Random(seed)
        return draw_scene(rng) if label is None else draw_animal(label, rng)

    picture = draw()
    assert picture.mode == "RGB"
    assert all(SIDE_PX[0] <= side <= SIDE_PX[1] for side in picture.size)
    assert any(low != high for low, high in picture.getextrema())
    assert picture == draw()


@pytest.mark.parametrize("seed", range(3))
def test_the_label_changes_the_animal_in_a_picture_of_the_same_size(seed):
    cat, dog = (draw_animal(label, Random(seed)) for label in (0, 1))
    assert cat.size == dog.size == draw_scene(Random(seed)).size
    assert cat != dog
