"""Bytes of a picture file → an upright RGB picture. The only place that decodes.

Needs Pillow alone until a tensor is asked for: preparing data must not wait for torch.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from PIL import Image, ImageOps, UnidentifiedImageError

from catdog import CatdogError

if TYPE_CHECKING:
    from torch import Tensor

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".mpo")
MODERN_SUFFIXES = (".avif", ".heic", ".heif", ".webp")
OTHER_SUFFIXES = (".bmp", ".gif", ".png", ".ppm", ".tif", ".tiff")
SUFFIXES = frozenset(JPEG_SUFFIXES + MODERN_SUFFIXES + OTHER_SUFFIXES)
ORIENTATION = 0x0112
"""EXIF's tag; Pillow fills it from XMP where a photo says it only there."""
SIDEWAYS = (5, 6, 7, 8)
"""The orientations of which width and height change places."""

MAX_PIXELS = 100_000_000
"""Larger pictures are refused unread: a 65,000 x 65,000 header needs 12 GB to decode."""

MAX_BYTES = 200_000_000
"""A photo has a tenth of that; whoever sends more wants to fill the memory."""

MAX_ASPECT = 8
"""A 1 x 10,000 strip resized by its shorter side would be gigabytes large."""

JPEG_START = b"\xff\xd8\xff"
COMMON_FRAMES = frozenset(b"\xc0\xc1\xc2")
"""The markers of baseline, extended and progressive JPEGs; all others are rare."""
BEFORE_FRAME = frozenset(b"\xc4\xdb\xdd\xfe" + bytes(range(0xE0, 0xF0)))
"""The markers of tables, comments and applications' data, which may stand before those."""

HEIC_STARTS = (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")
"""What such a file has from byte 4 on. AVIF has brands of its own, and Pillow reads it."""


class UnreadableImageError(CatdogError):
    """The bytes are not a picture that we can read whole."""


def decode(content: bytes, *, side_px: int | None = None) -> Image.Image:
    """Decode a picture's bytes into an upright RGB image.

    EXIF rotation is applied, transparency is laid over white, 16-bit depth is scaled
    to 8, and of an animation the first frame is taken.

    Args:
        content: of the file.
        side_px: how long the shorter side must be for what it is wanted for. A JPEG then comes
            reduced, in a fraction of the time; other formats come in full size.

    Raises:
        UnreadableImageError: empty, not a picture, truncated, or over `MAX_PIXELS`.
    """
    image = _open(content)
    with _decoder_errors():
        if side_px is not None and _is_common_jpeg(content):
            image.draft("RGB", (side_px, side_px))
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))


def check(content: bytes) -> tuple[int, int]:
    """Decode the picture to its last byte and return its upright (width, height) in pixels.

    Cheaper than `decode`: a JPEG is reconstructed at an eighth of its size, but every
    byte of it is still read, so damage is found all the same.

    Raises:
        UnreadableImageError: as `decode` does.
    """
    image = _open(content)
    size = _upright_size(image)
    with _decoder_errors():
        if _is_common_jpeg(content):
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
    return size


def upright_size(content: bytes) -> tuple[int, int]:
    """The upright (width, height) of a picture in pixels, as its header says.

    Raises:
        UnreadableImageError: it is no picture.
    """
    return _upright_size(_open(content))


def to_tensor(content: bytes) -> Tensor:
    """Decode a picture's bytes to an upright `(3, H, W) uint8` RGB tensor.

    JPEGs go through torchvision, which gives the pixels that Pillow gives, in less time;
    Pillow reads the rest, and says what is wrong with what can't be read.

    Raises:
        UnreadableImageError: as `decode` does.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2.functional import pil_to_tensor

    # What stands in XMP alone, of how the picture lies, Pillow knows and torchvision does not.
    xmp = _open(content).info.get("xmp", b"")
    if _is_common_jpeg(content) and b"Orientation" not in xmp:
        encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        with contextlib.suppress(RuntimeError):
            image = decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
            return _limit_aspect(cast("Tensor", image))
    return _limit_aspect(pil_to_tensor(decode(content)))


def load(path: str | Path) -> Tensor:
    """Decode the picture file at `path` to an upright `(3, H, W) uint8` RGB tensor.

    Raises:
        UnreadableImageError: naming the file, when it is missing or does not decode.
    """
    try:
        return to_tensor(Path(path).read_bytes())
    except OSError as error:
        raise UnreadableImageError(f"{path}: {error.strerror or error}") from error
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{path}: {error}") from error


def is_image_name(path: Path | str) -> bool:
    """Whether the name looks like a picture's; hidden files (`._cat.jpg`) do not."""
    name = os.path.basename(path)  # noqa: PTH119  Path takes five times as long for a million
    stem, _, suffix = name.rpartition(".")
    return stem != "" and not name.startswith(".") and f".{suffix.lower()}" in SUFFIXES


def too_large(size: int) -> str:
    """What is said of a file of more than `MAX_BYTES`."""
    return f"{size:,} bytes are more than the limit of {MAX_BYTES:,}"


@contextlib.contextmanager
def _decoder_errors() -> Iterator[None]:
    """Make one error of all that a decoder raises, and keep its warnings to ourselves."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # over damaged bytes nearly any, as any field may hold anything
        raise UnreadableImageError(f"does not decode: {error}") from error


def _open(content: bytes) -> Image.Image:
    if not content:
        raise UnreadableImageError("the file is empty")
    if len(content) > MAX_BYTES:
        raise UnreadableImageError(too_large(len(content)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _identify(content)
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"too large: {error}") from error
    except Exception as error:
        raise UnreadableImageError("not a picture in a format that can be read") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}"
        )
    return image


def _identify(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        if not content[4:].startswith(HEIC_STARTS):
            raise
    try:
        import pillow_heif
    except ImportError as error:
        raise UnreadableImageError(
            "a HEIC photo: install what reads it with `pip install pillow-heif` "
            "(or `pip install 'catdog[heic]'`)"
        ) from error
    pillow_heif.register_heif_opener()
    return Image.open(io.BytesIO(content))


def _is_common_jpeg(content: bytes) -> bool:
    """Whether libjpeg does with a picture what Pillow and torchvision take for granted.

    Pillow's `draft` writes past the end of its memory where the JPEG is lossless, as that has
    no smaller size.
    """
    if not content.startswith(JPEG_START):
        return False
    at = 2
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker = content[at + 1]
        if marker not in BEFORE_FRAME:
            return marker in COMMON_FRAMES
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return False


def _upright_size(image: Image.Image) -> tuple[int, int]:
    with _decoder_errors():
        turned = image.getexif().get(ORIENTATION) in SIDEWAYS
    return (image.height, image.width) if turned else image.size


def _limit_aspect(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    longest = MAX_ASPECT * min(height, width)
    if max(height, width) <= longest:
        return image
    from torchvision.transforms.v2.functional import center_crop

    return center_crop(image, [min(height, longest), min(width, longest)])


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit values at 255 when it converts, which turns photos white.
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    elif image.mode == "I":
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
