"""The worst error of every loss in ulp, beside the other libraries' at the same points.

The exact numbers are mpmath's; the points, from subnormal to the largest, are those of the tests.

python -m benchmarks accuracy huber_loss cross_entropy
python -m benchmarks accuracy --write    all of them, into README.md and docs/accuracy.md
"""

import argparse
import re
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

import fastloss as fl

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import judge
import oracle
from samples import softness

from .table import heading, machine

ROOT = Path(__file__).parents[1]
WHATS = ("loss", "grad", "hess")
excess = attrgetter("excess")
SHOWN = (  # in the README
    "binary_cross_entropy_with_logits",
    "sigmoid_focal_loss",
    "cross_entropy",
    "mse_loss",
    "huber_loss",
)
LEGEND = """
The error in ulp that is nearest to what is declared, of {isas} where they differ
(in brackets, 9999 of 10,000 are nearer to 0). Of the others the worst at the same points, where
they have the settings, of loss / gradient / Hessian: **bold** where fastloss's is larger there.
scikit-learn computes float32 in double. `inf`: no number, or one where 0 is right (another
subgradient). A row's bounds grow with the distance of its logits."""


def by_torch(case: judge.Case) -> Any:
    from .rivals import torch

    loss = fl.losses()[case.name]
    knobs = loss.torch.named(case.knobs) if torch and loss.torch else None
    if knobs is None:
        return None
    arrays = [name for name, knob in loss.knobs.items() if knob.check is None]
    pairs = loss.kind == "pairs"
    leaves = [torch.tensor(x, requires_grad=True) for x in (case.pred.T if pairs else [case.pred])]
    inputs = dict(zip(loss.inputs, leaves, strict=True))
    positional = [inputs.get(name, torch.tensor(case.target)) for name in oracle.arguments(loss)]
    given = {
        k: torch.tensor(v, dtype=leaves[0].dtype) if k in arrays or np.ndim(v) else v
        for k, v in knobs.items()
    }
    function = getattr(torch.nn.functional, loss.torch.name)
    value = function(*positional, reduction="none", **given)
    value.sum().backward()
    grads = [leaf.grad.numpy() for leaf in leaves]
    grad = np.stack(grads, axis=1) if pairs else grads[0]
    return value.detach().numpy() / loss.torch.factor, grad / loss.torch.factor


def by_jax(case: judge.Case) -> Any:
    from .compiled import OPTAX, jax, optax

    theirs, loss = OPTAX.get(case.name), fl.losses()[case.name]
    soft = case.target.ndim > 1 and False in softness(loss)  # where it takes labels
    if not (jax and theirs) or case.knobs or loss.kind == "pairs" or soft:
        return None
    function: Any = theirs
    if isinstance(theirs, tuple):
        name, options = theirs
        function = partial(getattr(optax.losses, name), **options)
    value, pull = jax.vjp(lambda z: function(z, case.target), case.pred)
    (grad,) = pull(jax.numpy.ones_like(value))
    return np.asarray(value), np.asarray(grad)


def by_sklearn(case: judge.Case) -> Any:
    from .rivals import sk

    loss = fl.losses()[case.name]
    knobs = loss.sklearn.named(case.knobs) if sk and loss.sklearn else None
    if knobs is None or np.ndim(case.target) > 1:
        return None
    scalars = {name: knob.default for name, knob in loss.knobs.items() if knob.scalar}
    defaults = {loss.sklearn.knobs.get(name, name): x for name, x in scalars.items()}
    named = {name: x for name, x in (defaults | knobs).items() if name}
    if case.pred.ndim > 1:
        if case.pred.shape[1] < 3:
            return None  # of two classes it has another loss
        named["n_classes"] = case.pred.shape[1]
    theirs = getattr(sk, loss.sklearn.name)(**named)
    y = case.target.astype(case.pred.dtype)
    factor = loss.sklearn.factor
    value, grad = (x / factor for x in theirs.loss_gradient(y, case.pred))
    if theirs.approx_hessian:
        return value, grad
    return value, grad, theirs.gradient_hessian(y, case.pred)[1] / factor


