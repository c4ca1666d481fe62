"""Any number of pictures → a table of answers, by Spark, on this machine or on many.

MLflow's `spark_udf` answers what Spark's source `binaryFile` reads. The pictures are taken in
rounds, chosen by a hash of their paths, and Spark commits each round whole: a job that was
killed and is started again goes on with the rounds that have no answers yet.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from catdog import CLASSES, CatdogError, Classes, registry
from catdog.answers import labels_of
from catdog.classes import probability_name
from catdog.classifier import classes_of
from catdog.command import say
from catdog.images import SUFFIXES

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

PER_TASK = 2_000
"""Pictures for each core in a round, at most. More would lose more work when a job is killed;
fewer would load the model, which takes a quarter of a second, for too little."""

MAX_BYTES = 512 << 20
"""A larger file gets an error unread: a worker holds some files at once, each whole."""

BATCH, BATCH_BYTES = 256, "64m"
"""Pictures that a worker is handed at once: as many as this, or the first to fill so much."""

COST_OF_A_PICTURE = 100_000
"""Bytes of a JPEG that take as long to decode as a forward pass takes: it balances the tasks."""

LOCAL_SETTINGS = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "8",
}
"""For masters on this machine: nobody else is let in, and a few thousand paths are no big data."""

FILE = ["path", "modified", "length"]
"""What a file is known by: one that was replaced since is scored anew."""

PASSWORD = "^([a-z][a-z0-9+.-]*://[^/@:]+):[^/@]*@"
"""In an address; the table does not keep it. For Spark's regular expressions and Python's."""


@dataclass(frozen=True)
class Pinned:
    """One MLflow model in a local folder, and the name that tells it from every other."""

    folder: Path
    version: str
    classes: Classes = CLASSES

    @property
    def schema(self) -> str:
        """The table of answers: what `predict.py` answers, by which model, and for which file."""
        return (
            f"path string, label string, confidence double, {self.probability} double, "
            "familiarity double, error string, model_version string, modified timestamp, "
            "length bigint"
        )

    @property
    def probability(self) -> str:
        """The column of the probability of class 1."""
        return probability_name(self.classes)


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
    """What the table of answers holds after a job, and what this job added to it."""

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
    uri = registry.exact(model_uri)
    saved = registry.fetch(uri)
    folder = saved.parent.parent  # MLmodel stands there, and the saved classifier in data/
    if not (folder / "MLmodel").is_file():
        raise CatdogError(
            f"{model_uri} is not an MLflow model, which Spark needs: name a version of the "
            "registry, or a run, as in --model-uri models:/catdog/Production"
        )
    version = uri if uri.startswith("models:/") else f"sha256:{registry.digest_of(saved)[:16]}"
    return Pinned(folder, version, classes_of(saved))


@contextlib.contextmanager
def spark_session(master: str) -> Iterator[SparkSession]:
    """A session of Spark at `master`, which ends with the block.

    Raises:
        CatdogError: PySpark or Java is not installed, or there is no such master.
    """
    session = _start(master)
    try:
        yield session
    finally:
        session.stop()


def score(spark: SparkSession, model: Pinned, source: str, output: str) -> Scored:
    """Answer the pictures below `source` that have no answer in the table `output` yet.

    Args:
        spark: where the work is done.
        model: whose answers they are.
        source: a folder, or the URI of one that Spark can read (`s3a://...`).
        output: the folder of a Parquet table, of the columns `Pinned.schema`; or its URI.

    Raises:
        CatdogError: there is no picture, or the table holds another model's answers.
    """
    began = time.monotonic()
    pictures = _pictures(spark, source)
    listed = pictures.inputFiles()
    if not listed:
        raise CatdogError(f"input={source} holds no picture: name a folder that does.")
    files = pictures.drop("content").persist()
    before = _answers(spark, output, model)
    _refuse_other_answers(before, model, output)
    rounds = plan(spark, files, before)
    classify = _classifier(spark, model)
    for number, this in enumerate(rounds, 1):
        chosen = _of_round(this, pictures, files.join(before, FILE, "left_anti"))
        answered = chosen.select(*FILE, classify("content").alias("answer"))
        _append(answered.select(*FILE, "answer.*"), model, output)
        say(f"round {number} of {len(rounds)}: {this.waiting} photos answered")
    _give_up(spark, listed, files, model, output)
    files.unpersist()
    now = _answers(spark, output, model)
    labels = {row["label"]: row["count"] for row in now.groupBy("label").count().collect()}
    failed = labels.pop(None, 0)
    added = sum(labels.values()) + failed - before.count()
    return Scored(Counter(labels), failed, added, time.monotonic() - began, model.classes)


def plan(spark: SparkSession, files: DataFrame, before: DataFrame) -> list[Round]:
    """The rounds that are left to do.

    The number of buckets is a power of two, so that the rounds of a folder that has doubled are
    halves of those before: what is answered still fills whole rounds.
    """
    from pyspark.sql.functions import col, count, count_if, lit

    total = files.count()
    share = total / (PER_TASK * spark.sparkContext.defaultParallelism)
    buckets = 2 ** math.ceil(math.log2(max(share, 1)))
    done = before.select(*FILE, lit(True).alias("done")).distinct()
    readable = files.where(files["length"] <= MAX_BYTES).join(done, FILE, "left")
    counted = readable.groupBy(_bucket(buckets).alias("bucket")).agg(
        count("*").alias("total"), count_if(col("done").isNull()).alias("waiting")
    )
    rows = counted.where("waiting > 0").orderBy("bucket").collect()
    return [Round(row["bucket"], buckets, row["waiting"], row["total"]) for row in rows]


def _start(master: str) -> SparkSession:
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise CatdogError(
            "scoring with Spark needs PySpark: install it with: pip install '.[spark]'"
        ) from error
    home = os.environ.get("JAVA_HOME")
    if not shutil.which("java", path=str(Path(home) / "bin") if home else None):
        raise CatdogError(
            "Spark needs Java 17 or newer, and there is no `java` here: install one (on Debian: "
            "apt install default-jre-headless), or set JAVA_HOME."
        )
    if master.startswith("local"):
        os.environ["PYSPARK_PYTHON"] = sys.executable  # workers need what is installed here
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    try:
        return _builder(SparkSession.builder.master(master), master).getOrCreate()
    except Exception as error:  # Py4J's, Spark's own and Python's, as the reason is
        raise CatdogError(
            f"Spark can't start with master={master}: {_reason(error)} "
            "Try --master 'local[2]', which needs this machine alone."
        ) from error


def _builder(builder: SparkSession.Builder, master: str) -> SparkSession.Builder:
    settings = {
        "spark.app.name": "catdog score",
        "spark.log.level": "ERROR",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH),
        "spark.sql.execution.arrow.maxBytesPerBatch": BATCH_BYTES,
        # A task for each core in a round, as each loads the model.
        "spark.sql.files.maxPartitionBytes": str(1 << 50),
        "spark.sql.files.openCostInBytes": str(COST_OF_A_PICTURE),
        # What can't be read is given an error at the end, and the others are answered.
        "spark.sql.files.ignoreCorruptFiles": "true",
        "spark.sql.files.ignoreMissingFiles": "true",
        **(LOCAL_SETTINGS if master.startswith("local") else {}),
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder


def _pictures(spark: SparkSession, source: str) -> DataFrame:
    """The pictures below a folder, unread: `FILE`, content, and `file_path`, Spark's key."""
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    pattern = ",".join(map(_any_case, sorted(SUFFIXES)))
    try:
        found = reader.option("pathGlobFilter", f"*{{{pattern}}}").load(_escaped(_uri(source)))
    except Exception as error:
        raise CatdogError(
            f"input={source} can't be read: {_reason(error)} Name a folder of this machine, or a "
            "URI whose connector Spark has."
        ) from error
    return found.selectExpr(
        f"regexp_replace(regexp_replace(path, '{PASSWORD}', '$1@'), '^file:/+', '/') AS path",
        "modificationTime AS modified",
        "length",
        "content",
        "_metadata.file_path AS file_path",
    )


