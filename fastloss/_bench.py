"""`fastloss bench`: how fast this machine is, in a minute, beside its own memory.

With NumPy alone; `python -m benchmarks` in the sources compares every loss with other libraries.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

import fastloss as fl

SECONDS = 60.0  # for all cases


def cases(scale: float) -> Iterator[tuple[str, int, Callable[[], Any], Callable[[], Any]]]:
    """What is timed: its name, how many numbers, the call, and what memory alone would take."""
    rng, threads = np.random.default_rng(0), fl.get_num_threads()
    n = int(30e6 * scale)
    x, y, out = rng.standard_normal(n, np.float32), rng.random(n, np.float32), np.empty(n, "f")
    y = (y > 0.5).astype(np.float32)
    for loss in (
        fl.mse_loss,
        fl.huber_loss,
        fl.binary_cross_entropy_with_logits,
        fl.sigmoid_focal_loss,
    ):
        ours = partial(loss.value_and_grad, x, y, out=out)
        yield f"{loss.name} {n}", n, ours, _split(threads, np.subtract, x, y, out)
    del x, y, out
    for rows, classes in ((1024, 50257), (32768, 1000), (1000000, 10)):
        rows = int(rows * scale)
        z = 3 * rng.standard_normal((rows, classes), np.float32)
        labels, grad = rng.integers(classes, size=rows), np.empty_like(z)
        shape = f"{rows} x {classes}"
        ours = partial(fl.cross_entropy.value_and_grad, z, labels, out=grad)
        limit = _split(threads, np.copyto, grad, z)
        yield f"{fl.cross_entropy.name} {shape}", z.size, ours, limit
        yield f"score {shape}", z.size, partial(fl.score, z, labels), _split(threads, np.max, z)


def _split(threads: int, function: Callable[..., Any], *arrays: Any) -> Callable[[], Any]:
    """The function of a slice of the arrays in each thread."""
    slices = list(zip(*(np.array_split(a.reshape(-1), threads) for a in arrays), strict=True))
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda part: function(*part), slices))


def run(args: argparse.Namespace) -> int:
    """Time and print the cases, in turns with their limits."""
    fl.show_config()
    print(f"\n{'float32, loss + gradient':44}{'ms':>9}{'ns/number':>11}{'of memory':>11}")
    budget = args.seconds / 10
    for name, numbers, ours, limit in cases(args.scale):
        spent: list[tuple[float, float]] = []
        end = time.perf_counter() + budget
        while len(spent) < 3 or time.perf_counter() < end:
            turn = []
            for call in (ours, limit):
                start = time.perf_counter()
                call()
                turn.append(time.perf_counter() - start)
            spent.append((turn[0], turn[1]))
        median = statistics.median(mine for mine, _ in spent)
        ratio = statistics.median(mine / theirs for mine, theirs in spent)
        per_number = median / max(1, numbers) * 1e9
        print(f"{name:44}{median * 1e3:>9.3f}{per_number:>11.3f}{ratio:>10.2f}x", flush=True)
    print(
        "\nof memory: times what np.subtract takes; of rows a copy, of scores one reading (np.max)"
    )
    return 0


def positive(text: str) -> float:
    """A number of seconds, or a scale."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "--seconds", type=positive, default=SECONDS, help="for all of it (%(default)g)"
    )
    parser.add_argument("--scale", type=positive, default=1.0, help="of the arrays (%(default)g)")
