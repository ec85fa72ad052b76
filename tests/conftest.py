"""Fixtures of the whole suite: both dtypes, and random numbers that are the same in every run."""

import numpy as np
import pytest


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)
