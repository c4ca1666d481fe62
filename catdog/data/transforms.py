"""Picture files → uint8 tensors → batches. The only place that resizes.

Preprocessing is a value: it is chosen with the backbone, saved with the model, and read
back by whoever predicts. Training, evaluation and prediction all go through `load` and
`evaluation_transform`, so a photo looks the same to each of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode, v2

from catdog.data import images

Transform = Callable[[Tensor], Tensor]
JPEG_START = b"\xff\xd8\xff"
LOG_ASPECT = math.log(4 / 3)
"""Augmented crops are at most 4:3 or 3:4 before they are squared."""

MAX_ASPECT = 8
"""A 1 x 10,000 strip resized by its shorter side would be gigabytes large."""


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone expects of a picture: sizes in pixels, mean and std per channel."""

    resize_px: int
    crop_px: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

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


def to_tensor(content: bytes) -> Tensor:
    """Decode a picture's bytes to an upright `(3, H, W) uint8` RGB tensor.

    JPEGs go through torchvision, which gives the pixels that Pillow gives, in less time;
    Pillow reads the rest, and says what is wrong with what can't be read.

    Raises:
        UnreadableImageError: see `catdog.data.images.decode`.
    """
    turn = images.orientation(content)
    if content.startswith(JPEG_START):
        encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        try:
            decoded = cast("Tensor", decode_jpeg(encoded, mode=ImageReadMode.RGB))
        except RuntimeError:
            pass
        else:
            return _limit_aspect(_upright(decoded, turn))
    return _limit_aspect(v2.functional.pil_to_tensor(images.decode(content)))


def load(path: str | Path) -> Tensor:
    """Decode the picture file at `path` to an upright `(3, H, W) uint8` RGB tensor.

    Raises:
        UnreadableImageError: naming the file, when it is missing or does not decode.
    """
    try:
        return to_tensor(Path(path).read_bytes())
    except OSError as error:
        raise images.UnreadableImageError(f"{path}: {error.strerror or error}") from error
    except images.UnreadableImageError as error:
        raise images.UnreadableImageError(f"{path}: {error}") from error


def evaluation_transform(preprocessing: Preprocessing) -> Transform:
    """From `(3, H, W) uint8` to the centre crop `(3, crop_px, crop_px) uint8`."""
    return v2.Compose(evaluation_steps(preprocessing))


def evaluation_steps(preprocessing: Preprocessing) -> tuple[Transform, Transform]:
    """The two steps of `evaluation_transform`: resize the whole picture, cut out its centre."""
    return (
        v2.Resize(
            preprocessing.resize_px,
            interpolation=InterpolationMode(preprocessing.interpolation),
            antialias=True,
        ),
        v2.CenterCrop(preprocessing.crop_px),
    )


def training_transform(preprocessing: Preprocessing) -> Transform:
    """From `(3, H, W) uint8` to a random augmented crop `(3, crop_px, crop_px) uint8`.

    What it draws follows PyTorch's own random generator.
    """
    # No function of its own, which could not be handed to a worker process that is not forked.
    return functools.partial(_augmented_as_torch_draws, preprocessing)


def _augmented_as_torch_draws(preprocessing: Preprocessing, image: Tensor) -> Tensor:
    return augmented(image, preprocessing, Random(int(torch.randint(2**62, ()))))


def augmented(image: Tensor, preprocessing: Preprocessing, rng: Random) -> Tensor:
    """A crop of 70 to 100 % of the area, perhaps mirrored, in a somewhat other light.

    From `(3, H, W) uint8` to `(3, crop_px, crop_px) uint8`; only `rng` decides how. (The
    random transforms of torchvision share one generator, which threads would race for.)
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


def normalisation(preprocessing: Preprocessing) -> Transform:
    """From `(N, 3, S, S) uint8` to the same shape in float32, as the backbone was trained."""
    return v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


def _upright(image: Tensor, turn: int) -> Tensor:
    """A picture `(3, H, W)` turned as an EXIF orientation, 1 to 8, says."""
    if turn in (5, 6, 7, 8):
        image = image.transpose(-1, -2)
    across, down = turn in (2, 3, 6, 7), turn in (3, 4, 7, 8)
    flipped = [dim for dim, flip in ((-1, across), (-2, down)) if flip]
    return image.flip(flipped) if flipped else image


def _limit_aspect(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    longest = MAX_ASPECT * min(height, width)
    if max(height, width) <= longest:
        return image
    return v2.functional.center_crop(image, [min(height, longest), min(width, longest)])
