"""The number of fuzzed examples, and which row of docs/reliability.md each test stands for."""

import os

from hypothesis import HealthCheck, settings

# CAPTIONER_FUZZ=2000 pytest tests/reliability -k fuzzed
settings.register_profile(
    "captioner",
    max_examples=int(os.environ.get("CAPTIONER_FUZZ", "40")),
    deadline=10_000,  # milliseconds: a file that takes longer is a fault too
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("captioner")


def pytest_collection_modifyitems(items):
    """Write the rows to the JUnit report, from which experiments/reliability.py makes the table."""
    for item in items:
        item.user_properties += [("row", mark.args[0]) for mark in item.iter_markers("row")]
