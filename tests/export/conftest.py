"""A comparison of graphs with PyTorch that takes a quarter of the time."""

import pytest


@pytest.fixture
def few_sources(monkeypatch):
    """Compare 4 sources, in batches of 1, 3 and 4, instead of 16."""
    monkeypatch.setattr("captioner.export.verify._SOURCES", 4)