def _answers(spark: SparkSession, output: str, model: Pinned) -> DataFrame:
    """The answers that the table holds now."""
    from pyspark.errors import AnalysisException

    reader = spark.read.schema(model.schema)
    try:
        return reader.parquet(_escaped(_uri(output)))
    except AnalysisException:  # there is no table yet
        return spark.createDataFrame([], model.schema)


def _refuse_other_answers(before: DataFrame, model: Pinned, output: str) -> None:
    versions = [row["model_version"] for row in before.select("model_version").distinct().collect()]
    others = [version for version in versions if version != model.version]
    if others:
        raise CatdogError(
            f"output={output} holds answers of {others[0]}, and these would be of "
            f"{model.version}: name another output, or that model."
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

    # By these columns Spark leaves out whole files before it reads any.
    chosen = pictures.where(_bucket(this.buckets) == this.bucket)
    chosen = chosen.where(col("length") <= MAX_BYTES)
    if this.waiting == this.total:
        return chosen
    return chosen.join(broadcast(waiting.select(*FILE)), FILE, "left_semi")


def _give_up(
    spark: SparkSession, listed: list[str], files: DataFrame, model: Pinned, output: str
) -> None:
    """Append an error for each file that could not be read, was too large to be, or is empty."""
    from pyspark.sql.functions import expr

    answers = _answers(spark, output, model)
    reason = f"IF(length > {MAX_BYTES}, 'larger than {MAX_BYTES >> 20} MB', 'can not be read')"
    left = files.join(answers, FILE, "left_anti").select(*FILE, expr(reason).alias("error"))
    known = {row["path"] for row in answers.where("length = 0").select("path").collect()}
    empty = [(path, None, 0, "the file is empty") for path in _empty(listed, files) - known]
    if empty:
        form = "path string, modified timestamp, length bigint, error string"
        left = left.union(spark.createDataFrame(empty, form))
    if not left.isEmpty():
        _append(left, model, output)


def _empty(listed: list[str], files: DataFrame) -> set[str]:
    """The paths of files without a byte, which Spark lists and then leaves out."""
    if len(listed) == files.count():
        return set()
    rows = files.select("file_path").toLocalIterator()
    found = {_plain(name) for name in listed} - {_plain(row["file_path"]) for row in rows}
    return {unquote(name) for name in found}


def _plain(uri: str) -> str:
    return re.sub("^file:/+", "/", re.sub(PASSWORD, r"\1@", uri))


def _append(answers: DataFrame, model: Pinned, output: str) -> None:
    from pyspark.sql.functions import expr, lit

    missing = {"label": "string", "confidence": "double", model.probability: "double"}
    missing["familiarity"] = "double"
    for name, form in missing.items():
        if name not in answers.columns:
            answers = answers.withColumn(name, lit(None).cast(form))
    table = answers.withColumns(
        {
            "label": expr("nullif(label, '')"),
            "error": expr(r"nullif(trim(regexp_replace(error, '\\s+', ' ')), '')"),
            "model_version": lit(model.version),
        }
    )
    columns = [part.split()[0] for part in model.schema.split(", ")]
    table.select(*columns).write.mode("append").parquet(_uri(output))


def _bucket(buckets: int) -> Column:
    from pyspark.sql.functions import col, lit, pmod, xxhash64

    return pmod(xxhash64(col("file_path")), lit(buckets)).cast("int")


def _uri(name: str) -> str:
    """A local folder as an absolute URI, which is the same whatever Spark's default is."""
    if re.match(r"[a-z][a-z0-9+.-]+://", name):
        return name
    return f"file:{Path(name).expanduser().resolve()}"


def _escaped(uri: str) -> str:
    """The URI, in which no sign of a folder's name stands for others."""
    return re.sub(r"([*?{}\[\]\\])", r"\\\1", uri)


def _any_case(suffix: str) -> str:
    return "".join(f"[{sign}{sign.upper()}]" if sign.isalpha() else sign for sign in suffix)


def _reason(error: Exception) -> str:
    """What went wrong in one line: the root cause, where Java told of several."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    causes = [line for line in lines if line.startswith(("Caused by: ", ": "))]
    told = (causes or lines)[0].removeprefix("Caused by: ").removeprefix(": ")
    return f"{told[:300].rstrip('.')}."
