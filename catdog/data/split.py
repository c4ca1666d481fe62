"""Which of the gathered pictures are kept, on which side each stands, and where it lies there.

In: the readable pictures of a source, with what their names say. Out: the same with the split
and the path that they have in the prepared folder. The disk is not touched.

The same bytes never stand on two sides. The choice follows contents and seed, so that a renamed
file stays where it is; and excluding a picture moves no other one to another side, nor gives it
another name.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from catdog import CLASSES, CatdogError, Classes
from catdog.data.classes import one, other
from catdog.data.dataset import TEST, TRAINING, VALIDATION
from catdog.data.exclusion import EXCLUDED, Exclusion, Named
from catdog.data.gathering import Item, LeftOut
from catdog.files import alike, normal, portable

logger = logging.getLogger(__name__)


def settle_duplicates(items: Sequence[Item]) -> tuple[list[Item], list[LeftOut]]:
    """Leave out bytes that carry two labels, and training copies of validation pictures.

    Returns:
        The pictures to keep, and what is left out of them.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    validated: set[str] = set()
    for item in items:
        if item.split != TEST:
            labels[item.sha256].add(item.label)
        if item.split == VALIDATION:
            validated.add(item.sha256)
    kept: list[Item] = []
    left_out: list[LeftOut] = []
    for item in items:
        if item.split == TEST:
            kept.append(item)
        elif len(labels[item.sha256]) > 1:
            both = " and as ".join(sorted(labels[item.sha256]))
            left_out.append((item.source, f"the same bytes are labelled as {both}"))
        elif item.split != VALIDATION and item.sha256 in validated:
            reason = "the same bytes stand among the validation pictures"
            left_out.append((item.source, reason))
        else:
            kept.append(item)
    return kept, left_out


def check_classes(
    items: Sequence[Item], left_out: Sequence[LeftOut], source: Path, classes: Classes
) -> None:
    """Refuse a source that can't be split into training and validation of both classes.

    Raises:
        CatdogError: it holds too few pictures of a class, or none; the text says of which.
    """
    labelled = [item for item in items if item.split != TEST]
    distinct = {
        label: len({item.sha256 for item in labelled if item.label == label}) for label in classes
    }
    negative, positive = classes
    others = " -P classes=NEGATIVE,POSITIVE names two other kinds." if classes == CLASSES else ""
    if not labelled:
        reason = _commonest(left_out)
        raise CatdogError(
            f"{source} holds no picture to learn from{reason}. Give pictures in folders named "
            f"{negative}/ and {positive}/, or named {negative}.1.jpg and {positive}.1.jpg.{others}"
        )
    for label in classes:
        if distinct[label] == 0:
            there = other(label, classes)
            raise CatdogError(
                f"{source} holds {distinct[there]:,} pictures of {one(there)} and none of "
                f"{one(label)}: add pictures of both, in folders named {negative}/ and "
                f"{positive}/.{others}"
            )
    for label in classes:
        _check_both_sides(labelled, label, distinct[label], source)


def _check_both_sides(labelled: Sequence[Item], label: str, distinct: int, source: Path) -> None:
    sides = {item.split == VALIDATION for item in labelled if item.label == label}
    given = any(item.split == VALIDATION for item in labelled)
    if (given and len(sides) < 2) or distinct < 2:
        raise CatdogError(
            f"{source} has too few different pictures of {one(label)}: "
            "at least one is needed for training and another for validation."
        )


