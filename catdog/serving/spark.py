"""Any number of pictures → a Parquet table of answers, by Spark, on this machine or on many.

Spark's source `binaryFile` lists and reads the pictures, MLflow's `spark_udf` answers. They are
taken in rounds, each of which Spark commits whole: a job that was killed and is started again goes
on with those that have no answer. A file is known by its path, its time and its length, so that
one that was replaced is answered anew; rows are only ever added.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from catdog import CLASSES, CatdogError, Classes
from catdog.data.classes import probability_name
from catdog.data.images import MAX_BYTES, SUFFIXES
from catdog.inference.classifier import Classifier
from catdog.registry import versions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

logger = logging.getLogger(__name__)

PER_TASK = 2_000
"""Pictures for each core in a round. More would lose more work when a job is killed; fewer would
load the model, which takes a quarter of a second, for too little."""

ERROR = f"CASE length WHEN 0 THEN 'the file is empty' ELSE 'more bytes than {MAX_BYTES:,}' END"
"""Of a file that the model is not asked about."""

FILE = ["path", "modified", "length"]
"""What a file is known by; an empty one has no time."""

SAME_FILE = " AND ".join(f"files.{name} <=> rows.{name}" for name in FILE)

PASSWORD = "(?i)([a-z][a-z0-9+.-]*://[^/@: ]*):[^/ ]*@"
"""In an address; what is kept and what is shown is without it. For Spark's and Python's `re`."""

SETTINGS = {
    "spark.app.name": "catdog score",
    "spark.log.level": "ERROR",
    # Pictures that a worker is handed at once: as many as this, or the first to fill so much.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "256",
    "spark.sql.execution.arrow.maxBytesPerBatch": "64m",
    # A task for each core in a round, as each loads the model; a picture costs a forward pass, too.
    "spark.sql.files.maxPartitionBytes": str(1 << 50),
    "spark.sql.files.openCostInBytes": "100000",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "64",
    # What can't be read has no row, and the others are answered.
    "spark.sql.files.ignoreCorruptFiles": "true",
    "spark.sql.files.ignoreMissingFiles": "true",
}
LOCAL_SETTINGS = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "8",
}
"""For masters on this machine: nobody else is let in, and a few thousand paths are no big data."""


@dataclass(frozen=True)
class PinnedModel:
    """One MLflow model in a local folder, and the name that tells it from every other."""

    folder: Path
    version: str
    classes: Classes = CLASSES


def pin(model_uri: str) -> PinnedModel:
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
    return PinnedModel(folder, version, Classifier.load(saved, device="cpu").about.classes)


def score(spark: SparkSession, model: PinnedModel, source: str, output: str) -> Counter[str]:
    """Answer the pictures below `source` that have no answer in the table `output` yet.

    One that gave no bytes has no row: it is tried again by the next start.

    Args:
        spark: where the work is done.
        model: whose answers they are.
        source: a folder, or the URI of one that Spark can read (`s3a://...`).
        output: the folder of the table, or its URI; see `Table`.

    Returns:
        How many of the pictures that are there now have each label; "" counts those without.

    Raises:
        CatdogError: there is no picture, one was deleted meanwhile, or the table holds another
            model's answers.
    """
    import mlflow.pyfunc
    from pyspark.sql.functions import expr

    files = _files(spark, source)
    if files.isEmpty():
        raise CatdogError(f"input={_shown(source)} holds no picture: name a folder that does.")
    table = Table(output, model)
    table.refuse_others(table.rows(spark))
    waiting = files.alias("files").join(
        table.rows(spark).alias("rows"), expr(SAME_FILE), "left_anti"
    )
    readable = f"length BETWEEN 1 AND {MAX_BYTES}"
    unasked = waiting.where(f"NOT ({readable})").withColumn("error", expr(ERROR))
    if not unasked.isEmpty():
        table.append(unasked)
    uris = sorted(row["uri"] for row in waiting.where(readable).select("uri").collect())
    size = PER_TASK * spark.sparkContext.defaultParallelism
    classify = mlflow.pyfunc.spark_udf(spark, str(model.folder), env_manager="local")
    for start in range(0, len(uris), size):
        pictures = _pictures(spark, uris[start : start + size])
        answers = pictures.select(*FILE, classify("content").alias("answer"))
        table.append(answers.select(*FILE, "answer.*"))
        logger.info(f"{min(start + size, len(uris)):,} of {len(uris):,} photos tried")
    rows = files.alias("files").join(table.rows(spark).alias("rows"), expr(SAME_FILE), "left")
    labels = rows.selectExpr("coalesce(label, '') AS label").groupBy("label").count()
    return Counter({row["label"]: row["count"] for row in labels.collect()})


@dataclass(frozen=True)
class Table:
    """A Parquet table in the folder `output`, or at that URI, of one model's answers."""

    output: str
    model: PinnedModel

    @property
    def columns(self) -> dict[str, str]:
        """What `predict.py` answers, by which model, and for which file; with Spark's types."""
        return {
            "path": "string",
            "label": "string",
            "confidence": "double",
            probability_name(self.model.classes): "double",
            "familiarity": "double",
            "error": "string",
            "model_version": "string",
            "modified": "timestamp",
            "length": "bigint",
        }

    def rows(self, spark: SparkSession) -> DataFrame:
        """The rows that it holds at this moment, even when some are added later."""
        from pyspark.errors import AnalysisException

        # Quoted, as a class may have a name in any alphabet.
        schema = ", ".join(f"`{name}` {form}" for name, form in self.columns.items())
        try:
            return spark.read.schema(schema).parquet(_escaped(_address(self.output)))
        except AnalysisException:  # there is no table yet
            return spark.createDataFrame([], schema)

    def refuse_others(self, rows: DataFrame) -> None:
        """Raise a CatdogError where another model has answered."""
        for row in rows.select("model_version").distinct().collect():
            if row["model_version"] != self.model.version:
                raise CatdogError(
                    f"output={_shown(self.output)} holds answers of {row['model_version']}, and "
                    f"these would be of {self.model.version}: name another output, or that model."
                )

    def append(self, answers: DataFrame) -> None:
        """Add rows; columns that they lack are empty."""
        from pyspark.sql.functions import expr, lit

        for name, form in self.columns.items():
            if name not in answers.columns:
                answers = answers.withColumn(name, lit(None).cast(form))
        whole = answers.withColumns(
            {
                "label": expr("nullif(label, '')"),
                "error": expr("nullif(error, '')"),
                "model_version": lit(self.model.version),
            }
        )
        whole.select(*self.columns).write.mode("append").parquet(_address(self.output))


