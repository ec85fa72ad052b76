"""Losses of two inputs: a gradient for each, and the contract of the common arguments.

The numbers of single samples are test_accuracy.py's; here `reduction="none"` is what the rest is
held against.
"""

import inspect
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from oracle import arguments, settings

PAIRS = [loss for loss in fl.losses().values() if loss.kind == "pairs"]
SHAPE = (6, 5)
every_pair = pytest.mark.parametrize("loss", PAIRS, ids=lambda loss: loss.name)


def inputs(loss, shape=SHAPE, dtype=np.float64):
    """Valid arguments by their names."""
    rng = np.random.default_rng(0)
    given = {name: 2 * rng.standard_normal(shape) for name in arguments(loss)}
    domain = loss.domain
    if domain.ends_only:
        given[loss.checked] = rng.choice([domain.low, domain.high], shape)
    elif np.isfinite(domain.low):
        given[loss.checked] = domain.low + rng.uniform(0.2, 3, shape)
    return {name: x.astype(dtype) for name, x in given.items()}


@every_pair
def test_what_it_has(loss):
    for method in ("grad_and_hess", "value_grad_hess"):
        assert not hasattr(loss, method)
    names = list(inspect.signature(loss).parameters)
    assert names[:2] == arguments(loss)[:2]
    assert names[-1] == "num_threads"
    assert set(loss.inputs) <= set(names)
    for again in (loss, loss.grad, loss.bind(reduction="sum")):
        given = inputs(loss)
        assert_array_equal(pickle.loads(pickle.dumps(again))(**given), again(**given))


@every_pair
@pytest.mark.parametrize("weight", [None, 2.5, np.arange(6.0), np.arange(30.0).reshape(6, 5) - 9])
@pytest.mark.parametrize("masked", [False, True])
def test_weights_masks_and_reductions(loss, weight, masked):
    given = inputs(loss)
    value, grads = loss.value_and_grad(**given, reduction="none")
    w = np.broadcast_to(1.0 if weight is None else np.asarray(weight), SHAPE[: np.ndim(weight)])
    w = np.broadcast_to(w.reshape(w.shape + (1,) * (2 - w.ndim)), SHAPE).copy()
    options = {} if weight is None else {"sample_weight": weight}
    if masked:
        options["mask"] = np.arange(30).reshape(SHAPE) % 3 > 0
        w[~options["mask"]] = 0
        for x in given.values():
            x[~options["mask"]] = np.nan
    divisors = {"mean": w.sum(), "batchmean": 6, "sum": 1, "none": 1}
    for reduction, divisor in divisors.items():
        got, found = loss.value_and_grad(**given, **options, reduction=reduction)
        weighed = w * value
        assert_allclose(got, weighed if reduction == "none" else weighed.sum() / divisor, 1e-13)
        for g, want in zip(found, grads, strict=True):
            assert_allclose(g, w * want / divisor, 1e-13)
        assert_array_equal(loss(**given, **options, reduction=reduction), got)
        for g, same in zip(loss.grad(**given, **options, reduction=reduction), found, strict=True):
            assert_array_equal(g, same)
    assert loss.normalizer(**given, **options) == pytest.approx(w.sum())
    got = loss(**given, **options, normalizer=7.0)
    assert got == pytest.approx((w * value).sum() / 7)


@every_pair
def test_layouts_and_dtypes(loss):
    given = inputs(loss)
    want, grads = loss.value_and_grad(**given, reduction="none")
    for change in (
        np.asfortranarray,
        lambda x: x.repeat(2, axis=1)[:, ::2],
        lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
        lambda x: x.astype(x.dtype.newbyteorder()),
        lambda x: x.tolist(),
    ):
        changed = {name: change(x) for name, x in given.items()}
        got, found = loss.value_and_grad(**changed, reduction="none")
        assert_array_equal(got, want)
        assert_array_equal(found, grads)
    narrow = {name: x.astype(np.float32) for name, x in given.items()}
    got, found = loss.value_and_grad(**narrow, reduction="none")
    assert got.dtype == np.float32 == found[0].dtype == found[1].dtype
    assert_allclose(got, want, 1e-5, 1e-5)
    whole = {name: np.ones(4, int) for name in given}
    assert loss.grad(**whole)[1].dtype == np.float64


