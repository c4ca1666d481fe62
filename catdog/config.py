"""Every parameter, declared once: field = command-line flag = `-P` name = MLflow parameter.

Each dataclass below is what one entry point of MLproject accepts; `catdog.arguments` reads it
from a command line. Nothing here imports more than the parser, so that a wrong flag is answered
at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from catdog import AUTO

Help = tyro.conf.arg


@dataclass(frozen=True)
class Range:
    """The allowed values of a number: `low <= value <= high`, both ends inside."""

    low: float
    high: float


@dataclass(frozen=True)
class Words:
    """What a text may be: all of it matches `pattern`, which `told` says in words."""

    pattern: str
    told: str


MODEL_NAME = Words(
    r"\w([\w .()+-]*[\w)+])?",
    "letters, digits, spaces and . _ - + ( ), with a letter or a digit in front",
)
"""A name in the registry becomes part of a URI and of a question to the store."""

Device = Literal["auto", "cuda", "mps", "cpu"]
Promote = Literal["auto", "never", "always"]
Format = Literal["text", "json", "jsonl", "csv", "kaggle"]
YesNo = Literal["yes", "no"]


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and where prepared ones are kept."""

    dataset: Annotated[
        str,
        Help(
            help="auto (Kaggle with a token, else the drawn sample), kaggle, "
            "kaggle:OWNER/NAME, sample, or the path of an archive or a folder"
        ),
    ] = "auto"
    classes: Annotated[
        str,
        Help(
            help="NEGATIVE,POSITIVE, as ant,bee: what is told apart; auto: cat,dog, or what the "
            "two folders of the data set are called"
        ),
    ] = AUTO
    data_dir: Annotated[str, Help(help="folder for downloads and prepared pictures")] = "data"
    seed: Annotated[
        int,
        Range(0, 2**31 - 1),
        Help(help="of the drawn sample, the split, the head's first weights and the shuffling"),
    ] = 0


@dataclass(frozen=True)
class DownloadConfig(DataConfig):
    """Fetch the pictures: Kaggle's archive, or draw the sample."""


@dataclass(frozen=True)
class PrepareConfig(DataConfig):
    """Unpack, check and sort the pictures into training/, validation/ and test/."""

    val_fraction: Annotated[
        float,
        Range(0.01, 0.9),
        Help(help="share of each class held back for validation"),
    ] = 0.2
    exclude: Annotated[
        str,
        Help(
            help="file with a path or sha256 digest in each line, of pictures to leave out; or none"
        ),
    ] = "none"


@dataclass(frozen=True)
class HeadConfig(DataConfig):
    """What a sweep searches."""

    views: Annotated[
        int,
        Range(0, 1_000),
        Help(
            help="views of each picture whose features are computed, once: the plain one, then "
            "augmented ones; 0: a new augmentation, and the backbone, in every epoch"
        ),
    ] = 1
    batch_size: Annotated[int, Range(1, 65_536), Help(help="pictures in an optimizer step")] = 32
    learning_rate: Annotated[float, Range(1e-8, 10), Help(help="of the optimizer (AdamW)")] = 0.002
    weight_decay: Annotated[float, Range(0, 10), Help(help="of the optimizer (AdamW)")] = 0.01


@dataclass(frozen=True)
class FixedConfig(DataConfig):
    """What a sweep leaves as it is."""

    epochs: Annotated[
        int, Range(1, 10_000), Help(help="passes over the training pictures, at most")
    ] = 10
    patience: Annotated[
        int,
        Range(1, 10_000),
        Help(help="epochs without a better validation loss before training stops"),
    ] = 3
    min_delta: Annotated[
        float,
        Range(0, 10),
        Help(help="by how much the validation loss must fall to count as better"),
    ] = 0.0
    unfreeze: Annotated[
        str,
        Help(
            help="fine-tune the backbone after the head: none, all, or how many of its last blocks"
        ),
    ] = "none"
    finetune_epochs: Annotated[int, Range(1, 10_000), Help(help="of fine-tuning, at most")] = 5
    finetune_rate: Annotated[
        float, Range(1e-8, 10), Help(help="learning rate of the backbone while it is fine-tuned")
    ] = 0.0001
    keep_share: Annotated[
        float,
        Range(0.5, 1.0),
        Help(help="share of validation photos not to be called neither; 1: no photo ever is"),
    ] = 0.99
    backbone: Annotated[str, Help(help="name of a timm model, resnet18 say")] = (
        "tf_efficientnet_lite0"
    )
    weights: Annotated[
        str,
        Help(help="pretrained, none (random), or a file of the backbone's weights"),
    ] = "pretrained"
    device: Annotated[Device, Help(help="auto takes CUDA, then MPS, then the CPU")] = "auto"
    resume: Annotated[
        str,
        Help(
            help="id of a run that was cut and shall go on; auto: the latest one of the same "
            "parameters and pictures, else a new one; or none"
        ),
    ] = "none"
    registered_model_name: Annotated[str, MODEL_NAME, Help(help="name in the model registry")] = (
        "catdog"
    )
    promote: Annotated[
        Promote,
        Help(
            help="who may take the place in Production: auto, who is surely better on the same "
            "photos; never; always"
        ),
    ] = "auto"
    promote_margin: Annotated[
        float,
        Range(0, 1),
        Help(help="how much less accurate, as a share, it may look for better probabilities"),
    ] = 0.005


