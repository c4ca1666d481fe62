"""Pictures as a backbone wants them: resized, cropped, augmented. The only place that resizes.

Preprocessing is a value: it is chosen with the backbone, saved with the model, and read
back by whoever predicts. Training, evaluation and prediction all go through
`evaluation_transform`, so a photo looks the same to each of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

Transform = Callable[[Tensor], Tensor]
LOG_ASPECT = math.log(4 / 3)
"""Augmented crops are at most 4:3 or 3:4 before they are squared."""


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone expects of a picture: sizes in pixels, mean and std per channel.

    `crop_mode` is timm's word for how a picture that is not square becomes so: "center" cuts off
    what is too long, "squash" leaves its proportions, "border" fills it up with the mean colour.
    """

    resize_px: int
    crop_px: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_mode: str = "center"  # of models that were saved before there was another

    def to_dict(self) -> dict[str, Any]:
        """The value as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The value that `to_dict` gave.

        Raises:
            TypeError: a field is missing or unknown.
        """
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def evaluation_transform(preprocessing: Preprocessing) -> Transform:
    """From `(3, H, W) uint8` to the centre crop `(3, crop_px, crop_px) uint8`."""
    return v2.Compose(evaluation_steps(preprocessing))


def evaluation_steps(preprocessing: Preprocessing) -> tuple[Transform, Transform]:
    """The two steps of `evaluation_transform`: resize the whole picture, cut out its centre."""
    side = preprocessing.resize_px
    resize: Transform = v2.Resize(
        [side, side] if preprocessing.crop_mode == "squash" else side,
        interpolation=InterpolationMode(preprocessing.interpolation),
        antialias=True,
    )
    if preprocessing.crop_mode == "border":
        resize = functools.partial(_bordered, preprocessing)
    return resize, v2.CenterCrop(preprocessing.crop_px)


def _bordered(preprocessing: Preprocessing, image: Tensor) -> Tensor:
    """The picture with its longer side `resize_px` long, amid its backbone's mean colour."""
    height, width = image.shape[-2:]
    share = preprocessing.resize_px / max(height, width)
    image = v2.functional.resize(
        image,
        [max(1, round(height * share)), max(1, round(width * share))],
        interpolation=InterpolationMode(preprocessing.interpolation),
        antialias=True,
    )
    lacking = [max(0, preprocessing.crop_px - have) for have in image.shape[-2:]]
    top, left = lacking[0] // 2, lacking[1] // 2
    colour = [float(round(255 * mean)) for mean in preprocessing.mean]
    return v2.functional.pad(image, [left, top, lacking[1] - left, lacking[0] - top], fill=colour)


def training_transform(preprocessing: Preprocessing) -> Transform:
    """From `(3, H, W) uint8` to a random augmented crop `(3, crop_px, crop_px) uint8`.

    It is torchvision's usual recipe; what it draws follows PyTorch's own random generator.
    """
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                preprocessing.crop_px,
                interpolation=InterpolationMode(preprocessing.interpolation),
                antialias=True,
            ),
            v2.RandomHorizontalFlip(),
            v2.TrivialAugmentWide(),
        ]
    )


def augmented(image: Tensor, preprocessing: Preprocessing, rng: Random) -> Tensor:
    """A crop of 70 to 100 % of the area, perhaps mirrored, in a somewhat other light.

    From `(3, H, W) uint8` to `(3, crop_px, crop_px) uint8`; only `rng` decides how. Features of
    further views are of these. (The random transforms of torchvision share one generator, which
    the threads that compute features would race for.)
    """
    height, width = image.shape[-2:]
    area = height * width * rng.uniform(0.7, 1.0)
    aspect = math.exp(rng.uniform(-LOG_ASPECT, LOG_ASPECT))
    crop_width = min(width, max(1, round(math.sqrt(area * aspect))))
    crop_height = min(height, max(1, round(math.sqrt(area / aspect))))
    top, left = rng.randint(0, height - crop_height), rng.randint(0, width - crop_width)
    image = v2.functional.resized_crop(
        image,
        *(top, left, crop_height, crop_width),
        size=[preprocessing.crop_px] * 2,
        interpolation=InterpolationMode(preprocessing.interpolation),
        antialias=True,
    )
    if rng.random() < 0.5:
        image = v2.functional.horizontal_flip(image)
    image = v2.functional.adjust_brightness(image, rng.uniform(0.8, 1.2))
    image = v2.functional.adjust_contrast(image, rng.uniform(0.8, 1.2))
    return v2.functional.adjust_saturation(image, rng.uniform(0.8, 1.2))
