from __future__ import annotations

from tests.faults.table import families, listed


def test_the_table_lists_exactly_the_faults_that_are_tested():
    assert listed() == [row for _, rows in families() for row in rows], (
        "run: python -m pytest tests/faults --write-fault-table"
    )
