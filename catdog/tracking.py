"""The only module that writes to an MLflow run: parameters, metrics, pictures, the model.

Writes go through `catdog.outbox`, so that a server that is away stops no training.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import shlex
import shutil
import subprocess
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.multimedia import compress_image_size
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_LOGGED_IMAGES
from PIL import Image

import catdog
from catdog import CLASSES, CatdogError, Classes, signals, store
from catdog.classes import as_outside, probability_name
from catdog.outbox import (
    LAST_TRY,
    PATIENT,
    PROBE,
    Kind,
    Outbox,
    Write,
    limits,
    unreachable,
)

if TYPE_CHECKING:  # predicting finds its model through here, and must not wait for all that
    from matplotlib.figure import Figure
    from mlflow.models.model import ModelInfo

    from catdog.calibration import Labels, Logits
    from catdog.classifier import Prediction
    from catdog.evaluate import Confusion, Scores
    from catdog.findings import Findings
    from catdog.lessons import Pass
    from catdog.parity import Parity
    from catdog.state import Epoch
    from catdog.train import Fit


PINNED = (
    "mlflow",
    "torch",
    "torchvision",
    "timm",
    "openvino",
    "onnxruntime",
    "safetensors",
    "pillow",
    "numpy",
    "pandas",
    "pillow-heif",
)
"""What the registered model needs, or uses where it is installed; written into it with the
versions in use."""


DIGEST_LENGTH = 36
"""MLflow's limit for the digest of a data set."""

ASKED_FOR = ("features_computed", "val_loss")
"""Metrics that are not logged a second time when a run goes on."""

_logged_before: dict[str, dict[str, set[int]]] = {}
"""What a resumed run had: asked once, since the server may be away when it matters."""

_outboxes: dict[str, Outbox] = {}
"""The way to each run that this process has open, by the run's id."""


@contextlib.contextmanager
def start_run(
    name: str, data_dir: Path = Path("data"), *, resume: str | None = None
) -> Iterator[mlflow.ActiveRun]:
    """The run that `mlflow run` has begun, else a new one in the experiment `catdog`.

    It ends as FINISHED, as FAILED after an exception, and as KILLED when interrupted. With the
    id of an earlier run in `resume`, that one runs again. What can't be sent to the tracking
    server meanwhile is kept below `data_dir`, in the run's folder.

    Raises:
        CatdogError: the store can't be opened, or something is still not sent at the end.
    """
    store.connect()
    if resume is not None:
        _set_aside(os.environ.pop("MLFLOW_RUN_ID", None), resume)
    elif not os.environ.get("MLFLOW_RUN_ID"):
        mlflow.set_experiment(store.experiment_name())
    with signals.at_once(), mlflow.start_run(run_id=resume, log_system_metrics=True) as run:
        folder = run_folder(data_dir, run.info.run_id)
        _outboxes[run.info.run_id] = Outbox(folder / "outbox")
        if resume is None:
            set_tags({"mlflow.runName": name})
        else:
            send_kept(folder)  # so that the run knows all that it has logged
            _logged_before[resume] = {metric: _steps_of(resume, metric) for metric in ASKED_FOR}
            if "resume_with" in run.data.tags:
                mlflow.delete_tag("resume_with")
        store.describe_experiment(run.info.experiment_id)
        try:
            yield run
        except KeyboardInterrupt:
            _end("KILLED")
            raise
        except BaseException:
            _end("FAILED")
            raise
        _end("FINISHED")


def run_folder(data_dir: Path, run_id: str) -> Path:
    """Where on this machine a run keeps what is not on the server yet."""
    return data_dir / "runs" / run_id


def send_kept(folder: Path) -> None:
    """Send what the run of this folder (see `run_folder`) could not send.

    Raises:
        CatdogError: the server can't be reached, or refuses.
    """
    if not Outbox(folder / "outbox").send_all():
        raise _unsent(folder)


@contextlib.contextmanager
def registering() -> Iterator[None]:
    """For what can't be done without the server: all that is kept is sent first.

    Raises:
        CatdogError: the server can't be reached, before or meanwhile; says how to go on later.
    """
    folder = _outbox().folder.parent
    send_kept(folder)
    try:
        with limits(PATIENT, keep_set=True):
            yield
    except (MlflowException, CatdogError, OSError) as error:
        if not unreachable(error):
            raise
        raise _unsent(folder) from error


