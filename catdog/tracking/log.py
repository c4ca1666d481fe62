"""What is written to a run: parameters, metrics, pictures, tables.

All of it goes the way of `catdog.tracking.run.write`, which loses nothing.
"""

from __future__ import annotations

import io
import json
import platform
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mlflow.tracking.multimedia import compress_image_size
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_LOGGED_IMAGES
from PIL import Image

import catdog
from catdog import CLASSES, Classes
from catdog.data.classes import as_outside
from catdog.tracking import provenance, run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from catdog.evaluation.calibration import Labels, Logits
    from catdog.evaluation.metrics import Confusion, Scores
    from catdog.inference.prediction import Prediction
    from catdog.training.loop import Fit
    from catdog.training.stages import Pass
    from catdog.training.state import Epoch

DIGEST_LENGTH = 36
"""MLflow's limit for the digest of a data set."""


def log_params(params: Mapping[str, Any]) -> None:
    """Log the parameters that the run does not have yet.

    `mlflow run` has logged those that were typed, spelled as they were typed, and MLflow
    refuses another spelling of the same key (`1e-3` and `0.001`).
    """
    run.write("params", {key: str(value) for key, value in params.items()})
    _log_text(json.dumps(dict(params), indent=2, default=str), "config.json")


def log_environment(device: str) -> None:
    """Tag the run with device, versions and the git commit."""
    set_tags(
        {
            "device": device,
            "python_version": platform.python_version(),
            "platform": platform.platform(),
            "catdog_version": catdog.__version__,
            **{
                f"{name.replace('-', '_')}_version": version
                for name, version in provenance.installed().items()
            },
            **provenance.git_state(),
        }
    )


def log_data(
    manifest: Path,
    *,
    name: str,
    origin: str,
    digests: Mapping[str, str],
    drawn: bool,
    classes: Classes = CLASSES,
) -> None:
    """Log which pictures were used: the manifest, and a data set for each split.

    Args:
        manifest: CSV with the columns path, label, split, sha256, width, height, and the user's.
        name: of the prepared data set.
        origin: where it came from.
        digests: of the splits "training" and "validation", of any length.
        drawn: whether the pictures were drawn by us.
        classes: what they show.
    """
    from mlflow.data.pandas_dataset import from_pandas

    # What a user's column holds is left as it is written: "01", or nothing.
    kinds: defaultdict[str, type] = defaultdict(lambda: str, width=int, height=int)
    rows = pd.read_csv(manifest, keep_default_na=False, dtype=kinds)
    for split, digest in digests.items():
        with warnings.catch_warnings():
            # That integer columns can't hold missing values, and that a path is a path.
            warnings.simplefilter("ignore", UserWarning)
            # What mlflow.log_input writes.
            dataset = from_pandas(
                rows[rows["split"] == split].reset_index(drop=True),
                source=str(manifest.resolve()),
                targets="label",
                name=f"{name}-{split}",
                # MLflow's own digest reads the first 10,000 rows only.
                digest=digest[:DIGEST_LENGTH],
            )
            run.write("inputs", [[split, dict(dataset._to_mlflow_entity())]])
    _log_file(manifest.read_bytes(), f"data/{manifest.name}")
    set_tags(
        {"dataset": name, "dataset_origin": origin, "data": "drawn" if drawn else "photos"}
        | {"classes": ",".join(classes)}
        | {f"{split}_digest": digest for split, digest in digests.items()}
    )


def log_exclusion(lines: Path, *, count: int, digest: str) -> None:
    """Log what the user wanted left out: the lines, their digest, and how many pictures it was."""
    if lines.is_file():
        _log_file(lines.read_bytes(), "data/exclude.txt")
    set_tags({"excluded_count": str(count), "excluded_digest": digest})


def log_epoch(epoch: Epoch, confusion: Figure) -> None:
    """Log the numbers of an epoch and its validation confusion matrix, at step = epoch.

    The numbers come last: a run that is resumed has all of an epoch of which it has these.
    """
    _log_picture(_pixels(confusion), "confusion_matrix", step=epoch.number)
    log_metrics(
        {
            "train_loss": epoch.train.loss,
            "train_accuracy": epoch.train.accuracy,
            "val_loss": epoch.val.loss,
            "val_accuracy": epoch.val.accuracy,
            "learning_rate": epoch.learning_rate,
            "epoch_seconds": epoch.seconds,
            "images_per_second": epoch.images_per_second,
            **epoch.val.confusion.to_dict("epoch_"),
        },
        step=epoch.number,
    )


def log_fit(fit: Fit) -> None:
    """Log which epoch was kept and how good it is on the validation pictures."""
    best = fit.best
    log_metrics(
        {
            "best_epoch": best.number,
            "best_val_loss": best.val.loss,
            "best_val_accuracy": best.val.accuracy,
            "best_val_roc_auc": best.val.roc_auc,
            "stopped_epoch": fit.epochs[-1].number,
        }
    )
    set_tags({"early_stopped": str(fit.stopped_early).lower()})
    if fit.trouble:
        set_tags({"stopped_because": fit.trouble})


