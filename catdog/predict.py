"""Photos that a user names → rows of answers → a table, JSON or CSV."""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import numpy as np

from catdog import CatdogError, registry
from catdog.classifier import Classifier, to_prediction
from catdog.data import LabelledFolder
from catdog.device import pick_device
from catdog.evaluate import Scores, score
from catdog.images import UnreadableImageError, is_image_name
from catdog.prepare import load_prepared

FIELDS = ("path", "label", "confidence", "p_dog", "error")


@dataclass(frozen=True)
class Row:
    """The answer for one photo; `label` is None and the numbers are None after an `error`."""

    path: str
    label: str | None
    confidence: float | None
    p_dog: float | None
    error: str | None


def load_classifier(model_uri: str, *, device: str = "auto") -> Classifier:
    """The classifier that a model URI names, ready to label photos.

    Raises:
        CatdogError: the URI names none, or the device is not there.
    """
    pick_device(device)
    return Classifier.load(registry.fetch(model_uri), device=device)


def test_photos(classifier: Classifier, data_dir: Path) -> Path:
    """The unlabelled test/ folder of the data set that the classifier was trained on.

    Raises:
        CatdogError: it is not here, or holds nothing.
    """
    folder = load_prepared(data_dir / classifier.about.dataset).test
    if not any(map(is_image_name, folder.iterdir())):
        raise CatdogError(f"{folder} holds no picture: name the photos to label.")
    return folder


def find_photos(names: Sequence[str]) -> Iterator[Path]:
    """The photos that files, folders (with all below them) and globs stand for, in order.

    A file that is named itself is tried whatever its suffix, and also when it is missing:
    it then gives a row with an error, and the others are labelled all the same.

    Raises:
        CatdogError: before the first photo, when a folder or a glob holds none.
    """
    paths = [Path(name).expanduser() for name in names]
    for path in paths:
        if next(_photos(path), None) is None:
            raise CatdogError(f"{path} holds no picture: name a folder, file or glob that does.")
    return chain.from_iterable(map(_photos, paths))


def classify(
    classifier: Classifier, paths: Iterable[Path], *, batch_size: int = 32
) -> Iterator[Row]:
    """Label photos one batch at a time; a photo that can't be read gives a row with `error`."""
    for path, answer in _logits(classifier, paths, batch_size=batch_size):
        if isinstance(answer, float):
            answered = to_prediction(answer)
            yield Row(str(path), answered.label, answered.confidence, answered.p_dog, None)
        else:
            yield _failed(path, answer)


def write_rows(rows: Iterable[Row], stream: TextIO, form: str) -> tuple[int, int]:
    """Write rows as "text", "json", "jsonl" or "csv"; return how many, and how many failed."""
    counted = _Counted(rows)
    {"text": _write_text, "json": _write_json, "jsonl": _write_jsonl, "csv": _write_csv}[form](
        counted, stream
    )
    return counted.total, counted.failed


@contextlib.contextmanager
def open_output(name: str) -> Iterator[TextIO]:
    """A stream for the answer: standard output for "-", else the file `name`.

    The file appears, or is replaced, only when all of the answer is written.

    Raises:
        CatdogError: the file can't be written.
    """
    if name == "-":
        yield sys.stdout
        return
    target = Path(name).expanduser()
    special = target.exists() and not target.is_file()  # /dev/stdout must not be replaced
    part = target if special else target.with_name(f".{target.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        part.replace(target)
    except OSError as error:
        raise CatdogError(
            f"output={name} can't be written: {error.strerror or error}. Name another file."
        ) from error
    finally:
        if not special:
            part.unlink(missing_ok=True)


def evaluate_folder(
    classifier: Classifier, folder: Path, *, batch_size: int = 32
) -> tuple[Scores, list[Row]]:
    """Score the classifier on `folder/{cat,dog}`; also a row for each unreadable picture.

    Raises:
        CatdogError: a class has no folder or no picture, or none can be read.
    """
    samples = LabelledFolder(folder).samples
    answers = _logits(classifier, [Path(path) for path, _ in samples], batch_size=batch_size)
    read: list[tuple[int, float]] = []
    unreadable: list[Row] = []
    for (_, label), (path, answer) in zip(samples, answers, strict=True):
        if isinstance(answer, float):
            read.append((label, answer))
        else:
            unreadable.append(_failed(path, answer))
    if not read:
        raise CatdogError(f"no picture in {folder} can be read: {unreadable[0].error}")
    labels, logits = zip(*read, strict=True)
    return score(np.array(labels), np.array(logits)), unreadable


@dataclass
class _Counted:
    rows: Iterable[Row]
    total: int = 0
    failed: int = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            self.total += 1
            self.failed += row.error is not None
            yield row


def _photos(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = (below for below in path.rglob("*") if is_image_name(below) and below.is_file())
        yield from sorted(found, key=_natural)
    elif path.exists() or not glob.has_magic(str(path)):
        yield path
    else:
        matches = map(Path, glob.iglob(str(path), recursive=True))
        yield from sorted(filter(Path.is_file, matches), key=_natural)


def _natural(path: Path) -> tuple[str, int, str]:
    # 2.jpg before 10.jpg, as people number their photos.
    return str(path.parent), int(path.stem) if path.stem.isdecimal() else -1, path.name


def _logits(
    classifier: Classifier, paths: Iterable[Path], *, batch_size: int
) -> Iterator[tuple[Path, float | OSError | UnreadableImageError]]:
    waiting = iter(paths)
    while batch := list(islice(waiting, batch_size)):
        contents = [_read(path) for path in batch]
        answers = iter(classifier.logits([c for c in contents if isinstance(c, bytes)]))
        for path, content in zip(batch, contents, strict=True):
            yield path, next(answers) if isinstance(content, bytes) else content


def _read(path: Path) -> bytes | OSError:
    try:
        return path.read_bytes()
    except OSError as error:
        return error


def _failed(path: Path, error: OSError | UnreadableImageError) -> Row:
    reason = error.strerror if isinstance(error, OSError) else None
    return Row(str(path), None, None, None, reason or str(error))


def _write_text(rows: Iterable[Row], stream: TextIO) -> None:
    stream.write(f"{'label':5}  {'confidence':>10}  {'p_dog':>6}  path\n")
    for row in rows:
        if row.error is None:
            stream.write(f"{row.label:5}  {row.confidence:10.1%}  {row.p_dog:6.4f}  {row.path}\n")
        else:
            stream.write(f"{'-':5}  {'-':>10}  {'-':>6}  {row.path}: {row.error}\n")


def _write_json(rows: Iterable[Row], stream: TextIO) -> None:
    separator = "[\n"
    for row in rows:
        stream.write(separator + json.dumps(asdict(row), ensure_ascii=False))
        separator = ",\n"
    stream.write("[]\n" if separator == "[\n" else "\n]\n")


def _write_jsonl(rows: Iterable[Row], stream: TextIO) -> None:
    for row in rows:
        stream.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def _write_csv(rows: Iterable[Row], stream: TextIO) -> None:
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
