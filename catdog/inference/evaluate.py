"""A classifier and photos that somebody has labelled → how good it is there, and where worse."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from catdog import CatdogError
from catdog.data import images
from catdog.data.archive import tables_in
from catdog.data.loaders import LabelledFolder
from catdog.data.metadata import log_unmatched, read_metadata
from catdog.evaluation.calibration import Labels, Logits
from catdog.evaluation.metrics import Scores, metrics_of, score
from catdog.evaluation.slices import Look, SliceScore, look_at, make_slices, slice_table
from catdog.inference.classifier import Classifier
from catdog.inference.inputs import Photo


@dataclass
class LabelledPhoto:
    """A photo and its label; `sha256` and `size`, (width, height), are known once it was read."""

    path: Path
    label: int
    sha256: str = ""
    size: tuple[int, int] = (0, 0)

    def read(self) -> bytes:
        """The photo's bytes.

        Raises:
            OSError: the file can't be read.
            UnreadableImageError: it is no picture, or larger than any.
        """
        content = Photo(str(self.path)).read()
        self.sha256, self.size = hashlib.sha256(content).hexdigest(), images.upright_size(content)
        return content


@dataclass(frozen=True)
class Scored:
    """What a classifier says of labelled photos.

    Attributes:
        photos: those that could be read, N of them, in order.
        logits: calibrated, `(N,)`.
        unreadable: why not, by the path of each other photo.
    """

    photos: list[LabelledPhoto]
    logits: Logits
    unreadable: dict[Path, str]

    @property
    def labels(self) -> Labels:
        """The labels of the photos, `(N,)`."""
        return np.array([photo.label for photo in self.photos])


def score_photos(
    classifier: Classifier,
    photos: Iterable[LabelledPhoto],
    read: Callable[[LabelledPhoto], bytes] = LabelledPhoto.read,
    *,
    batch_size: int | None = None,
) -> Scored:
    """What the classifier says of each photo; `read` is called once for each, and none is held.

    A photo of which `read` raises an OSError or an UnreadableImageError is left out.
    """
    scored, logits, unreadable = [], [], {}
    for photo, outputs in classifier.outputs(photos, read, batch_size=batch_size):
        if isinstance(outputs, tuple):
            scored.append(photo)
            logits.append(outputs[0])
        else:
            unreadable[photo.path] = outputs
    return Scored(scored, np.array(logits), unreadable)


@dataclass(frozen=True)
class Evaluation:
    """How a classifier does on labelled photos.

    Attributes:
        scores: the few numbers of an epoch.
        metrics: all of them by MLflow's names, with the ends of their 95 % intervals.
        slices: photos with something in common; the first row is all of them.
        unreadable: why, by the path of each picture that was left out.
        learned: how many of the others the model learned from, which flatters it; None where
            the model does not know.
    """

    scores: Scores
    metrics: dict[str, float]
    slices: list[SliceScore]
    unreadable: dict[Path, str]
    learned: int | None = None

    def to_dict(self) -> dict[str, object]:
        """All of it for programs; what is undefined, as `roc_auc` with one class, is left out."""
        numbers = self.scores.to_dict() | self.metrics
        known = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if self.learned is not None:
            known["learned_count"] = self.learned
        return known | {"slices": [asdict(row) for row in self.slices]}

    def lines(self) -> Iterator[str]:
        """Lines for people: each metric with its interval, and below them the slices."""
        for name, value in self.metrics.items():
            if not name.endswith(("_ci_low", "_ci_high")):
                yield f"{name:24} {_number(name, value)}{_interval(name, self.metrics)}"
        width = max(len(row.name) for row in self.slices)
        yield ""
        yield f"{'slice':{width}}  photos  errors  accuracy"
        for row in self.slices:
            share = f"{row.accuracy:.4f}  {row.low:.4f} to {row.high:.4f}"
            verdict = "  surely worse" if row.surely_worse else ""
            yield f"{row.name:{width}}  {row.count:6,}  {row.errors:6,}    {share}{verdict}"


def evaluate_folder(
    classifier: Classifier, folder: Path, *, batch_size: int | None = None
) -> Evaluation:
    """Score the classifier on a folder with one for each class in it, which is only read.

    Slices are made as in a run's report, by the columns of a metadata.csv in it, too.

    Raises:
        CatdogError: a class has no folder or no picture, none can be read, or the
            metadata.csv can't be used.
    """
    samples = LabelledFolder(folder, classes=classifier.about.classes).samples
    photos = [LabelledPhoto(Path(path), label) for path, label in samples]
    metadata = read_metadata(tables_in(folder))
    names = {photo.path: photo.path.relative_to(folder).as_posix() for photo in photos}
    log_unmatched(metadata, names.values())
    looks: dict[Path, Look] = {}

    def read(photo: LabelledPhoto) -> bytes:
        content = photo.read()
        looks[photo.path] = look_at(content)
        return content

    scored = score_photos(classifier, photos, read, batch_size=batch_size)
    if not scored.photos:
        reason = next(iter(scored.unreadable.values()))
        raise CatdogError(f"no picture in {folder} can be read: {reason}")
    rows = []
    for photo in scored.photos:  # what a manifest would say, as far as slices ask for it
        own = dict(zip(metadata.columns, metadata.of(names[photo.path]), strict=True))
        width, height = map(str, photo.size)
        label = classifier.about.classes[photo.label]
        rows.append({"label": label, "width": width, "height": height} | own)
    slices = make_slices(rows, [looks[photo.path] for photo in scored.photos])
    labels, logits = scored.labels, scored.logits
    known = classifier.learned_from(photo.sha256 for photo in scored.photos)
    return Evaluation(
        score(labels, logits),
        metrics_of(labels, logits),
        slice_table(slices, labels, logits),
        scored.unreadable,
        None if known is None else int(known.sum()),
    )


def _number(name: str, value: float) -> str:
    counted = isinstance(value, int) or name == "example_count"
    return f"{value:,.0f}" if counted else f"{value:.4f}"


def _interval(name: str, metrics: Mapping[str, float]) -> str:
    ends = (metrics.get(f"{name}_ci_low"), metrics.get(f"{name}_ci_high"))
    return "" if None in ends else f"  {ends[0]:.4f} to {ends[1]:.4f}"
