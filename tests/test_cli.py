from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, child_environment


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("cp1252", "\N{CJK UNIFIED IDEOGRAPH-732B}"), ("utf-8", os.fsdecode(b"caf\xe9"))],
)
def test_a_name_that_the_output_can_not_write_is_written_with_escapes(
    tmp_path, draw_folder, encoding, name
):
    draw_folder(tmp_path / "pets")
    command = [sys.executable, str(ROOT / "scripts" / "prepare.py")]
    ended = subprocess.run(
        [*command, "--dataset", "pets", "--data-dir", name],
        env=child_environment(PYTHONIOENCODING=encoding),
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    printed = ended.stdout.decode(encoding).rstrip()
    assert printed.encode("ascii").decode("unicode_escape") == f"{name}{os.sep}pets"
