"""Step 2: an archive or a folder → training/, validation/, test/ and what is known of each file.

In: the user's source, which is never changed. Out: one folder, see `catdog.data.dataset`, whole or
not at all. The pictures are copied from the source, split, and moved to their places.

What the user knows of the pictures, in a `metadata.csv` in the source, stands in columns of
the manifest after its own, see `catdog.data.metadata`.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

import PIL
from filelock import FileLock

from catdog import AUTO, CatdogError, Classes
from catdog.config import PrepareConfig
from catdog.data.classes import read_classes
from catdog.data.dataset import (
    EXCLUDE_LINES,
    EXCLUDED,
    FORMAT,
    MANIFEST,
    MARKER,
    QUARANTINE,
    SPLITS,
    TEST,
    TRAINING,
    VALIDATION,
    PreparedDataset,
    load_dataset,
    read_marker,
)
from catdog.data.ingest import LabelledSource, SourcePicture, fingerprint, ingest
from catdog.data.metadata import OWN_COLUMNS, Metadata, log_unmatched
from catdog.data.sources import Source
from catdog.data.split import (
    NONE,
    Exclusion,
    check_classes,
    choose_split,
    exclude,
    settle_duplicates,
    with_paths,
)
from catdog.files import disk_errors, sha256_of, write_json

logger = logging.getLogger(__name__)

MANAGED = (*SPLITS, EXCLUDED, MANIFEST, QUARANTINE)
STAGING = ".preparing"
"""Stands in the folder while it is being prepared, and so marks what is there as ours."""


def prepare(source: Source, config: PrepareConfig) -> PreparedDataset:
    """Sort the pictures of a fetched source into a folder of its name below `data_dir`.

    Labels come from the nearest folder named after a class, else from the file name
    (`cat.0.jpg`), see `catdog.data.classes`; pictures without a label are kept from a folder named
    `test`. A folder named `validation` is taken as it is; otherwise each class gives up
    `val_fraction` of its pictures, chosen by their content and `seed`, so that a renamed file
    stays where it is. Of labelled files with the same bytes one is kept. Labelled pictures that
    the file `exclude` names are put aside after that, see `catdog.data.split.Exclusion`.

    Does nothing when the source and the parameters are those of the finished folder.

    Raises:
        CatdogError: the source has no usable pictures of both classes or is refused, its
            metadata.csv can't be used, the exclude file can't be read or leaves nothing of a
            class on one side, or the folder is somebody else's, was changed by hand, can't be
            written, or is on a full disk.
    """
    folder = Path(config.data_dir) / source.name
    classes = read_classes(config.classes)
    exclusion = Exclusion.read(config.exclude)
    _check_places(source.path, folder, config.exclude)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            recipe = {
                "format": FORMAT,
                "decoders": f"{PIL.__version__} {find_spec('pillow_heif') is not None}",
                "source": fingerprint(source.path),
                "origin": source.origin,
                "val_fraction": config.val_fraction,
                "seed": config.seed,
                "exclude": config.exclude,
                "exclude_digest": exclusion.digest,
                "asked": ",".join(classes) if classes else AUTO,
            }
            finished = _is_finished(folder, recipe)
            if not finished:
                _prepare_afresh(source.path, folder, recipe, exclusion)
            dataset = load_dataset(folder)
    logger.info(f"{'Already prepared' if finished else 'Prepared'}: {_summary(dataset)}")
    return dataset


def _is_finished(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether the folder was prepared by this recipe and still holds all of it."""
    marker = read_marker(folder)
    if marker is None or not recipe.items() <= marker.items():
        return False
    if not (folder / MANIFEST).exists():
        return False
    dataset = load_dataset(folder)
    gone = dataset.missing()
    if gone:
        dataset.check_unchanged()
        logger.info(f"{folder / gone} is gone: preparing afresh")
    return gone is None


