"""Which pictures of a source are kept, on which side each stands, and where it lies there.

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
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from catdog import CLASSES, CatdogError, Classes
from catdog.data.classes import one
from catdog.data.dataset import EXCLUDED, TEST, TRAINING, VALIDATION, Picture
from catdog.data.ingest import LeftOut, SourcePicture
from catdog.files import alike, normal, portable

logger = logging.getLogger(__name__)

NONE = "none"
DIGEST = re.compile(r"[0-9a-f]{12,64}", re.IGNORECASE)
COMMENT = re.compile(r"(^|\s)#.*")


@dataclass(frozen=True)
class Exclusion:
    """What the user wants left out: the lines of a file, without comments and repetitions.

    A line is a path as in manifest.csv, a path as in the source (within an archive, or the way
    quarantine.csv spells it), or a sha256 digest of which the first 12 digits are enough. What
    follows a `#` at the beginning of a line or after a space is a comment.
    """

    lines: tuple[str, ...] = ()

    @classmethod
    def read(cls, name: str) -> Exclusion:
        """The lines of the file called `name`; none when that is `none`.

        Raises:
            CatdogError: it is missing, can't be read, or is not text.
        """
        if name == NONE:
            return cls()
        try:
            text = Path(name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise CatdogError(
                f"exclude={name} can't be read ({reason}): give a text file with a path or a "
                f"sha256 digest in each line, or exclude={NONE}."
            ) from error
        lines = (COMMENT.sub("", line).strip() for line in text.splitlines())
        tidy = (line.replace("\\", "/").removeprefix("./") for line in lines if line)
        return cls(tuple(dict.fromkeys(tidy)))

    @property
    def digest(self) -> str | None:
        """Changes when what shall be left out does; None when that is nothing."""
        if not self.lines:
            return None
        return hashlib.sha256("\n".join(sorted(self.lines)).encode()).hexdigest()

    def choose(
        self, pictures: Sequence[SourcePicture], archive: str = ""
    ) -> tuple[set[str], list[str]]:
        """Which of `pictures` are to be left out.

        A line that is a path in the manifest means that picture alone; only otherwise is it
        looked for in the source. Pictures of an `archive` may be named with and without its name.

        Returns:
            Their paths in the manifest, and the lines that no picture answers to.
        """
        by_path, by_source = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
        for picture in pictures:
            by_path[normal(picture.path)].add(picture.path)
            for name in (picture.source, picture.source.removeprefix(f"{archive}/")):
                by_source[normal(name)].add(picture.path)
        chosen: set[str] = set()
        unmatched = []
        for line in self.lines:
            name = normal(line)
            found = by_path[name.removeprefix(f"{EXCLUDED}/")] or by_source[name]
            if not found and DIGEST.fullmatch(line):
                start = line.lower()
                found = {picture.path for picture in pictures if picture.sha256.startswith(start)}
            chosen |= found
            if not found:
                unmatched.append(line)
        return chosen, unmatched


def settle_duplicates(
    pictures: Sequence[SourcePicture],
) -> tuple[list[SourcePicture], list[LeftOut]]:
    """Keep each labelled content once: for validation, else to learn from, else as a test.

    Bytes that carry two labels are left out. Pictures without a label all stay: each of them
    is asked about.

    Returns:
        The pictures to keep, in their order, and what is left out of them.
    """
    copies: dict[str, list[SourcePicture]] = defaultdict(list)
    for picture in pictures:
        if picture.label:
            copies[picture.sha256].append(picture)
    kept: list[SourcePicture] = []
    left_out: list[LeftOut] = []
    for picture in pictures:
        same = copies.get(picture.sha256, [picture]) if picture.label else [picture]
        labels = sorted({copy.label for copy in same})
        first = min(same, key=lambda copy: (VALIDATION, TRAINING, "", TEST).index(copy.split))
        if len(labels) > 1:
            reason = f"the same bytes are labelled as {' and as '.join(labels)}"
            left_out.append((picture.source, reason))
        elif picture is first:
            kept.append(picture)
        else:
            left_out.append((picture.source, f"the same bytes as {first.source}"))
    return kept, left_out


def check_classes(
    pictures: Iterable[SourcePicture], left_out: Sequence[LeftOut], source: Path, classes: Classes
) -> None:
    """Refuse a source that can't be split into training and validation of both classes.

    Raises:
        CatdogError: it holds too few pictures of a class; the text says of which.
    """
    labelled = [picture for picture in pictures if picture.split != TEST]
    own_validation = any(picture.split == VALIDATION for picture in labelled)
    for label in classes:
        mine = [picture for picture in labelled if picture.label == label]
        count = len({picture.sha256 for picture in mine})
        on_both_sides = len({picture.split == VALIDATION for picture in mine}) == 2
        if count < 2 or (own_validation and not on_both_sides):
            hint = " -P classes=NEGATIVE,POSITIVE names other kinds." if classes == CLASSES else ""
            raise CatdogError(
                f"{source} holds {count} different pictures of {one(label)}"
                f"{_commonest_reason(left_out)}, but at least one is needed for training and "
                f"another for validation: add some in a folder named {label}/, or named "
                f"{label}.1.jpg.{hint}"
            )


def _commonest_reason(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return ""
    (reason, count), *_ = Counter(reason for _, reason in left_out).most_common(1)
    return f" ({len(left_out):,} files were left out, {count:,} of them because of: {reason})"


def choose_split(
    pictures: Sequence[SourcePicture], val_fraction: float, seed: int
) -> list[SourcePicture]:
    """Give each labelled picture its side; test pictures keep theirs."""
    if any(picture.split == VALIDATION for picture in pictures):
        logger.info("The source brings validation pictures of its own: val_fraction is not used.")
        return [replace(picture, split=picture.split or TRAINING) for picture in pictures]
    labelled = [picture for picture in pictures if picture.split != TEST]
    held_back: set[str] = set()
    for label in {picture.label for picture in labelled}:
        contents = {picture.sha256 for picture in labelled if picture.label == label}
        held_back |= _choose_by_content(contents, val_fraction, seed)
    return [
        picture
        if picture.split == TEST
        else replace(picture, split=VALIDATION if picture.sha256 in held_back else TRAINING)
        for picture in pictures
    ]


def split_off(pictures: Sequence[Picture], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which pictures of each class are set aside, about `fraction` of them, `(N,)`.

    Contents and the seed decide: copies stand on one side, and order and names do not matter.

    Raises:
        CatdogError: a class has too few different pictures for both sides.
    """
    chosen: set[str] = set()
    for label in (0, 1):
        contents = {picture.sha256 for picture in pictures if picture.label == label}
        if len(contents) < 2:
            raise CatdogError(
                "a sweep needs at least two different training pictures of each class, one to "
                "learn from and one to judge trials on: add pictures."
            )
        chosen |= _choose_by_content(contents, fraction, seed)
    return np.array([picture.sha256 in chosen for picture in pictures])


