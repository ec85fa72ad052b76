"""Losses of which a row of each of several inputs is a sample: numbers, contract, PyTorch.

The exact numbers are the declared formula's on mpmath's, as in test_accuracy.py; the contract is
held against `reduction="none"`.
"""

import inspect
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from mpmath import mp, mpf
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from fastloss import _vectors
from oracle import BITS, Dual, _array, arguments, lift, m, settings, ulps

VECTORS = [loss for loss in fl.losses().values() if loss.kind == "vectors"]
ROWS, FEATURES = 6, 5
every_loss = pytest.mark.parametrize("loss", VECTORS, ids=lambda loss: loss.name)


def by_row(loss, name):
    """Whether the input is one number per row: a target of two values is."""
    return name == loss.checked and loss.domain.ends_only


def inputs(loss, lead=(ROWS,), features=FEATURES, dtype=np.float64, seed=0):
    """Valid arguments by their names."""
    rng = np.random.default_rng(seed)
    given = {}
    for name in arguments(loss):
        if by_row(loss, name):
            given[name] = rng.choice([loss.domain.low, loss.domain.high], lead)
        elif name == loss.checked:
            given[name] = rng.random((*lead, features))
        else:
            given[name] = rng.standard_normal((*lead, features))
    return {name: x.astype(dtype) for name, x in given.items()}


def samples(loss, features, dtype, rng):
    """Rows that are independent, nearly equal, nearly parallel, large and small."""
    parts = []
    for seed, (scale, near, factor) in enumerate(
        [(1, 1, 1), (1, 1e-3, 1), (1, 1e-6, 1), (3, 1e-7, 3), (30, 1, 1), (1e-3, 1e-9, 0.7)]
    ):
        part = inputs(loss, (5,), features, np.float64, seed)
        first = next(iter(part.values()))
        for name, x in part.items():
            if name != loss.checked:
                noise = rng.standard_normal(x.shape)
                x[...] = scale * (x if near == 1 or x is first else factor * first + near * noise)
        parts.append(part)
    return {k: np.concatenate([part[k] for part in parts]).astype(dtype) for k in parts[0]}


def exact(loss, row, knobs):
    """(loss, its unit) and for each input (gradient, its unit) per feature."""
    names = arguments(loss)
    with mp.workprec(BITS[np.asarray(row[names[0]]).dtype]):
        duals, plain, at = [], [], 0
        for name in names:
            x = np.atleast_1d(row[name])
            seeded = name in loss.inputs
            z = [
                Dual(float(v), {at + k: (mpf(1), mpf(0))} if seeded else None)
                for k, v in enumerate(x)
            ]
            at += len(x)
            duals.append(_array(z) if np.ndim(row[name]) else z[0])
            plain.append(_array([v.v for v in z]) if np.ndim(row[name]) else Dual(z[0].v))
        knobs = {k: knob.default for k, knob in loss.knobs.items()} | knobs
        knobs = {k: Dual(v) if isinstance(v, float) else v for k, v in knobs.items()}
        value = lift(loss.naive(m, *duals, **knobs))
        slopes = [value.d.get(k, (mpf(0), mpf(0)))[0] for k in range(at)]
        unit, units = loss.terms(m, *plain, **knobs) if loss.terms else (None, None)
        grads, at = {}, 0
        for name in names:
            n = np.size(row[name])
            if name in loss.inputs:
                term = None if units is None else units[loss.inputs.index(name)]
                each = [0] * n if term is None else [abs(lift(t).v) for t in term]
                grads[name] = list(zip(slopes[at : at + n], each, strict=True))
            at += n
        return (value.v, mpf(0) if unit is None else abs(lift(unit).v)), grads


