"""Losses whose sample is a whole call: what is common to them, then each one's own rules.

What is common is held against the declaration's own formula in extended precision, with gradients
by central differences.
"""

import inspect
import pickle
import pydoc
import re
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from fastloss import contrastive, segmentation

SETS = [loss for loss in fl.losses().values() if loss.kind == "set"]
METHODS = ("__call__", "value_and_grad", "grad")


def _arrays(rng, *shapes):
    return tuple(rng.standard_normal(shape) for shape in shapes)


def _segments(rng):
    labels = rng.integers(3, size=(2, 4, 5))
    labels[0, 0, 0] = 0
    return rng.standard_normal((2, 4, 5, 3)), labels


TEMPERATURES = [{}, {"temperature": 3.0}, {"temperature": 0.002}]
OVERLAPS = [{}, {"smooth": 2.0, "per_sample": True}, {"ignore_index": 2, "from_logits": False}]
# A call of each loss, and knobs beside the defaults. The gradient is of the first argument, or, if
# it is a tuple and that is none, of as many arguments as it has entries.
CALLS = {
    "rmse_loss": (lambda rng: _arrays(rng, (6, 5), (6, 5)), [{}]),
    "l1_penalty": (lambda rng: (_arrays(rng, (6, 5), (4,), (2, 3, 1)),), [{}, {"strength": 0.3}]),
    "l2_penalty": (lambda rng: (list(_arrays(rng, (6, 5), (4,))),), [{}, {"strength": 0.3}]),
    "perceptual_loss": (
        lambda rng: tuple(_arrays(rng, (2, 3, 4), (5,)) for _ in range(2)),
        [{}, {"norm": "l2"}, {"weights": [0.3, 2.0], "norm": "l1"}],
    ),
    "dice_loss": (_segments, OVERLAPS),
    "tversky_loss": (_segments, [*OVERLAPS, {"alpha": 0.3, "beta": 1.7}]),
    "nt_xent_loss": (lambda rng: _arrays(rng, (5, 4), (5, 4)), TEMPERATURES),
    "supervised_contrastive_loss": (
        lambda rng: (*_arrays(rng, (7, 4)), np.array([3, -1, 3, 0, 0, 3, 9])),
        TEMPERATURES,
    ),
    "elastic_net_penalty": (lambda rng: _arrays(rng, (6, 5)), [{}, {"l1": 0.3, "l2": 0}]),
}
every_set = pytest.mark.parametrize("loss", SETS, ids=lambda loss: loss.name)
every_setting = pytest.mark.parametrize(
    ("loss", "knobs"),
    [
        pytest.param(loss, knobs, id=f"{loss.name}-{','.join(map(str, knobs.values()))}")
        for loss in SETS
        for knobs in CALLS[loss.name][1]
    ],
)


def call(loss):
    return CALLS[loss.name][0](np.random.default_rng(0))


def several(x):
    return isinstance(x, (tuple, list))


def differentiable(args, grad):
    """The arrays that the gradients are of, and the call with others in their place."""
    if not several(grad):
        return [args[0]], lambda leaves: (leaves[0], *args[1:])
    if several(args[0]):
        return list(args[0]), lambda leaves: (type(args[0])(leaves), *args[1:])
    n = len(grad)
    return list(args[:n]), lambda leaves: (*leaves, *args[n:])


def cast(x, dtype):
    """The floating arrays of an argument in another dtype."""
    if several(x):
        return type(x)(cast(part, dtype) for part in x)
    return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def naive(loss, args, knobs):
    defaults = {name: knob.default for name, knob in loss.knobs.items()}
    return loss.naive(np, *args, **defaults | knobs)


def differences(loss, args, grad, knobs):
    """The gradients by central differences of the formula in extended precision."""
    if np.dtype("g") == np.float64:
        pytest.skip("longdouble is float64 here")
    args = cast(args, np.longdouble)
    h = np.finfo(np.longdouble).eps ** (1 / 3)
    leaves, rebuilt = differentiable(args, grad)
    found = []
    for leaf in leaves:
        g = np.zeros_like(leaf)
        for i in np.ndindex(leaf.shape):
            kept = leaf[i]
            leaf[i] = kept + h
            up = naive(loss, rebuilt(leaves), knobs)
            leaf[i] = kept - h
            g[i] = (up - naive(loss, rebuilt(leaves), knobs)) / (2 * h)
            leaf[i] = kept
        found.append(g)
    return found


def flat(grad):
    return list(grad) if several(grad) else [grad]


@every_setting
def test_value_and_gradient_are_the_formulas(loss, knobs):
    args = call(loss)
    value, grad = loss.value_and_grad(*args, **knobs)
    assert type(value) is float
    assert_allclose(value, float(naive(loss, cast(args, np.longdouble), knobs)), 1e-13)
    wants = differences(loss, args, grad, knobs)
    for g, want in zip(flat(grad), wants, strict=True):
        assert g.dtype == np.float64
        assert_allclose(g, want.astype(float), 1e-9, 1e-11 * max(1, float(abs(want).max())))


@every_setting
def test_methods_agree(loss, knobs, dtype):
    args = cast(call(loss), dtype)
    value, grad = loss.value_and_grad(*args, **knobs)
    assert loss(*args, **knobs) == value
    again = loss.grad(*args, **knobs)
    assert type(again) is type(grad)
    for a, b in zip(flat(again), flat(grad), strict=True):
        assert a.dtype == dtype
        assert_array_equal(a, b)
    wide, wide_grad = loss.value_and_grad(*cast(args, np.float64), **knobs)
    rtol = 1e-5 if dtype == np.float32 else 0
    assert_allclose(value, wide, rtol)
    for a, b in zip(flat(grad), flat(wide_grad), strict=True):
        assert_allclose(a, b, rtol, rtol * abs(b).max())