@every_pair
def test_nothing_kept(loss):
    empty = {name: x[:0] for name, x in inputs(loss).items()}
    for given, options in ((empty, {}), (inputs(loss), {"mask": np.zeros(SHAPE, bool)})):
        value, grads = loss.value_and_grad(**given, **options)
        assert np.isnan(value)
        assert loss(**given, **options, reduction="sum") == 0
        for grad in grads:
            assert_array_equal(grad, np.zeros(grad.shape))


@every_pair
def test_same_bits_for_any_threads(loss):
    given = inputs(loss, (600_000,), np.float32)
    want, grads = loss.value_and_grad(**given, num_threads=1)
    for threads in (2, 7):
        got, found = loss.value_and_grad(**given, num_threads=threads)
        assert got == want
        assert_array_equal(found, grads)
    small, found = loss.value_and_grad(
        **{k: v[1000:1301] for k, v in given.items()}, reduction="none"
    )
    assert_array_equal(found, [g[1000:1301] for g in loss.grad(**given, reduction="none")])
    assert_array_equal(small, loss(**given, reduction="none")[1000:1301])


@every_pair
def test_out(loss):
    given = inputs(loss)
    want, grads = loss.value_and_grad(**given)
    for form in (
        lambda a, b: (None, (a, b)),
        lambda a, b: (a, b),
    ):
        a, b = np.empty((2, *SHAPE))
        got, found = loss.value_and_grad(**given, out=form(a, b))
        assert got == want
        assert found[0] is a and found[1] is b
        assert_array_equal([a, b], grads)
    for form in (lambda a: (a, None), lambda a: ((a, None),)):
        a = np.empty(SHAPE)
        first, second = loss.grad(**given, out=form(a))
        assert first is a
        assert_array_equal([first, second], grads)
    # Each over its own input, both at once.
    copies = {name: x.copy() for name, x in given.items()}
    loss.grad(**copies, out=tuple(copies[name] for name in loss.inputs))
    assert_array_equal([copies[name] for name in loss.inputs], grads)


@every_pair
def test_out_that_does_not_fit(loss):
    given = inputs(loss)
    first, second = loss.inputs
    a = np.full(SHAPE, 7.0)
    for out, kind, message in (
        (a, TypeError, "out: expected a tuple"),
        ((a, a, a), ValueError, "out: expected a tuple of 2"),
        ((None, (a,)), ValueError, "out: expected a tuple of 2"),
        ((a, a), ValueError, "out: two of the arrays overlap"),
        ((None, (a, a[:3])), ValueError, r"out: expected shape \(6, 5\), got \(3, 5\)"),
        ((None, (given[second], None)), ValueError, f"out: overlaps {second}; only its gradient"),
        ((None, (None, given[first])), ValueError, f"out: overlaps {first}; only its gradient"),
        ((None, (None, given[second][::-1])), ValueError, f"out: overlaps {second}"),
    ):
        before = {name: x.copy() for name, x in given.items()}
        with pytest.raises(kind, match=f"{loss.name}: {message}"):
            loss.value_and_grad(**given, out=out)
        assert (a == 7).all()
        for name, x in before.items():
            assert_array_equal(given[name], x)


@every_pair
def test_errors(loss):
    given = inputs(loss)
    first, second = loss.inputs
    with pytest.raises(ValueError, match=rf"{second}: expected {first}'s shape \(6, 5\), got \(5"):
        loss(**{**given, second: np.ones(5)})
    with pytest.raises(TypeError, match=f"{loss.name}: {second}: expected float32"):
        loss(**{**given, second: np.ones(SHAPE, complex)})
    with pytest.raises(TypeError, match=f"{loss.name}: unexpected argument 'weight'"):
        loss(**given, weight=1)
    with pytest.raises(ValueError, match="reduction"):
        loss(**given, reduction="median")
    for name, knob in loss.knobs.items():
        if knob.check.low == 0 and not knob.check.also:
            with pytest.raises(ValueError, match=f"{loss.name}: {name}: expected a number"):
                loss(**given, **{name: -1.0})


