"""Class weights, loss meters, gradient checks and clipping."""

import copy
import math
import pickle
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from samples import every_setting, inputs

# class_weights


def test_balanced_is_scikit_learns(rng):
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    y = rng.choice(5, 200, p=[0.5, 0.3, 0.1, 0.05, 0.05])
    want = sklearn.compute_class_weight("balanced", classes=np.arange(5), y=y)
    assert_allclose(fl.class_weights(y), want, rtol=1e-15)
    assert_allclose(fl.class_weights(y.reshape(10, 20).astype(np.uint8)), want, rtol=1e-15)


def test_effective_number_is_the_papers(rng):
    y = rng.choice(3, 100, p=[0.8, 0.15, 0.05])
    raw = (1 - 0.9) / (1 - 0.9 ** np.bincount(y))
    got = fl.class_weights(y, method="effective", beta=0.9)
    assert_allclose(got, raw / raw.sum() * 3, rtol=1e-12)
    assert got.sum() == pytest.approx(3)
    assert_array_equal(fl.class_weights(y, method="effective", beta=0), 1)
    close = fl.class_weights([0, 0, 0, 1], method="effective", beta=1 - 1e-13)
    assert_allclose(close, [0.5, 1.5], rtol=1e-10)


@pytest.mark.parametrize("method", ["balanced", "effective"])
def test_classes_without_samples_count_nowhere(method):
    seen = fl.class_weights([0, 1, 1], method=method)
    assert_array_equal(
        fl.class_weights([1, 3, 3], 6, method=method), [0, seen[0], 0, seen[1], 0, 0]
    )
    assert_array_equal(fl.class_weights([], 3, method=method), [0, 0, 0])
    assert fl.class_weights(np.zeros((0, 2), int), method=method).shape == (0,)
    weights = fl.class_weights([1, 3, 3], 4, method="balanced")
    assert weights[[1, 3, 3]].mean() == 1
    assert math.isfinite(fl.cross_entropy(np.zeros((2, 4)), [1, 3], class_weight=weights))


@pytest.mark.parametrize("dtype", [*"bBhHiIlLqQ", ">i4"])
def test_any_integer_dtype(dtype):
    weights = fl.class_weights(np.array([0, 2, 2, 1], dtype))
    assert weights.dtype == np.float64
    assert_allclose(weights, [4 / 3, 4 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0.0, 1.0],), TypeError, r"labels: expected integers, got float64.*astype\(int\)"),
        (([True],), TypeError, "labels: expected integers, got bool"),
        (
            ([0, -1, -2],),
            ValueError,
            r"labels\[1\] = -1 is not a class label: expected 0 <= label$",
        ),
        (([[0, 1], [3, 4]], 3), ValueError, r"labels\[1, 0\] = 3 .* 0 <= label < 3"),
        ((np.array([2**64 - 1], "Q"), 3), ValueError, r"labels\[0\] = 18446744073709551615 "),
        (([0], 0), ValueError, "n_classes: expected at least 1, got 0"),
        (([0], 2.0), TypeError, "n_classes: expected an integer, got 2.0"),
        (([0], True), TypeError, "n_classes: expected an integer, got True"),
    ],
)
def test_bad_labels(arguments, error, message):
    with pytest.raises(error, match=f"^class_weights: {message}"):
        fl.class_weights(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "inverse"}, ValueError, "method: expected 'balanced' or 'effective', got 'inv"),
        ({"beta": 1.0}, ValueError, r"beta: expected a number in \[0, 1\), got 1.0"),
        ({"beta": -0.1}, ValueError, r"beta: expected a number in \[0, 1\), got -0.1"),
        ({"beta": math.nan}, ValueError, r"beta: expected a number in \[0, 1\), got nan"),
        ({"beta": "1"}, TypeError, r"beta: expected a number in \[0, 1\), got '1'"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=f"^class_weights: {message}"):
        fl.class_weights([0, 1], **options)


# LossMeter


@every_setting
def test_the_mean_over_batches_is_that_over_all(loss, knobs, rng):
    pred, target = inputs(loss, (60, 3))
    weight = rng.uniform(size=60)
    weight[:10] = 0  # a batch of which nothing is kept
    meter = fl.LossMeter()
    for i in range(0, 60, 10):
        batch = pred[i : i + 10], target[i : i + 10]
        options = {"sample_weight": weight[i : i + 10], **knobs}
        meter.update(loss(*batch, **options), loss.normalizer(*batch, **options))
    options = {"sample_weight": weight, **knobs}
    assert meter.mean == pytest.approx(loss(pred, target, **options), rel=2.0**-50)
    assert meter.weight == pytest.approx(loss.normalizer(pred, target, **options), rel=2.0**-50)


