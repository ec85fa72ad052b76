"""Every loss, gradient and Hessian within the bound it declares, on every instruction set.

Where the plain formula runs out of digits the limits are held by hand.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from mpmath import mp, mpf

import fastloss as fl
import oracle
from judge import DTYPES, NAMES, judged


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_within_the_declared_bounds(name: str, dtype: str) -> None:
    """On all instruction sets: what is exact takes far longer than what is computed."""
    bad = []
    for isa in fl.kernels.available:
        of_isa = judged(isa, name, dtype)
        bad += [(isa, number) for number in of_isa if number.error > number.bound]
    bad.sort(key=lambda found: -found[1].excess)
    worst = "\n".join(f"{isa}: {number.at}" for isa, number in bad[:6])
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 7, 8, 63, 64, 65, 200])
def test_losses_that_share_a_logarithm_keep_theirs(n: int, dtype: type) -> None:
    """A mean is that of its losses, from 1e-36 to 700, though 64 rows have 8 logarithms."""
    rng = np.random.default_rng(n)
    pred = rng.normal(size=(n, 5)).astype(dtype)
    target = rng.integers(5, size=n)
    for lead in (0, 80, -700):
        pred[np.arange(n), target] = lead
        losses = fl.cross_entropy(pred.astype(float), target, reduction="none")
        want = math.fsum(losses)
        rel = 1e-15 if dtype is np.float64 else 1e-6
        assert fl.cross_entropy(pred, target, reduction="sum") == pytest.approx(want, rel, 0)
        pred[0, target[0]] = -np.inf
        assert fl.cross_entropy(pred, target) == np.inf
        pred[0, 0] = np.nan
        assert np.isnan(fl.cross_entropy(pred, target))
        pred[0] = 0


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


@pytest.mark.parametrize("exponent", [-126, -90, -66, -30, 0, 30, 66, 90, 120])
def test_negative_binomial_of_any_alpha(exponent: int, dtype: type) -> None:
    """The factors of a Hessian leave the range of numbers where the Hessian does not."""
    loss, alpha = fl.negative_binomial_nll_loss, 2.0**exponent
    for z, y in itertools.product([-3.0, 0.7, 20.0, -np.log(alpha) + 0.3], [0.0, 0.02, 3.0, 1e9]):
        pred, target = np.array(z, dtype), np.array(y, dtype)
        got = loss.value_grad_hess(pred, target, reduction="none", alpha=alpha)
        want = oracle.exact(loss, pred, target, {"alpha": alpha})
        right = zip(
            got,
            (want.loss, want.grad[0], want.hess[0]),
            (want.loss_scale, want.grad_scale[0], want.hess_scale[0]),
            loss.bounds(alpha=alpha),
            strict=True,
        )
        for each, exact, scale, bound in right:
            assert oracle.ulps(each, exact, scale) <= bound, (z, y)


@pytest.mark.parametrize(
    ("loss", "knobs", "dtype", "pred", "target"),
    [
        # 1 + w of log(1 + w) is all that is left of w.
        (fl.js_divergence_with_logits, {"beta": 0.99999}, "f", [3, 0], [1e-8]),
        (fl.js_divergence_with_logits, {"beta": 0.99999}, "d", [3, 0], [1e-12]),
        # q / p is above the largest number, beta p below the smallest.
        (fl.js_divergence_with_logits, {"temperature": 0.1}, "f", [3.75, -5.25], [0.7]),
        (fl.js_divergence_with_logits, {"beta": 1e-105, "temperature": 0.1}, "d", [0, 59], [0.7]),
        # The factors of a Hessian are above the largest number, the Hessian is not.
        (fl.cross_entropy, {"temperature": 1e-12, "z_loss": 0.1}, "f", [0, 0], 0),
        # Padding is inf times the inverse, which has to be more than 0.
        (fl.cross_entropy, {"temperature": 1e12, "z_loss": 0.1}, "f", [1, 2], 0),
        (fl.kl_div_with_logits, {"temperature": 1e12}, "f", [-1, 2], [0.7]),
        # The slope of the cap is below the smallest number, what comes of it is not.
        (fl.cross_entropy, {"temperature": 0.1, "z_loss": 11, "softcap": 0.1}, "f", [1, -4.5], 0),
        (fl.cross_entropy, {"temperature": 0.1, "z_loss": 11, "softcap": 0.1}, "d", [1, -35.6], 0),
        # q times the negative logarithm is below the smallest number.
        (fl.generalized_cross_entropy, {"q": 1e-200}, "d", [0, 300], 1),
        (fl.generalized_cross_entropy, {"q": 5e-324}, "d", [0.25, -0.25], 0),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_extreme_knobs(loss, knobs, dtype, pred, target) -> None:
    pred, eps = np.array(pred, dtype), np.finfo(dtype).eps
    if np.ndim(target):
        target = np.array([*target, 1 - target[0]], dtype)
    value, grad, hess = loss.value_grad_hess(pred[None], [target], reduction="none", **knobs)
    want = oracle.exact(loss, pred, target, knobs, (0, 1))
    far = 4 + np.ptp(pred) / knobs.get("temperature", 1)
    for got, right, scale in (
        (value, want.loss, want.loss_scale),
        (grad, want.grad, want.grad_scale),
        (hess, want.hess, want.hess_scale),
    ):
        right, scale = (np.array(x, float).ravel() for x in (right, scale))
        error = abs(got.ravel() - right)
        assert (error <= far * eps * np.maximum(abs(right), scale)).all(), (got, right)
