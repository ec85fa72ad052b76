"""The cases, the figures to reach, and the way of timing.

All contenders of a case take turns in one run (A B C A B C ...), after their results were checked
equal, and are compared turn by turn: memory speed on shared machines comes in moods that last
seconds, which ratios within one round cancel. The limit is what the memory gives when nothing is
computed: a copy of the logits for rows, `np.subtract(out=)` for elementwise losses, cut into one
slice per thread.
"""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from timeit import Timer
from typing import Any

import numpy as np

import fastloss as fl
from fastloss._loss import DISTRIBUTIONS

from .rivals import Array, Call, opponents

# (shape, threads); None: as many as asked for
SHAPES: dict[str, list[tuple[tuple[int, ...], int | None]]] = {
    "elementwise": [((30_000_000,), None), ((1_000_000,), 1), ((320,), 1)],
    "rows": [
        ((1024, 50257), None),
        ((32768, 1000), None),
        ((8192, 1000), None),
        ((1048576, 4), None),
        ((65536, 10), 1),
        ((32, 10), 1),
    ],
}
SMALL = 1000  # up to here no `out` is given: what counts is the cost of a call

# What fastloss sets out to reach on two cores with AVX-512 in float32, by (loss, shape, threads):
# at most that many times the limit's time, at least that many times faster than an opponent.
FIGURES: dict[tuple[str, tuple[int, ...], int], dict[str, float]] = {
    ("cross_entropy", (1024, 50257), 2): {"limit": 1.3, "PyTorch": 12},
    ("cross_entropy", (32768, 1000), 2): {"limit": 1.2},
    ("cross_entropy", (8192, 1000), 2): {"PyTorch": 4},
    ("cross_entropy", (65536, 10), 1): {"PyTorch": 15, "NumPy": 6},
    ("cross_entropy", (32, 10), 1): {"limit": 6, "PyTorch": 12},
    ("huber_loss", (30_000_000,), 2): {"limit": 1.25, "PyTorch": 8},
    ("huber_loss", (320,), 1): {"limit": 4, "PyTorch": 12},
    ("binary_cross_entropy_with_logits", (30_000_000,), 2): {"limit": 1.8, "PyTorch": 12},
}

TURN = 0.01  # seconds: short calls repeat for that long in a turn
REST = 0.02  # seconds before a turn: until the last contender's OpenMP threads stop spinning


@dataclass(frozen=True)
class Case:
    loss: fl.Loss
    shape: tuple[int, ...]
    threads: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        return f"{self.loss.name} {' x '.join(map(str, self.shape))}"

    @property
    def small(self) -> bool:
        return math.prod(self.shape) <= SMALL

    @property
    def figures(self) -> dict[str, float]:
        key = (self.loss.name, self.shape, self.threads)
        return FIGURES.get(key, {}) if self.dtype == "float32" else {}

    def data(self) -> tuple[Array, Array]:
        """`pred` with unsure and confident samples, and a target from the loss's domain."""
        rng = np.random.default_rng(0)
        pred = 3 * rng.standard_normal(self.shape, self.dtype)
        if self.loss.domain is DISTRIBUTIONS:
            share = rng.random(self.shape, self.dtype)
            return pred, share / share.sum(-1, keepdims=True)
        if self.loss.kind == "rows":
            return pred, rng.integers(0, self.shape[-1], self.shape[:-1])
        if self.loss.pred.high < np.inf:
            pred = rng.random(self.shape, self.dtype)  # of probabilities
        low, high = map(pred.dtype.type, (self.loss.domain.low, self.loss.domain.high))
        target = 3 * rng.standard_normal(self.shape, self.dtype)
        return pred, np.where(target > 0, high, low) if high < np.inf else np.maximum(target, low)

    def calls(self) -> dict[str, Call]:
        """All contenders, their results found equal."""
        pred, target = self.data()
        out = np.empty_like(pred)
        rivals = opponents(self.loss, pred, target, out, self.threads)
        ours: Call = partial(self.loss.value_and_grad, pred, target)
        if self.small:
            limit: Callable[[], Any] = partial(np.subtract, pred, pred)
        else:
            ours = partial(ours, out=out, num_threads=self.threads)
            rows = self.loss.kind == "rows"
            job = (np.copyto, out, pred) if rows else (np.subtract, pred, target, out)
            limit = split(self.threads, *job)
        check_equal({"fastloss": ours, **rivals}, out)
        return {"fastloss": ours, "limit": limit, **rivals}


def cases(threads: int, dtype: str) -> Iterator[Case]:
    for loss in fl.losses().values():
        for shape, fixed in SHAPES[loss.kind]:
            yield Case(loss, shape, fixed or threads, dtype)


def split(threads: int, function: Callable[..., Any], *arrays: Array) -> Callable[[], Any]:
    """Apply `function` to the arrays, in each thread to a slice of them."""
    if threads == 1:
        return partial(function, *arrays)
    slices = list(zip(*(np.array_split(a.reshape(-1), threads) for a in arrays), strict=True))
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda args: function(*args), slices))


def check_equal(calls: dict[str, Call], out: Array) -> None:
    """Raise ValueError unless all agree with the first, to about 100 roundings."""
    tolerance = 100 * np.finfo(out.dtype).eps
    expected: list[Array] = []
    for who, call in calls.items():
        out.fill(np.nan)  # else a contender that writes nothing would pass with the last one's
        result = [np.asarray(each) for each in call()]
        expected = expected or [each.copy() for each in result]
        for what, got, want in zip(("loss", "gradient"), result, expected, strict=True):
            error, scale = abs(got - want).max(), abs(want).max()
            if not error <= tolerance * scale:
                raise ValueError(
                    f"{who}: the {what} is off by {error:.2g} on a scale of {scale:.2g}"
                )


def measure(calls: dict[str, Callable[[], Any]], budget: float) -> dict[str, list[float]]:
    """Seconds per call of each contender, one entry per round, for about `budget` seconds."""
    timers = {who: Timer(call) for who, call in calls.items()}
    number = {who: int(TURN / min(t.repeat(3, 1))) + 1 for who, t in timers.items()}
    seconds: dict[str, list[float]] = {who: [] for who in calls}
    end = time.perf_counter() + budget
    while len(seconds["fastloss"]) < 5 or time.perf_counter() < end:
        for who, timer in timers.items():
            time.sleep(REST)
            seconds[who].append(timer.timeit(number[who]) / number[who])
    return seconds
