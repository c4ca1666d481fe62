from __future__ import annotations

import errno
import os
import socket

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from catdog.tracking.delivery import LIMITS, PATIENT, limits, unreachable


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
