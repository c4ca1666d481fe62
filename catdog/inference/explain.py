"""Why the model said so: where in a photo its answer comes from, as a heat map.

The gradient of the logit on the backbone's last map of features, times that map (Draelos and
Carin, "Use HiResCAM instead of Grad-CAM", 2020); for a backbone that averages its last map, as
most do, the parts of the map then add up to the logit. Where the backbone answers from one token
alone, it is the map that its last block reads: that is where places come together.
"""

from __future__ import annotations

import io
import math
import threading
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image

from catdog import CatdogError
from catdog.data.images import to_tensor
from catdog.data.transforms import evaluation_steps
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import Prediction, says_positive
from catdog.models.network import Network
from catdog.parallel import ONE_CORE_EACH

if TYPE_CHECKING:
    from catdog.models.backbone import Backbone

WARM = (255, 84, 0)
SHADE = 0.45
"""How bright the margin stays that the model does not look at."""

CAPTION_PX = 22

NO_MAP = "this backbone has no map of features to show: leave out --explain."


def draw(classifier: Classifier, content: bytes, prediction: Prediction) -> Image.Image:
    """What `overlay` gives, with the answer written below it.

    Raises:
        UnreadableImageError: `content` is not a picture.
        CatdogError: the backbone has no map of features.
    """
    picture = overlay(classifier, content, prediction)
    canvas = Image.new("RGB", (picture.width, picture.height + CAPTION_PX), "white")
    canvas.paste(picture)
    sure = "" if math.isnan(prediction.confidence) else f" {prediction.confidence:.1%}"
    caption = f"{prediction.label}{sure}, familiar {prediction.familiarity:.3f}"
    font = ImageFont.load_default(13)
    ImageDraw.Draw(canvas).text((4, picture.height + 3), caption, fill="black", font=font)
    return canvas


def overlay(classifier: Classifier, content: bytes, prediction: Prediction) -> Image.Image:
    """The photo, warm where its answer comes from.

    The margin that the model does not look at is darker.

    Raises:
        UnreadableImageError: `content` is not a picture.
        CatdogError: the backbone has no map of features.
    """
    resize, crop_centre = evaluation_steps(classifier.preprocessing)
    whole = resize(to_tensor(content))
    crop = crop_centre(whole)
    towards_positive = says_positive(prediction, classifier.about.classes)
    heat = heat_map(classifier.network(), crop, towards_positive=towards_positive)
    muted = 0.55 * crop + 0.45 * crop.float().mean(0)
    share = 0.75 * heat
    warmed = muted * (1 - share) + torch.tensor(WARM)[:, None, None] * share
    left, top = (round((whole.shape[side] - crop.shape[side]) / 2) for side in (2, 1))
    picture: Image.Image = to_pil_image(whole).point(lambda value: int(value * SHADE))
    picture.paste(to_pil_image(warmed.to(torch.uint8)), (left, top))
    return picture


def heat_map(network: Network, crop: Tensor, *, towards_positive: bool) -> Tensor:
    """How much each place of a crop `(3, S, S) uint8` speaks for class 1, or for class 0.

    Returns:
        `(S, S)`, from 0 to 1 where most of the answer comes from; 0 what speaks against it.

    Raises:
        CatdogError: the backbone has no map of features.
    """
    device = next(network.parameters()).device
    # Several requests may explain at once; each keeps to its own core, and none waits for another.
    with ONE_CORE_EACH:
        maps, logit = _maps_and_logit(network, network.normalised(crop[None].to(device)))
        (slope,) = torch.autograd.grad(logit, maps)
    spoken = (slope * maps).detach() * (1.0 if towards_positive else -1.0)
    grid = _on_grid(spoken, network.backbone).clamp(min=0)
    large = nn.functional.interpolate(
        grid[None, None].float(), crop.shape[-2:], mode="bicubic", align_corners=False
    )[0, 0].clamp(min=0)
    return (large / large.max().clamp(min=1e-12)).cpu()


def _maps_and_logit(network: Network, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The last map of features that the whole answer passes through, and the answer."""
    backbone = network.backbone
    if not hasattr(backbone, "forward_features"):
        raise CatdogError(NO_MAP)
    if getattr(backbone, "global_pool", None) == "token" and hasattr(backbone, "blocks"):
        return _before_last_block(network, pixels)
    with torch.no_grad():
        maps = _one_map(backbone.forward_features(pixels))
    with torch.enable_grad():
        maps.requires_grad_(True)
        logit: Tensor = network.head(backbone.forward_head(maps))
        return maps, logit


def _before_last_block(network: Network, pixels: Tensor) -> tuple[Tensor, Tensor]:
    here, kept = threading.get_ident(), []

    def keep(_block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if threading.get_ident() != here:  # another photo that is classified at the same time
            return inputs
        kept.append(_one_map(inputs[0]).detach().requires_grad_(True))
        return kept[0], *inputs[1:]

    *_, last = network.backbone.get_submodule("blocks").children()
    with torch.enable_grad(), last.register_forward_pre_hook(keep):
        logit: Tensor = network.head(network.backbone(pixels))
    return kept[0], logit


def _one_map(found: object) -> Tensor:
    if not isinstance(found, Tensor):  # several, of patches of several sizes, as CrossViT has
        raise CatdogError(NO_MAP)
    return found


def _on_grid(spoken: Tensor, backbone: Backbone) -> Tensor:
    """The channels added up, as a map of rows and columns, whatever the backbone's layout."""
    channels = backbone.num_features
    if spoken.ndim == 4:
        channels_last = spoken.shape[-1] == channels and spoken.shape[1] != channels
        return spoken[0].sum(-1 if channels_last else 0)
    tokens = spoken[0, getattr(backbone, "num_prefix_tokens", 0) :].sum(-1)
    side = int(len(tokens) ** 0.5)
    if side * side != len(tokens):
        raise CatdogError(NO_MAP)
    return tokens.reshape(side, side)


def as_jpeg(picture: Image.Image) -> bytes:
    """The picture as the bytes of a JPEG."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return stream.getvalue()
