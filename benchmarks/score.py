"""What fields of fl.score cost beside one reading of the logits, `np.max` by as many threads.

python -m benchmarks score --quick --only 50257
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastloss as fl
from fastloss.scoring import FIELDS

from .contest import measure, on_cpus, split
from .table import cell, duration, heading, machine, options, ratios

SHAPES = ((1024, 50257), (32768, 1000), (1000000, 10))
# What is asked for, and at most how many times the reading's time it should take on two cores.
ASKED: dict[str, tuple[dict[str, Any], float | None]] = {
    "logprob, lse, argmax": ({}, 1.3),
    "argmax": ({"fields": ("argmax",)}, None),
    "rank": ({"fields": ("rank",)}, None),
    "entropy": ({"fields": ("entropy",)}, None),
    "topk of 10": ({"fields": (), "topk": 10}, None),
    "all": ({"fields": FIELDS, "topk": 10}, None),
}


def main(argv: list[str]) -> int:
    args = options("python -m benchmarks score", __doc__, "case", "case", 10).parse_args(argv)
    print(machine(), fl.kernels.isa, args.dtype, f"{args.threads} threads", sep=", ", end="\n\n")
    print(heading(["fl.score", "time", "readings", "to reach"]))
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        z, y = 3 * rng.standard_normal(shape, args.dtype), rng.integers(shape[1], size=shape[0])
        for asked, (options_of, goal) in ASKED.items():
            name = f"{asked} {' x '.join(map(str, shape))}"
            if not re.search(args.only, name):
                continue
            ours = partial(fl.score, z, y, num_threads=args.threads, **options_of)
            calls: dict[str, Callable[[], Any]] = {
                "fastloss": ours,
                "limit": split(args.threads, np.max, z),
            }
            with on_cpus(args.threads):
                seconds = measure(calls, args.seconds)
            found = ratios(seconds)
            reached = found["limit"][1] <= goal if goal and shape == SHAPES[0] else None
            mark = "" if reached is None else f"{goal:g}: {'yes' if reached else '**no**'}"
            cells = [name, duration(seconds["fastloss"]), cell("limit", found), mark]
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0
