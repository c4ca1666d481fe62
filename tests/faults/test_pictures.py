"""Pictures that are rare, damaged, or made to keep a machine busy: one answer, and soon."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from catdog.data import images
from catdog.data.images import UnreadableImageError, to_tensor
from catdog.evaluation.slices import look_at
from catdog.reporting.report import thumbnail
from tests.conftest import encoded, tiny_picture

READERS = (
    images.decode,
    images.check,
    images.upright_size,
    lambda content: images.decode(content, side_px=16),
    to_tensor,
    thumbnail,
    look_at,
)
PICTURE = tiny_picture("dog", 3, (48, 40))
FORMS = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "MPO"]
FORMS += ["AVIF"] if features.check("avif") else []
FORMS += ["HEIF"] if importlib.util.find_spec("pillow_heif") else []
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"]
MAKER = b"the maker of the camera"


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = orientation, MAKER.decode(), 72.0
    exif.get_ifd(0x8769)[0x9204] = -0.5
    return exif.tobytes()


def _drawn() -> dict[str, bytes]:
    """PICTURE in every format and mode that Pillow writes, with and without EXIF."""
    if "HEIF" in FORMS:
        import pillow_heif

        pillow_heif.register_heif_opener()
    drawn = {}
    for form in FORMS:
        for mode in MODES:
            for orientation in (None, 5, 6):
                options = {} if orientation is None else {"exif": _exif(orientation)}
                name = f"{form} {mode} {orientation or ''}".strip()
                # Not what can't be written, nor what no decoder of its format takes.
                with contextlib.suppress(OSError, ValueError, KeyError):
                    drawn[name] = encoded(_in_mode(mode), form, **options)
    drawn["JPEG progressive"] = encoded(PICTURE, progressive=True, exif=_exif(6))
    for packing in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        drawn[f"TIFF {packing}"] = encoded(PICTURE, "TIFF", compression=packing)
    return drawn


def _in_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) << 4)
    way = {"PA": "P", "I": "L", "F": "L"}.get(mode, "RGB")  # no mode becomes all others at once
    return PICTURE.convert(way).convert(mode)


DRAWN = _drawn()
for _read in READERS:  # what they import counts for none of the examples
    _read(DRAWN["JPEG RGB"])


def _answers(content: bytes) -> list[object]:
    answers: list[object] = []
    for read in READERS:
        try:
            answers.append(read(content))
        except UnreadableImageError as error:
            answers.append(error)
    return answers


@pytest.mark.parametrize("name", DRAWN)
def test_whatever_pillow_writes_is_read_by_all_alike(name):
    picture, checked, said, small, tensor, *_ = _answers(DRAWN[name])
    assert isinstance(picture, Image.Image), picture
    assert picture.size == checked == said
    assert small.size == picture.size or min(small.size) >= 16
    pixels = tensor.permute(1, 2, 0).numpy().astype(int)
    assert np.abs(pixels - np.asarray(picture)).max() <= 3


edits = st.lists(
    st.tuples(st.integers(0, 300) | st.integers(0, 9999), st.binary(max_size=8), st.integers(0, 8)),
    max_size=8,
)
exif_edits = st.lists(st.tuples(st.integers(-90, 90), st.integers(0, 255)), max_size=4)


@settings(max_examples=300, deadline=5_000)
@given(name=st.sampled_from(list(DRAWN)), edits=edits, exif_edits=exif_edits)
@example(name="JPEG RGB 6", edits=[], exif_edits=[])
def test_damaged_pictures_are_read_by_all_or_by_none_in_short_time(name, edits, exif_edits):
    content = bytearray(DRAWN[name])
    middle = content.find(MAKER)
    for where, value in exif_edits if middle >= 0 else []:
        content[(middle + where) % len(content)] = value
    for where, put, taken in edits:
        at = where % (len(content) + 1)
        content[at : at + taken] = put
    picture, checked, _said, *others = _answers(bytes(content))
    refused = [isinstance(one, UnreadableImageError) for one in (picture, checked, *others)]
    assert all(refused) or not any(refused)
    assert any(refused) or picture.size == checked


def test_a_damaged_number_in_exif_spoils_no_photo():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9204] = -0.5  # written as a double, made a fraction below: -1/0
    content = encoded(PICTURE, exif=exif)
    double = struct.pack(">HHId", 0x9204, 12, 1, 0)[:8]
    content = content.replace(double, struct.pack(">HHI", 0x9204, 10, 1))
    content = content.replace(struct.pack(">d", -0.5), struct.pack(">ii", -1, 0))
    assert struct.pack(">ii", -1, 0) in content
    assert images.check(content) == images.decode(content).size == PICTURE.size[::-1]
    assert thumbnail(content).size == PICTURE.size[::-1]


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _rare_jpeg(frame: int, size: tuple[int, int], components: int) -> bytes:
    """A grey JPEG with another marker of its frame than the usual ones; 0xC3 is lossless."""
    ids = range(1, components + 1)
    header = struct.pack(">BHHB", 8, *reversed(size), components)
    header += b"".join(bytes([number, 0x11, 0]) for number in ids)
    scan = bytes([components]) + b"".join(bytes([number, 0]) for number in ids) + b"\1\0\0"
    tables = _segment(0xC4, bytes([0, 1, *[0] * 16]))
    data = bytes(size[0] * size[1] * components // 8 + 1)
    return (
        b"\xff\xd8" + _segment(frame, header) + tables + _segment(0xDA, scan) + data + b"\xff\xd9"
    )


@pytest.mark.parametrize("frame", [0xC3, 0xC5, 0xC6, 0xC7, *range(0xC9, 0xCC), 0xCD, 0xCE, 0xCF])
def test_a_jpeg_of_a_rare_kind_never_ends_the_process(frame):
    for size, components in [((640, 480), 3), ((8, 8), 1), ((3000, 1), 3)]:
        _answers(_rare_jpeg(frame, size, components))


@pytest.mark.parametrize("components", [1, 3])
def test_a_lossless_jpeg_is_used(components):
    content = _rare_jpeg(0xC3, (64, 48), components)
    assert images.check(content) == images.decode(content, side_px=8).size == (64, 48)
    assert to_tensor(content).shape == (3, 48, 64)


@pytest.mark.parametrize("count", [3, 3_000])
def test_the_scans_of_a_jpeg_are_bounded(count):
    content = encoded(PICTURE.convert("L"), progressive=True)
    last = content.rindex(b"\xff\xda")
    content = content[:last] + content[last:-2] * count + b"\xff\xd9"
    refused = [isinstance(one, UnreadableImageError) for one in _answers(content)]
    assert set(refused) == {count > images.MAX_SCANS}


def test_a_photo_of_a_phone_with_200_megapixels_is_read_reduced():
    size = (16_384, 12_288)
    content = encoded(Image.new("L", size, 200))
    assert images.check(content) == size
    assert to_tensor(content).shape == (3, size[1] // 2, size[0] // 2)


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A small PNG with more chunks after its header."""
    content = encoded(PICTURE, "PNG")
    more = [
        struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks
    ]
    return content[:33] + b"".join(more) + content[33:]