def ask_for_run() -> None:
    """Ask the server for the active run, and do nothing with the answer.

    Raises:
        MlflowException: the server can't be reached.
    """
    with limits(PROBE):
        MlflowClient().get_run(run_id())


def run_id() -> str:
    """The id of the active run."""
    return str(_active_run().info.run_id)


def status_of(run_id: str) -> str | None:
    """A run's status, RUNNING say; None when the store has no such run, or it was deleted.

    Raises:
        CatdogError: the store does not say.
    """
    store.connect()
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise CatdogError(
            f"the MLflow store {store.shown_uri()} does not say what became of run {run_id} "
            f"({store.told(error)}): try again when it answers."
        ) from error
    return run.info.status if run.info.lifecycle_stage == "active" else None


def logged_steps(metric: str) -> set[int]:
    """The steps at which the active run had `metric`, of `ASKED_FOR`, when it was resumed."""
    return _logged_before.get(run_id(), {}).get(metric, set())


def _steps_of(run: str, metric: str) -> set[int]:
    return {measured.step for measured in MlflowClient().get_metric_history(run, metric)}


def log_params(params: Mapping[str, Any]) -> None:
    """Log the parameters that the run does not have yet.

    `mlflow run` has logged those that were typed, spelled as they were typed, and MLflow
    refuses another spelling of the same key (`1e-3` and `0.001`).
    """
    _write("params", {key: str(value) for key, value in params.items()})
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
                for name, version in _installed().items()
            },
            **_git_state(),
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
            _write("inputs", [[split, dict(dataset._to_mlflow_entity())]])
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
    """Log the numbers of an epoch and its validation confusion matrix, at step = epoch."""
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
    _log_picture(_pixels(confusion), "confusion_matrix", step=epoch.number)


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
    """Log numbers, with the time of now; without a step they are about the kept epoch."""
    now = time.time_ns() // 1_000_000
    _write("metrics", [[key, float(value), now, step] for key, value in metrics.items()])


def log_parity(parity: Parity) -> None:
    """Log how far the registered version's answers are from the training process's."""
    log_metrics(
        {"parity_max_abs_diff": parity.max_abs_diff}
        | {f"parity_{way}_abs_diff": value for way, value in parity.differences.items()}
    )


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


def log_findings(findings: Findings, page: str) -> None:
    """Log metrics with intervals, the tables behind them, and the report as a page."""
    log_metrics(findings.others)
    for name, table in findings.tables().items():
        _log_text(table.to_csv(index=False), name)
    _log_text(page, "report.html")
    if findings.worst:
        worst = findings.worst
        set_tags({"worst_slice": f"{worst.group}: {worst.name} ({worst.verdict})"})


def run_identity() -> str:
    """Which run this is, when it began, and from which commit."""
    info = _active_run().info
    began = datetime.fromtimestamp(info.start_time / 1000, UTC)
    state = _git_state()
    changed = " with changes" if state.get("git_dirty") == "true" else ""
    return f"run {info.run_id}, {began:%Y-%m-%d %H:%M} UTC, commit {state['git_commit']}{changed}"


def versions() -> dict[str, str]:
    """The versions of what the model needs, and of Python."""
    return {"python": platform.python_version(), "catdog": catdog.__version__} | _installed()


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
    # The names that mlflow.log_image gives; the UI reads key, step and time from them.
    now = time.time_ns() // 1_000_000
    name = f"images/{key}+step+{step}+timestamp+{now}+{uuid.uuid4()}"
    picture = Image.fromarray(pixels)
    _log_file(_encoded(picture, "png"), f"{name}.png")
    _log_file(_encoded(compress_image_size(picture), "webp"), f"{name}+compressed.webp")
    set_tags({MLFLOW_LOGGED_IMAGES: "True"})


