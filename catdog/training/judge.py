"""From fitted weights to a classifier that knows how sure it may be, and how sure that is.

The validation photos are scored through the engine that the registered model will use; they
set the temperature, and the familiarity below which a photo is neither. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import metrics

from catdog.config import TrainConfig
from catdog.data.dataset import TRAINING, VALIDATION, Picture, PreparedDataset
from catdog.evaluation.calibration import (
    FOLDS,
    Labels,
    Logits,
    Probabilities,
    cross_fitted,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    probability,
)
from catdog.evaluation.metrics import Scores, metrics_of, score
from catdog.evaluation.novelty import ImageNetBelief, NoveltyDetector
from catdog.inference.classifier import Classifier, ScoringHead, photo_keys
from catdog.inference.prediction import About
from catdog.models.backbone import licence_of
from catdog.models.engine import Features
from catdog.models.network import Network
from catdog.training.features import FeatureSet
from catdog.training.loop import Epoch, Fit


@dataclass(frozen=True)
class Judgement:
    """How a classifier does on validation photos, and on pictures that are neither.

    Attributes:
        labels: of the validation photos, `(N,)`.
        logits: as the head gives them, `(N,)`.
        calibrated: each by a temperature that the photo had no say in, `(N,)`.
        familiarity: of the validation photos, `(N,)`.
        neither: familiarity of pictures that are neither, `(M,)`.
        kept_share: of photos like these, how many are not called neither; cross-fitted.
    """

    labels: Labels
    logits: Logits
    calibrated: Logits
    familiarity: NDArray[np.float64]
    neither: NDArray[np.float64]
    kept_share: float

    @property
    def p_positive(self) -> Probabilities:
        """The honest probability of a dog for each validation photo, `(N,)`."""
        return probability(self.calibrated)

    def metrics(self, about: About) -> dict[str, float]:
        """Calibration before and after, and how well "neither" is told, by metric name."""
        before, after = probability(self.logits), self.p_positive
        return {
            "temperature": about.temperature,
            "val_ece": expected_calibration_error(self.labels, after),
            "val_ece_uncalibrated": expected_calibration_error(self.labels, before),
            "val_log_loss": log_loss(self.labels, self.calibrated),
            "val_log_loss_uncalibrated": log_loss(self.labels, self.logits),
            "val_brier_score": float(np.mean((after - self.labels) ** 2)),
            "val_brier_score_uncalibrated": float(np.mean((before - self.labels) ** 2)),
            "val_kept_share": self.kept_share,
            "neither_rejected_share": float(np.mean(self.neither < about.reject_below)),
            "neither_roc_auc": self.neither_roc_auc,
        }

    @property
    def neither_roc_auc(self) -> float:
        """How well familiarity tells validation photos from pictures that are neither."""
        known = np.repeat([1, 0], [len(self.familiarity), len(self.neither)])
        return float(metrics.roc_auc_score(known, np.append(self.familiarity, self.neither)))


@dataclass(frozen=True)
class Learned:
    """A network with the best weights in it, and what it was learned from.

    `fit` says how the training went, `features` are those of the network's backbone, and
    `pretrained` those that it gave before it was fine-tuned; the same where it was not.
    """

    network: Network
    fit: Fit
    features: FeatureSet
    pretrained: FeatureSet


@dataclass(frozen=True)
class Trained:
    """What training leaves: a classifier, how good it is, and what that was seen on.

    `pretrained` are features of the training and the validation pictures, each `(N, D)`, that
    no label has touched: a backbone that was fine-tuned on a wrong label may agree with it.
    `baseline` says what ImageNet's own classes know untrained, `baseline_logits`, `(N,)`, what
    they make of each validation picture; None where they know nothing of these classes.
    """

    classifier: Classifier
    judgement: Judgement
    pretrained: tuple[Features, Features]
    validation: list[Picture]
    fit: Fit
    baseline: Scores | None
    baseline_logits: Logits | None
    metrics: dict[str, float]
    licence: str

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return self.fit.best


def judge_as_served(learned: Learned, dataset: PreparedDataset, config: TrainConfig) -> Trained:
    """Judge the best weights by the engine that will serve them."""
    network, fit, features = learned.network, learned.fit, learned.features
    pretrained = learned.pretrained
    validation = dataset.pictures(VALIDATION)
    labels = np.array([picture.label for picture in validation])
    about = About(
        backbone=config.backbone,
        dataset=dataset.folder.name,
        origin=dataset.origin,
        best_epoch=fit.best.number,
        best_val_accuracy=fit.best.val.accuracy,
        classes=dataset.classes,
    )
    classifier, judgement = judge(
        network,
        features,
        labels,
        about,
        keep=config.keep_share,
        learned=(picture.sha256 for picture in dataset.pictures(TRAINING)),
    )
    baseline_logits = _baseline_logits(network, pretrained.validation)
    return Trained(
        classifier,
        judgement,
        (pretrained.training[0], pretrained.validation),
        validation,
        fit,
        None if baseline_logits is None else score(labels, baseline_logits),
        baseline_logits,
        metrics_of(
            judgement.labels,
            judgement.logits,
            calibrated=judgement.calibrated,
            prefix="val_",
            seed=config.seed,
        ),
        licence_of(config.backbone, config.weights),
    )


def _baseline_logits(network: Network, features: Features) -> Logits | None:
    """What the classes that the backbone learned elsewhere make of each picture, `(N,)`."""
    if network.imagenet is None:
        return None
    return network.imagenet.dog_logits(torch.from_numpy(features)).double().numpy()


def judge(
    network: Network,
    features: FeatureSet,
    labels: Labels,
    about: About,
    *,
    keep: float,
    learned: Iterable[str],
) -> tuple[Classifier, Judgement]:
    """A classifier from a fitted network, and how good it is.

    Args:
        network: backbone and head, with the best weights in them.
        features: by the engine that will serve; what is familiar is learned from the training
            pictures' ones, and all else judged by the others.
        labels: of the validation pictures, `(N,)`.
        about: what the classifier says of itself; temperature and threshold are filled in.
        keep: the share of validation photos that shall not be called neither.
        learned: the sha256 of each photo that was learned from.
    """
    training, validation, neither = map(
        torch.from_numpy, (features.training[0], features.validation, features.neither)
    )
    novelty = NoveltyDetector.fit(training, validation, _imagenet_belief(network))
    head = ScoringHead(network.head.linear.weight[0], network.head.linear.bias, novelty)
    logits = head.logits(validation).numpy()
    about = replace(
        about,
        temperature=fit_temperature(labels, logits),
        reject_below=round(1.0 - keep, 6),
    )
    classifier = Classifier(
        about,
        network.preprocessing,
        features.engine,
        head,
        network.eval,
        np.unique(photo_keys(learned)),
    )
    judgement = Judgement(
        labels,
        logits,
        cross_fitted(labels, logits),
        novelty(validation).numpy(),
        novelty(neither).numpy(),
        _kept_share(novelty.raw(validation).numpy(), keep),
    )
    return classifier, judgement


def seen_in_training(classifier: Classifier, judgement: Judgement) -> list[tuple[float, float]]:
    """The calibrated logit and the familiarity of each validation photo, as in training."""
    logits = judgement.logits / classifier.about.temperature
    return list(zip(logits.tolist(), judgement.familiarity.tolist(), strict=True))


def _kept_share(raw: NDArray[np.float64], keep: float) -> float:
    """The share of photos above the threshold that the other folds would set, cross-fitted."""
    fold = np.arange(len(raw)) % FOLDS
    kept = [
        raw[fold == held] >= np.quantile(raw[fold != held], 1.0 - keep)
        for held in range(min(FOLDS, len(raw)))
        if np.any(fold != held)
    ]
    return float(np.mean(np.concatenate(kept))) if kept else 1.0


def _imagenet_belief(network: Network) -> ImageNetBelief | None:
    layer = network.imagenet
    learned = any(weight.requires_grad for weight in network.backbone.parameters())
    if layer is None or learned:  # it was trained for features that are no more
        return None
    return ImageNetBelief(layer.weight, layer.bias, layer.pets)
