from __future__ import annotations

import base64
import hashlib
import math
import re
import time
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from catdog.data.ingest import SourcePicture
from catdog.data.split import Exclusion
from catdog.reporting import report as reports
from catdog.reporting.page import thumbnail
from catdog.reporting.report import (
    Audit,
    Calibration,
    Command,
    Data,
    Familiarity,
    Learning,
    Metric,
    Mistake,
    OnTest,
    Ranking,
    Report,
    Slice,
    Slices,
    Suspect,
    Threshold,
    number,
    render,
    share,
)
from tests.conftest import SCROLLED_SIDEWAYS, as_phone, encoded, tiny_picture

VOID = {"br", "wbr", "img", "input", "meta", "link", "hr"}
LABELS = np.repeat([0, 1], 20)
LOGITS = np.linspace(-4, 4, 40)
P_DOG = 1 / (1 + np.exp(-LOGITS))
JPEG = encoded(tiny_picture("cat", 0))

PARTS = {
    "metrics": [
        Metric(
            "accuracy", 0.988, 0.971, 0.995, 0.973, 0.985, production_low=0.97, production_high=0.99
        ),
        Metric("log-loss", 0.0454, percent=False, higher_is_better=False),
    ],
    "confusion": np.array([[198, 2], [4, 196]]),
    "ranking": Ranking(LABELS, LOGITS, LOGITS[::-1]),
    "thresholds": [
        Threshold("dog", 0.01, 0.31, 2, 200, 5, 199),
        Threshold("cat", 0.001, 0.99999312, 0, 199, 9, 200),
    ],
    "calibration": Calibration(LABELS, P_DOG, P_DOG, 1.25, [("ECE", 0.03, 0.01)]),
    "slices": Slices(
        [Slice("dark", 40, 4, 0.9, 0.77, 0.96), Slice("bright", 60, 1, 0.98, 0.91, 0.99)],
        0.95,
        "dark",
        "may be chance",
    ),
    "test": OnTest(
        1234,
        [Metric("accuracy_score", 0.875, 0.8, 0.9)],
        Slices([Slice("upright", 30, 3, 0.9, 0.7, 0.95)], 0.95, "upright", "may be chance"),
    ),
    "familiarity": Familiarity(LOGITS, LOGITS - 9, -4.5, 0.97),
    "mistakes": [Mistake("validation/cat/7.jpg", "cat", 0.93, JPEG, JPEG)],
    "audit": Audit(
        [
            Suspect(
                "training/cat/1.jpg",
                "wrong_label",
                0.97,
                "looks like a dog",
                JPEG,
                digest="0123456789abcdef" * 4,
            ),
            Suspect(
                "training/dog/2.jpg",
                "near_duplicate",
                0.99,
                "mirrored",
                JPEG,
                "validation/dog/3.jpg",
                JPEG,
            ),
            Suspect("training/dog/4.jpg", "unlike_others", 0.8, "far away", JPEG),
        ],
        {"wrong_label": 57},
    ),
    "learning": Learning([0.3, 0.1], [0.2, 0.1], [0.9, 0.95], [0.9, 0.98], 2, 0.15, 0.97),
    "data": Data(
        "pets",
        "pets.zip",
        {"training": {"cat": 801, "dog": 799}, "test": {"": 1234}},
        "4c88eaf1",
        "15c0080a",
        [("cat.9.jpg", "does not decode")],
        ["training/dog/12.jpg"],
    ),
    "parameters": {"learning_rate": 0.002},
    "versions": {"torch": "2.9"},
    "reproduce": [Command("The same again:", "mlflow run . -P seed=0")],
    "use": [Command("Label photos:", "python scripts/predict.py PHOTO")],
}
WHOLE = Report(title="pets-lr0.002", verdict="Right on all.", about="run 3f2a", **PARTS)


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

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes another element")

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.fixture(scope="module")
def text() -> str:
    return render(WHOLE)


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def _sections(page: Page) -> list[str]:
    return [attributes["aria-labelledby"] for attributes in page.all("section")]


