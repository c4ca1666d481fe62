"""Answers, as they come → a table for people, or JSON, CSV or a submission for programs.

Each row is written before the next is asked for: a million answers are never held at once.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, TextIO

from tqdm import tqdm

from catdog import CLASSES, NEITHER, CatdogError, Classes
from catdog.data.classes import as_outside, probability_name
from catdog.files import atomic_write
from catdog.inference.inputs import Photo
from catdog.inference.prediction import Prediction

logger = logging.getLogger(__name__)

Form = Literal["text", "json", "jsonl", "csv", "kaggle"]

PIPE_CLOSED = 141
"""The status of a program whose reader (`| head`) has had enough: 128 + SIGPIPE."""

KAGGLE_LIMITS = (0.005, 0.995)
"""Log-loss grows without bound with the confidence of one mistake. Held to these limits, a
mistake costs 5.3 and each right answer 0.005, as much as one mistake in a thousand."""


@dataclass(frozen=True)
class Answer:
    """A photo, the prediction for it and, where they were asked to be kept, its bytes."""

    photo: Photo
    prediction: Prediction
    content: bytes = b""


@dataclass(frozen=True)
class Row:
    """An answer as it is written: None stands for what there is not, as after an `error`."""

    path: str
    label: str | None
    confidence: float | None
    p_positive: float | None
    familiarity: float | None
    error: str | None


def columns(classes: Classes) -> tuple[str, ...]:
    """What the fields of a row are called in what is written."""
    return tuple(as_outside({described.name: None for described in fields(Row)}, classes))


def labels_of(classes: Classes) -> tuple[str, ...]:
    """The labels that an answer can have."""
    return (*classes, NEITHER)


@dataclass
class Tally:
    """How many answers there were, how many of them errors, and how many of each label."""

    classes: Classes = CLASSES
    total: int = 0
    failed: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows, counted as they pass."""
        for row in rows:
            self.total += 1
            self.failed += row.error is not None
            if row.label is not None:
                self.labels[row.label] += 1
            yield row

    def __str__(self) -> str:
        each = ", ".join(f"{self.labels[label]} {label}" for label in labels_of(self.classes))
        return f"{self.total - self.failed} of {self.total} photos labelled ({each})"


def to_row(name: str, prediction: Prediction) -> Row:
    """The row for the photo of that name."""
    return Row(
        path=name,
        label=prediction.label or None,
        confidence=_number(prediction.confidence),
        p_positive=_number(prediction.p_positive),
        familiarity=_number(prediction.familiarity),
        error=" ".join(prediction.error.split()) or None,
    )


def write_rows(
    rows: Iterable[Row], stream: TextIO, form: Form, classes: Classes = CLASSES
) -> Tally:
    """Write rows in one of the forms, each as it comes; return their tally.

    The probability of class 1 is called after it, `p_dog` say. "kaggle" is a submission: the
    number that is the file's name, and the probability of class 1.

    Raises:
        CatdogError: a photo can't be part of a submission.
    """
    tally = Tally(classes)
    WRITERS[form](tally.watch(rows), stream, classes)
    return tally


def with_progress(rows: Iterable[Row], *, output: str) -> Iterable[Row]:
    """The same rows, and a bar on stderr that counts them.

    No bar where stderr is not a terminal, nor where the answers themselves appear on one.
    """
    shown_already = output == "-" and sys.stdout.isatty()
    return tqdm(rows, unit=" photos", leave=False, disable=True if shown_already else None)


@contextlib.contextmanager
def open_output(name: str) -> Iterator[TextIO]:
    """A stream for the answer: standard output for "-", else the file `name`.

    The file appears, or is replaced, only when all of the answer is written. File names that
    are no text are written with escapes that JSON reads back.

    Raises:
        CatdogError: the file can't be written.
        BrokenPipeError: the reader of standard output has gone.
    """
    if name == "-":
        with _standard_output() as stream:
            yield stream
        return
    target = Path(name).expanduser()
    special = target.exists() and not target.is_file()  # /dev/stdout must not be replaced
    writing = contextlib.nullcontext(target) if special else atomic_write(target)
    try:
        with (
            writing as part,
            part.open("w", encoding="utf-8", newline="", errors="backslashreplace") as stream,
        ):
            yield stream
    except OSError as error:
        raise CatdogError(
            f"output={name} can't be written: {error.strerror or error}. Name another file."
        ) from error


@contextlib.contextmanager
def _standard_output() -> Iterator[TextIO]:
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at exit, and would complain.
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise
    except OSError as error:
        raise CatdogError(f"the answer can't be written: {error.strerror or error}.") from error


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _write_text(rows: Iterable[Row], stream: TextIO, classes: Classes) -> None:
    column = probability_name(classes)
    label, number = max(map(len, labels_of(classes))), max(6, len(column))
    line = f"{{:{label}}}  {{:>10}}  {{:>{number}}}  {{:>11}}  {{}}\n".format
    stream.write(line("label", "confidence", column, "familiarity", "path"))
    for row in rows:
        name = _on_one_line(row.path)
        if row.error is not None:
            stream.write(line("-", "-", "-", "-", f"{name}: {row.error}"))
        else:
            numbers = (_shown(row.confidence, ".1%"), _shown(row.p_positive, ".4f"))
            stream.write(line(row.label, *numbers, _shown(row.familiarity, ".3f"), name))


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _on_one_line(name: str) -> str:
    # A file's name may hold line ends, or codes that a terminal would obey.
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)


def _write_json(rows: Iterable[Row], stream: TextIO, classes: Classes) -> None:
    separator = "[\n"
    for row in rows:
        stream.write(separator + _json(row, classes))
        separator = ",\n"
    stream.write("[]\n" if separator == "[\n" else "\n]\n")


def _write_jsonl(rows: Iterable[Row], stream: TextIO, classes: Classes) -> None:
    for row in rows:
        stream.write(_json(row, classes) + "\n")


def _json(row: Row, classes: Classes) -> str:
    return json.dumps(as_outside(asdict(row), classes), ensure_ascii=False)


def _write_csv(rows: Iterable[Row], stream: TextIO, classes: Classes) -> None:
    writer = csv.DictWriter(stream, columns(classes), lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_outside(asdict(row), classes) for row in rows)


def _write_kaggle(rows: Iterable[Row], stream: TextIO, _classes: Classes) -> None:
    stream.write("id,label\n")
    ids: set[int] = set()  # as many as the competition has, and no more
    for row in rows:
        number = _kaggle_id(row.path)
        if number in ids:
            raise CatdogError(f"a submission has each id once, and {row.path} is the second.")
        ids.add(number)
        if row.p_positive is None:
            logger.info(f"{row.path}: {row.error}; it gets 0.5, as a submission must have each id")
        low, high = KAGGLE_LIMITS
        label = 0.5 if row.p_positive is None else min(max(row.p_positive, low), high)
        stream.write(f"{number},{label:.6f}\n")


def _kaggle_id(path: str) -> int:
    stem = Path(path).stem
    if not (stem.isascii() and stem.isdigit()):
        raise CatdogError(
            f"{path} can't be in a Kaggle submission, whose photos are named by numbers "
            "(12.jpg): name only such photos, or another --format."
        )
    return int(stem)


WRITERS: dict[Form, Callable[[Iterable[Row], TextIO, Classes], None]] = {
    "text": _write_text,
    "json": _write_json,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "kaggle": _write_kaggle,
}
