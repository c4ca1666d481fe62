"""Downloading"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tests.conftest import child_environment

SLUG = "somebody/pets"


@pytest.fixture
def archive(tmp_path):
    """Where the archive shall be when it is whole, and not before."""
    return tmp_path / "data" / "somebody-pets" / "raw" / "pets.zip"


@pytest.fixture
def download(run, tmp_path):
    return lambda: run("download", "--dataset", f"kaggle:{SLUG}", "--data_dir", tmp_path / "data")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_download_goes_on_where_it_stopped(kaggle, waits, download, archive, share):
    kaggle.cuts = [int(share * len(kaggle.content))]
    ended = download()
    assert (ended.status, ended.out.strip()) == (0, str(archive))
    assert archive.read_bytes() == kaggle.content
    assert len(kaggle.ranges) == 1
    assert waits


def test_a_download_that_is_always_cut_is_told_and_goes_on_in_the_next_run(
    kaggle, waits, download, archive
):
    kaggle.cuts = [1_500_000] + [0] * 5
    ended = download()
    assert ended.status == 2
    assert ended.sentence.startswith(f"Kaggle can't be reached to download {SLUG}")
    assert "it goes on where it stopped" in ended.sentence
    assert not archive.exists()
    kaggle.ranges.clear()
    assert download().status == 0
    assert archive.read_bytes() == kaggle.content
    assert int(kaggle.ranges[0][6:-1]) > 0


def test_a_server_that_knows_no_ranges_is_no_trouble(kaggle, waits, download, archive):
    kaggle.ignores_range, kaggle.cuts = True, [1_500_000]
    assert download().status == 0
    assert archive.read_bytes() == kaggle.content


@pytest.mark.parametrize("more", [50_000, -50_000])
def test_a_wrong_length_is_not_taken_for_whole(kaggle, waits, download, archive, more):
    kaggle.lies = more
    ended = download()
    assert ended.status == 2
    assert SLUG in ended.sentence
    assert not archive.exists()
    kaggle.lies = 0
    assert download().status == 0
    assert archive.read_bytes() == kaggle.content


def test_an_archive_that_comes_damaged_twice_is_not_believed(kaggle, download, archive):
    kaggle.wrong = 2
    ended = download()
    assert ended.status == 2
    assert "came damaged twice" in ended.sentence
    assert not archive.exists()
    assert download().status == 0
    assert archive.read_bytes() == kaggle.content


def test_an_error_page_in_mid_download_is_not_taken_for_pictures(kaggle, waits, download, archive):
    kaggle.cuts, kaggle.expires = [1_500_000], 9
    assert download().status in (0, 2)
    assert not archive.exists() or archive.read_bytes() == kaggle.content
    kaggle.expires = 0
    assert download().status == 0
    assert archive.read_bytes() == kaggle.content


REFUSALS = [
    (401, "make another at https://www.kaggle.com/settings"),
    (403, "accept its rules"),
    (404, f"check the name, as in https://www.kaggle.com/datasets/{SLUG}"),
    (429, "wait some minutes"),
    (500, "run this again later"),
]


@pytest.mark.parametrize(("code", "advice"), REFUSALS)
def test_a_refusal_is_one_sentence_that_says_what_to_do(
    kaggle, waits, download, archive, code, advice
):
    kaggle.status = code
    ended = download()
    assert ended.status == 2
    assert f"({code})" in ended.sentence
    assert SLUG in ended.sentence
    assert advice in ended.sentence
    assert not archive.exists()
    assert sum(waits) < 120


def test_killed_in_mid_download_the_next_run_goes_on(kaggle, download, archive, tmp_path):
    kaggle.cuts = [1_500_000]  # the client would wait some seconds, and is killed meanwhile
    code = (
        "import sys; from kagglesdk import kaggle_env as k\n"
        "k._env_to_endpoint[k.KaggleEnv.LOCAL] = sys.argv.pop(1)\n"
        "from catdog import cli, config; from scripts import download\n"
        "cli.run(download.main, config.DownloadConfig)"
    )
    command = [sys.executable, "-c", code, kaggle.url, "--dataset", f"kaggle:{SLUG}"]
    part = archive.parent / "incoming" / archive.name
    with subprocess.Popen(
        [*command, "--data_dir", str(tmp_path / "data")],
        env=child_environment(),
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if part.exists() and part.stat().st_size >= 1_048_576:
                break
            time.sleep(0.01)
        process.kill()
    assert not archive.exists()
    kaggle.ranges.clear()
    assert download().status == 0
    assert archive.read_bytes() == kaggle.content
    assert len(kaggle.ranges) == 1


def test_a_full_disk_while_downloading_is_told(kaggle, waits, run, small_disk):
    ended = run("download", "--dataset", f"kaggle:{SLUG}", "--data_dir", small_disk)
    assert ended.status == 2
    assert ended.sentence.startswith(f"the disk is full, {SLUG} is not whole in {small_disk}")
    assert not list(small_disk.glob("*/raw/*.zip"))


def test_an_archive_that_shrank_since_is_fetched_again(kaggle, download, archive):
    assert download().status == 0
    assert json.loads(archive.with_name("pets.zip.verified.json").read_text())["bytes"]
    archive.write_bytes(archive.read_bytes()[:1000])
    assert download().status == 0
    assert archive.read_bytes() == kaggle.content
