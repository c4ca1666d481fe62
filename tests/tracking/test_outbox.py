from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import get_args

import mlflow
import pytest
import requests
from mlflow.exceptions import RestException
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.tracking import delivery, outbox
from catdog.tracking.delivery import Kind, Write, unreachable
from catdog.tracking.outbox import Outbox


class Way:
    """Stands before the real sending, and is closed while `error` is set, for `kinds` only."""

    def __init__(self, send, standing) -> None:
        self.error: Exception | None = None
        self.kinds = get_args(Kind)
        self.tries = 0
        self._send, self._standing = send, standing

    def __call__(self, write: Write) -> None:
        self.tries += 1
        if self.error and write.kind in self.kinds:
            raise self.error
        self._send(write)

    def standing(self, run_id: str) -> str:
        away = self.error is not None and unreachable(self.error)
        return "silent" if away and self.kinds == get_args(Kind) else self._standing(run_id)


@pytest.fixture
def way(monkeypatch) -> Way:
    way = Way(delivery._send, delivery._standing)
    monkeypatch.setattr(delivery, "_send", way)
    monkeypatch.setattr(delivery, "_standing", way.standing)
    return way


@pytest.fixture
def run_id(tracking_store) -> str:
    mlflow.set_tracking_uri(tracking_store)
    return MlflowClient().create_run("0").info.run_id


@pytest.fixture
def box(tmp_path) -> Outbox:
    return Outbox(tmp_path / "outbox")


def _metric(run_id: str, step: int, value: float = 0.5) -> Write:
    return Write(run_id, "metrics", [["loss", value, 1_700_000_000_000 + step, step]])


def test_what_is_kept_arrives_in_order_with_its_own_steps_and_times(way, run_id, box, said):
    box.write(_metric(run_id, 1))
    way.error = requests.ConnectionError("gone")
    box.write(_metric(run_id, 2))
    box.write(Write(run_id, "tags", {"a": "first"}))
    box.write(Write(run_id, "tags", {"a": "second"}))
    box.write(Write(run_id, "artifact", "some/note.txt", b"kept"))
    assert not box.empty
    way.error = None
    assert box.send_all(0)
    history = MlflowClient().get_metric_history(run_id, "loss")
    assert [(one.step, one.timestamp) for one in history] == [
        (1, 1_700_000_000_001),
        (2, 1_700_000_000_002),
    ]
    assert MlflowClient().get_run(run_id).data.tags["a"] == "second"
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/some/note.txt") == "kept"
    assert not box.folder.exists()


def test_it_is_said_once_when_the_server_goes_and_once_when_it_is_back(way, run_id, box, said):
    way.error = requests.ConnectionError("gone")
    for step in range(5):
        box.write(_metric(run_id, step))
    assert len(said) == 1
    assert "Training goes on" in said[0]
    assert str(box.folder) in said[0]
    way.error = None
    box.send_all(0)
    assert said[1:] == ["The tracking server is back: 5 kept writes are sent"]


def test_while_the_server_is_away_it_is_asked_now_and_then_only(way, run_id, box, monkeypatch):
    way.error = requests.Timeout("slow")
    for step in range(50):
        box.write(_metric(run_id, step))
    assert way.tries == 1
    way.error = None
    monkeypatch.setattr(outbox, "PAUSE", 0)
    box._next_try = 0
    box.write(_metric(run_id, 50))
    assert box.empty
    assert len(MlflowClient().get_metric_history(run_id, "loss")) == 51


def test_a_server_that_goes_again_while_all_is_sent_loses_nothing(way, run_id, box):
    way.error = requests.ConnectionError("gone")
    for step in range(4):
        box.write(_metric(run_id, step))
    way.error = None
    passed, send = [], way._send

    def two_only(write):
        if len(passed) == 2:
            raise requests.ConnectionError("gone again")
        send(write)
        passed.append(write)

    way._send = two_only
    assert not box.send_all(0)
    way._send = send
    assert box.send_all(0)
    assert [one.step for one in MlflowClient().get_metric_history(run_id, "loss")] == [0, 1, 2, 3]


def test_another_process_sends_what_this_one_kept(way, run_id, box):
    way.error = requests.ConnectionError("gone")
    box.write(Write(run_id, "params", {"seed": "1"}))
    box.write(Write(run_id, "artifact", "note.bin", bytes(range(256))))
    way.error = None
    assert Outbox(box.folder).send_all(0)
    assert MlflowClient().get_run(run_id).data.params == {"seed": "1"}
    path = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/note.bin")
    assert Path(path).read_bytes() == bytes(range(256))


def test_a_line_that_was_cut_off_does_not_keep_the_others(way, run_id, box, said):
    way.error = requests.ConnectionError("gone")
    box.write(_metric(run_id, 1))
    with (box.folder / "writes.jsonl").open("a") as lines:
        lines.write('{"run": "x", "ki')
    way.error = None
    assert box.send_all(0)
    assert any("damaged" in line for line in said)
    assert len(MlflowClient().get_metric_history(run_id, "loss")) == 1


REFUSAL = RestException({"error_code": "PERMISSION_DENIED", "message": "not yours"})


