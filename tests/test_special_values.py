"""nan, inf, empty and masked input: exact results, and never a warning, an error or a spill.

A nan of any payload or sign gives nan; what is masked gives exact zeros whatever it holds.
"""

import ctypes.util
import platform
import sys
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from samples import METHODS, every_elementwise, every_loss, every_method, inputs, results

NANS = {
    np.float32: [0x7FC00000, 0x7FC00001, 0x7FFFFFFF, 0x7F800001, 0xFFC00000, 0xFFFFFFFF],
    np.float64: [0x7FF8 << 48, 0x7FF00000000007A2, (1 << 63) - 1, 0x7FF << 52 | 1, 0xFFF8 << 48],
}
every_nan = pytest.mark.parametrize(
    "nan",
    [
        pytest.param(np.array(bits, f"u{dtype().itemsize}").view(dtype), id=hex(bits))
        for dtype, all_bits in NANS.items()
        for bits in all_bits
    ],
)
infinities = pytest.mark.parametrize("dtype", [np.float32, np.float64])
inf = np.inf


@pytest.fixture(autouse=True)
def nothing_warns():
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


def put(array, index, nan):
    """Assign the very bits (an assignment of floats may quieten a signalling nan)."""
    array.view(f"u{array.itemsize}")[index] = nan.view(f"u{array.itemsize}")


@every_loss
@every_nan
@pytest.mark.parametrize("classes", [3, 100, 300])
def test_a_nan_prediction_is_nan_in_its_sample_alone(loss, nan, classes):
    pred, target = inputs(loss, (70,), nan.dtype, classes)
    clean = loss.value_grad_hess(pred, target, reduction="none")
    alone = loss._gate.driver == "terms" and loss.domain.labels  # the label's class is read
    put(pred, (41, target[41] if alone else 1) if loss.kind == "rows" else 41, nan)
    dirty = loss.value_grad_hess(pred, target, reduction="none")
    others = np.arange(70) != 41
    for a, b in zip(dirty, clean, strict=True):
        assert_array_equal(a[others], b[others])
    assert np.isnan(dirty[0][41]) and np.isnan(dirty[1][41]).all()
    # A second derivative that no logit enters (a parabola's) has no nan to show.
    if not np.isin(clean[2], [0, 1, 2]).all():
        assert np.isnan(dirty[2][41]).all()
    for reduction in ("mean", "sum", "batchmean"):
        assert np.isnan(loss(pred, target, reduction=reduction))


@every_elementwise
@every_nan
def test_a_nan_target_is_not_out_of_domain(loss, nan):
    pred, target = inputs(loss, (70,), nan.dtype)
    put(target, 41, nan)
    value, grad, _ = loss.value_grad_hess(pred, target, reduction="none")
    for array in (value, grad):
        assert_array_equal(np.isnan(array), np.arange(70) == 41)


@every_nan
@pytest.mark.parametrize("classes", [3, 100, 300])
def test_a_nan_probability_is_nan_in_its_row(nan, classes):
    pred, soft = inputs(fl.cross_entropy, (70,), nan.dtype, classes, soft=True)
    put(soft, (41, 1), nan)
    value, grad, _ = fl.cross_entropy.value_grad_hess(pred, soft, reduction="none")
    assert_array_equal(np.isnan(value), np.arange(70) == 41)
    assert np.isnan(grad[41, 1]) and not np.isnan(np.delete(grad, 41, 0)).any()


