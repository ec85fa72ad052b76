"""The cases that accuracy is judged by, what is exact there, and the errors in ulp.

The cases are made and judged here; a subprocess per instruction set, which `FASTLOSS_ISA` forces,
only computes them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp, mpf

import fastloss as fl
import oracle
from fastloss._loss import REAL
from samples import label_lists, softness

WORKER = """
import pickle, sys
import numpy as np
import fastloss as fl

def compute(name, pred, target, knobs):
    loss = fl.losses()[name]
    if loss.kind != "pairs":
        return loss.value_grad_hess(pred, target, reduction="none", **knobs)
    value, grads = loss.value_and_grad(**pred, **target, reduction="none", **knobs)
    return value, np.stack(grads, axis=1)

while True:
    try:
        cases = pickle.load(sys.stdin.buffer)
    except EOFError:  # the tests are over
        break
    pickle.dump((fl.kernels.isa, [compute(*case) for case in cases]), sys.stdout.buffer)
    sys.stdout.flush()
"""
DTYPES = ("float32", "float64")
KINDS = ("elementwise", "rows", "pairs")
NAMES = [name for name, loss in fl.losses().items() if loss.kind in KINDS]
FIRST_OF = {loss._gate: loss for loss in reversed(fl.losses().values())}


class Case(NamedTuple):
    name: str
    pred: np.ndarray
    target: np.ndarray
    knobs: dict[str, Any]

    def arguments(self) -> tuple[Any, ...]:
        """What the worker gets: of pairs the inputs by their names."""
        loss = fl.losses()[self.name]
        if loss.kind != "pairs":
            return tuple(self)
        rest = [name for name in oracle.arguments(loss) if name not in loss.inputs]
        pred = dict(zip(loss.inputs, self.pred.T, strict=True))
        return self.name, pred, dict.fromkeys(rest, self.target), self.knobs


def point_cases(loss: fl.Loss, dtype: str, rng: np.random.Generator) -> list[Case]:
    tried = oracle.settings(loss, rng)
    n = max(40, 600 // len(tried))
    points = oracle.pairs if loss.kind == "pairs" else oracle.points
    return [Case(loss.name, *points(loss, dtype, k, rng, n), k) for k in tried]


def row_cases(loss: fl.Loss, dtype: str, rng: np.random.Generator) -> list[Case]:
    cases = []

    def add(classes: int, n: int, soft: bool, **knobs: Any) -> None:
        pred = oracle.rows(dtype, classes, rng, n, loss._gate.driver != "means")
        mask = knobs.get("class_mask", np.ones(classes, bool))
        labels = rng.choice(np.flatnonzero(mask), n)
        labels[::2] = np.where(mask, pred[::2], -np.inf).argmax(axis=1)
        of_logits = bool(knobs.get("from_logits"))
        target = oracle.soft_targets(pred, rng, from_logits=of_logits) * mask if soft else labels
        if loss.domain.lists:
            target = label_lists((n,), classes, rng)
        if loss.pred is not REAL:
            near = target if soft else labels[:, None] == np.arange(classes)
            pred = oracle.chances(dtype, near, rng)
        cases.append(Case(loss.name, pred, target, knobs))

    for classes in (1, 2, 3, 10, 33):
        for knobs in oracle.settings(loss, rng, classes):
            for soft in softness(loss):
                add(classes, 3, soft, **knobs)
    for classes in (*range(4, 34, 3), 63, 65, 100, 127, 128, 129, 130, 1025):  # slow for the oracle
        if True in softness(loss):
            add(classes, 1, soft=True)
        if "label_smoothing" in loss.knobs:
            add(classes, 1, soft=False, label_smoothing=0.1)
        if "from_logits" in loss.knobs:
            add(classes, 1, soft=True, from_logits=True)
    soft = False not in softness(loss)
    for classes in (*range(4, 34), 63, 65, 100, 127, 128, 129, 130, 1000, 1024, 1025):
        add(classes, 2 if classes < 1000 else 1, soft)
    if loss is FIRST_OF[loss._gate]:  # long rows are their driver's affair, and the oracle's burden
        for classes in (5000,) if soft else (5000, 70000):
            add(classes, 1, soft)
    return cases


@functools.cache
def cases(name: str, dtype: str) -> list[Case]:
    rng = np.random.default_rng(0)
    loss = fl.losses()[name]
    return (row_cases if loss.kind == "rows" else point_cases)(loss, dtype, rng)


@functools.cache
def worker(isa: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "FASTLOSS_ISA": isa},
    )
    atexit.register(process.communicate)
    return process


def computed(isa: str, name: str, dtype: str) -> list[Any]:
    """What one instruction set makes of a loss's cases."""
    process = worker(isa)
    assert process.stdin and process.stdout
    pickle.dump([case.arguments() for case in cases(name, dtype)], process.stdin)
    process.stdin.flush()
    ran, results = pickle.load(process.stdout)
    assert ran == isa
    return results


def seeds(pred: np.ndarray, target: Any, rng: np.random.Generator) -> list[int]:
    """The classes whose derivatives are checked: of a long row its extremes and a few others."""
    if pred.size <= 16:
        return list(range(pred.size))
    some = [0, pred.argmin(), pred.argmax(), pred.size - 1, *rng.integers(pred.size, size=3)]
    return sorted({int(k) for k in (*some, *([target] if np.ndim(target) == 0 else []))})


