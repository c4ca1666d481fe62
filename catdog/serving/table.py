"""The table of answers: what one model answered, for each file.

A file is known by its path, its time and its length, so that one that was replaced is answered
anew. Rows are only ever added, whole rounds at a time, which a job that is killed can't spoil. So a
file can have two: the error of a day when it gave no bytes, and its answer of a later one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catdog import CLASSES, CatdogError, Classes
from catdog.data.classes import probability_name
from catdog.serving.spark import address, literal, reason, shown

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FILE = ["path", "modified", "length"]
"""What a file is known by."""

UNREAD = "can not be read"
"""The error of a file that gave no bytes. It is no answer: a store that was throttled, a mount that
was missing or a permission may be there the next time, and none of them changes the file."""


@dataclass(frozen=True)
class Table:
    """A Parquet table in the folder `output`, or at that URI, of one model's answers."""

    output: str
    version: str
    classes: Classes = CLASSES

    @property
    def columns(self) -> dict[str, str]:
        """What `predict.py` answers, by which model, and for which file; with Spark's types."""
        return {
            "path": "string",
            "label": "string",
            "confidence": "double",
            probability_name(self.classes): "double",
            "familiarity": "double",
            "error": "string",
            "model_version": "string",
            "modified": "timestamp",
            "length": "bigint",
        }

    def rows(self, spark: SparkSession) -> DataFrame:
        """The rows that it holds at this moment, even when some are added later.

        Raises:
            CatdogError: it can't be read.
        """
        from pyspark.errors import AnalysisException

        # Quoted, as a class may have a name in any alphabet.
        schema = ", ".join(f"`{name}` {form}" for name, form in self.columns.items())
        try:
            return spark.read.schema(schema).parquet(literal(self.output))
        except AnalysisException:  # there is no table yet
            return spark.createDataFrame([], schema)
        except Exception as error:
            raise CatdogError(
                f"output={shown(self.output)} can't be read: {reason(error)} Name a folder of "
                "this machine, or a URI whose connector Spark has."
            ) from error

    def refuse_others(self, rows: DataFrame) -> None:
        """Make sure that no other model has answered.

        Raises:
            CatdogError: one has.
        """
        versions = [
            row["model_version"] for row in rows.select("model_version").distinct().collect()
        ]
        others = [version for version in versions if version != self.version]
        if others:
            raise CatdogError(
                f"output={shown(self.output)} holds answers of {others[0]}, and these would be of "
                f"{self.version}: name another output, or that model."
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
                "error": expr(r"nullif(trim(regexp_replace(error, '\\s+', ' ')), '')"),
                "model_version": lit(self.version),
            }
        )
        whole.select(*self.columns).write.mode("append").parquet(address(self.output))


def answered(rows: DataFrame) -> DataFrame:
    """The rows that are answers, and errors that come again as long as the file is the same."""
    from pyspark.sql.functions import col

    return rows.where(~col("error").eqNullSafe(UNREAD))


def count_labels(files: DataFrame, rows: DataFrame) -> tuple[Counter[str], int]:
    """How many of `files` have each label, and how many of them have none."""
    from pyspark.sql.functions import max as greatest

    found = files.select(*FILE).join(rows.select(*FILE, "label"), FILE, "left")
    # Of a file's rows, one at most has a label.
    each = found.groupBy(*FILE).agg(greatest("label").alias("label"))
    labels = {row["label"]: row["count"] for row in each.groupBy("label").count().collect()}
    without = labels.pop(None, 0)
    return Counter(labels), without
