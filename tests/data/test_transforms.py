from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from catdog.data import images, transforms
from catdog.data.transforms import (
    Preprocessing,
    evaluation_transform,
    training_transform,
)
from tests.conftest import encoded, tiny_picture

SMALL = Preprocessing(32, 28, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.mark.parametrize("size", [(48, 40), (300, 20), (9, 200), (1, 1)])
@pytest.mark.parametrize("make", [evaluation_transform, training_transform])
def test_every_picture_becomes_a_square_of_the_crop_size(size, make):
    tensor = images.to_tensor(encoded(tiny_picture("dog", 0, size), "PNG"))
    result = make(SMALL)(tensor)
    assert result.shape == (3, 28, 28)
    assert result.dtype == torch.uint8


def test_a_long_strip_is_cut_before_it_would_be_resized_to_gigabytes():
    strip = encoded(Image.new("RGB", (20_000, 2)), "PNG")
    assert images.to_tensor(strip).shape == (3, 2, 16)


@pytest.mark.parametrize("size", [(61, 40), (40, 61), (24, 180), (33, 33)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_evaluation_sees_what_timm_evaluates_on(crop_mode, size):
    picture = tiny_picture("cat", 0, size)
    preprocessing = replace(SMALL, crop_mode=crop_mode)
    theirs = create_transform(
        input_size=28, crop_pct=28 / 32, crop_mode=crop_mode, interpolation="bicubic",
        mean=SMALL.mean, std=SMALL.std, normalize=False,
    )  # fmt: skip
    mine = evaluation_transform(preprocessing)(images.to_tensor(encoded(picture, "PNG")))
    assert (mine.int() - theirs(picture).int()).abs().max() <= 1


def test_a_preprocessing_that_was_saved_without_a_crop_mode_cuts_the_centre():
    saved = SMALL.to_dict()
    del saved["crop_mode"]
    assert Preprocessing.from_dict(saved).crop_mode == "center"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_decoders_give_the_same_pixels(mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(tiny_picture("cat", 5, (61, 47)).convert(mode), quality=85, exif=exif)
    expected = np.asarray(images.decode(content))
    assert np.array_equal(images.to_tensor(content).permute(1, 2, 0).numpy(), expected)


def test_an_augmented_view_is_decided_by_its_random_numbers_alone():
    tensor = images.to_tensor(encoded(tiny_picture("dog", 0), "PNG"))
    first = transforms.augmented(tensor, SMALL, Random(1))
    assert torch.equal(first, transforms.augmented(tensor, SMALL, Random(1)))
    assert not torch.equal(first, transforms.augmented(tensor, SMALL, Random(2)))


def test_a_photo_that_says_only_in_xmp_how_it_lies_is_turned_too():
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    content = encoded(tiny_picture("cat", 0, (60, 40)), xmp=xmp)
    expected = np.asarray(images.decode(content)).transpose(2, 0, 1)
    assert expected.shape == (3, 60, 40)
    assert np.array_equal(images.to_tensor(content).numpy(), expected)
