"""Step 2: an archive or a folder → training/, validation/, test/ and what is known of each file.

In: the user's source, which is never changed. Out, below one folder: the pictures by split
and class, `manifest.csv`, `quarantine.csv`, and last of all `prepared.json`, without which
nothing counts as finished.

What the user excludes goes to `excluded/`, where no step looks for pictures: a validation
picture to `excluded/validation/cat/`, say, with the split `excluded-validation` in the
manifest. So it is neither learned nor counted, and yet whoever reports an accuracy can give
it both ways: on `rows("validation")`, and raw, on those and `rows("excluded-validation")`.
Excluding moves no other picture to another side, nor gives it another name.

What the user knows of the pictures, in a `metadata.csv` in the source, stands in columns of
the manifest after its own, see `catdog.properties`.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from catdog import CLASSES, CatdogError, Classes, images
from catdog.archive import Member, is_archive_name, is_table_name, members
from catdog.classes import AUTO, SPLIT_WORDS, both, classes_in, label_of, one, other, read_classes
from catdog.config import PrepareConfig
from catdog.download import Source
from catdog.exclusion import EXCLUDED, LINES, NONE, Exclusion, Named, read_exclusion
from catdog.filenames import alike, normal, portable
from catdog.intact import check_intact, check_unchanged, missing
from catdog.properties import OWN_COLUMNS, Properties, read_properties, tell_unmatched

FORMAT = 1
MARKER, MANIFEST, QUARANTINE = "prepared.json", "manifest.csv", "quarantine.csv"
TRAINING, VALIDATION, TEST = SPLITS = ("training", "validation", "test")
MANAGED = (*SPLITS, EXCLUDED, MANIFEST, QUARANTINE)
UNFINISHED_MARKER = ".prepared.json.part"
STAGING = ".preparing"
"""Stands in the folder while it is being prepared, and so marks what is there as ours."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
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
    exclude: str = NONE
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
        return self.folder / EXCLUDED / LINES

    @property
    def quarantine(self) -> Path:
        """CSV with a row for each file that was left out: path and reason."""
        return self.folder / QUARANTINE

    def rows(self, split: str) -> list[dict[str, str]]:
        """The manifest's rows of one split, those in `excluded-validation` for instance."""
        with self.manifest.open(encoding="utf-8", newline="") as stream:
            return [row for row in csv.DictReader(stream) if row["split"] == split]

    def check(self) -> None:
        """Raise CatdogError when a picture to learn from is not what was prepared."""
        check_intact(self.folder, self._digests(), below=(TRAINING, VALIDATION))

    def lost(self) -> str | None:
        """The path of a picture that is gone, if there is one.

        Raises:
            CatdogError: one is gone, and another one was changed or added by hand.
        """
        with self.manifest.open(encoding="utf-8", newline="") as stream:
            paths = [row["path"] for row in csv.DictReader(stream)]
        lost = next(missing(self.folder, paths), None)
        if lost:
            check_unchanged(self.folder, self._digests(), below=(TRAINING, VALIDATION))
        return lost

    def _digests(self) -> dict[str, str]:
        rows = [*self.rows(TRAINING), *self.rows(VALIDATION)]
        return {row["path"]: row["sha256"] for row in rows}

    def left_out(self) -> list[dict[str, str]]:
        """The rows of `quarantine`: path and reason of each file that was left out."""
        with self.quarantine.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    @property
    def drawn(self) -> bool:
        """Whether the pictures are the drawn sample."""
        return self.origin.startswith("sample:")


@dataclass(frozen=True)
class Item:
    """One readable picture: where it was, where its bytes wait, and what is known of it.

    `path` is where it belongs in the prepared folder, once its split is settled.
    """

    source: str
    staged: Path
    label: str
    split: str
    sha256: str
    width: int
    height: int
    path: str = ""


@dataclass
class Sorting:
    """What became of the source: kept items, reasons for the others, tables of properties."""

    items: list[Item] = field(default_factory=list)
    quarantine: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Member] = field(default_factory=list)


