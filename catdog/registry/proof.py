"""Proof that the registered model answers as the training process did, on every way to it.

A fresh process, which has never seen the training, loads the version from the registry with the
code that the version carries, in an empty folder and with pickle forbidden. It answers the same
photos as an MLflow model, over HTTP, and through the ONNX export; `prove` compares.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from catdog import CatdogError
from catdog.inference.parity import Answer

CHILD = Path(__file__).with_name("reload.py")
PATIENCE_S = 300


class UnprovenError(CatdogError):
    """A fresh process gave no answer for a reason that says nothing of the version."""


class FreshProcess:
    """A process that knows nothing of the training, and loads a version when it is told which.

    Starting takes a few seconds, which can pass while the training process learns and logs.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self._folder = tempfile.TemporaryDirectory()
        self._complaint = Path(self._folder.name, "complaint")
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process; it waits to be asked."""
        self._started()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None:
            return self._process
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_RUN")}
        complaint = self._complaint.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            # -P: the folder of catdog's modules must not lie on the path.
            [sys.executable, "-P", str(CHILD)],
            cwd=self._folder.name,
            env=environment
            | {
                "MLFLOW_TRACKING_URI": self._tracking_uri,
                "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                # It proves that the version loads anywhere, and leaves the GPU to the training.
                "CUDA_VISIBLE_DEVICES": "",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A pipe would fill up, and stop the process before anybody asks.
            stderr=complaint,
            encoding="utf-8",
        )
        complaint.close()  # the process has its own
        return self._process

    def answers(
        self, model_uri: str, photos: Sequence[Path], exported: Path | None, pixels: Path | None
    ) -> dict[str, list[Answer]]:
        """What each way says of `photos`; to be asked once, as the process ends with it.

        Args:
            model_uri: of the registered version.
            photos: what is classified.
            exported: the folder of the model's export; None leaves its ways out.
            pixels: a .npy file of the photos as the model sees them, `(N, 3, S, S) uint8`.

        Raises:
            UnprovenError: the process was killed, or had no time to answer.
            CatdogError: the version could not be loaded, or a way gave no answer.
        """
        process = self._started()
        asked = {
            "model_uri": model_uri,
            "photos": [str(photo.resolve()) for photo in photos],
            "exported": str(exported.resolve()) if exported else None,
            "pixels": str(pixels.resolve()) if pixels else None,
        }
        try:
            # The line must end: worker processes that were forked since keep the pipe open.
            out, _ = process.communicate(json.dumps(asked) + "\n", timeout=PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise UnprovenError(
                f"{model_uri} gave no answer in a fresh process within {PATIENCE_S} s: let the run "
                "go on when the machine is less busy."
            ) from error
        if process.returncode < 0:
            raise UnprovenError(
                f"the fresh process that tries {model_uri} was killed, most likely for want of "
                "memory: let the run go on when there is more."
            )
        if process.returncode != 0:
            complaint = self._complaint.read_text(encoding="utf-8", errors="replace")
            reason = complaint.strip().splitlines()[-1:] or ["no reason given"]
            raise CatdogError(f"{model_uri} can't be used in a fresh process: {reason[0]}")
        told = json.loads(out.splitlines()[-1])
        return {way: [Answer(*pair) for pair in pairs] for way, pairs in told.items()}

    def close(self) -> None:
        """End the process, if it still runs, and remove its folder."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()
