"""Step 2: an archive or a folder → training/, validation/, test/ and what is known of each file.

In: the user's source, which is never changed. Out: one folder, see `catdog.data.dataset`, whole or
not at all. The pictures are gathered from the source, split, and moved to their places.

What the user knows of the pictures, in a `metadata.csv` in the source, stands in columns of
the manifest after its own, see `catdog.data.metadata`.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from catdog import AUTO, CatdogError, Classes
from catdog.config import PrepareConfig
from catdog.data.classes import read_classes
from catdog.data.dataset import (
    FORMAT,
    MANIFEST,
    MARKER,
    QUARANTINE,
    SPLITS,
    TEST,
    TRAINING,
    UNFINISHED_MARKER,
    VALIDATION,
    PreparedDataset,
    load_dataset,
    read_marker,
    write_marker,
)
from catdog.data.exclusion import EXCLUDED, LINES, NONE, Exclusion, read_exclusion
from catdog.data.gathering import Gathered, Item, find_classes, fingerprint, gather
from catdog.data.metadata import OWN_COLUMNS, Properties, read_properties, tell_unmatched
from catdog.data.sources import Source
from catdog.data.split import check_classes, choose_split, put_aside, settle_duplicates, with_paths
from catdog.files import sha256_of

logger = logging.getLogger(__name__)

MANAGED = (*SPLITS, EXCLUDED, MANIFEST, QUARANTINE)
STAGING = ".preparing"
"""Stands in the folder while it is being prepared, and so marks what is there as ours."""


def prepare(
    source: Path,
    folder: Path,
    *,
    origin: str,
    val_fraction: float,
    seed: int,
    exclude: str = NONE,
    classes: str = AUTO,
) -> PreparedDataset:
    """Sort the pictures of `source` into `folder`.

    Labels come from the nearest folder named after a class, else from the file name
    (`cat.0.jpg`), see `catdog.data.classes`; pictures without a label are kept from a folder named
    `test`. A folder named `validation` is taken as it is; otherwise each class gives up
    `val_fraction` of its pictures, chosen by their content and `seed`, so that a renamed file
    stays where it is. Files with the same bytes stand on the same side. Labelled pictures that
    the file `exclude` names are put aside after that, see `catdog.data.exclusion`.

    Does nothing when the source and the parameters are those of the finished folder.

    Args:
        source: an archive or a folder; only read.
        folder: where to put the prepared data set.
        origin: where the source came from, to be remembered.
        val_fraction: share of each class for validation.
        seed: of the split.
        exclude: a file with a line for each picture to leave out, or "none".
        classes: the two to tell apart, "ant,bee" say, or "auto" for those of the source.

    Raises:
        CatdogError: the source has no usable pictures of both classes or is refused, its
            metadata.csv can't be used, the exclude file can't be read or leaves nothing of a
            class on one side, or the folder is somebody else's, was changed by hand, can't be
            written, or is on a full disk.
    """
    _check_places(source, folder)
    named = read_classes(classes)
    exclusion = read_exclusion(exclude)
    _check_exclude_stays(exclude, folder)
    with _disk_trouble_is_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            wanted = {
                "format": FORMAT,
                "origin": origin,
                "val_fraction": val_fraction,
                "seed": seed,
                "source": fingerprint(source),
                "exclude": exclusion.digest,
                "classes": ",".join(named) if named else AUTO,
            }
            finished = read_marker(folder)
            if finished and wanted == {key: finished.get(key) for key in wanted}:
                prepared = _still_there(folder)
                if prepared:
                    write_marker(folder, finished | {"exclude_file": exclude})
                    prepared = load_dataset(folder)
                    logger.info(f"Already prepared: {_summary(prepared)}")
                    return prepared
            typed = {"exclude_file": exclude}
            prepared = _prepare_afresh(source, folder, wanted | typed, exclusion)
    logger.info(f"Prepared: {_summary(prepared)}")
    return prepared


def prepare_source(source: Source, path: Path, config: PrepareConfig) -> PreparedDataset:
    """Prepare what lies at `path`, of a located source, as the parameters say.

    Raises:
        CatdogError: as `prepare` does.
    """
    return prepare(
        path,
        Path(config.data_dir) / source.name,
        origin=source.origin,
        val_fraction=config.val_fraction,
        seed=config.seed,
        exclude=config.exclude,
        classes=config.classes,
    )


def _still_there(folder: Path) -> PreparedDataset | None:
    """What was prepared; None when some of it is gone, and so is to be made anew."""
    lost: str | None = MANIFEST
    prepared = load_dataset(folder) if (folder / MANIFEST).exists() else None
    if prepared:
        lost = prepared.lost()
    if lost:
        logger.info(f"{folder / lost} is gone: preparing afresh")
        return None
    return prepared


def _prepare_afresh(
    source: Path, folder: Path, wanted: dict[str, Any], exclusion: Exclusion
) -> PreparedDataset:
    _remove_old(folder)
    staging = folder / STAGING
    staging.mkdir()
    try:
        classes = read_classes(wanted["classes"]) or find_classes(source)
        gathered = gather(source, staging, classes)
        properties = _properties(gathered)
        items, doubtful = settle_duplicates(gathered.items)
        left_out = gathered.left_out + doubtful
        check_classes(items, left_out, source, classes)
        items = choose_split(items, wanted["val_fraction"], wanted["seed"])
        archive = source.name if source.is_file() else ""
        items = put_aside(with_paths(items), exclusion, archive)
        _place(items, folder, classes, properties)
        _keep_lines(exclusion, folder)
        _write_csv(folder / QUARANTINE, ("path", "reason"), sorted(left_out))
        marker = wanted | {
            "told_apart": classes,
            "digest": sha256_of(folder / MANIFEST),
            "validation_digest": _validation_digest(items),
            "counts": _counts(items),
            "quarantined": len(left_out),
            "excluded": sum(item.path.startswith(f"{EXCLUDED}/") for item in items),
        }
        write_marker(folder, marker)
    except BaseException:
        _remove_old(folder)
        raise
    shutil.rmtree(staging)
    return load_dataset(folder)


def _remove_old(folder: Path) -> None:
    """Remove what an earlier preparation left here, and never anything else."""
    ours = (folder / MARKER).exists() or (folder / STAGING).exists()
    present = [name for name in MANAGED if (folder / name).exists()]
    if present and not ours:
        raise CatdogError(
            f"{folder / present[0]} was not made by catdog and is left alone: "
            "choose another folder with --data_dir."
        )
    # The staging folder goes last: until then it says that the rest is ours.
    for name in (MARKER, UNFINISHED_MARKER, *MANAGED, STAGING):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _properties(gathered: Gathered) -> Properties:
    """What the tables say of the pictures; those that are left out count as met."""
    properties = read_properties(gathered.tables)
    met = [*(item.source for item in gathered.items), *(name for name, _ in gathered.left_out)]
    tell_unmatched(properties, met)
    return properties


def _place(items: Iterable[Item], folder: Path, classes: Classes, properties: Properties) -> None:
    """Move staged pictures to their split and class, and write the manifest."""
    for split in (TRAINING, VALIDATION):
        for label in classes:
            (folder / split / label).mkdir(parents=True)
    (folder / TEST).mkdir()
    rows = []
    for item in items:
        target = folder / item.path
        target.parent.mkdir(parents=True, exist_ok=True)
        item.staged.rename(target)
        own = (item.path, item.label, item.split, item.sha256, item.width, item.height)
        rows.append((*own, *properties.of(item.source)))
    _write_csv(folder / MANIFEST, (*OWN_COLUMNS, *properties.columns), sorted(rows))


def _keep_lines(exclusion: Exclusion, folder: Path) -> None:
    """Keep what was asked to be left out: training logs it, wherever the file has gone."""
    if exclusion.lines:
        kept = folder / EXCLUDED / LINES
        kept.parent.mkdir(exist_ok=True)
        kept.write_text("".join(f"{line}\n" for line in exclusion.lines), encoding="utf-8")


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _counts(items: Iterable[Item]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    for item in items:
        if item.split in counts:
            counts[item.split][item.label] = counts[item.split].get(item.label, 0) + 1
    return counts


def _validation_digest(items: Iterable[Item]) -> str:
    lines = sorted(f"{item.label},{item.sha256}" for item in items if item.split == VALIDATION)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_places(source: Path, folder: Path) -> None:
    if not source.exists():
        raise CatdogError(
            f"{source} does not exist: run scripts/download.py first, with the same --dataset "
            "and --data_dir, or give an archive or a folder of pictures."
        )
    from_, to = source.resolve(), folder.resolve()
    inside = [to / name for name in MANAGED]
    overlap = (
        from_ == to
        or from_ in to.parents
        or any(place == from_ or place in from_.parents for place in inside)
    )
    if from_.is_dir() and overlap:
        raise CatdogError(
            f"{folder} can't be prepared from {source}, one lies in the other: "
            "choose another folder with --data_dir."
        )


def _check_exclude_stays(exclude: str, folder: Path) -> None:
    """Refuse an exclude file that preparing would remove with what it replaces."""
    if exclude != NONE and any(
        (folder / name).resolve() in Path(exclude).resolve().parents for name in MANAGED
    ):
        raise CatdogError(
            f"exclude={exclude} lies among the prepared pictures, which are replaced: "
            "move it to another folder."
        )


def _summary(prepared: PreparedDataset) -> str:
    def total(split: str) -> int:
        return sum(prepared.counts[split].values())

    left_out = f", {prepared.quarantined:,} left out (see {prepared.quarantine})"
    excluded = f", {prepared.excluded:,} excluded"
    return (
        f"{total(TRAINING):,} training, {total(VALIDATION):,} validation and "
        f"{total(TEST):,} test pictures in {prepared.folder}"
        f"{left_out if prepared.quarantined else ''}"
        f"{excluded if prepared.excluded else ''}"
    )


@contextmanager
def _disk_trouble_is_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise CatdogError(
                f"the disk is full, nothing was prepared in {folder}: "
                "free some space or choose another folder with --data_dir."
            ) from error
        raise CatdogError(
            f"preparing {folder} failed at {error.filename or folder} "
            f"({error.strerror or error}): check that it can be read and written, or choose "
            "another folder with --data_dir."
        ) from error
