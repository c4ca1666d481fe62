from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.arithmetic import Figures, needs, table
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "arithmetic.md").read_text()


def test_the_page_shows_the_table_of_the_formulas():
    assert table() in PAGE, f"paste this into docs/arithmetic.md:\n{table()}"


def test_the_rate_is_the_one_of_the_results():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    (rate,) = re.findall(r"^\| 25,000 \| [\d.]+ \| (\d+) \|", results, re.MULTILINE)
    assert Figures().per_core == int(rate) / 2
    assert f"{rate} / 2 pictures a second" in PAGE


def test_a_feature_takes_the_bytes_that_its_cache_writes(tmp_path):
    import numpy as np

    from catdog.training.features import FeatureCache

    given_ = Figures(width=8)
    cache = FeatureCache(tmp_path)
    keys = [bytes(31) + bytes([number]) + bytes(2) for number in range(200)]
    cache.append(keys, np.zeros((200, 8), dtype=np.float32))
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert written == pytest.approx(needs(200, given_).feature_bytes, abs=2 * 128)


@given(st.integers(10**3, 10**12), st.integers(1, 512))
def test_so_many_hosts_are_enough_and_one_less_is_not(count, cores):
    figures = Figures(cores=cores)
    hosts = needs(count, figures).hosts
    a_host = figures.per_core * cores * figures.day_s
    assert (hosts - 1) * a_host <= count * (1 + 1e-9)
    assert count <= hosts * a_host * (1 + 1e-9)


def test_the_prefixes_carry_the_requests():
    # 10^10 pictures in the 86,400 seconds of a day are 115,741 a second, each asked for three
    # times; 63 prefixes answer 346,500 requests a second, and 64 answer 352,000.
    need = needs(10**10, Figures(day_s=86_400, requests=3, store_rate=5_500))
    assert need.requests_s == pytest.approx(347_222.2, abs=0.1)
    assert need.prefixes == 64
