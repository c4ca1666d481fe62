"""Label new photos with a registered model."""

import logging
import sys
from pathlib import Path

from catdog import cli
from catdog.config import PredictConfig

logger = logging.getLogger("catdog")


def main(config: PredictConfig) -> int:
    """Write a row for each photo; status 1 when one of them could not be read."""
    from tqdm import tqdm

    from catdog.inference import output, predict
    from catdog.inference.inputs import Photo, find_photos
    from catdog.inference.prediction import Options
    from catdog.registry import load

    classifier = load.load_classifier(config.model_uri, device=config.device)
    classes, names = classifier.about.classes, config.images
    if names == ("auto",):
        names = (str(predict.test_photos(classifier, Path(config.data_dir))),)
    sorted_, explained = Path(config.sort_into), Path(config.explain)
    sorting, explaining = config.sort_into != "none", config.explain != "none"
    read = Photo.keep if sorting or explaining else Photo.read
    options = Options(config.reject == "yes", config.threshold, config.tta == "yes")
    answers = classifier.stream(
        find_photos(names), read, options, batch_size=config.batch_size or None
    )
    if sorting:
        predict.refuse_inside(sorted_, names, flag="sort_into")
        answers = predict.sort(answers, sorted_, classes)
    if explaining:
        predict.refuse_inside(explained, names, flag="explain")
        answers = predict.explain(answers, explained, classifier)
    try:
        with output.open_output(config.output) as stream:
            # No bar where stderr is no terminal, nor among the answers on one.
            hidden = True if config.output == "-" and sys.stdout.isatty() else None
            shown = tqdm(answers, unit=" photos", leave=False, disable=hidden)
            counts = output.write_answers(shown, stream, config.format, classes)
    except BrokenPipeError:
        return output.PIPE_CLOSED
    logger.info(f"{output.summary(counts, classes)} by {config.model_uri}")
    return 1 if counts[""] else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, PredictConfig))
