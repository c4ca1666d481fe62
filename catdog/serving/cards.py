"""Photos and what a classifier says of them → cards in HTML, as a web page shows them."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from catdog import CLASSES, NEITHER, CatdogError, Classes
from catdog.data.classes import one
from catdog.data.images import to_tensor
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import Options, Prediction, says_positive

MOST_FILES = 50
SIDES = ("negative", "positive")
"""How a card is marked, by the class that its answer speaks for."""
THUMBNAIL_PX = 360
MEANING = """<p>Familiarity is the share of validation photos that look less than this one like what
the model was made for. The probability of {} takes for granted that it is one of the two.</p>"""


@dataclass(frozen=True)
class Card:
    """What is shown of one photo; pictures are data URLs, empty where there is none (yet)."""

    name: str
    prediction: Prediction
    photo: str = ""
    heat: str = ""
    note: str = ""


def show(classifier: Classifier, paths: Sequence[Path], options: Options) -> Iterator[str]:
    """The answers as HTML: first with the photos alone, soon after with the heat maps too."""
    if len(paths) > MOST_FILES:
        yield _sentence(f"{len(paths)} files are too many: give at most {MOST_FILES} at once.")
        return
    cards = [
        Card(path.name, prediction, photo="" if prediction.error else _thumbnail(path))
        for path, prediction in classifier.stream(paths, Path.read_bytes, options)
    ]
    classes = classifier.about.classes
    yield to_html(cards, classes)
    explained = [
        card if card.prediction.error else explain(classifier, card, path.read_bytes())
        for card, path in zip(cards, paths, strict=True)
    ]
    yield to_html(explained, classes)


def explain(classifier: Classifier, card: Card, content: bytes) -> Card:
    """The card with its heat map, or with a note that says why there is none."""
    from catdog.inference import explain as heat

    try:
        drawn = heat.draw(classifier, content, card.prediction)
    except CatdogError:
        return replace(card, note="This backbone has no heat map.")
    uncaptioned = drawn.crop((0, 0, drawn.width, drawn.height - heat.CAPTION_PX))
    return replace(card, heat=_data_url(uncaptioned))


def to_html(cards: Sequence[Card], classes: Classes = CLASSES) -> str:
    """The cards in one list, with a sentence that sums them up; nothing for no card."""
    if not cards:
        return ""
    failed = sum(bool(card.prediction.error) for card in cards)
    told = f"{len(cards) - failed} of {len(cards)} photos answered."
    listed = "".join(card_html(card, classes) for card in cards)
    return f'<p class="told" role="status">{told}</p><ul class="cards">{listed}</ul>'


def card_html(card: Card, classes: Classes = CLASSES) -> str:
    """One photo as an item of the list; its name is escaped."""
    name, said = _safe(card.name), card.prediction
    title = f'<h3 title="{name}">{name}</h3>'
    if said.error:
        return (
            f'<li class="card failed">{title}<p><b>Not answered:</b> {_safe(said.error)}.</p></li>'
        )
    known = not math.isnan(said.confidence)
    percent = f"{said.confidence:.1%}" if known else "0%"
    sure = f"{percent} sure" if known else "looks like nothing it knows"
    speaks = int(says_positive(said, classes))
    kind = NEITHER if said.label == NEITHER else SIDES[speaks]
    heat = _figure(card.heat, f"Heat map of {card.name}", f"what speaks for {one(classes[speaks])}")
    return f"""<li class="card {kind}">{title}
<p class="label"><b>{_safe(said.label)}</b> <span>{sure}</span></p>
<div class="bar" aria-hidden="true"><i style="width:{percent}"></i></div>
<div class="pictures">{_figure(card.photo, f"The photo {card.name}", "photo")}
{f"<p>{_safe(card.note)}</p>" if card.note else heat}</div>
<dl><div><dt>probability of {one(classes[1])}</dt><dd>{said.p_positive:.4f}</dd></div>
<div><dt>familiarity</dt><dd>{said.familiarity:.3f}</dd></div></dl></li>"""


def facts_html(title: str, facts: Mapping[str, str], classes: Classes = CLASSES) -> str:
    """A headed list of facts, by name, and what the numbers mean; the values are escaped."""
    rows = "".join(f"<div><dt>{k}</dt><dd>{_safe(v)}</dd></div>" for k, v in facts.items())
    meaning = MEANING.format(one(classes[1]))
    return f'<section class="about"><h2>{title}</h2><dl>{rows}</dl>{meaning}</section>'


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


CSS = """
header h1 { font-size: 1.7rem; font-weight: 700; margin: 0 0 .3rem; }
.told { margin: .4rem 0 .8rem; font-weight: 600; }
.cards { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.card { --mark: #64748b; border-top: 5px solid var(--mark); border-radius: 10px;
  box-shadow: 0 0 0 1px var(--border-color-primary); padding: .8rem 1rem; min-width: 0;
  background: var(--block-background-fill); }
.card.negative { --mark: #b45309; } .card.positive { --mark: #2563eb; }
.card.failed { --mark: #dc2626; }
.cards > .card { margin: 0 !important; }
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
.about dl, .about p { max-width: 36rem; }
.about p { font-size: .85rem; margin: .6rem 0 0; }
"""