def prepare(
    source: Path,
    folder: Path,
    *,
    origin: str,
    val_fraction: float,
    seed: int,
    exclude: str = NONE,
    classes: str = AUTO,
    say: Say = lambda _: None,
) -> Prepared:
    """Sort the pictures of `source` into `folder`.

    Labels come from the nearest folder named after a class, else from the file name
    (`cat.0.jpg`), see `catdog.classes`; pictures without a label are kept from a folder named
    `test`. A folder
    named `validation` is taken as it is; otherwise each class gives up `val_fraction` of
    its pictures, chosen by their content and `seed`, so that a renamed file stays where it
    is. Files with the same bytes stand on the same side. Labelled pictures that the file
    `exclude` names are put aside after that, see `catdog.exclusion`.

    Does nothing when the source and the parameters are those of the finished folder.

    Args:
        source: an archive or a folder; only read.
        folder: where to put the prepared data set.
        origin: where the source came from, to be remembered.
        val_fraction: share of each class for validation.
        seed: of the split.
        exclude: a file with a line for each picture to leave out, or "none".
        classes: the two to tell apart, "ant,bee" say, or "auto" for those of the source.
        say: told of progress, in lines for people.

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
                "source": _fingerprint(source),
                "exclude": exclusion.digest,
                "classes": ",".join(named) if named else AUTO,
            }
            finished = _read_marker(folder)
            if finished and wanted == {key: finished.get(key) for key in wanted}:
                prepared = _still_there(folder, say)
                if prepared:
                    _write_marker(folder, finished | {"exclude_file": exclude})
                    prepared = load_prepared(folder)
                    say(f"Already prepared: {_summary(prepared)}")
                    return prepared
            typed = {"exclude_file": exclude}
            prepared = _prepare_afresh(source, folder, wanted | typed, exclusion, say)
    say(f"Prepared: {_summary(prepared)}")
    return prepared


def prepare_source(source: Source, path: Path, config: PrepareConfig, say: Say) -> Prepared:
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
        say=say,
    )


def load_prepared(folder: Path, *, classes: str = AUTO) -> Prepared:
    """Read a finished prepared data set; with `classes`, one of just these.

    Raises:
        CatdogError: there is none, its manifest was changed since, or it is of other classes.
    """
    marker = _read_marker(folder)
    if marker is None:
        raise CatdogError(
            f"{folder} holds no prepared data set: run scripts/download.py and "
            "scripts/prepare.py first, with the same --dataset and --data_dir."
        )
    prepared = Prepared(
        folder=folder,
        origin=marker["origin"],
        digest=marker["digest"],
        validation_digest=marker["validation_digest"],
        counts=marker["counts"],
        quarantined=marker["quarantined"],
        excluded=marker.get("excluded", 0),
        val_fraction=marker["val_fraction"],
        seed=marker["seed"],
        exclude=marker.get("exclude_file", NONE),
        exclude_digest=marker.get("exclude"),
        classes=tuple(marker["told_apart"]),
        asked=marker["classes"],
    )
    if read_classes(classes) not in (None, prepared.classes):
        raise CatdogError(
            f"{folder} was prepared for {both(prepared.classes)}, not for classes={classes}: "
            f"run scripts/prepare.py again with --classes {classes}."
        )
    if not prepared.manifest.is_file() or _digest_of(prepared.manifest) != prepared.digest:
        raise CatdogError(
            f"{prepared.manifest} was changed or deleted after it was prepared: "
            "delete it and run scripts/prepare.py again, which makes it anew."
        )
    return prepared


def _still_there(folder: Path, say: Say) -> Prepared | None:
    """What was prepared; None when some of it is gone, and so is to be made anew."""
    lost: str | None = MANIFEST
    prepared = load_prepared(folder) if (folder / MANIFEST).exists() else None
    if prepared:
        lost = prepared.lost()
    if lost:
        say(f"{folder / lost} is gone: preparing afresh")
        return None
    return prepared


def _prepare_afresh(
    source: Path, folder: Path, wanted: dict[str, Any], exclusion: Exclusion, say: Say
) -> Prepared:
    _remove_old(folder)
    staging = folder / STAGING
    staging.mkdir()
    try:
        classes = read_classes(wanted["classes"]) or _classes_of(source, say)
        sorting = _stage(source, staging, classes, say)
        properties = _properties(sorting, say)
        sorting = _settle_duplicates(sorting)
        _check_classes(sorting, source, classes)
        items = _split(sorting.items, wanted["val_fraction"], wanted["seed"], say)
        items = _exclude(_with_paths(items), exclusion, source, say)
        _place(items, folder, classes, properties)
        _keep_lines(exclusion, folder)
        _write_csv(folder / QUARANTINE, ("path", "reason"), sorted(sorting.quarantine))
        marker = wanted | {
            "told_apart": classes,
            "digest": _digest_of(folder / MANIFEST),
            "validation_digest": _validation_digest(items),
            "counts": _counts(items),
            "quarantined": len(sorting.quarantine),
            "excluded": sum(item.path.startswith(f"{EXCLUDED}/") for item in items),
        }
        _write_marker(folder, marker)
    except BaseException:
        _remove_old(folder)
        raise
    shutil.rmtree(staging)
    return load_prepared(folder)


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


def _classes_of(source: Path, say: Say) -> Classes:
    """The classes that the names in a source speak of."""
    names = (name for name, _ in members(source) if not is_table_name(name))
    found = classes_in(name for name in names if _split_of(name) != TEST)
    if found != CLASSES:
        say(
            f"Classes: {found[0]} (negative) and {found[1]} (positive), as the folders are called; "
            "-P classes=NEGATIVE,POSITIVE names others."
        )
    return found


def _stage(source: Path, staging: Path, classes: Classes, say: Say) -> Sorting:
    """Copy every readable picture below `staging`, checking as many at once as there are cores."""
    sorting = Sorting()
    waiting: deque[Future[Item | tuple[str, str]]] = deque()
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        for number, picture in enumerate(members(source)):
            if is_table_name(picture[0]):
                sorting.tables.append(picture)
                continue
            target = staging / f"{number}"
            waiting.append(pool.submit(_check_and_copy, picture, target, classes))
            if len(waiting) > 8 * cores:  # pictures in memory at once
                _sort_in(waiting.popleft().result(), sorting)
            if number and number % 5_000 == 0:
                say(f"Checked {number:,} pictures")
        while waiting:
            _sort_in(waiting.popleft().result(), sorting)
    return sorting


def _sort_in(result: Item | tuple[str, str], sorting: Sorting) -> None:
    if isinstance(result, Item):
        sorting.items.append(result)
    else:
        sorting.quarantine.append(result)


def _check_and_copy(picture: Member, target: Path, classes: Classes) -> Item | tuple[str, str]:
    name, content = picture
    label, split = label_of(name, classes), _split_of(name)
    if not label and split != TEST:
        return name, f"neither {classes[0]} nor {classes[1]} in its folder's or its own name"
    try:
        width, height = images.check(content)
    except images.UnreadableImageError as error:
        return name, str(error)
    target.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return Item(name, target, label, split, sha256, width, height)


def _properties(sorting: Sorting, say: Say) -> Properties:
    """What the tables say of the pictures; those that are left out count as met."""
    properties = read_properties(sorting.tables, say=say)
    met = [*(item.source for item in sorting.items), *(name for name, _ in sorting.quarantine)]
    tell_unmatched(properties, met, say=say)
    return properties


def _split_of(name: str) -> str:
    """The split that the nearest telling folder or archive names; "" when none does."""
    for part in reversed(PurePosixPath(name).parts[:-1]):
        stem = part.lower().split(".")[0] if is_archive_name(part) else part.lower()
        for split, words in SPLIT_WORDS.items():
            if stem in words:
                return split
    return ""


def _settle_duplicates(sorting: Sorting) -> Sorting:
    """Leave out bytes that carry two labels, and training copies of validation pictures."""
    labels: dict[str, set[str]] = defaultdict(set)
    validated: set[str] = set()
    for item in sorting.items:
        if item.split != TEST:
            labels[item.sha256].add(item.label)
        if item.split == VALIDATION:
            validated.add(item.sha256)
    settled = Sorting(quarantine=list(sorting.quarantine))
    for item in sorting.items:
        if item.split == TEST:
            settled.items.append(item)
        elif len(labels[item.sha256]) > 1:
            both = " and as ".join(sorted(labels[item.sha256]))
            settled.quarantine.append((item.source, f"the same bytes are labelled as {both}"))
        elif item.split != VALIDATION and item.sha256 in validated:
            reason = "the same bytes stand among the validation pictures"
            settled.quarantine.append((item.source, reason))
        else:
            settled.items.append(item)
    return settled


def _check_classes(sorting: Sorting, source: Path, classes: Classes) -> None:
    """Refuse a source that can't be split into training and validation of both classes."""
    labelled = [item for item in sorting.items if item.split != TEST]
    distinct = {
        label: len({item.sha256 for item in labelled if item.label == label}) for label in classes
    }
    negative, positive = classes
    others = " -P classes=NEGATIVE,POSITIVE names two other kinds." if classes == CLASSES else ""
    if not labelled:
        reason = _commonest(sorting.quarantine)
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