@functools.cache
def expected(name: str, dtype: str) -> list[list[tuple[list[int], oracle.Exact] | None]]:
    """Per case and sample: the checked inputs and what is exact there; None where it is unknown."""
    rng = np.random.default_rng(1)
    loss = fl.losses()[name]

    def one(case: Case, i: int) -> tuple[list[int], oracle.Exact] | None:
        checked = seeds(case.pred[i], case.target[i], rng)
        try:
            return checked, oracle.exact(loss, case.pred[i], case.target[i], case.knobs, checked)
        except oracle.OutOfPrecision:
            return None

    found = [[one(case, i) for i in range(len(case.pred))] for case in cases(name, dtype)]
    flat = [x for of_case in found for x in of_case]
    assert sum(x is not None for x in flat) > 0.6 * len(flat), "the oracle knows too few points"
    return found


def rounding(case: Case, i: int) -> tuple[float, np.ndarray]:
    """What a row's bounds for the loss and for each class gain by the rounding of z - max, in eps.

    It is the distance to the largest of the other logits: p_k owes it for z_k - max, and the
    leader's 1 - p_k for the runner-up's. A label's loss owes it only where it is the leader. A cap
    is as large as the numbers that are rounded, which are divided by the temperature then.
    """
    if fl.losses()[case.name]._gate.driver != "rows":  # no softmax
        return 0.0, np.zeros(case.pred.shape[1])
    y, temperature = case.target[i], case.knobs.get("temperature", 1.0)
    cap = case.knobs.get("softcap")
    of_cap, kept = 2 * (cap or 0.0) / temperature, case.knobs.get("class_mask", True)
    apart = np.full(case.pred.shape[1], of_cap)
    for row in (case.pred[i], *([y] if case.knobs.get("from_logits") else [])):
        z = row.astype(float) if cap is None else cap * np.tanh(row.astype(float) / cap)
        z = np.where(kept, z / temperature, -np.inf)
        leader = z.argmax()
        away = z.max() - z
        if z.size > 1:
            away[leader] -= np.delete(z, leader).max() - z[leader]
        apart += np.where(np.isfinite(away), away, 0)
    leader = np.where(kept, case.pred[i], -np.inf).argmax()
    if np.ndim(y) or case.knobs.get("label_smoothing"):
        return apart.max(), apart
    return apart[y] if y == leader else of_cap, apart


def hessian_beside(case: Case, i: int) -> list[mpf]:
    """The Hessians two last digits away, where known: at a jump either side's is right."""
    loss, pred, target = fl.losses()[case.name], case.pred[i], case.target[i]
    near = [(pred + d * np.spacing(pred), target) for d in (-2, 2)]
    near += [(pred, target + d * np.spacing(target)) for d in (-2, 2)]
    found = []
    for z, t in near:
        with contextlib.suppress(oracle.OutOfPrecision):
            if loss.domain.contains(t):
                found.append(oracle.exact(loss, z, t, case.knobs).hess[0])
    return found


class Judged(NamedTuple):
    what: str
    error: float
    bound: float
    at: str

    @property
    def excess(self) -> float:
        return self.error / self.bound


def judged(isa: str, name: str, dtype: str) -> Iterator[Judged]:
    """The error in ulp of every loss, gradient and Hessian, and what it may be."""
    return judge(name, dtype, computed(isa, name, dtype))


def judge(name: str, dtype: str, results: Iterable[Any]) -> Iterator[Judged]:
    """The same of each case's results: losses, gradients, maybe Hessians; or None."""
    loss = fl.losses()[name]
    wide = loss.kind == "rows"
    for case, result, wanted in zip(
        cases(name, dtype), results, expected(name, dtype), strict=True
    ):
        if result is None:
            continue
        bounds = loss.bounds(**case.knobs)
        for i, want in enumerate(wanted):
            if want is None:
                continue
            checked, exact = want
            value, grad, *hess = (r[i] for r in result)
            spread, apart = rounding(case, i) if wide else (0.0, [0.0, 0.0])
            numbers = [("loss", 0, value, exact.loss, exact.loss_scale, bounds[0] + spread)]
            for j, k in enumerate(checked):
                g, *h = (x[k] if np.ndim(x) else x for x in (grad, *hess))
                numbers += [
                    ("grad", k, g, exact.grad[j], exact.grad_scale[j], bounds[1] + apart[k]),
                    *(
                        ("hess", k, x, exact.hess[j], exact.hess_scale[j], bounds[2] + apart[k])
                        for x in h
                    ),
                ]
            for what, k, got, right, scale, bound in numbers:
                error = oracle.ulps(got, right, scale, relative=wide)
                if error > bound and what == "hess" and not wide:
                    beside = (oracle.ulps(got, h, scale) for h in hessian_beside(case, i))
                    error = min(beside, default=error)
                at = "" if error <= bound else f"{case.pred[i]!r:.200}, {case.target[i]!r:.200}"
                yield Judged(
                    what,
                    error,
                    bound,
                    at
                    and f"{what}[{k}] {got!r}, exactly {mp.nstr(right, 20)}: {error:.4g} ulp > "
                    f"{bound:.4g} at {at}, {case.knobs!r:.200}",
                )
