"""Fixtures of the whole suite: both dtypes, and random numbers that are the same in every run."""

import gc

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Of every run the same examples; `--hypothesis-profile=long` tries a hundred times as many others.
settings.register_profile(
    "short",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "long", settings.get_profile("short"), derandomize=False, max_examples=2500
)
settings.load_profile("short")


def pytest_collection_modifyitems(items):
    """What takes a minute begins first: one process of several would end with it alone."""
    items.sort(key=lambda item: not item.name.startswith("test_other_instruction_sets"))


def pytest_collection_finish():
    """Tests stay, tens of thousands: else each gc.collect() takes a third of a second for them."""
    gc.freeze()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)