def _commonest(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return ""
    (reason, count), *_ = Counter(reason for _, reason in left_out).most_common(1)
    return f": {len(left_out):,} were left out, {count:,} of them because of: {reason}"


def choose_split(items: Sequence[Item], val_fraction: float, seed: int) -> list[Item]:
    """Give each labelled picture its side; test pictures keep theirs."""
    if any(item.split == VALIDATION for item in items):
        logger.info("The source brings validation pictures of its own: val_fraction is not used.")
        return [replace(item, split=item.split or TRAINING) for item in items]
    chosen: set[str] = set()
    for label in sorted({item.label for item in items if item.split != TEST}):
        sizes = Counter(item.sha256 for item in items if item.label == label and item.split != TEST)
        chosen |= _choose_by_content(sizes, val_fraction, seed)
    return [
        item
        if item.split == TEST
        else replace(item, split=VALIDATION if item.sha256 in chosen else TRAINING)
        for item in items
    ]


def split_off(
    labels: Sequence[int], sha256s: Sequence[str], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which pictures of each class are set aside, about `fraction` of them, `(N,)`.

    Contents and the seed decide: copies stand on one side, and order and names do not matter.

    Raises:
        CatdogError: a class has too few different pictures for both sides.
    """
    chosen: set[str] = set()
    for label in (0, 1):
        sizes = Counter(sha256 for sha256, of in zip(sha256s, labels, strict=True) if of == label)
        if len(sizes) < 2:
            raise CatdogError(
                "a sweep needs at least two different training pictures of each class, one to "
                "learn from and one to judge trials on: add pictures."
            )
        chosen |= _choose_by_content(sizes, fraction, seed)
    return np.array([sha256 in chosen for sha256 in sha256s])


def _choose_by_content(sizes: Counter[str], fraction: float, seed: int) -> set[str]:
    """Choose digests whose copies, of which `sizes` tells, make up `fraction` of all copies.

    At least one digest is chosen and at least one is left. The order comes from a hash of
    seed and content, so that neither names nor the order of files matter.
    """
    order = sorted(sizes, key=lambda sha256: hashlib.sha256(f"{seed}:{sha256}".encode()).digest())
    target = max(1, round(sizes.total() * fraction))
    chosen: set[str] = set()
    count = 0
    for sha256 in order[:-1]:
        if count >= target:
            break
        chosen.add(sha256)
        count += sizes[sha256]
    return chosen


def with_paths(items: Iterable[Item]) -> list[Item]:
    """Give each picture a path by split and class that no other has."""
    taken: set[str] = set()
    placed = []
    for item in items:
        parent = item.split if item.split == TEST else f"{item.split}/{item.label}"
        path = _free_name(parent, PurePosixPath(item.source).name, taken)
        placed.append(replace(item, path=path))
    return placed


def _free_name(parent: str, name: str, taken: set[str]) -> str:
    """A path below `parent` that no system takes for one that is there already."""
    long = PurePosixPath(portable(re.sub(r"[^\w.()+ -]", "_", normal(name))))
    # Once more: what a cut leaves may end in a blank, and of a blank alone nothing is left.
    safe = PurePosixPath(portable(f"{long.stem[:80]}{long.suffix}") or "picture")
    path, copy = f"{parent}/{safe}", 2
    while alike(path) in taken:
        path, copy = f"{parent}/{safe.stem}-{copy}{safe.suffix}", copy + 1
    taken.add(alike(path))
    return path


def put_aside(items: Sequence[Item], exclusion: Exclusion, archive: str) -> list[Item]:
    """Give the labelled pictures that the user wants left out a split and a path of their own.

    Pictures of an `archive` may be named with and without its name.

    Raises:
        CatdogError: no picture of a class would be left on one side.
    """
    labelled = [item for item in items if item.split != TEST]
    chosen, unmatched = exclusion.choose(
        Named(item.path, (item.source, item.source.removeprefix(f"{archive}/")), item.sha256)
        for item in labelled
    )
    for line in unmatched:
        logger.info(f"The exclude file's line {line!r} names no training or validation picture.")
    if chosen:
        _check_left([item for item in labelled if item.path not in chosen], labelled)
    return [
        replace(item, split=f"{EXCLUDED}-{item.split}", path=f"{EXCLUDED}/{item.path}")
        if item.path in chosen
        else item
        for item in items
    ]


def _check_left(items: Iterable[Item], before: Iterable[Item]) -> None:
    left = {(item.split, item.label) for item in items}
    gone = {(item.split, item.label) for item in before} - left
    for split, label in sorted(gone):
        raise CatdogError(
            f"the exclude file leaves no {split} picture of {one(label)}: "
            "take some of its lines out."
        )
