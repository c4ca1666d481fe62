"""Spark's answers beside those of the classifier, and what a second start does."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pandas as pd
import pytest
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import ThreadedFTPServer

from catdog import CLASSES, CatdogError
from catdog.config import ScoreConfig
from catdog.data.images import MAX_BYTES
from catdog.inference.output import record
from catdog.registry import history, register, versions
from catdog.registry.promotion import Candidate
from catdog.serving import spark as scoring
from catdog.tracking.run import start_run
from scripts import score as script
from tests.conftest import encoded, tiny_classifier, tiny_picture

pytest.importorskip("pyspark")

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def with_spark(test):
    """A test that starts Spark: slow, and in need of Java."""
    needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
    return pytest.mark.slow(needs_java(test))


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    """Spark on this machine, with two workers."""
    with scoring.spark_session("local[2]") as session:
        yield session


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier()


@pytest.fixture(scope="module")
def store(tmp_path_factory, classifier) -> str:
    """A store whose registry has a tiny classifier in Production."""
    home = tmp_path_factory.mktemp("store")
    classifier.save(home / "saved")
    uri = f"sqlite:///{home}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.chdir(home)
        with start_run("tiny") as run:
            photo = encoded(tiny_picture("cat", 0))
            candidate = Candidate("digest", drawn=True, status="approved")
            info = register.log_model(home / "saved", photo, run, candidate, step=1)
        digest = versions.digest_of(home / "saved")
        version = register.add(info.model_uri, "catdog", candidate, digest=digest, card="tiny")
        history.promote_to(version, "of a test")
    mlflow.set_tracking_uri(None)
    return uri


@pytest.fixture
def model(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return scoring.pin("models:/catdog/Production")


@pytest.fixture
def pictures(tmp_path, draw_folder):
    """Tiny pictures under names that globs and addresses would read otherwise, and bad files."""
    folder = draw_folder(tmp_path / "pictures [1] *", count=6)
    deep = folder / "deep=1" / "a b%20c#d"
    deep.mkdir(parents=True)
    (deep / "tiny[0-9]{a,b}?.JPG").write_bytes(encoded(tiny_picture("dog", 50)))
    (folder / "broken.jpg").write_bytes(encoded(tiny_picture("cat", 1))[:300])
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    return folder


def _table(output) -> pd.DataFrame:
    return pd.read_parquet(output).set_index("path").sort_index()


@with_spark
def test_a_master_that_is_none_is_one_sentence_with_what_spark_needs():
    # Before the tests below: a session that is there would be taken in its place.
    with (
        pytest.raises(CatdogError, match=r"can't start with master=nowhere.* needs Java"),
        scoring.spark_session("nowhere"),
    ):
        pass


@with_spark
def test_the_answers_are_those_of_the_classifier_and_bad_files_are_errors(
    spark, model, pictures, tmp_path, classifier
):
    output = tmp_path / "answers"
    counts = scoring.score(spark, model, str(pictures), str(output))
    table = _table(output)
    paths = [path for path in sorted(pictures.rglob("*.*")) if path.suffix.lower() != ".txt"]
    answers = classifier.predict([path.read_bytes() for path in paths])
    expected = pd.DataFrame(
        [record(str(path), answer, CLASSES) for path, answer in zip(paths, answers, strict=True)]
    )
    expected = expected.set_index("path").sort_index()
    pd.testing.assert_frame_equal(
        table[list(expected.columns)], expected, check_dtype=False, rtol=0, atol=1e-5
    )
    assert counts == Counter(expected["label"].fillna(""))
    assert counts[""] == 2
    assert set(table["model_version"]) == {model.version}
    assert table.loc[str(paths[0]), "length"] == paths[0].stat().st_size


@dataclass
class Ftp:
    """A server that shows a folder to `ada`, whose password is `secret`."""

    address: str
    authorizer: DummyAuthorizer

    def lock(self, folder: Path, *, locked: bool) -> None:
        """Let ada see what is in `folder`, and read it or not."""
        self.authorizer.override_perm("ada", str(folder), "el" if locked else "elr")


@pytest.fixture
def ftp(tmp_path) -> Iterator[Ftp]:
    authorizer = DummyAuthorizer()
    authorizer.add_user("ada", "secret", str(tmp_path))
    handler = type("Handler", (FTPHandler,), {"authorizer": authorizer})
    with ThreadedFTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"handle_exit": False})
        thread.start()
        yield Ftp(f"ftp://ada:secret@127.0.0.1:{server.address[1]}", authorizer)
        server.close_all()
        thread.join()


@with_spark
def test_a_remote_photo_that_could_not_be_read_is_tried_again_and_no_password_is_kept(
    spark, model, ftp, draw_folder, tmp_path, classifier
):
    folder = draw_folder(tmp_path / "pictures", count=2)
    (folder / "empty.png").write_bytes(b"")
    output, source = str(tmp_path / "answers"), f"{ftp.address}/pictures"
    ftp.lock(folder / "dog", locked=True)
    for _ in range(2):
        counts = scoring.score(spark, model, source, output)
        assert (counts.total(), counts[""], len(pd.read_parquet(output))) == (5, 3, 3)
    ftp.lock(folder / "dog", locked=False)
    counts = scoring.score(spark, model, source, output)
    assert (counts.total(), counts[""]) == (5, 1)
    table, shown = _table(output), source.replace(":secret", "")
    assert list(table["error"].dropna()) == ["the file is empty"]
    assert len(table) == 5
    for path in folder.rglob("*.jpg"):
        (answer,) = classifier.predict([path.read_bytes()])
        row = table.loc[f"{shown}/{path.relative_to(folder)}"]
        assert row["p_dog"] == pytest.approx(answer.p_positive, abs=1e-5)


@with_spark
def test_a_second_start_answers_only_what_is_new_or_changed(spark, model, pictures, tmp_path):
    output = tmp_path / "answers"
    scoring.score(spark, model, str(pictures), str(output))
    before = _table(output)
    (pictures / "new.jpg").write_bytes(encoded(tiny_picture("cat", 60)))
    (pictures / "broken.jpg").write_bytes(encoded(tiny_picture("cat", 1)))
    (pictures / "cat" / "0.jpg").unlink()
    counts = scoring.score(spark, model, str(pictures), str(output))
    table = pd.read_parquet(output)
    assert (counts.total(), counts[""]) == (15, 1)
    assert len(table) == len(before) + 2
    assert table["path"].value_counts()[str(pictures / "broken.jpg")] == 2
    assert scoring.score(spark, model, str(pictures), str(output)) == counts
    assert len(pd.read_parquet(output)) == len(table)


@with_spark
def test_a_killed_job_goes_on_with_the_rounds_that_are_left(
    spark, model, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(scoring, "PER_TASK", 2)
    output, rounds = tmp_path / "answers", []

    def killed_after_two(line):
        rounds.append(line)
        if len(rounds) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(scoring.logger, "info", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        scoring.score(spark, model, str(pictures), str(output))
    kept = _table(output)
    assert 0 < len(kept) < 15
    again = []
    monkeypatch.setattr(scoring.logger, "info", again.append)
    scoring.score(spark, model, str(pictures), str(output))
    table = _table(output)
    assert len(table) == 15
    assert table.index.is_unique
    assert len(again) == 2  # of four photos each, as before
    pd.testing.assert_frame_equal(table.loc[kept.index], kept)


@with_spark
def test_a_file_too_large_to_hold_is_an_error_unread(spark, model, draw_folder, tmp_path):
    folder = draw_folder(tmp_path / "pictures", count=1)
    (folder / "large.jpg").touch()
    os.truncate(folder / "large.jpg", MAX_BYTES + 1)
    scoring.score(spark, model, str(folder), str(tmp_path / "answers"))
    large = _table(tmp_path / "answers").loc[str(folder / "large.jpg")]
    assert large["error"] == "more bytes than 200,000,000"
    assert pd.isna(large["label"])


@with_spark
def test_the_answers_of_two_models_are_never_mixed(spark, model, classifier, draw_folder, tmp_path):
    folder, output = draw_folder(tmp_path / "pictures", count=1), str(tmp_path / "answers")
    scoring.score(spark, model, str(folder), output)
    assert model.version.startswith("models:/catdog/1 sha256:")
    other = copy.copy(classifier)
    other.about = replace(classifier.about, classes=("ameise", "größe"))
    other.save(tmp_path / "other")
    other_model = scoring.pin(str(tmp_path / "other"))
    refused = f"holds answers of {model.version}, and these would be of {other_model.version}"
    with pytest.raises(CatdogError, match=refused):
        scoring.score(spark, other_model, str(folder), output)
    scoring.score(spark, other_model, str(folder), str(tmp_path / "others"))
    assert _table(tmp_path / "others")["p_größe"].count() == 2


def test_a_folder_and_a_run_are_named_by_their_digest(model):
    run = mlflow.search_runs(search_all_experiments=True)["run_id"].item()
    pinned = scoring.pin(f"runs:/{run}/model")
    assert pinned.version == model.version.partition(" ")[2]
    assert scoring.pin(str(pinned.folder)).version == pinned.version


@with_spark
def test_what_can_not_be_read_is_said_in_one_sentence(spark, model, ftp, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, sentence in (
        (tmp_path / "missing", "input can't be read: .*missing"),
        (tmp_path / "empty", "holds no picture"),
        (f"{ftp.address}/empty", "input=ftp://ada@.*/empty holds no picture"),
        ("s3a://bucket/photos", "connector"),
        ("ftp://ada:secret@127.0.0.1:1/photos", "input can't be read: "),
    ):
        with pytest.raises(CatdogError, match=sentence) as raised:
            scoring.score(spark, model, str(source), str(tmp_path / "answers"))
        assert "secret" not in str(raised.value)
    assert not (tmp_path / "answers").exists()


# --- Without a session ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ftp://ada:secret@host/x", "ftp://ada@host/x"),
        ("no such file: FTP://ada:se@cret@host:21/x.", "no such file: FTP://ada@host:21/x."),
        ("ftp://ada@host:21/a@b", "ftp://ada@host:21/a@b"),
        ("hdfs://host:8020/a:b@c/d", "hdfs://host:8020/a:b@c/d"),
        ("/photos/a:b@c", "/photos/a:b@c"),
    ],
)
def test_an_address_is_shown_without_its_password(text, shown):
    assert scoring._shown(text) == shown


def test_without_pyspark_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(CatdogError, match="pip install"), scoring.spark_session("local[1]"):
        pass


@pytest.mark.parametrize("failed", [0, 1])
def test_the_exit_status_says_whether_a_picture_failed(monkeypatch, said, failed):
    monkeypatch.setattr(scoring, "pin", lambda _: scoring.PinnedModel(Path(), "x"))
    monkeypatch.setattr(scoring, "spark_session", lambda _: contextlib.nullcontext())
    counts = Counter({"cat": 2, "dog": 1, "": failed})
    monkeypatch.setattr(scoring, "score", lambda *_: counts)
    assert script.main(ScoreConfig(input="in", output="out")) == failed
    assert said == [f"3 of {3 + failed} photos labelled (2 cat, 1 dog, 0 neither) by x"]
