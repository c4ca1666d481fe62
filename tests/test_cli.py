from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from catdog import CatdogError, cli
from catdog.cli import parse
from catdog.config import (
    AuditConfig,
    ClearCacheConfig,
    EvaluateConfig,
    ExportConfig,
    MainConfig,
    PredictConfig,
    PrepareConfig,
    PromoteConfig,
    ScoreConfig,
    TrainConfig,
)
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nA long story."),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_is_too_small_is_one_sentence_that_says_what_to_lower(capsys, error):
    def act(_config: ClearCacheConfig) -> int:
        raise error

    assert cli.run(act, ClearCacheConfig, []) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the memory is too small for this (")
    assert "lower batch_size, name a smaller backbone, or use device=cpu" in said
    assert said.count("\n") == 1


def test_any_other_error_of_pytorch_is_a_traceback():
    def act(_config: ClearCacheConfig) -> int:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape"):
        cli.run(act, ClearCacheConfig, [])


@pytest.mark.parametrize(("rank", "shown"), [("0", "one\nwarning: two\n"), ("1", "")])
def test_what_is_logged_is_plain_lines_on_stderr_of_rank_0_alone(monkeypatch, capsys, rank, shown):
    monkeypatch.setenv("RANK", rank)

    def act(_config: ClearCacheConfig) -> int:
        logging.getLogger("catdog.somewhere").info("one")
        logging.getLogger("catdog").warning("two")
        return 0

    assert cli.run(act, ClearCacheConfig, []) == 0
    assert capsys.readouterr() == ("", shown)
    logging.getLogger("catdog").info("nobody listens now")
    assert capsys.readouterr() == ("", "")


def test_a_user_without_a_name_and_a_home_is_at_home_in_the_root_folder(monkeypatch):
    def unknown(_uid: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setenv("HOME", "x")  # so that it is as before when the test ends
    monkeypatch.delenv("HOME")
    homes = []
    assert cli.run(lambda _: homes.append(Path.home()) or 0, ClearCacheConfig, []) == 0
    assert homes == [Path("/")]


def test_flags_may_be_spelled_with_underscores_or_hyphens():
    assert parse(MainConfig, ["--batch_size", "8"]) == parse(MainConfig, ["--batch-size", "8"])


@pytest.mark.parametrize(
    ("flag", "value"),
    [("val_fraction", "1.0"), ("learning_rate", "nan"), ("patience", "-1"), ("epochs", "10001")],
)
def test_a_number_out_of_range_is_refused_by_name_with_its_range(flag, value):
    with pytest.raises(CatdogError, match=rf"{flag}=.* is out of range: give a number from"):
        parse(MainConfig, [f"--{flag}={value}"])


def test_a_yes_may_be_typed_as_a_flag_and_a_no_as_one_with_no():
    assert parse(PromoteConfig, ["--rollback", "--dry-run", "yes"]).rollback == "yes"
    assert parse(PredictConfig, ["--no-reject", "a.jpg"]).reject == "no"
    assert parse(PredictConfig, ["--reject", "no", "--tta"]) == PredictConfig(
        reject="no", tta="yes"
    )


def test_predict_takes_photos_before_and_after_flags():
    assert parse(PredictConfig, ["a.jpg", "b.jpg", "--format", "csv"]).images == ("a.jpg", "b.jpg")
    assert parse(PredictConfig, ["--format", "csv", "--", "a.jpg"]).images == ("a.jpg",)
    assert parse(PredictConfig, []).images == ("auto",)


@pytest.mark.parametrize("photo", ["a.jpg", "-", "-x.jpg", "--x.jpg", "--", "a b.jpg", ""])
def test_the_photos_of_mlproject_come_by_a_flag_that_others_may_follow(photo):
    read = parse(PredictConfig, ["--images", photo, "--format", "csv", "--tta", "yes"])
    assert (read.images, read.format, read.tta) == ((photo,), "csv", "yes")


@pytest.mark.parametrize("name", ["main", "predict"])
def test_a_script_shows_its_help_before_anything_heavy_is_imported(name):
    command = [sys.executable, "-X", "importtime", "-m", f"scripts.{name}", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage:" in shown.stdout
    assert "passes over the training pictures" in shown.stdout or name != "main"
    assert not {"torch", "mlflow", "numpy", "pandas", "PIL"} & set(shown.stderr.split())


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        (PrepareConfig, "dataset data_dir exclude"),
        (TrainConfig, "dataset data_dir weights"),
        (PredictConfig, "output sort_into explain model_uri data_dir"),
        (EvaluateConfig, "data model_uri"),
        (ExportConfig, "to model_uri"),
        (AuditConfig, "output dataset weights"),
        (PromoteConfig, "data dataset data_dir"),
        (ScoreConfig, "input output"),
    ],
)
def test_a_tilde_is_the_home_folder_in_every_path(monkeypatch, config, flags):
    monkeypatch.setenv("HOME", "/home/ann")
    names = flags.split()
    for typed, meant in (("~/my pets", "/home/ann/my pets"), ("a~b%20#?ü", "a~b%20#?ü")):
        parsed = parse(config, [f"--{name}={typed}" for name in names])
        assert {getattr(parsed, name) for name in names} == {meant}