def _commonest(quarantine: Sequence[tuple[str, str]]) -> str:
    if not quarantine:
        return ""
    (reason, count), *_ = Counter(reason for _, reason in quarantine).most_common(1)
    return f": {len(quarantine):,} were left out, {count:,} of them because of: {reason}"


def _split(items: Sequence[Item], val_fraction: float, seed: int, say: Say) -> list[Item]:
    """Give each labelled item its side; test pictures keep theirs."""
    if any(item.split == VALIDATION for item in items):
        say("The source brings validation pictures of its own: val_fraction is not used.")
        return [replace(item, split=item.split or TRAINING) for item in items]
    chosen: set[str] = set()
    for label in sorted({item.label for item in items if item.split != TEST}):
        sizes = Counter(item.sha256 for item in items if item.label == label and item.split != TEST)
        chosen |= _choose_validation(sizes, val_fraction, seed)
    return [
        item
        if item.split == TEST
        else replace(item, split=VALIDATION if item.sha256 in chosen else TRAINING)
        for item in items
    ]


def _choose_validation(sizes: Counter[str], val_fraction: float, seed: int) -> set[str]:
    """Choose digests for validation whose copies make up `val_fraction` of all copies.

    At least one digest is chosen and at least one is left. The order comes from a hash of
    seed and content, so that neither names nor the order of files matter.
    """
    order = sorted(sizes, key=lambda sha256: hashlib.sha256(f"{seed}:{sha256}".encode()).digest())
    target = max(1, round(sizes.total() * val_fraction))
    chosen: set[str] = set()
    count = 0
    for sha256 in order[:-1]:
        if count >= target:
            break
        chosen.add(sha256)
        count += sizes[sha256]
    return chosen


