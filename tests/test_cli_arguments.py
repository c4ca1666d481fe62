from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog import CatdogError, cli
from catdog.cli import parse
from catdog.config import EvaluateConfig, MainConfig, PredictConfig
from tests.conftest import ROOT


def test_flags_may_be_spelled_with_underscores_or_hyphens():
    assert parse(MainConfig, ["--batch_size", "8"]) == parse(MainConfig, ["--batch-size", "8"])


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("epochs", "0"),
        ("val_fraction", "1.0"),
        ("learning_rate", "nan"),
        ("patience", "-1"),
        ("batch_size", "0"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name_with_its_range(flag, value):
    with pytest.raises(CatdogError, match=rf"{flag}=.* is out of range: give a number from"):
        parse(MainConfig, [f"--{flag}={value}"])


@pytest.mark.parametrize("arguments", [["--epochs", "ten"], ["--epoch", "3"], ["--device", "tpu"]])
def test_a_wrong_flag_or_type_ends_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(MainConfig, arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert arguments[0] in shown.out + shown.err


def test_evaluate_wants_to_know_the_data(capsys):
    with pytest.raises(SystemExit):
        parse(EvaluateConfig, [])
    assert "--data" in capsys.readouterr().err


def test_predict_takes_photos_before_and_after_flags():
    assert parse(PredictConfig, ["a.jpg", "b.jpg", "--format", "csv"]).images == ("a.jpg", "b.jpg")
    assert parse(PredictConfig, ["--format", "csv", "--", "a.jpg"]).images == ("a.jpg",)
    assert parse(PredictConfig, []).images == ("auto",)


@pytest.mark.parametrize("photo", ["a.jpg", "-", "-x.jpg", "--x.jpg", "--", "a b.jpg", ""])
def test_the_photos_of_mlproject_come_by_a_flag_that_others_may_follow(photo):
    read = parse(PredictConfig, ["--images", photo, "--format", "csv", "--tta", "yes"])
    assert (read.images, read.format, read.tta) == ((photo,), "csv", "yes")


@given(epochs=st.integers(-(10**6), 10**6))
def test_a_value_is_taken_exactly_when_it_is_in_range(epochs):
    limits = cli._ranges(MainConfig)["epochs"]
    if limits.low <= epochs <= limits.high:
        assert parse(MainConfig, ["--epochs", str(epochs)]).epochs == epochs
    else:
        with pytest.raises(CatdogError):
            parse(MainConfig, ["--epochs", str(epochs)])


def test_the_parser_is_ready_before_anything_heavy_is_imported():
    code = (
        "import sys; from catdog.cli import parse; from catdog.config import MainConfig;"
        "parse(MainConfig, []);"
        "sys.exit(bool({'torch', 'mlflow', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", ["main", "download", "prepare", "train", "evaluate", "predict"])
def test_every_script_shows_its_help_without_importing_torch(name):
    command = [sys.executable, "-X", "importtime", "-m", f"scripts.{name}", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage:" in shown.stdout
    assert " torch\n" not in shown.stderr