@every_loss
@every_method
@every_nan
def test_masked_garbage_is_neither_read_nor_checked(loss, method, nan):
    pred, target = inputs(loss, (70,), nan.dtype)
    keep = np.arange(70) % 3 > 0
    dirty, garbage = pred.copy(), target.copy()
    dirty[~keep] = [[inf], [-inf], [3e38]] * 8 if loss.kind == "rows" else [inf, -inf, 3e38] * 8
    put(dirty, (slice(0, 60, 3), ...), nan)
    if loss.domain.labels:
        garbage[~keep] = [-100, 2**62, -1] * 8
    elif loss.domain.lists:
        garbage[~keep] = [[-100], [2**62], [-2]] * 8
    elif loss.kind == "rows":
        garbage[~keep] = [[inf], [-5.0], [7.5]] * 8
    else:
        garbage[~keep] = np.reshape([inf, -5.0, 7.5] * 8, (-1,) + (1,) * (garbage.ndim - 1))
        put(garbage, slice(30, 60, 3), nan)
    ways = [{"mask": keep}, {"sample_weight": keep.astype(pred.dtype)}]
    for options in ways:
        for reduction in ("mean", "batchmean", "sum", "none"):
            options["reduction"] = reduction
            want = results(loss, method, pred, target, **options)
            got = results(loss, method, dirty, garbage, **options)
            for name in want:
                assert_array_equal(got[name], want[name])
                if np.ndim(got[name]):
                    assert not got[name][~keep].any()


@every_loss
@every_nan
def test_weights_that_cancel_leave_no_nan(loss, nan):
    pred, target = inputs(loss, (2,), nan.dtype)
    put(pred, (1, ...), nan)
    for bad in (pred, np.where(np.isnan(pred), inf, pred)):
        value, grad, hess = loss.value_grad_hess(bad, target, sample_weight=[1.0, -1.0])
        assert np.isnan(value) and not grad.any() and not hess.any()


@every_loss
def test_a_masked_row_of_a_matrix(loss):
    pred, target = inputs(loss, (6, 5))
    pred[2] = np.nan
    keep = np.arange(6) != 2
    value, grad = loss.value_and_grad(pred, target, mask=keep)
    assert_allclose(value, loss(pred[keep], target[keep]), 1e-14)
    assert not grad[2].any() and np.isfinite(grad).all()


@every_loss
@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3)])
def test_empty(loss, shape):
    pred, target = inputs(loss, shape)
    for method in METHODS:
        for reduction, value in (("mean", np.nan), ("sum", 0.0), ("none", np.zeros(shape))):
            got = results(loss, method, pred, target, reduction=reduction)
            assert_array_equal(got.pop("l", value), value)
            for array in got.values():
                assert array.shape == pred.shape
    assert loss.normalizer(pred, target) == 0


@infinities
def test_squared_error_of_infinities(dtype):
    pred = np.array([inf, -inf, inf, 1e30, 1.0], dtype)
    target = np.array([0, 0, inf, -inf, 1.0], dtype)
    value, grad = fl.mse_loss.value_and_grad(pred, target, reduction="none")
    assert_array_equal(value, np.array([inf, inf, np.nan, inf, 0], dtype))
    assert_array_equal(grad, np.array([inf, -inf, np.nan, inf, 0], dtype))


@infinities
def test_huber_of_infinities(dtype):
    pred = np.array([inf, -inf, inf, 1e30], dtype)
    target = np.array([0, 0, inf, -inf], dtype)
    value, grad, hess = fl.huber_loss.value_grad_hess(pred, target, delta=2.0, reduction="none")
    assert_array_equal(value, np.array([inf, inf, np.nan, inf], dtype))
    assert_array_equal(grad, np.array([2, -2, np.nan, 2], dtype))
    assert not hess[[0, 1, 3]].any()


