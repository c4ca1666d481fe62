"""The only module that writes to an MLflow run: parameters, metrics, pictures, the model."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

import catdog
from catdog import CatdogError

if TYPE_CHECKING:  # predicting finds its model through here, and must not wait for all that
    from matplotlib.figure import Figure
    from mlflow.models.model import ModelInfo

    from catdog.calibration import Labels, Logits
    from catdog.classifier import Prediction
    from catdog.evaluate import Scores
    from catdog.findings import Findings
    from catdog.lessons import Pass
    from catdog.parity import Parity
    from catdog.train import Epoch, Fit

EXPERIMENT = "catdog"
ROOT = Path(catdog.__file__).resolve().parents[1]
"""The project's folder, where MLproject, mlflow.db and mlruns/ stand."""

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

EXPERIMENT_TAGS = {
    "mlflow.note.content": "Cats and dogs: a frozen backbone and a one-logit head. "
    "Sort by `val_log_loss`, which is of the kept epoch; pictures compare under *Artifacts*.",
    # Without it the UI opens with the tabs for prompts and traces.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "val_log_loss",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "False",
}

DIGEST_LENGTH = 36
"""MLflow's limit for the digest of a data set."""


def connect() -> None:
    """Use the store that `mlflow ui` shows when started in the project's folder.

    `MLFLOW_TRACKING_URI` names another. Scripts started from elsewhere, and `mlflow run`,
    meet in the same store.

    Raises:
        CatdogError: the store can't be opened.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        home = ROOT if (ROOT / "MLproject").is_file() else Path.cwd()
        mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
        # The store takes its artifact folder, ./mlruns, from where it is first opened.
        with contextlib.chdir(home):
            _open_store()
    else:
        _open_store()


def store_uri() -> str:
    """The store's URI as another process, in another folder, can use it."""
    uri = mlflow.get_tracking_uri()
    scheme, _, path = uri.partition(":///")
    if scheme == "sqlite" and path and not Path(path).is_absolute():
        return f"sqlite:///{Path(path).resolve()}"
    return uri


@contextlib.contextmanager
def start_run(name: str) -> Iterator[mlflow.ActiveRun]:
    """The run that `mlflow run` has begun, else a new one in the experiment `catdog`.

    It ends as FINISHED, as FAILED after an exception, and as KILLED when interrupted.
    """
    connect()
    if not os.environ.get("MLFLOW_RUN_ID"):
        mlflow.set_experiment(_experiment_name())
    with _sigterm_interrupts(), mlflow.start_run(log_system_metrics=True) as run:
        mlflow.set_tag("mlflow.runName", name)
        _describe_experiment(run.info.experiment_id)
        try:
            yield run
        except KeyboardInterrupt:
            mlflow.end_run("KILLED")
            raise


def log_params(params: Mapping[str, Any]) -> None:
    """Log the parameters that the run does not have yet.

    `mlflow run` has logged those that were typed, spelled as they were typed, and MLflow
    refuses another spelling of the same key (`1e-3` and `0.001`).
    """
    known = MlflowClient().get_run(mlflow.active_run().info.run_id).data.params
    mlflow.log_params({key: value for key, value in params.items() if key not in known})
    mlflow.log_dict(dict(params), "config.json")


def log_environment(device: str) -> None:
    """Tag the run with device, versions and the git commit."""
    mlflow.set_tags(
        {
            "device": device,
            "python_version": platform.python_version(),
            "platform": platform.platform(),
            "catdog_version": catdog.__version__,
            **{f"{name}_version": version for name, version in _installed().items()},
            **_git_state(),
        }
    )


