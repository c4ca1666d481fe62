"""Which two kinds of pictures are told apart, and how their names are read and written.

In: what the user types, or the names of folders and files. Out: two words, class 0 first. A word
is the same everywhere: the name of a folder, the label of an answer, part of a column's name.
Pure.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from catdog import AUTO, CLASSES, NEITHER, CatdogError, Classes
from catdog.files import normal

Value = TypeVar("Value")

LONGEST = 40
"""Characters of a class's name, which becomes part of other names."""

SPLIT_WORDS = {
    "training": ("train", "training"),
    "validation": ("val", "valid", "validate", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "tests", "testing", "holdout", "hold_out", "held_out"),
}
"""What folders are called that say on which side a picture stands, and not what it shows."""
COLLECTION = re.compile(r"_?(set|split|data|dataset|images|pictures|photos)?_?\d*$")
"""What may follow such a word: "Test Set", "val2017"."""

NEUTRAL = "p_positive"
"""What the probability of class 1 is called inside, whatever that class is."""


def read_classes(typed: str) -> Classes | None:
    """The two classes that `typed` names, "ant,bee" say; None for "auto".

    Capitals count as small letters, and spaces and hyphens as `_`.

    Raises:
        CatdogError: these are not two different words that can name folders.
    """
    if typed == AUTO:
        return None
    words = typed.split(",")
    names = [folded(word) for word in words if re.fullmatch(r"[\w -]+", word)]
    if len(words) != 2 or len(set(filter(_is_usable, names))) != 2:
        raise CatdogError(
            f"classes={typed} does not name two classes: give two different words of letters, "
            f"digits, - and _, at most {LONGEST} each, none of them {NEITHER} or the name of a "
            "split as train, as in -P classes=ant,bee"
        )
    return names[0], names[1]


def folded(name: str) -> str:
    """A name as a class is called: "Golden Retriever" → "golden_retriever"."""
    return re.sub(r"[\W_]+", "_", normal(name).lower()).strip("_")


def label_of(name: str, classes: Classes) -> str:
    """The class of a picture, by its name in a source; "" where that says nothing.

    It is that of the nearest folder that is called as a class, else that of the beginning of the
    file's name, `cat.0.jpg` or `dog_12.jpg`, where the rest of it does not name the other one.
    """
    path = PurePosixPath(name)
    for folder in reversed(path.parts[:-1]):
        if label := class_of_folder(folder, classes):
            return label
    # The longer one first: the other may be its beginning.
    for label in sorted(classes, key=len, reverse=True):
        if found := _named(label).match(normal(path.name)):
            rest = normal(path.name)[found.end() :]
            return "" if _named(other(label, classes)).search(rest) else label
    return ""


def class_of_folder(folder: str, classes: Classes) -> str:
    """The class that a folder is called as, with an s at its end or without; "" else."""
    word = folded(folder)
    return next((label for label in (word, word.removesuffix("s")) if label in classes), "")


@functools.cache
def split_of_folder(folder: str) -> str:
    """The split that a folder or an archive is called as, "Test Set" or "val.zip"; "" else."""
    word = COLLECTION.sub("", folded(folder.partition(".")[0]))
    return next((split for split, words in SPLIT_WORDS.items() if word in words), "")


def classes_in(names: Iterable[str], typed: Iterable[str] = ()) -> Classes:
    """The classes that the names of labelled pictures, and labels that somebody typed, speak of.

    They are cat and dog where there are both of these; else, where the pictures lie in two
    folders, what those are called, in alphabetical order; else the two labels that were typed;
    else cat and dog again.
    """
    words = {folded(label) for label in typed}
    labels = {class_of_folder(word, CLASSES) for word in words}
    folders: set[str] = set()
    for name in names:
        labels.add(label_of(name, CLASSES))
        if labels.issuperset(CLASSES):
            return CLASSES
        folders.add(_folder(name))
    for found in (sorted(folders - {""}), sorted(words)):
        if not labels.issuperset(CLASSES) and len(found) == 2 and all(map(_is_usable, found)):
            return found[0], found[1]
    return CLASSES


def probability_name(classes: Classes) -> str:
    """What the probability of class 1 is called outside: "p_dog"."""
    return f"p_{classes[1]}"


def as_outside(record: Mapping[str, Value], classes: Classes) -> dict[str, Value]:
    """The same record, in which the probability of class 1 has its name outside."""
    column = probability_name(classes)
    return {column if name == NEUTRAL else name: value for name, value in record.items()}


def one(name: str) -> str:
    """One of a class: "a dog", "an ant"."""
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def other(label: str, classes: Classes) -> str:
    """The class of the two that is not `label`."""
    return classes[1 - classes.index(label)]


def both(classes: Iterable[str]) -> str:
    """The two of them in words: "cat and dog"."""
    return " and ".join(classes)


def _is_usable(name: str) -> bool:
    return 0 < len(name) <= LONGEST and name != NEITHER and not split_of_folder(name)


@functools.cache
def _named(label: str) -> re.Pattern[str]:
    words = re.escape(label).replace("_", "[ _-]+")
    return re.compile(rf"(?<![^\W\d_]){words}s?(?=[ ._(\d-])", re.IGNORECASE)


def _folder(name: str) -> str:
    """The nearest folder of a picture that may say what it shows; "" where there is none."""
    for part in reversed(PurePosixPath(name).parts[:-1]):
        word = folded(part)
        if word != NEITHER and not split_of_folder(part) and "." not in part:  # an archive's
            return word
    return ""
