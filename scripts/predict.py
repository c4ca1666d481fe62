"""Label new photos with a registered model."""

import sys
from pathlib import Path

from catdog import command
from catdog.config import PredictConfig


def main(config: PredictConfig) -> int:
    """Write a row for each photo; status 1 when one of them could not be read."""
    from catdog import predict

    classifier = predict.load_classifier(config.model_uri, device=config.device)
    names = config.images
    if names == ("auto",):
        names = (str(predict.test_photos(classifier, Path(config.data_dir))),)
    photos = predict.find_photos(names)
    with predict.open_output(config.output) as stream:
        rows = predict.classify(classifier, photos, batch_size=config.batch_size)
        total, failed = predict.write_rows(rows, stream, config.format)
    command.say(f"{total - failed} of {total} photos labelled by {config.model_uri}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(command.run(main, PredictConfig))
