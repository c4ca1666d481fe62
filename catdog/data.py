"""Picture files → uint8 tensors → batches. The only place that resizes.

Preprocessing is a value: it is chosen with the backbone, saved with the model, and read
back by whoever predicts. Training, evaluation and prediction all go through `load` and
`evaluation_transform`, so a photo looks the same to each of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from catdog import CLASSES, CatdogError, images

Transform = Callable[[Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]
"""Pairs of inputs and labels. Inputs are pictures `(N, 3, S, S) uint8` or features
`(N, D) float32`; labels are `(N,) int64`, 0 = cat, 1 = dog."""

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

    Raises:
        UnreadableImageError: see `catdog.images.decode`.
    """
    return _limit_aspect(v2.functional.pil_to_tensor(images.decode(content)))


def load(path: str | Path) -> Tensor:
    """Decode the picture file at `path` to an upright `(3, H, W) uint8` RGB tensor.

    Raises:
        UnreadableImageError: naming the file, when it is missing or does not decode.
    """
    return _limit_aspect(v2.functional.pil_to_tensor(images.read(Path(path))))


def evaluation_transform(preprocessing: Preprocessing) -> Transform:
    """From `(3, H, W) uint8` to the centre crop `(3, crop_px, crop_px) uint8`."""
    return v2.Compose(
        [
            v2.Resize(
                preprocessing.resize_px,
                interpolation=InterpolationMode(preprocessing.interpolation),
                antialias=True,
            ),
            v2.CenterCrop(preprocessing.crop_px),
        ]
    )


def training_transform(preprocessing: Preprocessing) -> Transform:
    """From `(3, H, W) uint8` to a random augmented crop `(3, crop_px, crop_px) uint8`."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                preprocessing.crop_px,
                scale=(0.7, 1.0),
                interpolation=InterpolationMode(preprocessing.interpolation),
                antialias=True,
            ),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
        ]
    )


def normalisation(preprocessing: Preprocessing) -> Transform:
    """From `(N, 3, S, S) uint8` to the same shape in float32, as the backbone was trained."""
    return v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


class LabelledFolder(ImageFolder):
    """Pictures in one sub-folder per class, as `((3, H, W) uint8, label)`.

    The labels follow `catdog.CLASSES`, never the order of a directory listing.

    Raises:
        CatdogError: a class has no folder or no picture.
    """

    def __init__(self, folder: Path, transform: Transform | None = None) -> None:
        try:
            super().__init__(
                str(folder), transform=transform, loader=load, is_valid_file=images.is_image_name
            )
        except FileNotFoundError as error:
            raise CatdogError(
                f"{folder} needs pictures in both {CLASSES[0]}/ and {CLASSES[1]}/: {error}"
            ) from error

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """Class names and their labels, in the order of `catdog.CLASSES`."""
        missing = [name for name in CLASSES if not Path(directory, name).is_dir()]
        if missing:
            raise FileNotFoundError(f"no folder {' and no folder '.join(missing)}")
        return list(CLASSES), {name: label for label, name in enumerate(CLASSES)}


def make_batches(
    dataset: LabelledFolder,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    workers: int,
    pin_memory: bool = False,
) -> DataLoader:
    """Batches of `dataset`; with `shuffle`, in an order that only `seed` decides."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(seed),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )


def pick_workers(workers: int, device: torch.device) -> int:
    """The number of decoding processes: as asked, or for -1 what suits the device.

    On a CPU the forward pass keeps all cores busy, and a second process only competes.
    """
    if workers >= 0:
        return workers
    return min(os.cpu_count() or 1, 16) if device.type == "cuda" else 0


def _limit_aspect(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    longest = MAX_ASPECT * min(height, width)
    if max(height, width) <= longest:
        return image
    return v2.functional.center_crop(image, [min(height, longest), min(width, longest)])
