"""Every loss, gradient and Hessian within the bound it declares, on every instruction set.

The cases are made and judged here; a subprocess per instruction set, which `FASTLOSS_ISA` forces,
only computes them. Where the plain formula runs out of digits the limits are held by hand.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
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

results = [compute(*case) for case in pickle.load(sys.stdin.buffer)]
pickle.dump((fl.kernels.isa, results), sys.stdout.buffer)
"""
DTYPES = ("float32", "float64")
KINDS = ("elementwise", "rows", "pairs")
NAMES = [name for name, loss in fl.losses().items() if loss.kind in KINDS]
FIRST_OF = {loss._gate: loss for loss in reversed(fl.losses().values())}
GROUPS = 8  # of losses, tested by a process each if there are so many


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
    for classes in (*range(4, 34), 63, 65, 100, 127, 128, 129, 130, 1025):
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
def computed(isa: str, group: int) -> dict[tuple[str, str], Any]:
    """What one instruction set makes of all cases of a group of losses."""
    keys = [(name, dtype) for name in NAMES[group::GROUPS] for dtype in DTYPES]
    done = subprocess.run(
        [sys.executable, "-P", "-c", WORKER],
        input=pickle.dumps([case.arguments() for key in keys for case in cases(*key)]),
        env={**os.environ, "FASTLOSS_ISA": isa},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    ran, results = pickle.loads(done.stdout)
    assert ran == isa
    results = iter(results)
    return {key: [next(results) for _ in cases(*key)] for key in keys}


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
    is as large as the numbers that are rounded.
    """
    if fl.losses()[case.name]._gate.driver != "rows":  # no softmax
        return 0.0, np.zeros(case.pred.shape[1])
    y, temperature = case.target[i], case.knobs.get("temperature", 1.0)
    cap = case.knobs.get("softcap")
    apart, kept = np.full(case.pred.shape[1], 2 * (cap or 0.0)), case.knobs.get("class_mask", True)
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
    return apart[y] if y == leader else 2 * (cap or 0.0), apart


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
    loss = fl.losses()[name]
    wide = loss.kind == "rows"
    everything = zip(
        cases(name, dtype),
        computed(isa, NAMES.index(name) % GROUPS)[name, dtype],
        expected(name, dtype),
        strict=True,
    )
    for case, result, wanted in everything:
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xdist_group(f"accuracy {i % GROUPS}"))
        for i, name in enumerate(NAMES)
    ],
)
@pytest.mark.parametrize("isa", fl.kernels.available)
def test_within_the_declared_bounds(isa: str, name: str, dtype: str) -> None:
    bad = [number for number in judged(isa, name, dtype) if number.error > number.bound]
    bad.sort(key=lambda number: -number.excess)
    worst = "\n".join(number.at for number in bad[:6])
    assert not bad, f"{len(bad)} points, the worst:\n{worst}"


# Where the plain formula has no digits left: the limits


@pytest.mark.parametrize("z", [2e3, 1e5, 1e30])
def test_saturated_logits_have_their_limits(z: float, dtype: type) -> None:
    pred, target = np.array([z, -z, z, -z], dtype), np.array([1, 0, 0, 1], dtype)
    bce, focal = fl.binary_cross_entropy_with_logits, fl.sigmoid_focal_loss
    for loss, knobs, weight in (
        (bce, {}, (1, 1)),
        (bce, {"pos_weight": 0.5}, (1, 0.5)),
        (focal, {}, (0.75, 0.25)),
        (focal, {"gamma": 0.0, "alpha": None}, (1, 1)),
    ):
        value, grad, hess = loss.value_grad_hess(pred, target, reduction="none", **knobs)
        zero, one = np.zeros(2, dtype), np.array(weight, dtype)
        np.testing.assert_array_equal(value, np.concatenate([zero, pred[2] * one]))
        np.testing.assert_array_equal(grad, np.concatenate([zero, one * [1, -1]]))
        np.testing.assert_array_equal(hess, np.zeros(4, dtype))


def test_saturated_rows_have_their_limits(dtype: type) -> None:
    pred = np.array([[1e5, 0, -1e5]] * 3, dtype)
    value, grad, hess = fl.cross_entropy.value_grad_hess(pred, [0, 1, 2], reduction="none")
    np.testing.assert_array_equal(value, np.array([0, 1e5, 2e5], dtype))
    np.testing.assert_array_equal(grad, [[0, 0, 0], [1, -1, 0], [1, 0, -1]])
    np.testing.assert_array_equal(hess, np.zeros((3, 3)))


# The numbers others lose


def test_confident_sample_keeps_its_loss() -> None:
    """p_true = 1 - 1e-30: the loss is 1e-30, not 0, and so is the gradient."""
    pred = np.array([[-np.log(1e-30), 0.0]])
    exact = oracle.exact(fl.cross_entropy, pred[0], 0, {}, (0, 1))
    value, grad, hess = fl.cross_entropy.value_grad_hess(pred, [0])
    assert value == pytest.approx(1e-30, rel=1e-13)
    assert oracle.ulps(value, exact.loss) <= 4
    for k in (0, 1):
        assert oracle.ulps(grad[0, k], exact.grad[k]) <= 4
        assert oracle.ulps(hess[0, k], exact.hess[k]) <= 4


@pytest.mark.parametrize("classes", [3, 10, 50257])
def test_label_far_ahead_still_costs(classes: int) -> None:
    """exp is neither clamped nor flushed: 50,256 exp(-200) is 7e-83, 50,256 exp(-95) a float32."""
    pred = np.zeros((1, classes), np.float32)
    for lead in (95, 200):
        pred[0, 7 % classes] = lead
        want = (classes - 1) * np.exp(-float(lead))
        value, grad = fl.cross_entropy.value_and_grad(pred, [7 % classes], reduction="sum")
        assert value == pytest.approx(want, rel=1e-12, abs=0)  # in double, of float32 too
        assert oracle.ulps(grad[0, 7 % classes], -mpf(want)) <= 8


def test_odds_of_a_tiny_part() -> None:
    """Odds of 1e-299 have all their digits, though a rounding's worth of them is below a double."""
    pred = np.zeros((1, 10))
    pred[0, 3] = 690.123456789
    grad = fl.cross_entropy.grad(pred, [3], reduction="sum")
    want = 9 * mp.exp(-mpf(pred[0, 3]))
    assert oracle.ulps(grad[0, 3], -want) <= 4


@pytest.mark.parametrize("classes", [3, 10, 16, 17, 63, 128, 1000, 1025, 50257])
def test_equal_terms_beside_a_leader(
    classes: int, dtype: np.dtype, rng: np.random.Generator
) -> None:
    """The worst rows for a plain sum: every addition errs in the same direction."""
    distances = np.concatenate([rng.uniform(0, 5, 16), 10 ** rng.uniform(-4, 0, 8)]).astype(dtype)
    for leader, other, label in ((0, 1, 2), (classes - 1, 0, 1)):
        pred = np.repeat(-distances[:, None], classes, axis=1)
        pred[:, leader] = 0
        labels = np.full(len(pred), label)
        _, grad, hess = fl.cross_entropy.value_grad_hess(pred, labels, reduction="none")
        for i, x in enumerate(map(float, distances)):
            with mp.workprec(600):
                e = mp.exp(-mpf(x))
                p = {leader: 1 / (1 + (classes - 1) * e), other: e / (1 + (classes - 1) * e)}
                want = {k: (p[k], p[k] * (1 - p[k])) for k in p}
            for k, (g, h) in want.items():
                for got, right in ((grad[i, k], g), (hess[i, k], h)):
                    error = oracle.ulps(got, right, relative=True)
                    assert error <= 4 + x, f"{error:.3g} ulp of {got!r}: class {k}, distance {x!r}"


@pytest.mark.parametrize("classes", [10, 1000, 50257])
def test_float32_rows_lose_nothing_to_their_length(classes: int, rng: np.random.Generator) -> None:
    """Sums of 50,000 float32 terms are kept in double: float64 is the reference here."""
    pred = rng.normal(size=(8, classes)).astype(np.float32)
    labels = rng.integers(classes, size=8)
    narrow = fl.cross_entropy.value_grad_hess(pred, labels, reduction="none")
    wide = fl.cross_entropy.value_grad_hess(pred.astype(float), labels, reduction="none")
    spread = np.ptp(pred, axis=1, keepdims=True)
    eps = np.finfo(np.float32).eps
    assert (abs(narrow[0] - wide[0]) <= (4 + spread[:, 0]) * eps * wide[0]).all()
    for n, w in zip(narrow[1:], wide[1:], strict=True):
        assert (abs(n - w) <= (4 + spread) * eps * abs(w)).all()


def table(names: list[str]) -> str:
    """The README's table over all instruction sets: the worst error in ulp of what it may be.

    In brackets the share of its bound that 999 of 1000 numbers stay below.
    """
    lines = ["| loss | dtype | loss | gradient | Hessian |", "|---|---|---|---|---|"]
    for name, dtype in itertools.product(names, DTYPES):
        numbers = [n for isa in fl.kernels.available for n in judged(isa, name, dtype)]
        cells = [f"`{name}`", dtype]
        for what in ("loss", "grad", "hess"):
            of = [n for n in numbers if n.what == what]
            if not of:  # a loss of two inputs has no Hessian
                cells.append("none")
                continue
            worst = max(of, key=lambda n: n.excess)
            usual = np.quantile([n.excess for n in of], 0.999)
            cells.append(f"{worst.error:.1f} of {worst.bound:.3g} ({usual:.0%})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_table_has_what_a_loss_has() -> None:
    _, _, *rows = table(["margin_ranking_loss", "l1_loss"]).splitlines()
    assert [row.count(" of 4 (") for row in rows] == [2, 2, 3, 3]


if __name__ == "__main__":
    print(table(sys.argv[1:] or NAMES))
