"""A session of Spark, on this machine or on many, and the addresses that it reads.

In: the address of a master, or what the user typed for a folder. Out: a session; an address that
Spark takes literally; and the same as people may see it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from catdog import CatdogError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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

PASSWORD = "(?i)([a-z][a-z0-9+.-]*://[^/@: ]*):[^/ ]*@"
"""In an address; what is kept and what is shown is without it. For Spark's regular expressions and
Python's."""


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


def literal(name: str) -> str:
    """The address of a folder, in which no sign stands for others."""
    return re.sub(r"([*?{}\[\]\\])", r"\\\1", address(name))


def address(name: str) -> str:
    """A local folder as an absolute URI, which is the same whatever Spark's default is."""
    if re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE):
        return name
    return f"file:{Path(name).expanduser().resolve()}"


def shown(text: str) -> str:
    """An address, or a text that quotes some, as people may see it."""
    return re.sub(PASSWORD, r"\1@", text)


def reason(error: Exception) -> str:
    """What went wrong in one line: the root cause, where Java told of several."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    causes = [line for line in lines if line.startswith(("Caused by: ", ": "))]
    told = (causes or lines)[0].removeprefix("Caused by: ").removeprefix(": ")
    return f"{shown(told)[:300].rstrip('.')}."


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
            f"Spark can't start with master={master}: {reason(error)} "
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
