"""The model card: what a model was made of, how good it is, and what it is not for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from catdog import __version__
from catdog.config import TrainConfig
from catdog.data.classes import both
from catdog.data.dataset import PreparedDataset
from catdog.inference.prediction import About
from catdog.training.judge import Trained

CARD = """# {classes}: a classifier of two kinds of pictures

Backbone `{backbone}`, with the weights that the run names and frozen or fine-tuned as it says,
with one neuron on top. Made by catdog {version}.

## Use

It tells {classes_small} apart in photos of one of them, and answers `neither` when a photo looks
unlike those it was validated on. It knows no finer kinds, does not count, and does not find where
in a picture something is. Drawings and things alike may be taken for one of the two.

## Data

`{dataset}` ({origin}): {counts}. Digest `{digest}`. The figures below are of the validation
pictures, which it did not learn from; they chose the epoch, the temperature and the threshold of
`neither`.

## Results

| metric | value | 95 % interval |
|---|---|---|
{results}

## Calibration and `neither`

Logits are divided by the temperature {temperature:.3f}; below a familiarity of {reject_below:.3f}
the answer is `neither`.

| metric | value |
|---|---|
{judged}

## Licence

The backbone's weights: {licence}. The pictures keep the licences of their owners.

## Load

```python
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model("models:/{name}/VERSION")  # the number of this version
model.predict(pd.DataFrame({{"image": [open("photo.jpg", "rb").read()]}}))
```
"""

RESULTS = (
    "accuracy_score",
    "precision_score",
    "recall_score",
    "f1_score",
    "roc_auc",
    "log_loss",
    "brier_score",
)


@dataclass(frozen=True)
class Facts:
    """What a card says beside what the model says of itself.

    Attributes:
        name: in the model registry.
        version: of catdog.
        counts: by split, the pictures of each class.
        digest: of the prepared data set.
        metrics: of the validation pictures by name, intervals among them.
        judged: of calibration and of what is neither, by name.
        licence: of the backbone's weights.
    """

    name: str
    version: str
    counts: Mapping[str, Mapping[str, int]]
    digest: str
    metrics: Mapping[str, float]
    judged: Mapping[str, float]
    licence: str


def model_card(about: About, facts: Facts) -> str:
    """The card in Markdown."""
    classes = both(about.classes)
    return CARD.format(
        classes=classes.capitalize(),
        classes_small=classes,
        backbone=about.backbone,
        version=facts.version,
        dataset=about.dataset,
        origin=about.origin,
        counts="; ".join(_counted(split, counts) for split, counts in facts.counts.items()),
        digest=facts.digest,
        results="\n".join(_results(facts.metrics)),
        temperature=about.temperature,
        reject_below=about.reject_below,
        judged="\n".join(f"| `{name}` | {value:.4f} |" for name, value in facts.judged.items()),
        licence=facts.licence,
        name=facts.name,
    )


def _counted(split: str, counts: Mapping[str, int]) -> str:
    return f"{split} " + ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _results(metrics: Mapping[str, float]) -> list[str]:
    rows = []
    for name in RESULTS:
        key = f"val_{name}"
        if key in metrics:
            ends = [metrics.get(f"{key}_ci_{end}") for end in ("low", "high")]
            interval = "" if None in ends else f"{ends[0]:.4f} to {ends[1]:.4f}"
            rows.append(f"| `{key}` | {metrics[key]:.4f} | {interval} |")
    return rows


def facts_of(config: TrainConfig, prepared: PreparedDataset, trained: Trained) -> Facts:
    """What the card of a trained model states."""
    return Facts(
        name=config.registered_model_name,
        version=__version__,
        counts={split: prepared.counts[split] for split in ("training", "validation")},
        digest=prepared.digest,
        metrics=trained.metrics,
        judged=trained.judgement.metrics(trained.classifier.about),
        licence=trained.licence,
    )