def log_data(
    manifest: Path, *, name: str, origin: str, digests: Mapping[str, str], drawn: bool
) -> None:
    """Log which pictures were used: the manifest, and a data set for each split.

    Args:
        manifest: CSV with the columns path, label, split, sha256, width, height.
        name: of the prepared data set.
        origin: where it came from.
        digests: of the splits "training" and "validation", of any length.
        drawn: whether the pictures were drawn by us.
    """
    rows = pd.read_csv(manifest, keep_default_na=False)
    for split, digest in digests.items():
        with warnings.catch_warnings():
            # That integer columns can't hold missing values, and that a path is a path.
            warnings.simplefilter("ignore", UserWarning)
            dataset = mlflow.data.from_pandas(
                rows[rows["split"] == split].reset_index(drop=True),
                source=str(manifest.resolve()),
                targets="label",
                name=f"{name}-{split}",
                # MLflow's own digest reads the first 10,000 rows only.
                digest=digest[:DIGEST_LENGTH],
            )
            mlflow.log_input(dataset, context=split)
    mlflow.log_artifact(str(manifest), "data")
    mlflow.set_tags(
        {"dataset": name, "dataset_origin": origin, "data": "drawn" if drawn else "photos"}
        | {f"{split}_digest": digest for split, digest in digests.items()}
    )


