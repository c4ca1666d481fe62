"""Photos dropped on a web page → a card for each: label, how sure, and why.

Gradio carries the files, byte for byte as they were chosen, to `Classifier`; the page asks
nothing of any other machine. Uploads lie in a folder of their own until the page is closed.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import html
import io
import os
import socket
import tempfile
import warnings
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from catdog import CatdogError
from catdog.classifier import Classifier, Options, Prediction
from catdog.data import to_tensor

if TYPE_CHECKING:  # Gradio is an extra, and slow to import
    import gradio
    from fastapi import FastAPI

MOST_FILES = 50
LARGEST_FILE = "50mb"
LOOPBACK = ("127.0.0.1", "localhost")
THUMBNAIL_PX = 360
KEEP_SECONDS = 24 * 3600
"""How long an upload is kept on a page that is never closed."""


@dataclass(frozen=True)
class Model:
    """A classifier, the URI that was asked for, and the version it stood for when loaded."""

    classifier: Classifier
    uri: str
    version: str


@dataclass(frozen=True)
class Card:
    """What is shown of one photo; pictures are data URLs, empty where there is none (yet)."""

    name: str
    prediction: Prediction
    photo: str = ""
    heat: str = ""
    note: str = ""


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
    from catdog import predict

    exact = _exact(model_uri)
    classifier = predict.load_classifier(exact, device=device)
    _, _, version = exact.removeprefix("models:/").rpartition("/")
    return Model(classifier, model_uri, version if exact.startswith("models:/") else "")


def show(classifier: Classifier, paths: Sequence[Path], options: Options) -> Iterator[str]:
    """The answers as HTML: first with the photos alone, soon after with the heat maps too."""
    if len(paths) > MOST_FILES:
        yield _sentence(f"{len(paths)} files are too many: give at most {MOST_FILES} at once.")
        return
    cards = [
        Card(path.name, prediction, photo="" if prediction.error else _thumbnail(path))
        for path, prediction in classifier.stream(paths, Path.read_bytes, options)
    ]
    yield to_html(cards)
    explained = [
        card if card.prediction.error else explain(classifier, card, path.read_bytes())
        for card, path in zip(cards, paths, strict=True)
    ]
    yield to_html(explained)


def explain(classifier: Classifier, card: Card, content: bytes) -> Card:
    """The card with its heat map, or with a note that says why there is none."""
    from catdog import explain as heat

    try:
        drawn = heat.draw(classifier, content, card.prediction)
    except CatdogError:
        return replace(card, note="This backbone has no heat map.")
    uncaptioned = drawn.crop((0, 0, drawn.width, drawn.height - heat.CAPTION_PX))
    return replace(card, heat=_data_url(uncaptioned))


def to_html(cards: Sequence[Card]) -> str:
    """The cards in one list, with a sentence that sums them up; nothing for no card."""
    if not cards:
        return ""
    failed = sum(bool(card.prediction.error) for card in cards)
    told = f"{len(cards) - failed} of {len(cards)} photos answered."
    listed = "".join(map(card_html, cards))
    return f'<p class="told" role="status">{told}</p><ul class="cards">{listed}</ul>'


def card_html(card: Card) -> str:
    """One photo as an item of the list; its name is escaped."""
    name, said = _safe(card.name), card.prediction
    title = f'<h3 title="{name}">{name}</h3>'
    if said.error:
        return (
            f'<li class="card failed">{title}<p><b>Not answered:</b> {_safe(said.error)}.</p></li>'
        )
    percent = f"{said.confidence:.1%}"
    note = f"<p>{_safe(card.note)}</p>" if card.note else ""
    return f"""<li class="card {_safe(said.label)}">{title}
