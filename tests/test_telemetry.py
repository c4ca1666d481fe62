"""What libraries report to their makers; that nothing is sent, tests/end_to_end/test_project.py."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SHOW = """
import catdog, importlib.util, os
print(os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["GRADIO_ANALYTICS_ENABLED"])
print(importlib.util.find_spec("openvino_telemetry") is not None)
"""


@pytest.mark.parametrize(
    ("opted", "switches", "shown"),
    [
        (None, {}, "true False False"),
        ("0", {}, "true False False"),
        ("1", {}, "true False True"),
        (None, {"MLFLOW_DISABLE_TELEMETRY": "false"}, "false False False"),
        (None, {"GRADIO_ANALYTICS_ENABLED": "True"}, "true True False"),
    ],
)
def test_reports_are_off_unless_the_user_has_switched_them_on(tmp_path, opted, switches, shown):
    pytest.importorskip("openvino")
    if opted is not None:
        (tmp_path / "intel").mkdir()
        (tmp_path / "intel" / "openvino_telemetry").write_text(opted)  # as opt_in_out does
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SHOW]
    told = subprocess.run(command, env=environment | switches, capture_output=True, check=True)
    assert told.stdout.decode().split() == shown.split()