def _prepare_afresh(
    source: Path, folder: Path, recipe: dict[str, Any], exclusion: Exclusion
) -> None:
    _remove_old(folder)
    staging = folder / STAGING
    staging.mkdir()
    try:
        labelled = LabelledSource(source, read_classes(recipe["asked"]))
        labelled.log()
        classes, metadata = labelled.classes, labelled.metadata
        pictures, left_out = ingest(labelled, staging)
        log_unmatched(metadata, [one.source for one in pictures] + [name for name, _ in left_out])
        pictures, duplicates = settle_duplicates(pictures)
        if duplicates:
            logger.info(f"{len(duplicates):,} files repeat others: each picture counts once.")
        left_out += duplicates
        check_classes(pictures, left_out, source, classes)
        pictures = with_paths(choose_split(pictures, recipe["val_fraction"], recipe["seed"]))
        pictures = exclude(pictures, exclusion, source.name if source.is_file() else "")
        _place(pictures, folder, classes)
        _write_manifest(pictures, folder, metadata)
        _write_csv(folder / QUARANTINE, ("path", "reason"), sorted(left_out))
        _write_exclude_lines(exclusion, folder)
        results = {
            "classes": classes,
            "digest": sha256_of(folder / MANIFEST),
            "validation_digest": _validation_digest(pictures),
            "counts": _counts(pictures),
            "quarantined": len(left_out),
            "excluded": sum(picture.split.startswith(EXCLUDED) for picture in pictures),
        }
        write_json(folder / MARKER, recipe | results)
    except BaseException:
        _remove_old(folder)
        raise
    shutil.rmtree(staging)


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
    for name in (MARKER, *MANAGED, STAGING):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _place(pictures: Iterable[SourcePicture], folder: Path, classes: Classes) -> None:
    """Move staged pictures to their split and class."""
    for split in (TRAINING, VALIDATION):
        for label in classes:
            (folder / split / label).mkdir(parents=True)
    (folder / TEST).mkdir()
    for picture in pictures:
        target = folder / picture.path
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.staged.rename(target)


def _write_manifest(pictures: Iterable[SourcePicture], folder: Path, metadata: Metadata) -> None:
    own = attrgetter(*OWN_COLUMNS)
    rows = [(*own(picture), *metadata.of(picture.source)) for picture in pictures]
    _write_csv(folder / MANIFEST, (*OWN_COLUMNS, *metadata.columns), sorted(rows))


def _write_exclude_lines(exclusion: Exclusion, folder: Path) -> None:
    """Keep what was asked to be left out: training logs it, wherever the file has gone."""
    if exclusion.lines:
        kept = folder / EXCLUDED / EXCLUDE_LINES
        kept.parent.mkdir(exist_ok=True)
        kept.write_text("".join(f"{line}\n" for line in exclusion.lines), encoding="utf-8")


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _counts(pictures: Sequence[SourcePicture]) -> dict[str, dict[str, int]]:
    return {
        split: dict(Counter(picture.label for picture in pictures if picture.split == split))
        for split in SPLITS
    }


def _validation_digest(pictures: Iterable[SourcePicture]) -> str:
    lines = sorted(f"{one.label},{one.sha256}" for one in pictures if one.split == VALIDATION)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_places(source: Path, folder: Path, exclude_file: str) -> None:
    """Refuse what is not there, and what preparing would remove with what it replaces."""
    if not source.exists():
        raise CatdogError(
            f"{source} does not exist: run scripts/download.py first, with the same --dataset "
            "and --data_dir, or give an archive or a folder of pictures."
        )
    if folder.resolve().is_relative_to(source.resolve()) or _is_managed(source, folder):
        raise CatdogError(
            f"{folder} can't be prepared from {source}, one lies in the other: "
            "choose another folder with --data_dir."
        )
    if exclude_file != NONE and _is_managed(Path(exclude_file), folder):
        raise CatdogError(
            f"exclude={exclude_file} lies among the prepared pictures, which are replaced: "
            "move it to another folder."
        )


def _is_managed(path: Path, folder: Path) -> bool:
    """Whether the path is, or lies in, what preparing `folder` replaces."""
    return any(path.resolve().is_relative_to((folder / name).resolve()) for name in MANAGED)


def _summary(dataset: PreparedDataset) -> str:
    training, validation, test = (sum(dataset.counts[split].values()) for split in SPLITS)
    line = (
        f"{training:,} training, {validation:,} validation and {test:,} test pictures in "
        f"{dataset.folder}"
    )
    if dataset.quarantined:
        line += f", {dataset.quarantined:,} left out (see {dataset.quarantine})"
    if dataset.excluded:
        line += f", {dataset.excluded:,} excluded"
    return line