def log_model(
    folder: Path,
    example: bytes,
    *,
    step: int,
    tags: Mapping[str, str],
    classes: Classes = CLASSES,
) -> ModelInfo:
    """Log a saved classifier as an MLflow model that takes picture bytes.

    Args:
        folder: what `Classifier.save` wrote.
        example: a JPEG, kept as the model's input example.
        step: the epoch that the weights are from.
        tags: of the logged model.
        classes: what it tells apart.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema(
            [
                ColSpec("string", "label"),
                ColSpec("double", "confidence"),
                ColSpec("double", probability_name(classes)),
                ColSpec("double", "familiarity"),
                ColSpec("string", "error"),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("reject", "boolean", True),
                ParamSpec("threshold", "double", 0.5),
                ParamSpec("tta", "boolean", False),
            ]
        ),
    )
    logged: ModelInfo = mlflow.pyfunc.log_model(
        name="model",
        loader_module="catdog.classifier",
        data_path=str(folder),
        code_paths=[str(Path(catdog.__file__).parent)],
        signature=signature,
        input_example=pd.DataFrame({"image": [example]}),
        # 2.9.0+cu130 can't be installed from PyPI, 2.9.0 can.
        pip_requirements=[
            f"{name}=={version.split('+')[0]}" for name, version in _installed().items()
        ],
        step=step,
        tags=dict(tags),
    )
    return logged


def describe_run(text: str) -> None:
    """Set the description that the MLflow UI shows for the run, in Markdown."""
    set_tags({"mlflow.note.content": text})


def set_tags(tags: Mapping[str, str]) -> None:
    """Tag the active run."""
    _write("tags", dict(tags))


def _active_run() -> mlflow.ActiveRun:
    run = mlflow.active_run()
    if run is None:
        raise RuntimeError("this needs an active run: call it within catdog.tracking.start_run")
    return run


def _write(kind: Kind, content: Any, data: bytes | None = None) -> None:
    _outbox().write(Write(run_id(), kind, content, data))


def _log_file(content: bytes, name: str) -> None:
    _write("artifact", name, content)


def _log_text(text: str, name: str) -> None:
    _log_file(text.encode(), name)


def _outbox() -> Outbox:
    return _outboxes[run_id()]


def _end(status: str) -> None:
    """End the active run; one of which something can't be sent stays unfinished."""
    outbox = _outbox()
    try:
        sent = outbox.send_all(LAST_TRY if status == "FINISHED" else 0)
    except CatdogError:
        if status == "FINISHED":
            raise
        sent = False  # what ends the run matters more, and is told
    try:
        with contextlib.nullcontext() if sent else limits(PROBE):
            mlflow.end_run(status if sent else "FAILED")
    except MlflowException as error:
        if not unreachable(error):
            raise
        sent = False
    folder = outbox.folder.parent
    _outboxes.pop(folder.name, None)
    if status == "FINISHED" and not sent:
        raise _unsent(folder)
    if status == "FINISHED":
        shutil.rmtree(folder / "model", ignore_errors=True)  # which the registry has


def _unsent(folder: Path) -> CatdogError:
    model = folder / "model"
    kept = f"the model in {model}, what was logged" if model.is_dir() else "what was logged"
    home = folder.resolve().parents[1]
    where = "" if home == store.ROOT / "data" else f" -P {shlex.quote(f'data_dir={home}')}"
    return CatdogError(
        f"the tracking server {store.shown_uri()} can't be reached; kept for it: {kept} "
        f"in {folder / 'outbox'}. When it is back, type: "
        f"mlflow run . --env-manager=local -P resume={folder.name}{where}"
    )


def _set_aside(begun: str | None, resumed: str) -> None:
    """End the run that `mlflow run` has begun, as another goes on in its place.

    It is shown below that one. It can't be deleted: `mlflow run` still tags it when all is done.
    """
    if begun is None or begun == resumed:
        return
    client = MlflowClient()
    client.set_tag(begun, "mlflow.parentRunId", resumed)
    client.set_tag(begun, "mlflow.runName", f"resumed {resumed}")
    client.set_terminated(begun)


def _git_state() -> dict[str, str]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(store.ROOT), *arguments]
        ended = subprocess.run(command, capture_output=True, check=True)
        return ended.stdout.decode(errors="replace").strip()

    try:
        return {
            "git_commit": git("rev-parse", "HEAD"),
            "git_dirty": str(bool(git("status", "--porcelain"))).lower(),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": "unknown"}  # a copy without its history, or no git here


def _installed() -> dict[str, str]:
    found = {}
    for name in PINNED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _encoded(picture: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form)
    return stream.getvalue()


def _pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
