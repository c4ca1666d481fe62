"""What a model says of itself, and how it answers: a logit and a familiarity → label, probability.

Pure, and without PyTorch: whoever only hands answers on does not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from catdog import CLASSES, NEITHER, Classes
from catdog.evaluation.calibration import probability

FORMAT = 2
"""Of the files that a saved model is made of; raised when older ones can't be read any more."""


@dataclass(frozen=True)
class About:
    """What a saved model says of itself.

    `temperature` divides its logits; below the familiarity `reject_below` a photo is neither.
    """

    backbone: str
    dataset: str
    origin: str
    best_epoch: int
    best_val_accuracy: float
    temperature: float = 1.0
    reject_below: float = 0.0
    classes: Classes = CLASSES
    format: int = FORMAT


@dataclass(frozen=True)
class Options:
    """How to answer.

    Attributes:
        reject: whether "neither" may be the answer.
        threshold: the probability of a dog above which a photo is called one.
        tta: whether the logit is the mean of the photo's and its mirror image's.
    """

    reject: bool = True
    threshold: float = 0.5
    tta: bool = False


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo. After an `error` the label is empty and the numbers nan.

    `p_positive` is the probability of class 1, a dog say, if it is one of the two; outside it
    is called after the class, see `catdog.data.classes.as_outside`. `familiarity` is the share
    of validation photos that look less like what the model was made for. `confidence` is the
    probability of the label, nan for "neither": how often strangers come is not known.
    """

    label: str
    confidence: float
    p_positive: float
    familiarity: float
    error: str = ""


def to_prediction(
    logit: float, familiarity: float, about: About, options: Options = Options()
) -> Prediction:
    """The answer that a calibrated logit and a familiarity stand for."""
    p_positive = float(probability(logit))
    if options.reject and familiarity < about.reject_below:
        return Prediction(NEITHER, float("nan"), p_positive, familiarity)
    label = int(p_positive > options.threshold)
    confidence = p_positive if label else 1.0 - p_positive
    return Prediction(about.classes[label], confidence, p_positive, familiarity)


def unanswered(error: str) -> Prediction:
    """The answer for a photo that could not be read, with the reason on one line."""
    nan = float("nan")
    return Prediction("", nan, nan, nan, " ".join(error.split()))


def says_positive(prediction: Prediction, classes: Classes) -> bool:
    """Whether an answer speaks for class 1; for "neither", which of the two it is more like."""
    if prediction.label == NEITHER:
        return prediction.p_positive > 0.5
    return prediction.label == classes[1]