def _choose_by_content(contents: set[str], fraction: float, seed: int) -> set[str]:
    """Choose about `fraction` of the digests, at least one, so that at least one is left.

    The order comes from a hash of seed and content, so that neither names nor the order of
    files matter.
    """
    order = sorted(contents, key=lambda one: hashlib.sha256(f"{seed}:{one}".encode()).digest())
    return set(order[:-1][: max(1, round(len(order) * fraction))])


def with_paths(pictures: Iterable[SourcePicture]) -> list[SourcePicture]:
    """Give each picture a path by split and class that no other has."""
    taken: set[str] = set()
    placed = []
    for picture in pictures:
        split, label = picture.split, picture.label
        parent = split if split == TEST else f"{split}/{label}"
        path = _free_name(parent, PurePosixPath(picture.source).name, taken)
        placed.append(replace(picture, path=path))
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


def exclude(
    pictures: Sequence[SourcePicture], exclusion: Exclusion, archive: str
) -> list[SourcePicture]:
    """Give the labelled pictures that the user wants left out a split and a path of their own.

    Raises:
        CatdogError: no picture of a class would be left on one side.
    """
    labelled = [picture for picture in pictures if picture.split != TEST]
    chosen, unmatched = exclusion.choose(labelled, archive)
    for line in unmatched:
        logger.info(f"The exclude file's line {line!r} names no training or validation picture.")
    before = {(picture.split, picture.label) for picture in labelled}
    left = {(item.split, item.label) for item in labelled if item.path not in chosen}
    for split, label in sorted(before - left):
        raise CatdogError(
            f"the exclude file leaves no {split} picture of {one(label)}: "
            "take some of its lines out."
        )
    return [
        replace(picture, split=f"{EXCLUDED}-{picture.split}", path=f"{EXCLUDED}/{picture.path}")
        if picture.path in chosen
        else picture
        for picture in pictures
    ]