LAYOUTS = {
    "contiguous": lambda a: a.copy(),
    "Fortran": np.asfortranarray,
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
}


def laid_out(x, layout):
    if several(x):
        return type(x)(laid_out(part, layout) for part in x)
    return layout(x) if isinstance(x, np.ndarray) and x.ndim else x


@every_setting
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_and_out(loss, knobs, layout):
    args = call(loss)
    value, grad = loss.value_and_grad(*args, **knobs)
    strided = tuple(laid_out(x, layout) for x in args)
    assert_allclose(loss(*strided, **knobs), value, 1e-13)
    filled = [layout(np.full(g.shape, 7.0)) for g in flat(grad)]
    out = type(grad)(filled) if several(grad) else filled[0]
    for method, given in (
        ("grad", out),
        ("grad", (out,)),
        ("value_and_grad", out),
        ("value_and_grad", (None, out)),
    ):
        for g in filled:
            g[...] = 7
        got = getattr(loss, method)(*strided, out=given, **knobs)
        got = got[1] if method == "value_and_grad" else got
        for a, b, want in zip(flat(got), filled, flat(grad), strict=True):
            assert a is b
            assert_allclose(a, want, 1e-12, 1e-15)
    # No array given where one could be.
    for given in (None, (None, None)):
        got = loss.value_and_grad(*args, out=given, **knobs)[1]
        for a, b in zip(flat(got), flat(grad), strict=True):
            assert_array_equal(a, b)
    assert loss(*args, out=(None,), **knobs) == value


@every_setting
def test_in_place(loss, knobs, dtype):
    args = cast(call(loss), dtype)
    value, grad = loss.value_and_grad(*args, **knobs)
    leaves, rebuilt = differentiable(args, grad)
    leaves = [leaf.copy() for leaf in leaves]
    out = type(grad)(leaves) if several(grad) else leaves[0]
    got, got_grad = loss.value_and_grad(*rebuilt(leaves), out=out, **knobs)
    assert got == value
    for a, leaf, want in zip(flat(got_grad), leaves, flat(grad), strict=True):
        assert a is leaf
        assert_array_equal(a, want)


@every_setting
def test_inputs_are_left_alone(loss, knobs):
    args = call(loss)
    arrays = [a for x in args for a in (x if several(x) else [x]) if isinstance(a, np.ndarray)]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    loss.value_and_grad(*args, **knobs)
    for a, b in zip(arrays, before, strict=True):
        assert_array_equal(a, b)


def raises(error, loss, *words):
    return pytest.raises(error, match="".join(f"(?=.*{re.escape(w)})" for w in (loss.name, *words)))


@every_set
def test_bad_out_is_named(loss):
    args = call(loss)
    grad = loss.grad(*args)
    leaves, rebuilt = differentiable(args, grad)

    def given(bad):
        rest = [np.zeros(g.shape) for g in flat(grad)[1:]]
        return type(grad)([bad, *rest]) if several(grad) else bad

    shape = leaves[0].shape
    for error, bad, word in (
        (TypeError, "out", "ndarray"),
        (TypeError, np.zeros(shape, int), "int64"),
        (TypeError, np.zeros(shape, np.complex64), "complex64"),
        (ValueError, np.zeros((*shape, 1)), str(shape)),
        (ValueError, np.broadcast_to(0.0, shape), "read-only"),
    ):
        with raises(error, loss, "out", word):
            loss.grad(*args, out=given(bad))
        with raises(error, loss, "out", word):
            loss.value_and_grad(*args, out=(None, given(bad)))
    buffer = np.zeros(leaves[0].size + 1)
    buffer[:-1] = leaves[0].ravel()
    inside = buffer[:-1].reshape(shape)
    with raises(ValueError, loss, "out", "overlaps"):
        loss.grad(*rebuilt([inside, *leaves[1:]]), out=given(buffer[1:].reshape(shape)))
    assert_array_equal(inside, leaves[0])
    for bad in ((None,) * 17, ()):
        with raises((TypeError, ValueError), loss, "out"):
            loss.value_and_grad(*args, out=bad)
    with raises(ValueError, loss, "out", "float"):
        loss(*args, out=(np.zeros(()),))
    with raises(ValueError, loss, "out", "float"):
        loss.value_and_grad(*args, out=(np.zeros(()), given(np.zeros(shape))))
    if several(grad) and len(grad) > 1:
        shared = np.zeros(max(leaf.size for leaf in leaves))
        both = [shared[: leaf.size].reshape(leaf.shape) for leaf in leaves]
        with raises(ValueError, loss, "out", "overlap"):
            loss.grad(*args, out=type(grad)(both))
        with raises(ValueError, loss, "out", str(len(grad))):
            loss.grad(*args, out=(None,) * (len(grad) + 1))
        with raises(TypeError, loss, "out", "tuple"):
            loss.grad(*args, out=np.zeros(shape))


@every_set
def test_knobs_are_checked_by_call_and_bind(loss):
    args = call(loss)
    for name, knob in loss.knobs.items():
        for value in (1j, object()):
            for method in METHODS:
                with raises(TypeError, loss, name):
                    getattr(loss, method)(*args, **{name: value})
            with raises(TypeError, loss, name):
                loss.bind(**{name: value})
        bad = "average" if hasattr(knob.check, "words") else -2.0 if knob.check else None
        if bad is not None:
            for function in (lambda **k: loss.grad(*args, **k), loss.bind):
                with raises(ValueError, loss, name, repr(bad)):
                    function(**{name: bad})
    for function in (lambda **k: loss(*args, **k), lambda **k: loss.grad(*args, **k), loss.bind):
        for unknown in ("tempreature", "reduction", "normalizer"):
            with raises(TypeError, loss, repr(unknown)):
                function(**{unknown: 2.0})
    if "num_threads" in loss.common:
        for error, bad in ((ValueError, 0), (TypeError, 1.5)):
            with raises(error, loss, "num_threads"):
                loss(*args, num_threads=bad)
            with raises(error, loss, "num_threads"):
                loss.bind(num_threads=bad)


