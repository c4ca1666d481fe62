"""A figure as the files that MLflow's UI sets beside those of other runs, step by step."""

from __future__ import annotations

import io
import uuid
from typing import TYPE_CHECKING

import numpy as np
from mlflow.tracking.multimedia import compress_image_size
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image_files(figure: Figure, key: str, step: int, *, run_id: str, ms: int) -> dict[str, bytes]:
    """The artifacts, by name, that `mlflow.log_image` would log of a figure.

    The UI reads key, step and time, in milliseconds, from their names. With the same time a
    picture that is logged again takes its own place.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    which = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id}/{key}/{step}")
    name = f"images/{key}+step+{step}+timestamp+{ms}+{which}"
    return {
        f"{name}.png": _encoded(picture, "png"),
        f"{name}+compressed.webp": _encoded(compress_image_size(picture), "webp"),
    }


def _encoded(picture: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form)
    return stream.getvalue()