@infinities
@pytest.mark.parametrize(
    ("loss", "slope"),
    [
        (fl.l1_loss, 1),
        (fl.smooth_l1_loss, 1),
        (fl.pseudo_huber_loss.bind(delta=2.0), 2),
        (fl.charbonnier_loss, 1),
        (fl.log_cosh_loss, 1),
        (fl.fair_loss.bind(c=2.0), 2),
        (fl.cauchy_loss, 0),
        (fl.epsilon_insensitive_loss, 1),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_robust_losses_of_infinities(dtype, loss, slope):
    pred = np.array([inf, -inf, inf, 0], dtype)
    target = np.array([0, 0, inf, -inf], dtype)
    value, grad, hess = loss.value_grad_hess(pred, target, reduction="none")
    assert_array_equal(value, np.array([inf, inf, np.nan, inf], dtype))
    assert_array_equal(grad, np.array([slope, -slope, np.nan, slope], dtype))
    assert not hess[[0, 1, 3]].any() and np.isnan(hess[2])


def test_tiny_residuals_keep_their_digits():
    for loss in (fl.log_cosh_loss, fl.pseudo_huber_loss, fl.fair_loss, fl.cauchy_loss):
        value, grad, hess = loss.value_grad_hess([3e-150, 3e-300], [0.0, 0.0], reduction="none")
        assert_allclose(value[0] * 1e300, 4.5, 1e-15)
        assert_allclose(grad * [1e150, 1e300], 3, 1e-15)
        assert_array_equal(hess, [1, 1])


@infinities
def test_huber_at_the_kink(dtype):
    pred = np.array([-1, -1, 0, 1, 1], dtype) * dtype(0.5)
    pred[0] = np.nextafter(pred[0], dtype(-1))
    pred[4] = np.nextafter(pred[4], dtype(1))
    zero = np.zeros(5, dtype)
    _, grad, hess = fl.huber_loss.value_grad_hess(pred, zero, delta=0.5, reduction="none")
    assert_array_equal(grad, np.array([-0.5, -0.5, 0, 0.5, 0.5], dtype))
    assert_array_equal(hess, np.array([0, 1, 1, 1, 0], dtype))  # |e| <= delta holds the equality


@infinities
@pytest.mark.parametrize(
    "loss", [fl.binary_cross_entropy_with_logits, fl.sigmoid_focal_loss.bind(alpha=None, gamma=0)]
)
def test_logits_of_infinity(dtype, loss):
    pred = np.array([inf, -inf, inf, -inf], dtype)
    target = np.array([0, 1, 1, 0], dtype)
    value, grad, hess = loss.value_grad_hess(pred, target, reduction="none")
    assert_array_equal(value, np.array([inf, inf, 0, 0], dtype))
    assert_array_equal(grad, np.array([1, -1, 0, 0], dtype))
    assert not hess.any()


@infinities
def test_a_confident_focal_loss_vanishes(dtype):
    pred = np.array([inf, -inf, 1e4, -1e4], dtype)
    target = np.array([1, 0, 1, 0], dtype)
    for array in fl.sigmoid_focal_loss.value_grad_hess(pred, target, reduction="none"):
        assert not array.any()


@infinities
def test_asymmetric_loss_at_its_ends(dtype):
    pred = np.array([inf, -inf, inf, -inf, -80, np.log(0.05 / 0.95) - 1e-6], dtype)
    target = np.array([1, 1, 0, 0, 0, 0], dtype)
    value, grad, hess = fl.asymmetric_loss.value_grad_hess(pred, target, reduction="none")
    assert_allclose(value, [0, inf, -(0.95**4) * np.log(0.05), 0, 0, 0], 1e-6)
    assert_array_equal(grad, [0, -1, 0, 0, 0, 0])
    assert not hess.any()
    certain, _, _ = fl.asymmetric_loss.value_grad_hess([30.0], [1], gamma_pos=0, reduction="none")
    assert_allclose(certain, np.exp(-30.0), 1e-12)
    nothing = fl.asymmetric_loss.value_grad_hess(pred, np.zeros(6), clip=1, reduction="none")
    assert not np.any(nothing)


@infinities
def test_no_probability_and_no_divergence(dtype):
    pred = np.array([-inf, -inf, -inf, 0, -90], dtype)
    target = np.array([0, 0.5, np.nan, 0, 1e-30], dtype)
    value, grad, _ = fl.kl_div.value_grad_hess(pred, target, reduction="none")
    assert_allclose(value, [0, inf, np.nan, 0, 1e-30 * (np.log(1e-30) + 90)], 1e-5)
    assert_array_equal(grad, -target)
    value, grad, _ = fl.kl_div.value_grad_hess(
        np.array([-inf, -inf, 0, -1], dtype),
        np.array([-inf, -1, -inf, -1], dtype),
        log_target=True,
        reduction="none",
    )
    assert_array_equal(value, [0, inf, 0, 0])
    assert_allclose(grad, [0, -np.exp(-1), 0, -np.exp(-1)], 1e-6)


@infinities
def test_squared_log_error_at_its_ends(dtype):
    pred = np.array([-1, inf, -2, -inf, np.finfo(dtype).max, np.nextafter(dtype(-1), dtype(0))])
    target = np.array([0, 0, 0, 0, np.nextafter(dtype(-1), dtype(0)), np.finfo(dtype).max])
    value, grad, hess = fl.squared_log_error_loss.value_grad_hess(
        pred.astype(dtype), target.astype(dtype), reduction="none"
    )
    far = (np.log(float(np.finfo(dtype).max)) - np.log1p(target[4])) ** 2
    assert_allclose(value, [inf, inf, np.nan, np.nan, far, far], 1e-6)
    assert_array_equal(grad[:4], [-inf, 0, np.nan, np.nan])
    assert_array_equal(hess[:4], [inf, 0, np.nan, np.nan])
    with pytest.raises(ValueError, match=r"target\[1\] = -1.0 is not in \(-1, inf\]"):
        fl.squared_log_error_loss(np.zeros(2, dtype), np.array([0, -1], dtype))


# Rows

every_width = pytest.mark.parametrize("classes", [2, 3, 10, 65, 5000])


@infinities
@every_width
def test_a_class_at_minus_infinity_is_not_there(dtype, classes):
    pred, target = inputs(fl.cross_entropy, (20,), dtype, classes)
    wide = np.insert(pred, 1, -inf, axis=1)
    want = fl.cross_entropy.value_grad_hess(pred, target, reduction="none")
    got = fl.cross_entropy.value_grad_hess(wide, target + (target >= 1), reduction="none")
    assert_allclose(got[0], want[0], 1e-6)
    for a, b in zip(got[1:], want[1:], strict=True):
        assert not a[:, 1].any()  # exactly 0
        assert_allclose(np.delete(a, 1, 1), b, 1e-5, 1e-12)


@infinities
@every_width
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_a_class_that_is_masked_is_one_at_minus_infinity(dtype, classes, soft):
    pred, target = inputs(fl.cross_entropy, (200,), dtype, classes, soft)
    rng = np.random.default_rng(1)
    every = np.zeros(pred.shape, bool) | (np.arange(classes) != 1)
    each = (rng.random(pred.shape) < 0.7) | (np.arange(classes) == 0)
    for mask in (every[0], every, each):
        kept = np.broadcast_to(mask, pred.shape)
        if soft:
            mine = np.where(kept, target, 0)
        else:
            mine = np.where(kept[np.arange(200), target], target, 0)
        off = np.where(kept, pred, -inf)
        garbage = np.where(kept, pred, np.nan)
        for options in ({}, {"sample_weight": rng.normal(size=200)}, {"temperature": 3.0}):
            want = fl.cross_entropy.value_grad_hess(off, mine, reduction="none", **options)
            got = fl.cross_entropy.value_grad_hess(
                garbage, mine, class_mask=mask, reduction="none", **options
            )
            for a, b in zip(got, want, strict=True):
                assert_array_equal(a, b)
            for array in got[1:]:
                assert not array[~kept].any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_class_mask_lies_on_the_axis_of_the_classes(axis):
    pred, target = inputs(fl.cross_entropy, (3, 5), classes=100)
    mask = np.random.default_rng(1).random(pred.shape) < 0.5
    np.put_along_axis(mask, target[..., None], True, -1)
    knobs = {"label_smoothing": 0.2, "reduction": "none"}
    want = fl.cross_entropy.value_and_grad(pred, target, class_mask=mask, **knobs)
    moved, mask = (np.moveaxis(a, -1, axis) for a in (pred, mask))
    got = fl.cross_entropy.value_and_grad(moved, target, class_mask=mask, axis=axis, **knobs)
    assert_allclose(got[0], want[0], 1e-13)
    assert_allclose(np.moveaxis(got[1], axis, -1), want[1], 1e-12, 1e-15)
    few = np.arange(100) % 3 == 0
    target -= target % 3
    value = fl.cross_entropy(moved, target, class_mask=few, axis=axis, **knobs)
    assert_allclose(value, fl.cross_entropy(pred[..., few], target // 3, **knobs), 1e-13)


@infinities
@every_width
def test_a_label_at_minus_infinity(dtype, classes):
    pred, target = inputs(fl.cross_entropy, (20,), dtype, classes)
    rows = np.arange(20)
    pred[rows, target] = -inf
    value, grad = fl.cross_entropy.value_and_grad(pred, target, reduction="none")
    assert_array_equal(value, np.full(20, inf))
    assert_array_equal(grad[rows, target], np.full(20, -1))
    assert_allclose(grad.sum(1), 0, atol=1e-5)


@infinities
@every_width
def test_smoothing_puts_mass_on_minus_infinity(dtype, classes):
    pred, target = inputs(fl.cross_entropy, (20,), dtype, classes)
    target[:] = 0
    pred[:, 1] = -inf
    value, grad = fl.cross_entropy.value_and_grad(
        pred, target, label_smoothing=0.5, reduction="none"
    )
    assert_array_equal(value, np.full(20, inf))
    assert_allclose(grad[:, 1], -0.5 / classes, 1e-6)
    assert np.isfinite(grad).all()


@infinities
@every_width
def test_probability_on_minus_infinity(dtype, classes):
    pred, soft = inputs(fl.cross_entropy, (20,), dtype, classes, soft=True)
    pred[:, 1] = -inf
    soft[:10, 1] = 0  # 0 log 0 = 0
    value, grad = fl.cross_entropy.value_and_grad(pred, soft, reduction="none")
    assert_array_equal(value == inf, np.arange(20) >= 10)
    assert_array_equal(grad[:, 1], -soft[:, 1])
    assert np.isfinite(grad).all() and not np.isnan(value).any()


@infinities
@every_width
@pytest.mark.parametrize("row", [[inf], [-inf], [inf, -inf]], ids=["+inf", "all -inf", "both"])
def test_rows_without_a_softmax_are_nan_alone(dtype, classes, row):
    pred, target = inputs(fl.cross_entropy, (20,), dtype, classes)
    clean = fl.cross_entropy.value_grad_hess(pred, target, reduction="none")
    if row == [-inf]:
        pred[7] = -inf
    else:
        pred[7, : len(row)] = row
    got = fl.cross_entropy.value_grad_hess(pred, target, reduction="none")
    for a, b in zip(got, clean, strict=True):
        assert np.isnan(a[7]).all()
        assert_array_equal(np.delete(a, 7, 0), np.delete(b, 7, 0))


@infinities
def test_one_class(dtype):
    pred, target = np.array([[3.0], [-1e30], [0.0]], dtype), np.zeros(3, int)
    for soft in (target, np.ones((3, 1))):
        for smoothing in (0.0, 0.5):
            for array in fl.cross_entropy.value_grad_hess(
                pred, soft, reduction="none", label_smoothing=smoothing
            ):
                assert not array.any()


@infinities
def test_all_others_at_minus_infinity(dtype):
    pred = np.full((2, 9), -inf, dtype)
    pred[:, 4] = 1
    for array in fl.cross_entropy.value_grad_hess(pred, np.array([4, 4]), reduction="none"):
        assert not array.any()


@infinities
@every_width
def test_ties_and_huge_logits(dtype, classes):
    big = np.finfo(dtype).max
    pred = np.zeros((3, classes), dtype)
    pred[1] = big
    pred[2, 0], pred[2, 1:] = big, -big
    value, grad = fl.cross_entropy.value_and_grad(pred, np.zeros(3, int), reduction="none")
    assert_allclose(value, [np.log(classes), np.log(classes), 0], 1e-6)
    assert_allclose(grad[:2], np.full((2, classes), 1 / classes) - np.eye(1, classes), 1e-5)
    assert not grad[2].any()


@every_width
def test_nothing_is_lost_where_others_return_zero(classes):
    pred = np.zeros((1, classes))
    pred[0, 0] = np.log(1e30)
    value, grad = fl.cross_entropy.value_and_grad(pred, [0])
    rest = (classes - 1) * 1e-30
    assert_allclose([value, -grad[0, 0], grad[0, 1:].sum()], rest, 1e-13, 0)
    value, grad = fl.cross_entropy.value_and_grad(pred * 10, [0])
    assert_allclose([value * 1e300, grad[0, 0] * -1e300], classes - 1, 1e-12)


# Rows of terms


@infinities
@every_width
@pytest.mark.parametrize("loss", [fl.nll_loss, fl.cross_entropy_with_probs], ids=lambda x: x.name)
def test_of_a_label_no_other_class_is_read(dtype, classes, loss):
    pred, target = inputs(loss, (20,), dtype, classes)
    want = loss.value_grad_hess(pred, target)
    others = np.arange(classes) != target[:, None]
    for garbage in (-inf, inf, np.nan):
        pred[others] = garbage
        for a, b in zip(loss.value_grad_hess(pred, target), want, strict=True):
            assert_array_equal(a, b)


@infinities
@every_width
def test_a_label_of_probability_0(dtype, classes):
    pred, target = inputs(fl.nll_loss, (20,), dtype, classes)
    one_hot = np.arange(classes) == target[:, None]
    pred[one_hot] = -inf
    value, grad, hess = fl.nll_loss.value_grad_hess(pred, target, reduction="none")
    assert_array_equal(value, np.full(20, inf))
    assert_array_equal(grad, -one_hot.astype(dtype))
    assert not hess.any()
    pred, _ = inputs(fl.cross_entropy_with_probs, (20,), dtype, classes)
    pred[one_hot] = 0
    for y in (target, one_hot):
        got = fl.cross_entropy_with_probs.value_grad_hess(pred, y, reduction="none")
        assert_array_equal(got[0], np.full(20, inf))
        assert_array_equal(got[1], np.where(one_hot, -inf, 0))
        assert_array_equal(got[2], np.where(one_hot, inf, 0))


@infinities
@every_width
@pytest.mark.parametrize(
    "loss", [fl.cross_entropy_with_probs, fl.kl_div_with_probs], ids=lambda x: x.name
)
def test_nothing_times_the_logarithm_of_nothing(dtype, classes, loss):
    pred, target = inputs(loss, (20,), dtype, classes, soft=True)
    wide = np.insert(pred, 1, 0, axis=1)
    want = loss.value_grad_hess(pred, target, reduction="none")
    got = loss.value_grad_hess(wide, np.insert(target, 1, 0, axis=1), reduction="none")
    assert_allclose(got[0], want[0], 1e-6)
    for a, b in zip(got[1:], want[1:], strict=True):
        assert not a[:, 1].any()
        assert_array_equal(np.delete(a, 1, 1), b)
    value, grad = loss.value_and_grad(wide, np.insert(target, 1, 1e-30, axis=1), reduction="none")
    assert_array_equal(value, np.full(20, inf))
    assert_array_equal(grad[:, 1], np.full(20, -inf))
    assert np.isfinite(np.delete(grad, 1, 1)).all()


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9])
def test_close_distributions_keep_their_divergence(classes, distance):
    rng = np.random.default_rng(0)
    target = rng.integers(1, 1000, (50, classes)).astype(float)  # in exact fractions
    target *= 2.0**-20
    target[:, 0] += 1 - target.sum(1)
    shift = distance * np.minimum(target[:, :1], target[:, -1:])
    shift = np.round(shift * 2.0**52) * 2.0**-52
    pred = target.copy()
    pred[:, :1] += shift  # p and t both add up to exactly 1
    pred[:, -1:] -= shift
    got = fl.kl_div_with_probs(pred, target, reduction="none")
    r = (pred - target)[:, [0, -1]] / target[:, [0, -1]]
    series = sum((-r) ** k / k for k in range(2, 12))  # r - log1p(r)
    want = (target[:, [0, -1]] * series).sum(1)
    sure = want > 0
    assert sure.sum() > 40 and (got >= 0).all()
    assert_allclose(got[sure], want[sure], 1e-14)


@infinities
@every_width
def test_scores_of_infinity_and_margins(dtype, classes):
    """The label ahead, behind, tied with the first of the others, beyond all numbers."""
    pred = np.zeros((7, classes), dtype)
    target = np.full(7, classes - 1)
    rows = np.arange(7)
    pred[rows, target] = [3, -3, 0, 1, inf, -inf, inf]
    pred[6, 0] = inf
    value, grad, hess = fl.crammer_singer_loss.value_grad_hess(pred, target, reduction="none")
    assert_array_equal(value, np.array([0, 4, 1, 0, 0, inf, np.nan], dtype))
    costs = np.array([0, 1, 1, 0, 0, 1, np.nan], dtype)
    assert_array_equal(grad[:, -1], -costs)
    assert_array_equal(grad[:, 0], costs)
    assert not grad[:6, 1:-1].any() and not hess[:6].any() and np.isnan(grad[6]).all()
    value, grad, hess = fl.multi_margin_loss.value_grad_hess(pred, target, p=2, reduction="none")
    share = (classes - 1) / classes
    assert_allclose(value[:6], np.array([0, 16, 1, 0, 0, inf]) * share, 1e-6)
    assert_allclose(grad[:6, -1], -np.array([0, 8, 2, 0, 0, inf]) * share, 1e-6)
    assert_allclose(grad[:6, 0], np.array([0, 8, 2, 0, 0, inf]) / classes, 1e-6)
    assert_allclose(hess[:6, 0], np.array([0, 2, 2, 0, 0, 2]) / classes, 1e-6)
    assert_allclose(hess[:6, -1], np.array([0, 2, 2, 0, 0, 2]) * share, 1e-6)
    assert np.isnan(value[6])


@infinities
@every_width
def test_lists_of_labels(dtype, classes):
    """None, all, one twice, infinite scores; what is behind the end is not read."""
    loss, last = fl.multilabel_margin_loss, classes - 1
    pred = np.zeros((7, classes), dtype)
    target = np.full(pred.shape, -1)
    target[1] = np.arange(classes)
    target[2:, 0] = last
    target[3, 1] = last
    pred[2:, -1] = [-1, -1, 1, inf, -inf]
    target[0, -1] = 99999
    value, grad, hess = loss.value_grad_hess(pred, target, reduction="none")
    share = last / classes
    assert_allclose(value, np.array([0, 0, 2 * share, 4 * share, 0, 0, inf], dtype), 1e-6)
    times = np.array([0, 0, 1, 2, 0, 0, 1])
    assert_allclose(grad[:, :-1], np.tile(times[:, None] / classes, last), 1e-6)
    assert_allclose(grad[:, -1], -times * share, 1e-6)
    assert not hess.any()
    pred[:2] = pred[6] = np.nan
    value, grad, hess = loss.value_grad_hess(pred, target, reduction="none")
    assert_array_equal(np.isnan(value), np.arange(7) == 6)
    assert np.isnan(grad[6]).all() and np.isnan(hess[6]).all() and not grad[:2].any()


@infinities
@every_width
def test_a_nan_score_is_never_passed_over(dtype, classes):
    pred, target = inputs(fl.crammer_singer_loss, (classes,), dtype, classes)
    for k in range(min(classes, 70)):
        dirty = pred[:1].copy()
        dirty[0, k] = np.nan
        assert np.isnan(fl.crammer_singer_loss(dirty, target[:1]))
        assert np.isnan(fl.multi_margin_loss(dirty, target[:1]))
        assert np.isnan(fl.multilabel_margin_loss(dirty, np.eye(1, classes, dtype=int) - 1))


@infinities
def test_tiny_inputs_and_signed_zeros(dtype):
    tiny, least = np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal
    below = tiny - least
    pred = np.array([tiny, -tiny, below, -below, least, -least, 0.0, -0.0], dtype)
    zero = np.zeros_like(pred)
    for loss, factor in (fl.mse_loss, 2), (fl.huber_loss, 1):
        grad = loss.grad(pred, zero, reduction="none")
        assert_array_equal(grad, factor * pred)
        assert_array_equal(np.signbit(grad), np.signbit(pred))


@every_loss
def test_the_rounding_mode_of_the_thread_is_not_the_kernel_s_and_stays(loss):
    upward = 0x400000 if platform.machine() in ("arm64", "aarch64") else 0x800
    upward = 0x200 if sys.platform == "win32" else upward  # FE_UPWARD of <fenv.h>
    library = ctypes.CDLL(ctypes.util.find_library("m") or "ucrtbase")
    pred, target = inputs(loss, (50,))
    want = loss.value_grad_hess(pred, target, reduction="none")
    assert library.fesetround(upward) == 0
    try:
        got = loss.value_grad_hess(pred, target, reduction="none")
        assert library.fegetround() == upward
    finally:
        library.fesetround(0)
    for result, expected in zip(got, want, strict=True):
        assert_array_equal(result, expected)


@every_loss
def test_infinite_and_nan_weights_do_not_warn(loss):
    pred, target = inputs(loss, (4,))
    costs = loss(pred, target, reduction="none").argmax()  # inf times a loss of 0 is nan
    bad = np.arange(4) == costs
    value = loss(pred, target, sample_weight=np.where(bad, np.nan, 1.0), reduction="none")
    assert_array_equal(np.isnan(value), bad)
    assert np.isnan(loss(pred, target, sample_weight=np.where(bad, np.nan, 1.0)))
    assert loss(pred, target, sample_weight=np.where(bad, inf, 1.0), reduction="sum") == inf


@every_width
def test_beyond_its_cap_a_logit_has_no_derivative_however_small_the_cap(classes):
    pred = np.where(np.arange(classes) % 2, np.float32(2.5), np.float32(-1.5))
    for cap in (1.2e-38, 1e-30, 1e-3):
        of_cap = fl.cross_entropy.bind(softcap=cap, temperature=0.1, reduction="sum")
        value, grad, hess = of_cap.value_grad_hess(pred[None], [1])
        assert_allclose(value, np.log(classes), 0.02)
        assert_array_equal(grad, 0)
        assert_array_equal(hess, 0)


# Divergences


@infinities
@every_width
@pytest.mark.parametrize("loss", [fl.kl_div_with_logits, fl.js_divergence_with_logits])
def test_divergences_of_classes_that_are_not_there(dtype, classes, loss):
    pred, target = inputs(loss, (20,), dtype, classes)
    target[:10, 0] = 0  # 0 log 0 is 0
    target[:10] /= target[:10].sum(1, keepdims=True)
    pred[:, 0] = -inf
    value, grad, hess = loss.value_grad_hess(pred, target, reduction="none")
    assert np.isfinite(grad).all() and np.isfinite(hess).all()
    assert_array_equal(grad[:10, 0], 0)
    assert_array_equal(hess[:, 0], 0)
    if loss is fl.kl_div_with_logits:
        assert_array_equal(value == inf, np.arange(20) >= 10)
        assert_array_equal(grad[:, 0], -target[:, 0])
    else:
        assert (value <= np.log(2) * (1 + 1e-6)).all()
    want = loss(pred[:10, 1:], target[:10, 1:], reduction="none")
    assert_allclose(value[:10], want, 1e-5, 1e-7 if dtype is np.float32 else 1e-15)


@infinities
@every_width
@pytest.mark.parametrize("loss", [fl.kl_div_with_logits, fl.js_divergence_with_logits])
def test_a_divergence_is_never_negative_and_0_of_the_same(dtype, classes, loss):
    pred, _ = inputs(loss, (50,), dtype, classes)
    same = loss.value_and_grad(pred, pred, from_logits=True, reduction="none")
    assert (same[0] >= 0).all() and (same[0] <= 10 * np.finfo(dtype).eps ** 2).all()
    near = (pred * (1 + np.logspace(-9, -1, 50)[:, None])).astype(dtype)
    for shift in (0, 1000):
        assert (loss(pred, near + dtype(shift), from_logits=True, reduction="none") >= 0).all()


def test_close_logits_keep_their_digits():
    pred = np.array([[0.0, 0.0]])
    for d in (1e-3, 1e-6, 1e-9, 1e-12):
        value = fl.kl_div_with_logits(pred, [[d, -d]], from_logits=True)
        assert_allclose(value, d**2 / 2, d**2 + 1e-14)
        value = fl.js_divergence_with_logits(pred, [[d, -d]], from_logits=True)
        assert_allclose(value, d**2 / 8, d**2 + 1e-9)
