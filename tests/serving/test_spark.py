from __future__ import annotations

import shutil
import sys

import pytest

from catdog import CatdogError
from catdog.serving import spark as ours

pytest.importorskip("pyspark")


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
    assert ours.shown(text) == told


def test_the_reason_is_the_root_cause_without_a_password():
    error = OSError("An error\nCaused by: java.io: no ftp://ada:secret@host/x\nat Some.java")
    assert ours.reason(error) == "java.io: no ftp://ada@host/x."


def test_no_sign_of_a_folder_stands_for_others(tmp_path):
    assert ours.literal("s3a://bucket/a [1]*") == "s3a://bucket/a \\[1\\]\\*"
    assert ours.address(str(tmp_path)) == f"file:{tmp_path}"


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_a_master_that_is_none_is_told():
    with pytest.raises(CatdogError, match="can't start with master=nowhere"):
        ours.spark_session("nowhere").__enter__()


def test_without_pyspark_or_java_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(CatdogError, match="needs Java"), ours.spark_session("local[1]"):
        pass
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(CatdogError, match="pip install"), ours.spark_session("local[1]"):
        pass
