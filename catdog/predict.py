"""Photos that a user names → rows of answers → a table, JSON or CSV."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from catdog import CatdogError
from catdog.classifier import Classifier, Prediction
from catdog.images import is_image_name

FIELDS = ("path", "label", "confidence", "p_dog", "error")


@dataclass(frozen=True)
class Row:
    """The answer for one photo; `label` is None and the numbers are None after an `error`."""

    path: str
    label: str | None
    confidence: float | None
    p_dog: float | None
    error: str | None


def find_photos(names: Sequence[str]) -> Iterator[Path]:
    """The photos that files, folders (with all below them) and globs stand for, in order.

    A file that is named itself is tried whatever its suffix.

    Raises:
        CatdogError: a name stands for no file, or a folder holds no photo.
    """
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            yield from _photos_below(path)
        elif path.is_file():
            yield path
        else:
            yield from _photos_matching(str(path))


def classify(
    classifier: Classifier, paths: Iterable[Path], *, batch_size: int = 32
) -> Iterator[Row]:
    """Label photos one batch at a time; a photo that can't be read gives a row with `error`."""
    waiting = iter(paths)
    while batch := list(islice(waiting, batch_size)):
        contents = [_read(path) for path in batch]
        answers = iter(classifier.predict([c for c in contents if isinstance(c, bytes)]))
        for path, content in zip(batch, contents, strict=True):
            if isinstance(content, bytes):
                yield _row(path, next(answers))
            else:
                yield Row(str(path), None, None, None, content.strerror or str(content))


def write_rows(rows: Iterable[Row], stream: TextIO, form: str) -> tuple[int, int]:
    """Write rows as "text", "json", "jsonl" or "csv"; return how many, and how many failed."""
    counted = _Counted(rows)
    {"text": _write_text, "json": _write_json, "jsonl": _write_jsonl, "csv": _write_csv}[form](
        counted, stream
    )
    return counted.total, counted.failed


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


def _photos_below(folder: Path) -> Iterator[Path]:
    found = False
    for path in sorted(folder.rglob("*"), key=_natural):
        if is_image_name(path) and path.is_file():
            found = True
            yield path
    if not found:
        raise CatdogError(f"{folder} holds no picture: name a folder, file or glob that does.")


def _photos_matching(pattern: str) -> Iterator[Path]:
    matches = sorted(map(Path, glob.glob(pattern, recursive=True)), key=_natural)
    files = [path for path in matches if path.is_file()]
    if not files:
        raise CatdogError(f"{pattern} does not exist: name a file, a folder or a glob that does.")
    yield from files


def _natural(path: Path) -> tuple[str, int, str]:
    # 2.jpg before 10.jpg, as people number their photos.
    return str(path.parent), int(path.stem) if path.stem.isdecimal() else -1, path.name


def _read(path: Path) -> bytes | OSError:
    try:
        return path.read_bytes()
    except OSError as error:
        return error


def _row(path: Path, answer: Prediction) -> Row:
    if answer.error:
        return Row(str(path), None, None, None, answer.error)
    return Row(str(path), answer.label, answer.confidence, answer.p_dog, None)


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
