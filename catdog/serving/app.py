"""Photos dropped on a web page → a card for each: label, how sure, and why.

Gradio carries the files, byte for byte as they were chosen, to `Classifier`; the page asks
nothing of any other machine. Uploads lie in a folder of their own until the page is closed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import tempfile
import webbrowser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from catdog import CatdogError, Classes
from catdog.data.classes import one
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import Options
from catdog.serving.cards import CSS, facts_html, show

if TYPE_CHECKING:  # Gradio is an extra, and slow to import
    import gradio
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

LARGEST_FILE = "50mb"
UPLOAD, UPLOAD_BYTES = "/gradio_api/upload", 500 * 2**20
"""Where photos are sent, and the most bytes of all that are sent at once: they go to the disk."""
OTHER_BYTES = 2**20
"""Of everything else that is sent to the page: it names photos and settings."""
LOOPBACK = ("127.0.0.1", "localhost")
KEEP_SECONDS = 24 * 3600
"""How long an upload is kept on a page that is never closed."""


@dataclass(frozen=True)
class Model:
    """A classifier, the URI that was asked for, and the version it stood for when loaded."""

    classifier: Classifier
    uri: str
    version: str


def require_gradio() -> None:
    """Import Gradio, with its reports to its makers switched off.

    Raises:
        CatdogError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise CatdogError(
            f"the page needs gradio: pip install 'catdog[app]', or pip install -e '.[app]' "
            f"in a checkout ({error})."
        ) from error


def load(model_uri: str, *, device: str = "auto") -> Model:
    """The model that a URI names, and which version that is just now.

    Raises:
        CatdogError: the URI names none, or the device is not there.
    """
    from catdog.registry import load, versions

    exact = versions.exact(model_uri)
    classifier = load.load_classifier(exact, device=device)
    _, _, version = exact.removeprefix("models:/").rpartition("/")
    return Model(classifier, model_uri, version if exact.startswith("models:/") else "")


def facts(model: Model) -> dict[str, str]:
    """Which model answers, by the name of the fact."""
    about = model.classifier.about
    return {
        "model": model.uri,
        "version": model.version or "not of a registry",
        "data set": about.dataset,
        "best epoch": str(about.best_epoch),
        "validation accuracy": f"{about.best_val_accuracy:.4f}",
        "backbone": about.backbone,
        "neither below familiarity": f"{about.reject_below:g}",
    }


def build(model: Model) -> gradio.Blocks:
    """The page, not yet served."""
    import gradio as gr

    def answer(paths: list[str] | None, reject: bool, threshold: float) -> Iterator[str]:
        options = Options(reject=reject, threshold=threshold)
        yield from show(model.classifier, [Path(path) for path in paths or []], options)

    classes = model.classifier.about.classes
    page = gr.Blocks(
        title=f"catdog: {question(classes).lower()}",
        analytics_enabled=False,
        delete_cache=(3600, KEEP_SECONDS),
    )
    with page:
        gr.HTML(HEADING.format(question(classes)))
        photos = gr.File(
            label="Photos", file_count="multiple", type="filepath", height=200, elem_id="photos"
        )
        with gr.Row():
            with gr.Column(min_width=280):
                reject = gr.Checkbox(
                    value=True, label="May answer neither", info="for photos unlike all it knows"
                )
            with gr.Column(min_width=280):
                threshold = gr.Slider(
                    *(0, 1, 0.5),
                    step=0.01,
                    label="Threshold",
                    info=f"{one(classes[1])} above this probability",
                )
        answers = gr.HTML(elem_id="answers")
        gr.HTML(facts_html("The model that answers", facts(model), classes))
        gr.on(
            [photos.change, reject.change, threshold.change],
            answer,
            [photos, reject, threshold],
            answers,
            api_name="answer",
            # One after the other: the answer to the last change comes last.
            trigger_mode="multiple",
            concurrency_limit=1,
            show_progress="minimal",
        )
    return page


