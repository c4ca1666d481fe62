from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from catdog import CatdogError, download
from catdog.download import fetch, has_kaggle_credentials, locate
from tests.conftest import ROOT
from tests.kaggle_server import KaggleServer

TOKEN = "KGAT_planted_0123456789"
SLUG = "somebody/pets"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty home: nobody's own token is ever used."""
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long the client wanted to wait between its tries; it does not."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


def _archive(size: int = 3_000_000) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for number in range(3):
            opened.writestr(f"train/cat.{number}.jpg", random.Random(number).randbytes(size // 3))
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch):
    """Kaggle, on loopback, with the user logged in by a token."""
    with KaggleServer(_archive()) as state:
        _point_client_to(state.url, monkeypatch)
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        yield state


def _point_client_to(url: str, monkeypatch) -> None:
    from kagglesdk import kaggle_env

    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, url)


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


def test_an_archive_that_shrank_since_is_fetched_again(tmp_path, server):
    path = _fetch(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    assert _fetch(tmp_path).read_bytes() == server.content


def test_a_download_cut_in_the_middle_goes_on_where_it_stopped(tmp_path, server, waits):
    server.cuts = [1_500_000, 500_000]
    assert _fetch(tmp_path).read_bytes() == server.content
    assert len(server.ranges) == 2
    assert all(int(asked[6:-1]) > 0 for asked in server.ranges)
    assert len(waits) >= 2


def test_a_download_that_failed_goes_on_in_the_next_run(tmp_path, server, waits):
    server.cuts = [1_200_000] + [0] * 5
    _refused(tmp_path, "Kaggle can't be reached to download somebody/pets")
    server.ranges.clear()
    assert _fetch(tmp_path).read_bytes() == server.content
    assert len(server.ranges) == 1
    assert waits


def test_a_server_that_knows_no_ranges_is_no_trouble(tmp_path, server, waits):
    server.ignores_range, server.cuts = True, [1_500_000]
    assert _fetch(tmp_path).read_bytes() == server.content
    assert waits


def test_a_damaged_archive_is_thrown_away_and_fetched_anew(tmp_path, server, capsys):
    server.wrong = 1
    assert _fetch(tmp_path).read_bytes() == server.content
    assert "came damaged" in capsys.readouterr().err


def test_an_archive_that_comes_damaged_twice_is_not_believed(tmp_path, server):
    server.wrong = 2
    _refused(tmp_path, "came damaged twice")
    assert _fetch(tmp_path).read_bytes() == server.content


def test_an_error_page_in_mid_download_is_not_taken_for_pictures(tmp_path, server, waits):
    server.cuts, server.expires = [1_500_000], 9
    with contextlib.suppress(CatdogError):
        _fetch(tmp_path)
    server.expires = 0
    assert _fetch(tmp_path).read_bytes() == server.content
    assert waits


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, r"refused the token \(401\).*make another"),
        (403, r"does not let you download somebody/pets \(403\).*accept its rules"),
        (404, r"knows no data set somebody/pets \(404\)"),
        (429, r"asked too often \(429\)"),
        (500, r"can't serve somebody/pets now \(500\)"),
    ],
)
def test_every_refusal_is_one_sentence(tmp_path, server, waits, status, said):
    server.status = status
    _refused(tmp_path, said)
    assert all(wait < 120 for wait in waits)


def test_an_expired_token_is_told(tmp_path, server):
    server.token_active = False
    _refused(tmp_path, "did not accept the token")


def test_no_network_is_told(tmp_path, server, monkeypatch, waits):
    _point_client_to("http://127.0.0.1:9", monkeypatch)
    _refused(tmp_path, "Kaggle can't be reached")
    assert all(wait < 120 for wait in waits)


def test_kaggle_without_a_token_is_told_before_anything_is_asked(tmp_path, server, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    _refused(tmp_path, "needs a Kaggle token and none was found")
    assert server.asked == []


def test_a_full_disk_is_told(tmp_path, server, monkeypatch, waits):
    from kaggle.api.kaggle_api_extended import KaggleApi

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(KaggleApi, "download_file", full)
    _refused(tmp_path, "the disk is full")
    assert waits == []


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


def test_killed_in_mid_download_nothing_looks_whole_and_the_next_run_goes_on(tmp_path, server):
    server.cuts = [1_500_000]  # the client would wait some seconds, and is killed meanwhile
    code = (
        "import sys; from pathlib import Path; from kagglesdk import kaggle_env as k\n"
        "k._env_to_endpoint[k.KaggleEnv.LOCAL] = sys.argv[1]\n"
        "from catdog.download import fetch, locate\n"
        "fetch(locate('kaggle:somebody/pets', Path(sys.argv[2]), seed=0), seed=0)"
    )
    command = [sys.executable, "-c", code, server.url, str(tmp_path / "data")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    part = tmp_path / "data" / "somebody-pets" / "raw" / "incoming" / "pets.zip"
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if part.exists() and part.stat().st_size >= 1_048_576:
                break
            time.sleep(0.01)
        process.kill()
    assert not (part.parent.parent / "pets.zip").exists()
    server.ranges.clear()
    assert _fetch(tmp_path).read_bytes() == server.content
    assert len(server.ranges) == 1


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
    path.write_text('{"username": "x", "key": "y"}')
    return {}


@pytest.mark.parametrize("form", CREDENTIALS)
def test_auto_is_kaggle_with_any_form_of_credentials(tmp_path, home, monkeypatch, form):
    assert locate("auto", tmp_path, seed=0).kind == "sample"
    for name, value in CREDENTIALS[form](home).items():
        monkeypatch.setenv(name, value)
    assert has_kaggle_credentials()
    assert locate("auto", tmp_path, seed=0).origin == "kaggle:biaiscience/dogs-vs-cats"


def test_locating_writes_nothing_and_imports_no_client(tmp_path):
    code = (
        "import sys; from pathlib import Path; from catdog.download import locate\n"
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
    from catdog import sample

    drawn = []
    monkeypatch.setattr(sample, "draw_sample", lambda folder, *, seed: drawn.append((folder, seed)))
    source = locate("sample", tmp_path, seed=3)
    fetch(source, seed=3)
    assert drawn == [(source.path, 3)]


def test_the_notice_says_that_these_are_drawings_and_how_to_get_photos():
    assert "NOT PHOTOS" in download.SAMPLE_NOTICE
    assert "KAGGLE_API_TOKEN" in download.SAMPLE_NOTICE
