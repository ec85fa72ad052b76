"""Every loss beside its rivals and the machine's limit, as one table.

Without options it takes more than an hour.

python -m benchmarks --quick --only '^huber|cross_entropy 1024'
python -m benchmarks --threads 1 --dtype float64 --rivals 'NumPy|JAX' --json times.json
python -m benchmarks compare --help    another revision in turns with this one
python -m benchmarks plot --help       pictures: roofline, cost over classes, cost over size
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

from .contest import Case, cases, measure, on_cpus

LEGEND = """
Medians (quartiles). `limit`: fastloss's time over the machine's own, a copy of the logits for rows,
`np.subtract` for the others; `np.subtract(x, x)` for the smallest; in place `np.multiply` by a
number; of a boosting round one whose gradients are there already. The rest: how many times longer
they take than fastloss, PyTorch forward and backward; **bold** where they are faster."""


def options(
    prog: str, doc: str | None, of: str, each: str, seconds: float
) -> argparse.ArgumentParser:
    """The options that all commands share."""
    about, _, examples = (doc or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog,
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="REGEX", default="", help=f"the {of}s whose name matches")
    parser.add_argument("--threads", type=int, default=fl.get_num_threads(), help="(%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"for each {each} (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_const", dest="seconds", const=seconds / 10, help="a tenth of them"
    )
    return parser


def machine(*packages: str) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    parts = [cpu[1] if cpu else platform.processor() or platform.machine()]
    parts += [f"{os.cpu_count()} CPUs", f"Python {platform.python_version()}"]
    for package in ("fastloss", "numpy", *packages):
        with suppress(PackageNotFoundError):
            parts.append(f"{package} {version(package)}")
    return ", ".join(parts)


def quartiles(x: Any) -> Any:
    return np.quantile(x, (0.25, 0.5, 0.75))


def ratios(seconds: dict[str, list[float]]) -> dict[str, np.ndarray]:
    """Quartiles of the ratios within each round."""
    ours = np.array(seconds["fastloss"])
    return {
        who: quartiles(ours / theirs if who == "limit" else theirs / ours)
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
    low, median, high = quartiles(seconds) * 1e6
    unit, by = ("µs", 1) if median < 1000 else ("ms", 1e3)
    return f"{median / by:.3g} {unit} ({low / by:.3g}-{high / by:.3g})"


def cell(who: str, ratio: dict[str, np.ndarray]) -> str:
    if who not in ratio:
        return "-"
    low, median, high = (f"{q:.2f}" if q < 10 else f"{q:.0f}" for q in ratio[who])
    slower = who != "limit" and ratio[who][1] < 1
    return f"{f'**{median}**' if slower else median} ({low}-{high})"


def heading(columns: list[str]) -> str:
    line = f"| {' | '.join(columns)} |"
    return f"{line}\n{re.sub(r'[^|]+', '---', line)}"


def main(argv: list[str]) -> int:
    parser = options("python -m benchmarks", __doc__, "case", "case", 10)
    parser.add_argument("--rivals", metavar="REGEX", default="", help="the columns that match")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all times, in seconds")
    args = parser.parse_args(argv)
    from .boosters import BOOSTERS, rounds
    from .rivals import RIVALS  # the packages of the others are imported here, not for --help

    others = (*RIVALS, "out of place", "contiguous", "strided", *BOOSTERS)
    columns = [who for who in others if re.search(args.rivals, who)]
    head: dict[str, Any] = {
        "machine": machine(
            *("torch", "scikit-learn", "jax", "numba", "numexpr"),
            *("xgboost", "xgboost-cpu", "lightgbm"),
        ),
        "isa": fl.kernels.isa,
        "dtype": args.dtype,
        "threads": args.threads,
    }
    print(*list(head.values())[:-1], f"{args.threads} threads", sep=", ", end="\n\n")
    columns.insert(0, "limit")
    print(heading(["loss + gradient", "threads", "fastloss", *columns, "to reach"]))
    rows: list[dict[str, Any]] = []
    marks: list[bool] = []
    for case in (*cases(args.threads, args.dtype), *rounds(args.dtype)):
        if not re.search(args.only, case.name):
            continue
        with on_cpus(case.threads):
            calls = case.calls(args.rivals)
            seconds = measure(calls, args.seconds) if calls else {}
            del calls  # the arrays, before the next case makes its own
        if not seconds:  # a boosting round whose booster is not here
            continue
        ratio = ratios(seconds)
        marks += (mark := reached(case, ratio)).values()
        cells = [case.name, str(case.threads), duration(seconds["fastloss"])]
        cells += [cell(who, ratio) for who in columns]
        cells += [", ".join(f"{goal}: {'yes' if ok else '**no**'}" for goal, ok in mark.items())]
        print(f"| {' | '.join(cells)} |", flush=True)
        rows.append(
            {
                "case": case.name,
                "threads": case.threads,
                "quartiles": {who: list(quartiles(times)) for who, times in seconds.items()},
                "ratios": {who: list(quarters) for who, quarters in ratio.items()},
                "figures": mark,
                "seconds": seconds,
            }
        )
    print(LEGEND, f"{sum(marks)} of {len(marks)} figures reached.", sep="\n\n")
    if args.json:
        args.json.write_text(json.dumps({**head, "cases": rows}, indent=1))
    return 0