def test_many_updates_lose_nothing():
    meter = fl.LossMeter()
    for _ in range(200_000):
        meter.update(0.1)
    assert (meter.mean, meter.weight) == (0.1, 200_000)
    meter.reset()
    values = np.random.default_rng(0).lognormal(sigma=5, size=20_000)
    weights = np.random.default_rng(1).lognormal(sigma=5, size=20_000)
    for x, w in zip(values, weights, strict=True):
        meter.update(x, w)
    exact = sum(map(Fraction, values * weights)) / sum(map(Fraction, weights))
    assert abs(Fraction(meter.mean) - exact) <= exact * Fraction(2) ** -52


def test_an_empty_batch_contributes_nothing():
    meter = fl.LossMeter()
    assert math.isnan(meter.mean) and meter.weight == 0
    empty = np.zeros((0, 3)), np.zeros(0, int)
    meter.update(fl.cross_entropy(*empty), fl.cross_entropy.normalizer(*empty))
    assert math.isnan(meter.mean) and meter.weight == 0
    meter.update(2.0, 4)
    meter.update(math.nan, 0)
    assert (meter.mean, meter.weight) == (2.0, 4.0)
    meter.reset()
    assert meter == fl.LossMeter()


def test_values_that_are_not_finite_show():
    for value in (math.nan, math.inf, -math.inf):
        meter = fl.LossMeter()
        for x in (1.0, value, 1.0):
            meter.update(x)
        assert_array_equal(meter.mean, value)


def test_meters_merge(rng):
    parts, whole = [fl.LossMeter() for _ in range(3)], fl.LossMeter()
    values, weights = rng.lognormal(sigma=9, size=90), rng.uniform(size=90)
    for i, (x, w) in enumerate(zip(values, weights, strict=True)):
        parts[i % 3].update(x, w)
        whole.update(x, w)
    before = copy.copy(parts[0])
    total = sum(parts, fl.LossMeter())
    assert parts[0] == before
    for part in parts[1:]:
        before.merge(part)
    for merged in (total, before, parts[0] + parts[1] + parts[2]):
        assert merged.mean == pytest.approx(whole.mean, rel=2.0**-52)
        assert merged.weight == pytest.approx(whole.weight, rel=2.0**-52)
    twin = copy.copy(whole)
    twin.merge(twin)
    assert (twin.mean, twin.weight) == (whole.mean, 2 * whole.weight)


def test_meters_of_samples(rng):
    losses, weight = rng.lognormal(size=(40, 3)), rng.uniform(size=40)
    weight[::5] = 0
    losses[::5] = math.nan  # not counted
    classes = rng.integers(4, size=(40, 3))
    right = classes == 2
    meter = fl.LossMeter()
    meter.update_each(losses[:20], weight[:20], correct=right[:20], classes=classes[:20])
    meter.update_each(losses[20:], weight[20:], correct=right[20:], classes=classes[20:])
    w = np.broadcast_to(weight[:, None], losses.shape)
    keep = w != 0

    def mean(x, where):
        return pytest.approx(np.average(x[where], weights=w[where]), rel=1e-14)

    assert meter.mean == mean(losses, keep)
    assert meter.accuracy == mean(right, keep)
    for k, of_class in meter.classes.items():
        assert of_class.mean == mean(losses, keep & (classes == k))
    twin = pickle.loads(pickle.dumps(meter))
    assert twin == meter and twin.classes == meter.classes
    copied = copy.copy(meter)
    copied.update_each([1.0], classes=[0])
    assert twin == meter != copied
    doubled = meter + twin
    assert doubled.classes[1].weight == 2 * meter.classes[1].weight
    meter.reset()
    assert meter == fl.LossMeter() and math.isnan(meter.accuracy)
    meter.update(1e4)
    assert meter.perplexity == math.inf


def test_meters_of_samples_refuse():
    meter = fl.LossMeter()
    for options, message in (
        ({"sample_weight": [1, 2, 3]}, r"sample_weight: expected a scalar or the leading .*\(2,\)"),
        ({"sample_weight": [1, math.inf]}, "sample_weight: expected finite numbers"),
        ({"correct": [True]}, r"correct: expected the losses' shape \(2,\), got \(1,\)"),
        ({"segments": "ab"}, r"segments: expected the losses' shape"),
    ):
        with pytest.raises(ValueError, match=f"^LossMeter.update_each: {message}"):
            meter.update_each([1.0, 2.0], **options)
    assert meter == fl.LossMeter()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_meters_pickle(protocol):
    meter = fl.LossMeter()
    meter.update(np.float32(0.1), np.int64(3))
    meter.update(1e20)
    twin = pickle.loads(pickle.dumps(meter, protocol))
    assert twin == meter != fl.LossMeter() and repr(twin) == repr(meter)
    twin.update(1.0)
    assert twin != meter


