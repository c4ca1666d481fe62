from __future__ import annotations

import pytest

from catdog.inference.classifier import Classifier
from tests.conftest import tiny_classifier


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """A tiny classifier that answers; not to be changed."""
    return tiny_classifier()