def question(classes: Classes) -> str:
    """What the page answers: "Cat or dog?"."""
    return f"{' or '.join(classes)}?".capitalize()


class BodyLimit:
    """Turns away a request that says, or is found, to be larger than its address needs."""

    def __init__(
        self, app: ASGIApp, limits: Mapping[str, int] = MappingProxyType({UPLOAD: UPLOAD_BYTES})
    ) -> None:
        """`limits` in bytes by path; of other paths it is `OTHER_BYTES`."""
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, and count what comes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limits.get(scope["path"], OTHER_BYTES)
        seen, answered = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            if _told_length(scope) > limit:
                raise _TooLargeError
            await self._app(scope, counted, noted)
        except _TooLargeError:
            if not answered:
                await send({"type": "http.response.start", "status": 413, "headers": []})
                await send({"type": "http.response.body", "body": b"too large"})


class _TooLargeError(Exception):
    """More came than is taken."""


def _told_length(scope: Scope) -> int:
    told = dict(scope["headers"]).get(b"content-length", b"0")
    return int(told) if told.isdigit() else 0


def web_app(model: Model, host: str, uploads: Path) -> FastAPI:
    """The page as an ASGI app that keeps uploads in the folder `uploads`."""
    require_gradio()
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.middleware.trustedhost import TrustedHostMiddleware

    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    app = FastAPI(openapi_url=None)
    if host in LOOPBACK:  # another site's name that is made to point here is turned away
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))
    app.add_middleware(BodyLimit)
    mounted: FastAPI = gr.mount_gradio_app(
        app,
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
        theme=_theme(),
        i18n=gr.I18n(en=WORDS),
        css=CSS,
        head=HEAD,
    )
    return mounted


def serve(model: Model, host: str, port: int, *, open_browser: bool) -> None:
    """Serve the page until Ctrl-C, and say where it is.

    Raises:
        CatdogError: the host is no address of this machine, or Gradio is missing.
    """
    require_gradio()
    import uvicorn

    listener = listen(host, port)
    url = url_of(listener, host)
    if port not in (0, listener.getsockname()[1]):
        logger.info(f"port {port} is taken: here is another one")
    if host not in LOOPBACK:
        logger.warning(f"--host {host} lets everyone who can reach this machine use the page")
    with tempfile.TemporaryDirectory(prefix="catdog-page-") as uploads:
        app = web_app(model, host, Path(uploads))
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        )
        logger.info(f"the page is at {url} (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(url)  # the socket listens already: the browser waits for the page
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def listen(host: str, port: int, *, or_free: bool = True) -> socket.socket:
    """A socket that listens at `port`, or, `or_free`, at a free port where that is taken.

    Raises:
        CatdogError: the host is no address of this machine, or the port is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        try:
            return socket.create_server((host, port), family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not or_free:
                raise
        return socket.create_server((host, 0), family=family)
    except OSError as error:
        raise CatdogError(
            f"--host {host} --port {port} can't be listened at ({error.strerror or error}): "
            "leave out --host for 127.0.0.1, and name a free port from 1024 to 65535."
        ) from error


def url_of(listener: socket.socket, host: str) -> str:
    """The address to type on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{listener.getsockname()[1]}"


def _theme() -> gradio.themes.Base:
    import gradio as gr

    words, figures = gr.themes.Font("system-ui"), gr.themes.Font("ui-monospace")
    return gr.themes.Default(font=[words], font_mono=[figures]).set(
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300"
    )


WORDS = {
    "common.upload": "Add photos",
    "upload_text.drop_file": "Drop or paste photos here",
    "upload_text.click_to_upload": "Click to choose them",
}

HEADING = """<header><h1>{}</h1>
<p>Drop photos below, choose them, or paste one with Ctrl+V. They go to the program that runs
this page, and nowhere else.</p></header>"""

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
