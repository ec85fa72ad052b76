"""`optimal_constant` and `link`: no constant nearby costs less; scikit-learn has the same."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from oracle import settings
from samples import CLASSES, LOSSES, every_setting, inputs, softness

LINKS = ("identity", "log", "logit", "half_logit", "multilogit", None)
with_constant = [loss for loss in LOSSES if loss.constant]


@every_setting
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_constant_nearby_costs_less(loss, knobs, dtype):
    if loss.constant is None:
        with pytest.raises(TypeError, match=f"^{loss.name}: optimal_constant: "):
            loss.optimal_constant(inputs(loss, (6,))[1], **knobs)
        return
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 4, 41) * rng.uniform(0.5, 1, 41)
    for soft in softness(loss):
        if soft and "ignore_index" in knobs:
            continue  # which needs labels
        target = inputs(loss, (41,), dtype, soft=soft)[1]
        best = loss.optimal_constant(target, weight, **knobs)

        def cost(constant, target=target):
            pred = np.full((41, *np.shape(constant)), constant, float)
            return loss(pred, target, sample_weight=weight, reduction="sum", **knobs)

        least = cost(best)
        assert np.isfinite(best).all() and np.isfinite(least)
        for size in (1e-3, 0.03, 1.0):
            for direction in rng.standard_normal((8, *np.shape(best))):
                near = cost(best + size * direction)
                assert not near < least - 1e-12 * abs(least)  # outside the domain it is nan
        bound = pickle.loads(pickle.dumps(loss.bind(reduction="mean", **knobs)))
        assert_array_equal(bound.optimal_constant(target, weight), best)
        if not soft:
            kept = weight > 0
            assert_allclose(
                loss.optimal_constant(target[kept], weight[kept], **knobs), best, 1e-12, 1e-12
            )


def test_links():
    assert {loss.link for loss in LOSSES} <= set(LINKS)
    assert all(loss.kind == "rows" for loss in LOSSES if loss.link == "multilogit")
    assert fl.poisson_nll_loss.bind(log_input=False).link == "identity"
    inverse = {
        "identity": lambda z: z,
        "log": np.exp,
        "logit": fl.sigmoid,
        "half_logit": lambda z: fl.sigmoid(2 * z),
        "multilogit": lambda z: fl.softmax(z)[1],
    }
    for loss in (fl.mse_loss, fl.poisson_nll_loss, fl.binary_cross_entropy_with_logits):
        mean = inverse[loss.link](loss.optimal_constant([0.0, 1.0, 1.0, 1.0]))
        assert_allclose(mean, 0.75, 1e-13)
    for loss in (fl.soft_margin_loss, fl.exponential_loss):
        assert_allclose(inverse[loss.link](loss.optimal_constant([-1, 1, 1, 1])), 0.75, 1e-13)
    assert_allclose(inverse["multilogit"](fl.cross_entropy.optimal_constant([0, 1, 1, 1])), 0.75)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "loss",
    # Their HuberLoss takes one step from the median.
    [loss for loss in with_constant if loss.sklearn and loss.sklearn.name != "HuberLoss"],
    ids=lambda loss: loss.name,
)
def test_scikit_learn(loss, weighted):
    module = pytest.importorskip("sklearn._loss.loss")
    target = inputs(loss, (61,))[1]
    weight = np.random.default_rng(0).uniform(0.1, 2, 61) if weighted else None
    for knobs in settings(loss, np.random.default_rng(0)):
        named = {loss.sklearn.knobs.get(name, name): value for name, value in knobs.items()}
        if None in named:
            continue
        if loss.kind == "rows":
            named = {"n_classes": CLASSES}
        theirs = getattr(module, loss.sklearn.name)(**named)
        want = theirs.fit_intercept_only(target.astype(float), weight)
        got = loss.optimal_constant(target, weight, **knobs)
        if loss.kind == "rows":  # theirs has the mean 0
            got = got - got.mean()
        assert_allclose(got, want, 1e-9)


@pytest.mark.parametrize("q", [0.0, 0.3, 0.5, 1.0])
def test_quantiles(q):
    target = np.random.default_rng(0).permutation(101).astype(float)
    assert fl.quantile_loss.optimal_constant(target, q=q) == 100 * q
    several = fl.multi_quantile_loss.bind(q=[q, 0.5])
    assert_array_equal(several.optimal_constant(target), [100 * q, 50])
    assert fl.quantile_loss.optimal_constant([1.0, 2.0], q=0.5) == 1.5
    assert fl.l1_loss.optimal_constant([1.0, 2.0, 7.0], [1, 1, 3]) == 7


def test_shapes_and_weights():
    target = np.arange(6.0).reshape(3, 2)
    assert fl.mse_loss.optimal_constant(target) == 2.5
    assert fl.mse_loss.optimal_constant(target, [0, 1, 0]) == 2.5
    assert fl.mse_loss.optimal_constant(target, [[0, 1]]) == 3
    assert fl.mse_loss.optimal_constant(7) == 7
    target = np.array([[0, 1], [1, 1], [0, 1]])
    got = fl.binary_cross_entropy_with_logits.optimal_constant(target, pos_weight=[3.0, 0.5])
    assert_allclose(got, np.log((3 + 1.5) / 2), 1e-14)


def test_classes():
    labels = np.array([0, 2, 2, -100])
    with np.errstate(divide="ignore"):
        want = np.log([1 / 3, 0, 2 / 3, 0])
    best = fl.cross_entropy.bind(ignore_index=-100)
    assert_allclose(best.optimal_constant(labels, n_classes=4), want, 1e-14)
    assert_allclose(best.optimal_constant(labels), want[:3], 1e-14)
    weighted = best.optimal_constant(labels, class_weight=[2, 1, 1, 1], label_smoothing=0.4)
    assert_allclose(np.exp(weighted), np.array([1.8, 0.3, 1.5, 0.3]) / 3.9, 1e-14)
    soft = np.array([[0.5, 0.25], [0.5, 0.75]])  # the classes on axis 0
    assert_allclose(fl.cross_entropy.optimal_constant(soft, axis=0), np.log([0.375, 0.625]))
    assert_allclose(
        fl.cross_entropy.optimal_constant(soft, [0, 1], axis=0), np.log([0.25, 0.75]), 1e-14
    )


def test_nothing_kept_and_nan():
    for loss in with_constant:
        target = inputs(loss, (5,))[1]
        options = {"n_classes": 3} if loss.kind == "rows" else {}
        assert np.isnan(loss.optimal_constant(target[:0], **options)).all()
        assert np.isnan(loss.optimal_constant(target, np.zeros(5), **options)).all()
        if loss.kind == "elementwise":
            assert np.isnan(loss.optimal_constant([np.nan, *target]))


def test_extremes():
    assert fl.poisson_nll_loss.optimal_constant([0, 0]) == -np.inf
    assert fl.binary_cross_entropy_with_logits.optimal_constant([1.0, 1.0]) == np.inf
    assert fl.log_cosh_loss.optimal_constant([-1e308, 1e308]) == 0
    assert fl.huber_loss.optimal_constant([3.0]) == 3


def test_errors():
    for call, kind, words in (
        (lambda: fl.poisson_nll_loss.optimal_constant([1, 2, -3]), ValueError, r"target\[2\] = -3"),
        (lambda: fl.mse_loss.optimal_constant([1], [-1.0]), ValueError, "sample_weight"),
        (lambda: fl.mse_loss.optimal_constant([1, 2], [1, 2, 3]), ValueError, "sample_weight"),
        (lambda: fl.mse_loss.optimal_constant([1], q=0.5), TypeError, "'q'"),
        (lambda: fl.mse_loss.optimal_constant([1], n_classes=2), TypeError, "'n_classes'"),
        (lambda: fl.quantile_loss.optimal_constant([1], q=2), ValueError, "q: "),
        (lambda: fl.cross_entropy.optimal_constant([0, 5], n_classes=3), ValueError, r"\[1\] = 5"),
        (lambda: fl.cross_entropy.optimal_constant([0, -1]), ValueError, r"target\[1\] = -1"),
        (lambda: fl.cross_entropy.optimal_constant([[0.5, 0.5]], n_classes=3), ValueError, "3"),
        (lambda: fl.cross_entropy.optimal_constant([[1.0]], ignore_index=1), ValueError, "labels"),
        (lambda: fl.softmax_focal_loss.optimal_constant([0]), TypeError, "optimal_constant"),
        (lambda: fl.cauchy_loss.optimal_constant([1.0]), TypeError, "optimal_constant"),
    ):
        with pytest.raises(kind, match=words):
            call()
    # What weighs nothing is not checked.
    assert fl.poisson_nll_loss.optimal_constant([-1, 1], [0, 2]) == 0
