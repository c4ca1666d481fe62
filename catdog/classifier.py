"""Bytes of a photo in, label and probability out: the one way a picture is classified.

The registry holds what `Classifier.save` writes, a JSON file and safetensors: nothing in
it runs code when it is read. MLflow loads the same class through `_load_pyfunc`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from catdog import CLASSES, CatdogError
from catdog.data import Preprocessing, evaluation_transform, to_tensor
from catdog.evaluate import predicted_labels, probability
from catdog.images import UnreadableImageError
from catdog.model import Network, empty_network, pick_device

FORMAT = 1
MODEL_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"
SERVED_BATCH = 32
"""Photos classified at once when a caller of the served model sends many."""


@dataclass(frozen=True)
class About:
    """What a saved model says of itself."""

    backbone: str
    dataset: str
    origin: str
    best_epoch: int
    best_val_accuracy: float
    classes: tuple[str, ...] = CLASSES
    format: int = FORMAT


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo. After an `error` the label is empty and the numbers nan.

    `confidence` is the probability of `label`; `p_dog` that of a dog.
    """

    label: str
    confidence: float
    p_dog: float
    error: str = ""


def to_prediction(logit: float) -> Prediction:
    """The answer that a logit stands for."""
    p_dog = float(probability(logit))
    label = int(predicted_labels(logit))
    return Prediction(label=CLASSES[label], confidence=p_dog if label else 1.0 - p_dog, p_dog=p_dog)


class Classifier:
    """A trained network with everything needed to read a photo."""

    def __init__(self, network: Network, about: About) -> None:
        self.network = network.eval()
        self.about = about
        self._transform = evaluation_transform(network.preprocessing)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.network.parameters()).device

    def save(self, folder: Path) -> None:
        """Write `model.json` and `weights.safetensors` into `folder`, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        described = asdict(self.about) | {"preprocessing": self.network.preprocessing.to_dict()}
        (folder / MODEL_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        weights = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.network.state_dict().items()
        }
        save_file(weights, folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Read what `save` wrote.

        Raises:
            CatdogError: a file is missing or damaged, the format is of a newer catdog, or the
                device is not there.
        """
        try:
            described = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
            if described["format"] != FORMAT:
                raise CatdogError(
                    f"{folder / MODEL_FILE} is of format {described['format']}, this catdog reads "
                    f"{FORMAT}: use the catdog version that trained the model."
                )
            preprocessing = Preprocessing.from_dict(described.pop("preprocessing"))
            about = About(**{**described, "classes": tuple(described["classes"])})
            network = empty_network(about.backbone, preprocessing)
            network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except CatdogError:
            raise
        except Exception as error:  # a damaged file shows in as many ways as there are parsers
            raise CatdogError(
                f"{folder} does not hold a whole catdog model ({error}): "
                "name a version of the registry, or a folder that catdog saved."
            ) from error
        return cls(network.to(pick_device(device)[0]), about)

    def predict(self, contents: Sequence[bytes]) -> list[Prediction]:
        """Classify one batch of picture files given as bytes, in their order.

        What can't be read as a picture gets a `Prediction` with an `error`.
        """
        return [
            Prediction("", float("nan"), float("nan"), error=str(answer))
            if isinstance(answer, UnreadableImageError)
            else to_prediction(answer)
            for answer in self.logits(contents)
        ]

    def logits(self, contents: Sequence[bytes]) -> list[float | UnreadableImageError]:
        """For each picture file its logit, or the error that reading it gave."""
        decoded = [self._decode(content) for content in contents]
        pictures = [item for item in decoded if isinstance(item, Tensor)]
        logits = iter(self._forward(pictures) if pictures else [])
        return [next(logits) if isinstance(item, Tensor) else item for item in decoded]

    def _decode(self, content: bytes) -> Tensor | UnreadableImageError:
        try:
            return self._transform(to_tensor(content))
        except UnreadableImageError as error:
            return error

    def _forward(self, pictures: list[Tensor]) -> list[float]:
        with torch.inference_mode():
            return self.network(torch.stack(pictures).to(self.device)).double().tolist()


class ServedClassifier:
    """The face that MLflow calls: a table of picture bytes in, a table of answers out."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Classify the bytes in the column `image`; a `Prediction` in each row of the answer."""
        contents = [bytes(content) for content in model_input["image"]]
        answers = [
            answer
            for start in range(0, len(contents), SERVED_BATCH)
            for answer in self.classifier.predict(contents[start : start + SERVED_BATCH])
        ]
        return pd.DataFrame([asdict(answer) for answer in answers])


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> ServedClassifier:
    """What MLflow calls to load the registered model; `model_config` may name a device."""
    device = (model_config or {}).get("device") or "auto"
    return ServedClassifier(Classifier.load(Path(path), device=device))