def test_the_example_has_every_part_that_a_report_can_have():
    words = {"title", "classes", "verdict", "about", "raw", "production", "champion"}
    assert {each.name for each in fields(Report)} - words == set(PARTS)


def test_every_part_that_is_given_has_a_section_and_a_link_to_it(page):
    assert sorted(_sections(page)) == sorted(PARTS)
    links = [attributes["href"] for attributes in page.all("a")]
    assert {f"#{name}" for name in PARTS} <= set(links)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_alone_makes_its_section_and_no_other(name):
    page = Page(render(Report(title="run", **{name: PARTS[name]})))
    assert _sections(page) == [name]
    assert len(page.all("h2")) == 1
    assert page.faults == []


@pytest.mark.parametrize("first", [0, 1])
def test_parts_that_are_missing_leave_nothing_behind(first):
    given_parts = dict(list(PARTS.items())[first::2])
    text = render(Report(title="run", **given_parts))
    assert sorted(_sections(Page(text))) == sorted(given_parts)
    assert not [name for name in PARTS.keys() - given_parts.keys() if f'"#{name}"' in text]


def test_an_empty_report_is_a_page_with_a_title():
    page = Page(render(Report(title="run 7")))
    assert _sections(page) == []
    assert "run 7" in page.text
    assert page.faults == []
    assert not page.all("script")


def test_the_page_is_well_formed_and_every_id_is_unique(page):
    assert page.faults == []
    assert len(page.ids) == len(set(page.ids))


def test_everything_that_is_referred_to_exists(page):
    names = ("for", "aria-labelledby", "aria-describedby")
    wanted = {
        attributes[name] for _, attributes in page.elements for name in names if name in attributes
    }
    wanted |= {attributes["href"][1:] for attributes in page.all("a")}
    assert wanted <= set(page.ids)


def test_the_page_needs_nothing_from_elsewhere(text, page):
    addresses = [
        attributes[name]
        for _, attributes in page.elements
        for name in ("src", "href", "xlink:href", "data", "action")
        if attributes.get(name)
    ]
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in addresses)
    assert not page.all("link")
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_same_report_gives_the_same_page(text):
    assert render(WHOLE) == text


def test_names_of_files_are_text_and_never_markup():
    evil = '<script>alert("1")</script>\'"><img src=x onerror=alert(1)>'
    text = render(
        Report(
            title=evil,
            verdict=evil,
            about=evil,
            production=evil,
            metrics=[Metric(evil, 0.9, production=0.9)],
            calibration=Calibration(LABELS, P_DOG, P_DOG, 1.0, [(evil, 1.0, 1.0)]),
            slices=Slices([Slice(evil, 1, 0, 1.0, 0.2, 1.0)], 1.0, evil),
            familiarity=Familiarity(LOGITS, LOGITS, 0.0, 0.5, evil),
            mistakes=[Mistake(evil, "cat", 0.9, JPEG, JPEG)],
            audit=Audit([Suspect(evil, "near_duplicate", 1.0, evil, JPEG, evil, JPEG)]),
            data=Data(evil, evil, {evil: {evil: 1}}, evil, evil, [(evil, evil)], [evil]),
            parameters={evil: evil},
            versions={evil: evil},
            reproduce=[Command(evil, evil)],
            use=[Command(evil, evil)],
        )
    )
    page = Page(text)
    assert page.faults == []
    assert len(page.all("script")) == 1
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
    assert page.all("input")[0]["value"] == evil
    assert all(image["src"].startswith("data:") for image in page.all("img"))


@given(name=st.text(min_size=1, max_size=12))
@example(name="not UTF-8 \udcff.jpg")
def test_a_name_of_any_letters_can_be_written_to_a_file(name):
    text = render(Report(title=name, parameters={name: name}))
    assert Page(text).faults == []
    text.encode("utf-8")


def test_only_our_script_may_run(text, page):
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.endswith(f"script-src 'sha256-{digest}'")


