"""The model card: what a model was made of, how good it is, and what it is not for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from catdog import __version__
from catdog.data.classes import both
from catdog.data.dataset import TRAINING, VALIDATION, PreparedDataset
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
    *("accuracy_score", "precision_score", "recall_score", "f1_score"),
    *("roc_auc", "log_loss", "brier_score"),
)


def model_card(name: str, dataset: PreparedDataset, trained: Trained) -> str:
    """The card in Markdown of what was trained, for the registered model of that name."""
    about = trained.classifier.about
    classes = both(about.classes)
    judged = trained.judgement.metrics(about)
    return CARD.format(
        classes=classes.capitalize(),
        classes_small=classes,
        backbone=about.backbone,
        version=__version__,
        dataset=about.dataset,
        origin=about.origin,
        counts="; ".join(_counted(dataset, split) for split in (TRAINING, VALIDATION)),
        digest=dataset.digest,
        results=table_of_metrics(trained.metrics, RESULTS),
        temperature=about.temperature,
        reject_below=about.reject_below,
        judged="\n".join(f"| `{metric}` | {value:.4f} |" for metric, value in judged.items()),
        licence=trained.licence,
        name=name,
    )


def table_of_metrics(metrics: Mapping[str, float], names: Iterable[str]) -> str:
    """A table in Markdown of the validation metrics of these names, with their intervals."""
    rows = ["| metric | value | 95 % interval |", "|---|---|---|"]
    for key in (f"val_{name}" for name in names):
        if key in metrics:
            low, high = metrics[f"{key}_ci_low"], metrics[f"{key}_ci_high"]
            rows.append(f"| `{key}` | {metrics[key]:.4f} | {low:.4f} to {high:.4f} |")
    return "\n".join(rows)


def _counted(dataset: PreparedDataset, split: str) -> str:
    counts = dataset.counts[split].items()
    return f"{split} " + ", ".join(f"{count:,} {label}" for label, count in counts)