<p class="label"><b>{_safe(said.label)}</b> <span>{percent} sure</span></p>
<div class="bar" aria-hidden="true"><i style="width:{percent}"></i></div>
<div class="pictures">{_figure(card.photo, f"The photo {card.name}", "photo")}
{_figure(card.heat, f"Heat map of {card.name}", "what speaks for it")}</div>{note}
<dl><div><dt>probability of a dog</dt><dd>{said.p_dog:.4f}</dd></div>
<div><dt>familiarity</dt><dd>{said.familiarity:.3f}</dd></div></dl></li>"""


def about_html(model: Model) -> str:
    """Which model answers, as a list of facts."""
    about = model.classifier.about
    facts = {
        "model": model.uri,
        "version": model.version or "not of a registry",
        "data set": about.dataset,
        "best epoch": str(about.best_epoch),
        "validation accuracy": f"{about.best_val_accuracy:.4f}",
        "backbone": about.backbone,
        "neither below familiarity": f"{about.reject_below:g}",
    }
    rows = "".join(f"<div><dt>{k}</dt><dd>{_safe(v)}</dd></div>" for k, v in facts.items())
    return f'<section class="about"><h2>The model that answers</h2><dl>{rows}</dl></section>'


def build(model: Model) -> gradio.Blocks:
    """The page, not yet served."""
    import gradio as gr

    def answer(paths: list[str] | None, reject: bool, threshold: float) -> Iterator[str]:
        options = Options(reject=reject, threshold=threshold)
        yield from show(model.classifier, [Path(path) for path in paths or []], options)

    with gr.Blocks(
        title="catdog: cat or dog?", analytics_enabled=False, delete_cache=(3600, KEEP_SECONDS)
    ) as page:
        gr.HTML(HEADING)
        photos = gr.File(
            label="Photos", file_count="multiple", type="filepath", height=200, elem_id="photos"
        )
        with gr.Row():
            reject = gr.Checkbox(
                value=True,
                label="May answer neither",
                info="for photos unlike all it knows",
                min_width=280,
            )
            threshold = gr.Slider(
                0,
                1,
                0.5,
                step=0.01,
                label="Threshold",
                info="a dog above this probability",
                min_width=280,
            )
        answers = gr.HTML(elem_id="answers")
        gr.HTML(about_html(model))
        gr.on(
            [photos.change, reject.change, threshold.change],
            answer,
            [photos, reject, threshold],
            answers,
            api_name="answer",
            trigger_mode="always_last",
            show_progress="minimal",
        )
    return page


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
    return gr.mount_gradio_app(
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


def serve(
    model: Model, host: str, port: int, *, open_browser: bool, say: Callable[[str], None]
) -> None:
    """Serve the page until Ctrl-C, and say where it is.

    Raises:
        CatdogError: the host is no address of this machine, or Gradio is missing.
    """
    require_gradio()
    import uvicorn

    listener = listen(host, port)
    url = url_of(listener, host)
    if host not in LOOPBACK:
        say(f"warning: --host {host} lets everyone who can reach this machine use the page")
    with tempfile.TemporaryDirectory(prefix="catdog-page-") as uploads:
        app = web_app(model, host, Path(uploads))
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        )
        say(f"the page is at {url} (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(url)  # the socket listens already: the browser waits for the page
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `port`, or at a free port where that is taken.

    Raises:
        CatdogError: the host is no address of this machine, or the port is not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        try:
            return socket.create_server((host, port), family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        return socket.create_server((host, 0), family=family)
    except OSError as error:
        raise CatdogError(
            f"--host {host} --port {port} can't be listened at ({error.strerror or error}): "
            "leave out --host for 127.0.0.1, and name a port from 1024 to 65535."
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


def _exact(model_uri: str) -> str:
    """The URI of the version that a stage or an alias means now; other URIs stay as they are."""
    if not model_uri.startswith("models:/"):
        return model_uri
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    from catdog import tracking

    tracking.connect()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MLflow prefers aliases to stages
            named = get_model_name_and_version(mlflow.MlflowClient(), model_uri)
    except MlflowException:
        return model_uri  # loading it says what is wrong, and what to type instead
    return "models:/" + "/".join(map(str, named))


def _thumbnail(path: Path) -> str:
    from torchvision.transforms.v2.functional import to_pil_image

    picture = to_pil_image(to_tensor(path.read_bytes()))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return _data_url(picture)


def _data_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _figure(url: str, alt: str, caption: str) -> str:
    picture = f'<img src="{url}" alt="{_safe(alt)}">' if url else '<span class="wait"></span>'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _sentence(text: str) -> str:
    return f'<p class="told" role="status">{_safe(text)}</p>'


def _safe(text: str) -> str:
    # Gradio reads ${...} and {{...}} in HTML as templates.
    return html.escape(text).replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;")


WORDS = {
    "common.upload": "Add photos",
    "upload_text.drop_file": "Drop or paste photos here",
    "upload_text.click_to_upload": "Click to choose them",
}

HEADING = """<header><h1>Cat or dog?</h1>
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

CSS = """
header h1 { font-size: 1.7rem; font-weight: 700; margin: 0 0 .3rem; }
.told { margin: .4rem 0 .8rem; font-weight: 600; }
.cards { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.card { --mark: #64748b; border-top: 5px solid var(--mark); border-radius: 10px;
  box-shadow: 0 0 0 1px var(--border-color-primary); padding: .8rem 1rem; min-width: 0;
  background: var(--block-background-fill); }
.card.cat { --mark: #b45309; } .card.dog { --mark: #2563eb; } .card.failed { --mark: #dc2626; }
.card h3 { font-size: .95rem; margin: 0; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.card .label { margin: .2rem 0; display: flex; justify-content: space-between;
  align-items: baseline; }
.card .label b { font-size: 1.5rem; }
.bar { height: 10px; border-radius: 5px; background: var(--border-color-primary);
  overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--mark); }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; margin: .8rem 0 .4rem; }
.pictures figure { margin: 0; min-width: 0; }
.pictures img, .pictures .wait { width: 100%; height: 11rem; object-fit: contain; display: block;
  border-radius: 6px; background: var(--background-fill-secondary); margin: 0; }
.pictures figcaption { font-size: .8rem; text-align: center; }
.card dl, .about dl { margin: 0; }
.card dl div, .about dl div { display: flex; justify-content: space-between; gap: 1rem; }
.card dd, .about dd { margin: 0; overflow-wrap: anywhere; text-align: right;
  font-variant-numeric: tabular-nums; }
#photos .label-clear-button { color: var(--body-text-color); }
.about h2 { font-size: 1.05rem; margin: .4rem 0; }
.about dl { max-width: 36rem; }
"""
