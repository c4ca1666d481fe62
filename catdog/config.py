"""Every parameter, declared once: field = command-line flag = `-P` name = MLflow parameter.

Each dataclass is what one entry point of MLproject accepts; `catdog.cli` reads it from a command
line. A field's type says which values are allowed; the text below it, or in its type where several
share that, is what `--help` says. Nothing here imports more than the parser, so that a wrong flag
is answered at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from catdog import AUTO


@dataclass(frozen=True)
class Range:
    """The allowed values of a number: `low <= value <= high`, both ends inside."""

    low: float
    high: float


@dataclass(frozen=True)
class Pattern:
    """What a text may be: all of it matches `regex`, which `words` says in words."""

    regex: str
    words: str


YesNo = Literal["yes", "no"]
Format = Literal["text", "json", "jsonl", "csv", "kaggle"]
Promote = Literal["auto", "never", "always"]

Fraction = Annotated[float, Range(0.01, 0.9)]
Rate = Annotated[float, Range(1e-8, 10)]
Count = Annotated[int, Range(1, 10_000)]
BatchSize = Annotated[int, Range(1, 65_536)]
Port = Annotated[int, Range(0, 65_535)]
ModelName = Annotated[
    str,
    Pattern(
        r"\w([\w .()+-]*[\w)+])?",
        "letters, digits, spaces and . _ - + ( ), with a letter or a digit in front",
    ),
]
"""A name in the registry becomes part of a URI and of a question to the store."""

PATH = "path"
"""Marks a text that may be a path: a ~ before it means the home folder, as shells have it."""
PathName = Annotated[str, PATH]

Help = tyro.conf.arg
Device = Literal["auto", "cuda", "mps", "cpu"]
TrainingDevice = Annotated[Device, Help(help="auto takes CUDA, then MPS, then the CPU")]
ServingDevice = Annotated[Device, Help(help="auto: the CPU; a GPU for models without ONNX")]
DataDir = Annotated[str, PATH, Help(help="folder for downloads, prepared pictures and features")]
ModelUri = Annotated[str, PATH, Help(help="of the registry (models:/...), a run, or a folder")]
Host = Annotated[str, Help(help="address to listen at; any but 127.0.0.1 lets others in")]
Margin = Annotated[
    float,
    Range(0, 1),
    Help(help="how much less accurate, as a share, it may look for better probabilities"),
]

PRODUCTION = "models:/catdog/Production"


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and where prepared ones are kept."""

    dataset: PathName = "auto"
    """auto (Kaggle with a token, else the drawn sample), kaggle, kaggle:OWNER/NAME, sample,
    or the path of an archive or a folder"""
    classes: str = AUTO
    """NEGATIVE,POSITIVE, as ant,bee: what is told apart;
    auto: cat,dog, or what the two folders of the data set are called"""
    data_dir: DataDir = "data"
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """of the drawn sample, the split, the head's first weights and the shuffling"""


@dataclass(frozen=True)
class DownloadConfig(DataConfig):
    """Fetch the pictures: Kaggle's archive, or draw the sample."""


@dataclass(frozen=True)
class PrepareConfig(DataConfig):
    """Unpack, check and sort the pictures into training/, validation/ and test/."""

    val_fraction: Fraction = 0.2
    """share of each class held back for validation"""
    exclude: PathName = "none"
    """file with a path or sha256 digest in each line, of pictures to leave out; or none"""


@dataclass(frozen=True)
class ModelConfig:
    """The backbone that features come from, and what it runs on."""

    backbone: str = "tf_efficientnet_lite0"
    """name of a timm model, resnet18 say"""
    weights: PathName = "pretrained"
    """pretrained, none (random), or a file of the backbone's weights"""
    device: TrainingDevice = "auto"


