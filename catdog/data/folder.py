"""Labelled pictures in one sub-folder per class."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import ImageFolder

from catdog import CLASSES, CatdogError, Classes
from catdog.data import images
from catdog.data.images import load
from catdog.data.transforms import Transform


class LabelledFolder(ImageFolder):
    """Pictures in one sub-folder per class, as `((3, H, W) uint8, label)`.

    The labels follow the order of `classes`, never that of a directory listing.

    Raises:
        CatdogError: a class has no folder or no picture.
    """

    def __init__(
        self, folder: Path, transform: Transform | None = None, *, classes: Classes = CLASSES
    ) -> None:
        self._wanted = classes
        try:
            super().__init__(
                str(folder), transform=transform, loader=load, is_valid_file=images.is_image_name
            )
        except FileNotFoundError as error:
            raise CatdogError(
                f"{folder} needs pictures in both {classes[0]}/ and {classes[1]}/: {error}"
            ) from error

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Class names and their labels, in their order."""
        missing = [name for name in self._wanted if not Path(directory, name).is_dir()]
        if missing:
            raise FileNotFoundError(f"no folder {' and no folder '.join(missing)}")
        return list(self._wanted), {name: label for label, name in enumerate(self._wanted)}
