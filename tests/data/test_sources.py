from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from catdog import CatdogError
from catdog.data import sources
from catdog.data.sources import fetch, has_kaggle_credentials, locate
from tests.conftest import ROOT, point_kaggle_client_to
from tests.kaggle_server import KaggleServer

TOKEN = "KGAT_planted_0123456789"
SLUG = "somebody/pets"

pytestmark = pytest.mark.usefixtures("empty_home")


@pytest.fixture
def server(kaggle) -> KaggleServer:
    """Kaggle, on loopback, with the user logged in by our token."""
    return kaggle


def _fetch(tmp_path: Path) -> Path:
    return fetch(locate(f"kaggle:{SLUG}", tmp_path / "data", seed=0), seed=0)


def _refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(CatdogError, match=said):
        _fetch(tmp_path)
    assert list((tmp_path / "data").glob("*/raw/*.zip")) == []


def test_the_real_client_downloads_the_archive(tmp_path, server, capsys):
    path = _fetch(tmp_path)
    assert path == tmp_path / "data" / "somebody-pets" / "raw" / "pets.zip"
    assert path.read_bytes() == server.content
    assert list((path.parent / "incoming").iterdir()) == []
    assert capsys.readouterr().out == ""  # stdout is for answers


def test_what_is_here_whole_is_not_asked_for_again(tmp_path, server):
    _fetch(tmp_path)
    asked = list(server.asked)
    _fetch(tmp_path)
    assert server.asked == asked


def test_a_damaged_archive_is_thrown_away_and_fetched_anew(tmp_path, server, capsys):
    server.wrong = 1
    assert _fetch(tmp_path).read_bytes() == server.content
    assert "came damaged" in capsys.readouterr().err


def test_an_expired_token_is_told(tmp_path, server):
    server.token_active = False
    _refused(tmp_path, "did not accept the token")


def test_no_network_is_told(tmp_path, server, monkeypatch, waits):
    point_kaggle_client_to("http://127.0.0.1:9", monkeypatch)
    _refused(tmp_path, "Kaggle can't be reached")
    assert all(wait < 120 for wait in waits)


def test_kaggle_without_a_token_is_told_before_anything_is_asked(tmp_path, server, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    _refused(tmp_path, "needs a Kaggle token and none was found")
    assert server.asked == []


def test_a_data_folder_that_can_not_be_written_is_told(tmp_path, server):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(CatdogError, match=r"can't be written.*choose another folder"):
        _fetch(tmp_path)
    assert server.asked == []


@pytest.mark.parametrize("status", [200, 401, 403, 500])
def test_the_token_is_never_shown_or_written(tmp_path, server, capfd, waits, status):
    server.status = status
    try:
        _fetch(tmp_path)
        told = ""
    except CatdogError as error:
        told = str(error)
    shown = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN not in told + shown.out + shown.err
    assert TOKEN.encode() not in written
    assert len(waits) < 9


CREDENTIALS = {
    "token": lambda _: {"KAGGLE_API_TOKEN": "x"},
    "user and key": lambda _: {"KAGGLE_USERNAME": "x", "KAGGLE_KEY": "y"},
    "kaggle.json": lambda home: _written(home / ".kaggle" / "kaggle.json"),
    "access_token": lambda home: _written(home / ".kaggle" / "access_token"),
    "access_token.txt": lambda home: _written(home / ".kaggle" / "access_token.txt"),
    "login": lambda home: _written(home / ".kaggle" / "credentials.json"),
    "xdg": lambda home: _written(home / ".config" / "kaggle" / "kaggle.json"),
    "config dir": lambda home: (
        _written(home / "mine" / "kaggle.json") | {"KAGGLE_CONFIG_DIR": str(home / "mine")}
    ),
}


def _written(path: Path) -> dict[str, str]:
    path.parent.mkdir(parents=True)
    path.write_text('{"username": "x", "key": "y"}', encoding="utf-8")
    return {}


@pytest.mark.parametrize("form", CREDENTIALS)
def test_auto_is_kaggle_with_any_form_of_credentials(tmp_path, empty_home, monkeypatch, form):
    assert locate("auto", tmp_path, seed=0).kind == "sample"
    for name, value in CREDENTIALS[form](empty_home).items():
        monkeypatch.setenv(name, value)
    assert has_kaggle_credentials()
    assert locate("auto", tmp_path, seed=0).origin == "kaggle:biaiscience/dogs-vs-cats"


def test_locating_writes_nothing_and_imports_no_client(tmp_path):
    code = (
        "import sys; from pathlib import Path; from catdog.data.sources import locate\n"
        "locate('kaggle', Path('data'), seed=0); locate('sample', Path('data'), seed=0)\n"
        "sys.exit('kaggle' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    ("given", "name"),
    [("pets.zip", "pets"), ("pets.tar.gz", "pets"), ("My Pets (1)", "My_Pets__1_"), ("a.b", "a.b")],
)
def test_a_path_is_used_in_place_under_its_own_name(tmp_path, given, name):
    (tmp_path / given).mkdir()
    source = locate(str(tmp_path / given), tmp_path / "data", seed=0)
    assert (source.kind, source.name, source.path) == ("path", name, tmp_path / given)
    assert fetch(source, seed=0) == tmp_path / given


def test_words_win_over_files_of_their_name_and_a_path_is_meant_by_a_slash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample").mkdir()
    assert locate("sample", tmp_path, seed=0).kind == "sample"
    assert locate("./sample", tmp_path, seed=0).kind == "path"


def test_each_seed_has_a_sample_of_its_own(tmp_path):
    names = {locate("sample", tmp_path, seed=seed).name for seed in (0, 1, 2)}
    assert names == {"sample", "sample-1", "sample-2"}


@pytest.mark.parametrize("named", ["kaggle:pets", "kaggle:a/b/c", "kaggle:../x", "kaggle:a/b?c"])
def test_a_malformed_kaggle_name_is_refused(tmp_path, named):
    with pytest.raises(CatdogError, match="is not the name of a Kaggle data set"):
        locate(named, tmp_path, seed=0)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(CatdogError, match=r"dataset=gone\.zip does not exist"):
        locate("gone.zip", tmp_path, seed=0)


def test_the_sample_is_drawn_where_it_is_looked_for(tmp_path, monkeypatch):
    from catdog.sample import dataset

    drawn = []
    monkeypatch.setattr(
        dataset, "draw_sample", lambda folder, *, seed: drawn.append((folder, seed))
    )
    source = locate("sample", tmp_path, seed=3)
    fetch(source, seed=3)
    assert drawn == [(source.path, 3)]


def test_the_notice_says_that_these_are_drawings_and_how_to_get_photos():
    assert "NOT PHOTOS" in sources.SAMPLE_NOTICE
    assert "KAGGLE_API_TOKEN" in sources.SAMPLE_NOTICE
