"""A binary image classifier by transfer learning, tracked and registered with MLflow.

Each folder here is a room, which says in its `__init__` what it is for. A room imports only from
those before it: sample, data, models, evaluation, inference, training, tracking, registry,
reporting, serving. Of the files beside them, start with `config`, which declares every parameter,
and `pipeline`, which is the whole training in one function; docs/architecture.md has a tour.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__version__ = "0.1.0"

Classes = tuple[str, str]
"""Class 0, the negative one, and class 1, the positive one."""

NEGATIVE, POSITIVE = CLASSES = ("cat", "dog")
"""The classes of the task that catdog comes with. The one logit answers: how much does this look
like class 1, a dog? Where the code speaks of cats and dogs, the same holds for any other pair."""

AUTO = "auto"
"""The value of a parameter that the data or the machine decide."""

NEITHER = "neither"
"""The label of a photo that looks like none of those the model was made for."""


FAILED, INTERRUPTED = 2, 130
"""Exit statuses: the user can put it right; Ctrl-C, or a signal that asks to end."""


class CatdogError(Exception):
    """Something the user can put right.

    The text says what happened, to which file or parameter, and what to type next.
    Scripts print it and exit with status 2; every other exception is a bug of ours.
    """


def _keep_to_ourselves() -> None:
    """Switch off what libraries tell their makers; here, as no module of ours is imported before.

    Who wants it sets the variables of MLflow and Gradio, or has typed OpenVINO's
    `opt_in_out --opt_in`. OpenVINO's only other switch is that its reporter can't be imported.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        wanted = (Path.home() / "intel" / "openvino_telemetry").read_bytes().strip() == b"1"
    except (OSError, RuntimeError):  # no such file, or no home
        wanted = False
    if not wanted:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


_keep_to_ourselves()
