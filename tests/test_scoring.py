from __future__ import annotations

import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import ThreadedFTPServer

from catdog import CLASSES, CatdogError, registry, scoring, succession, tracking, upload
from catdog.answers import columns, to_row
from catdog.config import ScoreConfig
from catdog.promotion import Candidate
from scripts import score as script
from tests.conftest import encoded, tiny_classifier, tiny_picture

pytest.importorskip("pyspark")
pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")


@pytest.fixture(scope="module")
def spark():
    with scoring.spark_session("local[2]") as session:
        yield session


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier()


@pytest.fixture(scope="module")
def store(tmp_path_factory, classifier):
    """A store whose registry has a tiny classifier in Production."""
    home = tmp_path_factory.mktemp("store")
    classifier.save(home / "saved")
    before, folder = os.environ.get("MLFLOW_TRACKING_URI"), Path.cwd()
    os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{home}/mlflow.db"
    os.chdir(home)
    try:
        with tracking.start_run("tiny"):
            info = upload.log_model(
                home / "saved", encoded(tiny_picture("cat", 0)), step=1, tags={}
            )
        candidate = Candidate(0.75, "digest", drawn=True)
        digest = registry.digest_of(home / "saved")
        version = registry.add(info.model_uri, "catdog", candidate, digest=digest, card="tiny")
        succession.attest(version, proven=True)
        succession.crown(version, "of a test")
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


def test_the_answers_are_those_of_the_classifier_and_bad_files_are_errors(
    spark, model, pictures, tmp_path, classifier
):
    output = tmp_path / "answers"
    scored = scoring.score(spark, model, str(pictures), str(output))
    table = _table(output)
    paths = [path for path in sorted(pictures.rglob("*.*")) if path.suffix.lower() != ".txt"]
    answers = classifier.predict([path.read_bytes() for path in paths])
    expected = pd.DataFrame(
        [to_row(str(path), answer) for path, answer in zip(paths, answers, strict=True)]
    )
    expected.columns = columns(CLASSES)
    expected = expected.set_index("path").sort_index()
    pd.testing.assert_frame_equal(
        table[list(columns(CLASSES)[1:])], expected, check_dtype=False, rtol=0, atol=1e-5
    )
    assert scored.labels == Counter(expected["label"].dropna())
    assert (scored.failed, scored.added) == (2, 15)
    assert set(table["model_version"]) == {"models:/catdog/1"}
    assert table.loc[str(paths[0]), "length"] == paths[0].stat().st_size


@pytest.fixture
def ftp_server(tmp_path) -> Iterator[str]:
    """The address of a server that shows `tmp_path` to `ada`, whose password is `secret`."""
    authorizer = DummyAuthorizer()
    authorizer.add_user("ada", "secret", str(tmp_path))
    handler = type("Handler", (FTPHandler,), {"authorizer": authorizer})
    with ThreadedFTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"handle_exit": False})
        thread.start()
        yield f"ftp://ada:secret@127.0.0.1:{server.address[1]}"
        server.close_all()
        thread.join()


def test_pictures_of_a_remote_file_system_are_answered_and_no_password_is_kept(
    spark, model, ftp_server, draw_folder, tmp_path, classifier
):
    folder = draw_folder(tmp_path / "pictures", count=2)
    (folder / "empty.png").write_bytes(b"")
    output, source = tmp_path / "answers", f"{ftp_server}/pictures"
    assert scoring.score(spark, model, source, str(output)).added == 5
    table, shown = _table(output), source.replace(":secret", "")
    assert table.loc[f"{shown}/empty.png", "error"] == "the file is empty"
    for path in folder.rglob("*.jpg"):
        (answer,) = classifier.predict([path.read_bytes()])
        row = table.loc[f"{shown}/{path.relative_to(folder)}"]
        assert row["p_dog"] == pytest.approx(answer.p_positive, abs=1e-5)
    assert scoring.score(spark, model, source, str(output)).added == 0


