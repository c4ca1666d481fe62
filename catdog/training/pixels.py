"""Decoded pictures in one memory-mapped file, for training that looks at them in every epoch.

In: prepared pictures. Out: `(N, 3, S, S) uint8`, each as evaluation crops it, so that a JPEG is
decoded once. Augmentation then happens on the device that trains, a batch at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from catdog.data.batches import EpochBatches, seeded
from catdog.data.dataset import Picture
from catdog.data.transforms import Preprocessing, evaluation_transform
from catdog.parallel import in_order
from catdog.training.distributed import SOLO, Team
from catdog.training.features import RECIPE, cache_trouble_is_told, features_folder, read_picture

Pixels = NDArray[np.uint8]
Watch = Callable[[Iterable[None], str], Iterable[None]]

GPU_SHARE = 0.4
"""Of a GPU's free memory, what pictures may take; training needs the rest."""


def decode_all(
    pictures: Sequence[Picture],
    preprocessing: Preprocessing,
    data_dir: Path,
    *,
    watch: Watch = lambda done, _: done,
) -> Pixels:
    """All pictures as `(N, 3, S, S) uint8`, S = crop_px, memory-mapped; decoded once.

    Raises:
        CatdogError: a picture is gone, unreadable, or not the one that was prepared, or they
            have no room on the disk.
    """
    known_by = hashlib.sha256(f"{RECIPE} {preprocessing}".encode())
    for picture in pictures:
        known_by.update(bytes.fromhex(picture.sha256))
    path = features_folder(data_dir) / known_by.hexdigest()[:16] / "pixels.npy"
    if not path.exists():
        _decode_into(path, pictures, preprocessing, watch)
    os.utime(path.parent)  # when it was last used decides what is old
    pixels: Pixels = np.load(path, mmap_mode="r")
    return pixels


def _decode_into(
    path: Path, pictures: Sequence[Picture], preprocessing: Preprocessing, watch: Watch
) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _fill(part, pictures, preprocessing, watch)
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):  # what went wrong before it matters more
            part.unlink(missing_ok=True)


def _fill(
    path: Path, pictures: Sequence[Picture], preprocessing: Preprocessing, watch: Watch
) -> None:
    side = preprocessing.crop_px
    with cache_trouble_is_told(path.parent):
        pixels = _reserve(path, (len(pictures), 3, side, side))
    transform = evaluation_transform(preprocessing)

    def decode(row: int) -> None:
        pixels[row] = transform(read_picture(pictures[row])).numpy()

    for _ in watch(in_order(decode, range(len(pictures))), "decode"):
        pass
    pixels.flush()


def _reserve(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """A new memory-mapped array in a file that has its place on the disk.

    Without that a full disk shows when a page is written, as a signal that ends the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return open_memmap(path, mode="r+")


class PixelBatches(EpochBatches):
    """Batches of pictures `uint8` with labels `(B,) int64`, on the device.

    With a seed they come augmented to `(B, 3, crop_px, crop_px)`, in a new order in each epoch;
    without, as they are. Each process of a team gets its part of a batch's pictures, and the labels
    of all.
    """

    def __init__(
        self,
        pixels: Pixels,
        labels: Tensor,
        device: torch.device,
        *,
        crop_px: int,
        batch_size: int,
        seed: int | None,
        team: Team = SOLO,
    ) -> None:
        """Take pixels `(N, 3, S, S)`; they move to the GPU as a whole when they fit."""
        super().__init__(len(labels), batch_size, seed)
        self._pixels = _on_gpu(pixels, device)
        self._labels, self._device, self._crop_px = labels, device, crop_px
        self._team = team

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, which count from 1, without the first `skip`."""
        for number, chosen in self.order(epoch, skip):
            part = self._team.part(len(chosen))
            images = self._take(chosen[part])
            if self._seed is not None and len(images):
                draws = seeded(self._seed, epoch, number)
                images = augment(images, self._crop_px, draws, before=part.start, total=len(chosen))
            yield images, self._labels[chosen].to(self._device)

    def _take(self, chosen: Tensor) -> Tensor:
        if isinstance(self._pixels, Tensor):
            return self._pixels[chosen.to(self._device)]
        batch = torch.from_numpy(self._pixels[chosen.numpy()])
        if self._device.type == "cuda":
            batch = batch.pin_memory()
        return batch.to(self._device, non_blocking=True)


def augment(
    pixels: Tensor,
    crop_px: int,
    generator: torch.Generator,
    *,
    before: int = 0,
    total: int | None = None,
) -> Tensor:
    """Augment a whole batch where it is: crop, mirror, light and colour, one draw a picture.

    From `(B, 3, R, R) uint8` to `(B, 3, crop_px, crop_px) uint8`. A crop keeps 70 to 100 % of
    the area, as `catdog.data.transforms.augmented` does. Of a part of a batch, `before` says
    how many pictures of it go before, and `total` how many it has.
    """
    count = len(pixels)
    draw = torch.rand(7, total or count, generator=generator)
    draw = draw[:, before : before + count].to(pixels.device)
    shrink = (0.7 + 0.3 * draw[0]).sqrt()
    stretch = (4 / 3) ** (draw[1] - 0.5)
    width, height = (shrink * stretch).clamp(max=1), (shrink / stretch).clamp(max=1)
    mirror = torch.where(draw[2] < 0.5, -1.0, 1.0)
    place = torch.zeros(count, 2, 3, device=pixels.device)
    place[:, 0, 0], place[:, 0, 2] = width * mirror, (1 - width) * (2 * draw[3] - 1)
    place[:, 1, 1], place[:, 1, 2] = height, (1 - height) * (2 * draw[4] - 1)
    grid = functional.affine_grid(place, [count, 3, crop_px, crop_px], align_corners=False)
    cropped = functional.grid_sample(
        pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    light, colour = (0.8 + 0.4 * draw[5:7])[..., None, None, None]
    grey = cropped.mean(1, keepdim=True)
    lit: Tensor = (grey + (cropped - grey) * colour) * light
    return lit.clamp(0, 255).round().to(torch.uint8)


def _on_gpu(pixels: Pixels, device: torch.device) -> Pixels | Tensor:
    if device.type != "cuda":
        return pixels
    free, _ = torch.cuda.mem_get_info(device)
    if pixels.nbytes > GPU_SHARE * free:
        return pixels
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
