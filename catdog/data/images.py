"""Bytes of a picture file → an upright RGB picture. The only place that decodes.

Whether a picture can be read is decided by Pillow alone, which needs no torch: preparing data
must not wait for it. What `check` accepts, all others here accept, with the same pixels.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from catdog import CatdogError

if TYPE_CHECKING:
    from torch import Tensor

# They name no file, and `catch_warnings` is not for several threads.
warnings.filterwarnings("ignore", module="PIL")

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".mpo")
MODERN_SUFFIXES = (".avif", ".heic", ".heif", ".webp")
OTHER_SUFFIXES = (".bmp", ".gif", ".png", ".ppm", ".tif", ".tiff")
SUFFIXES = frozenset(JPEG_SUFFIXES + MODERN_SUFFIXES + OTHER_SUFFIXES)
FORMATS = ("PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000")
"""Beside JPEG. Of what else Pillow opens, some is decoded in Python, or by another program."""

MAX_PIXELS = 100_000_000
"""More are not decoded: a 65,000 x 65,000 header asks for 12 GB."""
MAX_JPEG_PIXELS = 250_000_000
"""Phones take 200 million. Such a JPEG comes with half its width and height."""
LARGE_PIXELS = 25_000_000
"""Larger pictures are decoded one at a time, each with some ten bytes a pixel."""
MAX_BYTES = 200_000_000
"""A photo has a tenth of that; whoever sends more wants to fill the memory."""
MAX_SCANS = 100
"""Of a JPEG. A dozen are usual; each takes the time of the whole picture, and few bytes."""
MAX_ASPECT = 8
"""A 1 x 10,000 strip resized by its shorter side would be gigabytes large."""

JPEG_START = b"\xff\xd8\xff"
BASELINE, EXTENDED, PROGRESSIVE, END, SCAN = 0xC0, 0xC1, 0xC2, 0xD9, 0xDA
"""Markers of a JPEG; the first three begin its frame, which has the picture's size."""
COMMON_FRAMES = (BASELINE, EXTENDED, PROGRESSIVE)
"""Of others, Pillow's `draft` writes past the end of its memory: no lossless JPEG comes smaller."""
BEFORE_FRAME = frozenset(b"\xc4\xdb\xdd\xfe" + bytes(range(0xE0, 0xF0)))
"""The markers of tables, comments and applications' data, which may stand before a frame."""
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")

HEIC_STARTS = (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")
"""What such a file has from byte 4 on. AVIF has brands of its own, and Pillow reads it."""
BOX_SIZE = re.compile(rb"ispe\0{4}(.{4})(.{4})", re.DOTALL)
"""Width and height in the header of an AVIF or a HEIC."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its orientation."""
SIDEWAYS = (5, 6, 7, 8)
"""The orientations of which width and height change places."""
FLIPS = {2: (-1,), 3: (-2, -1), 4: (-2,), 5: (), 6: (-1,), 7: (-2, -1), 8: (-2,)}
"""The axes of a tensor that are reversed after that."""
GREY_BITS = (8, 10, 12, 14, 16, 31)
"""How many bits a grey value may have that needs more than a byte."""

_one_large = threading.Lock()


class UnreadableImageError(CatdogError):
    """The bytes are not a picture that we can read whole."""


def decode(content: bytes, *, side_px: int | None = None) -> Image.Image:
    """Decode a picture's bytes into an upright RGB image.

    EXIF rotation is applied, transparency is laid over white, grey values of more than 8 bits
    are scaled to 8, and of an animation the first frame is taken.

    Args:
        content: of the file.
        side_px: how long the shorter side must be for what it is wanted for. A JPEG then comes
            reduced, in a fraction of the time; other formats come in full size.

    Raises:
        UnreadableImageError: empty, not a picture, truncated, or over `MAX_PIXELS`.
    """
    return _decode(*_open(content), side_px)


def check(content: bytes) -> tuple[int, int]:
    """Decode the picture to its last byte and return its upright (width, height) in pixels.

    Cheaper than `decode`: a JPEG is reconstructed at an eighth of its size, but every
    byte of it is still read, so damage is found all the same.

    Raises:
        UnreadableImageError: as `decode` does.
    """
    image, frame = _open(content)
    if frame not in COMMON_FRAMES:
        return _decode(image, frame).size
    size = _upright_size(image)
    _decode(image, frame, max(1, min(size) // 8))
    return size


def upright_size(content: bytes) -> tuple[int, int]:
    """The upright (width, height) of a picture in pixels, as its header says.

    Raises:
        UnreadableImageError: it is no picture.
    """
    return _upright_size(_open(content)[0])


def to_tensor(content: bytes) -> Tensor:
    """Decode a picture's bytes to an upright `(3, H, W) uint8` RGB tensor.

    JPEGs go through torchvision, which gives the pixels that Pillow gives, in less time;
    Pillow reads the rest, and says what is wrong with what can't be read.

    Raises:
        UnreadableImageError: as `decode` does.
    """
    image, frame = _open(content)
    if frame in COMMON_FRAMES and image.mode != "CMYK" and _pixels(image) <= MAX_PIXELS:
        with contextlib.suppress(RuntimeError), _its_turn(image):
            return _limit_aspect(_jpeg_tensor(content, _orientation(image)))
    from torchvision.transforms.v2.functional import pil_to_tensor

    return _limit_aspect(pil_to_tensor(_decode(image, frame)))


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
    """Make one error of all that a decoder raises."""
    try:
        yield
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"too large: {error}") from error
    except MemoryError as error:
        raise UnreadableImageError("there is not enough memory to decode it") from error
    except Exception as error:  # over damaged bytes nearly any, as any field may hold anything
        raise UnreadableImageError(f"does not decode: {error}") from error


def _its_turn(image: Image.Image) -> contextlib.AbstractContextManager[object]:
    return _one_large if _pixels(image) > LARGE_PIXELS else contextlib.nullcontext()


def _open(content: bytes) -> tuple[Image.Image, int]:
    """The picture, not yet decoded, and the marker of its frame if it is a JPEG."""
    if not content:
        raise UnreadableImageError("the file is empty")
    if len(content) > MAX_BYTES:
        raise UnreadableImageError(too_large(len(content)))
    with _decoder_errors():
        image = _identify(content)
    frame = _jpeg_frame(content)
    _check_work(image, frame, content)
    return image, frame


def _identify(content: bytes) -> Image.Image:
    if content.startswith(JPEG_START):  # `open` refuses what has more than 179 million pixels
        return JpegImagePlugin.JpegImageFile(io.BytesIO(content))
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        if not content[4:].startswith(HEIC_STARTS):
            raise UnreadableImageError(_why_not_opened(content)) from error
    try:
        import pillow_heif
    except ImportError as error:
        raise UnreadableImageError(
            "a HEIC photo: install what reads it with `pip install pillow-heif` "
            "(or `pip install 'catdog[heic]'`)"
        ) from error
    pillow_heif.register_heif_opener()
    return Image.open(io.BytesIO(content), formats=["HEIF"])


def _why_not_opened(content: bytes) -> str:
    """What is said of what no decoder opens: some refuse large pictures without a reason."""
    for box in BOX_SIZE.findall(content[:65_536]):
        width, height = map(int.from_bytes, box)
        if width * height > MAX_PIXELS:
            return _too_many_pixels(width, height, MAX_PIXELS)
    if content[8:12] == b"WEBP":
        return "does not decode: it is damaged, or there is not enough memory"
    return "not a picture in a format that can be read"


def _check_work(image: Image.Image, frame: int, content: bytes) -> None:
    """Refuse a picture that would take far more time or memory than a photo does."""
    limit = MAX_JPEG_PIXELS if frame in (BASELINE, EXTENDED) else MAX_PIXELS
    if _pixels(image) > limit:
        raise UnreadableImageError(_too_many_pixels(*image.size, limit))
    if frame not in (0, BASELINE, EXTENDED):
        markers = takewhile(lambda marker: marker != END, _jpeg_markers(content))
        if sum(marker == SCAN for marker in markers) > MAX_SCANS:
            raise UnreadableImageError(f"a JPEG of more than {MAX_SCANS} scans")
    if image.info.get("compression") == "group4":
        # What libtiff can't decode of it stays what the memory held, and nobody is told.
        raise UnreadableImageError("a fax (TIFF of group 4), not a photo")


def _too_many_pixels(width: int, height: int, limit: int) -> str:
    return f"{width} x {height} pixels are more than the limit of {limit:,}"


def _pixels(image: Image.Image) -> int:
    return image.width * image.height


def _jpeg_markers(content: bytes) -> Iterator[int]:
    """The markers of a JPEG's segments, found as libjpeg finds them."""
    at = 2
    while found := MARKER.search(content, at):
        yield found[1][0]
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2])


