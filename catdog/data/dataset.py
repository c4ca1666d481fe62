"""A prepared data set: what its folder is made of, and how it is read.

One folder holds the pictures by split and class, `manifest.csv` with a row for each of them,
`quarantine.csv` with what was left out, and `prepared.json`, the marker, without which nothing
counts as finished. `catdog.data.prepare` makes it.

What the user excludes lies in `excluded/`, where no step looks for pictures: a validation
picture in `excluded/validation/cat/`, say, with the split `excluded-validation` in the
manifest. So it is neither learned nor counted, and yet whoever reports an accuracy can give
it both ways: on `rows("validation")`, and raw, on those and `rows("excluded-validation")`.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from catdog import AUTO, CLASSES, CatdogError, Classes
from catdog.data.classes import both, read_classes
from catdog.data.images import UnreadableImageError, is_image_name
from catdog.files import sha256_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT = 3
MARKER, MANIFEST, QUARANTINE = "prepared.json", "manifest.csv", "quarantine.csv"
TRAINING, VALIDATION, TEST = SPLITS = ("training", "validation", "test")
EXCLUDED = "excluded"
"""Folder of the excluded pictures, and how the names of their splits begin."""
EXCLUDE_LINES = "exclude.txt"
"""A copy of the exclude file's lines, in that folder."""


def if_readable(path: Path, use: Callable[[bytes], T]) -> T | None:
    """What `use` makes of a picture's bytes; None, and a warning, where it can't be read any more.

    For all that comes after training: one picture that is gone by then fails no run.
    """
    try:
        return use(path.read_bytes())
    except (OSError, UnreadableImageError) as error:
        logger.warning(f"{path} can't be read any more, it is left out ({error})")
        return None


@dataclass(frozen=True)
class Picture:
    """A labelled picture: where it is, its label (0 or 1), and the digest of its bytes."""

    path: Path
    label: int
    sha256: str

    def key(self, view: int) -> bytes:
        """What its feature is known by within a cache; view 0 is the plain picture."""
        return bytes.fromhex(self.sha256) + view.to_bytes(2, "big")


@dataclass(frozen=True)
class PreparedDataset:
    """A finished prepared data set.

    `digest` is of the manifest, `validation_digest` of the labels and contents of the
    validation pictures alone: equal digests mean that accuracies can be compared.
    `classes` are what its labels say, class 0 first. `asked`, `val_fraction`, `seed` and
    `exclude` are what it was prepared with, `asked` for the classes, and `exclude_digest`
    is of the lines in that file, None when there are none.
    """

    folder: Path
    origin: str
    digest: str
    validation_digest: str
    counts: dict[str, dict[str, int]]
    quarantined: int
    excluded: int = 0
    val_fraction: float = 0.2
    seed: int = 0
    exclude: str = "none"
    exclude_digest: str | None = None
    classes: Classes = CLASSES
    asked: str = AUTO

    @property
    def training(self) -> Path:
        """Folder of the training pictures, one sub-folder for each class."""
        return self.folder / TRAINING

    @property
    def validation(self) -> Path:
        """Folder of the validation pictures, one sub-folder for each class."""
        return self.folder / VALIDATION

    @property
    def test(self) -> Path:
        """Folder of the pictures to label."""
        return self.folder / TEST

    @property
    def manifest(self) -> Path:
        """CSV with a row for each picture: `OWN_COLUMNS`, then those of the user."""
        return self.folder / MANIFEST

    @property
    def exclude_lines(self) -> Path:
        """The lines that the exclude file had; missing when it had none."""
        return self.folder / EXCLUDED / EXCLUDE_LINES

    @property
    def quarantine(self) -> Path:
        """CSV with a row for each file that was left out: path and reason."""
        return self.folder / QUARANTINE

    @property
    def drawn(self) -> bool:
        """Whether the pictures are the drawn sample."""
        return self.origin.startswith("sample:")

    def rows(self, split: str) -> list[dict[str, str]]:
        """The manifest's rows of one split, those in `excluded-validation` for instance."""
        return [row for row in _read_csv(self.manifest) if row["split"] == split]

    def pictures(self, *splits: str) -> list[Picture]:
        """The labelled pictures of some splits, in the manifest's order within each."""
        return [
            Picture(self.folder / row["path"], self.classes.index(row["label"]), row["sha256"])
            for split in splits
            for row in self.rows(split)
        ]

    def check(self) -> None:
        """Raise CatdogError when a picture was changed, added or deleted by hand."""
        self.check_unchanged()
        if gone := self.missing():
            raise CatdogError(
                f"{self.folder / gone} is gone since it was prepared: "
                "run scripts/prepare.py again, which makes it anew."
            )

    def missing(self) -> str | None:
        """The path in the manifest of a picture that is gone, if there is one."""
        paths = (row["path"] for row in _read_csv(self.manifest))
        return next((path for path in paths if not (self.folder / path).exists()), None)

    def check_unchanged(self) -> None:
        """Raise CatdogError when a picture to learn from was edited, or put there, by hand."""
        pictures = self.pictures(TRAINING, VALIDATION)
        present = [picture for picture in pictures if picture.path.exists()]
        with ThreadPoolExecutor() as pool:
            digests = pool.map(sha256_of, (picture.path for picture in present))
            for picture, digest in zip(present, digests, strict=True):
                if digest != picture.sha256:
                    raise CatdogError(
                        f"{picture.path} is not the picture that was prepared, its digest differs: "
                        "delete it and run scripts/prepare.py again, which makes it anew. A "
                        "change of yours belongs into the source."
                    )
        known = {picture.path for picture in pictures}
        for path in (*self.training.rglob("*"), *self.validation.rglob("*")):
            if is_image_name(path) and path not in known:
                raise CatdogError(
                    f"{path} was put there after the folder was prepared: move it into the "
                    "source, and run scripts/prepare.py again."
                )


def load_dataset(folder: Path, *, classes: str = AUTO) -> PreparedDataset:
    """Read a finished prepared data set; with `classes`, one of just these.

    Raises:
        CatdogError: there is none, its manifest was changed since, or it is of other classes.
    """
    marker = read_marker(folder)
    if marker is None:
        raise CatdogError(
            f"{folder} holds no prepared data set: run scripts/download.py and "
            "scripts/prepare.py first, with the same --dataset and --data_dir."
        )
    values = {field.name: marker[field.name] for field in fields(PreparedDataset)[1:]}
    dataset = PreparedDataset(folder, **values | {"classes": tuple(values["classes"])})
    if read_classes(classes) not in (None, dataset.classes):
        raise CatdogError(
            f"{folder} was prepared for {both(dataset.classes)}, not for classes={classes}: "
            f"run scripts/prepare.py again with --classes {classes}."
        )
    if not dataset.manifest.is_file() or sha256_of(dataset.manifest) != dataset.digest:
        raise CatdogError(
            f"{dataset.manifest} was changed or deleted after it was prepared: "
            "delete it and run scripts/prepare.py again, which makes it anew."
        )
    return dataset


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What the folder was prepared from and with; None when it is not finished."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and marker.get("format") == FORMAT else None


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
