from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx
import pytest
from PIL import Image

from catdog import CatdogError, cli
from catdog.config import AppConfig
from catdog.inference import explain
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import Options, Prediction
from catdog.registry import load as registry_load
from catdog.registry import versions
from catdog.sample.drawing import draw_animal
from catdog.serving import app, server
from scripts.app import main
from tests.conftest import SCROLLED_SIDEWAYS, as_phone, encoded, tiny_classifier, tiny_picture


@pytest.fixture(scope="module")
def model() -> server.ServedModel:
    return server.ServedModel(tiny_classifier(), "models:/catdog/Production", "7")


def test_the_page_says_which_model_answers_and_a_folder_has_no_version(model, tmp_path):
    facts = app.facts(model)
    assert (facts["model"], facts["version"]) == ("models:/catdog/Production", "7")
    assert (facts["dataset"], facts["best_epoch"], facts["best_val_accuracy"]) == ("pets", 3, 0.75)
    model.classifier.save(tmp_path)
    loaded = server.load_model(str(tmp_path), device="cpu")
    assert app.facts(loaded) == facts | {"model": str(tmp_path), "version": ""}


def test_a_stage_is_resolved_before_loading_so_that_the_version_shown_is_the_one_loaded(
    model, monkeypatch
):
    loaded = []

    def load(uri: str, *, device: str) -> Classifier:
        loaded.append((uri, device))
        return model.classifier

    monkeypatch.setattr(registry_load, "load_classifier", load)
    monkeypatch.setattr(versions, "exact", {"models:/catdog/Production": "models:/catdog/2"}.get)
    assert server.load_model("models:/catdog/Production", device="cpu").version == "2"
    assert loaded == [("models:/catdog/2", "cpu")]


def test_without_gradio_the_script_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.run(main, AppConfig, []) == cli.FAILED
    assert "the page needs gradio: pip install 'catdog[app]'" in capsys.readouterr().err


def test_a_taken_port_is_left_for_a_free_one():
    with server.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with server.listen("127.0.0.1", port) as second:
            assert second.getsockname()[1] not in (0, port)
            assert server.url_of(second, "127.0.0.1").endswith(f":{second.getsockname()[1]}")


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_a_host_that_is_not_ours_is_one_sentence(host):
    with pytest.raises(CatdogError, match=f"--host {host} --port 7860 can't be listened at"):
        server.listen(host, 7860)


