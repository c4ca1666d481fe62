from __future__ import annotations

import shutil
from collections import Counter
from datetime import datetime, timedelta

import pandas as pd
import pytest

from catdog import CatdogError
from catdog.serving.table import UNREAD, Table, answered, count_labels

pytest.importorskip("pyspark")
pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="needs Java"),
    pytest.mark.slow,
]

TIME = datetime(2024, 5, 1)
FORM = "path string, modified timestamp, length bigint, label string, error string"


@pytest.fixture
def table(tmp_path):
    return Table(str(tmp_path / "answers"), "models:/catdog/1 sha256:0123", ("ant", "größe"))


def _row(path, label=None, error=None, modified=TIME):
    return (path, modified, 9, label, error)


def test_what_could_not_be_read_is_no_answer_and_other_errors_are(spark, table):
    rows = [_row("a", "ant"), _row("b", error=UNREAD), _row("c", error="not an image")]
    table.append(spark.createDataFrame(rows, FORM))
    assert {row["path"] for row in answered(table.rows(spark)).collect()} == {"a", "c"}


def test_a_file_counts_once_as_it_is_now_and_an_answer_before_an_error(spark, table):
    later = TIME + timedelta(hours=1)
    rows = [
        _row("answered later", error=UNREAD),
        _row("answered later", "ant"),
        _row("replaced", error="not an image"),
        _row("replaced", "größe", modified=later),
        _row("deleted", "ant"),
        _row("broken", error=UNREAD),
        _row("broken", error="not an image"),
    ]
    table.append(spark.createDataFrame(rows, FORM))
    there = [_row("answered later"), _row("replaced", modified=later), _row("broken")]
    counted = count_labels(spark.createDataFrame(there, FORM), table.rows(spark))
    assert counted == (Counter(ant=1, größe=1), 1)


def test_the_table_has_its_columns_whatever_is_appended(spark, table):
    rows = [_row("a", "", " not\n an image ")]
    table.append(spark.createDataFrame(rows, FORM))
    kept = pd.read_parquet(table.output)
    assert list(kept) == list(table.columns)
    assert "p_größe" in kept
    assert kept.loc[0, ["path", "error", "model_version"]].tolist() == [
        "a",
        "not an image",
        table.version,
    ]
    assert kept["label"].isna().all()


def test_another_models_table_is_refused_by_name(spark, table):
    table.append(spark.createDataFrame([_row("a", "ant")], FORM))
    table.refuse_others(table.rows(spark))
    other = Table(table.output, "models:/catdog/1 sha256:4567", table.classes)
    told = "holds answers of models:/catdog/1 sha256:0123, and these would be of .* sha256:4567"
    with pytest.raises(CatdogError, match=told):
        other.refuse_others(other.rows(spark))


def test_a_table_that_can_not_be_read_is_told_without_its_password(spark):
    table = Table("ftp://ada:secret@127.0.0.1:1/answers", "models:/catdog/1")
    with pytest.raises(CatdogError, match="can't be read") as raised:
        table.rows(spark)
    assert str(raised.value).startswith("output=ftp://ada@127.0.0.1:1/answers can't")
    assert "secret" not in str(raised.value)
