"""Scoring with Spark beside predict.py's way, over the same folder and in turns.

    python -m benchmarks.scoring FOLDER [MODEL_URI]

Says pictures a second of each, the best of the rounds, and their ratio. The session and its
workers are warm, as a job of any size has them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from catdog.inference.inputs import Photo, find_photos
from catdog.registry.load import load_classifier
from catdog.serving.spark import PinnedModel, pin, score, spark_session

ROUNDS = 3


def predicting(classifier, folder: Path) -> float:
    """Pictures a second of the way that predict.py takes."""
    began = time.monotonic()
    answers = classifier.stream(find_photos([str(folder)]), Photo.read)
    count = sum(1 for _ in answers)
    return count / (time.monotonic() - began)


def with_spark(spark, model: PinnedModel, folder: Path) -> float:
    """Pictures a second of a whole job of Spark's, listing and the table of answers included."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as output:
        counts = score(spark, model, str(folder), f"{output}/answers")
        return counts.total() / (time.monotonic() - began)


def main() -> None:
    """Print a table in Markdown."""
    folder = Path(sys.argv[1])
    model_uri = sys.argv[2] if len(sys.argv) > 2 else "models:/catdog/Production"
    classifier, model = load_classifier(model_uri), pin(model_uri)
    with spark_session("local[2]") as spark:
        with_spark(spark, model, folder)
        rounds = [
            (predicting(classifier, folder), with_spark(spark, model, folder))
            for _ in range(ROUNDS)
        ]
    alone, spark_ = (max(speeds) for speeds in zip(*rounds, strict=True))
    ratios = sorted(ours / theirs for theirs, ours in rounds)
    print("| way | pictures/s |\n|---|---|")
    print(f"| predict.py | {alone:.0f} |\n| Spark, local[2] | {spark_:.0f} |\n")
    print(f"Spark's speed is {ratios[len(ratios) // 2]:.2f} of predict.py's (median of rounds).")


if __name__ == "__main__":
    main()
