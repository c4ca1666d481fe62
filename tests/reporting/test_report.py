from __future__ import annotations

import base64
import hashlib
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from PIL import Image

from catdog.data.split import Exclusion
from catdog.evaluation.audit import Issue
from catdog.evaluation.slices import SliceScore
from catdog.registry.compare import Comparison
from catdog.registry.promotion import STAGING, Decision
from catdog.registry.register import Released
from catdog.reporting import report
from catdog.reporting.findings import WORST_ERRORS
from catdog.reporting.report import Command, RunDetails, number, render, share, thumbnail
from tests.browser import SCROLLED_SIDEWAYS, as_phone
from tests.conftest import encoded

VOID = {"br", "wbr", "img", "input", "meta", "link", "hr"}
EVIL = '<script>alert("1")</script>\'"><img src=x onerror=alert(1)> \udcff \x07 猫 not UTF-8'
DETAILS = RunDetails(
    identity="run 123, today",
    parameters={"learning_rate": 0.002},
    versions={"torch": "2.9"},
    reproduce=[Command("The same again:", "mlflow run . -P seed=0")],
    use=[Command("Label photos:", "python scripts/predict.py PHOTO")],
)
SECTIONS = {
    *("metrics", "confusion", "ranking", "thresholds", "calibration", "slices", "test"),
    *("familiarity", "mistakes", "audit", "learning", "data", "parameters", "versions"),
    *("reproduce", "use"),
}