# The modules come late: JAX objects to every later fork.
RIVALS = {"PyTorch": by_torch, "JAX": by_jax, "scikit-learn": by_sklearn}


def errors(numbers: Iterator[judge.Judged]) -> dict[str, list[judge.Judged]]:
    found: dict[str, list[judge.Judged]] = {what: [] for what in WHATS}
    for number in numbers:
        found[number.what].append(number)
    return {what: of for what, of in found.items() if of}


def digits(x: float) -> str:
    return f"{x:.1f}" if x < 100 else f"{x:.0f}" if x < 1e4 else f"{x:.0e}"


def line(name: str, dtype: str) -> str:
    """A row of the table."""
    cells = [f"`{name}`", dtype]
    per_isa = [errors(judge.judged(isa, name, dtype)) for isa in fl.kernels.available]
    for what in WHATS:
        of = [number for each in per_isa for number in each.get(what, [])]
        if not of:  # a loss of two inputs has no Hessian
            cells.append("none")
            continue
        of.sort(key=excess)
        worst, usual = of[-1], of[int(0.9999 * (len(of) - 1))]
        per = [digits(max(each[what], key=excess).error) for each in per_isa]
        shown = per[0] if len(set(per)) == 1 else " / ".join(per)
        cells.append(f"{shown} ({digits(usual.error)}) of {worst.bound:.3g}")
    for rival in RIVALS.values():
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = [rival(case) for case in judge.cases(name, dtype)]
        if all(result is None for result in results):
            cells.append("-")
            continue
        ours = [
            None if theirs is None else mine[: len(theirs)]
            for mine, theirs in zip(
                judge.computed(fl.kernels.isa, name, dtype),
                results,
                strict=True,
            )
        ]
        mine, theirs = (errors(judge.judge(name, dtype, each)) for each in (ours, results))
        parts = []
        for what, of in theirs.items():
            worst = max(number.error for number in of)
            better = worst < max(number.error for number in mine[what])
            parts.append(f"**{digits(worst)}**" if better else digits(worst))
        cells.append(" / ".join(parts))
    return f"| {' | '.join(cells)} |"


def table(rows: list[str]) -> str:
    return "\n".join([heading(["loss", "dtype", "loss", "gradient", "Hessian", *RIVALS]), *rows])


def main(argv: list[str]) -> int:
    about, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "python -m benchmarks accuracy",
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="LOSS", help="(all)")
    parser.add_argument("--write", action="store_true", help="into README.md and docs/accuracy.md")
    args = parser.parse_args(argv)
    names = args.names or judge.NAMES
    if unknown := set(names) - set(judge.NAMES):
        parser.error(f"no such loss here: {', '.join(sorted(unknown))}")
    if args.write and args.names:
        parser.error("--write takes no names: the table is of all")
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = list(pool.map(line, *zip(*product(names, judge.DTYPES), strict=True)))
    legend = LEGEND.format(isas=" / ".join(fl.kernels.available))
    text = f"{machine('torch', 'scikit-learn', 'jax', 'optax')}\n\n{table(found)}\n{legend}\n"
    print(text)
    if args.write:
        (ROOT / "docs" / "accuracy.md").write_text(
            f"# Accuracy\n\nMade by `python -m benchmarks accuracy --write`.\n\n{text}"
        )
        readme = ROOT / "README.md"
        few = table([row for row in found if row.split()[1].strip("`") in SHOWN])
        marks = r"(<!-- accuracy: begin -->\n).*(\n<!-- accuracy: end -->)"
        readme.write_text(
            re.sub(marks, lambda m: m[1] + few + m[2], readme.read_text(), flags=re.DOTALL)
        )
    return 0