@pytest.mark.parametrize(
    ("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("localhost", "localhost")]
)
def test_the_address_shown_can_be_typed(host, shown):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert server.url_of(listener, host) == f"http://{shown}:{listener.getsockname()[1]}"


# --- What is shown -------------------------------------------------------------------


@pytest.fixture
def drawn(tmp_path) -> list[Path]:
    """Two drawn animals with EXIF data, and a text."""
    exif = Image.Exif()
    exif[0x010E] = "drawn"
    paths = [tmp_path / "cat.jpg", tmp_path / "dog.jpg", tmp_path / "letter.txt"]
    for label, path in enumerate(paths[:2]):
        path.write_bytes(encoded(draw_animal(label, Random(5)), exif=exif))
    paths[2].write_text("Dear cat,")
    return paths


def test_each_file_has_a_row_that_says_what_the_classifier_says_or_why_not(model, drawn):
    options = Options(reject=False)
    answers = model.classifier.predict([path.read_bytes() for path in drawn[:2]], options)
    (summary, photos, rows), (_, pictures, same) = app.show(model.classifier, drawn, options)
    assert summary == "2 of 3 photos answered."
    assert rows == same
    assert rows[:2] == [
        [
            *(path.name, one.label, f"{one.confidence:.1%}"),
            *(f"{one.p_positive:.4f}", f"{one.familiarity:.3f}", ""),
        ]
        for path, one in zip(drawn, answers, strict=False)
    ]
    assert rows[2] == ["letter.txt", *[""] * 4, "not a picture in a format that can be read"]
    captions = [
        f"{one.label}, {one.confidence:.1%} sure: {path.name}"
        for path, one in zip(drawn, answers, strict=False)
    ]
    assert [caption for _, caption in photos] == captions
    assert [caption for _, caption in pictures[::2]] == captions
    assert pictures[1][1] == f"what speaks for a {answers[0].label}"
    assert len({picture.size for picture, _ in pictures}) <= 3


def test_the_options_reach_the_answer_and_neither_is_not_sure(model, drawn):
    labels = [
        [row[1] for row in list(app.show(model.classifier, drawn[:2], options))[-1][2]]
        for options in (Options(reject=False, threshold=0), Options(reject=False, threshold=1))
    ]
    assert labels == [["dog", "dog"], ["cat", "cat"]]
    stranger = Prediction("neither", math.nan, 0.4, 0.0)
    assert app._caption("x", stranger) == "neither: x"
    assert app._row("x", stranger) == ["x", "neither", "", "0.4000", "0.000", ""]


def test_too_many_files_are_counted_and_none_is_read_and_no_file_shows_nothing(model):
    missing = [Path(f"/nowhere/{number}.jpg") for number in range(app.MOST_FILES + 1)]
    refusal = f"{app.MOST_FILES + 1} files are too many: give at most 50 at once."
    assert list(app.show(model.classifier, missing, Options())) == [(refusal, [], [])]
    assert list(app.show(model.classifier, [], Options()))[-1] == ("", [], [])


def test_a_photo_is_shown_upright_and_small(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded(tiny_picture("cat", 2, (1600, 800)), exif=exif))
    _, ((picture, _),), _ = next(app.show(model.classifier, [path], Options()))
    assert picture.size == (app.THUMBNAIL_PX // 2, app.THUMBNAIL_PX)


def test_a_backbone_without_a_map_of_features_leaves_the_photos_alone(model, drawn, monkeypatch):
    def refuse(*_):
        raise CatdogError("this backbone has no map")

    monkeypatch.setattr(explain, "overlay", refuse)
    ((summary, photos, _),) = app.show(model.classifier, drawn, Options())
    assert (summary, len(photos)) == ("2 of 3 photos answered.", 2)


def test_another_pair_is_asked_for_by_its_names_and_names_add_nothing_to_the_page():
    assert app.question(("ant", "bee")) == "Ant or bee?"
    assert app.question(("![x](http://evil)", "<b>")) == "Xhttpevil or b?"


# --- Served --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(model, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of the page, served in a thread, and the folder of its uploads."""
    pytest.importorskip("gradio", reason="the page needs the extra `app`")
    import uvicorn

    uploads = tmp_path_factory.mktemp("uploads")
    listener = server.listen("127.0.0.1", 0)
    served = uvicorn.Server(
        uvicorn.Config(app.web_app(model, "127.0.0.1", uploads), timeout_graceful_shutdown=1)
    )
    serving = threading.Thread(target=served.run, kwargs={"sockets": [listener]})
    serving.start()
    yield server.url_of(listener, "127.0.0.1"), uploads
    served.should_exit = True
    serving.join(20)
    assert not serving.is_alive()


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*.*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_page_answers_over_http_for_the_bytes_of_the_file(page, drawn, model):
    from gradio_client import Client, handle_file

    address, uploads = page
    client = Client(address, verbose=False, analytics_enabled=False)
    summary, gallery, table = client.predict(
        [handle_file(str(path)) for path in drawn], False, 0.5, api_name="/answer"
    )
    assert summary == "2 of 3 photos answered."
    assert len(gallery) == 4
    answers = model.classifier.predict([path.read_bytes() for path in drawn[:2]])
    for path, answer, row in zip(drawn[:2], answers, table["data"], strict=False):
        assert row[3] == f"{answer.p_positive:.4f}"
        assert _digests(uploads)[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_name_for_this_machine_is_turned_away(page):
    address, _ = page
    assert httpx.get(address, trust_env=False).status_code == 200
    strange = httpx.get(address, headers={"host": "example.org"}, trust_env=False)
    assert strange.status_code == 400


def test_a_file_over_the_limit_and_an_event_over_its_own_are_refused(page):
    address, uploads = page
    files = {"files": ("large.jpg", bytes(50 * 2**20 + 1))}
    refused = httpx.post(f"{address}{app.UPLOAD}", files=files, trust_env=False, timeout=60)
    assert refused.status_code == 413
    assert not list(uploads.rglob("large.jpg"))
    content = bytes(server.OTHER_BYTES + 1)
    refused = httpx.post(f"{address}/gradio_api/queue/join", content=content, trust_env=False)
    assert refused.status_code == 413


def test_serving_says_where_and_to_whom_and_leaves_no_upload(said, model, monkeypatch):
    pytest.importorskip("gradio", reason="the page needs the extra `app`")
    import uvicorn

    seen: list[Path] = []

    def run(self, sockets):
        seen.append(Path(os.environ["GRADIO_TEMP_DIR"]))
        (seen[0] / "photo.jpg").write_bytes(b"x")
        sockets[0].close()
        raise KeyboardInterrupt

    opened: list[str] = []
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(app.webbrowser, "open", opened.append)
    with server.listen("0.0.0.0", 0) as taken:
        port = taken.getsockname()[1]
        app.serve(model, "0.0.0.0", port, open_browser=True)
    assert said == [
        f"port {port} is taken: here is another one",
        "--host 0.0.0.0 lets everyone who can reach this machine use the page",
        f"the page is at {opened[0]} (Ctrl-C ends it)",
    ]
    assert not seen[0].exists()


# --- In a browser --------------------------------------------------------------------


INPUT = '#photos input[type="file"]'


def _wait_for(browser, text: str) -> str:
    """What the page says once it holds `text` and every picture of the gallery is there."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        shown = browser.execute_script("return document.body.innerText")
        if text in shown:
            return shown
        time.sleep(0.1)
    raise AssertionError(f"{text!r} did not appear; the page shows {shown!r}")


def _give(browser, event: str, path: Path, name: str) -> None:
    """Paste or drop the file at `path` as a browser does."""
    browser.execute_script(
        """
        const [event, bytes, name] = arguments;
        const given = new DataTransfer();
        given.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
        const how = { bubbles: true, cancelable: true };
        if (event === "paste") {
          document.body.dispatchEvent(new ClipboardEvent(event, { ...how, clipboardData: given }));
        } else {
          const target = document.querySelector("#photos button.upload-container");
          target.dispatchEvent(new DragEvent(event, { ...how, dataTransfer: given }));
        }
        """,
        event,
        list(path.read_bytes()),
        name,
    )


def _tab_stops(browser, count: int) -> list[str]:
    from selenium.webdriver.common.keys import Keys

    stops = []
    for _ in range(count):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.switch_to.active_element
        stops.append(focused.get_attribute("aria-label") or focused.get_attribute("type") or "")
    return stops


def _requested(browser) -> set[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }


@pytest.mark.browser
def test_chosen_pasted_and_dropped_photos_are_answered_in_a_browser(page, chromium, drawn):
    address, uploads = page
    chromium.get(address)
    chromium.find_element("css selector", "#photos button.upload-container")
    _give(chromium, "drop", drawn[0], "dropped.jpg")
    _wait_for(chromium, "1 of 1 photos answered.")
    _give(chromium, "paste", drawn[1], "pasted.jpg")
    _wait_for(chromium, "2 of 2 photos answered.")
    chosen = "\n".join(map(str, drawn))
    chromium.find_element("css selector", INPUT).send_keys(chosen)
    shown = _wait_for(chromium, "4 of 5 photos answered.")
    assert "not a picture in a format that can be read" in shown
    digests = _digests(uploads)
    for path, name in zip(drawn, ("dropped.jpg", "pasted.jpg", "letter.txt"), strict=True):
        assert digests[name] == hashlib.sha256(path.read_bytes()).hexdigest()
    elsewhere = {url for url in _requested(chromium) if not url.startswith(address)}
    assert not {url for url in elsewhere if url.startswith(("http", "ws"))}


@pytest.mark.browser
def test_the_page_works_by_keyboard_and_on_a_phone(page, chromium, drawn, tmp_path):
    from selenium.webdriver.common.keys import Keys

    address, _ = page
    as_phone(chromium)
    chromium.get(address)
    chooser = chromium.find_element("css selector", INPUT)
    chromium.execute_script(
        "arguments[0].addEventListener('click', (e) => { e.preventDefault(); window.asked = 1; })",
        chooser,
    )
    assert _tab_stops(chromium, 1) == ["Click to upload or drop files"]
    chromium.switch_to.active_element.send_keys(Keys.ENTER)
    assert chromium.execute_script("return window.asked") == 1
    chooser.send_keys(str(drawn[0]))
    _wait_for(chromium, "1 of 1 photos answered.")
    stops = _tab_stops(chromium, 12)
    assert "Clear" in stops
    assert "checkbox" in stops
    threshold = chromium.find_element("css selector", 'input[aria-label*="Threshold"]')
    assert threshold.get_attribute("aria-label") in stops
    _set_by_keyboard(chromium)
    assert chromium.execute_script("return window.innerWidth") == 390
    # Gradio's tables scroll in a frame of their own.
    assert all("table" in name for name in chromium.execute_script(SCROLLED_SIDEWAYS))
    assert chromium.get_screenshot_as_file(str(tmp_path / "page.png"))


def _set_by_keyboard(browser) -> None:
    """Forbid "neither" by the space bar, and move the threshold until the label changes."""
    from selenium.webdriver.common.keys import Keys

    browser.find_element("css selector", 'input[type="checkbox"]').send_keys(Keys.SPACE)
    _wait_for(browser, " sure: ")
    slider = browser.find_element("css selector", 'input[type="range"]')
    slider.send_keys(Keys.HOME)
    _wait_for(browser, "dog, ")
    slider.send_keys(Keys.END)
    _wait_for(browser, "cat, ")
