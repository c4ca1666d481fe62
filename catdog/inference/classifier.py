"""Bytes of a photo in, label, probability and familiarity out: the one way to classify.

The registry holds what `Classifier.save` writes: JSON, safetensors and the backbone in ONNX.
Nothing in them runs code when they are read, and each has its digest in the JSON. MLflow loads
the same class through `_load_pyfunc`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from threading import Semaphore
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from catdog import CatdogError
from catdog.data.classes import as_outside
from catdog.data.images import UnreadableImageError, to_tensor
from catdog.data.transforms import Preprocessing, evaluation_transform
from catdog.evaluation.novelty import NoveltyDetector
from catdog.files import sha256_of
from catdog.inference.inputs import sent_bytes
from catdog.inference.prediction import (
    FORMAT,
    About,
    Options,
    Prediction,
    to_prediction,
    unanswered,
)
from catdog.models.engine import Engine, Portable, engine_for
from catdog.parallel import in_order

if TYPE_CHECKING:  # timm is needed only to fine-tune, to explain, and on a GPU
    import pandas as pd

    from catdog.models.network import Network

MODEL_FILE, BACKBONE_FILE = "model.json", "backbone.onnx"
WEIGHTS_FILE, ARRAYS_FILE = "weights.safetensors", "arrays.safetensors"
CARD_FILE = "model_card.md"

Item = TypeVar("Item")
Outputs = tuple[float, float]
"""What the model gives for a photo: its calibrated logit, and its familiarity."""


class ScoringHead(nn.Module):
    """All that comes after the backbone: the trained neuron, and the detector of what is neither.

    In double precision. The same module is judged in training, answers in the saved model, and
    is part of the graph of an export. Its buffers are `weight` `(D,)` and `bias` `(1,)`.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, novelty: NoveltyDetector) -> None:
        super().__init__()
        # On the CPU first: MPS has no double precision.
        self.register_buffer("weight", weight.detach().cpu().double())
        self.register_buffer("bias", bias.detach().cpu().double())
        self.novelty = novelty

    def logits(self, features: Tensor) -> Tensor:
        """Features `(N, D) float32` → logits `(N,) float64`, not yet calibrated."""
        return features.double() @ self.weight + self.bias

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(N, D) float32` → what `logits` gives, and familiarity `(N,) float64`."""
        return self.logits(features), self.novelty(features)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything that `from_tensors` needs."""
        own = {"head.weight": self.weight, "head.bias": self.bias}
        return own | self.novelty.to_tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The head that `to_tensors` gave.

        Raises:
            KeyError: a tensor is missing.
        """
        novelty = NoveltyDetector.from_tensors(tensors)
        return cls(tensors["head.weight"], tensors["head.bias"], novelty)


class Classifier:
    """Everything between the bytes of a photo and the answer."""

    def __init__(
        self,
        about: About,
        preprocessing: Preprocessing,
        engine: Engine,
        head: ScoringHead,
        network: Callable[[], Network],
        learned: NDArray[np.uint64] | None = None,
    ) -> None:
        """`network` gives the same backbone and head in PyTorch, when they are asked for.

        `learned` are the sorted `photo_keys` of the photos it learned from, where known.
        """
        self.about, self.preprocessing, self.engine = about, preprocessing, engine
        self.head, self.network, self.learned = head, network, learned
        self._transform = evaluation_transform(preprocessing)
        self._free = Semaphore(engine.callers)

    def predict(self, contents: Sequence[bytes], options: Options = Options()) -> list[Prediction]:
        """Classify picture files given as bytes, in their order.

        What can't be read as a picture gets a `Prediction` with an `error`.
        """
        return [answer for _, answer in self.stream(contents, bytes, options)]

    def stream(
        self,
        items: Iterable[Item],
        read: Callable[[Item], bytes],
        options: Options = Options(),
        *,
        batch_size: int | None = None,
    ) -> Iterator[tuple[Item, Prediction]]:
        """Classify any number of pictures on all cores, in their order, in flat memory.

        Args:
            items: whatever `read` reads, taken a few ahead of the answers.
            read: gives the bytes of an item, in a thread of its own; an OSError or an
                UnreadableImageError of it becomes the `error` of the answer.
            options: how to answer.
            batch_size: pictures at once; without, what the engine likes.
        """
        for item, outputs in self.outputs(items, read, tta=options.tta, batch_size=batch_size):
            if isinstance(outputs, tuple):
                yield item, to_prediction(*outputs, self.about, options)
            else:
                yield item, unanswered(outputs)

    def outputs(
        self,
        items: Iterable[Item],
        read: Callable[[Item], bytes],
        *,
        tta: bool = False,
        batch_size: int | None = None,
    ) -> Iterator[tuple[Item, Outputs | str]]:
        """For each picture its calibrated logit and familiarity, or why it could not be read.

        Arguments are those of `stream`; `tta` is as in `Options`.
        """
        waiting = iter(items)
        size = batch_size or self.engine.batch
        batches = iter(lambda: list(islice(waiting, size)), [])
        for answers in in_order(functools.partial(self._batch, read=read, tta=tta), batches):
            yield from answers

    def learned_from(self, sha256s: Iterable[str]) -> NDArray[np.bool_] | None:
        """Of each photo, by its digest, whether it was learned from; None where not known."""
        if self.learned is None:
            return None
        return np.isin(photo_keys(sha256s), self.learned)

    def save(self, folder: Path) -> str:
        """Write the model into `folder`, which is made; return its digest, in hex."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_to_save(self.network().state_dict()), folder / WEIGHTS_FILE)
        arrays = self.head.to_tensors()
        if self.learned is not None:
            arrays["learned"] = torch.from_numpy(self.learned)
        if self.engine.portable is not None:
            (folder / BACKBONE_FILE).write_bytes(self.engine.portable.onnx)
            arrays["engine.expected"] = torch.from_numpy(self.engine.portable.expected)
        save_file(_to_save(arrays), folder / ARRAYS_FILE)
        described = asdict(self.about) | {
            "preprocessing": self.preprocessing.to_dict(),
            "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        }
        (folder / MODEL_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        return sha256_of(folder / MODEL_FILE)

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Read what `save` wrote.

        Raises:
            CatdogError: a file is missing, damaged or changed, the format is of a newer catdog,
                or the device is not there.
        """
        try:
            described = _described(folder)
            preprocessing = Preprocessing.from_dict(described.pop("preprocessing"))
            about = About(**{**described, "classes": tuple(described["classes"])})
            arrays = load_file(folder / ARRAYS_FILE)
            network = functools.cache(lambda: _load_network(folder, about, preprocessing))
            head = ScoringHead.from_tensors(arrays)
            portable = None
            if "engine.expected" in arrays:
                onnx = (folder / BACKBONE_FILE).read_bytes()
                expected = arrays["engine.expected"].numpy()
                portable = Portable(onnx, expected, preprocessing.crop_px)
        except CatdogError:
            raise
        except Exception as error:  # a damaged file shows in as many ways as there are parsers
            raise CatdogError(
                f"{folder} does not hold a whole catdog model ({error}): "
                "name a version of the registry, or a folder that catdog saved."
            ) from error
        engine = engine_for(portable, network, device)
        learned = arrays["learned"].numpy() if "learned" in arrays else None
        return cls(about, preprocessing, engine, head, network, learned)

    def _batch(
        self, items: list[Item], *, read: Callable[[Item], bytes], tta: bool
    ) -> list[tuple[Item, Outputs | str]]:
        decoded = [self._decode(item, read) for item in items]
        pictures = [picture for picture in decoded if isinstance(picture, Tensor)]
        computed = iter(self._compute(torch.stack(pictures), tta=tta) if pictures else ())
        outputs = (next(computed) if isinstance(it, Tensor) else it for it in decoded)
        return list(zip(items, outputs, strict=True))

    def _decode(self, item: Item, read: Callable[[Item], bytes]) -> Tensor | str:
        try:
            return self._transform(to_tensor(read(item)))
        except UnreadableImageError as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error) or type(error).__name__

    def _compute(self, pictures: Tensor, *, tta: bool) -> list[Outputs]:
        with self._free:
            features = torch.from_numpy(self.engine.compute(pictures))
            mirrored = torch.from_numpy(self.engine.compute(pictures.flip(-1))) if tta else None
        logits, familiarity = self.head(features)
        if mirrored is not None:
            logits = (logits + self.head.logits(mirrored)) / 2
        logits = logits / self.about.temperature
        return list(zip(logits.tolist(), familiarity.tolist(), strict=True))


def photo_keys(sha256s: Iterable[str]) -> NDArray[np.uint64]:
    """The first 64 bits of each digest: enough to tell the photos of the world apart, `(N,)`."""
    return np.array([int(sha256[:16], 16) for sha256 in sha256s], dtype=np.uint64)


def saved_in(folder: Path) -> Path:
    """Where `Classifier.save` wrote: in an MLflow model, the one folder below `data/`.

    In an export it is the folder `catdog`.
    """
    inside = [path for path in (*folder.glob("data/*"), folder / "catdog") if path.is_dir()]
    return inside[0] if len(inside) == 1 else folder


class ServedClassifier:
    """The face that MLflow calls: a table of picture bytes in, a table of answers out."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def get_raw_model(self) -> Classifier:
        """What MLflow gives to whoever asks for the model behind its face."""
        return self.classifier

    def predict(
        self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Classify the bytes in the column `image`; a `Prediction` in each row of the answer.

        The probability of class 1 is in the column `p_dog`, or as that class is called.

        Raises:
            ValueError: the threshold is not a probability.
        """
        import pandas as pd

        options = Options(**(params or {}))
        if not 0 <= options.threshold <= 1:
            raise ValueError(f"threshold={options.threshold} must be from 0 to 1")
        pictures = self.classifier.stream(model_input["image"], sent_bytes, options)
        answers = [answer for _, answer in pictures]
        classes = self.classifier.about.classes
        table = pd.DataFrame([as_outside(asdict(answer), classes) for answer in answers])
        # JSON has no nan: what is not known is null for whoever asks over HTTP.
        complete = not table.isna().any(axis=None)
        return table if complete else table.astype(object).where(table.notna(), None)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> ServedClassifier:
    """What MLflow calls to load the registered model; `model_config` may name a device."""
    device = (model_config or {}).get("device") or "auto"
    return ServedClassifier(Classifier.load(Path(path), device=device))


def _to_save(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _described(folder: Path) -> dict[str, Any]:
    """What the JSON of a saved model says, after its format and the files' digests are checked."""
    described: dict[str, Any] = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    if described["format"] != FORMAT:
        raise CatdogError(
            f"{folder / MODEL_FILE} is of format {described['format']}, this catdog reads "
            f"{FORMAT}: use the catdog version that trained the model, or train again."
        )
    for name, digest in described.pop("files").items():
        if sha256_of(folder / Path(name).name) != digest:
            raise CatdogError(
                f"{folder / name} is not the file that was saved with the model: its digest "
                "differs. Fetch the model again, or name another version."
            )
    return described


def _load_network(folder: Path, about: About, preprocessing: Preprocessing) -> Network:
    from catdog.models.network import empty_network

    network = empty_network(about.backbone, preprocessing)
    network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return network.eval()
