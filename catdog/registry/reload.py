"""Run as a program in a fresh process by `catdog.registry.proof`; imports nothing of catdog itself.

In: one line of JSON on standard input, with the model's URI, photos, and the folder of its export.
Out: one line of JSON with the answers of each way to the model, `[probability of class 1,
familiarity]` each.
"""

from __future__ import annotations

import base64
import contextlib
import json
import runpy
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torchvision  # noqa: F401  the model will need it, and now there is time
import uvicorn
from mlflow.pyfunc import PyFuncModel, load_model, scoring_server

with contextlib.suppress(ImportError):  # ONNX Runtime stands in where it is not installed
    import openvino  # noqa: F401  likewise

Pairs = list[tuple[float, float]]


def as_model(model: PyFuncModel, photos: list[bytes]) -> Pairs:
    """The answers of the loaded MLflow model."""
    table = cast(pd.DataFrame, model.predict(pd.DataFrame({"image": photos})))
    return _pairs(table.to_dict("records"))


def over_http(model: PyFuncModel, photos: list[bytes]) -> Pairs:
    """The answers of MLflow's own scoring server, asked through a socket on loopback."""
    records = [{"image": base64.b64encode(photo).decode()} for photo in photos]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        app = scoring_server.init(model)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        asked = urllib.request.Request(
            f"http://127.0.0.1:{listening.getsockname()[1]}/invocations",
            json.dumps({"dataframe_records": records}).encode(),
            {"Content-Type": "application/json"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(asked) as answer:
            told = json.load(answer)["predictions"]
        server.should_exit = True
        thread.join()
    return _pairs(told)


def through_export(folder: Path, photos: list[str], pixels: Path) -> dict[str, Pairs]:
    """The answers of the exported graph to the same pixels, and of the export's example.

    The example knows neither MLflow nor PyTorch, and resizes with Pillow.
    """
    example = runpy.run_path(str(folder / "example.py"))
    probability, familiarity = example["SESSION"].run(None, {"images": np.load(pixels)})
    return {
        "onnx": list(zip(probability.tolist(), familiarity.tolist(), strict=True)),
        "example": _pairs([example["classify"](photo) for photo in photos]),
    }


def main() -> None:
    """Answer what standard input asks."""
    asked = json.loads(sys.stdin.readline() or "{}")
    if not asked:
        return  # whoever started it has changed its mind
    with contextlib.redirect_stdout(sys.stderr):
        model = load_model(asked["model_uri"])
        photos = [Path(path).read_bytes() for path in asked["photos"]]
        told = {"model": as_model(model, photos), "http": over_http(model, photos)}
        if asked["exported"]:
            pixels = Path(asked["pixels"])
            told |= through_export(Path(asked["exported"]), asked["photos"], pixels)
    print(json.dumps(told))


def _pairs(rows: Sequence[Mapping[Any, float]]) -> Pairs:
    return [(row[_probability_in(row)], row["familiarity"]) for row in rows]


def _probability_in(row: Mapping[Any, float]) -> str:
    """The column that is called after class 1, `p_dog` say."""
    return next(str(name) for name in row if str(name).startswith("p_"))


if __name__ == "__main__":
    main()
