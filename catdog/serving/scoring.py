"""Any number of pictures → a table of answers, by Spark, on this machine or on many.

MLflow's `spark_udf` answers what Spark's source `binaryFile` reads. The pictures are taken in
rounds, chosen by a hash of their paths, and Spark commits each round whole: a job that was
killed and is started again goes on with the rounds that have no answers yet.
"""

from __future__ import annotations

import logging
import math
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from catdog import CLASSES, CatdogError, Classes
from catdog.data.images import SUFFIXES
from catdog.inference.classifier import classes_of
from catdog.inference.output import labels_of
from catdog.registry import versions
from catdog.serving.spark import PASSWORD, literal, reason, shown
from catdog.serving.table import FILE, UNREAD, Table, answered, count_labels

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

logger = logging.getLogger(__name__)

PER_TASK = 2_000
"""Pictures for each core in a round, at most. More would lose more work when a job is killed;
fewer would load the model, which takes a quarter of a second, for too little."""

MAX_BYTES = 512 << 20
"""A larger file gets an error unread: a worker holds some files at once, each whole."""

BY_NAME = 1_000
"""Pictures of a round that are named to Spark, at most, when others of it have their answers: it
reads these alone. Of more it reads the whole round: 20,000 names took it 16 s, 1,000 took 3."""


@dataclass(frozen=True)
class Pinned:
    """One MLflow model in a local folder, and the name that tells it from every other."""

    folder: Path
    version: str
    classes: Classes = CLASSES


@dataclass(frozen=True)
class Round:
    """Pictures to be answered in one go: those whose path falls into `bucket` of `buckets`.

    `waiting` of them have no answer yet, of `total`.
    """

    bucket: int
    buckets: int
    waiting: int
    total: int


@dataclass(frozen=True)
class Scored:
    """What the table says of the pictures that are there now, and how many rows this job added."""

    labels: Counter[str]
    failed: int
    added: int
    seconds: float
    classes: Classes = CLASSES

    def __str__(self) -> str:
        total = self.failed + self.labels.total()
        each = ", ".join(f"{self.labels[label]} {label}" for label in labels_of(self.classes))
        return (
            f"{total - self.failed} of {total} photos labelled ({each}), {self.failed} errors; "
            f"{self.added} of them now, in {self.seconds:.1f} s "
            f"({self.added / max(self.seconds, 1e-9):.0f} photos/s)"
        )


def pin(model_uri: str) -> Pinned:
    """Fetch the version that a model URI means now, and check its digest.

    Raises:
        CatdogError: it names none, or a folder that is no MLflow model.
    """
    uri = versions.exact(model_uri)
    saved = versions.fetch(uri)
    folder = saved.parent.parent  # MLmodel stands there, and the saved classifier in data/
    if not (folder / "MLmodel").is_file():
        raise CatdogError(
            f"{model_uri} is not an MLflow model, which Spark needs: name a version of the "
            "registry, or a run, as in --model-uri models:/catdog/Production"
        )
    # Another registry has another models:/catdog/1.
    digest = f"sha256:{versions.digest_of(saved)[:16]}"
    version = f"{uri} {digest}" if uri.startswith("models:/") else digest
    return Pinned(folder, version, classes_of(saved))


def score(spark: SparkSession, model: Pinned, source: str, output: str) -> Scored:
    """Answer the pictures below `source` that have no answer in the table `output` yet.

    Args:
        spark: where the work is done.
        model: whose answers they are.
        source: a folder, or the URI of one that Spark can read (`s3a://...`).
        output: the folder of the table, or its URI; see `Table`.

    Raises:
        CatdogError: there is no picture, or the table holds another model's answers.
    """
    began = time.monotonic()
    pictures = _pictures(spark, source)
    listed = pictures.inputFiles()
    if not listed:
        raise CatdogError(f"input={shown(source)} holds no picture: name a folder that does.")
    files = pictures.drop("content").persist()
    table = Table(output, model.version, model.classes)
    before = table.rows(spark)
    table.refuse_others(before)
    done = answered(before)
    waiting = files.join(done, FILE, "left_anti")
    rounds = plan(spark, files, done)
    classify = _classifier(spark, model)
    for number, this in enumerate(rounds, 1):
        chosen = _of_round(this, pictures, waiting)
        answers = chosen.select(*FILE, classify("content").alias("answer"))
        table.append(answers.select(*FILE, "answer.*"))
        logger.info(f"round {number} of {len(rounds)}: {this.waiting} photos tried")
    empty = _empty(listed, files)
    _give_up(spark, files, empty, table)
    now = table.rows(spark)
    labels, failed = count_labels(files, now)
    files.unpersist()
    added = now.count() - before.count()
    seconds = time.monotonic() - began
    return Scored(labels, failed + len(empty), added, seconds, model.classes)


