"""Which pictures the user wants left out: the lines of an exclude file.

A line is a path as in manifest.csv, a path as in the source (within an archive, or the way
quarantine.csv spells it), or a sha256 digest of which the first 12 digits are enough. What
follows a `#` at the beginning of a line or after a space is a comment.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from catdog import CatdogError
from catdog.files import normal

NONE = "none"
DIGEST = re.compile(r"[0-9a-f]{12,64}", re.IGNORECASE)
COMMENT = re.compile(r"(^|\s)#.*")
EXCLUDED = "excluded"
"""Folder of the excluded pictures, and how the names of their splits begin."""
LINES = "exclude.txt"
"""A copy of the lines, in that folder."""


@dataclass(frozen=True)
class Named:
    """A picture by all its names: path in the manifest, paths in the source, sha256."""

    path: str
    sources: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Exclusion:
    """What shall be left out: the lines of a file, without comments and repetitions."""

    lines: tuple[str, ...] = ()

    @property
    def digest(self) -> str | None:
        """Changes when what shall be left out does; None when that is nothing."""
        if not self.lines:
            return None
        return hashlib.sha256("\n".join(sorted(self.lines)).encode()).hexdigest()

    def choose(self, pictures: Iterable[Named]) -> tuple[set[str], list[str]]:
        """Which of `pictures` are to be left out.

        A line that is a path in the manifest means that picture alone; only otherwise is it
        looked for in the source.

        Returns:
            Their paths in the manifest, and the lines that no picture answers to.
        """
        pictures = list(pictures)
        paths = {picture.path for picture in pictures}
        by_source: dict[str, set[str]] = {}
        alike: dict[str, set[str]] = {}
        for picture in pictures:
            for source in picture.sources:
                by_source.setdefault(source, set()).add(picture.path)
            for name in (picture.path, *picture.sources):
                alike.setdefault(normal(name), set()).add(picture.path)
        chosen: set[str] = set()
        unmatched = []
        for line in self.lines:
            name = line.removeprefix(f"{EXCLUDED}/")
            found = {name} & paths or by_source.get(line) or alike.get(normal(name), set())
            if not found and DIGEST.fullmatch(line):
                start = line.lower()
                found = {picture.path for picture in pictures if picture.sha256.startswith(start)}
            chosen |= found
            unmatched += [] if found else [line]
        return chosen, unmatched


def read_exclusion(name: str) -> Exclusion:
    """The exclude file called `name`; nothing is excluded when that is `none`.

    Raises:
        CatdogError: it is missing, can't be read, or is not text.
    """
    if name == NONE:
        return Exclusion()
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise CatdogError(
            f"exclude={name} can't be read ({reason}): give a text file with a path or a sha256 "
            f"digest in each line, or exclude={NONE}."
        ) from error
    lines = (COMMENT.sub("", line).strip() for line in text.splitlines())
    tidy = (line.replace("\\", "/").removeprefix("./") for line in lines if line)
    return Exclusion(tuple(dict.fromkeys(tidy)))
