"""Score a registered model on a labelled folder DIR/{cat,dog}."""

import json
import sys
from pathlib import Path

from catdog import command
from catdog.config import EvaluateConfig


def main(config: EvaluateConfig) -> int:
    """Print accuracy, log-loss, ROC AUC and the confusion matrix."""
    from catdog.predict import evaluate_folder, load_classifier

    classifier = load_classifier(config.model_uri, device=config.device)
    scores, unreadable = evaluate_folder(
        classifier, Path(config.data), batch_size=config.batch_size
    )
    for row in unreadable:
        command.say(f"left out {row.path}: {row.error}")
    if config.format == "json":
        print(json.dumps(scores.to_dict()))
    else:
        for name, value in scores.to_dict().items():
            print(f"{name:16} {value:.4f}" if isinstance(value, float) else f"{name:16} {value}")
    return 1 if unreadable else 0


if __name__ == "__main__":
    sys.exit(command.run(main, EvaluateConfig))
