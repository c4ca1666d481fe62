from __future__ import annotations

import hashlib
import math
import os
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from catdog import cli
from catdog.config import AppConfig
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import Options, Prediction
from catdog.registry import load as registry_load
from catdog.registry import versions
from catdog.serving import app, server
from scripts.app import main
from tests.conftest import encoded, tiny_picture
from tests.serving.conftest import digests


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


# --- What is shown -------------------------------------------------------------------


def test_each_file_has_a_row_that_says_what_the_classifier_says_or_why_not(model, drawn):
    options = Options(reject=False)
    answers = model.classifier.predict([path.read_bytes() for path in drawn[:2]], options)
    summary, pictures, rows = app.show(model.classifier, drawn, options)
    assert summary == "2 of 3 photos answered."
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
    assert [caption for _, caption in pictures[::2]] == captions
    assert pictures[1][1] == f"what speaks for a {answers[0].label}"


def test_the_options_reach_the_answer_and_neither_is_not_sure(model, drawn):
    labels = [
        [row[1] for row in app.show(model.classifier, drawn[:2], options)[2]]
        for options in (Options(reject=False, threshold=0), Options(reject=False, threshold=1))
    ]
    assert labels == [["dog", "dog"], ["cat", "cat"]]
    stranger = Prediction("neither", math.nan, 0.4, 0.0)
    assert app._caption("x", stranger) == "neither: x"
    assert app._row("x", stranger) == ["x", "neither", "", "0.4000", "0.000", ""]


def test_too_many_files_are_counted_and_none_is_read_and_no_file_shows_nothing(model):
    missing = [Path(f"/nowhere/{number}.jpg") for number in range(app.MOST_FILES + 1)]
    refusal = f"{app.MOST_FILES + 1} files are too many: give at most 50 at once."
    assert app.show(model.classifier, missing, Options()) == (refusal, [], [])
    assert app.show(model.classifier, [], Options()) == ("", [], [])


def test_a_photo_is_shown_upright_and_small(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded(tiny_picture("cat", 2, (1600, 800)), exif=exif))
    _, ((picture, _), *_), _ = app.show(model.classifier, [path], Options())
    assert picture.size == (app.THUMBNAIL_PX // 2, app.THUMBNAIL_PX)


def test_another_pair_is_asked_for_by_its_names_and_names_add_nothing_to_the_page():
    assert app.question(("ant", "bee")) == "Ant or bee?"
    assert app.question(("![x](http://evil)", "<b>")) == "Xhttpevil or b?"


# --- Served --------------------------------------------------------------------------


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
        assert digests(uploads)[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_name_for_this_machine_is_turned_away(page):
    address, _ = page
    assert httpx.get(address, trust_env=False).status_code == 200
    strange = httpx.get(address, headers={"host": "example.org"}, trust_env=False)
    assert strange.status_code == 400


def test_a_file_over_the_limit_is_refused_and_not_kept(page):
    address, uploads = page
    files = {"files": ("large.jpg", bytes(50 * 2**20 + 1))}
    refused = httpx.post(f"{address}/gradio_api/upload", files=files, trust_env=False, timeout=60)
    assert refused.status_code == 413
    assert not list(uploads.rglob("large.jpg"))


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
    app.serve(model, "0.0.0.0", 0, open_browser=True)
    assert said == [
        "--host 0.0.0.0 lets everyone who can reach this machine use the page",
        f"the page is at {opened[0]} (Ctrl-C ends it)",
    ]
    assert not seen[0].exists()
