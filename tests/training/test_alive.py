from __future__ import annotations

import subprocess
import sys

from tests.conftest import child_environment

ENDING = """
import os, sys, time
import torch.distributed as dist
from catdog.training import alive

alive.BEAT_S = 1e-5  # so that it beats at every moment
children = []
for _ in range(8):
    child = os.fork()
    if not child:
        store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
        alive.Signs(store, 1, 2)
        time.sleep(0.2)
        sys.exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_a_process_that_ends_while_it_shows_that_it_lives_ends_well():
    command = [sys.executable, "-c", ENDING]
    ended = subprocess.run(
        command, env=child_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
