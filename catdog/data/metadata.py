"""What the user knows of the pictures: columns of a metadata.csv become columns of the manifest.

In: each `metadata.csv` of a source, in the convention of Hugging Face's ImageFolder. Its column
`file_name` (or `path`) names pictures relative to the folder it lies in; `label` says what they
show, the others something else about them, the camera say. Out: these columns for a picture of
any name. In Kaggle's tables an `id` names pictures of any folder, and `label` alone is used. Pure.
"""

from __future__ import annotations

import csv
import io
import logging
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from catdog import CatdogError
from catdog.data.images import is_image_name
from catdog.files import normal

logger = logging.getLogger(__name__)

OWN_COLUMNS = ("path", "label", "split", "sha256", "width", "height")
"""Of the manifest; the user's stand after them."""
ID, LABEL = "id", "label"
NAMES = ("file_name", "path")
"""What the column of file names may be called."""


@dataclass(frozen=True)
class Metadata:
    """The user's columns, and by a picture's name in the source what stands in them.

    These names are as `catdog.files.normal` gives them.
    """

    columns: tuple[str, ...] = ()
    known: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def of(self, source: str) -> tuple[str, ...]:
        """What is known of the picture, a string for each column, empty where nothing is."""
        row = self.known.get(normal(source), {})
        return tuple(row.get(column, "") for column in self.columns)

    def label(self, source: str, *, by_id: bool) -> str:
        """The label that somebody typed for the picture, or for its id; "" where there is none."""
        return self.labels.get(normal(source)) or self.labels.get(_id_of(source) * by_id, "")


def read_metadata(tables: Iterable[tuple[str, bytes]]) -> Metadata:
    """The metadata in tables, each given by its name in the source and its bytes.

    A table without a column of file names is somebody else's: it is said, and not used.

    Raises:
        CatdogError: a table can't be read.
    """
    columns: dict[str, None] = {}
    known: dict[str, Mapping[str, str]] = {}
    labels: dict[str, str] = {}
    for name, content in tables:
        header, rows = _parse(name, content)
        key = next((column for column in NAMES if column in header), None)
        if key is None and {ID, LABEL}.issubset(header):
            labels |= {_id_of(row[ID]): row[LABEL] for row in rows}
            continue
        if key is None:
            logger.info(f"{name} has no column {NAMES[0]} and is not used.")
            continue
        added = [column for column in header if column and column != key]
        clashing = sorted({*OWN_COLUMNS}.intersection(added) - {LABEL})
        if clashing:
            logger.info(f"{name}: {', '.join(clashing)} is not used, the manifest has its own.")
        added = [column for column in added if column not in OWN_COLUMNS]
        columns |= dict.fromkeys(added)
        for row in rows:
            picture = _source_name(name, row[key])
            known[picture] = {column: row[column] for column in added}
            labels[picture] = row.get(LABEL, "")
    return Metadata(tuple(columns), known, labels)


def log_unmatched(metadata: Metadata, sources: Iterable[str]) -> None:
    """Say how many rows name no picture, and the first of them."""
    unmatched = sorted(metadata.known.keys() - set(map(normal, sources)))
    if unmatched:
        logger.info(
            f"Rows of metadata.csv that name no picture: {len(unmatched):,}, "
            f"the first of them {unmatched[0]}."
        )


def _id_of(name: str) -> str:
    """What Kaggle calls a picture, apart from all names in a source."""
    last = posixpath.basename(normal(name))
    return f"id:{posixpath.splitext(last)[0] if is_image_name(last) else last}"


def _parse(name: str, content: bytes) -> tuple[list[str], list[dict[str, str]]]:
    """The header, and each row by column; spreadsheets pad rows with empty fields or cut them."""
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        table = [[field.strip() for field in line] for line in lines]
        header, *rows = [line for line in table if any(line)] or [[]]
        if any(any(row[len(header) :]) for row in rows):
            raise ValueError("a row has more fields than the header")
    except (csv.Error, ValueError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise CatdogError(
            f"{name} can't be read as a table ({reason}): save it as CSV with commas, in UTF-8, "
            "or give it another name."
        ) from error
    return header, [dict(zip_longest(header, row[: len(header)], fillvalue="")) for row in rows]


def _source_name(table: str, name: str) -> str:
    """The name in the source of the picture that a table calls `name`."""
    path = posixpath.join(posixpath.dirname(table), name.replace("\\", "/").lstrip("/"))
    return normal(posixpath.normpath(path))
