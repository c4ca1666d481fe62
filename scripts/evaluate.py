"""Score a registered model on a labelled folder DIR/{cat,dog}."""

import json
import sys

from catdog import command
from catdog.config import EvaluateConfig


def main(config: EvaluateConfig) -> int:
    """Print accuracy, log-loss, ROC AUC and the confusion matrix."""
    from catdog.predict import evaluate_folder, load_classifier, text_of_scores

    classifier = load_classifier(config.model_uri, device=config.device)
    scores, unreadable = evaluate_folder(classifier, config.data, batch_size=config.batch_size)
    for row in unreadable:
        command.say(f"left out {row.path}: {row.error}")
    print(json.dumps(scores) if config.format == "json" else text_of_scores(scores))
    return 1 if unreadable else 0


if __name__ == "__main__":
    sys.exit(command.run(main, EvaluateConfig))