@dataclass(frozen=True)
class TrainConfig(FixedConfig, HeadConfig):
    """Train the head on the frozen backbone, and register the best model."""

    processes: Annotated[
        int,
        Range(1, 1024),
        Help(help="how many train together on this machine, with a GPU each where it has them"),
    ] = 1


@dataclass(frozen=True)
class MainConfig(TrainConfig, PrepareConfig):
    """Download, prepare and train, as one MLflow run."""


@dataclass(frozen=True)
class SweepConfig(FixedConfig, PrepareConfig):
    """Search the head's parameters in many short trials, then train with the best and register."""

    resume: Annotated[
        str,
        Help(
            help="id of a sweep's run that was cut; auto: the latest one of the same parameters "
            "and pictures, else a new one; or none"
        ),
    ] = "auto"
    trials: Annotated[int, Range(1, 100_000), Help(help="that the study shall have in all")] = 50
    most_views: Annotated[
        int,
        Range(1, 1_000),
        Help(help="the most views that a trial may learn from; the features of all are computed"),
    ] = 4
    search_fraction: Annotated[
        float,
        Range(0.01, 0.9),
        Help(help="share of each class of the training pictures that trials are judged on"),
    ] = 0.25
    storage: Annotated[
        str,
        Help(
            help="of the study: auto (sweeps.db in data_dir), or a database's URL, which several "
            "machines may share"
        ),
    ] = "auto"


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a registered model on a labelled folder, DIR/cat and DIR/dog for its classes."""

    data: Annotated[str, Help(help="folder with a sub-folder of pictures for each class")]
    model_uri: Annotated[str, Help(help="of the registry (models:/...), a run, or a folder")] = (
        "models:/catdog/Production"
    )
    format: Annotated[Literal["text", "json"], Help(help="of the answer")] = "text"
    device: Annotated[Device, Help(help="auto: the CPU; a GPU for models without ONNX")] = "auto"
    batch_size: Annotated[int, Range(1, 65_536), Help(help="pictures at once")] = 32


@dataclass(frozen=True)
class PredictConfig:
    """Label new photos with a registered model."""

    images: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        Help(
            help="files, folders, globs, http(s) addresses, or - for a list on stdin; auto: the "
            "test pictures of the model's data set"
        ),
    ] = ("auto",)
    model_uri: Annotated[str, Help(help="of the registry (models:/...), a run, or a folder")] = (
        "models:/catdog/Production"
    )
    format: Annotated[
        Format, Help(help="of the answer: a table for people, for programs, a Kaggle submission")
    ] = "text"
    output: Annotated[str, Help(help="file for the answer; - is the terminal")] = "-"
    sort_into: Annotated[
        str,
        Help(help="folder to copy photos to, into one for each answer (cat/, neither/); or none"),
    ] = "none"
    explain: Annotated[
        str, Help(help="folder for pictures of what each answer rests on; or none")
    ] = "none"
    reject: Annotated[
        YesNo,
        Help(help="answer neither where a photo looks like nothing known; no: --no-reject"),
    ] = "yes"
    threshold: Annotated[
        float, Range(0, 1), Help(help="p_dog above which a photo is labelled dog, for any classes")
    ] = 0.5
    tta: Annotated[YesNo, Help(help="answers from the picture and its mirror image")] = "no"
    data_dir: Annotated[str, Help(help="where prepared pictures are kept")] = "data"
    device: Annotated[Device, Help(help="auto: the CPU; a GPU for models without ONNX")] = "auto"
    batch_size: Annotated[
        int, Range(0, 65_536), Help(help="pictures at once; 0: what suits the device")
    ] = 0


@dataclass(frozen=True)
class AuditConfig(DataConfig):
    """Look for wrong labels, near-duplicates and odd pictures in a prepared data set."""

    backbone: Annotated[str, Help(help="name of a timm model, resnet18 say")] = (
        "tf_efficientnet_lite0"
    )
    weights: Annotated[
        str,
        Help(help="pretrained, none (random), or a file of the backbone's weights"),
    ] = "pretrained"
    device: Annotated[Device, Help(help="auto takes CUDA, then MPS, then the CPU")] = "auto"
    output: Annotated[
        str, Help(help="file for the list of issues; auto: audit.csv beside the manifest")
    ] = "auto"


@dataclass(frozen=True)
class ExportConfig:
    """Write a registered model as a folder for ONNX Runtime, without catdog and PyTorch."""

    to: Annotated[str, Help(help="new folder for model.onnx, preprocessing.json and an example")]
    model_uri: Annotated[str, Help(help="of the registry (models:/...), a run, or a folder")] = (
        "models:/catdog/Production"
    )


@dataclass(frozen=True)
class ClearCacheConfig:
    """Delete cached features, and runs that were cut, that have not been used for a while."""

    data_dir: Annotated[str, Help(help="folder for downloads and prepared pictures")] = "data"
    days: Annotated[
        float, Range(0, 36_500), Help(help="keep what was used in this many days; 0: nothing")
    ] = 30.0


@dataclass(frozen=True)
class AppConfig:
    """Label photos on a web page, on this machine alone."""

    model_uri: Annotated[str, Help(help="of the registry (models:/...), a run, or a folder")] = (
        "models:/catdog/Production"
    )
    host: Annotated[str, Help(help="address to listen at; any but 127.0.0.1 lets others in")] = (
        "127.0.0.1"
    )
    port: Annotated[
        int, Range(0, 65_535), Help(help="to listen at; where it is taken, a free one")
    ] = 7860
    open: Annotated[Literal["yes", "no"], Help(help="whether to open the page in the browser")] = (
        "yes"
    )
    device: Annotated[Device, Help(help="auto: the CPU; a GPU for models without ONNX")] = "auto"


@dataclass(frozen=True)
class ServeConfig:
    """Answer over HTTP, as `mlflow models serve` does, and run no code of the model."""

    model_uri: Annotated[str, Help(help="of the registry (models:/...), a run, or a folder")] = (
        "models:/catdog/Production"
    )
    host: Annotated[str, Help(help="address to listen at; any but 127.0.0.1 lets others in")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Range(0, 65_535), Help(help="to listen at; 0: a free one")] = 5001
    max_body_mb: Annotated[
        int, Range(1, 500), Help(help="largest request, in megabytes; a photo takes 4/3 of its own")
    ] = 50
    device: Annotated[Device, Help(help="auto: the CPU; a GPU for models without ONNX")] = "auto"


@dataclass(frozen=True)
class PromoteConfig:
    """Say who serves: compare a version with the one in Production, go back, or look back.

    Without --to, --rollback and --history the newest version that is not in Production is
    compared with the one that is, on photos that neither learned from.
    """

    name: Annotated[str, MODEL_NAME, Help(help="of the registered model")] = "catdog"
    version: Annotated[
        str, Help(help="of the challenger; latest: the newest that is not in Production")
    ] = "latest"
    to: Annotated[str, Help(help="version to promote without a comparison; or none")] = "none"
    because: Annotated[str, Help(help="why, for --to and --rollback; kept in the history")] = ""
    rollback: Annotated[YesNo, Help(help="promote the version that served before")] = "no"
    history: Annotated[
        YesNo, Help(help="list who served since when, by whom, from which run, and why")
    ] = "no"
    dry_run: Annotated[YesNo, Help(help="say what would be done, and do nothing")] = "no"
    margin: Annotated[
        float,
        Range(0, 1),
        Help(help="how much less accurate, as a share, it may look for better probabilities"),
    ] = 0.005
    dataset: Annotated[
        str, Help(help="prepared data set to compare on; auto: the challenger's own")
    ] = "auto"
    data: Annotated[
        str, Help(help="labelled folder to compare on instead, DIR/cat and DIR/dog say; or none")
    ] = "none"
    data_dir: Annotated[str, Help(help="where prepared pictures and features are kept")] = "data"


@dataclass(frozen=True)
class ScoreConfig:
    """Label any number of pictures with Spark, on this machine or on many."""

    input: Annotated[str, Help(help="folder of pictures, or its URI for Spark, as s3a://...")]
    output: Annotated[str, Help(help="folder of a Parquet table that answers are added to")]
    model_uri: Annotated[str, Help(help="of the registry (models:/...), or of a run")] = (
        "models:/catdog/Production"
    )
    master: Annotated[
        str, Help(help="of Spark: local[2] for two workers here, or the address of a cluster")
    ] = "local[2]"
