"""Where a model is wrong more often: accuracy by the kind of picture.

In: rows of a manifest and a look at each picture. Out: a table with one line for each slice,
such as "dark" or "small: under 0.1 megapixel", and a rule that names the worst of them. Only
`look_at_all` reads files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import fisher_exact

from catdog.data import images
from catdog.data.dataset import if_readable
from catdog.data.metadata import OWN_COLUMNS
from catdog.evaluation.calibration import Labels, Logits, predicted_labels
from catdog.evaluation.intervals import wilson
from catdog.parallel import in_order

LOOK_PX = 64
"""Shorter side of what is decoded for a look: enough to tell blurred from sharp."""
THUMBNAIL_PX = 16
AT_LEAST = 20
"""Smaller slices are listed, but not called the worst: two errors in five are no finding."""
MOST_VALUES = 20
"""Of a column of the user's with more different words the commonest are told apart."""

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What a chart, a tag or a page can't hold, in a value of the user's."""

LOOKS = {
    "brightness": ("dark", "medium", "bright"),
    "contrast": ("flat", "medium", "strong"),
    "sharpness": ("blurred", "medium", "sharp"),
}
Row = Mapping[str, str]
Members = NDArray[np.bool_]


@dataclass(frozen=True)
class Look:
    """What one glance tells of a picture.

    Brightness is the mean of its grey values and contrast their standard deviation, both as
    shares of white. Sharpness is the standard deviation of the Laplacian, as a share of
    the contrast: it does not rise with the light. `thumbnail` is `(16, 16) uint8`, grey.
    """

    brightness: float
    contrast: float
    sharpness: float
    thumbnail: NDArray[np.uint8]


UNSEEN = Look(np.nan, np.nan, np.nan, np.zeros((THUMBNAIL_PX, THUMBNAIL_PX), np.uint8))
"""Of a picture that can't be read any more: neither dark nor bright, and like no other."""


@dataclass(frozen=True)
class Slice:
    """Some of N pictures that have a property in common; `members` is `(N,)`."""

    group: str
    name: str
    members: Members


@dataclass(frozen=True)
class SliceScore:
    """How a model does on a slice; `low` and `high` are Wilson's 95 % interval.

    `surely_worse` says that so many errors more than elsewhere are no chance, though the
    slice was picked from many (Fisher's exact test, 5 % divided by the number of slices).
    """

    group: str
    name: str
    count: int
    errors: int
    accuracy: float
    low: float
    high: float
    surely_worse: bool

    @property
    def verdict(self) -> str:
        """The same in words."""
        return "surely worse" if self.surely_worse else "may be chance"


def look_at_all(paths: Sequence[Path]) -> list[Look]:
    """Look at each picture, on all cores; some thousand photos a second on two of them.

    One that is gone or unreadable is named in a warning, and is `UNSEEN`.
    """
    return list(in_order(lambda path: if_readable(path, look_at) or UNSEEN, paths))


def look_at(content: bytes) -> Look:
    """What the bytes of a picture look like.

    Raises:
        UnreadableImageError: see `catdog.data.images.decode`.
    """
    picture = images.decode(content, side_px=LOOK_PX).convert("L")
    scale = LOOK_PX / min(picture.size)
    # One size for all: blur in a large picture must count like blur in a small one.
    size = [min(8 * LOOK_PX, max(THUMBNAIL_PX, round(side * scale))) for side in picture.size]
    grey = np.asarray(picture.resize(size, Image.Resampling.BOX), dtype=np.float32)
    grey = grey / np.float32(255)
    thumbnail = picture.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    contrast = float(grey.std())
    return Look(
        brightness=float(grey.mean()),
        contrast=contrast,
        sharpness=float(_laplacian(grey).std()) / contrast if contrast else 0.0,
        thumbnail=np.asarray(thumbnail),
    )


