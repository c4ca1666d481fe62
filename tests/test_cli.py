from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

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
