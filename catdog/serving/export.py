"""A registered model as a folder that needs neither catdog nor PyTorch nor MLflow.

Out: model.onnx (pixels to answer), preprocessing.json, model_card.md and example.py; and in
catdog/ the classifier as it was saved, so that the folder can be named as a model, too.
"""

from __future__ import annotations

import copy
import io
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from catdog import CatdogError
from catdog.data.classes import probability_name
from catdog.data.images import MAX_ASPECT, to_tensor
from catdog.data.ood_images import neither_pictures
from catdog.data.transforms import evaluation_transform
from catdog.inference.classifier import CARD_FILE, Classifier, ScoringHead
from catdog.models.engine import to_onnx
from catdog.models.network import Network

EXAMPLE = Path(__file__).parents[1] / "templates" / "example.py"
LIMIT = 1e-3
"""The largest difference of a probability or a familiarity that counts as the same answer."""
PILLOW_LIMIT = 0.1
"""The same for the export's example. Pillow rounds one pixel in some hundred otherwise, which
shows where an answer is in doubt; a wrong size or colour would show by far more."""


def export(classifier: Classifier, folder: Path, *, card: Path | None = None) -> Path:
    """Write the classifier into `folder`, which must not exist or be empty; return it.

    Args:
        classifier: what to export.
        folder: where to.
        card: its model card, where it has one.

    Raises:
        CatdogError: the folder is not empty or can't be written, or ONNX can't hold the model.
    """
    column = probability_name(classifier.about.classes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CatdogError(f"{folder} is not empty: name a new folder with --to.")
        (folder / "model.onnx").write_bytes(_as_onnx(classifier))
        described = classifier.preprocessing.to_dict() | {
            "classes": classifier.about.classes,
            "reject_below": classifier.about.reject_below,
            "max_aspect": MAX_ASPECT,
            "input": "images, (N, 3, crop_px, crop_px) uint8, RGB; normalising is in the model",
            "output": f"{column} (N,) float32, familiarity (N,) float32",
        }
        text = json.dumps(described, indent=2) + "\n"
        (folder / "preprocessing.json").write_text(text, encoding="utf-8")
        shutil.copyfile(EXAMPLE, folder / "example.py")
        classifier.save(folder / "catdog")
        if card is not None and card.is_file():
            shutil.copyfile(card, folder / CARD_FILE)
    except OSError as error:
        raise CatdogError(f"{folder} can't be written: {error.strerror or error}.") from error
    return folder


def check(classifier: Classifier, folder: Path) -> tuple[float, float]:
    """How far the export's answers are from the classifier's, at most.

    First those of the graph on the same pixels, then those of the example on the files.

    Raises:
        CatdogError: too far; the folder is then removed.
    """
    contents = [content for _, content in neither_pictures()[::4]]
    expected = [(one.p_positive, one.familiarity) for one in classifier.predict(contents)]
    transform = evaluation_transform(classifier.preprocessing)
    pixels = torch.stack([transform(to_tensor(content)) for content in contents]).numpy()
    example = runpy.run_path(str(folder / "example.py"))
    graph = np.stack(example["SESSION"].run(None, {"images": pixels}), axis=1)
    column = probability_name(classifier.about.classes)
    answers = [example["classify"](io.BytesIO(content)) for content in contents]
    rows = [(answer[column], answer["familiarity"]) for answer in answers]
    by_graph, by_example = (
        float(np.abs(found - np.array(expected)).max()) for found in (graph, rows)
    )
    # Not "greater than": a difference that is no number is no proof either.
    if not (by_graph <= LIMIT and by_example <= PILLOW_LIMIT):
        shutil.rmtree(folder)
        raise CatdogError(
            f"the export to {folder} would not answer as the model does, the difference is "
            f"{max(by_graph, by_example):.1e}: it was removed. Serve the registered model instead."
        )
    return by_graph, by_example


class WholeModel(nn.Module):
    """Pixels `(N, 3, S, S) uint8` → `p_dog`, say, and familiarity, each `(N,) float32`."""

    def __init__(self, network: Network, head: ScoringHead, temperature: float) -> None:
        super().__init__()
        self.network, self.head, self.temperature = network, head, temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        logits, familiarity = self.head(self.network.features(images))
        return (logits / self.temperature).sigmoid().float(), familiarity.float()


def _as_onnx(classifier: Classifier) -> bytes:
    about = classifier.about
    network = copy.deepcopy(classifier.network()).cpu()
    whole = WholeModel(network, classifier.head, about.temperature).eval()
    outputs = [probability_name(about.classes), "familiarity"]
    try:
        return to_onnx(whole, classifier.preprocessing.crop_px, outputs)
    except Exception as error:  # the exporter knows as many ways to fail as there are models
        raise CatdogError(
            f"ONNX can't hold backbone={about.backbone}: {str(error).splitlines()[0]}"
        ) from error
