"""A classifier and a folder that somebody has labelled → how good it is there, and where worse."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from catdog import CatdogError, Classes
from catdog.data import images
from catdog.data.archive import tables_in
from catdog.data.images import UnreadableImageError
from catdog.data.loaders import LabelledFolder
from catdog.data.metadata import Metadata, log_unmatched, read_metadata
from catdog.evaluation.metrics import Scores, metrics_of, score
from catdog.evaluation.slices import SliceScore, look_at_all, make_slices, slice_table
from catdog.inference.classifier import Classifier
from catdog.inference.output import Row


@dataclass(frozen=True)
class Evaluation:
    """How a classifier does on labelled photos.

    Attributes:
        scores: the few numbers of an epoch.
        metrics: all of them by MLflow's names, with the ends of their 95 % intervals.
        slices: photos with something in common; the first row is all of them.
        unreadable: a row for each picture that was left out.
        learned: how many of the others the model learned from, which flatters it; None where
            the model does not know.
    """

    scores: Scores
    metrics: dict[str, float]
    slices: list[SliceScore]
    unreadable: list[Row]
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
        width = max(len(row.label) for row in self.slices)
        yield ""
        yield f"{'slice':{width}}  photos  errors  accuracy"
        for row in self.slices:
            share = f"{row.accuracy:.4f}  {row.low:.4f} to {row.high:.4f}"
            told = "  surely worse" if row.surely_worse else ""
            yield f"{row.label:{width}}  {row.count:6,}  {row.errors:6,}    {share}{told}"


def evaluate_folder(classifier: Classifier, folder: Path, *, batch_size: int = 32) -> Evaluation:
    """Score the classifier on a folder with one for each class in it, which is only read.

    Slices are made as in a run's report, by the columns of a metadata.csv in it, too.

    Raises:
        CatdogError: a class has no folder or no picture, none can be read, or the
            metadata.csv can't be used.
    """
    classes = classifier.about.classes
    samples = LabelledFolder(folder, classes=classes).samples
    properties = read_metadata(tables_in(folder))
    log_unmatched(properties, (_within(folder, path) for path, _ in samples))
    read, unreadable = _answered(classifier, samples, batch_size=batch_size)
    if not read:
        raise CatdogError(f"no picture in {folder} can be read: {unreadable[0].error}")
    labels, logits = np.array([one.label for one in read]), np.array([one.logit for one in read])
    rows = [_as_in_manifest(one, classes, folder, properties) for one in read]
    slices = make_slices(rows, look_at_all([Path(one.path) for one in read]))
    return Evaluation(
        score(labels, logits),
        metrics_of(labels, logits),
        slice_table(slices, labels, logits),
        unreadable,
        _learned_count(classifier, read),
    )


@dataclass(frozen=True)
class _Answered:
    """A picture, its answer, and what its bytes told while they were at hand."""

    path: str
    label: int
    logit: float
    sha256: str
    size: tuple[int, int]


def _learned_count(classifier: Classifier, read: Sequence[_Answered]) -> int | None:
    known = classifier.learned_from(one.sha256 for one in read)
    return None if known is None else int(known.sum())


def _answered(
    classifier: Classifier, samples: Sequence[tuple[str, int]], *, batch_size: int
) -> tuple[list[_Answered], list[Row]]:
    """What is known of each picture that can be read, and a row for each other."""
    read: list[_Answered] = []
    unreadable: list[Row] = []
    waiting = iter(samples)
    while batch := list(islice(waiting, batch_size)):
        contents = [_read(path) for path, _ in batch]
        logits = iter(classifier.logits([c for c in contents if isinstance(c, bytes)]))
        for (path, label), content in zip(batch, contents, strict=True):
            if not isinstance(content, bytes):
                unreadable.append(_failed(path, content))
                continue
            logit = next(logits)
            if isinstance(logit, float):
                digest, size = hashlib.sha256(content).hexdigest(), images.upright_size(content)
                read.append(_Answered(path, label, logit, digest, size))
            else:
                unreadable.append(_failed(path, logit))
    return read, unreadable


def _as_in_manifest(
    one: _Answered, classes: Classes, folder: Path, properties: Metadata
) -> dict[str, str]:
    """What a manifest would say of the picture, as far as slices ask for it."""
    width, height = one.size
    known = properties.of(_within(folder, one.path))
    return {
        "label": classes[one.label],
        "width": str(width),
        "height": str(height),
        **dict(zip(properties.columns, known, strict=True)),
    }


def _within(folder: Path, path: str) -> str:
    return Path(path).relative_to(folder).as_posix()


def _number(name: str, value: float) -> str:
    counted = isinstance(value, int) or name == "example_count"
    return f"{value:,.0f}" if counted else f"{value:.4f}"


def _interval(name: str, metrics: Mapping[str, float]) -> str:
    ends = (metrics.get(f"{name}_ci_low"), metrics.get(f"{name}_ci_high"))
    return "" if None in ends else f"  {ends[0]:.4f} to {ends[1]:.4f}"


def _read(path: str) -> bytes | OSError:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        return error


def _failed(path: str, error: OSError | UnreadableImageError) -> Row:
    reason = error.strerror if isinstance(error, OSError) else None
    return Row(path, None, None, None, None, reason or str(error))