def test_a_second_start_answers_only_what_is_new_or_changed(spark, model, pictures, tmp_path):
    output = tmp_path / "answers"
    scoring.score(spark, model, str(pictures), str(output))
    before = _table(output)
    (pictures / "new.jpg").write_bytes(encoded(tiny_picture("cat", 60)))
    (pictures / "broken.jpg").write_bytes(encoded(tiny_picture("cat", 1)))
    scored = scoring.score(spark, model, str(pictures), str(output))
    table = pd.read_parquet(output)
    assert scored.added == 2
    assert len(table) == len(before) + 2
    assert table["path"].value_counts()[str(pictures / "broken.jpg")] == 2
    assert scoring.score(spark, model, str(pictures), str(output)).added == 0


def test_a_killed_job_goes_on_with_the_rounds_that_are_left(
    spark, model, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(scoring, "PER_TASK", 2)
    output, rounds = tmp_path / "answers", []

    def killed_after_two(line):
        rounds.append(line)
        if len(rounds) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "say", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        scoring.score(spark, model, str(pictures), str(output))
    kept = _table(output)
    assert 0 < len(kept) < 15
    again = []
    monkeypatch.setattr(scoring, "say", again.append)
    scored = scoring.score(spark, model, str(pictures), str(output))
    table = _table(output)
    assert scored.added == 15 - len(kept)
    assert table.index.is_unique
    assert len(again) == int(rounds[0].split()[3].rstrip(":")) - 2
    pd.testing.assert_frame_equal(table.loc[kept.index], kept)


def test_a_round_reads_the_files_of_its_bucket_alone(spark, pictures):
    found = scoring._pictures(spark, str(pictures))
    chosen = scoring._of_round(scoring.Round(0, 4, 1, 1), found, found)
    paths = {row["path"] for row in chosen.select("path").collect()}
    assert 0 < len(paths) < 14
    plan = chosen._jdf.queryExecution().executedPlan()
    plan.executeCollect()
    scan = plan.collectLeaves().head()
    assert scan.metrics().apply("numFiles").value() == len(paths)
    every = set()
    for bucket in range(4):
        part = scoring._of_round(scoring.Round(bucket, 4, 1, 1), found, found)
        every |= {row["path"] for row in part.select("path").collect()}
    assert len(every) == 14  # Spark lists the empty file, and does not read it


def test_a_file_too_large_to_hold_is_an_error_unread(spark, model, pictures, tmp_path, monkeypatch):
    limit = (pictures / "cat" / "0.jpg").stat().st_size
    (pictures / "large.jpg").write_bytes(bytes(limit * 9))
    monkeypatch.setattr(scoring, "MAX_BYTES", limit * 8)
    scoring.score(spark, model, str(pictures), str(tmp_path / "answers"))
    large = _table(tmp_path / "answers").loc[str(pictures / "large.jpg")]
    assert large["error"].startswith("larger than")
    assert pd.isna(large["label"])


def test_the_answers_of_two_models_are_never_mixed(spark, model, pictures, tmp_path):
    output = tmp_path / "answers"
    scoring.score(spark, model, str(pictures), str(output))
    other = scoring.Pinned(model.folder, "models:/catdog/2")
    with pytest.raises(CatdogError, match="holds answers of models:/catdog/1"):
        scoring.score(spark, other, str(pictures), str(output))


def test_what_can_not_be_read_is_said_in_one_sentence(spark, model, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, told in (
        (tmp_path / "missing", "input=.*missing can't be read"),
        (tmp_path / "empty", "holds no picture"),
        ("s3a://bucket/photos", "connector"),
    ):
        with pytest.raises(CatdogError, match=told):
            scoring.score(spark, model, str(source), str(tmp_path / "answers"))
    assert not (tmp_path / "answers").exists()


def test_a_folder_that_is_no_mlflow_model_is_refused(tmp_path, classifier):
    classifier.save(tmp_path / "saved")
    with pytest.raises(CatdogError, match="not an MLflow model"):
        scoring.pin(str(tmp_path / "saved"))


def test_without_pyspark_or_java_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(CatdogError, match="needs Java"), scoring.spark_session("local[1]"):
        pass
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(CatdogError, match="pip install"), scoring.spark_session("local[1]"):
        pass


def test_the_exit_status_says_whether_a_picture_failed(monkeypatch, model, spark):
    class Session:
        def __enter__(self):
            return spark

        def __exit__(self, *_raised):
            return None

    monkeypatch.setattr(scoring, "spark_session", lambda _master: Session())
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