@pytest.mark.parametrize(("name", "start"), [(b"zTXt", b"Comment\0\0"), (b"iCCP", b"icc\0\0")])
def test_text_that_swells_in_a_png_is_not_unpacked_without_end(name, start):
    bomb = _png((name, start + zlib.compress(bytes(50_000_000))))
    assert {type(one) for one in _answers(bomb)} <= {UnreadableImageError}


def test_other_formats_that_pillow_knows_are_not_opened():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n"
    stream = io.BytesIO()
    PICTURE.save(stream, "PCX")
    for content in (postscript, stream.getvalue()):
        with pytest.raises(UnreadableImageError, match="not a picture in a format"):
            images.check(content)


def test_want_of_memory_is_told_as_such(monkeypatch):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", no_memory)
    monkeypatch.setattr(images.JpegImagePlugin.JpegImageFile, "load", no_memory)
    with pytest.raises(UnreadableImageError, match="not enough memory"):
        images.check(DRAWN["JPEG RGB"])


@pytest.mark.skipif("AVIF" not in FORMS, reason="needs AVIF")
def test_of_an_avif_that_is_too_large_the_size_is_told():
    content = bytearray(DRAWN["AVIF RGB"])
    at = content.index(b"ispe") + 8
    content[at : at + 8] = struct.pack(">II", 17_000, 17_000)
    with pytest.raises(UnreadableImageError, match="17000 x 17000 pixels are more than"):
        images.check(bytes(content))
