"""The program of the fresh process: it imports nothing of catdog but what the version carries.

In: a line of JSON on standard input, with the model's URI and photos. Out: a line of JSON with
the engine that computed, and for each photo the probability of class 1 and the familiarity.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torchvision  # noqa: F401  the model will need it, and now there is time
from mlflow.pyfunc import load_model
from mlflow.tracking import MlflowClient


def answer(model_uri: str, photos: list[str]) -> dict[str, Any]:
    """Load a version, and classify photos with it."""
    # MLflow would read the metadata of all that is installed to warn of other versions.
    model = load_model(model_uri, suppress_warnings=True)
    contents = [Path(photo).read_bytes() for photo in photos]
    table = cast(pd.DataFrame, model.predict(pd.DataFrame({"image": contents})))
    (probability,) = (name for name in table if str(name).startswith("p_"))
    return {
        "engine": model.get_raw_model().engine.name,
        "answers": table[[probability, "familiarity"]].astype(float).to_numpy().tolist(),
    }


def main() -> None:
    """Answer what standard input asks; nothing, where whoever asks has changed its mind."""
    MlflowClient()  # opens the store, and now there is time
    if line := sys.stdin.readline():
        with contextlib.redirect_stdout(sys.stderr):
            found = answer(**json.loads(line))
        print(json.dumps(found))


if __name__ == "__main__":
    main()
