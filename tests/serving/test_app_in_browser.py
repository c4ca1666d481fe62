"""The page in a real browser."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from tests.serving.conftest import digests


def _wait_for(browser, text: str) -> str:
    """What the page says once it holds `text`."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        shown = browser.execute_script("return document.body.innerText")
        if text in shown:
            return shown
        time.sleep(0.1)
    raise AssertionError(f"{text!r} did not appear; the page shows {shown!r}")


def _paste(browser, path: Path, name: str) -> None:
    """Paste the file at `path` as a browser does."""
    browser.execute_script(
        """
        const [bytes, name] = arguments;
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
        const how = { bubbles: true, cancelable: true, clipboardData };
        document.body.dispatchEvent(new ClipboardEvent("paste", how));
        """,
        list(path.read_bytes()),
        name,
    )


def _requested(browser) -> set[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }


@pytest.mark.browser
def test_chosen_and_pasted_photos_are_answered_in_a_browser(page, chromium, drawn):
    address, uploads = page
    chromium.get(address)
    chromium.find_element("css selector", "#photos button.upload-container")
    _paste(chromium, drawn[1], "pasted.jpg")
    _wait_for(chromium, "1 of 1 photos answered.")
    chosen = "\n".join(map(str, drawn))
    chromium.find_element("css selector", '#photos input[type="file"]').send_keys(chosen)
    shown = _wait_for(chromium, "3 of 4 photos answered.")
    assert "not a picture in a format that can be read" in shown
    arrived = digests(uploads)
    for path, name in zip(drawn, ("cat.jpg", "pasted.jpg", "letter.txt"), strict=True):
        assert arrived[name] == hashlib.sha256(path.read_bytes()).hexdigest()
    elsewhere = {url for url in _requested(chromium) if not url.startswith(address)}
    assert not {url for url in elsewhere if url.startswith(("http", "ws"))}
