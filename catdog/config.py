"""Every parameter, declared once: field = command-line flag = `-P` name = MLflow parameter.

Each dataclass below is what one entry point of MLproject accepts. Nothing here touches
the disk or imports more than the parser, so that a wrong flag is answered at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import tyro

from catdog import CatdogError

Help = tyro.conf.arg


@dataclass(frozen=True)
class Range:
    """The allowed values of a number: `low <= value <= high`, both ends inside."""

    low: float
    high: float


Device = Literal["auto", "cuda", "mps", "cpu"]
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
class TrainConfig(DataConfig):
    """Train the head on the frozen backbone, and register the best model."""

    epochs: Annotated[
        int, Range(1, 10_000), Help(help="passes over the training pictures, at most")
    ] = 10
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
    registered_model_name: Annotated[str, Help(help="name in the model registry")] = "catdog"


@dataclass(frozen=True)
class MainConfig(TrainConfig, PrepareConfig):
    """Download, prepare and train, as one MLflow run."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a registered model on a labelled folder DIR/{cat,dog}."""

    data: Annotated[str, Help(help="folder with a sub-folder of pictures for each class")]
    model_uri: Annotated[str, Help(help="of the registry (models:/...), a run, or a folder")] = (
        "models:/catdog/Production"
    )
    format: Annotated[Literal["text", "json"], Help(help="of the answer")] = "text"
    device: Annotated[Device, Help(help="auto takes CUDA, then MPS, then the CPU")] = "auto"
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
        str, Help(help="folder to copy photos to, into cat/, dog/ and neither/ in it; or none")
    ] = "none"
    explain: Annotated[
        str, Help(help="folder for pictures of what each answer rests on; or none")
    ] = "none"
    reject: Annotated[
        YesNo,
        Help(help="answer neither where a photo looks like nothing known; no: --no-reject"),
    ] = "yes"
    threshold: Annotated[
        float, Range(0, 1), Help(help="p_dog above which a photo is labelled dog")
    ] = 0.5
    tta: Annotated[YesNo, Help(help="answers from the picture and its mirror image")] = "no"
    allow_private_urls: Annotated[
        YesNo, Help(help="also read addresses of this machine and its network")
    ] = "no"
    data_dir: Annotated[str, Help(help="where prepared pictures are kept")] = "data"
    device: Annotated[Device, Help(help="auto takes CUDA, then MPS, then the CPU")] = "auto"
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
    """Delete cached features that have not been used for a while."""

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
    device: Annotated[Device, Help(help="auto takes CUDA, then MPS, then the CPU")] = "auto"


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


Config = TypeVar("Config")


def parse(config_class: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Read a config from the command line (`sys.argv` without `argv`).

    Flags may be spelled with `_` or `-`; a yes may be typed as `--name`, a no as `--no-name`.
    A misspelled flag or a value of the wrong type ends the program with status 2 and a message.

    Raises:
        CatdogError: a value is outside its range; the text names it and the range.
    """
    arguments = _with_values(config_class, sys.argv[1:] if argv is None else argv)
    config = tyro.cli(
        config_class, args=arguments, use_underscores=True, config=(tyro.conf.FlagConversionOff,)
    )
    check_ranges(config)
    return config


def _with_values(config_class: type, argv: Sequence[str]) -> list[str]:
    """The arguments, with `--name` and `--no-name` of a yes or no as `--name=yes` and `=no`.

    MLproject can pass only values, and people type flags.
    """
    hints = get_type_hints(config_class)
    switches = {name for name, hint in hints.items() if hint == YesNo}
    end = argv.index("--") if "--" in argv else len(argv)
    flags = pairwise([*argv[:end], ""])
    return [*(_with_value(flag, following, switches) for flag, following in flags), *argv[end:]]


def _with_value(flag: str, following: str, switches: set[str]) -> str:
    name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
    if name in switches and following not in get_args(YesNo):
        return f"--{name}=yes"
    if name.removeprefix("no_") in switches - {name}:
        return f"--{name.removeprefix('no_')}=no"
    return flag


def check_ranges(config: Any) -> None:
    """Raise CatdogError when a number of `config` lies outside the range declared for it."""
    for name, limits in _ranges(type(config)).items():
        value = getattr(config, name)
        if not limits.low <= value <= limits.high:
            raise CatdogError(
                f"{name}={value} is out of range: "
                f"give a number from {limits.low:g} to {limits.high:g}, as in -P {name}=... "
                f"or --{name} ..."
            )


def _ranges(config_class: type) -> dict[str, Range]:
    hints = get_type_hints(config_class, include_extras=True)
    return {
        field.name: extra
        for field in fields(config_class)
        for extra in getattr(hints[field.name], "__metadata__", ())
        if isinstance(extra, Range)
    }