class Page(HTMLParser):
    """Elements as (name, attributes), and what is wrong with how they are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{name}> is not closed" for name in self.open]

    def handle_starttag(self, tag, attrs):
        if len(dict(attrs)) != len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes another element")

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def sections(self) -> set[str]:
        return {attributes["aria-labelledby"] for attributes in self.all("section")}

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())


def _issues(dataset) -> list[Issue]:
    """One of each kind."""
    ours, theirs = dataset.rows("training")[0], dataset.rows("validation")[0]
    path, twin, digests = ours["path"], theirs["path"], (ours["sha256"], theirs["sha256"])
    return [
        Issue(path, "wrong_label", 0.97, "dog", digests[0]),
        Issue(path, "near_duplicate", 0.99, twin, *digests),
        Issue(path, "unlike_others", 0.8, twin, *digests),
    ]


@pytest.fixture(scope="module")
def draw_page(dataset, trained, released, findings):
    """The page of the tiny run, with whatever is given in place of its own."""

    def draw(details: RunDetails = DETAILS, **given: object) -> str:
        shown = {"dataset": dataset, "trained": trained, "released": released}
        shown["findings"] = replace(findings, issues=_issues(dataset))
        return render(**(shown | given), details=details)

    return draw


@pytest.fixture(scope="module")
def text(draw_page) -> str:
    return draw_page()


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_every_part_has_a_section_and_a_link_to_it(page):
    assert page.sections == SECTIONS
    assert {f"#{name}" for name in SECTIONS} <= {attributes["href"] for attributes in page.all("a")}


def test_parts_with_nothing_to_show_leave_nothing_behind(draw_page, trained, findings):
    mistake = replace(findings.mistakes[0], heat_map=None)
    page = Page(
        draw_page(
            replace(DETAILS, use=[]),
            trained=replace(trained, baseline=None, baseline_logits=None),
            findings=replace(findings, issues=(), test_slices=(), mistakes=[mistake]),
        )
    )
    gone = {"test", "use"}
    assert page.sections == SECTIONS - gone
    assert page.faults == []
    assert not page.all("script")
    assert len(page.all("img")) == 7 + 1  # charts, and a mistake without a heat map
    assert "where the model looked" not in page.text
    assert "Nothing in the data looks wrong." in page.text
    assert "ntrained" not in page.text.replace("as trained", "")


def test_the_page_is_well_formed_and_everything_that_is_referred_to_exists(page):
    assert page.faults == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    names = ("for", "aria-labelledby", "aria-describedby")
    wanted = {
        attributes[name] for _, attributes in page.elements for name in names if name in attributes
    }
    assert wanted | {attributes["href"][1:] for attributes in page.all("a")} <= set(ids)


def test_the_page_needs_nothing_from_elsewhere(text, page):
    addresses = [
        attributes[name]
        for _, attributes in page.elements
        for name in ("src", "href", "data", "action")
        if attributes.get(name)
    ]
    assert all(address.startswith(("#", "data:image/")) for address in addresses)
    assert not page.all("link")
    assert not re.search(r"https?://|@import|url\(", re.sub(r"base64,[^\"]*", "", text))


def test_only_our_script_may_run_and_it_finds_what_it_looks_for(text, page):
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    wanted = re.findall(r'getElementById\("([^"]+)"\)', script)
    assert len(wanted) == 4
    assert set(wanted) <= {attributes.get("id") for _, attributes in page.elements}


def test_names_that_users_give_are_text_and_never_markup(
    draw_page, dataset, trained, findings, tmp_path
):
    folder, path = tmp_path / 'a "<b>', "\"'><img src=x onerror=alert(1)>.jpg"
    shutil.copytree(dataset.folder, folder)
    shutil.copy(folder / findings.mistakes[0].path, folder / path)
    classes = ("<i>ant</i>", "'bee\"")
    about = replace(trained.classifier.about, classes=classes)
    text = draw_page(
        RunDetails(EVIL, {EVIL: EVIL}, {EVIL: EVIL}, [Command(EVIL, EVIL)], ()),
        dataset=replace(
            dataset, folder=folder, origin=EVIL, classes=classes, counts={"test": {EVIL: 1}}
        ),
        trained=replace(trained, classifier=SimpleNamespace(about=about)),
        released=Released(
            SimpleNamespace(name=EVIL, version=EVIL),
            Decision(STAGING, EVIL),
            Comparison(SimpleNamespace(version=EVIL), EVIL, findings.metrics, 1),
        ),
        findings=replace(
            findings,
            operating_points=(),
            slices=[*findings.slices, replace(findings.slices[1], name=EVIL)],
            issues=[
                Issue(path, "near_duplicate", 1.0, path, "ab", "ab"),
                Issue(path, "unlike_others", 1.0, EVIL, "ab"),
            ],
            mistakes=[replace(findings.mistakes[0], path=path, label=classes[0])],
        ),
    )
    page = Page(text)
    assert page.faults == []
    assert len(page.all("script")) == 1
    assert {name for name, _ in page.elements}.isdisjoint({"i", "b"})
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert page.all("input")[0]["value"].endswith(path)
    text.encode("utf-8")  # a name that is not UTF-8 can be written to a file


def test_a_line_to_leave_out_is_the_photos_digest_whatever_its_name(tmp_path):
    exclude = tmp_path / "exclude.txt"
    line = report.exclude_line("a\u2028b #1\n.jpg", "fedcba98" * 8)
    exclude.write_text(line + "\n", encoding="utf-8")
    exclusion = Exclusion.read(str(exclude))
    assert exclusion.lines == ("fedcba98fedcba98",)


def test_what_the_audit_points_at_says_what_is_meant_and_can_be_ticked(dataset, text, page):
    ours, theirs = dataset.rows("training")[0], dataset.rows("validation")[0]
    twin = theirs["path"]
    meanings = ("looks like a dog", f"repeats {twin}", f"least unlike {twin}")
    assert all(meaning in page.text for meaning in meanings)
    lines = [f"{row['sha256'][:16]}  # {row['path']}" for row in (ours, ours, theirs, ours)]
    boxes = [box for box in page.all("input") if box["name"] == "exclude"]
    assert [(box["type"], box["value"]) for box in boxes] == [("checkbox", it) for it in lines]
    labels = re.findall(r'<label class="tick">(.*?)</label>', text, re.DOTALL)
    assert "leave out the right one" in labels[2]
    assert f"{twin}</span>" in labels[2]


def test_a_page_of_many_rich_photos_is_cut_says_so_and_stays_below_3_megabytes(
    draw_page, dataset, findings, tmp_path
):
    folder = shutil.copytree(dataset.folder, tmp_path / "data")
    photo = Image.merge("RGB", [Image.effect_noise((160, 160), 15)] * 3)
    photo.save(folder / "rich.jpg", quality=95)
    assert len(encoded(thumbnail((folder / "rich.jpg").read_bytes()), quality=75)) > 6_000
    issues = [replace(it, path="rich.jpg", detail="rich.jpg") for it in _issues(dataset)]
    mistake = replace(findings.mistakes[0], path="rich.jpg", heat_map=photo)
    rich = replace(findings, issues=issues * 60, mistakes=[mistake] * WORST_ERRORS)
    text = draw_page(dataset=replace(dataset, folder=folder), findings=rich)
    page = Page(text)
    assert len(page.all("img")) == 8 + 2 * WORST_ERRORS + 4 * report.MOST_PICTURES
    assert f"the surest {report.MOST_PICTURES} of 60" in page.text
    assert len(text.encode()) < 3_000_000


def test_who_cannot_see_the_page_finds_words_and_landmarks(page):
    assert len(page.all("img")) == 8 + 2 + 4  # charts, a mistake, three issues
    assert all(image.get("alt") for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) == 10
    assert {header["scope"] for header in page.all("th")} == {"row", "col"}
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(name)) for name in ("header", "nav", "main", "h1")] == [1, 1, 1, 1]
    assert page.all("a")[0] == {"class": "skip", "href": "#content"}


SHARE = r"[\d.]+ %"
SENTENCES = {
    "the verdict": rf"Right on {SHARE} of 11 held back photos \(95 % sure: {SHARE} to {SHARE}\), "
    rf"better than ImageNet's classes untrained \({SHARE}\); "
    r"version 7 went to Staging: it is new\.",
    "which run it is": rf"data, kept epoch 1 of 2; {SHARE} right on test photos; run 123, today",
    "the version in Production": r"Production \(version 2, 5 of 11 photos\)",
    "metrics of three": rf"accuracy_ score {SHARE} {SHARE} to {SHARE} {SHARE} 50.0 % 40.0 % to 60",
    "what is better": r"log_ loss \(less is better\)",
    "why not compared": r"Not compared with version 2 in Production: too few photos\.",
    "excluded photos": r"matthews.*With the excluded photos, 12 in all.*Untrained: what ImageNet",
    "confusion": rf"a cat \d+ {SHARE}, right \d+ {SHARE}, wrong a dog \d+ {SHARE}, wrong",
    "thresholds": r"1.0 % of dog 0\.\d+ 0 of \d+ dog \d+ of \d+ cat for dog",
    "what is neither": rf"That tells {SHARE} of the 3 pictures that show neither",
    "test photos": r"these 8 labelled photos.*Test photos with something in common.*camera = old",
    "counts": r"split cat dog all training (\d+) (\d+) \d+ validation \d+ \d+ 11 test 4 4 8",
    "unreadable": r"Left out because they can't be read: 1 [^ ]*cat\.99\.jpg",
    "excluded": r"Left out on request: 1 ",
}


@pytest.mark.parametrize("what", SENTENCES)
def test_the_page_says(page, what):
    assert re.search(SENTENCES[what], page.text)


def test_the_worst_slice_is_named_in_words(draw_page, findings):
    rows = [SliceScore("light", name, 40, 9, 0.775, 0.6, 0.9, True) for name in ("dark", "dim")]
    page = Page(draw_page(findings=replace(findings, slices=[findings.slices[0], *rows])))
    assert "Worst: dark , surely worse." in page.text
    assert "dark (worst) 40 9 77.5 % 60.0 % to 90.0 % dim 40 9" in page.text


def test_a_share_is_never_rounded_to_all_or_nothing_and_what_is_not_known_is_a_dash():
    shown = [share(value).replace("\xa0", " ") for value in (0, 1, 0.9875, 0.9999, 0.0001)]
    assert shown == ["0.0 %", "100.0 %", "98.8 %", "> 99.9 %", "< 0.1 %"]
    assert [share(None), share(math.nan), number(None), number(math.inf)] == ["–"] * 4


# --- In a browser --------------------------------------------------------------------


@pytest.fixture
def shown(chromium, tmp_path, text):
    """The report on a phone."""
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    as_phone(chromium)
    chromium.get(path.as_uri())
    return chromium


@pytest.mark.browser
def test_ticked_photos_make_a_list_that_the_exclude_reader_understands(shown, tmp_path, dataset):
    boxes = shown.find_elements("css selector", 'input[name="exclude"]')
    for box in boxes[1:3]:
        shown.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
        box.click()
    written = shown.find_element("id", "exclude-list").get_property("value")
    assert "2 photos are ticked." in shown.find_element("id", "exclude-status").text
    (tmp_path / "exclude.txt").write_text(written, encoding="utf-8")
    twins = (dataset.rows("training")[0], dataset.rows("validation")[0])
    assert Exclusion.read(str(tmp_path / "exclude.txt")).lines == tuple(
        row["sha256"][:16] for row in twins
    )
    boxes[1].click()
    assert "1 photo is ticked." in shown.find_element("id", "exclude-status").text


@pytest.mark.browser
def test_on_a_phone_every_chart_is_shown_and_nothing_is_cut_off_at_the_side(shown):
    assert shown.execute_script("return innerWidth") == 390
    assert shown.execute_script(SCROLLED_SIDEWAYS) == []
    widths = "return [...document.querySelectorAll('.chart')].map((it) => it.naturalWidth)"
    assert len(shown.execute_script(widths)) == 8
    assert all(shown.execute_script(widths))
