"""python -m benchmarks: every loss beside its rivals and the machine's limit, as one table.

python -m benchmarks                          about five minutes
python -m benchmarks --quick --only 'huber|cross_entropy 1024'
python -m benchmarks --threads 1 --dtype float64 --json times.json
"""

import argparse
import json
import os
import platform
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import fastloss as fl

from .contest import Case, cases, measure

COLUMNS = ("limit", "NumPy", "PyTorch", "scikit-learn")
HEAD = f"| loss + gradient | threads | fastloss | {' | '.join(COLUMNS)} | to reach |"
LEGEND = """
Medians (quartiles). `limit`: fastloss's time over the machine's own, a copy of the logits for rows,
`np.subtract` for the others; `np.subtract(x, x)` for the smallest. The rest: how many times longer
they take than fastloss, PyTorch forward and backward; **bold** where they are faster."""


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    parts = [cpu[1] if cpu else platform.processor() or platform.machine()]
    parts += [f"{os.cpu_count()} CPUs", f"Python {platform.python_version()}"]
    for package in ("fastloss", "numpy", "torch", "scikit-learn"):
        with suppress(PackageNotFoundError):
            parts.append(f"{package} {version(package)}")
    return ", ".join(parts)


def ratios(seconds: dict[str, list[float]]) -> dict[str, np.ndarray]:
    """Quartiles of the ratios within each round."""
    ours = np.array(seconds["fastloss"])
    return {
        who: np.quantile(ours / theirs if who == "limit" else theirs / ours, (0.25, 0.5, 0.75))
        for who, theirs in seconds.items()
        if who != "fastloss"
    }


def reached(case: Case, ratio: dict[str, np.ndarray]) -> dict[str, bool]:
    return {
        f"{who} {figure:g}": bool((ratio[who][1] <= figure) == (who == "limit"))
        for who, figure in case.figures.items()
        if who in ratio
    }


def duration(seconds: list[float]) -> str:
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)) * 1e6
    unit, by = ("µs", 1) if median < 1000 else ("ms", 1e3)
    return f"{median / by:.3g} {unit} ({low / by:.3g}-{high / by:.3g})"


def cell(who: str, ratio: dict[str, np.ndarray]) -> str:
    if who not in ratio:
        return "-"
    low, median, high = (f"{q:.2f}" if q < 10 else f"{q:.0f}" for q in ratio[who])
    slower = who != "limit" and ratio[who][1] < 1
    return f"{f'**{median}**' if slower else median} ({low}-{high})"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--only", metavar="REGEX", default="", help="cases whose name matches")
    parser.add_argument("--threads", type=int, default=fl.get_num_threads(), help="(%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--seconds", type=float, default=10, help="per case (%(default)s)")
    parser.add_argument("--quick", action="store_const", dest="seconds", const=1, help="one second")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all times, in seconds")
    args = parser.parse_args(argv)

    head = {"machine": machine(), "isa": fl.kernels.isa, "dtype": args.dtype}
    print(*head.values(), f"{args.threads} threads", sep=", ", end="\n\n")
    print(HEAD, re.sub(r"[^|]+", "---", HEAD), sep="\n")
    rows: list[dict[str, Any]] = []
    marks: list[bool] = []
    for case in cases(args.threads, args.dtype):
        if not re.search(args.only, case.name):
            continue
        seconds = measure(case.calls(), args.seconds)
        ratio = ratios(seconds)
        marks += (mark := reached(case, ratio)).values()
        cells = [case.name, str(case.threads), duration(seconds["fastloss"])]
        cells += [cell(who, ratio) for who in COLUMNS]
        cells += [", ".join(f"{goal}: {'yes' if ok else '**no**'}" for goal, ok in mark.items())]
        print(f"| {' | '.join(cells)} |", flush=True)
        rows.append({"case": case.name, "threads": case.threads, "seconds": seconds})
    print(LEGEND, f"{sum(marks)} of {len(marks)} figures reached.", sep="\n\n")
    if args.json:
        args.json.write_text(json.dumps({**head, "cases": rows}, indent=1))


if __name__ == "__main__":
    main()
