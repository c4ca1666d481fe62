"""The small server: asked with the line of docs/serving.md, and compared with MLflow's server."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from catdog import CatdogError, cli
from catdog.config import PredictConfig, ServeConfig
from catdog.serving import server as serve
from scripts import predict
from tests.conftest import ROOT, child_environment, encoded, tiny_classifier, tiny_picture

PHOTOS = [encoded(tiny_picture(name, number)) for name in ("cat", "dog") for number in range(3)]
RECORDS = [{"image": base64.b64encode(photo).decode()} for photo in PHOTOS]
INNARDS = ("stack_trace", "Traceback", "site-packages", str(ROOT))
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


def test_it_answers_records_and_split_tables_with_options_as_the_classifier_does(client, model):
    expected = [one.label for one in model.classifier.predict(PHOTOS)]
    assert len(set(expected)) > 1
    for table in ({"dataframe_records": RECORDS}, {"dataframe_split": SPLIT}):
        answers = client.post("/invocations", json=table).json()["predictions"]
        assert [one["label"] for one in answers] == expected
    params = {"reject": False, "threshold": 1.0, "tta": True}
    asked = {"dataframe_records": RECORDS, "params": params}
    answers = client.post("/invocations", json=asked).json()["predictions"]
    assert {one["label"] for one in answers} == {"cat"}


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "{}",
        {"dataframe_records": [{"picture": ""}]},
        {"dataframe_records": RECORDS, "params": {"threshold": 7.0}},
        {"dataframe_records": RECORDS, "params": {"threshold": None}},
        {"dataframe_records": RECORDS, "params": {"treshold": 0.7}},
        {"dataframe_records": RECORDS, "params": 5},
        "[" * 100_000,
    ],
)
def test_what_can_not_be_understood_is_turned_away(client, body):
    content = body if isinstance(body, str) else json.dumps(body)
    headers = {"Content-Type": "application/json"}
    answer = client.post("/invocations", content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["message"]
    assert not any(word in answer.text for word in INNARDS)


def test_what_was_wrong_is_said_and_nothing_of_the_server(client):
    for params, reason in (
        ({"treshold": 0.7}, "no such params: treshold"),
        ({"threshold": 7.0}, "0 to 1"),
    ):
        asked = {"dataframe_records": RECORDS, "params": params}
        assert reason in client.post("/invocations", json=asked).json()["message"]
    for kind in ("text/csv", "application/vnd.apache.parquet"):
        answer = client.post("/invocations", content=b"", headers={"Content-Type": kind})
        assert answer.status_code == 400
        assert not any(word in answer.text for word in INNARDS)


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
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = client.post("/invocations", content=b"{}", headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert client.get("/ping", headers={"Host": "evil.example:5001"}).status_code == 400


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (base64.b64encode(b"no picture").decode(), "not a picture in a format that can be read"),
        ("/photos/1.jpg", "neither the bytes of a picture, nor base64"),
    ],
)
def test_a_damaged_picture_is_an_error_and_the_others_are_labelled(client, sent, error):
    asked = {"dataframe_records": [{"image": sent}, RECORDS[0]]}
    first, second = client.post("/invocations", json=asked).json()["predictions"]
    assert first["error"].startswith(error)
    assert first["confidence"] is None
    assert second["label"] == "cat"


def test_data_urls_and_url_safe_base64_are_answered_as_base64_is(client):
    urls = [f"data:image/jpeg;base64,{one['image']}" for one in RECORDS]
    safe = [base64.urlsafe_b64encode(photo).decode() for photo in PHOTOS]
    expected, *others = (
        client.post("/invocations", json={"dataframe_records": records}).json()
        for records in (RECORDS, [{"image": one} for one in urls], [{"image": one} for one in safe])
    )
    assert others == [expected] * 2


def test_a_port_that_is_taken_is_one_sentence(model):
    with serve.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CatdogError, match=rf"--port {port} can't be listened at \(Address al"):
            serve.serve(model, "127.0.0.1", port, max_body_bytes=1)


def test_a_host_that_is_not_ours_is_one_sentence():
    with pytest.raises(CatdogError, match=r"--host 192\.0\.2\.1 --port 7860 can't be listened at"):
        serve.listen("192.0.2.1", 7860)
