from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from catdog import CatdogError
from catdog.config import PrepareConfig
from catdog.data.prepare import prepare
from catdog.data.sources import fetch, has_kaggle_credentials, locate
from tests.sources import kaggle_source

SLUG = "somebody/pets"

pytestmark = pytest.mark.usefixtures("empty_home")


@pytest.fixture
def archive(tmp_path) -> Path:
    """Where the archive shall be when it is whole, and not before."""
    return tmp_path / "data" / "somebody-pets" / "raw" / "pets.zip"


def _fetch(tmp_path: Path) -> Path:
    return fetch(locate(f"kaggle:{SLUG}", tmp_path / "data", seed=0), seed=0)


def _refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(CatdogError, match=said) as refused:
        _fetch(tmp_path)
    assert "KGAT_planted" not in str(refused.value)  # the token
    assert list((tmp_path / "data").glob("*/raw/*.zip")) == []


def _fetched(tmp_path: Path, kaggle) -> None:
    assert _fetch(tmp_path).read_bytes() == kaggle.content


def test_the_real_client_downloads_the_archive_once(tmp_path, kaggle, archive, capsys):
    assert _fetch(tmp_path) == archive
    assert archive.read_bytes() == kaggle.content
    assert list((archive.parent / "incoming").iterdir()) == []
    assert capsys.readouterr().out == ""  # stdout is for answers
    asked = list(kaggle.asked)
    assert _fetch(tmp_path) == archive
    assert kaggle.asked == asked


@pytest.mark.parametrize("share", [0.1, 0.99])
def test_a_cut_download_goes_on_where_it_stopped(tmp_path, kaggle, waits, share):
    kaggle.cuts = [int(share * len(kaggle.content))]
    _fetched(tmp_path, kaggle)
    assert len(kaggle.ranges) == 1
    assert waits


def test_a_download_that_is_cut_again_and_again_goes_on_in_the_next_run(tmp_path, kaggle, waits):
    kaggle.cuts = [1_500_000] + [0] * 5
    _refused(tmp_path, f"Kaggle can't be reached to download {SLUG}.*it goes on where it stopped")
    kaggle.ranges.clear()
    _fetched(tmp_path, kaggle)
    assert int(kaggle.ranges[0][6:-1]) > 0


def test_a_server_that_knows_no_ranges_is_no_trouble(tmp_path, kaggle, waits):
    kaggle.ignores_range, kaggle.cuts = True, [1_500_000]
    _fetched(tmp_path, kaggle)


@pytest.mark.parametrize("more", [50_000, -50_000])
def test_a_wrong_length_is_not_taken_for_whole(tmp_path, kaggle, waits, more):
    kaggle.lies = more
    _refused(tmp_path, SLUG)
    kaggle.lies = 0
    _fetched(tmp_path, kaggle)


def test_an_archive_that_comes_damaged_is_fetched_anew_and_not_believed_twice(
    tmp_path, kaggle, said
):
    kaggle.wrong = 2
    _refused(tmp_path, "came damaged twice")
    kaggle.wrong = 1
    _fetched(tmp_path, kaggle)
    assert any("came damaged" in line for line in said)


def test_an_error_page_in_mid_download_is_not_taken_for_pictures(tmp_path, kaggle, waits, archive):
    kaggle.cuts, kaggle.expires = [1_500_000], 9
    try:
        _fetch(tmp_path)
    except CatdogError:
        assert not archive.exists()
    else:
        assert archive.read_bytes() == kaggle.content
    kaggle.expires = 0
    _fetched(tmp_path, kaggle)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (401, "make another at https://www.kaggle.com/settings"),
        (403, "accept its rules"),
        (404, f"check the name, as in https://www.kaggle.com/datasets/{SLUG}"),
        (429, "wait some minutes"),
        (500, "run this again later"),
    ],
)
def test_a_refusal_is_one_sentence_that_says_what_to_do(tmp_path, kaggle, waits, code, advice):
    kaggle.status = code
    _refused(tmp_path, rf"(?=.*\({code}\))(?=.*{SLUG}).*{advice}")
    assert sum(waits) < 120


