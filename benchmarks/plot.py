"""Pictures: the roofline, the cost over the number of classes, the cost over the size.

python -m benchmarks plot --quick --output /tmp
python -m benchmarks plot --only classes --threads 1

roofline.svg  of every loss of numbers and of rows how fast it goes through memory, and the limit
classes.svg   cross_entropy on rows of 2 to 262144 classes, about 4 million logits in all
size.svg      three losses on 1 to 100 million elements
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastloss as fl

from .contest import SHAPES, Case, measure, on_cpus
from .table import machine, options

LOGITS = 1 << 22
CLASSES = 1 << 18
ELEMENTS = 10**8
LOSSES = ("mse_loss", "binary_cross_entropy_with_logits", "sigmoid_focal_loss")


def timed(case: Case, budget: float) -> dict[str, float]:
    """The median seconds of fastloss and of the limit."""
    with on_cpus(case.threads):
        return {who: float(np.median(s)) for who, s in measure(case.calls(), budget).items()}


def roofline(axes: Any, threads: int, dtype: str, budget: float) -> str:
    """Draw a bar for each loss of numbers and of rows, and on it a mark, the limit beside it."""
    firsts = {kind: SHAPES[kind][0][0] for kind in ("elementwise", "rows")}
    found = []
    for kind, shape in firsts.items():
        for loss in (loss for loss in fl.losses().values() if loss.kind == kind):
            case = Case(loss, shape, threads, dtype)
            times = timed(case, budget)
            gigabytes = math.prod(shape) * np.dtype(dtype).itemsize / 1e9
            labels = kind == "rows" and (loss.domain.labels or loss.domain.lists)
            arrays = {"fastloss": 2 if labels else 3, "limit": 2 if kind == "rows" else 3}
            speed = {who: n * gigabytes / times[who] for who, n in arrays.items()}
            found.append((speed["fastloss"], speed["limit"], case))
    found.sort(key=lambda each: each[0])
    for kind, shape in firsts.items():
        here = [(y, *each[:2]) for y, each in enumerate(found) if each[2].loss.kind == kind]
        y, speeds, limits = zip(*here, strict=True)
        axes.barh(y, speeds, label=f"{kind}: {' x '.join(map(str, shape))}")
        axes.plot(limits, y, "k|", markersize=9)
    axes.plot([], [], "k|", markersize=9, label="np.subtract, beside rows a copy")
    axes.set_yticks(range(len(found)), [case.loss.name for *_, case in found], fontsize=7)
    axes.set_ylim(-1, len(found))
    axes.set_xlabel("GB/s from and to memory")
    return "The roofline: how near the losses come to the speed of memory"


def lengths() -> Iterator[int]:
    """2 to 9 classes; then each power of two, its neighbours, and the middle between two."""
    yield from range(2, 10)
    for power in range(4, CLASSES.bit_length()):
        yield from (2**power - 1, 2**power, 2**power + 1, 3 * 2**power // 2)


def classes(axes: Any, threads: int, dtype: str, budget: float) -> str:
    ks = [k for k in lengths() if k <= CLASSES]
    for colour, n in enumerate(dict.fromkeys((1, threads))):
        seconds, limits = [], []
        for k in ks:
            case = Case(fl.cross_entropy, (max(1, LOGITS // k), k), n, dtype)
            times = timed(case, budget)
            of_logit = 1e9 / math.prod(case.shape)
            seconds.append(times["fastloss"] * of_logit)
            limits.append(times["limit"] * of_logit)
        label = f"{n} thread{'s' if n > 1 else ''}"
        axes.plot(ks, seconds, ".-", color=f"C{colour}", label=f"cross_entropy, {label}")
        axes.plot(ks, limits, ":", color=f"C{colour}", label=f"a copy of the logits, {label}")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("classes")
    axes.set_ylabel("ns per logit")
    axes.set_ylim(bottom=0)
    return "Loss + gradient over the number of classes"


def size(axes: Any, threads: int, dtype: str, budget: float) -> str:
    steps = [round(10 ** (i / 3)) for i in range(3 * 7 + 1)] + [3 * 10**7, 10**8]
    ns = [n for n in steps if n <= ELEMENTS]
    for name in LOSSES:
        found = [timed(Case(fl.losses()[name], (n,), threads, dtype), budget) for n in ns]
        costs = [times["fastloss"] * 1e9 / n for n, times in zip(ns, found, strict=True)]
        axes.plot(ns, costs, ".-", label=name)
        if name == LOSSES[0]:
            limit = [times["limit"] * 1e9 / n for n, times in zip(ns, found, strict=True)]
            axes.plot(ns, limit, "k:", label="np.subtract")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("elements (up to 1000 into new arrays, beyond into `out`)")
    axes.set_ylabel("ns per element")
    return "Loss + gradient over the size"


PICTURES = {"roofline": roofline, "classes": classes, "size": size}


def main(argv: list[str]) -> int:
    parser = options("python -m benchmarks plot", __doc__, "picture", "point", 0.5)
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, default=Path("docs/pictures"), help="(%(default)s)"
    )
    args = parser.parse_args(argv)
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        parser.error(f"it needs matplotlib: {error}")
    args.output.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        if not re.search(args.only, name):
            continue
        figure = Figure((8, 9 if draw is roofline else 4.5), layout="constrained")
        axes = figure.subplots()
        title = draw(axes, args.threads, args.dtype, args.seconds)
        where = f"{machine()}, {fl.kernels.isa}, {args.dtype}, {args.threads} threads"
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.legend(fontsize=8)
        figure.supxlabel(where, fontsize=6)
        path = args.output / f"{name}.svg"
        with rc_context({"svg.hashsalt": name}):  # the same numbers give the same file
            FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})
        print(path)
    return 0