def test_the_script_finds_what_it_looks_for(text, page):
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    wanted = re.findall(r'getElementById\("([^"]+)"\)', script)
    assert len(wanted) == 4
    assert set(wanted) <= set(page.ids)
    assert 'input[name="exclude"]' in script
    ticked = [attributes for attributes in page.all("input") if attributes["name"] == "exclude"]
    assert [box["value"] for box in ticked] == [
        "0123456789abcdef  # training/cat/1.jpg",
        "training/dog/2.jpg",
        "validation/dog/3.jpg",
        "training/dog/4.jpg",
    ]
    assert {box["type"] for box in ticked} == {"checkbox"}


def test_a_line_to_leave_out_names_the_photo_in_any_split_and_is_one_line(tmp_path):
    suspect = Suspect("a\u2028b #1\n.jpg", "wrong_label", 0.9, "", JPEG, digest="fedcba98" * 8)
    exclude = tmp_path / "exclude.txt"
    exclude.write_text(suspect.line + "\n", encoding="utf-8")
    exclusion = Exclusion.read(str(exclude))
    assert exclusion.lines == ("fedcba98fedcba98",)
    moved, other = (
        SourcePicture(name, Path(), "cat", "validation", digest * 8, 1, 1, path=name)
        for name, digest in (("validation/cat/a.jpg", "fedcba98"), ("b.jpg", "0" * 8))
    )
    assert exclusion.choose([moved, other]) == ({moved.path}, [])


def test_every_tick_box_stands_in_a_label_that_names_the_file(text):
    labels = re.findall(r'<label class="tick">(.*?)</label>', text, re.DOTALL)
    assert len(labels) == 4
    assert "leave out the right one" in labels[2]
    assert "validation/dog/3.jpg</span>" in labels[2]


def test_every_picture_has_words_for_who_cannot_see_it(page):
    assert len(page.all("img")) == 6
    assert all(image.get("alt") for image in page.all("img"))
    assert all(svg.get("aria-label") for svg in page.all("svg"))
    assert len(page.all("svg")) == 8


def test_every_table_names_its_rows_and_columns(page):
    assert len(page.all("caption")) == len(page.all("table")) == 10
    assert {header["scope"] for header in page.all("th")} == {"row", "col"}


def test_the_page_can_be_walked_by_landmarks(page):
    (html,) = page.all("html")
    assert html["lang"] == "en"
    assert [len(page.all(name)) for name in ("header", "nav", "main", "h1")] == [1, 1, 1, 1]
    assert page.all("a")[0] == {"class": "skip", "href": "#content"}


def _schemes() -> dict[str, dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", render(Report("run")), re.DOTALL)[:2]
    return {
        name: dict(re.findall(r"--(\w+): (#\w{6})", block))
        for name, block in {"light": light, "dark": dark}.items()
    }


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "panel"])
@pytest.mark.parametrize("letters", ["ink", "muted", "ours", "other", "kept"])
def test_letters_and_lines_stand_out_in_both_schemes(scheme, ground, letters):
    colours = _schemes()[scheme]
    low, high = sorted(_luminance(colours[name]) for name in (ground, letters))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_the_page_sets_every_colour_that_a_chart_uses():
    assert all(set(reports.charts.COLOURS) <= set(scheme) for scheme in _schemes().values())


def test_metrics_stand_beside_the_untrained_and_the_production_version():
    metrics = PARTS["metrics"]
    text = Page(render(Report("run", metrics=metrics, production="Production (version 2)"))).text
    assert "accuracy 98.8 % 97.1 % to 99.5 % 97.3 % 98.5 % 97.0 % to 99.0 %" in text
    assert "Production (version 2)" in text
    page = Page(render(Report("run", metrics=metrics, champion="Against version 2: 3 of 400.")))
    assert "Against version 2: 3 of 400." in page.text
    assert "log-loss (less is better) 0.0454 – –" in text