def _pictures(spark: SparkSession, uris: Sequence[str]) -> DataFrame:
    """The pictures at or below addresses: `FILE`, content, and Spark's own `uri`."""
    suffixes = ("".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in s) for s in SUFFIXES)
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    reader = reader.option("pathGlobFilter", f"*{{{','.join(suffixes)}}}")
    try:
        found = reader.load([_escaped(uri) for uri in uris])
    except Exception as error:  # as Py4J, Spark and Hadoop have it
        raise CatdogError(
            f"input can't be read: {_reason(error)} Name a folder of this machine, or a URI whose "
            "connector Spark has; where a picture was deleted meanwhile, start again."
        ) from error
    return found.selectExpr(
        f"regexp_replace(regexp_replace(path, '{PASSWORD}', '$1@'), '^file:/+', '/') AS path",
        "modificationTime AS modified",
        "length",
        "content",
        "path AS uri",
    )


def _files(spark: SparkSession, source: str) -> DataFrame:
    """The pictures below `source`, without their content: `FILE`, and Spark's own `uri`."""
    listed = _pictures(spark, [_address(source)])
    found = listed.drop("content")
    # Spark lists files without a byte, and then leaves them out.
    every = {re.sub("^file:/+", "/", _shown(unquote(uri))) for uri in listed.inputFiles()}
    empty = every - {row["path"] for row in found.select("path").toLocalIterator()}
    rows = [(path, None, 0, None) for path in sorted(empty)]
    return found.union(spark.createDataFrame(rows, found.schema))


@contextlib.contextmanager
def spark_session(master: str) -> Iterator[SparkSession]:
    """A session of Spark at `master`, which ends with the block.

    Raises:
        CatdogError: PySpark or Java is not installed, or there is no such master.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise CatdogError(
            "scoring with Spark needs PySpark: install it with: pip install '.[spark]'"
        ) from error
    settings = SETTINGS
    if master.startswith("local"):
        settings = SETTINGS | LOCAL_SETTINGS
        os.environ["PYSPARK_PYTHON"] = sys.executable  # workers need what is installed here
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    try:
        session = SparkSession.builder.master(master).config(map={**settings}).getOrCreate()
    except Exception as error:  # Py4J's, Spark's own and Python's, as the reason is
        raise CatdogError(
            f"Spark can't start with master={master}: {_reason(error)} "
            "It needs Java 17 or newer (on Debian: apt install default-jre-headless; or set "
            "JAVA_HOME), and --master 'local[2]' needs this machine alone."
        ) from error
    try:
        yield session
    finally:
        session.stop()


def _address(name: str) -> str:
    """A local folder as an absolute URI, which is the same whatever Spark's default is."""
    if re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE):
        return name
    return f"file:{Path(name).resolve()}"


def _escaped(uri: str) -> str:
    """An address in which no sign stands for others."""
    return re.sub(r"([*?{}\[\]\\])", r"\\\1", uri)


def _shown(text: str) -> str:
    """An address, or a text that quotes some, as people may see it."""
    return re.sub(PASSWORD, r"\1@", text)


def _reason(error: Exception) -> str:
    """What went wrong in one line: the root cause, where Java told of several."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    causes = [line for line in lines if line.startswith(("Caused by: ", ": "))]
    line = (causes or lines)[0].removeprefix("Caused by: ").removeprefix(": ")
    return f"{_shown(line)[:300].rstrip('.')}."
