"""Score a registered model on a labelled folder."""

import json
import logging
import sys
from pathlib import Path

from catdog import cli
from catdog.config import EvaluateConfig

logger = logging.getLogger("catdog")


def main(config: EvaluateConfig) -> int:
    """Print metrics with their 95 % intervals, and accuracy by the kind of photo."""
    from catdog.inference.evaluate import evaluate_folder
    from catdog.registry.load import load_classifier

    classifier = load_classifier(config.model_uri, device=config.device)
    found = evaluate_folder(classifier, Path(config.data), batch_size=config.batch_size or None)
    for path, reason in found.unreadable.items():
        logger.info(f"left out {path}: {reason}")
    if found.copies:
        logger.info(f"{found.copies:,} files repeat others: each picture counts once.")
    if found.learned:
        logger.info(
            f"{found.learned:,} of these {found.scores.count:,} pictures were learned from by this "
            "model: its answers for them say little about new photos."
        )
    if config.format == "json":
        print(json.dumps(found.to_dict()))
    else:
        print("\n".join(found.lines()))
    return 1 if found.unreadable else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, EvaluateConfig))
