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

import mlflow
import pandas as pd
import pytest
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import ThreadedFTPServer

from catdog import CLASSES, CatdogError
from catdog.config import ScoreConfig
from catdog.inference.output import record
from catdog.registry import history, register, versions
from catdog.registry.promotion import Candidate
from catdog.serving import spark as scoring
from catdog.tracking.run import start_run
from scripts import score as script
from tests.conftest import encoded, tiny_classifier, tiny_picture

pytest.importorskip("pyspark")


def with_spark(test):
    """A test that starts Spark: slow, and in need of Java."""
    needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
    return pytest.mark.slow(needs_java(test))


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier()


@pytest.fixture(scope="module")
def store(tmp_path_factory, classifier):
    """A store whose registry has a tiny classifier in Production."""
    return _store_with(classifier, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def other_store(tmp_path_factory, classifier):
    """A store in which models:/catdog/1 is another model, of classes in German."""
    other = copy.copy(classifier)
    other.about = replace(classifier.about, classes=("ameise", "größe"))
    return _store_with(other, tmp_path_factory.mktemp("other"))


def _store_with(classifier, home) -> str:
    classifier.save(home / "saved")
    classes = classifier.about.classes
    before, folder = os.environ.get("MLFLOW_TRACKING_URI"), Path.cwd()
    os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{home}/mlflow.db"
    os.chdir(home)
    try:
        with start_run("tiny") as run:
            photo = encoded(tiny_picture("cat", 0))
            info = register.log_model(home / "saved", photo, run, step=1, tags={}, classes=classes)
        candidate = Candidate("digest", drawn=True, status="approved")
        digest = versions.digest_of(home / "saved")
        version = register.add(info.model_uri, "catdog", candidate, digest=digest, card="tiny")
        history.promote_to(version, "of a test")
    finally:
        os.chdir(folder)
        sys.modules["mlflow"].set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI")
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before
    return uri


@pytest.fixture
def model(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return scoring.pin("models:/catdog/Production")


@pytest.fixture
def other_model(other_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other_store)
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
def test_a_master_that_is_none_is_told():
    # Before the tests below: a session that is there would be taken in its place.
    with (
        pytest.raises(CatdogError, match="can't start with master=nowhere"),
        scoring.spark_session("nowhere"),
    ):
        pass


@with_spark
def test_the_answers_are_those_of_the_classifier_and_bad_files_are_errors(
    spark, model, pictures, tmp_path, classifier
):
    output = tmp_path / "answers"
    scored = scoring.score(spark, model, str(pictures), str(output))
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
    assert scored.labels == Counter(expected["label"].dropna())
    assert (scored.failed, scored.added) == (2, 15)
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
def test_pictures_of_a_remote_file_system_are_answered_and_no_password_is_kept(
    spark, model, ftp, draw_folder, tmp_path, classifier
):
    folder = draw_folder(tmp_path / "pictures", count=2)
    (folder / "empty.png").write_bytes(b"")
    output, source = tmp_path / "answers", f"{ftp.address}/pictures"
    assert scoring.score(spark, model, source, str(output)).added == 5
    table, shown = _table(output), source.replace(":secret", "")
    assert table.loc[f"{shown}/empty.png", "error"] == "the file is empty"
    for path in folder.rglob("*.jpg"):
        (answer,) = classifier.predict([path.read_bytes()])
        row = table.loc[f"{shown}/{path.relative_to(folder)}"]
        assert row["p_dog"] == pytest.approx(answer.p_positive, abs=1e-5)
    assert scoring.score(spark, model, source, str(output)).added == 0


@with_spark
def test_a_photo_that_could_not_be_read_is_tried_again_and_then_counts_as_answered(
    spark, model, ftp, draw_folder, tmp_path
):
    folder = draw_folder(tmp_path / "pictures", count=2)
    output, source = str(tmp_path / "answers"), f"{ftp.address}/pictures"
    ftp.lock(folder / "dog", locked=True)
    first = scoring.score(spark, model, source, output)
    assert (first.labels.total(), first.failed, first.added) == (2, 2, 4)
    again = scoring.score(spark, model, source, output)
    assert (again.labels.total(), again.failed, again.added) == (2, 2, 0)
    ftp.lock(folder / "dog", locked=False)
    later = scoring.score(spark, model, source, output)
    assert (later.labels.total(), later.failed, later.added) == (4, 0, 2)
    table = pd.read_parquet(output)
    assert list(table["error"].dropna()) == ["can not be read"] * 2
    answers = table[table["error"].isna()]
    assert answers["path"].is_unique
    assert len(answers) == 4
    assert scoring.score(spark, model, source, output).added == 0


@with_spark
def test_a_second_start_answers_only_what_is_new_or_changed(spark, model, pictures, tmp_path):
    output = tmp_path / "answers"
    scoring.score(spark, model, str(pictures), str(output))
    before = _table(output)
    (pictures / "new.jpg").write_bytes(encoded(tiny_picture("cat", 60)))
    (pictures / "broken.jpg").write_bytes(encoded(tiny_picture("cat", 1)))
    (pictures / "cat" / "0.jpg").unlink()
    scored = scoring.score(spark, model, str(pictures), str(output))
    table = pd.read_parquet(output)
    assert (scored.labels.total(), scored.failed, scored.added) == (14, 1, 2)
    assert len(table) == len(before) + 2
    assert table["path"].value_counts()[str(pictures / "broken.jpg")] == 2
    assert scoring.score(spark, model, str(pictures), str(output)).added == 0


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
    scored = scoring.score(spark, model, str(pictures), str(output))
    table = _table(output)
    assert scored.added == 15 - len(kept)
    assert table.index.is_unique
    assert len(again) == int(rounds[0].split()[3].rstrip(":")) - 2
    pd.testing.assert_frame_equal(table.loc[kept.index], kept)


@with_spark
def test_a_file_too_large_to_hold_is_an_error_unread(spark, model, pictures, tmp_path, monkeypatch):
    limit = (pictures / "cat" / "0.jpg").stat().st_size
    (pictures / "large.jpg").write_bytes(bytes(limit * 9))
    monkeypatch.setattr(scoring, "MAX_BYTES", limit * 8)
    scoring.score(spark, model, str(pictures), str(tmp_path / "answers"))
    large = _table(tmp_path / "answers").loc[str(pictures / "large.jpg")]
    assert large["error"].startswith("larger than")
    assert pd.isna(large["label"])


@with_spark
def test_the_answers_of_two_models_are_never_mixed(
    spark, model, other_model, draw_folder, tmp_path
):
    folder, output = draw_folder(tmp_path / "pictures", count=1), str(tmp_path / "answers")
    scoring.score(spark, model, str(folder), output)
    assert model.version.startswith("models:/catdog/1 sha256:")
    assert other_model.version.startswith("models:/catdog/1 sha256:")
    told = f"holds answers of {model.version}, and these would be of {other_model.version}"
    with pytest.raises(CatdogError, match=told):
        scoring.score(spark, other_model, str(folder), output)


@with_spark
def test_a_class_has_a_name_in_any_alphabet(spark, other_model, pictures, tmp_path):
    output = str(tmp_path / "answers")
    scored = scoring.score(spark, other_model, str(pictures), output)
    assert set(scored.labels) <= {"ameise", "größe", "neither"}
    assert scored.labels.total() == 13
    assert _table(output)["p_größe"].count() == 13
    assert scoring.score(spark, other_model, str(pictures), output).added == 0


def test_a_folder_and_a_run_are_named_by_their_digest(model):
    run = mlflow.search_runs(search_all_experiments=True)["run_id"].item()
    pinned = scoring.pin(f"runs:/{run}/model")
    assert pinned.version == model.version.partition(" ")[2]
    assert scoring.pin(str(pinned.folder)).version == pinned.version


@with_spark
def test_what_can_not_be_read_is_said_in_one_sentence(spark, model, ftp, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, told in (
        (tmp_path / "missing", "input=.*missing can't be read"),
        (tmp_path / "empty", "holds no picture"),
        (f"{ftp.address}/empty", "input=ftp://ada@.*/empty holds no picture"),
        ("s3a://bucket/photos", "connector"),
        ("ftp://ada:secret@127.0.0.1:1/photos", "input=ftp://ada@127.0.0.1:1/photos can't"),
    ):
        with pytest.raises(CatdogError, match=told) as raised:
            scoring.score(spark, model, str(source), str(tmp_path / "answers"))
        assert "secret" not in str(raised.value)
    assert not (tmp_path / "answers").exists()


# --- Without a session ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ftp://ada:secret@host/x", "ftp://ada@host/x"),
        ("no such file: FTP://ada:se@cret@host:21/x.", "no such file: FTP://ada@host:21/x."),
        ("ftp://ada@host:21/a@b", "ftp://ada@host:21/a@b"),
        ("hdfs://host:8020/a:b@c/d", "hdfs://host:8020/a:b@c/d"),
        ("/photos/a:b@c", "/photos/a:b@c"),
    ],
)
def test_an_address_is_shown_without_its_password(text, told):
    assert scoring._shown(text) == told


def test_the_reason_is_the_root_cause_without_a_password():
    error = OSError("An error\nCaused by: java.io: no ftp://ada:secret@host/x\nat Some.java")
    assert scoring._reason(error) == "java.io: no ftp://ada@host/x."


def test_without_pyspark_or_java_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(CatdogError, match="needs Java"), scoring.spark_session("local[1]"):
        pass
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(CatdogError, match="pip install"), scoring.spark_session("local[1]"):
        pass


def test_the_exit_status_says_whether_a_picture_failed(monkeypatch):
    monkeypatch.setattr(scoring, "pin", lambda _: scoring.PinnedModel(Path(), "x"))
    monkeypatch.setattr(scoring, "spark_session", lambda _: contextlib.nullcontext())
    config = ScoreConfig(input="in", output="out")
    for failed, status in ((0, 0), (1, 1)):
        told = scoring.Scored(Counter(cat=1), failed, 1, 1.0)
        monkeypatch.setattr(scoring, "score", lambda *_, told=told: told)
        assert script.main(config) == status


def test_the_last_sentence_counts_labels_errors_and_speed():
    told = str(scoring.Scored(Counter(cat=2, dog=1), 1, 4, 2.0))
    assert told == (
        "3 of 4 photos labelled (2 cat, 1 dog, 0 neither), 1 errors; 4 of them now, in 2.0 s "
        "(2 photos/s)"
    )
