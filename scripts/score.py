"""Label any number of pictures with Spark."""

import logging
import sys

from catdog import cli
from catdog.config import ScoreConfig

logger = logging.getLogger("catdog")


def main(config: ScoreConfig) -> int:
    """Append an answer for each picture that has none; status 1 when one could not be read."""
    import os

    from catdog.inference.output import summary
    from catdog.serving import spark

    # A bar for sixty small files of this machine says nothing.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    model = spark.pin(config.model_uri)
    with spark.spark_session(config.master) as session:
        counts = spark.score(session, model, config.input, config.output)
    logger.info(f"{summary(counts, model.classes)} by {model.version}")
    return 1 if counts[""] else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, ScoreConfig))
