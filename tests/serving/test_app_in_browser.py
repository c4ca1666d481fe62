"""The page in a real browser: by mouse, keyboard and on a phone."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from tests.browser import SCROLLED_SIDEWAYS, as_phone
from tests.serving.conftest import digests

INPUT = '#photos input[type="file"]'


def _wait_for(browser, text: str) -> str:
    """What the page says once it holds `text`."""
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
    arrived = digests(uploads)
    for path, name in zip(drawn, ("dropped.jpg", "pasted.jpg", "letter.txt"), strict=True):
        assert arrived[name] == hashlib.sha256(path.read_bytes()).hexdigest()
    elsewhere = {url for url in _requested(chromium) if not url.startswith(address)}
    assert not {url for url in elsewhere if url.startswith(("http", "ws"))}


@pytest.mark.browser
def test_the_page_works_by_keyboard_and_on_a_phone(page, chromium, drawn):
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
