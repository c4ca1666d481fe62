"""Photos dropped on a web page → label, how sure, and why, shown by Gradio's own parts.

Gradio carries the files, byte for byte as they were chosen, to `Classifier`; the page asks
nothing of any other machine. Uploads lie in a folder of their own until the page is closed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import tempfile
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from catdog import CatdogError, Classes
from catdog.data.classes import one
from catdog.data.images import to_tensor
from catdog.inference import explain
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import Options, Prediction, says_positive
from catdog.serving.server import LOOPBACK, ServedModel, guards, listen, run, url_of

if TYPE_CHECKING:  # Gradio is an extra, and slow to import
    import gradio
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

LARGEST_FILE = "50mb"
MAX_BODY_BYTES = 500 * 2**20
"""Of all photos that are sent at once: they go to the disk."""
MOST_FILES = 50
THUMBNAIL_PX = 640

Pictures = list[tuple[Image.Image, str]]
"""What a gallery shows: pictures with their captions."""


def require_gradio() -> None:
    """Import Gradio, which is an extra.

    Raises:
        CatdogError: it is not installed.
    """
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise CatdogError(
            f"the page needs gradio: pip install 'catdog[app]', or pip install -e '.[app]' "
            f"in a checkout ({error})."
        ) from error


def facts(model: ServedModel) -> dict[str, Any]:
    """Which model answers, and what it says of itself."""
    return {"model": model.uri, "version": model.version, **asdict(model.classifier.about)}


def question(classes: Classes) -> str:
    """What the page answers: "Cat or dog?"."""
    return f"{_plain(' or '.join(classes)).capitalize()}?"


def _plain(text: str) -> str:
    """A text in which no sign means anything to Markdown or HTML."""
    return re.sub(r"[^\w ]", "", text)


Shown = tuple[str, Pictures, list[list[str]]]
"""A sentence, pictures, and a row for each file."""


def show(classifier: Classifier, paths: Sequence[Path], options: Options) -> Shown:
    """What the page says of these files, each photo followed by its heat map.

    A file that can't be read has a row that says why, and no picture.
    """
    if len(paths) > MOST_FILES:
        return f"{len(paths)} files are too many: give at most {MOST_FILES} at once.", [], []
    classes, rows = classifier.about.classes, []
    pictures: Pictures = []
    answered = 0
    for path, answer in classifier.stream(paths, Path.read_bytes, options):
        rows.append(_row(path.name, answer))
        if answer.error:
            continue
        answered += 1
        pictures.append((_thumbnail(path), _caption(path.name, answer)))
        with contextlib.suppress(CatdogError):  # this backbone has no heat map
            heat = explain.overlay(classifier, path.read_bytes(), answer)
            favoured = classes[says_positive(answer, classes)]
            pictures.append((heat, f"what speaks for {one(favoured)}"))
    summary = f"{answered} of {len(paths)} photos answered." if paths else ""
    return summary, pictures, rows


def build(model: ServedModel) -> gradio.Blocks:
    """The page, not yet served."""
    import gradio as gr

    def answer(paths: list[str] | None, reject: bool, threshold: float) -> Shown:
        options = Options(reject=reject, threshold=threshold)
        return show(model.classifier, [Path(path) for path in paths or []], options)

    classes = model.classifier.about.classes
    asked, positive = question(classes), _plain(one(classes[1]))
    page = gr.Blocks(
        title=f"catdog: {asked.lower()}",
        analytics_enabled=False,
        delete_cache=(3600, 24 * 3600),  # seconds; on a page that is never closed
    )
    with page:
        gr.Markdown(f"# {asked}\n\n{HEADING}")
        photos = gr.File(label="Photos", file_count="multiple", height=200, elem_id="photos")
        with gr.Row():
            reject = gr.Checkbox(
                value=True, label="May answer neither", info="for photos unlike all it knows"
            )
            threshold = gr.Slider(
                *(0, 1, 0.5),
                step=0.01,
                label="Threshold",
                info=f"{positive} above this probability",
            )
        summary = gr.Markdown()
        gallery = gr.Gallery(
            label="Answers", columns=4, object_fit="contain", format="jpeg", buttons=["fullscreen"]
        )
        headers = ["photo", "label", "sure", f"probability of {positive}", "familiarity", "error"]
        table = gr.Dataframe(headers=headers, label="Numbers", interactive=False, wrap=True)
        gr.Markdown(MEANING)
        gr.Dataframe(
            [[name, str(value)] for name, value in facts(model).items()],
            headers=["fact", "value"],
            label="The model that answers",
            interactive=False,
        )
        gr.on(
            [photos.change, reject.change, threshold.change],
            answer,
            [photos, reject, threshold],
            [summary, gallery, table],
            api_name="answer",
            # One after the other: the answer to the last change comes last.
            trigger_mode="multiple",
            concurrency_limit=1,
            show_progress="minimal",
        )
    return page


def web_app(model: ServedModel, host: str, uploads: Path) -> FastAPI:
    """The page as an ASGI app that keeps uploads in the folder `uploads`."""
    require_gradio()
    import gradio as gr
    from fastapi import FastAPI

    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    # The fonts of this machine: others would be asked of their makers.
    text, code = gr.themes.Font("system-ui"), gr.themes.Font("ui-monospace")
    mounted: FastAPI = gr.mount_gradio_app(
        FastAPI(openapi_url=None, middleware=guards(host, MAX_BODY_BYTES)),
        build(model),
        path="/",
        server_name=host,
        footer_links=[],
        run_history=False,
        max_file_size=LARGEST_FILE,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gr.themes.Default(font=[text], font_mono=[code]),
        head=HEAD,
    )
    return mounted


def serve(model: ServedModel, host: str, port: int, *, open_browser: bool) -> None:
    """Serve the page until Ctrl-C, and say where it is.

    Raises:
        CatdogError: the host is no address of this machine, or the port is taken.
    """
    listener = listen(host, port)
    url = url_of(listener, host)
    if host not in LOOPBACK:
        logger.warning(f"--host {host} lets everyone who can reach this machine use the page")
    with tempfile.TemporaryDirectory(prefix="catdog-page-") as uploads:
        app = web_app(model, host, Path(uploads))
        logger.info(f"the page is at {url} (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(url)  # the socket listens already: the browser waits for the page
        run(app, listener, grace_s=1)


def _row(name: str, answer: Prediction) -> list[str]:
    """What the table says of a file."""
    if answer.error:
        return [name, "", "", "", "", answer.error]
    numbers = f"{answer.p_positive:.4f}", f"{answer.familiarity:.3f}"
    return [name, answer.label, _confidence(answer), *numbers, ""]


def _caption(name: str, answer: Prediction) -> str:
    sure = f", {_confidence(answer)} sure" if _confidence(answer) else ""
    return f"{answer.label}{sure}: {name}"


def _confidence(answer: Prediction) -> str:
    return "" if math.isnan(answer.confidence) else f"{answer.confidence:.1%}"


def _thumbnail(path: Path) -> Image.Image:
    from torchvision.transforms.v2.functional import to_pil_image

    picture: Image.Image = to_pil_image(to_tensor(path.read_bytes()))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return picture


HEADING = """Drop photos below, choose them, or paste one with Ctrl+V. They go to the program that
runs this page, and nowhere else."""

MEANING = """Familiarity is the share of validation photos that look less than this one like what
the model was made for. The probability takes for granted that it is one of the two."""

HEAD = """<script>
// A pasted photo takes the way of a chosen one: the file itself, not a copy drawn anew.
document.addEventListener("paste", (event) => {
  const input = document.querySelector('#photos input[type="file"]');
  const files = event.clipboardData ? event.clipboardData.files : [];
  if (!input || files.length === 0) return;
  event.preventDefault();
  const taken = new DataTransfer();
  for (const file of files) taken.items.add(file);
  input.files = taken.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
</script>"""
