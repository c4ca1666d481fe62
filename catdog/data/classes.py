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
    "training": ("train", "training", "training_set", "train_set"),
    "validation": ("val", "valid", "validation", "validation_set", "val_set"),
    "test": ("test", "test1", "testing", "test_set"),
}
"""What folders are called that say on which side a picture stands, and not what it shows."""

TAKEN = {NEITHER, *(word for words in SPLIT_WORDS.values() for word in words)}
"""Words that mean something else already."""

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

    It is that of the nearest folder that is called as a class, with an s at its end or without
    (`Dogs/`), else that of the beginning of the file's name: `cat.0.jpg`, `dog_12.jpg`.
    """
    path = PurePosixPath(name)
    for folder in reversed(path.parts[:-1]):
        word = folded(folder)
        for label in (word, word.removesuffix("s")):
            if label in classes:
                return label
    # The longer one first: the other may be its beginning.
    for label in sorted(classes, key=len, reverse=True):
        if _prefix(label).match(normal(path.name)):
            return label
    return ""


def classes_in(names: Iterable[str]) -> Classes:
    """The classes that the names of labelled pictures speak of.

    They are cat and dog where there are both of these; else, where the pictures lie in two
    folders, what those are called, in alphabetical order; else cat and dog again.
    """
    labels: set[str] = set()
    folders: set[str] = set()
    for name in names:
        labels.add(label_of(name, CLASSES))
        if labels.issuperset(CLASSES):
            return CLASSES
        folders.add(_folder(name))
    words = sorted(folders - {""})
    if len(words) != 2 or not all(map(_is_usable, words)):
        return CLASSES
    return words[0], words[1]


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
    return name != "" and len(name) <= LONGEST and name not in TAKEN


@functools.cache
def _prefix(label: str) -> re.Pattern[str]:
    words = re.escape(label).replace("_", "[ _-]+")
    return re.compile(rf"{words}s?(?=[ ._(\d-])", re.IGNORECASE)


def _folder(name: str) -> str:
    """The nearest folder of a picture that may say what it shows; "" where there is none."""
    for part in reversed(PurePosixPath(name).parts[:-1]):
        word = folded(part)
        if word not in TAKEN and "." not in part:  # an archive's name says nothing
            return word
    return ""
