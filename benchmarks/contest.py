"""The cases, the figures to reach, and the way of timing.

All contenders of a case take turns in one run (A B C A B C ...), after their results were checked
equal, and are compared turn by turn: memory speed on shared machines comes in moods that last
seconds, which ratios within one round cancel. The limit is what the memory gives when nothing is
computed: a copy of the logits for rows, `np.subtract(out=)` for elementwise losses, cut into one
slice per thread. While a case is timed the process is held on as many CPUs as the case has threads
(on Linux): JAX has no other way to be told.
"""

import inspect
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from timeit import Timer
from typing import Any

import numpy as np

import fastloss as fl

Array = np.ndarray[Any, Any]
Call = Callable[[], tuple[Any, Any]]  # () -> mean loss, gradient

LARGE = (30_000_000,)
# (shape, threads); None: as many as asked for
SHAPES: dict[str, list[tuple[tuple[int, ...], int | None]]] = {
    "elementwise": [(LARGE, None), (LARGE, 1), ((1_000_000,), 1), ((320,), 1)],
    "pairs": [(LARGE, None), ((1_000_000,), 1)],
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
HESSIAN, IN_PLACE, BFLOAT16 = "grad + Hessian", "in place", "bfloat16"
MIDDLE = "axis=1"  # the classes in the middle, as of images
WEIGHTED = "weighted"
# (loss, shape, threads, what): what issues name beyond the shapes of a kind.
EXTRA: list[tuple[str, tuple[int, ...], int | None, str]] = [
    ("cross_entropy", (1024, 50257), None, IN_PLACE),
    ("cross_entropy", (1024, 50257), None, BFLOAT16),
    ("cross_entropy", (32768, 1000), None, MIDDLE),
    ("cross_entropy", (327680, 100), None, MIDDLE),
    ("cross_entropy", (1572864, 21), None, MIDDLE),
    ("cross_entropy", (1_000_000, 10), 1, ""),
    ("cross_entropy", (1048576, 4), 1, ""),
    ("cross_entropy", (32, 10), 1, WEIGHTED),
    ("huber_loss", (1,), 1, ""),
    ("huber_loss", (320,), 1, WEIGHTED),
    ("binary_cross_entropy_with_logits", LARGE, None, HESSIAN),
    ("sigmoid_focal_loss", LARGE, None, HESSIAN),
]
SMALL = 1000  # up to here no `out` is given: what counts is the cost of a call
SERIAL = 100_000  # up to here the limit is that of one thread: to wake another takes longer

# What fastloss sets out to reach on two cores with AVX-512, by the case's name and its threads: at
# most that many times the limit's time, at least that many times faster than an opponent.
FLOAT32: dict[tuple[str, int], dict[str, float]] = {
    ("cross_entropy 1024 x 50257", 2): {"limit": 1.2, "PyTorch": 12},
    ("cross_entropy 1024 x 50257 in place", 2): {"limit": 1.5, "out of place": 1.15},
    ("cross_entropy 1024 x 50257 bfloat16", 2): {"limit": 2},
    ("cross_entropy 32768 x 1000", 2): {"limit": 1.1},
    ("cross_entropy 32768 x 1000 axis=1", 2): {"contiguous": 0.67},
    ("cross_entropy 327680 x 100 axis=1", 2): {"contiguous": 0.67},
    ("cross_entropy 1572864 x 21 axis=1", 2): {"contiguous": 0.67},
    ("cross_entropy 8192 x 1000", 2): {"PyTorch": 4},
    ("cross_entropy 1048576 x 4", 1): {"PyTorch": 12},
    ("cross_entropy 65536 x 10", 1): {"PyTorch": 20, "NumPy": 6},
    ("cross_entropy 32 x 10", 1): {"limit": 4, "PyTorch": 12},
    ("mse_loss 30000000", 2): {"limit": 0.9},
    ("huber_loss 30000000", 2): {"limit": 0.9, "PyTorch": 8},
    ("huber_loss 320", 1): {"limit": 2.5, "PyTorch": 12},
    ("huber_loss 1", 1): {"limit": 2.5},
    ("binary_cross_entropy_with_logits 30000000", 2): {"limit": 1.8, "PyTorch": 12},
    ("binary_cross_entropy_with_logits 30000000 grad + Hessian", 2): {"limit": 1.6},
    ("sigmoid_focal_loss 30000000 grad + Hessian", 2): {"limit": 3},
}
FLOAT64: dict[tuple[str, int], dict[str, float]] = {
    ("cross_entropy 1024 x 50257", 2): {"limit": 1.2},
    ("cross_entropy 32768 x 1000", 2): {"limit": 1.3},
    ("cross_entropy 32768 x 1000 axis=1", 2): {"contiguous": 0.67},
    ("cross_entropy 327680 x 100 axis=1", 2): {"contiguous": 0.67},
    ("cross_entropy 1572864 x 21 axis=1", 2): {"contiguous": 0.67},
    ("cross_entropy 1048576 x 4", 1): {"PyTorch": 8},
    ("cross_entropy 65536 x 10", 1): {"PyTorch": 12},
    ("cross_entropy 1000000 x 10", 1): {"scikit-learn": 6},
    ("mse_loss 30000000", 2): {"limit": 0.9},
    ("huber_loss 30000000", 2): {"limit": 0.9},
    ("huber_loss 1000000", 1): {"scikit-learn": 4},
    ("binary_cross_entropy_with_logits 30000000 grad + Hessian", 2): {"limit": 2.5},
    ("binary_cross_entropy_with_logits 1000000", 1): {"scikit-learn": 6},
    ("sigmoid_focal_loss 30000000 grad + Hessian", 2): {"limit": 5},
}
FIGURES = {"float32": FLOAT32, "float64": FLOAT64}

KINKS = 1e-6  # the share of gradients that may differ: at a kink any subgradient is right
TURN = 0.01  # seconds: short calls repeat for that long in a turn
REST = 0.02  # seconds before a turn: until the last contender's OpenMP threads stop spinning


@dataclass(frozen=True)
class Case:
    loss: fl.Loss
    shape: tuple[int, ...]
    threads: int
    dtype: str = "float32"
    what: str = ""  # not loss + gradient into `out`, but one of those above

    @property
    def name(self) -> str:
        return f"{self.loss.name} {' x '.join(map(str, self.shape))} {self.what}".rstrip()

    @property
    def small(self) -> bool:
        return math.prod(self.shape) <= SMALL

    @property
    def figures(self) -> dict[str, float]:
        """Those of the case's dtype and name, and those that a loss's formula decides."""
        hard = bool({"exp", "log", "sqrt"} & set(self.loss.naive.__code__.co_names))
        goals: dict[str, float] = {}
        if self.threads == 2:
            goals = {"JAX": 2, "numba": 1.5 if hard else 1}
        elementwise = self.loss.kind == "elementwise" and not self.what
        if elementwise and self.shape == LARGE and self.dtype == "float32":
            if self.threads == 1 and hard:
                goals["NumPy"] = 5
            elif self.threads == 2 and not hard:
                goals["limit"] = 1.25
        return goals | FIGURES.get(self.dtype, {}).get((self.name, self.threads), {})

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

    def calls(self, who: str | None = None) -> dict[str, Call]:
        """All contenders, their results found equal; of the rivals those that `who` matches."""
        loss, arguments = self.loss, self.data()
        arrays = [a for a in arguments.values() if isinstance(a, np.ndarray)]
        inputs = [arguments[name] for name in loss.inputs]
        outs = tuple(np.empty_like(a) for a in inputs if isinstance(a, np.ndarray))
        method, results = loss.value_and_grad, (None, outs[0] if len(outs) == 1 else outs)
        if self.what == HESSIAN:
            method, outs = loss.grad_and_hess, (*outs, np.empty_like(outs[0]))
            results = outs
        ours: Call = partial(method, **arguments)
        if self.small:
            ours = partial(method, *arguments.values())
            limit: Callable[[], Any] = partial(np.subtract, arrays[0], arrays[0])
        else:
            if "num_threads" in loss.common:
                ours = partial(ours, num_threads=self.threads)
            if outs:
                ours = partial(ours, out=results)
            same = [a for a in arrays if a.shape == self.shape] or arguments["features"]
            out = outs[0] if outs else np.empty_like(same[0])
            copies = loss.kind == "rows" or len(same) == 1
            job = (np.copyto, out, same[0]) if copies else (np.subtract, *same[:2], out)
            limit = split(self.threads if math.prod(self.shape) > SERIAL else 1, *job)
        if self.what == WEIGHTED:
            return {**weighted(method, **arguments), "limit": limit}
        if self.what == IN_PLACE:
            return in_place(ours, arguments, self.threads)
        if self.what == BFLOAT16:
            return in_bfloat16(method, arguments, self.threads)
        if self.what == MIDDLE:
            return in_the_middle(ours, outs[0], arguments, self.threads)
        contenders = {"fastloss": ours}
        # numba adds millions up in one float64, where each addition rounds.
        roundings = 20_000 if self.dtype == "float64" else 100
        if who is not None:
            from .rivals import RIVALS, ROUNDINGS  # which import the others' packages

            roundings = max(roundings, ROUNDINGS.get(loss.name, 0))
            for name, rival in RIVALS.items():
                if re.search(who, name) and (call := rival(self, arguments, outs)):
                    contenders[name] = call
        check_equal(contenders, *outs, roundings=roundings)
        return {**contenders, "limit": limit}


def in_place(ours: Call, arguments: dict[str, Any], threads: int) -> dict[str, Call]:
    """Write over the predictions, beside `ours` into an `out` and a multiplication in place.

    From the second call on these are gradients: small normal numbers, as fast as others.
    """
    work, other = arguments["pred"].copy(), arguments["pred"].copy()
    replace = partial(ours, **{**arguments, "pred": work}, out=work)
    check_equal({"out of place": ours, "fastloss": replace})
    one = other.dtype.type(1)
    limit = split(threads, lambda x: np.multiply(x, one, x), other)
    return {"fastloss": replace, "out of place": ours, "limit": limit}


def weighted(method: Call, pred: Array, target: Array) -> dict[str, Call]:
    """A weight per sample, beside the same of predictions that are apart in memory."""
    ours = partial(method, sample_weight=np.linspace(0.5, 1.5, len(target), dtype=pred.dtype))
    apart = np.repeat(pred, 2, -1)[..., ::2]
    calls = {"strided": partial(ours, apart, target), "fastloss": partial(ours, pred, target)}
    check_equal(calls)
    return calls


def in_bfloat16(method: Call, arguments: dict[str, Any], threads: int) -> dict[str, Call]:
    """Predictions and gradients in bfloat16, beside a copy of them."""
    from ml_dtypes import bfloat16

    pred = arguments["pred"].astype(bfloat16)
    out = np.empty_like(pred)
    ours = partial(method, **{**arguments, "pred": pred}, out=(None, out), num_threads=threads)
    exact = partial(method, **{**arguments, "pred": pred.astype(np.float32)}, num_threads=threads)
    check_equal({"float32": exact, "bfloat16": ours}, roundings=2**16)  # in one of its own
    limit = split(threads, np.copyto, *(x.view(np.uint16) for x in (np.empty_like(pred), pred)))
    return {"fastloss": ours, "limit": limit}


def in_the_middle(
    ours: Call, grad: Array, arguments: dict[str, Any], threads: int
) -> dict[str, Call]:
    """Classes in the middle of planes, beside `ours` of contiguous rows, with gradient `grad`."""
    pred, target = arguments["pred"], arguments["target"]
    plane = math.gcd(len(pred), 1024)
    apart = pred.reshape(-1, plane, pred.shape[1]).swapaxes(1, 2).copy()
    out = np.empty_like(apart)
    target = target.reshape(-1, plane)
    middle = partial(ours, pred=apart, target=target, axis=1, out=(None, out))
    rows = out.swapaxes(1, 2)
    check_equal(
        {"contiguous": ours, "fastloss": lambda: (middle()[0], rows.reshape(pred.shape))}, grad
    )
    return {"fastloss": middle, "contiguous": ours, "limit": split(threads, np.copyto, out, apart)}


@contextmanager
def on_cpus(n: int) -> Iterator[None]:
    """Hold the threads of this process on n of its CPUs, where the system can."""
    if not hasattr(os, "sched_setaffinity") or n >= len(allowed := os.sched_getaffinity(0)):
        yield
        return

    def hold(cpus: set[int]) -> None:
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # one that ended meanwhile
                os.sched_setaffinity(int(thread.name), cpus)

    hold(set(sorted(allowed)[:n]))
    try:
        yield
    finally:
        hold(allowed)


def cases(threads: int, dtype: str) -> Iterator[Case]:
    for loss in fl.losses().values():
        of_kind = [(shape, fixed, "") for shape, fixed in SHAPES.get(loss.kind, [])]
        of_loss = [extra[1:] for extra in EXTRA if extra[0] == loss.name]
        every = [
            Case(loss, shape, fixed or threads, dtype, what)
            for shape, fixed, what in of_kind + of_loss
            if what != BFLOAT16 or dtype == "float32"
        ]
        yield from dict.fromkeys(every)  # with one thread some are the same


def split(threads: int, function: Callable[..., Any], *arrays: Array) -> Callable[[], Any]:
    """Apply `function` to the arrays, in each thread to a slice of them."""
    if threads == 1:
        return partial(function, *arrays)
    slices = list(zip(*(np.array_split(a.reshape(-1), threads) for a in arrays), strict=True))
    cpus = iter(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else ())

    def settle() -> None:  # on a processor of its own: Linux may wake two on one, for 4 ms
        if (cpu := next(cpus, None)) is not None:
            os.sched_setaffinity(0, {cpu})

    pool = ThreadPoolExecutor(threads, initializer=settle)
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
            timer.timeit(1)  # else it pays for what another left in the cache, to be written yet
            seconds[who].append(timer.timeit(number[who]) / number[who])
    return seconds
