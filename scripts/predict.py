"""Label new photos with a registered model."""

import sys

from catdog import command
from catdog.config import PredictConfig


def main(config: PredictConfig) -> int:
    """Write a row for each photo; status 1 when one of them could not be read."""
    from catdog.predict import classify, find_photos, load_classifier, open_output, write_rows

    classifier = load_classifier(config.model_uri, device=config.device)
    names = config.images or [classifier.test_photos(config.data_dir)]
    rows = classify(classifier, find_photos(names), batch_size=config.batch_size)
    with open_output(config.output) as stream:
        total, failed = write_rows(rows, stream, config.format)
    command.say(f"{total - failed} of {total} photos labelled by {config.model_uri}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(command.run(main, PredictConfig))
