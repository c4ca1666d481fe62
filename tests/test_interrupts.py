from __future__ import annotations

import os
import signal

import pytest

from catdog import interrupts


def _send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_at_once(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interrupts.at_once():
        _send(number)
    assert signal.getsignal(number) == before


def test_what_mlflow_sends_after_ctrl_c_does_not_cut_the_tidying_up():
    tidied = False
    with interrupts.at_once():
        try:
            _send(signal.SIGINT)
        except KeyboardInterrupt:
            _send(signal.SIGTERM)
            tidied = True
    assert tidied


def test_what_is_in_hand_is_finished_and_a_request_is_not_lost(said):
    finished = False
    with pytest.raises(KeyboardInterrupt), interrupts.after_this() as asked:
        assert not asked()
        _send(signal.SIGTERM, signal.SIGINT)
        assert asked()
        finished = True
    assert finished
    assert said == ["Stopping after this batch; once more stops at once"]


def test_a_program_in_the_background_still_ignores_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.at_once():
            _send(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