@every_loss
@pytest.mark.parametrize("features", [1, 3, 40])
def test_numbers_are_within_the_declared_bounds(loss, features, dtype):
    """In float32, whose sums are of float64, the terms that cancel lose nothing of their own."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(0)
    own = float(np.finfo(np.float64).eps) / float(np.finfo(dtype).eps)
    for knobs in settings(loss, rng):
        given = samples(loss, features, dtype, rng)
        values, grads = loss.value_and_grad(**given, reduction="none", **knobs)
        bounds = loss.bounds(**knobs)
        for i in rng.choice(len(values), 3 if features == 40 else 12, replace=False):
            row = {name: x[i] for name, x in given.items()}
            if len({row[name].tobytes() for name in loss.inputs}) < len(loss.inputs):
                continue  # the plain formula has no gradient where rows coincide
            (value, unit), slopes = exact(loss, row, knobs)
            assert ulps(values[i], value, unit * own) <= bounds[0], (knobs, row)
            for grad, (name, want) in zip(grads, slopes.items(), strict=True):
                for got, (slope, unit) in zip(grad[i], want, strict=True):
                    slope = slope if value else mpf(0)  # at a kink 0
                    assert ulps(got, slope, unit * own) <= bounds[1], (knobs, name, row)


def test_rows_that_are_nearly_parallel_or_close_keep_their_digits():
    x = np.array([[1.0, 1e-9], [1.0, 0.0], [1.0, 1e-170], [2.0, 0.0]])
    y = np.array([[1.0, 0.0], [1.0, 1e-12], [1.0, 0.0], [1.0, 0.0]])
    want = [5e-19, 5e-25, 0, 0]
    got = fl.cosine_distance_loss(x, y, reduction="none")
    assert_allclose(got, want, 1e-15)
    with_eps = fl.cosine_embedding_loss(x, y, np.ones(4), reduction="none")
    for a, b, value in zip(x, y, with_eps, strict=True):
        (exactly, _), _ = exact(fl.cosine_embedding_loss, {"x1": a, "x2": b, "target": 1.0}, {})
        assert ulps(value, exactly) <= 4
    for log_var in (1e-3, -1e-8, 1e-15, 1e-100, -0.4999, 0.4999, 0.5, -0.5, 3.0, -30.0):
        close = fl.elbo_loss([[1.0]], [[1.0]], [[0.0]], [[log_var]], likelihood="gaussian")
        with mp.workprec(2400):
            assert ulps(np.float64(close), (mp.exp(log_var) - 1 - mpf(log_var)) / 2) <= 4


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e160, 1e200])
def test_squares_may_leave_the_range_of_numbers(scale):
    x, y = np.random.default_rng(0).standard_normal((2, 4, 3))
    want, (slope, _) = fl.cosine_distance_loss.value_and_grad(x, y)
    got, (grad, _) = fl.cosine_distance_loss.value_and_grad(scale * x, y)
    assert_allclose(got, want, 1e-14)
    assert_allclose(grad * scale, slope, 1e-13)
    for p in (1, 2, 3.5):
        args = (scale * x, scale * y, scale * y[::-1])
        value = fl.triplet_margin_loss(*args, margin=0, eps=0, p=p)
        want = fl.triplet_margin_loss(x, y, y[::-1], margin=0, eps=0, p=p)
        assert_allclose(value / scale, want, 1e-13)
    _, (grad, _) = fl.contrastive_loss.value_and_grad(
        scale * x, scale * y, np.zeros(4), margin=5 * scale, reduction="sum"
    )
    _, (slope, _) = fl.contrastive_loss.value_and_grad(x, y, np.zeros(4), margin=5, reduction="sum")
    assert_allclose(grad / scale, slope, 1e-13)


@every_loss
def test_zero_distance_and_zero_norm(loss, dtype):
    """Nothing is nan, of rows that coincide and of rows of zeros, together and in one input."""
    for knobs in settings(loss, np.random.default_rng(0)):
        for zeros in (loss.inputs, *zip(loss.inputs, strict=True)):
            given = inputs(loss, dtype=dtype)
            for name in zeros:
                given[name][...] = 0
            value, grads = loss.value_and_grad(**given, **knobs)
            assert np.isfinite(value) and all(np.isfinite(grad).all() for grad in grads), knobs
        given = inputs(loss, dtype=dtype)
        same = {k: x if by_row(loss, k) else np.tile(x[:1], (ROWS, 1)) for k, x in given.items()}
        _, grads = loss.value_and_grad(**same, **knobs)
        assert all(np.isfinite(grad).all() for grad in grads), knobs


def test_gradients_at_zero_are_zero():
    x, y, zeros = np.ones((1, 3)), np.full((1, 3), 2.0), np.zeros((1, 3))
    for target in (0, 1):
        assert not np.any(fl.contrastive_loss.grad(x, x, [target]))
    for p in (1, 2, 3):
        for squared in (False, True):
            a, b, c = fl.triplet_margin_loss.grad(x, x, y, margin=9, eps=0, p=p, squared=squared)
            assert not b.any()
            assert_array_equal(a, -c)
    for other in (y, zeros):
        for a, b in ((zeros, other), (other, zeros)):
            assert fl.cosine_distance_loss(a, b) == 1
            assert not np.any(fl.cosine_distance_loss.grad(a, b))
            for target in (-1, 1):
                assert not np.any(fl.cosine_embedding_loss.grad(a, b, [target], margin=-0.5))


@every_loss
def test_what_it_has(loss):
    for method in ("grad_and_hess", "value_grad_hess"):
        assert not hasattr(loss, method)
    names = list(inspect.signature(loss).parameters)
    assert set(loss.inputs) <= set(arguments(loss)) <= set(names)
    assert names[-1] == "out"
    given = inputs(loss)
    for again in (loss, loss.grad, loss.bind(reduction="sum")):
        assert_array_equal(pickle.loads(pickle.dumps(again))(**given), again(**given))
    for knobs in settings(loss, np.random.default_rng(0)):
        bound = loss.bind(**knobs, reduction="sum")
        assert bound(**given) == loss(**given, **knobs, reduction="sum")
        assert bound == loss.bind(**knobs, reduction="sum")


@every_loss
@pytest.mark.parametrize("weight", [None, 2.5, np.arange(6.0), np.arange(6) - 2])
@pytest.mark.parametrize("masked", [False, True])
def test_weights_masks_and_reductions(loss, weight, masked):
    given = inputs(loss)
    value, grads = loss.value_and_grad(**given, reduction="none")
    w = np.array(np.broadcast_to(1.0 if weight is None else weight, ROWS), float)
    options = {} if weight is None else {"sample_weight": weight}
    if masked:
        options["mask"] = np.arange(ROWS) % 3 > 0
        w[~options["mask"]] = 0
        for x in given.values():
            x[~options["mask"]] = np.nan
    divisors = {"mean": w.sum(), "batchmean": ROWS, "sum": 1, "none": 1}
    for reduction, divisor in divisors.items():
        got, found = loss.value_and_grad(**given, **options, reduction=reduction)
        weighed = w * value
        want = weighed if reduction == "none" else weighed.sum() / divisor
        assert_allclose(got, want, 1e-13, 1e-15)
        for g, slope in zip(found, grads, strict=True):
            assert_allclose(g, w[:, None] * slope / divisor, 1e-13, 1e-15)
            assert not g[w == 0].any()
        assert_array_equal(loss(**given, **options, reduction=reduction), got)
        for g, same in zip(loss.grad(**given, **options, reduction=reduction), found, strict=True):
            assert_array_equal(g, same)
    assert loss.normalizer(**given, **options) == w.sum()
    got, found = loss.value_and_grad(**given, **options, normalizer=7.0)
    assert got == pytest.approx((w * value).sum() / 7)
    for g, slope in zip(found, grads, strict=True):
        assert_allclose(g, w[:, None] * slope / 7, 1e-13, 1e-15)


@every_loss
@pytest.mark.parametrize("lead", [(), (1,), (3, 4), (2, 3, 2), (0,), (2, 0)])
@pytest.mark.parametrize("block", [1, 7, 20, 1000])
def test_leading_axes_and_blocks(loss, lead, block, monkeypatch):
    """Rows are rows, however many axes they are on and however many are taken at a time."""
    given = inputs(loss, lead)
    flat = {
        k: x.reshape(-1) if by_row(loss, k) else x.reshape(-1, FEATURES) for k, x in given.items()
    }
    want, slopes = loss.value_and_grad(**flat, reduction="none")
    monkeypatch.setattr(_vectors, "BLOCK", block)
    value, grads = loss.value_and_grad(**given, reduction="none")
    assert isinstance(value, np.ndarray) and value.shape == lead
    assert_array_equal(value.ravel(), want)
    for grad, slope in zip(grads, slopes, strict=True):
        assert_array_equal(grad.reshape(-1, FEATURES), slope)
    if lead == (3, 4):
        weight, mask = np.arange(3.0), np.arange(12).reshape(lead) % 5 > 0
        got = loss(**given, sample_weight=weight, mask=mask, reduction="sum")
        assert got == pytest.approx((value * mask * weight[:, None]).sum())


@every_loss
def test_long_rows_are_summed_in_pieces(loss, monkeypatch):
    given = inputs(loss, (3,), 1000)
    want, slopes = loss.value_and_grad(**given)
    monkeypatch.setattr(_vectors, "PIECE", 64)
    got, grads = loss.value_and_grad(**given)
    assert_allclose(got, want, 1e-13)
    for grad, slope in zip(grads, slopes, strict=True):
        assert_allclose(grad, slope, 1e-11, 1e-16)


@every_loss
def test_layouts_and_dtypes(loss):
    given = inputs(loss)
    want, slopes = loss.value_and_grad(**given, reduction="none")
    for change in (
        np.asfortranarray,
        lambda x: x.repeat(2, axis=-1)[..., ::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.astype(x.dtype.newbyteorder()),
        lambda x: x.tolist(),
        lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),  # read-only
    ):
        changed = {name: change(x) for name, x in given.items()}
        value, grads = loss.value_and_grad(**changed, reduction="none")
        assert_array_equal(value, want)
        assert_array_equal(grads, slopes)
    narrow = {name: x.astype(np.float32) for name, x in given.items()}
    value, grads = loss.value_and_grad(**narrow, reduction="none")
    assert all(a.dtype == np.float32 for a in (value, *grads))
    assert_allclose(value, want, 1e-5, 1e-5)
    first = loss.inputs[0]
    value, grads = loss.value_and_grad(**{**given, first: narrow[first]}, reduction="none")
    assert [value.dtype, *(g.dtype for g in grads[:2])] == [np.float64, np.float32, np.float64]
    whole = {name: np.ones_like(x, int) for name, x in given.items()}
    assert all(grad.dtype == np.float64 for grad in loss.grad(**whole))


@every_loss
def test_nothing_kept(loss):
    empty = {name: x[:0] for name, x in inputs(loss).items()}
    cases = [(empty, {})]
    cases += [(inputs(loss), {"mask": np.zeros(ROWS, bool)}), (inputs(loss), {"sample_weight": 0})]
    cases += [(inputs(loss), {"sample_weight": [1, -1, 2, -2, 3, -3]})]
    for given, options in cases:
        value, grads = loss.value_and_grad(**given, **options)
        assert np.isnan(value)
        for grad in grads:
            assert_array_equal(grad, np.zeros(grad.shape))
        if "sample_weight" not in options:
            assert loss(**given, **options, reduction="sum") == 0
    none = {k: x if by_row(loss, k) else x[:, :0] for k, x in inputs(loss).items()}
    assert all(grad.shape == (ROWS, 0) for grad in loss.grad(**none))


@every_loss
def test_out(loss):
    given = inputs(loss)
    want, slopes = loss.value_and_grad(**given)
    n = len(loss.inputs)
    for form in (lambda *g: (None, g), lambda *g: g):
        made = tuple(np.empty((n, ROWS, FEATURES)))
        got, grads = loss.value_and_grad(**given, out=form(*made))
        assert got == want
        assert all(a is b for a, b in zip(grads, made, strict=True))
        assert_array_equal(grads, slopes)
    for form in (lambda a: (*(None,) * (n - 1), a), lambda a: ((*(None,) * (n - 1), a),)):
        a = np.empty((FEATURES, ROWS), np.float32).T
        grads = loss.grad(**given, out=form(a))
        assert grads[-1] is a
        assert_allclose(a, slopes[-1], 1e-6)
        assert_array_equal(grads[:-1], slopes[:-1])
    each = np.empty(ROWS)
    value, _ = loss.value_and_grad(**given, out=(each, None), reduction="none")
    assert value is each
    assert loss(**given, out=(each,), reduction="none") is each
    # Each over its own input, all at once.
    loss.grad(**given, out=tuple(given[name] for name in loss.inputs))
    assert_array_equal([given[name] for name in loss.inputs], slopes)


@every_loss
def test_out_that_does_not_fit(loss):
    given = inputs(loss)
    n = len(loss.inputs)
    first, last = given[loss.inputs[0]], given[loss.inputs[-1]]
    a = np.full((ROWS, FEATURES), 7.0)
    rest = (None,) * (n - 1)
    for out, kind, message in (
        (a, TypeError, "out: expected a tuple"),
        ((a,) * (n + 1), ValueError, f"out: expected a tuple of {n}"),
        ((None, (a,)), ValueError, f"out: expected a tuple of {n}"),
        ((a,) * n, ValueError, "out: two of the arrays overlap"),
        ((None, (a[:3], *rest)), ValueError, r"out: expected shape \(6, 5\), got \(3, 5\)"),
        ((None, (last, *rest)), ValueError, f"out: overlaps {loss.inputs[-1]}; only its grad"),
        ((None, (*rest, first)), ValueError, f"out: overlaps {loss.inputs[0]}; only its grad"),
        ((None, (*rest, last[::-1])), ValueError, f"out: overlaps {loss.inputs[-1]}"),
        ((a[:, 0], (None, *rest)), ValueError, "out: the loss is a float with reduction='mean'"),
    ):
        before = {name: x.copy() for name, x in given.items()}
        with pytest.raises(kind, match=f"{loss.name}: {message}"):
            loss.value_and_grad(**given, out=out)
        assert (a == 7).all()
        for name, x in before.items():
            assert_array_equal(given[name], x)


@every_loss
def test_errors(loss):
    given = inputs(loss)
    first = loss.inputs[0]
    for name in arguments(loss)[1:]:
        wrong = given[name][:5]
        with pytest.raises(ValueError, match=rf"{loss.name}: {name}: expected .*, got .*\(5"):
            loss(**{**given, name: wrong})
        with pytest.raises(ValueError, match=rf"{loss.name}: {name}: expected .*, got .*\(\)"):
            loss(**{**given, name: 1.0})
    with pytest.raises(ValueError, match=f"{loss.name}: {first}: expected rows of features"):
        loss(**{**given, first: 1.0})
    for name in arguments(loss):
        with pytest.raises(TypeError, match=f"{loss.name}: {name}: expected float32"):
            loss(**{**given, name: given[name].astype(complex)})
    for name in ("weight", "num_threads"):
        with pytest.raises(TypeError, match=f"{loss.name}: unexpected argument '{name}'"):
            loss(**given, **{name: 1})
    with pytest.raises(ValueError, match=f"{loss.name}: reduction"):
        loss(**given, reduction="median")
    with pytest.raises(ValueError, match=f"{loss.name}: normalizer"):
        loss(**given, normalizer=0)
    for options in ({"sample_weight": np.ones(5)}, {"mask": np.ones((ROWS, FEATURES), bool)}):
        with pytest.raises(ValueError, match=f"{loss.name}: .*: expected a scalar, the leading"):
            loss(**given, **options)
    for name, knob in loss.knobs.items():
        words = hasattr(knob.check, "words")
        for wrong, kind in (
            (3.5 if words else "one", TypeError),
            ("x" if words else -2, ValueError),
        ):
            for call in (lambda **k: loss(**given, **k), loss.bind):
                with pytest.raises(kind, match=f"{loss.name}: {name}: expected"):
                    call(**{name: wrong})


@pytest.mark.parametrize(
    "loss", [x for x in VECTORS if np.isfinite(x.domain.low)], ids=lambda loss: loss.name
)
def test_first_bad_target_is_named(loss):
    given = inputs(loss)
    at = (2,) if by_row(loss, loss.checked) else (2, 3)
    given[loss.checked][at] = given[loss.checked][4] = 1.5
    shown = ", ".join(map(str, at))
    message = rf"{loss.name}: target\[{shown}\] = 1.5 is not in "
    before = {name: x.copy() for name, x in given.items()}
    for options in ({}, {"reduction": "sum"}, {"sample_weight": np.ones(ROWS)}):
        with pytest.raises(ValueError, match=message):
            loss.grad(**given, **options, out=tuple(given[name] for name in loss.inputs))
        with pytest.raises(ValueError, match=message):
            loss.normalizer(**given, **options)
    for name, x in before.items():
        assert_array_equal(given[name], x)
    keep = np.ones(ROWS, bool)
    keep[[2, 4]] = False
    assert np.isfinite(loss(**given, mask=keep))
    assert np.isfinite(loss(**given, sample_weight=keep.astype(int)))


def test_gaussian_targets_are_real_and_images_of_latents():
    """The features of the data and of the latents are as many as they are."""
    rng = np.random.default_rng(0)
    recon, target = rng.standard_normal((2, 4, 7))
    mu, log_var = rng.standard_normal((2, 4, 3))
    with pytest.raises(ValueError, match=r"elbo_loss: target\[0, 0\]|target\["):
        fl.elbo_loss(recon, target, mu, log_var)
    got = fl.elbo_loss(recon, target, mu, log_var, likelihood="gaussian", reduction="none", beta=2)
    kl = (np.exp(log_var) + mu**2 - 1 - log_var).sum(-1)
    assert_allclose(got, ((recon - target) ** 2).sum(-1) / 2 + kl, 1e-14)
    with pytest.raises(ValueError, match=r"log_var: expected mu's shape \(4, 3\), got \(4, 7\)"):
        fl.elbo_loss(recon, abs(target), mu, recon)
    with pytest.raises(ValueError, match=r"mu: expected recon's leading axes \(4,\)"):
        fl.elbo_loss(recon, abs(target), mu[:2], log_var[:2])


@every_loss
def test_nan_stays_in_its_row(loss):
    for knobs in settings(loss, np.random.default_rng(0)):
        for name in arguments(loss):
            given = inputs(loss)
            given[name][(2,) if by_row(loss, name) else (2, 1)] = np.nan
            value, grads = loss.value_and_grad(**given, reduction="none", **knobs)
            assert_array_equal(np.isnan(value), np.arange(ROWS) == 2)
            nan = [np.isnan(grad).any(-1) for grad in grads]
            assert np.any(nan, 0)[2]
            assert not np.delete(nan, 2, axis=1).any()


@every_loss
def test_no_warning_whatever_the_numbers(loss, dtype):
    given = inputs(loss, (40,), dtype=dtype)
    largest = np.finfo(dtype).max
    wild = [np.inf, -np.inf, np.nan, largest, -largest, 0, np.finfo(dtype).tiny, 1e-45, 1e30]
    rng = np.random.default_rng(0)
    for name in loss.inputs:
        at = rng.random(given[name].shape) < 0.3
        given[name][at] = rng.choice(wild, at.sum())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for knobs in settings(loss, rng):
            for reduction in ("mean", "none"):
                loss.value_and_grad(**given, **knobs, reduction=reduction)


@every_loss
def test_no_input_is_copied(loss):
    given = inputs(loss, (20000,), 50, np.float32)
    given = {k: x if by_row(loss, k) else np.asfortranarray(x) for k, x in given.items()}
    out = tuple(np.empty((20000, 50), np.float32) for _ in loss.inputs)
    tracemalloc.start()
    try:
        loss.value_and_grad(**given, out=out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6  # blocks of 256 KiB, where an input has 4 MB


def reference(torch, loss, x, knobs):
    """PyTorch's losses of each row, composed where torch.nn.functional does not have it."""
    functional = torch.nn.functional
    if loss.torch and all(loss.torch.knobs.get(name, name) for name in knobs):
        return getattr(functional, loss.torch.name)(*x.values(), reduction="none", **knobs)
    if loss is fl.triplet_margin_loss:
        squared, swap = (knobs.pop(name, False) for name in ("squared", "swap"))
        p, eps, margin = (
            knobs.pop(name, loss.knobs[name].default) for name in ("p", "eps", "margin")
        )

        def distance(a, b):
            return functional.pairwise_distance(a, b, p, eps) ** (2 if squared else 1)

        a, positive, negative = x.values()
        far = distance(a, negative)
        far = torch.minimum(far, distance(positive, negative)) if swap else far
        return torch.relu(margin + distance(a, positive) - far)
    if loss is fl.contrastive_loss:
        d = functional.pairwise_distance(x["x1"], x["x2"], eps=0)
        y = x["target"]
        return y * d**2 + (1 - y) * torch.relu(knobs.get("margin", 1) - d) ** 2
    if loss is fl.cosine_distance_loss:
        return 1 - functional.cosine_similarity(x["x1"], x["x2"])
    assert loss is fl.elbo_loss
    normal = torch.distributions.Normal
    recon, target = x["recon"], x["target"]
    if knobs.get("likelihood") == "gaussian":
        rebuilt = (recon - target) ** 2 / 2
    else:
        rebuilt = functional.binary_cross_entropy_with_logits(recon, target, reduction="none")
    kl = torch.distributions.kl_divergence(
        normal(x["mu"], (x["log_var"] / 2).exp()), normal(torch.zeros(()).double(), 1.0)
    )
    return rebuilt.sum(-1) + knobs.get("beta", 1) * kl.sum(-1)