@every_setting
def test_bind_is_the_call_with_those_defaults(loss, knobs):
    args = call(loss)
    settings = knobs | ({"num_threads": 1} if "num_threads" in loss.common else {})
    bound = loss.bind(**settings)
    for twin in (bound, pickle.loads(pickle.dumps(bound))):
        assert twin == bound and hash(twin) == hash(bound) and isinstance(twin, fl.Loss)
        value, grad = twin.value_and_grad(*args)
        want, want_grad = loss.value_and_grad(*args, **settings)
        assert value == want
        for a, b in zip(flat(grad), flat(want_grad), strict=True):
            assert_array_equal(a, b)
    assert pickle.loads(pickle.dumps(loss)) is loss
    assert pickle.loads(pickle.dumps(bound.grad)).__self__.loss == bound
    shown = inspect.signature(bound).parameters
    for name, value in settings.items():
        assert_array_equal(shown[name].default, value)
        assert name in repr(bound)


@every_set
def test_help_tells_the_formula_and_every_parameter(loss):
    text = pydoc.plain(pydoc.render_doc(loss))
    assert "".join(loss.formula.split()) in "".join(text.split())
    for section in ("Parameters", "Raises", "Notes", "Examples"):
        assert f"{section}\n" in text
    names = list(inspect.signature(loss).parameters)
    assert {*loss.knobs, *loss.common} <= set(names)
    for name in names:
        assert re.search(rf"^(\w+, )*{name}(, \w+)* : ", inspect.getdoc(loss), re.M), name
    assert loss.__doc__.startswith(f"{loss.name}({names[0]}")
    for method in METHODS[1:]:
        assert getattr(loss, method).__doc__.startswith(f"{loss.name}.{method}(")
    for absent in ("grad_and_hess", "value_grad_hess", "normalizer"):
        assert not hasattr(loss, absent)


@every_setting
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_special_values_raise_no_warning_and_nan_is_seen(loss, knobs, bad):
    args = call(loss)
    leaves, rebuilt = differentiable(args, loss.grad(*args, **knobs))
    leaves[0][(0,) * leaves[0].ndim] = bad
    with np.errstate(all="raise"):
        value, grad = loss.value_and_grad(*rebuilt(leaves), **knobs)
    if np.isnan(bad):
        assert np.isnan(value)
        assert np.isnan(flat(grad)[0][(0,) * leaves[0].ndim])
    if bad == 1e300:
        narrow = cast(rebuilt(leaves), np.float64)
        outs = [np.zeros(g.shape, np.float32) for g in flat(grad)]
        with np.errstate(all="raise"):
            loss.grad(*narrow, out=type(grad)(outs) if several(grad) else outs[0], **knobs)


# rmse_loss


def test_rmse_is_the_root_of_the_mean(dtype, rng):
    pred, target = (rng.standard_normal((40, 3)).astype(dtype) for _ in range(2))
    weight = rng.uniform(0, 2, 40)
    mask = rng.random((40, 3)) > 0.3
    for options in ({}, {"sample_weight": weight}, {"mask": mask, "sample_weight": weight}):
        value, grad = fl.rmse_loss.value_and_grad(pred, target, **options)
        mean, of_mean = fl.mse_loss.value_and_grad(pred, target, **options)
        assert value == np.sqrt(mean)
        assert_allclose(grad, of_mean / (2 * value), 8 * np.finfo(dtype).eps)
    value, grad = fl.rmse_loss.value_and_grad(pred, target, mask=np.zeros(40, bool))
    assert np.isnan(value) and not grad.any()
    value, grad = fl.rmse_loss.value_and_grad(pred, pred)
    assert value == 0 and not grad.any()
    value, grad = fl.rmse_loss.value_and_grad(pred, target, sample_weight=-weight)
    assert_allclose(value, fl.rmse_loss(pred, target, sample_weight=weight), 1e-14)
    want = fl.rmse_loss.grad(pred, target, sample_weight=weight)
    assert_allclose(grad, want, 8 * np.finfo(dtype).eps)
    gradients = [
        fl.rmse_loss.grad(np.tile(pred, (9000, 1)), np.tile(target, (9000, 1)), num_threads=n)
        for n in (1, 2)
    ]
    assert_array_equal(*gradients)