@dataclass(frozen=True)
class OptimConfig:
    """How the head learns from features; what a sweep searches."""

    views: Annotated[int, Range(0, 1_000)] = 1
    """views of each picture whose features are computed, once: the plain one, then augmented ones;
    0: a new augmentation, and the backbone, in every epoch"""
    batch_size: BatchSize = 32
    """pictures in an optimizer step"""
    learning_rate: Rate = 0.002
    """of the optimizer (AdamW)"""
    weight_decay: Annotated[float, Range(0, 10)] = 0.01
    """of the optimizer (AdamW)"""


@dataclass(frozen=True)
class StoppingConfig:
    """How long is trained, and whether the backbone is fine-tuned after the head."""

    epochs: Count = 10
    """passes over the training pictures, at most"""
    patience: Count = 3
    """epochs without a better validation loss before training stops"""
    min_delta: Annotated[float, Range(0, 10)] = 0.0
    """by how much the validation loss must fall to count as better"""
    unfreeze: str = "none"
    """fine-tune the backbone after the head: none, all, or how many of its last blocks"""
    finetune_epochs: Count = 5
    """of fine-tuning, at most"""
    finetune_rate: Rate = 0.0001
    """learning rate of the backbone while it is fine-tuned"""


@dataclass(frozen=True)
class RunConfig:
    """The run in MLflow, and what becomes of its model."""

    keep_share: Annotated[float, Range(0.5, 1.0)] = 0.99
    """share of validation photos not to be called neither; 1: no photo ever is"""
    resume: str = "none"
    """id of a run that was cut and shall go on;
    auto: the latest one of the same parameters and pictures, else a new one; or none"""
    registered_model_name: ModelName = "catdog"
    """name in the model registry"""
    promote: Promote = "auto"
    """who may take the place in Production:
    auto, who is surely better on the same photos; never; always"""
    promote_margin: Margin = 0.005


@dataclass(frozen=True)
class TrainConfig(RunConfig, StoppingConfig, OptimConfig, ModelConfig, DataConfig):
    """Train the head on the frozen backbone, and register the best model."""

    processes: Annotated[int, Range(1, 1024)] = 1
    """how many train together on this machine, with a GPU each where it has them"""


@dataclass(frozen=True)
class MainConfig(TrainConfig, PrepareConfig):
    """Download, prepare and train, as one MLflow run."""


@dataclass(frozen=True)
class SweepConfig(RunConfig, StoppingConfig, ModelConfig, PrepareConfig):
    """Search the head's parameters in many short trials, then train with the best and register."""

    resume: str = "auto"
    """id of a sweep's run that was cut;
    auto: the latest one of the same parameters and pictures, else a new one; or none"""
    trials: Annotated[int, Range(1, 100_000)] = 50
    """that the study shall have in all"""
    most_views: Annotated[int, Range(1, 1_000)] = 4
    """the most views that a trial may learn from; the features of all are computed"""
    search_fraction: Fraction = 0.25
    """share of each class of the training pictures that trials are judged on"""
    storage: str = "auto"
    """of the study: auto (sweeps.db in data_dir), or a database's URL, which several machines
    may share"""


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a registered model on labelled pictures, in DIR/cat and DIR/dog say."""

    data: PathName
    """folder or archive, labelled as a data set to train on is"""
    model_uri: ModelUri = PRODUCTION
    format: Literal["text", "json"] = "text"
    """of the answer"""
    device: ServingDevice = "auto"
    batch_size: Annotated[int, Range(0, 65_536)] = 0
    """pictures at once; 0: what suits the device"""


@dataclass(frozen=True)
class PredictConfig:
    """Label new photos with a registered model."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional] = ("auto",)
    """files, folders, globs, http(s) addresses, or - for a list on stdin;
    auto: the test pictures of the model's data set"""
    model_uri: ModelUri = PRODUCTION
    format: Format = "text"
    """of the answer: a table for people, for programs, a Kaggle submission"""
    output: PathName = "-"
    """file for the answer; - is the terminal"""
    sort_into: PathName = "none"
    """folder to copy photos to, into one for each answer (cat/, neither/); or none"""
    explain: PathName = "none"
    """folder for pictures of what each answer rests on; or none"""
    reject: YesNo = "yes"
    """answer neither where a photo looks like nothing known; no: --no-reject"""
    threshold: Annotated[float, Range(0, 1)] = 0.5
    """p_dog above which a photo is labelled dog, for any classes"""
    tta: YesNo = "no"
    """answers from the picture and its mirror image"""
    data_dir: DataDir = "data"
    device: ServingDevice = "auto"
    batch_size: Annotated[int, Range(0, 65_536)] = 0
    """pictures at once; 0: what suits the device"""


