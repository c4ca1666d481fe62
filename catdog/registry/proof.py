"""Proof that a registered version answers as the training process did.

A fresh process, which has never seen the training, loads the version from the registry with the
code that the version carries: in an empty folder, with pickle forbidden and without a GPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catdog import CatdogError
from catdog.models.engine import Engine

CHILD = Path(__file__).with_name("reload.py")
PATIENCE_S = 300
LIMIT = 1e-3
"""The largest difference of a probability or a familiarity that counts as the same answer."""


class UnprovenError(CatdogError):
    """A fresh process gave no answer for a reason that says nothing of the version."""


@dataclass(frozen=True)
class Proof:
    """What a process made of N photos: with which engine, and probability and familiarity.

    `answers` are `(N, 2)`.
    """

    engine: str
    answers: NDArray[np.float64]

    def difference(self, expected: NDArray[np.float64]) -> float:
        """The largest difference from other answers `(N, 2)`; nan where one is no number."""
        return float(np.abs(self.answers - expected).max())

    def is_served_as_judged(self, judged: Engine) -> bool:
        """Whether the engine is the one that was judged.

        What a GPU has judged is served without one by the graph that it exported, and not by
        PyTorch, which would be several times slower.
        """
        if judged.name in ("openvino", "onnxruntime", "pytorch-cpu"):
            return self.engine == judged.name
        return judged.portable is None or not self.engine.startswith("pytorch")


class FreshProcess:
    """A process that knows nothing of the training, and loads the version that it is asked for.

    It takes seconds to start and to answer, in which the training process can do something else.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._model_uri, self.asked = "", list[Path]()
        self._folder = tempfile.TemporaryDirectory()
        self._complaint = Path(self._folder.name, "complaint")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_RUN")}
        environment |= {
            "MLFLOW_TRACKING_URI": tracking_uri,
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            # It proves that the version loads anywhere, and leaves the GPU to the training.
            "CUDA_VISIBLE_DEVICES": "",
        }
        # A pipe would fill up, and stop the process before anybody asks.
        with self._complaint.open("w", encoding="utf-8") as complaint:
            self._process: subprocess.Popen[str] = subprocess.Popen(
                # -P: the folder of catdog's modules must not lie on the path.
                [sys.executable, "-P", str(CHILD)],
                cwd=self._folder.name,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaint,
                encoding="utf-8",
            )

    def ask(self, model_uri: str, photos: Sequence[Path]) -> None:
        """Ask what a registered version says of photos; once, as the process ends with it."""
        self._model_uri, self.asked = model_uri, list(photos)
        asked = {"model_uri": model_uri, "photos": [str(photo.resolve()) for photo in photos]}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended: what it left says why
            # The line must end: worker processes that were forked since keep the pipe open.
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()

    def answers(self) -> Proof:
        """What it says.

        Raises:
            UnprovenError: the process was killed, or had no time to answer.
            CatdogError: the version can't be used.
        """
        model_uri = self._model_uri
        try:
            out, _ = self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise UnprovenError(
                f"{model_uri} gave no answer in a fresh process within {PATIENCE_S} s: let the run "
                "go on when the machine is less busy."
            ) from error
        if self._process.returncode < 0:
            raise UnprovenError(
                f"the fresh process that tries {model_uri} was killed, most likely for want of "
                "memory: let the run go on when there is more."
            )
        if self._process.returncode != 0:
            complaint = self._complaint.read_text(encoding="utf-8", errors="replace")
            reason = complaint.strip().splitlines()[-1:] or ["no reason given"]
            raise CatdogError(f"{model_uri} can't be used in a fresh process: {reason[0]}")
        answer = json.loads(out.splitlines()[-1])
        return Proof(answer["engine"], np.array(answer["answers"], dtype=np.float64))

    def close(self) -> None:
        """End the process, if it still runs, and remove its folder."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()
