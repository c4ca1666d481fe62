"""From the words of a command line to an exit status: what every script shares.

Each value must be of the type and in the range declared for it in `catdog.config`; the disk is
not touched before, and nothing more than the parser is imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from catdog import FAILED, INTERRUPTED, CatdogError
from catdog.config import PATH, DataConfig, Pattern, Range, YesNo
from catdog.data.classes import read_classes

Config = TypeVar("Config")

MEMORY_SIGNS = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
"""What PyTorch says where a device's memory is full; known by its text, to start without it."""


def run(
    action: Callable[[Config], int],
    config_class: type[Config],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the arguments, act, and return the exit status.

    What the user can put right is said in one sentence on stderr, with status 2. A traceback
    means a bug of ours.
    """
    if hasattr(sys.stdout, "reconfigure"):
        # The name of a file need be no text in the encoding of the terminal.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        Path.home()
    except RuntimeError:  # no HOME, and a user without a name, as containers have them
        os.environ["HOME"] = "/"
    try:
        with _lines_on_stderr():
            return action(parse(config_class, argv))
    except CatdogError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except RuntimeError as error:
        if not any(sign in str(error) for sign in MEMORY_SIGNS):
            raise
        print(
            f"error: the memory is too small for this ({str(error).splitlines()[0][:120]}): lower "
            "batch_size, name a smaller backbone, or use device=cpu.",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


@contextlib.contextmanager
def _lines_on_stderr() -> Iterator[None]:
    """While inside, what catdog logs is a plain line on stderr; stdout is for answers.

    Of several processes that train together, rank 0 alone speaks.
    """
    logger, handler = logging.getLogger("catdog"), logging.StreamHandler()
    handler.setFormatter(_Plain())
    silent = os.environ.get("RANK", "0") != "0"
    before = logger.level
    logger.setLevel(logging.CRITICAL if silent else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Plain(logging.Formatter):
    """The message, with its level before it where that is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {line}"


def parse(config_class: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Read a config from the command line (`sys.argv` without `argv`).

    Flags may be spelled with `_` or `-`; a yes may be typed as `--name`, a no as `--no-name`.
    A misspelled flag or a value of the wrong type ends the program with status 2 and a message.

    Raises:
        CatdogError: a value is outside its range, or no name; the text says which and why.
    """
    arguments = _with_values(config_class, sys.argv[1:] if argv is None else argv)
    config = tyro.cli(
        config_class, args=arguments, use_underscores=True, config=(tyro.conf.FlagConversionOff,)
    )
    _check(config)
    config = _with_home(config)
    if isinstance(config, DataConfig):
        read_classes(config.classes)
    return config


def _with_home(config: Config) -> Config:
    """The same with the home folder for a ~ before a path, where the shell left it to us."""
    hints = get_type_hints(type(config), include_extras=True)
    paths = {name for name, hint in hints.items() if PATH in getattr(hint, "__metadata__", ())}
    found = {name: os.path.expanduser(getattr(config, name)) for name in paths}  # noqa: PTH111
    return replace(config, **found)  # type: ignore[type-var]


def _with_values(config_class: type, argv: Sequence[str]) -> list[str]:
    """The arguments, each flag of `config_class` in one word with its value: `--name=value`.

    MLproject passes whatever value was typed, also one that looks like a flag; and where a
    yes or no is wanted, people type `--name` and `--no-name`. What is given without a flag has
    one, too, for MLproject, after whose command flags may follow: its value goes to the end.
    """
    hints = get_type_hints(config_class)
    switches = {name for name, hint in hints.items() if hint == YesNo}
    words, result, last = list(argv), list[str](), list[str]()
    while words and words[0] != "--":
        word = words.pop(0)
        name = _flag_name(word)
        if name in switches and (not words or words[0] not in get_args(YesNo)):
            result.append(f"--{name}=yes")
        elif name.removeprefix("no_") in switches - {name}:
            result.append(f"--{name.removeprefix('no_')}=no")
        elif name in hints and words and not _is_flag(words[0], hints):
            value = words.pop(0)
            if get_origin(hints[name]) is tuple:
                last = ["--", value]
            else:
                result.append(f"--{name}={value}")
        else:
            result.append(word)
    return [*result, *last, *words]


def _flag_name(word: str) -> str:
    return word[2:].replace("-", "_") if word.startswith("--") else ""


def _is_flag(word: str, names: Container[str]) -> bool:
    """Whether the word is a flag of ours, which means that the value before it was forgotten."""
    name = _flag_name(word.partition("=")[0])
    return name in names or name.removeprefix("no_") in names or word in ("-h", "--help")


def _check(config: Any) -> None:
    """Raise CatdogError when a value of `config` is not what its field's type allows."""
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        for allowed in getattr(hint, "__metadata__", ()):
            if isinstance(allowed, Range) and not allowed.low <= value <= allowed.high:
                raise CatdogError(
                    f"{name}={value} is out of range: give a number from {allowed.low:g} to "
                    f"{allowed.high:g}, as in -P {name}=... or --{name} ..."
                )
            if isinstance(allowed, Pattern) and not re.fullmatch(allowed.regex, value):
                raise CatdogError(
                    f"{name}={value} is no name: use {allowed.words}, as in -P {name}=catdog"
                )
