"""The small server: asked with the line of docs/serving.md, and compared with MLflow's server."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.pyfunc import load_model, scoring_server
from starlette.testclient import TestClient

from catdog import CatdogError, cli
from catdog.config import PredictConfig, ServeConfig
from catdog.registry import register
from catdog.registry.promotion import Candidate
from catdog.serving import server as serve
from catdog.tracking.run import start_run
from scripts import predict
from tests.conftest import ROOT, child_environment, encoded, tiny_classifier, tiny_picture

PHOTOS = [encoded(tiny_picture(name, number)) for name in ("cat", "dog") for number in range(3)]
RECORDS = [{"image": base64.b64encode(photo).decode()} for photo in PHOTOS]
SPLIT = {"columns": ["note", "image"], "data": [["", one["image"]] for one in RECORDS]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_classifier().save(folder)
    return folder


@pytest.fixture(scope="module")
def model(saved) -> serve.ServedModel:
    return serve.load_model(str(saved), device="cpu")


def _client(model: serve.ServedModel, max_body_bytes: int = 10**7) -> TestClient:
    served = serve.web_app(model, "127.0.0.1", max_body_bytes)
    return TestClient(served, base_url="http://127.0.0.1:5001")


@pytest.fixture
def client(model) -> TestClient:
    return _client(model)


@pytest.fixture
def url(saved, tmp_path) -> Iterator[str]:
    """Where the script serves the saved model, in a process of its own."""
    script = [sys.executable, str(ROOT / "scripts" / "serve.py"), "--model-uri", str(saved)]
    with subprocess.Popen(
        [*script, "--port=0", "--device=cpu"],
        env=child_environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        said = next((line for line in server.stderr if "answers at" in line), "")
        try:
            yield re.search(r"http://\S+(?=/invocations)", said)[0]
        finally:
            server.terminate()


def test_the_line_of_the_page_gets_the_answer_of_predict(url, saved, tmp_path, capsys):
    (tmp_path / "photo.jpg").write_bytes(PHOTOS[4])
    page = (ROOT / "docs" / "serving.md").read_text()
    (line,) = re.findall(r"^\{ printf .*?--data-binary @-$", page, re.MULTILINE | re.DOTALL)
    assert f"http://127.0.0.1:{ServeConfig.port}/" in line
    typed = line.replace(f"http://127.0.0.1:{ServeConfig.port}", url)
    answer = subprocess.run(
        ["bash", "-c", typed], cwd=tmp_path, capture_output=True, check=True, timeout=60
    ).stdout
    asked = ["photo.jpg", "--model-uri", str(saved), "--format=json", "--device=cpu"]
    assert cli.run(predict.main, PredictConfig, asked) == 0
    (expected,) = json.loads(capsys.readouterr().out)
    (found,) = json.loads(answer)["predictions"]
    assert found.pop("error") == ""
    assert found == {name: pytest.approx(expected[name], abs=1e-6) for name in found}
    assert found["label"] == "dog"
    with urllib.request.urlopen(f"{url}/ping") as answer:
        assert (answer.status, answer.read()) == (200, b"\n")
    with urllib.request.urlopen(f"{url}/version") as answer:
        assert json.load(answer)["model_uri"] == str(saved)


def test_it_takes_and_gives_what_mlflows_own_server_does(client, saved, tracking_store):
    mlflow.set_tracking_uri(tracking_store)
    with start_run("x") as run:
        logged = register.log_model(saved, PHOTOS[0], run, Candidate("", drawn=True), step=1)
    theirs = TestClient(scoring_server.init(load_model(logged.model_uri)))
    unreadable = [*RECORDS[:1], {"image": base64.b64encode(b"no picture").decode()}]
    for asked in (
        {"dataframe_records": RECORDS},
        {"dataframe_records": RECORDS, "params": {"reject": False, "threshold": 0.9999}},
        {"dataframe_records": RECORDS[2:4], "params": {"tta": True, "threshold": 0}},
        {"dataframe_records": unreadable},
        {"dataframe_split": {"columns": ["image"], "data": [[one["image"]] for one in RECORDS]}},
    ):
        expected, found = (one.post("/invocations", json=asked) for one in (theirs, client))
        assert expected.status_code == found.status_code == 200, found.text
        ours, theirs_ = found.json()["predictions"], expected.json()["predictions"]
        assert [list(row) for row in ours] == [list(row) for row in theirs_]
        assert ours == [pytest.approx(row, abs=1e-6) for row in theirs_]


def test_a_table_may_have_other_columns(client, model):
    split = client.post("/invocations", json={"dataframe_split": SPLIT}).json()
    records = [one | {"note": "x"} for one in RECORDS]
    assert split == client.post("/invocations", json={"dataframe_records": records}).json()
    expected = [one.label for one in model.classifier.predict(PHOTOS)]
    assert [one["label"] for one in split["predictions"]] == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("{", "the body is not JSON"),
        ("[" * 100_000, "the body is not JSON"),
        ("[]", "must be an object"),
        ("{}", "give {"),
        ({"dataframe_records": RECORDS, "dataframe_split": SPLIT}, "give {"),
        ({"dataframe_records": [{"picture": ""}]}, "no column image"),
        ({"dataframe_split": {"columns": ["a", "image"], "data": [[1]]}}, "no column image"),
        ({"dataframe_records": [{"image": "abc"}]}, "image 0 is not base64"),
        ({"dataframe_records": [{"image": 7}]}, "image 0 is not base64"),
        ({"dataframe_records": [], "params": {"thresh": 1}}, "some of reject, threshold, tta"),
        ({"dataframe_records": [], "params": [1]}, "params must be an object"),
        ({"dataframe_records": [], "params": {"threshold": True}}, "threshold can't be true"),
        ('{"dataframe_records": [], "params": {"threshold": NaN}}', "must be from 0 to 1"),
        ({"dataframe_records": [{"image": ""}] * 10_001}, "10001 pictures are more than 10000"),
    ],
)
def test_what_can_not_be_understood_is_one_sentence(client, body, why):
    content = body if isinstance(body, str) else json.dumps(body)
    headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = client.post("/invocations", content=content, headers=headers)
    assert answer.status_code == 400
    assert why in answer.json()["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_turned_away(model, chunked):
    small = _client(model, 2**21)
    body = json.dumps({"dataframe_records": [{"image": "A" * 2**21}]}).encode()
    headers = {"Content-Type": "application/json"}
    pieces = iter([body[:1000], body[1000:]])
    answer = small.post("/invocations", content=pieces if chunked else body, headers=headers)
    assert answer.status_code == 413
    assert small.post("/invocations", json={"dataframe_records": RECORDS}).status_code == 200


def test_forms_and_names_of_other_sites_are_turned_away(client):
    # What another site's page may send unasked; anything else its browser asks about first.
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.post("/invocations", content=b"{}", headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert client.get("/ping", headers={"Host": "evil.example:5001"}).status_code == 400


def test_a_picture_of_too_many_pixels_is_an_error_and_the_others_are_labelled(client, monkeypatch):
    from catdog.data import images

    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 40)
    large = base64.b64encode(encoded(tiny_picture("cat", 1, (49, 40)))).decode()
    asked = {"dataframe_records": [{"image": large}, RECORDS[0]]}
    first, second = client.post("/invocations", json=asked).json()["predictions"]
    assert "more than the limit" in first["error"]
    assert second["label"] == "cat"


@pytest.mark.parametrize("gone", [False, True])
def test_a_client_that_is_too_slow_or_gone_takes_nobodys_turn(model, monkeypatch, gone):
    monkeypatch.setattr(serve, "PATIENCE_S", 0.05)
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": headers}
    statuses = []

    async def receive():
        if not gone:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message):
        statuses.append(message.get("status"))

    async def ask_often() -> None:
        served = serve.web_app(model, "127.0.0.1", 10**6)
        for _ in range(serve.AT_ONCE + 1):
            await served(scope | {"query_string": b"", "root_path": ""}, receive, send)

    asyncio.run(asyncio.wait_for(ask_often(), 30))
    assert [one for one in statuses if one] == [400 if gone else 408] * (serve.AT_ONCE + 1)


def test_a_port_that_is_taken_is_one_sentence(model):
    with serve.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CatdogError, match=rf"--port {port} can't be listened at \(Address al"):
            serve.serve(model, "127.0.0.1", port, max_body_bytes=1)


def test_a_taken_port_is_left_for_a_free_one():
    with serve.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with serve.listen("127.0.0.1", port) as second:
            assert second.getsockname()[1] not in (0, port)
            assert serve.url_of(second, "127.0.0.1").endswith(f":{second.getsockname()[1]}")


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_a_host_that_is_not_ours_is_one_sentence(host):
    with pytest.raises(CatdogError, match=f"--host {host} --port 7860 can't be listened at"):
        serve.listen(host, 7860)


@pytest.mark.parametrize(
    ("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("localhost", "localhost")]
)
def test_the_address_shown_can_be_typed(host, shown):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert serve.url_of(listener, host) == f"http://{shown}:{listener.getsockname()[1]}"
