from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch

from catdog import cli
from catdog.config import ClearCacheConfig
from tests.conftest import ROOT, child_environment


def test_a_name_that_the_output_can_not_write_is_written_with_escapes(tmp_path, draw_folder):
    name = os.fsdecode(b"caf\xe9")
    draw_folder(tmp_path / "pets")
    command = [sys.executable, str(ROOT / "scripts" / "prepare.py")]
    ended = subprocess.run(
        [*command, "--dataset", "pets", "--data-dir", name],
        env=child_environment(PYTHONIOENCODING="utf-8"),
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    printed = ended.stdout.decode().rstrip()
    assert printed.encode("ascii").decode("unicode_escape") == f"{name}{os.sep}pets"


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
