from __future__ import annotations

import io
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, features

from catdog.data import images
from catdog.data.images import UnreadableImageError, to_tensor
from tests.conftest import encoded, tiny_picture

MARKED = Image.new("RGB", (40, 24), "white")
MARKED.paste((220, 30, 30), (0, 0, 20, 12))  # the upper left quarter is red

MODERN = ["AVIF"] if features.check("avif") else []


def _is_red(picture: Image.Image) -> bool:
    """Whether its upper left corner is."""
    red, green, _ = picture.getpixel((3, 3))
    return red > 180 and green < 90


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = MARKED.transpose(undo[orientation]) if orientation in undo else MARKED
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, quality=95, exif=exif)
    upright = images.decode(content)
    assert upright.size == MARKED.size == images.check(content) == images.upright_size(content)
    assert _is_red(upright)


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *((mode, "JPEG") for mode in ("L", "CMYK")),
        *((mode, "PNG") for mode in ("P", "RGBA", "LA", "1")),
        *(("RGB", form) for form in ("WEBP", "GIF", "BMP", "TIFF", *MODERN)),
    ],
)
def test_every_common_format_and_mode_becomes_rgb(mode, form):
    picture = tiny_picture("cat", 1)
    decoded = images.decode(encoded(picture.convert(mode), form))
    assert (decoded.mode, decoded.size) == ("RGB", picture.size)


@pytest.mark.parametrize(
    ("form", "kind", "white"),
    [
        *((form, np.uint16, 2**bits) for form in ("PNG", "TIFF") for bits in (8, 10, 12, 14, 16)),
        ("TIFF", np.int32, 2**31),
        ("TIFF", np.float32, 1),
        ("TIFF", np.float32, 1000),
    ],
)
def test_grey_values_of_more_than_a_byte_are_scaled_by_their_range(form, kind, white):
    grey = np.array([[0, white / 2, white - (kind != np.float32)]])
    content = encoded(Image.fromarray(grey.astype(kind)), form)
    assert np.asarray(images.decode(content))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, -5])
def test_grey_values_that_are_no_brightness_are_refused(value):
    content = encoded(Image.fromarray(np.full((4, 4), value, dtype=np.float32)), "TIFF")
    for read in (images.check, images.decode, to_tensor):
        with pytest.raises(UnreadableImageError, match="no brightness"):
            read(content)


@pytest.mark.parametrize(
    ("mode", "form", "options"),
    [
        ("RGBA", "PNG", {}),
        *((mode, form, {"transparency": 0}) for mode, form in (("P", "GIF"), ("L", "PNG"))),
    ],
)
def test_what_is_transparent_is_laid_over_white(mode, form, options):
    clear = encoded(Image.new(mode, (8, 8), 0), form, **options)
    assert images.decode(clear).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(form):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    content = encoded(first, form, save_all=True, append_images=[second])
    red, green, blue = images.decode(content).getpixel((0, 0))
    assert red > 250
    assert max(green, blue) < 5


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def _heic(picture: Image.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(picture).save(stream, quality=95, **options)
    return stream.getvalue()


def test_a_heic_photo_becomes_rgb():
    picture = tiny_picture("cat", 1, (64, 40))
    decoded = images.decode(_heic(picture))
    assert (decoded.mode, decoded.size) == ("RGB", picture.size)
    assert np.abs(np.asarray(decoded, dtype=float) - np.asarray(picture)).mean() < 8


def test_a_heic_photo_is_turned_upright_once():
    # Phones write the turn twice: for the decoder, and as EXIF for older programs.
    exif = Image.Exif()
    exif[0x0112] = 6
    large = MARKED.resize((160, 96), Image.Resampling.NEAREST)
    content = _heic(large.transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes())
    upright = images.decode(content)
    assert upright.size == large.size == images.check(content)
    assert _is_red(upright)


def test_without_the_library_a_heic_photo_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "OPEN", {k: v for k, v in Image.OPEN.items() if "HEI" not in k})
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if "HEI" not in name])
    with pytest.raises(UnreadableImageError, match=r"a HEIC photo: .* `pip install pillow-heif`"):
        images.decode(HEIC)


@pytest.mark.parametrize("read", [images.decode, images.check, to_tensor])
@pytest.mark.parametrize("form", ["JPEG", "PNG", *MODERN])
def test_a_truncated_file_is_refused(read, form):
    noise = Image.effect_noise((200, 160), 80).convert("RGB")
    content = encoded(noise, form)
    with pytest.raises(UnreadableImageError):
        read(content[: int(0.9 * len(content))])


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"<html><body>Not found</body></html>", "not a picture")],
)
def test_what_is_no_picture_is_refused_with_the_reason(content, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        images.decode(content)


def _huge(form: str) -> bytes:
    """A picture whose header says that it has 65,000 x 65,000 pixels."""
    content = bytearray(encoded(Image.new("RGB", (8, 8)), form))
    if form == "BMP":
        content[18:26] = (65_000).to_bytes(4, "little") * 2
    elif form == "JPEG":
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = (65_000).to_bytes(2, "big") * 2
    else:
        content[16:24] = (65_000).to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("form", ["BMP", "JPEG", "PNG"])
def test_an_absurdly_large_picture_is_refused_before_it_is_decoded(form):
    with pytest.raises(UnreadableImageError, match=r"65000 x 65000|too large"):
        images.decode(_huge(form))


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("a.jpg", True), ("B.JPEG", True), ("._a.jpg", False), ("notes.txt", False), ("jpg", False)],
)
def test_pictures_are_known_by_their_names(name, is_one):
    assert images.is_image_name(name) is is_one


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_small_decode_is_upright_and_no_smaller_than_wanted(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(MARKED.resize((800, 480)), quality=95, exif=exif)
    small = images.decode(content, side_px=64)
    assert (small.width > small.height) == (orientation == 1)
    assert 64 <= min(small.size) < 480
