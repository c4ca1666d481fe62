"""Fixtures that draw what tests need: nothing is downloaded, nothing is shared between tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def photos() -> Path:
    """The archive of real photos; the test is skipped where CATDOG_PHOTOS names none."""
    named = os.environ.get("CATDOG_PHOTOS", "")
    if not named or not Path(named).is_file():
        pytest.skip("set CATDOG_PHOTOS to a Kaggle-shaped archive of real photos")
    return Path(named).resolve()
