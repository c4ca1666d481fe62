"""A classifier and photos that somebody has labelled → how good it is there, and where worse."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from catdog import CatdogError
from catdog.data import images
from catdog.data.ingest import LabelledSource, SourcePicture
from catdog.data.metadata import Metadata, log_unmatched
from catdog.data.split import settle_duplicates
from catdog.evaluation.metrics import Scores, metrics_of, score
from catdog.evaluation.slices import Look, SliceScore, look_at, make_slices, slice_table
from catdog.inference.classifier import Classifier
from catdog.inference.inputs import Photo


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
        copies: how many files were not counted, as their bytes stand there more than once.
    """

    scores: Scores
    metrics: dict[str, float]
    slices: list[SliceScore]
    unreadable: dict[Path, str]
    learned: int | None = None
    copies: int = 0

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
    """Score the classifier on a labelled folder or archive, by the rules of preparing one.

    A content is counted once. Slices are made as in a run's report, by the columns of a
    metadata.csv in it, too.

    Raises:
        CatdogError: a class has no picture, none can be read, or the metadata.csv can't be used.
    """
    classes = classifier.about.classes
    source = LabelledSource(folder, classes)
    source.require_both()
    metadata = source.metadata
    log_unmatched(metadata, source.labels)
    seen: dict[str, tuple[SourcePicture, Look]] = {}

    def samples() -> Iterator[tuple[str, str, bytes]]:
        for name, content_of in source.pictures():
            if source.labels[name]:
                path = source.where(name)
                yield str(path), name, b"" if path.parent.is_dir() else content_of()

    def read(sample: tuple[str, str, bytes]) -> bytes:
        path, name, content = sample
        content = content or Photo(path).read()
        digest, size = hashlib.sha256(content).hexdigest(), images.upright_size(content)
        picture = SourcePicture(name, Path(path), source.labels[name], "", digest, *size)
        seen[path] = picture, look_at(content)
        return content

    unreadable: dict[Path, str] = {}
    answers: dict[str, float] = {}
    for (path, _, _), outputs in classifier.outputs(samples(), read, batch_size=batch_size):
        if isinstance(outputs, str):
            unreadable[Path(path)] = outputs
        else:
            answers[path] = outputs[0]
    pictures, copies = settle_duplicates([seen[path][0] for path in answers])
    if not pictures:
        reason = next(iter(unreadable.values()), "all have two labels")
        raise CatdogError(f"no picture in {folder} can be read: {reason}")
    rows = [_manifest_row(one, metadata) for one in pictures]
    looks = [seen[str(one.staged)][1] for one in pictures]
    true = np.array([classes.index(one.label) for one in pictures])
    answered = np.array([answers[str(one.staged)] for one in pictures])
    known = classifier.learned_from(one.sha256 for one in pictures)
    return Evaluation(
        score(true, answered),
        metrics_of(true, answered),
        slice_table(make_slices(rows, looks), true, answered),
        unreadable,
        None if known is None else int(known.sum()),
        len(copies),
    )


def _manifest_row(picture: SourcePicture, metadata: Metadata) -> dict[str, str]:
    """What a manifest would say, as far as slices ask for it."""
    row = {"label": picture.label, "width": str(picture.width), "height": str(picture.height)}
    return row | dict(zip(metadata.columns, metadata.of(picture.source), strict=True))


def _number(name: str, value: float) -> str:
    counted = isinstance(value, int) or name == "example_count"
    return f"{value:,.0f}" if counted else f"{value:.4f}"


def _interval(name: str, metrics: Mapping[str, float]) -> str:
    ends = (metrics.get(f"{name}_ci_low"), metrics.get(f"{name}_ci_high"))
    return "" if None in ends else f"  {ends[0]:.4f} to {ends[1]:.4f}"
