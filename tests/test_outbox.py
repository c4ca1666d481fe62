from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from catdog import CatdogError, outbox
from catdog.outbox import LIMITS, PATIENT, Outbox, Write, limits, unreachable


class Way:
    """Stands before the real delivery, and is closed while `error` is set."""

    def __init__(self, deliver) -> None:
        self.error: Exception | None = None
        self.tries = 0
        self._deliver = deliver

    def __call__(self, write: Write) -> None:
        self.tries += 1
        if self.error:
            raise self.error
        self._deliver(write)


@pytest.fixture
def way(monkeypatch) -> Way:
    way = Way(outbox._deliver)
    monkeypatch.setattr(outbox, "_deliver", way)
    return way


@pytest.fixture
def run_id(tracking_store) -> str:
    mlflow.set_tracking_uri(tracking_store)
    return MlflowClient().create_run("0").info.run_id


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def box(tmp_path, said) -> Outbox:
    return Outbox(tmp_path / "outbox", said.append)


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
    passed, deliver = [], way._deliver

    def two_only(write):
        if len(passed) == 2:
            raise requests.ConnectionError("gone again")
        deliver(write)
        passed.append(write)

    way._deliver = two_only
    assert not box.send_all(0)
    way._deliver = deliver
    assert box.send_all(0)
    assert [one.step for one in MlflowClient().get_metric_history(run_id, "loss")] == [0, 1, 2, 3]


def test_another_process_sends_what_this_one_kept(way, run_id, box):
    way.error = requests.ConnectionError("gone")
    box.write(Write(run_id, "params", {"seed": "1"}))
    box.write(Write(run_id, "artifact", "note.bin", bytes(range(256))))
    way.error = None
    assert Outbox(box.folder, lambda _: None).send_all(0)
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


def test_a_refusal_is_one_sentence_and_nothing_is_kept(run_id, box):
    MlflowClient().log_param(run_id, "seed", "1")
    with pytest.raises(CatdogError, match="MLflow refuses tags of run"):
        box.write(Write("0" * 32, "tags", {"a": "b"}))
    assert box.empty


def test_a_kept_write_that_is_refused_later_stays_and_is_told(way, run_id, box):
    way.error = requests.ConnectionError("gone")
    box.write(_metric(run_id, 1))
    way.error = RestException({"error_code": "PERMISSION_DENIED", "message": "not yours"})
    with pytest.raises(CatdogError, match=r"not yours.*kept in .*outbox; delete"):
        box.send_all(0)
    assert not box.empty


def test_a_full_disk_below_the_outbox_stops_nothing(way, run_id, box, said, monkeypatch):
    way.error = requests.ConnectionError("gone")

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(outbox.Path, "mkdir", full)
    box.write(_metric(run_id, 1))
    assert "can't be kept" in said[-1]


def _response(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(str(status), response=response)


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (requests.ConnectionError("x"), True),
        (requests.Timeout("x"), True),
        (requests.exceptions.RetryError("too many 503"), True),
        (_response(502), True),
        (_response(429), True),
        (_response(400), False),
        (_response(403), False),
        (RestException({"error_code": "TEMPORARILY_UNAVAILABLE"}), True),
        (RestException({"error_code": "REQUEST_LIMIT_EXCEEDED"}), True),
        (RestException({"error_code": "INVALID_PARAMETER_VALUE"}), False),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST"}), False),
        (MlflowException("a mistake of its own"), False),
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EACCES, "not yours"), False),
        (ValueError("x"), False),
    ],
)
def test_only_not_reaching_the_server_counts_as_away(error, away):
    assert unreachable(error) is away


def test_what_mlflow_raises_for_a_closed_port_counts_as_away(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(MlflowException) as raised:
        MlflowClient(f"http://127.0.0.1:{port}").get_run("x")
    assert unreachable(raised.value)


def test_limits_hold_for_a_while_and_leave_what_the_user_has_set(monkeypatch):
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.delenv(name, raising=False)
    with limits({name: "3"}):
        assert os.environ[name] == "3"
    assert name not in os.environ
    monkeypatch.setenv(name, "7")
    with limits(PATIENT, keep_set=True):
        assert os.environ[name] == "7"
    monkeypatch.setenv(name, LIMITS[name])
    with limits(PATIENT, keep_set=True):
        assert os.environ[name] == PATIENT[name]
