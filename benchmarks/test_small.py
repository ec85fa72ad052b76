"""The cost of a call: `pytest benchmarks` times the small cases with pytest-benchmark."""

import pytest

from .contest import cases
from .rivals import RIVALS

CASES = [case for case in cases(threads=1, dtype="float32") if case.small]


@pytest.mark.parametrize("who", ["fastloss", "limit", *RIVALS])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_small(benchmark, case, who):
    calls = case.calls(f"^{who}$")
    if who not in calls:
        pytest.skip(f"no {who} here")
    benchmark.group = case.name
    benchmark(calls[who])