def test_rmse_errors():
    with pytest.raises(ValueError, match=r"rmse_loss: target: expected pred's shape \(3,\)"):
        fl.rmse_loss(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(TypeError, match=r"rmse_loss: mask: expected bool"):
        fl.rmse_loss.grad(np.zeros(3), np.zeros(3), mask=[1, 0, 1])
    with pytest.raises(TypeError, match=r"rmse_loss: pred: expected float32, float64"):
        fl.rmse_loss.grad("a", np.zeros(3))


# Penalties

PENALTIES = {
    fl.l1_penalty: (0.3,),
    fl.l2_penalty: (0.3,),
    fl.elastic_net_penalty: (0.3, 0.7),
}
every_penalty = pytest.mark.parametrize(
    ("loss", "strengths"), PENALTIES.items(), ids=lambda x: getattr(x, "name", "")
)


@every_penalty
def test_gradients_come_as_the_weights_did(loss, strengths, dtype, rng):
    weights = [rng.standard_normal(shape).astype(dtype) for shape in ((3, 4), (5,), (), (0, 2))]
    parts = [loss.value_and_grad(w, *strengths) for w in weights]
    for kind in (list, tuple):
        value, grads = loss.value_and_grad(kind(weights), *strengths)
        assert type(grads) is kind
        assert_allclose(value, sum(v for v, _ in parts), 1e-14)
        for a, (_, b) in zip(grads, parts, strict=True):
            assert type(a) is np.ndarray and a.dtype == dtype
            assert_array_equal(a, b)
        assert loss.value_and_grad(kind()) == (0.0, kind())
    # No arrays in it: one array itself.
    value, grad = loss.value_and_grad([[1.0, -2.0], [0.0, 3.0]], *strengths)
    assert grad.shape == (2, 2) and grad[1, 0] == 0
    names = list(loss.knobs)
    assert loss.bind(**dict(zip(names, strengths, strict=True)))(weights) == loss(
        weights, *strengths
    )


@every_penalty
def test_penalties_are_pytorchs(loss, strengths, rng):
    torch = pytest.importorskip("torch")
    weights = rng.standard_normal((30, 7))
    w = torch.tensor(weights, requires_grad=True)
    l1, l2 = {
        fl.l1_penalty: (0.3, 0),
        fl.l2_penalty: (0, 0.3),
    }.get(loss, strengths)
    total = l1 * w.abs().sum() + l2 / 2 * w.square().sum()
    total.backward()
    value, grad = loss.value_and_grad(weights, *strengths)
    assert_allclose(value, total.item(), 1e-13)
    assert_allclose(grad, w.grad.numpy(), 1e-14)


def test_one_array_of_the_elastic_net_in_place_and_no_strength(rng):
    weights = [rng.standard_normal(5), rng.standard_normal((2, 2))]
    want = fl.elastic_net_penalty.grad(weights, 0.5, 2.0)
    for w, g in zip(weights, want, strict=True):
        assert_allclose(g, 0.5 * np.sign(w) + 2 * w, 1e-15)
    assert_array_equal(fl.elastic_net_penalty.grad(weights, 0.5, 0.0)[1], 0.5 * np.sign(weights[1]))
    copies = [w.copy() for w in weights]
    fl.elastic_net_penalty.grad(copies, 0.5, 2.0, out=copies)
    for a, b in zip(copies, want, strict=True):
        assert_array_equal(a, b)
    partly = fl.elastic_net_penalty.grad(weights, 0.5, 2.0, out=[None, copies[1]])
    assert partly[1] is copies[1]
    assert_array_equal(partly[0], want[0])
    assert fl.l2_penalty.value_and_grad(np.array([np.nan]), 0.0) == (0.0, np.zeros(1))


def test_penalties_name_the_array():
    good = np.zeros(3)
    with pytest.raises(TypeError, match=r"l1_penalty: weights\[1\]: expected float32.*complex"):
        fl.l1_penalty.grad([good, 1j * good])
    with pytest.raises(ValueError, match=r"l2_penalty: strength: expected a number >= 0, got -1"):
        fl.l2_penalty([good], -1)
    with pytest.raises(ValueError, match=r"out: expected shape \(3,\), got \(2,\)"):
        fl.l2_penalty.grad([good, good.copy()], out=[np.zeros(3), np.zeros(2)])
    other = np.zeros(3)
    with pytest.raises(ValueError, match=r"out: overlaps weights\[1\]"):
        fl.l2_penalty.grad([good, other], out=[other, None])


# Reconstruction


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_perceptual_loss_is_pytorchs_composed(norm, rng):
    torch = pytest.importorskip("torch")
    shapes = [(2, 3, 8, 8), (2, 6, 4, 4), (7,)]
    features, targets = ([rng.standard_normal(s) for s in shapes] for _ in range(2))
    function = {"l1": torch.nn.functional.l1_loss, "l2": torch.nn.functional.mse_loss}[norm]
    z = [torch.tensor(f, requires_grad=True) for f in features]
    for weights in (None, [0.5, 2.0, 0.0]):
        total = sum(
            w * function(f, torch.tensor(t))
            for w, f, t in zip(weights or [1, 1, 1], z, targets, strict=True)
        )
        for f in z:
            f.grad = None
        total.backward()
        value, grads = fl.perceptual_loss.value_and_grad(
            features, targets, weights=weights, norm=norm
        )
        assert type(grads) is tuple
        assert_allclose(value, total.item(), 1e-13)
        for g, f in zip(grads, z, strict=True):
            assert_allclose(g, f.grad.numpy(), 1e-13)


def test_perceptual_loss_of_odd_input(rng):
    assert fl.perceptual_loss.value_and_grad([], []) == (0.0, ())
    value, (grad,) = fl.perceptual_loss.value_and_grad([np.zeros((0, 3))], [np.zeros((0, 3))])
    assert np.isnan(value) and grad.shape == (0, 3)
    value, (grad,) = fl.perceptual_loss.value_and_grad(
        [np.full(3, np.nan)], [[0, 0, 0]], weights=[0]
    )
    assert value == 0 and not grad.any()
    f = rng.standard_normal(4)
    value, (first, second) = fl.perceptual_loss.value_and_grad((f, f.astype("f")), ([0] * 4, f))
    assert first.dtype == np.float64 and second.dtype == np.float32
    for arguments, error, words in (
        (([f], [f, f]), ValueError, "target_features: expected 1 maps, got 2"),
        (
            ([f], [f[1:]]),
            ValueError,
            r"target_features\[0\]: expected the shape \(4,\) of features",
        ),
        ((f, [f]), TypeError, "features: expected a list or tuple of arrays, got .*ndarray"),
        (([f], [1j * f]), TypeError, r"target_features\[0\]: expected float32"),
    ):
        with pytest.raises(error, match=f"^perceptual_loss: {words}"):
            fl.perceptual_loss(*arguments)
    for weights in ([1.0, 2.0], 1.0):
        with pytest.raises(ValueError, match=r"^perceptual_loss: weights: expected shape \(1,\)"):
            fl.perceptual_loss([f], [f], weights=weights)
    with pytest.raises(
        ValueError, match=r"^perceptual_loss: norm: expected 'l1' or 'l2', got 'l3'"
    ):
        fl.perceptual_loss([f], [f], norm="l3")


def test_psnr(rng):
    target = rng.random((20, 20))
    pred = target + 0.1 * rng.standard_normal((20, 20))
    mean = np.mean((pred - target) ** 2)
    assert_allclose(fl.psnr(pred, target), 10 * np.log10(1 / mean), 1e-14)
    assert_allclose(fl.psnr(pred, target, data_range=255), 10 * np.log10(255**2 / mean), 1e-14)
    keep = rng.random((20, 20)) > 0.5
    want = 10 * np.log10(1 / np.mean((pred - target)[keep] ** 2))
    assert_allclose(fl.psnr(pred, target, mask=keep), want, 1e-14)
    assert_allclose(fl.psnr(pred, target, sample_weight=1.5 * keep), want, 1e-14)
    assert fl.psnr(target, target) == np.inf and fl.psnr([1e200], [0.0]) == -np.inf
    assert np.isnan(fl.psnr([], [])) and np.isnan(fl.psnr([np.nan], [0.0]))
    assert_allclose(fl.psnr([1e100], [0.0], data_range=1e200), 2000)
    for error, bad in ((ValueError, 0), (ValueError, np.inf), (TypeError, "1"), (TypeError, None)):
        with pytest.raises(error, match=r"^psnr: data_range: expected"):
            fl.psnr(pred, target, data_range=bad)
    with pytest.raises(ValueError, match=r"^psnr: target: expected pred's shape"):
        fl.psnr(pred, target[0])


# Segmentation

every_overlap = pytest.mark.parametrize(
    ("loss", "knobs"),
    [(fl.dice_loss, {}), (fl.tversky_loss, {"alpha": 0.3, "beta": 0.7})],
    ids=["dice", "tversky"],
)


def _layouts(rng):
    """Predictions, targets and knobs of every mode."""
    z, labels = rng.standard_normal((2, 4, 5, 3)), rng.integers(3, size=(2, 4, 5))
    image, shares = np.moveaxis(z, -1, 1), rng.dirichlet(np.ones(3), (2, 4, 5))
    some = (rng.random((2, 4, 5)) > 0.5) * 1.0
    yield z, labels, {}
    yield image, labels, {"axis": 1, "ignore_index": 2}
    yield np.abs(image), labels, {"axis": 1, "ignore_index": 2, "from_logits": False}
    yield z, shares, {"mode": "multiclass"}
    yield z, np.eye(3)[labels], {"mode": "multiclass", "from_logits": False}
    yield z, rng.random(z.shape), {"mode": "multilabel"}
    yield z[..., 0], some, {}
    yield z[..., 0], rng.random((2, 4, 5)), {}
    yield z[..., 0], np.where(z[..., 1] > 0, 255, some), {"ignore_index": 255}
    yield z[..., 0], some, {"ignore_index": 1, "from_logits": False}
    yield z[0, 0], labels[0, 0], {}
    yield z[0, 0, 0], labels[0, 0, 0], {}


@every_overlap
@pytest.mark.parametrize("per_sample", [False, True])
def test_every_mode_is_the_formula(loss, knobs, per_sample, rng):
    for z, target, mode in _layouts(rng):
        settings = {**knobs, **mode, "per_sample": per_sample}
        value, grad = loss.value_and_grad(z, target, **settings)
        assert_allclose(value, float(naive(loss, (z.astype("g"), target), settings)), 1e-13)
        (want,) = differences(loss, (z, target), grad, settings)
        assert_allclose(grad, want.astype(float), 1e-8, 1e-12)


@every_overlap
def test_blocks_threads_and_memory_order_change_nothing(loss, knobs, monkeypatch, rng):
    for z, target, mode in _layouts(rng):
        for per_sample in (False, True):
            settings = {**knobs, **mode, "per_sample": per_sample}
            value, grad = loss.value_and_grad(z, target, **settings)
            with monkeypatch.context() as patch:
                patch.setattr(segmentation, "CHUNK", 37)
                patch.setattr(segmentation, "BLOCK", 11)
                blocked, blocked_grad = loss.value_and_grad(z, target, **settings)
                assert loss(z, target, **settings) == blocked
                other = z.astype(np.float64).copy()
                again = loss.value_and_grad(other, target, out=other, **settings)
                assert again[0] == blocked and again[1] is other
                assert_array_equal(other, blocked_grad)
            assert_allclose(blocked, value, 1e-14)
            assert_allclose(blocked_grad, grad, 1e-13, 1e-17)
    z = rng.standard_normal((2, 3, 300, 400)).astype("f")
    target = rng.integers(3, size=(2, 300, 400)).astype(np.uint8)
    one, two = (loss.value_and_grad(z, target, axis=1, num_threads=n, **knobs) for n in (1, 2))
    assert one[0] == two[0] == loss(z, target, axis=1, **knobs)
    assert_array_equal(one[1], two[1])


@pytest.mark.parametrize("per_sample", [False, True])
def test_dice_is_pytorchs_composed(per_sample, rng):
    torch = pytest.importorskip("torch")
    z, labels = rng.standard_normal((3, 4, 20, 30)), rng.integers(4, size=(3, 20, 30))
    axes = (2, 3) if per_sample else (0, 2, 3)

    def theirs(p, t, axes):
        overlap = 2 * (p * t).sum(axes) + 1e-5
        return (1 - overlap / (p.sum(axes) + t.sum(axes) + 1e-5)).mean()

    x = torch.tensor(z, requires_grad=True)
    hot = torch.nn.functional.one_hot(torch.tensor(labels), 4).movedim(-1, 1)
    total = theirs(x.softmax(1), hot, axes)
    total.backward()
    value, grad = fl.dice_loss.value_and_grad(z, labels, axis=1, per_sample=per_sample)
    assert_allclose(value, total.item(), 1e-12)
    assert_allclose(grad, x.grad.numpy(), 1e-9, 1e-15)
    x = torch.tensor(z, requires_grad=True)
    target = rng.random(z.shape)
    axes = (1, 2, 3) if per_sample else None
    total = theirs(x.sigmoid(), torch.tensor(target), axes)
    total.backward()
    value, grad = fl.dice_loss.value_and_grad(z, target, per_sample=per_sample)
    assert_allclose(value, total.item(), 1e-12)
    assert_allclose(grad, x.grad.numpy(), 1e-9, 1e-15)


def test_dice_and_tversky_are_one_family(rng):
    z, labels = rng.standard_normal((2, 6, 3)), rng.integers(3, size=(2, 6))
    dice = fl.dice_loss.value_and_grad(z, labels, smooth=2)
    tversky = fl.tversky_loss.value_and_grad(z, labels, smooth=1)
    assert dice[0] == tversky[0]
    assert_array_equal(dice[1], tversky[1])
    # Labels are one-hot shares.
    for options in ({}, {"from_logits": False}):
        want = fl.dice_loss.value_and_grad(z, labels, **options)
        for hot in (np.eye(3)[labels], np.eye(3, dtype=bool)[labels]):
            got = fl.dice_loss.value_and_grad(z, hot, mode="multiclass", **options)
            assert_allclose(got[0], want[0], 1e-14)
            assert_allclose(got[1], want[1], 1e-13)


def test_confident_overlaps_lose_nothing(dtype):
    labels = np.array([[0, 1], [1, 0]])
    z = np.where(labels[..., None] == np.arange(2), 30, -30).astype(dtype)
    far = np.exp(-60)  # every 1 - p, and every p of the other class
    value, grad = fl.dice_loss.value_and_grad(z, labels, smooth=0)
    assert_allclose(value, far, 1e-5)
    assert_allclose(grad, np.where(labels[..., None] == np.arange(2), -1, 1) * far / 4, 1e-5)
    z = np.where(labels, 30, -30).astype(dtype)
    far = np.exp(-30)
    value, grad = fl.dice_loss.value_and_grad(z, labels, smooth=0)
    assert_allclose(value, far, 1e-5)
    assert_allclose(grad, np.where(labels, -1, 1) * far / 4, 1e-5)
    # Confidently wrong, p (1 - p) is small, not 0.
    grad = fl.dice_loss.grad(-z, labels, smooth=0)
    assert (grad != 0).all() and (abs(grad) < 1e-12).all()


def test_regions_that_are_nowhere(dtype):
    z = np.full((2, 3), -np.inf, dtype)
    for loss in (fl.dice_loss, fl.tversky_loss):
        for options in ({"smooth": 0}, {"smooth": 0, "per_sample": True}, {}):
            for target in (np.zeros((2, 3)), np.full((2, 3), 7)):
                value, grad = loss.value_and_grad(z, target, ignore_index=7, **options)
                assert value == 0 and not grad.any()
        value, grad = loss.value_and_grad(np.ones((2, 3), dtype), [9, 9], ignore_index=9, smooth=0)
        assert value == 0 and not grad.any()
        empty = np.zeros((0, 3), dtype), np.zeros(0, int)
        assert loss(*empty) == 0 and loss.grad(*empty).shape == (0, 3)
        assert np.isnan(loss(*empty, per_sample=True))
    # What is ignored is not read.
    z = np.array([[np.nan, 0.0], [1.0, 2.0]], dtype)
    for options in ({}, {"from_logits": False}):
        value, grad = fl.dice_loss.value_and_grad(z, [5, 1], ignore_index=5, **options)
        assert np.isfinite(value) and not grad[0].any() and np.isfinite(grad).all()
        value, grad = fl.dice_loss.value_and_grad(
            z, np.array([[5, 0], [1, 1]]), ignore_index=5, **options
        )
        assert np.isfinite(value) and grad[0, 0] == 0 and np.isfinite(grad).all()


def test_the_loss_alone_holds_no_probabilities_of_all(rng):
    z = rng.standard_normal((40, 8, 100, 100), np.float32)
    target = rng.integers(8, size=(40, 100, 100), dtype=np.uint8)
    fl.dice_loss(z[:1], target[:1], axis=1)
    for options, most in (({}, z.nbytes), ({"out": np.empty_like(z)}, 0)):
        tracemalloc.start()
        function = fl.dice_loss.value_and_grad if options else fl.dice_loss
        function(z, target, axis=1, **options)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most / 2 + 4e6


@pytest.mark.parametrize("loss", [fl.dice_loss, fl.tversky_loss], ids=lambda loss: loss.name)
def test_segmentation_errors(loss):
    z = np.zeros((2, 3, 4))
    for target, options, error, words in (
        (np.full((2, 3), 4), {}, ValueError, r"target\[0, 0\] = 4 is not a class label"),
        (np.zeros((2, 4), int), {}, ValueError, r"target: .*may be on axis=1"),
        (np.zeros((2, 3)), {}, TypeError, "target: expected integer labels"),
        (np.full((2, 3, 4), 255), {}, ValueError, r"target\[0, 0, 0\] = 255.* is not in \[0, 1\]"),
        (z[:1], {}, ValueError, r"target: expected pred's shape \(2, 3, 4\), got \(1, 3, 4\)"),
        (np.zeros((2, 3), int), {"mode": "binary"}, ValueError, "target: expected pred's shape"),
        (np.zeros((2, 3), int), {"axis": 3}, ValueError, "axis: expected -3 <= axis < 3"),
        (z, {"mode": "multilabel", "axis": -4}, ValueError, "axis: expected -3 <= axis < 3"),
        (z, {"mode": "multiclass", "ignore_index": 1}, ValueError, "ignore_index: needs labels"),
        (z, {"mode": "both"}, ValueError, "mode: expected 'binary' or"),
        (z, {"smooth": np.nan}, ValueError, "smooth: expected a number >= 0"),
        (z, {"from_logits": 2}, ValueError, "from_logits: expected a number"),
        (1j * z, {}, TypeError, "target: expected float32, float64.* or integers"),
    ):
        out = np.full(z.shape, 7.0)
        with pytest.raises(error, match=f"^{loss.name}: {words}"):
            loss.grad(z, target, out=out, **options)
        assert (out == 7).all()


# Contrastive


def whole_matrix(z, positives, temperature):
    """Loss and gradient from the whole matrix, which `positives`, booleans, is of the shape of."""
    z = z.astype(np.longdouble)
    norm = np.sqrt((z * z).sum(1, keepdims=True))
    u = z / norm
    logits = u @ u.T / temperature
    np.fill_diagonal(logits, -np.inf)
    top = logits.max(1, keepdims=True)
    log_sum = top + np.log(np.exp(logits - top).sum(1, keepdims=True))
    share = positives / np.maximum(positives.sum(1, keepdims=True), 1)
    counted = positives.any(1)
    losses = log_sum[:, 0] - (share * np.where(positives, logits, 0)).sum(1)
    g = (np.exp(logits - log_sum) - share) * counted[:, None] / counted.sum()
    of_u = (g + g.T) @ u / temperature
    return losses[counted].mean(), (of_u - (of_u * u).sum(1, keepdims=True) * u) / norm


def views(n):
    """Which of 2n rows belong together."""
    return np.roll(np.eye(2 * n, dtype=bool), n, axis=1)


def alike(labels):
    return (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("features", [3, 128])
def test_contrastive_within_the_rounding_of_the_cosines(dtype, temperature, features, rng):
    n = 150
    eps = float(np.finfo(dtype).eps)
    bound = 4 * eps * (1 + np.sqrt(features) / temperature)
    z1 = rng.standard_normal((n, features))
    z2 = (z1 + 0.5 * rng.standard_normal((n, features))).astype(dtype)
    z1 = z1.astype(dtype)
    both = np.concatenate([z1, z2])
    labels = rng.integers(40, size=2 * n)
    nt = fl.nt_xent_loss.value_and_grad(z1, z2, temperature=temperature)
    supervised = fl.supervised_contrastive_loss.value_and_grad(
        both, labels, temperature=temperature
    )
    for (value, grad), positives in (
        ((nt[0], np.concatenate(nt[1])), views(n)),
        (supervised, alike(labels)),
    ):
        want, want_grad = whole_matrix(both, positives, temperature)
        assert grad.dtype == dtype
        assert abs(value - want) <= bound + 4 * eps * want
        norm = np.linalg.norm(both, axis=1, keepdims=True).astype(float)
        assert (abs(grad - want_grad) <= bound / (n * temperature * norm)).all()


@pytest.mark.parametrize("temperature", [0.001, 0.5])
def test_tiles_change_nothing(monkeypatch, temperature, rng):
    z1, z2 = rng.standard_normal((2, 11, 4))
    z, labels = rng.standard_normal((23, 4)), rng.integers(6, size=23)
    calls = [
        lambda: fl.nt_xent_loss.value_and_grad(z1, z2, temperature=temperature),
        lambda: fl.supervised_contrastive_loss.value_and_grad(z, labels, temperature=temperature),
    ]
    wants = [call() for call in calls]
    monkeypatch.setattr(contrastive, "TILE", 4)
    for call_of, (want, want_grad) in zip(calls, wants, strict=True):
        value, grad = call_of()
        assert_allclose(value, want, 1e-13)
        for a, b in zip(flat(grad), flat(want_grad), strict=True):
            assert_allclose(a, b, 1e-10, 1e-12 * abs(b).max())


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_contrastive_is_pytorchs_composed(temperature, rng):
    torch = pytest.importorskip("torch")
    n = 40
    z = rng.standard_normal((2 * n, 8))
    x = torch.tensor(z, requires_grad=True)
    u = torch.nn.functional.normalize(x)
    logits = (u @ u.T / temperature).masked_fill(torch.eye(2 * n, dtype=bool), -torch.inf)
    other = (torch.arange(2 * n) + n) % (2 * n)
    total = torch.nn.functional.cross_entropy(logits, other)
    total.backward(retain_graph=True)
    value, grads = fl.nt_xent_loss.value_and_grad(z[:n], z[n:], temperature=temperature)
    assert_allclose(value, total.item(), 1e-12)
    assert_allclose(np.concatenate(grads), x.grad.numpy(), 1e-9, 1e-14)
    # One label for both views of a sample is the same loss.
    labels = np.tile(np.arange(n), 2)
    value, grad = fl.supervised_contrastive_loss.value_and_grad(z, labels, temperature=temperature)
    assert_allclose(value, total.item(), 1e-12)
    assert_allclose(grad, x.grad.numpy(), 1e-9, 1e-14)
    labels = rng.integers(9, size=2 * n)
    positives = torch.tensor(alike(labels))
    x.grad = None
    log_p = logits.log_softmax(1).masked_fill(~positives, 0)
    total = -(log_p.sum(1) / positives.sum(1)).mean()
    total.backward()
    value, grad = fl.supervised_contrastive_loss.value_and_grad(z, labels, temperature=temperature)
    assert_allclose(value, total.item(), 1e-12)
    assert_allclose(grad, x.grad.numpy(), 1e-9, 1e-14)


def test_samples_told_apart_keep_their_digits(dtype):
    z = 3 * np.eye(6, dtype=dtype)
    for temperature in (0.05, 0.02) if dtype == np.float32 else (0.05, 0.02, 0.005, 0.002):
        value, (grad, _) = fl.nt_xent_loss.value_and_grad(z, z.copy(), temperature=temperature)
        want = np.log1p(10 * np.exp(-1 / temperature))
        assert_allclose(value, want, 100 * np.finfo(dtype).eps / temperature)
        # Off the diagonal from both rows, each with two others of that sample.
        p = np.exp(-1 / temperature) / (1 + 10 * np.exp(-1 / temperature))
        off = 4 * p / temperature / 3 / 12
        want = np.where(np.eye(6, dtype=bool), 0, off)
        assert_allclose(grad, want, 1e-3, 1e-5 * off)


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_zero_rows_have_no_gradient(dtype, temperature, rng):
    z = rng.standard_normal((8, 3)).astype(dtype)
    z[[0, 5]] = 0
    for value, grad in (
        fl.supervised_contrastive_loss.value_and_grad(z, [0, 0, 1, 1, 2, 2, 3, 3]),
        fl.nt_xent_loss.value_and_grad(z[:4], z[4:], temperature=temperature),
    ):
        grad = np.concatenate(flat(grad)).reshape(8, 3)
        assert np.isfinite(value) and np.isfinite(grad).all()
        assert not grad[[0, 5]].any() and grad[[1, 2, 3]].any()
    value, grads = fl.nt_xent_loss.value_and_grad(np.zeros((4, 3), dtype), np.zeros((4, 3), dtype))
    assert_allclose(value, np.log(7), 1e-6)
    assert not grads[0].any() and not grads[1].any()


def test_rows_of_any_length(dtype, rng):
    z = rng.standard_normal((8, 3)).astype(dtype)
    huge, tiny = (1e38, 1e-38) if dtype == np.float32 else (1e307, 1e-307)
    want = fl.nt_xent_loss(z[:4], z[4:])
    for length in (huge, tiny):
        length = dtype.type(length) / abs(z).max()
        value, grads = fl.nt_xent_loss.value_and_grad(z[:4] * length, z[4:])
        assert_allclose(value, want, 1e-6)
        assert np.isfinite(grads[1]).all()


def test_few_samples():
    z = np.array([[1.0, 2.0]])
    for temperature in (0.5, 0.001):
        value, grads = fl.nt_xent_loss.value_and_grad(z, 2 * z[:, ::-1], temperature=temperature)
        assert value == 0 and not grads[0].any() and not grads[1].any()
        for labels in ([3], [3, 4]):
            value, grad = fl.supervised_contrastive_loss.value_and_grad(
                np.repeat(z, len(labels), 0), labels, temperature=temperature
            )
            assert np.isnan(value) and not grad.any()
    nothing = np.zeros((0, 2))
    value, grads = fl.nt_xent_loss.value_and_grad(nothing, nothing.copy())
    assert np.isnan(value) and grads[0].shape == grads[1].shape == (0, 2)
    value, grad = fl.supervised_contrastive_loss.value_and_grad(nothing, [])
    assert np.isnan(value) and grad.shape == (0, 2)
    # What is alone is not counted, but the others are told from it.
    z = np.array([[1.0, 0.0], [1.0, 0.1], [0.9, 0.1]])
    value, grad = fl.supervised_contrastive_loss.value_and_grad(z, [0, 0, 1])
    want, want_grad = whole_matrix(z, alike(np.array([0, 0, 1])), 0.1)
    assert_allclose(value, float(want), 1e-13)
    assert_allclose(grad, want_grad.astype(float), 1e-12)
    assert grad[2].any()


def test_contrastive_errors():
    z = np.ones((4, 3))
    nt, supervised = fl.nt_xent_loss, fl.supervised_contrastive_loss
    for loss, args, error, words in (
        (nt, (z, z[:3]), ValueError, r"z2: expected z1's shape \(4, 3\), got \(3, 3\)"),
        (nt, (z[0], z), ValueError, r"z1: expected shape \(samples, features\), got \(3,\)"),
        (nt, (z, 1j * z), TypeError, "z2: expected float32, float64.* or integers"),
        (supervised, (z, [0, 1]), ValueError, r"labels: expected shape \(4,\), got \(2,\)"),
        (supervised, (z, np.ones(4)), TypeError, "labels: expected integers, got float64"),
        (supervised, (z[0], [0]), ValueError, r"z: expected shape \(samples, features\)"),
    ):
        with pytest.raises(error, match=f"^{loss.name}: {words}"):
            loss.grad(*args)
    with pytest.raises(ValueError, match=r"^nt_xent_loss: temperature: expected a number in \["):
        nt(z, z, temperature=0)
    narrow = nt.grad(z.astype("f"), z)
    assert narrow[0].dtype == np.float32 and narrow[1].dtype == np.float64


def test_the_square_of_the_batch_is_never_held(rng):
    z1, z2 = rng.standard_normal((2, 8192, 128), np.float32)
    labels = np.tile(np.arange(64), 128)
    for function, args, n in (
        (fl.nt_xent_loss.value_and_grad, (z1, z2), 2),
        (fl.supervised_contrastive_loss.value_and_grad, (z1, labels), 1),
    ):
        tracemalloc.start()
        function(*args)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - n * z1.nbytes < 40 << 20  # asked for are 64 MiB
