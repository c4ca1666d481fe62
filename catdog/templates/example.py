"""Label photos with this folder alone; needs onnxruntime, numpy and pillow.

python example.py PHOTO...
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

Image.MAX_IMAGE_PIXELS = None  # phones take 200 million
HERE = Path(__file__).resolve().parent
WANTED = json.loads((HERE / "preprocessing.json").read_text(encoding="utf-8"))
SESSION = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])


def classify(path: str | Path) -> dict[str, str | float]:
    """The answer for the photo at `path`: label, probability of the second class, familiarity."""
    with Image.open(path) as photo:
        pixels = prepare(upright(photo))
    probability, familiarity = (
        float(out[0]) for out in SESSION.run(None, {"images": pixels[None]})
    )
    label = WANTED["classes"][int(probability > 0.5)]
    if familiarity < WANTED["reject_below"]:
        label = "neither"
    return {"label": label, f"p_{WANTED['classes'][1]}": probability, "familiarity": familiarity}


def upright(photo: Image.Image) -> Image.Image:
    """The photo as its EXIF says that it was held."""
    photo.load()
    try:  # not ImageOps.exif_transpose: it writes EXIF anew, which odd numbers in it forbid
        orientation = photo.getexif().get(0x0112)
    except Exception:
        return photo
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    if photo.format == "TIFF" or orientation not in turns:  # Pillow has turned a TIFF
        return photo
    return photo.transpose(turns[orientation])


def prepare(photo: Image.Image) -> np.ndarray:
    """Resize as `crop_mode` says, cut out the centre: `(3, S, S) uint8`."""
    if photo.mode[0] in "IF":  # more than 8 bits of grey
        grey = np.asarray(photo, dtype=np.float32)
        bits = next(bits for bits in (8, 10, 12, 14, 16, 31) if grey.max() < 2**bits)
        white = max(grey.max(), 1) if photo.mode == "F" else 2**bits
        photo = Image.fromarray((grey * (256 / white)).clip(0, 255).astype(np.uint8))
    photo = photo.convert("RGBA")  # what is transparent lies over white
    photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
    longest = WANTED["max_aspect"] * min(photo.size)
    photo = centre(photo, min(photo.width, longest), min(photo.height, longest))
    side, mode = WANTED["resize_px"], WANTED["crop_mode"]
    if mode == "squash":
        size = [side, side]
    elif mode == "border":
        size = [max(1, round(side * edge / max(photo.size))) for edge in photo.size]
    else:
        size = [int(side * edge / min(photo.size)) for edge in photo.size]
    photo = photo.resize(size, getattr(Image.Resampling, WANTED["interpolation"].upper()))
    if mode == "border":
        colour = tuple(round(255 * mean) for mean in WANTED["mean"])
        square = Image.new("RGB", [max(edge, WANTED["crop_px"]) for edge in size], colour)
        square.paste(
            photo, ((square.width - photo.width) // 2, (square.height - photo.height) // 2)
        )
        photo = square
    return np.asarray(centre(photo, WANTED["crop_px"], WANTED["crop_px"])).transpose(2, 0, 1)


def centre(photo: Image.Image, width: float, height: float) -> Image.Image:
    """The middle of a photo."""
    left, top = round((photo.width - width) / 2), round((photo.height - height) / 2)
    return photo.crop((left, top, left + width, top + height))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(name, classify(name))
