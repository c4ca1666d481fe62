"""What is written to an MLflow run: `Run`, with one method for each thing that is logged."""

from __future__ import annotations

import contextlib
import io
import json
import platform
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mlflow.entities import RunInfo
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.multimedia import compress_image_size
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_LOGGED_IMAGES
from PIL import Image

from catdog import CatdogError, Classes
from catdog.data.classes import as_outside
from catdog.tracking import provenance, store
from catdog.tracking.spool import LAST_TRY, Kind, Spool, Write
from catdog.tracking.store import PATIENT, first_line, limits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from catdog.data.dataset import PreparedDataset
    from catdog.evaluation.calibration import Labels, Logits
    from catdog.evaluation.metrics import Confusion, Scores
    from catdog.inference.prediction import Prediction
    from catdog.training.features import FeatureSet
    from catdog.training.loop import Epoch, Fit


class Run:
    """A run that is going on: what it is, and everything that is logged in it.

    What the tracking server does not take is kept in its `folder`, and sent later.
    """

    def __init__(
        self,
        info: RunInfo,
        name: str,
        unsent: Spool,
        resume_command: str,
        logged: Mapping[str, set[int]] = {},
    ) -> None:
        """`catdog.tracking.run.start_run` makes one.

        Args:
            info: of the run, as MLflow gives it.
            name: of the run, as it began.
            unsent: the way to the server; it stands in the run's folder.
            resume_command: the line that lets the run go on.
            logged: the steps of some metrics that the run had when it was resumed.
        """
        self.id, self.name = str(info.run_id), name
        self.experiment_id = str(info.experiment_id)
        self.begun_ms = int(info.start_time)
        self.folder = unsent.folder.parent
        self.resume_command = resume_command
        self._unsent, self._logged = unsent, logged

    def identity(self) -> str:
        """Which run this is, when it began, and from which commit."""
        began = datetime.fromtimestamp(self.begun_ms / 1000, UTC)
        state = provenance.git_state()
        changed = " with changes" if state.get("git_dirty") == "true" else ""
        return f"run {self.id}, {began:%Y-%m-%d %H:%M} UTC, commit {state['git_commit']}{changed}"

    def logged_steps(self, metric: str) -> set[int]:
        """The steps at which the run had `metric` when it was resumed; of some metrics only."""
        return self._logged.get(metric, set())

    @contextlib.contextmanager
    def registering(self) -> Iterator[None]:
        """For what can't be done without the server: all that is kept is sent first.

        Raises:
            CatdogError: the server can't be reached, or something fails in what is done here.
        """
        self._unsent.send(LAST_TRY)
        try:
            with limits(PATIENT, keep_set=True):
                self.check_server()
                yield
        except (MlflowException, OSError) as error:
            raise CatdogError(
                f"the model could not be registered at {store.shown_uri()} ({first_line(error)}); "
                f"it is kept in {self.folder}."
            ) from error

    def check_server(self) -> None:
        """Ask the server for the run, and raise what MLflow raises where it does not answer."""
        MlflowClient().get_run(self.id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log the parameters that the run does not have yet.

        `mlflow run` has logged those that were typed, spelled as they were typed, and MLflow
        refuses another spelling of the same key (`1e-3` and `0.001`).
        """
        self._write("params", {key: str(value) for key, value in params.items()})
        self._log_text(json.dumps(dict(params), indent=2, default=str), "config.json")

    def log_environment(self, device: str) -> None:
        """Log device, commit and versions: as tags what runs are filtered by, all in a file."""
        versions, commit = provenance.versions(), provenance.git_state()
        tagged = {f"{name}_version": versions[name] for name in ("python", "torch", "mlflow")}
        self.set_tags({"device": device} | tagged | commit)
        facts = {"device": device, "platform": platform.platform()} | commit
        self._log_text(json.dumps(facts | {"versions": versions}, indent=2), "environment.json")

    def log_dataset(self, dataset: PreparedDataset) -> None:
        """Log which pictures are used: the manifest, each split as a data set, what is left out."""
        self._write("inputs", provenance.dataset_inputs(dataset))
        self._log_file(dataset.manifest.read_bytes(), f"data/{dataset.manifest.name}")
        facts = {
            "name": dataset.folder.name,
            "origin": dataset.origin,
            "training_digest": dataset.digest,
            "validation_digest": dataset.validation_digest,
        }
        self._log_text(json.dumps(facts, indent=2), "data/dataset.json")
        kind, classes = "drawn" if dataset.drawn else "photos", ",".join(dataset.classes)
        self.set_tags({"dataset": dataset.folder.name, "data": kind, "classes": classes})
        if dataset.exclude_digest:
            count, digest = str(dataset.excluded), dataset.exclude_digest
            self.set_tags({"excluded_count": count, "excluded_digest": digest})
            if dataset.exclude_lines.is_file():
                self._log_file(dataset.exclude_lines.read_bytes(), "data/exclude.txt")

    def log_epoch(self, epoch: Epoch, confusion: Figure) -> None:
        """Log the numbers of an epoch and its validation confusion matrix, at step = epoch.

        The numbers come last: a run that is resumed has all of an epoch of which it has these.
        """
        self.log_image(confusion, "confusion_matrix", step=epoch.number)
        self.log_metrics(
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

    def log_fit(self, fit: Fit) -> None:
        """Log which epoch was kept and how good it is on the validation pictures."""
        best = fit.best
        self.log_metrics(
            {
                "best_epoch": best.number,
                "best_val_loss": best.val.loss,
                "best_val_accuracy": best.val.accuracy,
                "best_val_roc_auc": best.val.roc_auc,
                "stopped_epoch": fit.epochs[-1].number,
            }
        )
        self.set_tags({"early_stopped": str(fit.stopped_early).lower()})
        if fit.trouble:
            self.set_tags({"stopped_because": fit.trouble})

    def log_confusion(self, confusion: Confusion, drawn: Figure) -> None:
        """Log the confusion matrix of the served answers, as numbers and drawn.

        The UI shows it first, and those of the epochs behind a slider.
        """
        self._log_text(json.dumps(confusion.to_dict(), indent=2), "confusion_matrix.json")
        self.log_figure(drawn, "confusion_matrix.png")
        self.log_image(drawn, "confusion_matrix")

    def log_features(self, features: FeatureSet) -> None:
        """Log what the one pass through the backbone cost."""
        self.set_tags({"feature_engine": features.engine.name})
        self.log_metrics(
            {
                "features_computed": features.computed,
                "features_found": features.found,
                "feature_seconds": features.seconds,
            }
        )

    def log_baseline(self, scores: Scores) -> None:
        """Log how good the validation answers are without any training."""
        self.log_metrics(
            {
                "baseline_accuracy": scores.accuracy,
                "baseline_log_loss": scores.loss,
                "baseline_roc_auc": scores.roc_auc,
            }
        )

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log numbers; without a step they are about the kept epoch.

        Those have the time at which the run began: MLflow takes the same number of the same time
        for one, when a resumed run logs it again.
        """
        when = time.time_ns() // 1_000_000 if step else self.begun_ms
        self._write("metrics", [[key, float(v), when, step] for key, v in metrics.items()])

    def log_model_metrics(
        self, model_id: str, metrics: Mapping[str, float], dataset: PreparedDataset
    ) -> None:
        """Tie numbers about the kept epoch, which `log_metrics` has logged, to its logged model.

        MLflow ranks models by them. They are about the validation pictures of `dataset`.
        """
        tied_to = [model_id, *provenance.name_and_digest(dataset, "validation")]
        tied = [[key, float(v), self.begun_ms, 0, *tied_to] for key, v in metrics.items()]
        self._write("metrics", tied)

    def log_predictions(
        self,
        paths: Sequence[str],
        labels: Labels,
        logits: Logits,
        answers: Sequence[Prediction],
        classes: Classes,
    ) -> None:
        """Log a table of the answer for each validation picture; `logits` are the head's own."""
        table = pd.DataFrame([as_outside(asdict(answer), classes) for answer in answers])
        table = table.drop(columns="error")
        table = table.rename(columns={"label": "answer"})
        table.insert(0, "path", list(paths))
        table.insert(1, "label", labels)
        table.insert(2, "logit", logits)
        self._log_file(table.to_parquet(), "predictions/validation.parquet")
        # As mlflow.log_table does, which makes the UI show it as a table.
        shown = "predictions/validation.json"
        self._log_text(table.to_json(orient="split", index=False, date_format="iso"), shown)
        self.set_tags({MLFLOW_LOGGED_ARTIFACTS: json.dumps([{"path": shown, "type": "table"}])})

    def log_findings(
        self,
        metrics: Mapping[str, float],
        tables: Mapping[str, pd.DataFrame],
        worst_slice: str,
        page: str,
    ) -> None:
        """Log metrics with intervals, the tables behind them, and the report as a page."""
        self.log_metrics(metrics)
        for name, table in tables.items():
            self._log_text(table.to_csv(index=False), name)
        self._log_text(page, "report.html")
        if worst_slice:
            self.set_tags({"worst_slice": worst_slice})

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a figure as the artifact `name`."""
        stream = io.BytesIO()
        figure.savefig(stream, format=Path(name).suffix[1:])
        self._log_file(stream.getvalue(), name)

    def log_image(self, figure: Figure, key: str, *, step: int = 0) -> None:
        """Log a figure under a key by which the MLflow UI sets it beside those of other runs.

        It does so step by step and begins at 0: what is about the kept epoch stands there, since
        at that epoch's own step nothing would be shown where runs have kept different ones.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        # As mlflow.log_image names its files, where the UI reads key, step and time. With the
        # same name a picture that a resumed run logs again takes its own place.
        which = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.id}/{key}/{step}")
        name = f"images/{key}+step+{step}+timestamp+{self.begun_ms}+{which}"
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        picture, compressed = Image.fromarray(np.asarray(canvas.buffer_rgba())), io.BytesIO()
        compress_image_size(picture.convert("RGB")).save(compressed, "webp")
        self.log_figure(figure, f"{name}.png")
        self._log_file(compressed.getvalue(), f"{name}+compressed.webp")
        self.set_tags({MLFLOW_LOGGED_IMAGES: "True"})

    def describe(self, text: str) -> None:
        """Set the description that the MLflow UI shows for the run, in Markdown."""
        self.set_tags({"mlflow.note.content": text})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the active run."""
        self._write("tags", dict(tags))

    def _log_file(self, content: bytes, name: str) -> None:
        self._write("artifact", name, content)

    def _log_text(self, text: str, name: str) -> None:
        self._log_file(text.encode(), name)

    def _write(self, kind: Kind, content: Any, data: bytes | None = None) -> None:
        self._unsent.write(Write(kind, content, data))


class SilentRun(Run):
    """Of a process that trains along and logs nothing: what is logged here goes nowhere."""

    def __init__(self) -> None:
        self.folder, self.begun_ms, self._logged = Path(), 0, {}

    def _write(self, kind: Kind, content: Any, data: bytes | None = None) -> None:
        """Write nothing."""