def test_what_is_refused_is_kept_and_told_once_and_all_else_goes_on(way, run_id, box, said):
    way.error, way.kinds = REFUSAL, ("artifact",)
    for step in (1, 2, 3):
        box.write(Write(run_id, "artifact", f"{step}.txt", b"x"))
        box.write(_metric(run_id, step))
    assert [one.step for one in MlflowClient().get_metric_history(run_id, "loss")] == [1, 2, 3]
    assert (box.empty, box.waiting) == (False, False)
    (line,) = said
    assert line.startswith("the tracking server REFUSES artifact 1.txt (")
    assert "not yours" in line
    assert str(box.folder) in line
    assert not box.send_all(0)
    assert [told.partition(" (")[0] for told in box.refused()] == [
        "artifact 1.txt",
        "artifact 2.txt",
        "artifact 3.txt",
    ]
    way.error = None
    assert Outbox(box.folder).send_all(0)
    assert said[-1] == "3 writes that were refused are sent now"
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/3.txt") == "x"
    assert not box.folder.exists()


def test_a_file_that_the_server_chokes_on_holds_up_nothing(way, run_id, box):
    way.error, way.kinds = requests.ConnectionError("hung up"), ("artifact",)
    box.write(Write(run_id, "artifact", "large.bin", b"x"))
    assert way.tries == 2  # a way may break by chance
    box.write(_metric(run_id, 1))
    assert not box.waiting
    assert box.refused() == ["artifact large.bin (hung up)"]
    assert len(MlflowClient().get_metric_history(run_id, "loss")) == 1


def test_what_is_refused_while_all_that_was_kept_is_sent_holds_up_nothing(way, run_id, box):
    way.error = requests.ConnectionError("gone")
    box.write(_metric(run_id, 1))
    box.write(Write(run_id, "artifact", "note.txt", b"x"))
    box.write(_metric(run_id, 2))
    way.error, way.kinds = REFUSAL, ("artifact",)
    assert not box.send_all(0)
    assert not box.waiting
    assert [one.step for one in MlflowClient().get_metric_history(run_id, "loss")] == [1, 2]
    way.error = None
    assert box.send_all(0)
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/note.txt") == "x"


def test_what_was_refused_does_not_overwrite_what_came_after_it(way, run_id, box):
    way.error = REFUSAL
    box.write(Write(run_id, "tags", {"a": "old", "b": "only"}))
    box.write(Write(run_id, "artifact", "note.txt", b"old"))
    way.error = None
    box.write(Write(run_id, "tags", {"a": "new"}))
    box.write(Write(run_id, "artifact", "note.txt", b"new"))
    assert box.send_all(0)
    tags = MlflowClient().get_run(run_id).data.tags
    assert (tags["a"], tags["b"]) == ("new", "only")
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/note.txt") == "new"


def test_a_server_that_goes_while_the_refused_is_tried_again_keeps_the_rest(way, run_id, box):
    way.error = REFUSAL
    for step in (1, 2):
        box.write(_metric(run_id, step))
    way.error = requests.ConnectionError("gone")
    assert not box.send_all(0)
    assert len(box.refused()) == 2
    way.error = None
    assert box.send_all(0)
    assert len(MlflowClient().get_metric_history(run_id, "loss")) == 2


@pytest.mark.parametrize("deleted", [True, False])
def test_a_run_that_is_gone_is_one_sentence_and_nothing_is_kept(run_id, box, deleted):
    if deleted:
        MlflowClient().delete_run(run_id)
    gone = run_id if deleted else "0" * 32
    with pytest.raises(CatdogError, match=r"MLflow refuses tags of run .*: restore it"):
        box.write(Write(gone, "tags", {"a": "b"}))
    assert box.empty


def test_many_names_are_told_in_few_words():
    metrics = [[f"m{number}", 0.5, 0, 1] for number in range(5)]
    assert str(Write("x", "metrics", metrics)) == "metrics m0, m1, m2 and 2 more"
    assert str(Write("x", "tags", {"a": "b"})) == "tags a"


def test_a_full_disk_below_the_outbox_stops_nothing(way, run_id, box, said, monkeypatch):
    way.error = requests.ConnectionError("gone")

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(outbox.Path, "mkdir", full)
    box.write(_metric(run_id, 1))
    assert "can't be kept" in said[-1]


def test_a_disk_that_fills_while_the_server_is_tried_again_stops_nothing(
    way, run_id, box, said, monkeypatch
):
    way.error = requests.ConnectionError("gone")
    box.write(_metric(run_id, 1))
    box.write(Write(run_id, "artifact", "large.bin", b"large"))
    way.error, way.kinds = requests.ConnectionError("hung up"), ("tags", "artifact")

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(outbox.Path, "write_text", full)
        patch.setattr(box, "_next_try", 0.0)
        patch.setattr(delivery, "_standing", lambda _run: "silent")
        box.write(_metric(run_id, 2))
    assert any("can't be taken out" in line for line in said)
    way.error = None
    assert box.send_all(0)
    history = MlflowClient().get_metric_history(run_id, "loss")
    assert [one.step for one in history] == [1, 2]


def test_a_line_that_was_cut_spoils_no_other(way, run_id, box):
    way.error = requests.ConnectionError("gone")
    box.write(_metric(run_id, 1))
    with (box.folder / "writes.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"run": "')
    box.write(_metric(run_id, 2))
    way.error = None
    assert box.send_all(0)
    history = MlflowClient().get_metric_history(run_id, "loss")
    assert [one.step for one in history] == [1, 2]


def test_a_damaged_line_of_what_was_refused_hides_no_other(way, run_id, box):
    way.error, way.kinds = ValueError("no"), ("artifact",)
    box.write(Write(run_id, "artifact", "a.bin", b"a"))
    with (box.folder / "refused.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"run": "')
    assert box.refused() == ["artifact a.bin (no)"]