def plan(spark: SparkSession, files: DataFrame, done: DataFrame) -> list[Round]:
    """The rounds that are left to do.

    The number of buckets is a power of two, so that the rounds of a folder that has doubled are
    halves of those before: what is answered still fills whole rounds.
    """
    from pyspark.sql.functions import col, count, count_if, lit

    total = files.count()
    share = total / (PER_TASK * spark.sparkContext.defaultParallelism)
    buckets = 2 ** math.ceil(math.log2(max(share, 1)))
    marked = done.select(*FILE, lit(True).alias("done")).distinct()
    readable = files.where(files["length"] <= MAX_BYTES).join(marked, FILE, "left")
    counted = readable.groupBy(_bucket(buckets).alias("bucket")).agg(
        count("*").alias("total"), count_if(col("done").isNull()).alias("waiting")
    )
    rows = counted.where("waiting > 0").orderBy("bucket").collect()
    return [Round(row["bucket"], buckets, row["waiting"], row["total"]) for row in rows]


def _pictures(spark: SparkSession, source: str) -> DataFrame:
    """The pictures below a folder, unread: `FILE`, content, and `file_path`, Spark's key."""
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    pattern = ",".join(map(_any_case, sorted(SUFFIXES)))
    try:
        found = reader.option("pathGlobFilter", f"*{{{pattern}}}").load(literal(source))
    except Exception as error:
        raise CatdogError(
            f"input={shown(source)} can't be read: {reason(error)} Name a folder of this machine, "
            "or a URI whose connector Spark has."
        ) from error
    return found.selectExpr(
        f"regexp_replace(regexp_replace(path, '{PASSWORD}', '$1@'), '^file:/+', '/') AS path",
        "modificationTime AS modified",
        "length",
        "content",
        "_metadata.file_path AS file_path",
    )


def _classifier(spark: SparkSession, model: Pinned) -> Callable[[str], Column]:
    """MLflow's function for a column of picture bytes; a worker loads the model once a task."""
    import mlflow.pyfunc

    with warnings.catch_warnings():
        # That PySpark has not been tried with all of pandas 3, of which this needs no more
        # than its columns.
        warnings.simplefilter("ignore", FutureWarning)
        answer: Callable[[str], Column] = mlflow.pyfunc.spark_udf(
            spark, str(model.folder), env_manager="local"
        )
    return answer


def _of_round(this: Round, pictures: DataFrame, waiting: DataFrame) -> DataFrame:
    """The pictures of a round, unread; only those that wait where some have their answers."""
    from pyspark.sql.functions import broadcast, col

    chosen = _in_bucket(this, pictures)
    if this.waiting == this.total:
        return chosen
    left = _in_bucket(this, waiting)
    if this.waiting > BY_NAME:
        return chosen.join(broadcast(left.select(*FILE)), FILE, "left_semi")
    names = [row["file_path"] for row in left.select("file_path").collect()]
    return chosen.where(col("file_path").isin(names))


def _in_bucket(this: Round, pictures: DataFrame) -> DataFrame:
    from pyspark.sql.functions import col

    # By these columns Spark leaves out whole files before it reads any.
    chosen = pictures.where(_bucket(this.buckets) == this.bucket)
    return chosen.where(col("length") <= MAX_BYTES)


def _give_up(spark: SparkSession, files: DataFrame, empty: set[str], table: Table) -> None:
    """Append an error for each file that could not be read, was too large to be, or is empty.

    One that has that error already gets no second row.
    """
    from pyspark.sql.functions import expr

    rows = table.rows(spark)
    error = f"IF(length > {MAX_BYTES}, 'larger than {MAX_BYTES >> 20} MB', '{UNREAD}')"
    left = files.join(rows, FILE, "left_anti").select(*FILE, expr(error).alias("error"))
    known = {row["path"] for row in rows.where("length = 0").select("path").collect()}
    new = [(path, None, 0, "the file is empty") for path in empty - known]
    if new:
        form = "path string, modified timestamp, length bigint, error string"
        left = left.union(spark.createDataFrame(new, form))
    if not left.isEmpty():
        table.append(left)


def _empty(listed: list[str], files: DataFrame) -> set[str]:
    """The paths of files without a byte, which Spark lists and then leaves out."""
    if len(listed) == files.count():
        return set()
    rows = files.select("file_path").toLocalIterator()
    found = {_plain(name) for name in listed} - {_plain(row["file_path"]) for row in rows}
    return {unquote(name) for name in found}


def _plain(uri: str) -> str:
    return re.sub("^file:/+", "/", shown(uri))


def _bucket(buckets: int) -> Column:
    from pyspark.sql.functions import col, lit, pmod, xxhash64

    return pmod(xxhash64(col("file_path")), lit(buckets)).cast("int")


def _any_case(suffix: str) -> str:
    return "".join(f"[{sign}{sign.upper()}]" if sign.isalpha() else sign for sign in suffix)
