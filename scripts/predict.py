"""Label new photos with a registered model."""

import logging
import sys
from pathlib import Path

from catdog import cli
from catdog.config import PredictConfig

logger = logging.getLogger("catdog")


def main(config: PredictConfig) -> int:
    """Write a row for each photo; status 1 when one of them could not be read."""
    from catdog.inference import output, predict
    from catdog.inference.inputs import find_photos
    from catdog.inference.prediction import Options
    from catdog.inference.sorting import Sorter, refuse_inside
    from catdog.registry import load

    classifier = load.load_classifier(config.model_uri, device=config.device)
    names = config.images
    if names == ("auto",):
        names = (str(predict.test_photos(classifier, Path(config.data_dir))),)
    photos = find_photos(names)
    sorting, explaining = config.sort_into != "none", config.explain != "none"
    options = Options(config.reject == "yes", config.threshold, config.tta == "yes")
    answered = predict.answer_photos(
        classifier,
        photos,
        options,
        batch_size=config.batch_size or None,
        keep=sorting or explaining,
    )
    if sorting:
        answered = Sorter(Path(config.sort_into), names, classifier.about.classes).watch(answered)
    if explaining:
        refuse_inside(Path(config.explain), names, flag="explain")
        answered = predict.explain(classifier, answered, Path(config.explain))
    rows = (output.to_row(answer.photo.name, answer.prediction) for answer in answered)
    try:
        with output.open_output(config.output) as stream:
            shown = output.with_progress(rows, output=config.output)
            tally = output.write_rows(shown, stream, config.format, classifier.about.classes)
    except BrokenPipeError:
        return output.PIPE_CLOSED
    logger.info(f"{tally} by {config.model_uri}")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, PredictConfig))
