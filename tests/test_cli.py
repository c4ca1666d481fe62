from __future__ import annotations

import os
import subprocess
import sys

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
