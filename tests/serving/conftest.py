"""The page, served in a thread, and photos to drop on it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from catdog.sample.drawing import draw_animal
from catdog.serving import app, server
from tests.conftest import encoded, tiny_classifier


@pytest.fixture(scope="module")
def model() -> server.ServedModel:
    return server.ServedModel(tiny_classifier(), "models:/catdog/Production", "7")


@pytest.fixture
def drawn(tmp_path) -> list[Path]:
    """Two drawn animals with EXIF data, and a text."""
    exif = Image.Exif()
    exif[0x010E] = "drawn"
    paths = [tmp_path / "cat.jpg", tmp_path / "dog.jpg", tmp_path / "letter.txt"]
    for label, path in enumerate(paths[:2]):
        path.write_bytes(encoded(draw_animal(label, Random(5)), exif=exif))
    paths[2].write_text("Dear cat,")
    return paths


@pytest.fixture(scope="module")
def page(model, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of the page, served in a thread, and the folder of its uploads."""
    pytest.importorskip("gradio", reason="the page needs the extra `app`")
    import uvicorn

    uploads = tmp_path_factory.mktemp("uploads")
    listener = server.listen("127.0.0.1", 0)
    served = uvicorn.Server(
        uvicorn.Config(app.web_app(model, "127.0.0.1", uploads), timeout_graceful_shutdown=1)
    )
    serving = threading.Thread(target=served.run, kwargs={"sockets": [listener]})
    serving.start()
    yield server.url_of(listener, "127.0.0.1"), uploads
    served.should_exit = True
    serving.join(20)
    assert not serving.is_alive()


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*.*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