@pytest.mark.parametrize(
    "loss", [loss for loss in PAIRS if np.isfinite(loss.domain.low)], ids=lambda loss: loss.name
)
def test_first_bad_value_is_named(loss):
    given = inputs(loss)
    given[loss.checked][2, 3] = given[loss.checked][4, 1] = loss.domain.low - 0.5
    at = rf"{loss.name}: {loss.checked}\[2, 3\] = -\d"
    for options in ({}, {"reduction": "sum"}, {"sample_weight": np.ones(6)}):
        with pytest.raises(ValueError, match=at):
            loss.value_and_grad(**given, **options)
    before = {name: x.copy() for name, x in given.items()}
    with pytest.raises(ValueError, match=at):
        loss.grad(**given, out=tuple(given[name] for name in loss.inputs))
    for name, x in before.items():
        assert_array_equal(given[name], x)
    kept = np.ones(6, bool)
    kept[[2, 4]] = False
    assert np.isfinite(loss(**given, mask=kept))
    given[loss.checked][kept] = np.nan
    assert np.isnan(loss(**given, mask=kept))


@every_pair
def test_nan_in_either_input(loss):
    for name in arguments(loss):
        given = inputs(loss)
        given[name][1, 2] = np.nan
        value, grads = loss.value_and_grad(**given, reduction="none")
        assert np.isnan(value[1, 2])
        assert np.isnan(value).sum() == 1
        assert all(np.isnan(grad).sum() <= 1 for grad in grads)
        assert any(np.isnan(grad[1, 2]) for grad in grads)


def composed(torch, name, x, knobs):
    """PyTorch's way to the losses that torch.nn.functional does not have."""
    if name == "gaussian_nll_with_log_var_loss":
        return torch.nn.functional.gaussian_nll_loss(
            x["pred"], x["target"], x["log_var"].exp(), reduction="none", eps=0, **knobs
        )
    if name == "gaussian_kl_loss":
        normal = torch.distributions.Normal
        posterior = normal(x["mu"], (x["log_var"] / 2).exp())
        return torch.distributions.kl_divergence(posterior, normal(0.0, 1.0))
    if name == "laplace_nll_loss":
        return -torch.distributions.Laplace(x["pred"], x["scale"]).log_prob(x["target"])
    if name == "student_t_nll_loss":
        df = knobs.get("df", 4.0)
        return -torch.distributions.StudentT(df, x["pred"], x["scale"]).log_prob(x["target"])
    return None


@every_pair
def test_pytorch(loss):
    torch = pytest.importorskip("torch")
    for knobs in settings(loss, np.random.default_rng(0)):
        given = inputs(loss)
        x = {k: torch.tensor(v, requires_grad=k in loss.inputs) for k, v in given.items()}
        if loss.torch:
            function = getattr(torch.nn.functional, loss.torch.name)
            want = function(*x.values(), reduction="none", **knobs)
        else:
            want = composed(torch, loss.name, x, knobs)
        want.sum().backward()
        value, grads = loss.value_and_grad(**given, reduction="none", **knobs)
        assert_allclose(value, want.detach().numpy(), 1e-9, 1e-12)
        above = given["var"] > knobs.get("eps", 0) if loss.checked == "var" else True
        for name, grad in zip(loss.inputs, grads, strict=True):
            right = np.where(above if name == "var" else True, x[name].grad.numpy(), 0)
            assert_allclose(grad, right, 1e-9, 1e-12)


def test_student_t_constant_at_any_df():
    """Its gamma functions cancel: at infinitely many degrees of freedom it is the normal's."""
    for df in (1e-3, 0.5, 1.0, 2.0, 31.9, 32.0, 1e3, 1e8, 1e300):
        value = fl.student_t_nll_loss([0.0], [0.0], [1.0], df=df)
        if df >= 1e8:
            assert value == pytest.approx(0.5 * np.log(2 * np.pi), rel=1e-8)
        else:
            special = pytest.importorskip("scipy.stats")
            assert value == pytest.approx(-special.t.logpdf(0, df), rel=1e-13)
