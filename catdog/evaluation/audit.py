"""What is wrong with the data itself: doubtful labels, near-duplicates across the split, outliers.

In: features of all labelled pictures and a look at each. Out: issues, surest first, for a
person to judge; the paths of those that shall go become lines of an exclude file. Only
`write_issues` writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from catdog import CatdogError, Classes
from catdog.data.classes import one
from catdog.data.dataset import VALIDATION
from catdog.evaluation.calibration import Labels, Probabilities
from catdog.evaluation.slices import Look
from catdog.files import atomic_write
from catdog.models.engine import Features

WRONG_LABEL, NEAR_DUPLICATE, UNLIKE_OTHERS = "wrong_label", "near_duplicate", "unlike_others"
DETAILS = {
    WRONG_LABEL: "looks like {}",
    NEAR_DUPLICATE: "repeats {}",
    UNLIKE_OTHERS: "least unlike {}",
}
"""The kinds of issues, and what the detail of one means."""
AUDIT = "audit.csv"

FOLDS = 5
INVERSE_REGULARISATION = 1e-3
"""Of 1,280 standardised features: strong, so that a few wrong labels are not learned."""

DUPLICATE_CORRELATION = 0.93
"""Of thumbnails. Photos that were resized, re-encoded and turned reached 0.984 and more with
their originals. Of two million pairs of real photos one is above 0.9: the same photo twice."""
TURNS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
"""Steps down and to the right: as it is, mirrored, upside down, and both."""
FLAT = 3.0
"""Grey levels; a thumbnail that varies less is as good as empty and has no duplicate."""

NEIGHBOURS = 10
OUTLIER = 2.5
"""Robust standard deviations above the usual distance to the neighbours: 5 of 2,002 photos
of cats and dogs are beyond it, and so are pages of text, noise and empty pictures."""


@dataclass(frozen=True)
class Issue:
    """Something to look at. `score` is from 0.5, where an issue begins, to 1, the surest.

    `path` is as in the manifest. `detail` is, for a wrong label, the label that the picture
    seems to deserve; for a near-duplicate the validation picture that `path`, a training
    picture, repeats; for a picture unlike all others, the one that is least unlike it.
    `sha256` is of the picture, `other_sha256` of the one in `detail`, "" where that is none.
    """

    path: str
    issue: str
    score: float
    detail: str
    sha256: str
    other_sha256: str = ""


def find_issues(
    rows: Sequence[Mapping[str, str]],
    features: Features,
    looks: Sequence[Look],
    *,
    classes: Classes,
    seed: int = 0,
) -> list[Issue]:
    """The issues of N labelled pictures, by kind and the surest of each kind first.

    Args:
        rows: of a manifest, N of them.
        features: `(N, D) float32`, of the plain view.
        looks: N, as `catdog.evaluation.slices.look_at_all` gives them.
        classes: what the pictures show.
        seed: of the folds.
    """
    labels = np.array([classes.index(row["label"]) for row in rows])
    validation = np.array([row["split"] == VALIDATION for row in rows])
    other = other_label_probability(features, labels, seed=seed)
    issues = []
    for index in np.flatnonzero(other > 0.5).tolist():
        row, suggested = rows[index], classes[1 - labels[index]]
        issues.append(
            Issue(row["path"], WRONG_LABEL, float(other[index]), suggested, row["sha256"])
        )
    for ours, theirs, correlation in near_duplicates(looks, validation):
        surplus = (correlation - DUPLICATE_CORRELATION) / (1 - DUPLICATE_CORRELATION)
        issues.append(_issue_of_two(NEAR_DUPLICATE, 0.5 + surplus / 2, rows[ours], rows[theirs]))
    distances, nearest = outlier_scores(features)
    for index in np.flatnonzero(distances > OUTLIER).tolist():
        score = float(distances[index] / (distances[index] + OUTLIER))
        issues.append(_issue_of_two(UNLIKE_OTHERS, score, rows[index], rows[nearest[index]]))
    kinds = list(DETAILS)
    return sorted(issues, key=lambda issue: (kinds.index(issue.issue), -issue.score, issue.path))


def other_label_probability(features: Features, labels: Labels, *, seed: int = 0) -> Probabilities:
    """How probable the other label is to a model that has not seen the picture, `(N,)`.

    The model is a logistic regression on standardised features, fitted to the other folds.
    Sorting by what it thinks of the given label is the self-confidence ranking of confident
    learning (Northcutt et al., 2021). Each class has two pictures or more.
    """
    folds = min(FOLDS, np.bincount(labels).min())
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=INVERSE_REGULARISATION, max_iter=300)
    )
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    # Its many small products are twenty times as slow when a busy machine's cores share them.
    with threadpool_limits(1):
        probabilities = cross_val_predict(model, features, labels, cv=parts, method="predict_proba")
    other: Probabilities = probabilities[np.arange(len(labels)), 1 - labels].astype(np.float64)
    return other


def near_duplicates(
    looks: Sequence[Look], validation: NDArray[np.bool_]
) -> list[tuple[int, int, float]]:
    """Pairs of a training and a validation picture that show the same photo.

    One may be resized, re-encoded, mirrored or upside down: what counts is the thumbnail.

    Returns:
        Index of the training picture, of the validation picture, and the correlation of
        their thumbnails, from `DUPLICATE_CORRELATION` to 1.
    """
    held, learned = np.flatnonzero(validation), np.flatnonzero(~validation)
    thumbnails = np.stack([look.thumbnail for look in looks]).astype(np.float32)
    plain = _unit(thumbnails)
    turned = [_unit(thumbnails[:, ::down, ::right]) for down, right in TURNS]
    found = []
    for start in range(0, len(held), 1024):
        chunk = held[start : start + 1024]
        alike = reduce(np.maximum, (ours[chunk] @ plain[learned].T for ours in turned))
        for row, column in np.argwhere(alike >= DUPLICATE_CORRELATION):
            correlation = min(1.0, float(alike[row, column]))
            found.append((int(learned[column]), int(chunk[row]), correlation))
    return found


def outlier_scores(features: Features) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How far each picture is from its nearest neighbours, and which one is the nearest.

    Returns:
        The mean cosine distance to the `NEIGHBOURS` nearest, in robust standard deviations
        from the median of all pictures, `(N,)`, and the index of the nearest, `(N,)`.
    """
    neighbours = min(NEIGHBOURS, len(features) - 1)
    search = NearestNeighbors(n_neighbors=neighbours, metric="cosine", algorithm="brute")
    distances, nearest = search.fit(features).kneighbors()
    mean = distances.mean(axis=1, dtype=np.float64)
    spread = 1.4826 * np.median(np.abs(mean - np.median(mean)))
    return (mean - np.median(mean)) / max(spread, 1e-9), nearest[:, 0]


