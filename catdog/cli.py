"""From a command line to an exit status: what every script shares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from catdog import CatdogError
from catdog.arguments import Config, parse

FAILED, INTERRUPTED = 2, 130


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
        # A pipe or a file on Windows may know no sign but those of one country.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return action(parse(config_class, argv))
    except CatdogError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def say(line: str) -> None:
    """Tell the user something on stderr; stdout is for answers."""
    print(line, file=sys.stderr, flush=True)