def log_confusion(confusion: Confusion, drawn: Figure) -> None:
    """Log the confusion matrix of the served answers, as numbers and drawn.

    The UI shows it first, and those of the epochs behind a slider.
    """
    _log_text(json.dumps(confusion.to_dict(), indent=2), "confusion_matrix.json")
    log_figure(drawn, "confusion_matrix.png")
    show(drawn, "confusion_matrix")


def log_features(features: Pass) -> None:
    """Log what the one pass through the backbone cost."""
    set_tags({"feature_engine": features.engine.name})
    log_metrics(
        {
            "features_computed": features.computed,
            "features_found": features.found,
            "feature_seconds": features.seconds,
        }
    )


def log_baseline(scores: Scores) -> None:
    """Log how good the validation answers are without any training."""
    log_metrics(
        {
            "baseline_accuracy": scores.accuracy,
            "baseline_log_loss": scores.loss,
            "baseline_roc_auc": scores.roc_auc,
        }
    )


def log_metrics(metrics: Mapping[str, float], *, step: int = 0) -> None:
    """Log numbers, with the time of now; without a step they are about the kept epoch.

    Of these, what a resumed run has already is not logged twice.
    """
    now = time.time_ns() // 1_000_000
    new = {k: float(v) for k, v in metrics.items() if step or not run.has_logged(k, float(v))}
    if new:
        run.write("metrics", [[key, value, now, step] for key, value in new.items()])


def log_predictions(
    paths: Sequence[str],
    labels: Labels,
    logits: Logits,
    answers: Sequence[Prediction],
    classes: Classes = CLASSES,
) -> None:
    """Log the answer for each validation picture, as a table: `logits` as the head gives them."""
    table = pd.DataFrame([as_outside(asdict(answer), classes) for answer in answers])
    table = table.drop(columns="error")
    table = table.rename(columns={"label": "answer"})
    table.insert(0, "path", list(paths))
    table.insert(1, "label", labels)
    table.insert(2, "logit", logits)
    _log_file(table.to_parquet(), "predictions/validation.parquet")
    # As mlflow.log_table does, which makes the UI show it as a table.
    shown = "predictions/validation.json"
    _log_text(table.to_json(orient="split", index=False, date_format="iso"), shown)
    set_tags({MLFLOW_LOGGED_ARTIFACTS: json.dumps([{"path": shown, "type": "table"}])})


def log_findings(
    metrics: Mapping[str, float], tables: Mapping[str, pd.DataFrame], worst_slice: str, page: str
) -> None:
    """Log metrics with intervals, the tables behind them, and the report as a page."""
    log_metrics(metrics)
    for name, table in tables.items():
        _log_text(table.to_csv(index=False), name)
    _log_text(page, "report.html")
    if worst_slice:
        set_tags({"worst_slice": worst_slice})


def log_figure(figure: Figure, name: str) -> None:
    """Log a figure as the artifact `name`."""
    stream = io.BytesIO()
    figure.savefig(stream, format=Path(name).suffix[1:])
    _log_file(stream.getvalue(), name)


def show(figure: Figure, key: str) -> None:
    """Log a figure under a key by which the MLflow UI sets it beside those of other runs.

    It does so step by step and begins at 0: at another step, the kept epoch say, nothing would
    be shown where runs have kept different ones.
    """
    _log_picture(_pixels(figure), key, step=0)


def _log_picture(pixels: np.ndarray, key: str, *, step: int) -> None:
    # The names that mlflow.log_image gives; the UI reads key, step and time from them. With the
    # time of the run's beginning a picture that is logged again, after a cut, takes its own place.
    which = uuid.uuid5(uuid.NAMESPACE_OID, f"{run.run_id()}/{key}/{step}")
    name = f"images/{key}+step+{step}+timestamp+{run.begun_ms()}+{which}"
    picture = Image.fromarray(pixels)
    _log_file(_encoded(picture, "png"), f"{name}.png")
    _log_file(_encoded(compress_image_size(picture), "webp"), f"{name}+compressed.webp")
    set_tags({MLFLOW_LOGGED_IMAGES: "True"})


def describe_run(text: str) -> None:
    """Set the description that the MLflow UI shows for the run, in Markdown."""
    set_tags({"mlflow.note.content": text})


def set_tags(tags: Mapping[str, str]) -> None:
    """Tag the active run."""
    run.write("tags", dict(tags))


def _log_file(content: bytes, name: str) -> None:
    run.write("artifact", name, content)


def _log_text(text: str, name: str) -> None:
    _log_file(text.encode(), name)


def _encoded(picture: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form)
    return stream.getvalue()


def _pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