def log_epoch(epoch: Epoch, confusion: Figure) -> None:
    """Log the numbers of an epoch and its validation confusion matrix, at step = epoch."""
    mlflow.log_metrics(
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
    mlflow.log_image(_pixels(confusion), key="confusion_matrix", step=epoch.number)


def log_fit(fit: Fit) -> None:
    """Log which epoch was kept and how good it is on the validation pictures."""
    best = fit.best
    mlflow.log_metrics(
        {
            "best_epoch": best.number,
            "best_val_loss": best.val.loss,
            "best_val_accuracy": best.val.accuracy,
            "best_val_roc_auc": best.val.roc_auc,
            "stopped_epoch": fit.epochs[-1].number,
        }
    )
    mlflow.set_tag("early_stopped", str(fit.stopped_early).lower())
    if fit.trouble:
        mlflow.set_tag("stopped_because", fit.trouble)
    mlflow.log_dict(best.val.confusion.to_dict(), "confusion_matrix.json")


def log_features(features: Pass) -> None:
    """Log what the one pass through the backbone cost."""
    mlflow.set_tag("feature_engine", features.engine.name)
    mlflow.log_metrics(
        {
            "features_computed": features.computed,
            "features_found": features.found,
            "feature_seconds": features.seconds,
        }
    )


def log_baseline(scores: Scores) -> None:
    """Log how good the validation answers are without any training."""
    mlflow.log_metrics(
        {
            "baseline_accuracy": scores.accuracy,
            "baseline_log_loss": scores.loss,
            "baseline_roc_auc": scores.roc_auc,
        }
    )


def log_metrics(metrics: Mapping[str, float]) -> None:
    """Log numbers about the kept epoch."""
    mlflow.log_metrics(dict(metrics))


def log_parity(parity: Parity) -> None:
    """Log how far the registered version's answers are from the training process's."""
    mlflow.log_metrics(
        {"parity_max_abs_diff": parity.max_abs_diff}
        | {f"parity_{way}_abs_diff": value for way, value in parity.differences.items()}
    )


def log_predictions(
    paths: Sequence[str], labels: Labels, logits: Logits, answers: Sequence[Prediction]
) -> None:
    """Log the answer for each validation picture, as a table: `logits` as the head gives them."""
    table = pd.DataFrame([asdict(answer) for answer in answers]).drop(columns="error")
    table = table.rename(columns={"label": "answer"})
    table.insert(0, "path", list(paths))
    table.insert(1, "label", labels)
    table.insert(2, "logit", logits)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "validation.parquet"
        table.to_parquet(path)
        mlflow.log_artifact(str(path), "predictions")
    mlflow.log_table(table, "predictions/validation.json")  # which the UI shows as a table


def log_findings(findings: Findings, page: str) -> None:
    """Log metrics with intervals, the tables behind them, and the report as a page."""
    mlflow.log_metrics(findings.others)
    for name, table in findings.tables().items():
        mlflow.log_text(table.to_csv(index=False), name)
    mlflow.log_text(page, "report.html")
    if findings.worst:
        worst = findings.worst
        mlflow.set_tag("worst_slice", f"{worst.group}: {worst.name} ({worst.verdict})")


def metrics_of_run(run_id: str) -> dict[str, float]:
    """The metrics of another run; none when it is gone."""
    try:
        return dict(MlflowClient().get_run(run_id).data.metrics)
    except MlflowException:
        return {}


def run_identity() -> str:
    """Which run this is, when it began, and from which commit."""
    info = mlflow.active_run().info
    began = datetime.fromtimestamp(info.start_time / 1000, UTC)
    state = _git_state()
    changed = " with changes" if state.get("git_dirty") == "true" else ""
    return f"run {info.run_id}, {began:%Y-%m-%d %H:%M} UTC, commit {state['git_commit']}{changed}"


def versions() -> dict[str, str]:
    """The versions of what the model needs, and of Python."""
    return {"python": platform.python_version(), "catdog": catdog.__version__} | _installed()


def log_figure(figure: Figure, name: str) -> None:
    """Log a figure as the artifact `name`."""
    mlflow.log_figure(figure, name)


def show(figure: Figure, key: str, *, step: int) -> None:
    """Log a figure under a key by which the MLflow UI sets it beside those of other runs."""
    mlflow.log_image(_pixels(figure), key=key, step=step)


def log_model(folder: Path, example: bytes, *, step: int, tags: Mapping[str, str]) -> ModelInfo:
    """Log a saved classifier as an MLflow model that takes picture bytes.

    Args:
        folder: what `Classifier.save` wrote.
        example: a JPEG, kept as the model's input example.
        step: the epoch that the weights are from.
        tags: of the logged model.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema(
            [
                ColSpec("string", "label"),
                ColSpec("double", "confidence"),
                ColSpec("double", "p_dog"),
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
    return mlflow.pyfunc.log_model(
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


def describe_run(text: str) -> None:
    """Set the description that the MLflow UI shows for the run, in Markdown."""
    mlflow.set_tag("mlflow.note.content", text)


def set_tags(tags: Mapping[str, str]) -> None:
    """Tag the active run."""
    mlflow.set_tags(dict(tags))


def ui_hint() -> str:
    """The command that shows the runs."""
    uri = mlflow.get_tracking_uri()
    if uri.endswith(f"{ROOT}/mlflow.db") or uri == "sqlite:///mlflow.db":
        return f"mlflow ui   (in {ROOT})"
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def _open_store() -> None:
    uri = mlflow.get_tracking_uri()
    try:
        _name_default_experiment(MlflowClient())
    except (MlflowException, OSError) as error:
        raise CatdogError(
            f"the MLflow store {uri} can't be opened: {str(error).splitlines()[0]}. "
            "Check MLFLOW_TRACKING_URI, or that the folder can be written to."
        ) from error


def _name_default_experiment(client: MlflowClient) -> None:
    """Call the store's default experiment `catdog` where it is ours.

    `mlflow run .` puts its runs into experiment 0 unless told otherwise, and a run can't be
    moved. Where other projects' runs live in it, it keeps its name.
    """
    default = client.get_experiment("0") if _has_default(client) else None
    if default is None or default.name != Experiment.DEFAULT_EXPERIMENT_NAME:
        return
    if client.get_experiment_by_name(EXPERIMENT) is None and _is_ours(client):
        client.rename_experiment("0", EXPERIMENT)


def _has_default(client: MlflowClient) -> bool:
    return any(experiment.experiment_id == "0" for experiment in client.search_experiments())


def _is_ours(client: MlflowClient) -> bool:
    ours = os.environ.get("MLFLOW_RUN_ID")
    return all(run.info.run_id == ours for run in client.search_runs(["0"], max_results=2))


def _describe_experiment(experiment_id: str) -> None:
    """Tell the MLflow UI how to show our experiment; what somebody has set is kept."""
    client = MlflowClient()
    experiment = client.get_experiment(experiment_id)
    if experiment.name != EXPERIMENT:
        return
    for key, value in EXPERIMENT_TAGS.items():
        if key not in experiment.tags:
            client.set_experiment_tag(experiment_id, key, value)


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does, so that no run stays RUNNING."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _git_state() -> dict[str, str]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

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


def _pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