@every_loss
def test_pytorch(loss):
    torch = pytest.importorskip("torch")
    for knobs in settings(loss, np.random.default_rng(0)):
        if knobs.get("margin") == 0 and loss.torch and "swap" in loss.knobs:
            continue  # an error there
        given = inputs(loss, (50,))
        x = {k: torch.tensor(v, requires_grad=k in loss.inputs) for k, v in given.items()}
        want = reference(torch, loss, x, dict(knobs))
        want.sum().backward()
        value, grads = loss.value_and_grad(**given, reduction="none", **knobs)
        assert_allclose(value, want.detach().numpy(), 1e-9, 1e-12)
        for name, grad in zip(loss.inputs, grads, strict=True):
            assert_allclose(grad, x[name].grad.numpy(), 1e-9, 1e-12)
        mean = loss(**given, **knobs)
        assert_allclose(mean, want.mean().item(), 1e-9)


def test_pytorchs_gradients_are_ours_but_at_zero_norm():
    torch = pytest.importorskip("torch")
    x1, x2 = np.ones((2, 3)), np.array([[1.0, 2, 3], [0, 0, 0]])
    a, b = (torch.tensor(x, requires_grad=True) for x in (x1, x2))
    value = torch.nn.functional.cosine_embedding_loss(a, b, torch.ones(2))
    value.backward()
    got, (first, second) = fl.cosine_embedding_loss.value_and_grad(x1, x2, [1, 1])
    assert got == pytest.approx(value.item())
    assert_allclose(first, a.grad.numpy(), 1e-12, 1e-15)
    assert_allclose(second[0], b.grad[0].numpy(), 1e-12, 1e-15)
    assert abs(b.grad[1].numpy()).min() > 1e5
    assert not second[1].any()
