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
from pathlib import Path
from typing import Literal, TextIO

from catdog import CLASSES, NEITHER, CatdogError, Classes
from catdog.data.classes import probability_name
from catdog.files import atomic_write
from catdog.inference.inputs import Photo
from catdog.inference.prediction import Prediction, unanswered

logger = logging.getLogger(__name__)

Form = Literal["text", "json", "jsonl", "csv", "kaggle"]

PIPE_CLOSED = 141
"""The status of a program whose reader (`| head`) has had enough: 128 + SIGPIPE."""

KAGGLE_LIMITS = (0.005, 0.995)
"""Log-loss grows without bound with the confidence of one mistake. Held to these limits, a
mistake costs 5.3 and each right answer 0.005, as much as one mistake in a thousand."""


Answered = tuple[Photo, Prediction]
"""A photo, and the answer for it."""


def record(name: str, prediction: Prediction, classes: Classes) -> dict[str, str | float | None]:
    """What is written of a photo, by column; None is what there is not, as after an `error`."""
    return {
        "path": name,
        "label": prediction.label or None,
        "confidence": _number(prediction.confidence),
        probability_name(classes): _number(prediction.p_positive),
        "familiarity": _number(prediction.familiarity),
        "error": prediction.error or None,
    }


def labels_of(classes: Classes) -> tuple[str, ...]:
    """The labels that an answer can have."""
    return (*classes, NEITHER)


def write_answers(
    answers: Iterable[Answered], stream: TextIO, form: Form, classes: Classes = CLASSES
) -> Counter[str]:
    """Write answers in one of the forms, each as it comes; return how many there are of each label.

    Those that are errors are counted as "". The probability of class 1 is called after it, `p_dog`
    say. "kaggle" is a submission: the number that is the file's name, and the probability of
    class 1.

    Raises:
        CatdogError: a photo can't be part of a submission.
    """
    counts: Counter[str] = Counter()

    def counted() -> Iterator[Answered]:
        for photo, prediction in answers:
            counts[prediction.label] += 1
            yield photo, prediction

    WRITERS[form](counted(), stream, classes)
    return counts


def summary(counts: Counter[str], classes: Classes) -> str:
    """What `write_answers` counted, in words."""
    each = ", ".join(f"{counts[label]} {label}" for label in labels_of(classes))
    total = counts.total()
    return f"{total - counts['']} of {total} photos labelled ({each})"


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
    target = Path(name)
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


def _write_text(answers: Iterable[Answered], stream: TextIO, classes: Classes) -> None:
    column = probability_name(classes)
    label, number = max(map(len, labels_of(classes))), max(6, len(column))
    line = f"{{:{label}}}  {{:>10}}  {{:>{number}}}  {{:>11}}  {{}}\n".format
    stream.write(line("label", "confidence", column, "familiarity", "path"))
    for photo, one in answers:
        numbers = (
            _shown(one.confidence, ".1%"),
            _shown(one.p_positive, ".4f"),
            _shown(one.familiarity, ".3f"),
        )
        trouble = f": {one.error}" if one.error else ""
        stream.write(line(one.label or "-", *numbers, _printable(photo.name) + trouble))


def _shown(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _printable(name: str) -> str:
    # A file's name may hold line ends, or codes that a terminal would obey.
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)


def _write_json(answers: Iterable[Answered], stream: TextIO, classes: Classes) -> None:
    separator = "[\n"
    for photo, prediction in answers:
        stream.write(separator + _json(photo, prediction, classes))
        separator = ",\n"
    stream.write("[]\n" if separator == "[\n" else "\n]\n")


def _write_jsonl(answers: Iterable[Answered], stream: TextIO, classes: Classes) -> None:
    for photo, prediction in answers:
        stream.write(_json(photo, prediction, classes) + "\n")


def _json(photo: Photo, prediction: Prediction, classes: Classes) -> str:
    return json.dumps(record(photo.name, prediction, classes), ensure_ascii=False)


def _write_csv(answers: Iterable[Answered], stream: TextIO, classes: Classes) -> None:
    columns = list(record("", unanswered(""), classes))
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(record(photo.name, prediction, classes) for photo, prediction in answers)


def _write_kaggle(answers: Iterable[Answered], stream: TextIO, _classes: Classes) -> None:
    stream.write("id,label\n")
    low, high = KAGGLE_LIMITS
    for photo, prediction in answers:
        label = min(max(prediction.p_positive, low), high)
        if prediction.error:
            label = 0.5
            logger.info(
                f"{photo.name}: {prediction.error}; it gets 0.5, as a submission must have each id"
            )
        stream.write(f"{_kaggle_id(photo.name)},{label:.6f}\n")


def _kaggle_id(path: str) -> int:
    stem = Path(path).stem
    if not (stem.isascii() and stem.isdigit()):
        raise CatdogError(
            f"{path} can't be in a Kaggle submission, whose photos are named by numbers "
            "(12.jpg): name only such photos, or another --format."
        )
    return int(stem)


WRITERS: dict[Form, Callable[[Iterable[Answered], TextIO, Classes], None]] = {
    "text": _write_text,
    "json": _write_json,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "kaggle": _write_kaggle,
}
