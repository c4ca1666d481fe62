"""A model URI → the classifier that it names; without MLflow where it is a folder."""

from __future__ import annotations

from pathlib import Path

from catdog.inference.classifier import Classifier, saved_in
from catdog.models.device import pick_device


def load_classifier(model_uri: str, *, device: str = "auto") -> Classifier:
    """The classifier that a model URI names, ready to label photos.

    Raises:
        CatdogError: the URI names none, or the device is not there.
    """
    if device not in ("auto", "cpu"):  # before a model is fetched; auto may do without a GPU
        pick_device(device)
    folder = Path(model_uri)
    if folder.is_dir():
        return Classifier.load(saved_in(folder), device=device)
    # MLflow takes longer to import than a photo to label.
    from catdog.registry import versions

    return Classifier.load(versions.fetch(model_uri), device=device)