def test_a_token_that_expired_or_is_missing_is_said(tmp_path, kaggle, monkeypatch):
    kaggle.token_active = False
    _refused(tmp_path, "did not accept the token")
    kaggle.asked.clear()
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    _refused(tmp_path, "needs a Kaggle token and none was found")
    assert kaggle.asked == []


@pytest.mark.parametrize("pasted", ["KGAT_planted", "", "{"])
def test_a_token_pasted_into_kaggle_json_is_told_where_it_belongs(
    tmp_path, kaggle, empty_home, monkeypatch, pasted
):
    token = os.environ["KAGGLE_API_TOKEN"]
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    (empty_home / ".kaggle").mkdir()
    (empty_home / ".kaggle" / "kaggle.json").write_text(pasted)
    with pytest.raises(CatdogError) as refused:
        _fetch(tmp_path)
    told = re.search(r"kaggle\.json, which holds.*save it as (~/\S+\w)\.", str(refused.value))[1]
    Path(told).expanduser().write_text(token)
    _fetched(tmp_path, kaggle)


@pytest.mark.parametrize(
    ("file", "variables"),
    [
        ("", {"KAGGLE_API_TOKEN": "x"}),
        ("", {"KAGGLE_USERNAME": "x", "KAGGLE_KEY": "y"}),
        (".kaggle/kaggle.json", {}),
        (".kaggle/access_token", {}),
        (".kaggle/access_token.txt", {}),
        (".kaggle/credentials.json", {}),
        (".config/kaggle/kaggle.json", {}),
        ("mine/kaggle.json", {"KAGGLE_CONFIG_DIR": "home/mine"}),
    ],
)
def test_auto_is_kaggle_with_any_form_of_credentials(
    tmp_path, empty_home, monkeypatch, file, variables
):
    assert locate("auto", tmp_path, seed=0).kind == "sample"
    if file:
        (empty_home / file).parent.mkdir(parents=True)
        (empty_home / file).write_text('{"username": "x", "key": "y"}', encoding="utf-8")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_kaggle_credentials()
    assert locate("auto", tmp_path, seed=0).origin == "kaggle:biaiscience/dogs-vs-cats"


@pytest.mark.parametrize(
    ("given", "name"),
    [("pets.zip", "pets"), ("pets.tar.gz", "pets"), ("My Pets (1)", "My_Pets__1_"), ("a.b", "a.b")],
)
def test_a_path_is_used_in_place_under_its_own_name(tmp_path, given, name):
    (tmp_path / given).mkdir()
    source = locate(str(tmp_path / given), tmp_path / "data", seed=0)
    assert (source.kind, source.name, source.path) == ("path", name, tmp_path / given)
    assert fetch(source, seed=0) == tmp_path / given


def test_two_sources_of_one_name_and_names_of_ours_do_not_share_a_folder(tmp_path):
    given = [tmp_path / who / "1" for who in ("ann", "bob")]
    for source in given:
        kaggle_source(source)
    prepare(locate(str(given[0]), tmp_path, seed=0), PrepareConfig(data_dir=str(tmp_path)))
    names = [locate(str(source), tmp_path, seed=0).name for source in (*given, *given)]
    assert names[0] == names[2] == "1"
    assert names[1] == names[3] != "1"
    for name in ("features", "runs", "sample", "sample-3"):
        (tmp_path / name).mkdir()
        assert locate(str(tmp_path / name), tmp_path, seed=0).name.startswith(f"{name}-")


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        *(
            (f"kaggle:{name}", "is not the name of a Kaggle data set")
            for name in ("pets", "a/b/c", "../x", "a/b?c")
        ),
        ("gone.zip", r"dataset=gone\.zip does not exist"),
    ],
)
def test_what_names_no_data_set_is_refused(tmp_path, dataset, said):
    with pytest.raises(CatdogError, match=said):
        locate(dataset, tmp_path, seed=0)