def test_bad_updates():
    meter = fl.LossMeter()
    for bad in (([1.0, 2.0], 1), (1.0, None), ("1", 1)):
        with pytest.raises(
            TypeError, match=r"^LossMeter.update: mean, weight: expected two numbers"
        ):
            meter.update(*bad)
    for bad in (math.inf, math.nan):
        with pytest.raises(
            ValueError, match=r"^LossMeter.update: weight: expected a finite number"
        ):
            meter.update(1.0, bad)
    with pytest.raises(TypeError, match=r"^LossMeter.merge: other: expected a LossMeter"):
        meter.merge(1.0)
    with pytest.raises(TypeError):
        meter + 1.0
    assert meter == fl.LossMeter()


# check_gradient


@every_setting
@pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum", "none"])
def test_every_loss_passes(loss, knobs, reduction, rng):
    pred, target = inputs(loss, (4, 3), seed=3)
    if loss is fl.huber_loss:
        # Away from the kink
        residual = pred - target
        delta = knobs.get("delta", 1.0)
        pred[abs(abs(residual) - delta) < 0.01] += 0.1
    weight = rng.uniform(size=4)
    check = fl.check_gradient(
        loss, pred, target, sample_weight=weight, reduction=reduction, **knobs
    )
    assert check.error < 1e-8, check


class Wrong:
    """A loss of two differentiable inputs, the second's gradient wrong at one point."""

    def __call__(self, a, b, power=2, reduction="sum"):
        each = (a * b) ** power
        return each if reduction == "none" else each.sum()

    def value_and_grad(self, a, b, power=2, reduction="sum"):
        wrong = np.zeros(a.shape)
        wrong[1, 2] = 1e-3
        slope = power * (a * b) ** (power - 1)
        return self(a, b, power, reduction), (slope * b, slope * a + wrong)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_the_worst_point_is_named(reduction):
    a, b = np.arange(1.0, 7.0).reshape(2, 3), np.ones((2, 3), np.float32)
    check = fl.check_gradient(Wrong(), a, b, power=1, reduction=reduction)
    assert (check.argument, check.index) == (1, (1, 2))
    assert check.analytic == 6.001 and check.numeric == pytest.approx(6)
    assert check.error == pytest.approx(1e-3 / 6.001)


def test_inputs_are_left_alone_and_may_be_anything():
    pred, target = np.array([1, 2], np.int8), np.array([0.5, 0.0], np.float32)
    assert fl.check_gradient(fl.mse_loss, pred, target).error < 1e-8
    assert_array_equal(pred, [1, 2])
    assert fl.check_gradient(fl.mse_loss, 2.0, 1.0).error < 1e-8
    assert fl.check_gradient(fl.mse_loss, np.zeros((0, 3)), np.zeros((0, 3))).error == 0
    # Zero everywhere: nothing to be relative to.
    zero = fl.check_gradient(fl.mse_loss, [1.0], [2.0], sample_weight=0, reduction="sum")
    assert zero.error == 0
    # Nothing kept: the mean is nan, which has no difference.
    assert math.isnan(fl.check_gradient(fl.mse_loss, [1.0], [2.0], sample_weight=0).error)


def test_what_is_not_finite_is_no_point_of_the_check():
    pred = np.array([[np.nan, 1.0], [-np.inf, 2.0], [1.0, 0.0]])
    check = fl.check_gradient(fl.cross_entropy, pred, [0, 1, 1], mask=[False, True, True])
    assert check.error < 1e-8


def test_a_nan_gradient_is_the_worst():
    class Nan(Wrong):
        def value_and_grad(self, a, b, **options):
            return self(a, b), np.array([1.0, np.nan, 7.0])

    check = fl.check_gradient(Nan(), np.ones(3), np.ones(3))
    assert check.index == (1,) and math.isnan(check.error) and check.numeric == pytest.approx(2)


def test_a_kink_shows():
    assert fl.check_gradient(fl.huber_loss, [1.0], [0.0]).error > 1e-6


