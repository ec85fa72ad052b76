"""weighted_sum: a loss that is a sum of losses."""

import math
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from samples import METHODS, every_method, inputs, results

SUMS = {
    "real": [(0.5, fl.mse_loss), (-2.0, fl.huber_loss.bind(delta=0.3)), (1.0, fl.huber_loss)],
    "binary": [(0.9, fl.binary_cross_entropy_with_logits), (0.1, fl.sigmoid_focal_loss)],
    "rows": [
        (1.5, fl.cross_entropy.bind(label_smoothing=0.2)),
        (1, fl.cross_entropy.bind(class_weight=[1.0, 2.0, 0.5, 1.0])),
    ],
    "columns": [(2.0, fl.cross_entropy.bind(axis=0))],
}
every_sum = pytest.mark.parametrize("terms", SUMS.values(), ids=SUMS)


def of(terms, seed=0, dtype=np.float64):
    pred, target = inputs(terms[-1][1], (6, 5), dtype, seed=seed)
    return (np.moveaxis(pred, -1, 0).copy() if terms is SUMS["columns"] else pred), target


@every_sum
@every_method
@pytest.mark.parametrize("reduction", [None, "mean", "batchmean", "sum", "none"])
def test_the_sum_of_the_terms(terms, method, reduction, rng, dtype):
    pred, target = of(terms, dtype=dtype)
    before = pred.copy()
    options = {} if reduction is None else {"reduction": reduction}
    options["sample_weight"] = rng.uniform(size=pred.shape[1:] if pred.shape[0] == 4 else 6)
    got = results(fl.weighted_sum(*terms), method, pred, target, **options)
    assert list(got) == list(METHODS[method])
    parts = [(w, results(loss, method, pred, target, **options)) for w, loss in terms]
    for name, result in got.items():
        want = sum(w * np.asarray(part[name], float) for w, part in parts)
        assert np.asarray(result).dtype == np.asarray(parts[0][1][name]).dtype
        assert_allclose(result, want, rtol=1e-5 if dtype == "f4" else 1e-12, atol=1e-6)
    if "l" in got and reduction != "none":
        assert type(got["l"]) is float
    assert_array_equal(pred, before)


@every_sum
def test_its_gradient(terms):
    pred, target = of(terms)
    assert fl.check_gradient(fl.weighted_sum(*terms), pred, target).error < 1e-2
    if terms is not SUMS["real"]:  # without kinks
        assert fl.check_gradient(fl.weighted_sum(*terms), pred, target).error < 1e-8


@every_method
def test_scalars_and_nothing(method):
    both = fl.weighted_sum((0.5, fl.mse_loss), (2.0, fl.huber_loss))
    got = results(both, method, 3.0, 1.0, reduction="none")
    assert_allclose(
        list(got.values()), [{"l": 5, "g": 4, "h": 1}[name] for name in METHODS[method]]
    )
    for name, value in results(both, method, [1.0], [0.0], mask=[False]).items():
        assert_array_equal(value, math.nan if name == "l" else [0.0])


def test_a_booster_gets_the_sum():
    terms = [(w, loss.bind(reduction="sum")) for w, loss in SUMS["binary"]]
    pred, target = of(terms)
    grad, hess = fl.weighted_sum(*terms).grad_and_hess(pred, target)
    want = fl.weighted_sum(*SUMS["binary"]).grad_and_hess(pred, target, reduction="sum")
    assert_array_equal([grad, hess], want)


def test_the_normalizer_where_there_is_one(rng):
    pred, target = of(SUMS["binary"])
    both = fl.weighted_sum(*SUMS["binary"])
    weight = rng.uniform(size=6)
    n = both.normalizer(pred, target, sample_weight=weight)
    assert n == fl.mse_loss.normalizer(pred, target, sample_weight=weight)
    parts = [
        both.grad(pred[i], target[i], sample_weight=weight[i], normalizer=n)
        for i in (slice(2), slice(2, 6))
    ]
    whole = both.grad(pred, target, sample_weight=weight)
    assert_allclose(np.concatenate(parts), whole, rtol=1e-12)
    pred, target = of(SUMS["rows"])
    with pytest.raises(
        ValueError, match=r"^weighted_sum: normalizer: expected .* one number, got 30"
    ):
        fl.weighted_sum(*SUMS["rows"]).normalizer(pred, target)


@every_sum
def test_sums_compare_and_pickle(terms):
    one = fl.weighted_sum(*terms)
    twin = pickle.loads(pickle.dumps(one))
    assert twin == one and hash(twin) == hash(one) and twin.kind == terms[0][1].kind
    (weight, loss), *rest = terms
    assert fl.weighted_sum((weight + 1, loss), *rest) != one
    assert fl.weighted_sum((weight, loss.bind(reduction="sum"))) != fl.weighted_sum((weight, loss))
    pred, target = of(terms)
    assert twin(pred, target) == one(pred, target)


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ([], ValueError, "terms: expected at least one pair"),
        (
            [fl.mse_loss],
            TypeError,
            r"terms\[0\]: expected \(weight, loss\), got <fastloss mse_loss>",
        ),
        ([(1, fl.mse_loss), (1, abs)], TypeError, r"terms\[1\]: expected \(weight, loss\), got"),
        ([("1", fl.mse_loss)], TypeError, r"terms\[0\]: expected a number, got '1'"),
        ([(math.nan, fl.mse_loss)], ValueError, r"terms\[0\]: expected a finite weight, got nan"),
        (
            [(1, fl.mse_loss), (1, fl.cross_entropy)],
            ValueError,
            r"terms\[1\]: expected the kind of terms\[0\], 'elementwise', got 'rows' \(cross_entr",
        ),
        (
            [(1, fl.mse_loss), (1, fl.mse_loss.bind(reduction="none"))],
            ValueError,
            r"terms\[1\]: expected the reduction of terms\[0\], 'mean', got 'none'",
        ),
        (
            [(1, fl.cross_entropy.bind(axis=1)), (1, fl.cross_entropy)],
            ValueError,
            r"terms\[1\]: expected the axis of terms\[0\], 1, got -1",
        ),
    ],
)
def test_bad_terms(terms, error, message):
    with pytest.raises(error, match=f"^weighted_sum: {message}"):
        fl.weighted_sum(*terms)


@every_method
@pytest.mark.parametrize("name", ["out", "delta", "axis"])
def test_other_arguments(method, name):
    x = np.ones(3)
    with pytest.raises(
        TypeError, match=f"^weighted_sum: unexpected argument '{name}'; it takes sam"
    ):
        getattr(fl.weighted_sum((1, fl.huber_loss)), method)(x, x, **{name: x})
    with pytest.raises(TypeError, match=r"^weighted_sum: unexpected argument 'delta'"):
        fl.weighted_sum((1, fl.huber_loss)).normalizer(x, x, delta=1.0)