def _jpeg_frame(content: bytes) -> int:
    """The marker of a JPEG's frame, or of what is odd before it; 0 where there is none."""
    if not content.startswith(JPEG_START):
        return 0
    return next((one for one in _jpeg_markers(content) if one not in BEFORE_FRAME), 0)


def _decode(image: Image.Image, frame: int, side_px: int | None = None) -> Image.Image:
    with _decoder_errors(), _its_turn(image):
        if frame in COMMON_FRAMES:
            wanted = min(image.size) if side_px is None else side_px
            if _pixels(image) > MAX_PIXELS:
                wanted = min(wanted, min(image.size) // 2)
            image.draft("RGB", (wanted, wanted))
        image.load()
        orientation = _orientation(image)
        image = _to_rgb(image)
        return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _jpeg_tensor(content: bytes, orientation: int) -> Tensor:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    image = cast("Tensor", decode_jpeg(encoded, mode=ImageReadMode.RGB))
    if orientation in SIDEWAYS:
        image = image.mT
    return image.flip(FLIPS[orientation]) if orientation in FLIPS else image


def _orientation(image: Image.Image) -> int:
    """A number from 1 to 8; 1 where EXIF is damaged, which is no fault of the picture."""
    if image.format == "TIFF":  # Pillow turns it
        return 1
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        return 1  # most of them: to look would take a hundredth of their time
    with contextlib.suppress(Exception):
        # Pillow fills it from XMP where a photo says it only there.
        found = image.getexif().get(ExifTags.Base.Orientation)
        return found if found in TURNS else 1
    return 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return image.size[::-1] if _orientation(image) in SIDEWAYS else image.size


def _limit_aspect(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    longest = MAX_ASPECT * min(height, width)
    if max(height, width) <= longest:
        return image
    from torchvision.transforms.v2.functional import center_crop

    return center_crop(image, [min(height, longest), min(width, longest)])


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_grey(np.asarray(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_grey(values: NDArray[Any]) -> Image.Image:
    """Grey values `(H, W)` of more than a byte, scaled by their range: 12 bits may lie in 16."""
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        white = max(high, 1.0)
    else:
        white = 2.0 ** next(bits for bits in GREY_BITS if high < 2**bits)
    if not np.isfinite([low, high]).all() or max(-low, 0) > high:
        raise ValueError("its grey values are no brightness")
    grey = np.multiply(values, 256 / white, dtype=np.float32)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))
