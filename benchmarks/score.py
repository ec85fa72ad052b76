"""What fields of fl.score cost beside one reading of the logits, `np.max` by as many threads.

python -m benchmarks score --quick --only 50257
python -m benchmarks score --file 8 --folder .    `fastloss score` of 8 GB beside `cat`
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
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
CLASSES = 131072  # of the file
TURNS = 5


def in_memory(args: argparse.Namespace) -> None:
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


def of_file(gigabytes: float, folder: Path | None) -> None:
    """Time the command on float16 logits of a file, in turns with `cat`, and its memory."""
    rows = max(64, int(gigabytes * 1e9) // (2 * CLASSES))
    rng = np.random.default_rng(0)
    some = (3 * rng.standard_normal((64, CLASSES), np.float32)).astype(np.float16)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        logits, labels = Path(work, "logits.npy"), Path(work, "labels.npy")
        np.save(labels, rng.integers(CLASSES, size=rows))
        with logits.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": (rows, CLASSES)}
            np.lib.format.write_array_header_1_0(file, header)
            for i in range(0, rows, 64):
                file.write(np.roll(some, i, 1)[: rows - i].tobytes())
        command = [sys.executable, "-m", "fastloss", "score", logits, labels]
        commands = {
            "cat": ["cat", logits],
            "fastloss score": [*command, "-o", Path(work, "out.npy")],
            "its start": [sys.executable, "-m", "fastloss", "info"],
        }
        seconds: dict[str, list[float]] = {who: [] for who in commands}
        memory = 0
        for _ in range(TURNS):
            for who, call in commands.items():
                start = time.perf_counter()
                with subprocess.Popen(call, stdout=subprocess.DEVNULL) as process:
                    _, status, usage = os.wait4(process.pid, 0)
                    process.returncode = os.waitstatus_to_exitcode(status)
                seconds[who].append(time.perf_counter() - start)
                if process.returncode:
                    raise SystemExit(f"{who}: exit status {process.returncode}")
                memory = max(memory, usage.ru_maxrss) if who == "fastloss score" else memory
        size = logits.stat().st_size / 1e9
    for who, times in seconds.items():
        speed = "" if who == "its start" else f", {size / np.median(times):.2f} GB/s"
        print(f"{who}: {duration(times)}{speed}")
    cat, ours = np.array(seconds["cat"]), np.array(seconds["fastloss score"])
    print(
        f"{size:.2f} GB: {np.median(cat / ours):.0%} of the speed of cat; peak {memory // 1024} MB"
    )


def main(argv: list[str]) -> int:
    parser = options("python -m benchmarks score", __doc__, "case", "case", 10)
    parser.add_argument("--file", type=float, metavar="GB", help="time the command instead")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for the file")
    args = parser.parse_args(argv)
    print(machine(), fl.kernels.isa, args.dtype, f"{args.threads} threads", sep=", ", end="\n\n")
    if args.file:
        of_file(args.file, args.folder)
    else:
        in_memory(args)
    return 0