def table_of_issues(issues: Sequence[Issue]) -> pd.DataFrame:
    """A row for each issue, `path` first; of no issues, the columns alone."""
    return pd.DataFrame(issues, columns=[field.name for field in fields(Issue)])


def write_issues(path: Path, issues: Sequence[Issue]) -> None:
    """Write their table as a CSV file, which appears whole.

    Raises:
        CatdogError: it can't be written.
    """
    try:
        with atomic_write(path) as part:
            table_of_issues(issues).to_csv(part, index=False, float_format="%.4f")
    except OSError as error:
        raise CatdogError(
            f"{path} can't be written ({error.strerror or error}): choose another file "
            "with --output."
        ) from error


def summary_lines(issues: Sequence[Issue]) -> Iterator[str]:
    """Lines for people: how many issues of each kind, and the first ten of them."""
    for kind in DETAILS:
        found = [issue for issue in issues if issue.issue == kind]
        yield f"{kind}: {len(found):,}"
        for issue in found[:10]:
            yield f"  {issue.score:.2f}  {issue.path}  {explained(issue)}"


def explained(issue: Issue) -> str:
    """What the issue's detail means: "looks like a dog"."""
    detail = one(issue.detail) if issue.issue == WRONG_LABEL else issue.detail
    return DETAILS[issue.issue].format(detail)


def _issue_of_two(
    kind: str, score: float, row: Mapping[str, str], other: Mapping[str, str]
) -> Issue:
    return Issue(row["path"], kind, score, other["path"], row["sha256"], other["sha256"])


def _unit(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
    """Thumbnails `(N, 16, 16)` as vectors whose products are correlations; flat ones as zero."""
    vectors = thumbnails.reshape(len(thumbnails), -1)
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    flat = lengths < FLAT * np.sqrt(vectors.shape[1])
    return np.where(flat, 0, vectors / np.maximum(lengths, 1e-6))
