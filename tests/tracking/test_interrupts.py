from __future__ import annotations

import os
import signal

import pytest

from catdog.tracking.run import interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_at_once(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interrupts():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_what_mlflow_sends_after_ctrl_c_does_not_cut_the_tidying_up():
    tidied = False
    with interrupts():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            tidied = True
    assert tidied