@dataclass(frozen=True)
class AuditConfig(ModelConfig, DataConfig):
    """Look for wrong labels, near-duplicates and odd pictures in a prepared data set."""

    output: PathName = "auto"
    """file for the list of issues; auto: audit.csv beside the manifest"""


@dataclass(frozen=True)
class ExportConfig:
    """Write a registered model as a folder for ONNX Runtime, without catdog and PyTorch."""

    to: PathName
    """new folder for model.onnx, preprocessing.json and an example"""
    model_uri: ModelUri = PRODUCTION


@dataclass(frozen=True)
class ClearCacheConfig:
    """Delete cached features, and runs that were cut, that have not been used for a while."""

    data_dir: DataDir = "data"
    days: Annotated[float, Range(0, 36_500)] = 30.0
    """keep what was used in this many days; 0: nothing"""


@dataclass(frozen=True)
class AppConfig:
    """Label photos on a web page, on this machine alone."""

    model_uri: ModelUri = PRODUCTION
    host: Host = "127.0.0.1"
    port: Port = 7860
    """to listen at; 0: a free one"""
    open: YesNo = "yes"
    """whether to open the page in the browser"""
    device: ServingDevice = "auto"


@dataclass(frozen=True)
class ServeConfig:
    """Answer over HTTP, as `mlflow models serve` does, and run no code of the model."""

    model_uri: ModelUri = PRODUCTION
    host: Host = "127.0.0.1"
    port: Port = 5001
    """to listen at; 0: a free one"""
    max_body_mb: Annotated[int, Range(1, 500)] = 50
    """largest request, in megabytes; a photo takes 4/3 of its own"""
    device: ServingDevice = "auto"


@dataclass(frozen=True)
class PromoteConfig:
    """Say who serves: compare a version with the one in Production, go back, or look back.

    Without --to, --rollback and --history the newest version that is not in Production is
    compared with the one that is, on photos that neither learned from.
    """

    name: ModelName = "catdog"
    """of the registered model"""
    version: str = "latest"
    """of the challenger; latest: the newest that is not in Production"""
    to: str = "none"
    """version to promote without a comparison; or none"""
    because: str = ""
    """why, for --to and --rollback; the history keeps 1000 characters of it"""
    rollback: YesNo = "no"
    """promote the version that served before"""
    history: YesNo = "no"
    """list who served since when, by whom, from which run, and why"""
    dry_run: YesNo = "no"
    """say what would be done, and do nothing"""
    margin: Margin = 0.005
    dataset: PathName = "auto"
    """prepared data set to compare on; auto: the challenger's own"""
    data: PathName = "none"
    """labelled folder to compare on instead, DIR/cat and DIR/dog say; or none"""
    data_dir: DataDir = "data"


@dataclass(frozen=True)
class ScoreConfig:
    """Label any number of pictures with Spark, on this machine or on many."""

    input: PathName
    """folder of pictures, or its URI for Spark, as s3a://..."""
    output: PathName
    """folder of a Parquet table that answers are added to"""
    model_uri: Annotated[str, Help(help="of the registry (models:/...), or of a run")] = PRODUCTION
    master: str = "local[2]"
    """of Spark: local[2] for two workers here, or the address of a cluster"""
