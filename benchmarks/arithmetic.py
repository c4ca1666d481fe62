"""The table of docs/arithmetic.md, from its formulas: `python -m benchmarks.arithmetic`.

Change a figure below to put in your own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

COUNTS = (10**6, 10**8, 10**10)


@dataclass(frozen=True)
class Figures:
    """What the formulas start from; the page says where each figure comes from."""

    per_core: float = 367 / 2
    """r: pictures a second for a core, decoding included."""
    cores: int = 32
    """C: of a host."""
    day_s: int = 86_400
    """T: how long the work may take."""
    picture_bytes: int = 22_799
    """S: of a picture's file, on average."""
    width: int = 1_280
    """D: numbers of a feature; `tf_efficientnet_lite0` has 1,280."""
    views: int = 1
    """V: of each picture."""
    key_bytes: int = 34
    """Of a feature's key: a SHA-256 digest and the view's number."""
    manifest_bytes: int = 105
    """Of a picture's line in manifest.csv."""
    answer_bytes: int = 66
    """Of a picture's row in Spark's table of answers, compressed."""
    requests: int = 5
    """Q: to the object store for each picture when Spark scores, at most."""
    store_rate: int = 5_500
    """Requests a second that an object store answers for one prefix."""
    listed_bytes: int = 1_000
    """Of a file's entry in the memory of Spark's driver."""


@dataclass(frozen=True)
class Needs:
    """What so many pictures need."""

    count: int
    core_hours: float
    hosts: int
    read_bytes: int
    network_bytes_s: float
    requests_s: float
    prefixes: int
    feature_bytes: int
    manifest_bytes: int
    answer_bytes: int
    driver_bytes: int


def needs(count: int, given: Figures = Figures()) -> Needs:
    """The formulas, in the order of the page."""
    core_seconds = count / given.per_core
    hosts = math.ceil(core_seconds / (given.cores * given.day_s))
    rate = min(count / given.day_s, hosts * given.cores * given.per_core)
    requests_s = rate * given.requests
    return Needs(
        count=count,
        core_hours=core_seconds / 3600,
        hosts=hosts,
        read_bytes=count * given.picture_bytes,
        network_bytes_s=rate / hosts * given.picture_bytes,
        requests_s=requests_s,
        prefixes=math.ceil(requests_s / given.store_rate),
        feature_bytes=count * given.views * (4 * given.width + given.key_bytes),
        manifest_bytes=count * given.manifest_bytes,
        answer_bytes=count * given.answer_bytes,
        driver_bytes=count * given.listed_bytes,
    )


def table(given: Figures = Figures()) -> str:
    """The page's table, in Markdown."""
    columns = [needs(count, given) for count in COUNTS]
    lines = [
        ("pictures", [f"10^{round(math.log10(one.count))}" for one in columns]),
        ("core hours", [f"{one.core_hours:,.1f}" for one in columns]),
        (f"hosts of {given.cores} cores, for a day", [f"{one.hosts:,}" for one in columns]),
        ("read", [_size(one.read_bytes) for one in columns]),
        ("network of a host, a second", [_size(one.network_bytes_s) for one in columns]),
        ("requests to the store, a second", [f"{one.requests_s:,.0f}" for one in columns]),
        ("prefixes that this takes", [f"{one.prefixes:,}" for one in columns]),
        ("features", [_size(one.feature_bytes) for one in columns]),
        ("manifest.csv", [_size(one.manifest_bytes) for one in columns]),
        ("table of answers", [_size(one.answer_bytes) for one in columns]),
        ("memory of Spark's driver", [_size(one.driver_bytes) for one in columns]),
    ]
    rows = [f"| {name} | {' | '.join(cells)} |" for name, cells in lines]
    return "\n".join([rows[0], "|---|---|---|---|", *rows[1:]])


def _size(count: float) -> str:
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:,.1f} {unit}"
    return f"{count:.0f} B"


if __name__ == "__main__":
    print(table())