def test_check_gradient_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"^check_gradient: out: expected none"):
        fl.check_gradient(fl.mse_loss, np.ones(2), np.ones(2), out=np.ones(2))

    with pytest.raises(TypeError, match=r"^check_gradient: args: expected 1 or more .* got 0"):
        fl.check_gradient(fl.mse_loss, pred=[1.0], target=[0.0])
    with pytest.raises(TypeError, match=r"^check_gradient: args: expected 2 or more .* got 1"):
        fl.check_gradient(Wrong(), np.ones((2, 3)), b=np.ones((2, 3)))
    for bad in (["a"], np.ones(1, complex)):
        with pytest.raises(TypeError, match=r"^check_gradient: args\[0\]: expected numbers, got"):
            fl.check_gradient(fl.mse_loss, bad, [0.0])

    class Shape(Wrong):
        def value_and_grad(self, a, b, **options):
            return self(a, b), np.zeros(2)

    with pytest.raises(
        ValueError, match=r"^check_gradient: .*argument 0's shape \(3,\), got \(2,\)"
    ):
        fl.check_gradient(Shape(), np.ones(3), np.ones(3))


# grad_norm, clip_grad_norm


def test_clipping_is_torchs(rng):
    torch = pytest.importorskip("torch")
    grads = [rng.standard_normal(s).astype(np.float32) for s in ((300, 40), (7,), ())]
    twins = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads]
    for twin, g in zip(twins, grads, strict=True):
        twin.grad = torch.tensor(g)
    want = float(torch.nn.utils.clip_grad_norm_(twins, 2.5))
    assert fl.grad_norm(grads) == pytest.approx(want, rel=1e-6)
    assert fl.clip_grad_norm(grads, 2.5) == pytest.approx(want, rel=1e-6)
    for twin, g in zip(twins, grads, strict=True):
        assert_allclose(g, twin.grad.numpy(), rtol=1e-6)
    assert fl.grad_norm(grads) == pytest.approx(2.5)


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e307, 5e-324 * 2**20, 1.0])
@pytest.mark.parametrize("n", [1, 100, 50_000])
def test_no_square_overflows_or_vanishes(scale, n, rng):
    x = rng.uniform(0.1, 0.9, n)
    x /= np.sqrt(np.sum(x * x))
    big = x * scale
    exact = math.sqrt(sum(Fraction(v) ** 2 for v in big[:100]) / Fraction(scale) ** 2) * scale
    assert fl.grad_norm(big[:100]) == pytest.approx(exact, rel=1e-14)
    assert fl.grad_norm([big, big]) == pytest.approx(math.sqrt(2) * scale, rel=1e-3)
    small = (x * 1e30).astype(np.float32)
    assert fl.grad_norm(small) == pytest.approx(1e30, rel=1e-6)
    # Of very different sizes, in one block and in two arrays.
    assert fl.grad_norm(np.append(big, 1e308)) == pytest.approx(math.hypot(scale, 1e308))
    assert fl.grad_norm([big, np.array(1e308)]) == pytest.approx(math.hypot(scale, 1e308))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", ">f4"])
def test_any_layout(dtype, rng):
    x = rng.standard_normal((60, 50, 8)).astype(dtype)
    norm = np.linalg.norm(x.astype(float).ravel())
    wide = np.zeros((120, 50, 16), dtype)
    wide[::2, :, ::2] = x
    layouts = [
        x.copy(),
        np.array(x, order="F"),
        wide[::2, :, ::2],
        x[::-1].copy()[::-1],
        list(x.copy()),
    ]
    for layout in layouts:
        assert fl.grad_norm(layout) == pytest.approx(norm, rel=1e-13)
        assert fl.clip_grad_norm(layout, 1e-6) == pytest.approx(norm, rel=1e-13)
        got = np.asarray(layout)
        assert got.dtype == x.dtype or isinstance(layout, list)
        want = (x.astype(float) * (1e-6 / norm)).astype(dtype).astype(float)
        assert_allclose(got.astype(float), want, rtol=1e-6, atol=1e-30)
    assert not wide[1::2].any() and not wide[..., 1::2].any()


def test_a_factor_below_half_precision_is_not_zero():
    x = np.full(4, 60000, np.float16)
    assert fl.clip_grad_norm(x, 1e-3) == 120000
    assert_allclose(x, 5e-4, rtol=1e-3)


