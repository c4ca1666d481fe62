"""The model card: what a model was made of, how good it is, and what it is not for. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from catdog.classifier import About

HEADER = """# {classes}: a classifier of two kinds of pictures

Backbone `{backbone}`, with the weights that the run names and frozen or fine-tuned as it says,
with one neuron on top. Made by catdog {version} from the data set `{dataset}` ({origin}).
"""

USE = """## Use

It tells {classes} apart in photos of one animal, and answers `neither` when a photo looks
unlike those it was validated on. It does not know breeds, does not count, and does not find where
in a picture an animal is. Drawings and other animals may be taken for one of the two.
"""


def model_card(about: About, version: str, results: Mapping[str, float]) -> str:
    """The card in Markdown; `results` are measured numbers by their metric's name."""
    classes = " and ".join(about.classes)
    rows = "\n".join(f"| `{name}` | {value:.4f} |" for name, value in results.items())
    return "\n".join(
        [
            HEADER.format(
                classes=classes.capitalize(),
                backbone=about.backbone,
                version=version,
                dataset=about.dataset,
                origin=about.origin,
            ),
            USE.format(classes=classes),
            "## Results on the validation pictures\n\n| metric | value |\n|---|---|\n" + rows,
            "",
            f"Logits are divided by the temperature {about.temperature:.3f}; below a familiarity "
            f"of {about.reject_below:.3f} the answer is `neither`.\n",
        ]
    )
