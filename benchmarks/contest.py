"""The cases, the figures to reach, and the way of timing.

All contenders of a case take turns in one run (A B C A B C ...), after their results were checked
equal, and are compared turn by turn: memory speed on shared machines comes in moods that last
seconds, which ratios within one round cancel. The limit is what the memory gives when nothing is
computed: a copy of the logits for rows, `np.subtract(out=)` for elementwise losses, cut into one
slice per thread.
"""

import inspect
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

from .rivals import ROUNDINGS, Array, Call, opponents

# (shape, threads); None: as many as asked for
SHAPES: dict[str, list[tuple[tuple[int, ...], int | None]]] = {
    "elementwise": [((30_000_000,), None), ((1_000_000,), 1), ((320,), 1)],
    "pairs": [((30_000_000,), None), ((1_000_000,), 1)],
    "rows": [
        ((1024, 50257), None),
        ((32768, 1000), None),
        ((8192, 1000), None),
        ((1048576, 4), None),
        ((65536, 10), 1),
        ((32, 10), 1),
    ],
    "vectors": [((65536, 128), None)],
    "set": [((4096, 128), None)],
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

KINKS = 1e-6  # the share of gradients that may differ: at a kink any subgradient is right
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

    def argument(self, name: str, rng: np.random.Generator) -> Any:
        """Predictions sure and unsure, and what else there is from its domain."""
        loss, shape = self.loss, self.shape
        of_labels = loss.domain.labels or loss.__module__.endswith("segmentation")
        if name == "labels" or (name == "target" and of_labels):
            return rng.integers(0, shape[-1], shape[:-1])
        if loss.domain.lists and name == "target":
            return np.where(np.arange(shape[-1]) < 3, rng.integers(0, shape[-1], shape), -1)
        if loss.kind == "vectors" and loss.domain.ends_only and name == "target":
            shape = shape[:-1]  # a number for each row
        x = 3 * rng.standard_normal(shape, self.dtype)
        if name.endswith("features"):
            return [x]
        of_pred = name == "pred" and loss.pred.low > -np.inf
        if of_pred or (name == "target" and loss.kind == "rows"):
            return rng.random(shape, self.dtype).clip(1e-6)  # of probabilities, none of them 0
        if name == loss.checked != "target":
            return abs(x) + x.dtype.type(0.1)  # a scale
        low, high = map(x.dtype.type, (loss.domain.low, loss.domain.high))
        if name != "target":
            return x
        return np.where(x > 0, high, low) if high < np.inf else np.maximum(x, max(low, 0))

    def data(self) -> dict[str, Any]:
        """The arguments by their names."""
        rng = np.random.default_rng(0)
        parameters = inspect.signature(self.loss).parameters.values()
        names = [p.name for p in parameters if p.default is p.empty]
        return {name: self.argument(name, rng) for name in names}

    def calls(self) -> dict[str, Call]:
        """All contenders, their results found equal."""
        arguments = self.data()
        arrays = [a for a in arguments.values() if isinstance(a, np.ndarray)]
        outs = tuple(
            np.empty_like(arguments[name])
            for name in self.loss.inputs
            if isinstance(arguments[name], np.ndarray)
        )
        rivals = opponents(self.loss, arguments, outs, self.threads)
        ours: Call = partial(self.loss.value_and_grad, **arguments)
        if self.small:
            limit: Callable[[], Any] = partial(np.subtract, arrays[0], arrays[0])
        else:
            if "num_threads" in self.loss.common:
                ours = partial(ours, num_threads=self.threads)
            if outs:
                ours = partial(ours, out=outs[0] if len(outs) == 1 else (None, outs))
            same = [a for a in arrays if a.shape == self.shape] or arguments["features"]
            out = outs[0] if outs else np.empty_like(same[0])
            copies = self.loss.kind == "rows" or len(same) == 1
            job = (np.copyto, out, same[0]) if copies else (np.subtract, *same[:2], out)
            limit = split(self.threads, *job)
        contenders = {"fastloss": ours, **rivals}
        check_equal(contenders, *outs, roundings=ROUNDINGS.get(self.loss.name, 100))
        return {**contenders, "limit": limit}


def cases(threads: int, dtype: str) -> Iterator[Case]:
    for loss in fl.losses().values():
        for shape, fixed in SHAPES.get(loss.kind, []):
            yield Case(loss, shape, fixed or threads, dtype)


def split(threads: int, function: Callable[..., Any], *arrays: Array) -> Callable[[], Any]:
    """Apply `function` to the arrays, in each thread to a slice of them."""
    if threads == 1:
        return partial(function, *arrays)
    slices = list(zip(*(np.array_split(a.reshape(-1), threads) for a in arrays), strict=True))
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda args: function(*args), slices))


def check_equal(calls: dict[str, Call], *outs: Array, roundings: float = 100) -> None:
    """Raise ValueError unless all agree with the first, to about so many roundings."""
    expected: list[Array] = []
    for who, call in calls.items():
        for out in outs:  # else a contender that writes nothing would pass with the last one's
            out.fill(np.nan)
        result = [np.asarray(each) for each in call()]
        expected = expected or [each.copy() for each in result]
        tolerance = roundings * np.finfo(expected[1].dtype).eps
        for what, got, want in zip(("loss", "gradient"), result, expected, strict=True):
            error, scale = abs(got - want), abs(want).max()
            if np.mean(~(error <= tolerance * scale)) > KINKS:
                raise ValueError(
                    f"{who}: the {what} is off by {error.max():.2g} on a scale of {scale:.2g}"
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