def _with_paths(items: Iterable[Item]) -> list[Item]:
    """Give each picture a path by split and class that no other has."""
    taken: set[str] = set()
    placed = []
    for item in items:
        parent = item.split if item.split == TEST else f"{item.split}/{item.label}"
        path = _free_name(parent, PurePosixPath(item.source).name, taken)
        placed.append(replace(item, path=path))
    return placed


def _exclude(items: Sequence[Item], exclusion: Exclusion, source: Path, say: Say) -> list[Item]:
    """Put aside the labelled pictures that the user wants left out."""
    labelled = [item for item in items if item.split != TEST]
    # An item's source begins with the archive's name, which its members don't know.
    archive = f"{source.name}/" if source.is_file() else ""
    chosen, unmatched = exclusion.choose(
        Named(item.path, (item.source, item.source.removeprefix(archive)), item.sha256)
        for item in labelled
    )
    for line in unmatched:
        say(f"The exclude file's line {line!r} names no training or validation picture.")
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


def _write_marker(folder: Path, marker: Mapping[str, Any]) -> None:
    if _read_marker(folder) != marker:
        part = folder / UNFINISHED_MARKER
        part.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
        part.replace(folder / MARKER)


def _free_name(parent: str, name: str, taken: set[str]) -> str:
    """A path below `parent` that no system takes for one that is there already."""
    safe = portable(re.sub(r"[^\w.()+ -]", "_", normal(name)))
    stem, suffix = PurePosixPath(safe).stem[:80], PurePosixPath(safe).suffix
    path, copy = f"{parent}/{stem}{suffix}", 2
    while alike(path) in taken:
        path, copy = f"{parent}/{stem}-{copy}{suffix}", copy + 1
    taken.add(alike(path))
    return path


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


def _digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fingerprint(source: Path) -> str:
    """Changes when the source does: the bytes of an archive, the listing of a folder."""
    if source.is_file():
        return _digest_of(source)
    listing = sorted(
        (path.relative_to(source).as_posix(), status.st_size, status.st_mtime_ns)
        for path in _files_below(source)
        for status in [path.stat()]
    )
    return hashlib.sha256(repr(listing).encode("utf-8", "backslashreplace")).hexdigest()


def _files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _read_marker(folder: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(marker, dict) or marker.get("format") != FORMAT:
        return None
    # Before there were other classes, none were named.
    return {"classes": AUTO, "told_apart": CLASSES} | marker


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


def _summary(prepared: Prepared) -> str:
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