def make_slices(rows: Sequence[Row], looks: Sequence[Look]) -> list[Slice]:
    """Slices by class, size, shape, light, and every column that the user added.

    Args:
        rows: of a manifest, N of them; columns besides its own are taken for properties.
        looks: of the same pictures, in the same order.
    """
    width, height = (np.array([float(row[side]) for row in rows]) for side in ("width", "height"))
    found = _by_word("class", [row["label"] for row in rows])
    found += _by_thirds("megapixels", width * height / 1e6, ("small", "medium", "large"))
    found += _by_shape(width / height)
    for name, words in LOOKS.items():
        found += _by_thirds(name, np.array([getattr(look, name) for look in looks]), words)
    for column in sorted({key for row in rows for key in row} - set(OWN_COLUMNS)):
        found += _by_column(column, [row.get(column) or "" for row in rows])
    return [
        Slice(_printable(slice_.group), _printable(slice_.name), slice_.members)
        for slice_ in found
        if 0 < slice_.members.sum() < len(rows)
    ]


def slice_table(slices: Sequence[Slice], labels: Labels, logits: Logits) -> list[SliceScore]:
    """The scores of all pictures, and then of each slice; labels and logits are `(N,)`."""
    wrong = predicted_labels(logits) != np.asarray(labels)
    everything = Slice("all", "all", np.ones(len(wrong), dtype=bool))
    return [_score(slice_, wrong, len(slices)) for slice_ in (everything, *slices)]


def worst_slice(table: Sequence[SliceScore]) -> SliceScore | None:
    """The slice with the lowest accuracy; None when none is below the first row, all pictures.

    One that is surely worse comes before all that may be chance. Slices of fewer than
    `AT_LEAST` pictures don't count.
    """
    worse = [row for row in table[1:] if row.count >= AT_LEAST and row.accuracy < table[0].accuracy]
    return min(
        worse, key=lambda row: (not row.surely_worse, row.accuracy, -row.count), default=None
    )


def _printable(text: str) -> str:
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _laplacian(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return around - 4 * grey[1:-1, 1:-1]


def _by_word(group: str, words: Sequence[str], prefix: str = "") -> list[Slice]:
    array = np.array(words)
    return [
        Slice(group, f"{prefix}{word or '(empty)'}", array == word) for word in sorted(set(words))
    ]


def _by_shape(aspect: NDArray[np.float64]) -> list[Slice]:
    tall, wide = aspect < 1 / 1.1, aspect > 1.1
    return [
        Slice("shape", "upright", tall),
        Slice("shape", "square", ~tall & ~wide),
        Slice("shape", "wide", wide),
    ]


def _by_thirds(group: str, values: NDArray[np.float64], words: tuple[str, str, str]) -> list[Slice]:
    """Thirds of the pictures by a number that is known of them, nan where it is not."""
    lower, upper = np.nanquantile(values, (1 / 3, 2 / 3))
    low, high = values < lower, values > upper
    return [
        Slice(group, f"{words[0]}: {group} under {lower:.3g}", low),
        Slice(
            group,
            f"{words[1]}: {group} {lower:.3g} to {upper:.3g}",
            ~np.isnan(values) & ~low & ~high,
        ),
        Slice(group, f"{words[2]}: {group} over {upper:.3g}", high),
    ]


def _by_column(column: str, words: Sequence[str]) -> list[Slice]:
    prefix = f"{column} = "
    if len(set(words)) <= MOST_VALUES:
        return _by_word(column, words, prefix)
    try:
        values = np.array([float(word or "nan") for word in words])
    except ValueError:
        return _by_word(column, _commonest(words), prefix)
    thirds = _by_thirds(column, values, ("low", "medium", "high"))
    return [*thirds, Slice(column, f"{prefix}(empty)", np.isnan(values))]


def _commonest(words: Sequence[str]) -> list[str]:
    """The words with "(other)" for all but the commonest; where none comes twice, only that."""
    counted = Counter(words).most_common(MOST_VALUES - 1)
    kept = {word for word, count in counted if count > 1}
    return [word if word in kept else "(other)" for word in words]


def _score(slice_: Slice, wrong: Members, slices: int) -> SliceScore:
    count, errors = int(slice_.members.sum()), int(wrong[slice_.members].sum())
    right = count - errors
    elsewhere = int(wrong.sum()) - errors
    cells = np.array([[errors, right], [elsewhere, len(wrong) - count - elsewhere]])
    chance = fisher_exact(cells, alternative="greater").pvalue
    return SliceScore(
        slice_.group,
        slice_.name,
        count,
        errors,
        right / count,
        *wilson(right, count),
        surely_worse=bool(chance < 0.05 / max(1, slices)),
    )