def test_figures_with_the_excluded_photos_stand_below_the_metrics():
    text = Page(render(Report("run", metrics=PARTS["metrics"], raw="With them: 97 %."))).text
    assert text.index("log-loss") < text.index("With them: 97 %.") < text.index("Untrained:")


def test_labelled_test_photos_have_metrics_and_slices_of_their_own():
    page = render(Report("run", test=PARTS["test"]))
    text = Page(page).text
    assert "1,234 labelled photos" in text
    assert "87.5 % 80.0 % to 90.0 %" in " ".join(text.split())
    assert "Worst: <strong>upright</strong>, may be chance" in page
    without = replace(PARTS["test"], slices=None)
    assert "upright" not in render(Report("run", test=without))


def test_metrics_leave_out_columns_that_nothing_is_known_of():
    text = Page(render(Report("run", metrics=[Metric("accuracy", 0.9)]))).text
    assert "untrained" not in text
    assert "Production" not in text


def test_a_confusion_matrix_shows_counts_and_shares_of_each_true_class(page):
    assert "a cat 198 99.0 %, right 2 1.0 %, wrong" in page.text
    assert "a dog 4 2.0 %, wrong 196 98.0 %, right" in page.text


def test_a_confusion_matrix_of_one_class_alone_can_be_shown():
    text = Page(render(Report("run", confusion=np.array([[0, 0], [1, 1]])))).text
    assert "a cat 0 0.0 %, right" in text


def test_a_threshold_says_what_is_missed_and_what_is_wrongly_taken(page):
    assert "1.0 % of dog 0.31 2 of 200 dog 5 of 199 cat for dog" in page.text


def test_the_worst_slice_is_named_in_words(page):
    assert "Worst: dark , may be chance." in page.text
    assert "dark (worst) 40 4 90.0 %" in page.text


def test_familiarity_says_how_many_are_told_and_how_many_are_lost():
    it = Familiarity(np.array([0.0, 1.0, 2.0, 3.0]), np.array([-1.0, 0.0, 1.0, 0.1]), 0.5, 0.9)
    assert (it.told, it.lost) == (0.75, 0.25)
    assert "tells 75.0 % of the 4 pictures" in Page(render(Report("run", familiarity=it))).text


def test_an_audit_that_found_nothing_says_so():
    page = Page(render(Report("run", audit=Audit([]))))
    assert "Nothing in the data looks wrong." in page.text
    assert not page.all("script")


def test_a_contact_sheet_is_cut_and_says_how_many_there_are():
    many = [
        Suspect(f"training/cat/{n}.jpg", "wrong_label", 0.9, "", JPEG)
        for n in range(reports.MOST_PICTURES + 5)
    ]
    page = Page(render(Report("run", audit=Audit(many, {"wrong_label": 500}))))
    assert len(page.all("img")) == reports.MOST_PICTURES
    assert f"the surest {reports.MOST_PICTURES} of 500" in page.text


def test_mistakes_without_heat_maps_show_one_picture_each():
    photos = [Mistake(f"{n}.jpg", "dog", 0.2, JPEG) for n in range(60)]
    page = Page(render(Report("run", mistakes=photos)))
    assert len(page.all("img")) == reports.MOST_PICTURES
    assert f"These are {reports.MOST_PICTURES} of 60." in page.text
    assert "where the model looked" not in page.text


def test_data_are_counted_by_split_and_class(page):
    assert "split cat dog no label all" in page.text
    assert "training 801 799 0 1,600" in page.text
    assert "test 0 0 1,234 1,234" in page.text
    assert "cat.9.jpg : does not decode" in page.text


def test_long_lists_of_files_are_cut():
    names = [f"training/cat/{number}.jpg" for number in range(5000)]
    text = render(Report("run", data=Data("pets", "x", {}, excluded=names)))
    assert "training/cat/199.jpg" in text
    assert "training/cat/200.jpg" not in text
    assert "and 4,800 more" in text