def test_below_the_bound_nothing_changes(rng):
    x = rng.standard_normal(10)
    before = x.copy()
    norm = fl.grad_norm(x)
    for bound in (norm, 2 * norm, math.inf):
        assert fl.clip_grad_norm([x], bound) == norm
    assert_array_equal(x, before)
    fl.clip_grad_norm([x], 0)
    assert_array_equal(x, 0)
    assert fl.clip_grad_norm(x, 0) == 0


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf, 1.0], [np.inf, np.nan]])
def test_what_is_not_finite_is_reported(bad):
    grads = [np.ones(3), np.array(bad)]
    before = copy.deepcopy(grads)
    want = np.abs(np.array(bad)).max()
    assert_array_equal(fl.grad_norm(grads), want)
    assert_array_equal(fl.clip_grad_norm(grads, 1.0), want)
    with pytest.raises(
        ValueError, match=f"^clip_grad_norm: grads: expected a finite norm, got {want}"
    ):
        fl.clip_grad_norm(grads, 1.0, error_if_nonfinite=True)
    for a, b in zip(grads, before, strict=True):
        assert_array_equal(a, b)
    assert_array_equal(fl.grad_norm([np.array([np.inf]), np.array([np.nan])]), np.nan)


def test_no_gradients():
    for nothing in ([], (), np.zeros((0, 3)), [np.zeros(0)]):
        assert fl.grad_norm(nothing) == fl.clip_grad_norm(nothing, 1.0) == 0.0


def test_no_memory_of_the_gradients_size():
    grads = [np.ones((1000, 1000), np.float32).T, np.ones((2000, 500))[::2]]
    tracemalloc.start()
    fl.clip_grad_norm(grads, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


@pytest.mark.parametrize("function", [fl.grad_norm, lambda g: fl.clip_grad_norm(g, 1.0)])
def test_bad_gradients(function):
    x = np.ones(3)
    cases = [
        ([x, [1.0]], r"grads\[1\]: expected an array, got .*list"),
        (
            [x, np.ones(2, int)],
            r"grads\[1\]: expected float32, float64, float16, bfloat16, got int64",
        ),
        (
            np.ones(2, complex),
            "grads: expected float32, float64, float16, bfloat16, got complex128",
        ),
        (np.ones(2, np.longdouble), "grads: expected float32, float64, float16, bfloat16, got"),
        (1.0, "grads: expected an array or a sequence of arrays, got .*float"),
    ]
    for grads, message in cases:
        with pytest.raises(TypeError, match=rf"^(clip_)?grad_norm: {message}"):
            function(grads)
    assert_array_equal(x, 1)


def test_clipping_checks_before_it_writes():
    x, fixed = np.full(3, 9.0), np.ones(2)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match=r"^clip_grad_norm: grads\[1\]: expected a writeable"):
        fl.clip_grad_norm([x, fixed], 1.0)
    base = np.full(10, 9.0)
    for pair in (
        [x, x],
        [base, base[3:4]],
        [base[:5], x, base[4:]],
        [base[:9], base[1:2], base[8:]],
    ):
        with pytest.raises(ValueError, match=r"^clip_grad_norm: grads\[\d\]: overlaps grads\[\d\]"):
            fl.clip_grad_norm(pair, 1.0)
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match=r"^clip_grad_norm: max_norm: expected a number >= 0"):
            fl.clip_grad_norm(x, bad)
    with pytest.raises(TypeError, match=r"^clip_grad_norm: max_norm: expected a number >= 0"):
        fl.clip_grad_norm(x, "1")
    assert_array_equal(x, 9)
    assert_array_equal(base, 9)
    fl.clip_grad_norm([base[::2], base[1::2]], 1.0)
    assert fl.grad_norm(base) == pytest.approx(1)


@pytest.mark.parametrize(
    ("loss", "arrays"),
    [
        (fl.gaussian_nll_loss, ("real", "real", "positive")),  # of the first and the third
        (fl.triplet_margin_loss, ("real", "real", "real")),
        (fl.elbo_loss, ("real", "positive", "real", "real")),
        (fl.l2_penalty, (["real", "real"],)),
        (fl.perceptual_loss, (["real"], ["real"])),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_check_gradient_of_several_inputs(loss, arrays):
    rng = np.random.default_rng(0)

    def make(kind):
        if isinstance(kind, list):
            return [make(each) for each in kind]
        return rng.uniform(0.1, 0.9, (6, 4)) if kind == "positive" else rng.normal(size=(6, 4))

    args = [make(kind) for kind in arrays]
    check = fl.check_gradient(loss, *args)
    assert 0 < check.error < 1e-8
    assert len(check.index) == 2 + isinstance(args[check.argument], list)