def test_a_page_full_of_pictures_is_small_and_soon_there():
    noise = np.random.default_rng(0).integers(0, 255, (375, 500, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((30, 22)).resize((500, 375), Image.Resampling.BICUBIC)
    small = thumbnail(encoded(picture))
    suspects = [
        Suspect(f"training/cat/{n}.jpg", issue, 0.9, "", small, "twin.jpg", small)
        for issue in reports.ISSUES
        for n in range(60)
    ]
    mistakes = [Mistake(f"validation/cat/{n}.jpg", "cat", 0.9, small, small) for n in range(60)]
    full = replace(WHOLE, audit=Audit(suspects), mistakes=mistakes)
    start = time.process_time()
    text = render(full)
    assert time.process_time() - start < 2
    assert len(text.encode()) < 3_000_000


def test_a_share_is_never_rounded_to_all_or_nothing():
    shown = [share(value).replace("\xa0", " ") for value in (0, 1, 0.9875, 0.9999, 0.0001)]
    assert shown == ["0.0 %", "100.0 %", "98.8 %", "> 99.9 %", "< 0.1 %"]


def test_what_is_not_known_is_a_dash():
    assert [share(None), share(math.nan), number(None), number(math.inf)] == ["–"] * 4


# --- In a browser --------------------------------------------------------------------


@pytest.fixture
def shown(chromium, tmp_path):
    """The report as it is after a run, with long names and all columns, on a phone."""
    names = ("accuracy_score", "precision_recall_auc", "matthews_corrcoef")
    metrics = [
        Metric(name, 0.98, 0.971, 0.995, 0.97, 0.96, production_low=0.95, production_high=0.97)
        for name in names
    ]
    long = ["medium: brightness 0.367 to 0.633", "large: 0.3 megapixel and more", "dark"]
    rows = [Slice(name, 133, 1, 0.9825, 0.965, 1.0) for name in long]
    path = tmp_path / "report.html"
    path.write_text(
        render(
            replace(
                WHOLE,
                metrics=metrics,
                production="Production (version 12)",
                champion="version 12: 3 of 400 photos put right",
                slices=Slices(rows, 0.99, "dark", "may be chance"),
            )
        ),
        encoding="utf-8",
    )
    as_phone(chromium)
    chromium.get(path.as_uri())
    return chromium


@pytest.mark.browser
def test_ticked_photos_make_a_list_that_the_exclude_reader_understands(shown, tmp_path):
    boxes = shown.find_elements("css selector", 'input[name="exclude"]')
    for box in (boxes[0], boxes[3]):
        shown.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
        box.click()
    written = shown.find_element("id", "exclude-list").get_property("value")
    assert "2 photos are ticked." in shown.find_element("id", "exclude-told").text
    (tmp_path / "exclude.txt").write_text(written, encoding="utf-8")
    exclusion = Exclusion.read(str(tmp_path / "exclude.txt"))
    assert exclusion.lines == ("0123456789abcdef", "training/dog/4.jpg")
    boxes[0].click()
    assert shown.find_element("id", "exclude-list").get_property("value") == (
        "training/dog/4.jpg\n"
    )


@pytest.mark.browser
def test_on_a_phone_nothing_is_cut_off_at_the_side(shown):
    assert shown.execute_script("return innerWidth") == 390
    assert shown.execute_script(SCROLLED_SIDEWAYS) == []


@pytest.mark.browser
def test_the_numbers_below_a_chart_do_not_overlap_on_a_phone(shown):
    overlaps = shown.execute_script(
        """
        return [...document.querySelectorAll("svg.chart")].map((chart) => {
          const boxes = [...chart.querySelectorAll("text")]
            .map((text) => text.getBoundingClientRect());
          return boxes.filter((one, at) => boxes.slice(at + 1).some((other) =>
            one.left < other.right - 1 && other.left < one.right - 1
            && one.top < other.bottom - 3 && other.top < one.bottom - 3)).length;
        });
        """
    )
    assert len(overlaps) == 8
    assert not any(overlaps)
