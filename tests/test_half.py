"""float16 and bfloat16: read where they lie, computed in float32, rounded once.

So a call gives the bits of the call on float32 copies: the loss its own, a gradient rounded to
nearest even. That holds every bound: 4 ulp of float32 are 2^-11 ulp of float16.
"""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastloss as fl
from samples import LOSSES, every_other_isa, inputs, results, run_python, run_tests, softness
from test_pairs import inputs as pair_inputs
from test_sets import CALLS
from test_vectors import inputs as vector_inputs

try:
    from ml_dtypes import bfloat16
except ImportError:
    HALVES = [np.dtype(np.float16)]
else:
    HALVES = [np.dtype(np.float16), np.dtype(bfloat16)]
every_half = pytest.mark.parametrize("half", HALVES, ids=str)
every_loss = pytest.mark.parametrize("loss", fl.losses().values(), ids=lambda loss: loss.name)
every_hessian_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def cast(x, dtype):
    """Positional arguments, of which the arrays of floats are in another dtype."""
    if isinstance(x, (tuple, list)):
        return type(x)(cast(part, dtype) for part in x)
    floats = isinstance(x, np.ndarray) and (x.dtype.kind == "f" or x.dtype in HALVES)
    return x.astype(dtype) if floats else x


def calls(loss):
    """Arguments of every kind of call: of rows short, middling and long, soft and hard."""
    if loss.kind == "elementwise":
        # Away from an end that is none of the domain: rounding may go there.
        by = 0.25 if loss.domain.open else 0
        found = [inputs(loss, shape) for shape in ((3,), (3001,), (3, 29, 31))]
        return [(pred, target + by) for pred, target in found]
    if loss.kind == "rows":
        return [
            inputs(loss, shape, classes=classes, soft=soft)
            for shape, classes in (((5,), 4), ((3, 67), 7), ((70,), 33), ((30,), 150), ((3,), 1500))
            for soft in softness(loss)
        ]
    if loss.kind == "pairs":
        return [tuple(pair_inputs(loss, shape).values()) for shape in ((3,), (3, 900))]
    if loss.kind == "vectors":
        return [tuple(vector_inputs(loss, (n,)).values()) for n in (1, 40)]
    return [CALLS[loss.name][0](np.random.default_rng(0))]


def flat(x):
    """The arrays of a gradient, or of several."""
    return [a for part in x for a in flat(part)] if isinstance(x, (tuple, list)) else [x]


def assert_rounded(got, want, dtype):
    """That `got` is `want`, which is float32, rounded to nearest even."""
    assert got.dtype == dtype
    assert got.dtype.isnative
    with np.errstate(all="ignore"):
        want = want.astype(dtype)
    nan = np.isnan(want.astype(np.float32))
    assert_array_equal(np.isnan(got.astype(np.float32)), nan)
    bits = "u1" if got.dtype.itemsize == 1 else f"u{got.dtype.itemsize}"
    assert_array_equal(got[~nan].view(bits), want[~nan].view(bits))


@every_loss
@every_half
def test_the_bits_of_float32_rounded_once(loss, half):
    for args in calls(loss):
        args = cast(args, half)
        for options in ({}, {"reduction": "none"}, {"reduction": "sum"}):
            if options and "reduction" not in loss.common:
                continue
            value, grads = loss.value_and_grad(*args, **options)
            want, wide = loss.value_and_grad(*cast(args, np.float32), **options)
            assert_array_equal(value, want)
            if options.get("reduction") == "none":
                assert value.dtype == np.float32
            for got, exact in zip(flat(grads), flat(wide), strict=True):
                assert_rounded(got, exact, half)
            assert_array_equal(loss(*args, **options), want)


@every_loss
@every_half
def test_gradients_into_float32(loss, half):
    for args in calls(loss):
        args = cast(args, half)
        want = loss.grad(*cast(args, np.float32))
        several = isinstance(want, (tuple, list))
        for dtype in (np.dtype(np.float32), half):
            outs = [np.full(g.shape, 7, dtype) for g in flat(want)]
            got = loss.grad(*args, out=type(want)(outs) if several else outs[0])
            for a, out, exact in zip(flat(got), outs, flat(want), strict=True):
                assert a is out
                assert_rounded(out, exact, dtype)


@every_hessian_loss
@every_half
def test_methods_layouts_and_places(loss, half):
    layouts = {
        "strided": lambda a: np.repeat(a, 3, -1)[..., ::3],
        "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
        "part of longer rows": lambda a: np.concatenate([a, a[..., :1]], -1)[..., :-1],
        "transposed": lambda a: a.T.copy().T,
    }
    if half == np.float16:
        layouts["byte-swapped"] = lambda a: (
            a.astype(a.dtype.newbyteorder()) if a.dtype == half else a
        )
    shape = (41, 61) if loss.kind == "elementwise" else (70,)
    pred, target = cast(inputs(loss, shape, classes=37), half)
    if loss.domain.open:
        target += half.type(0.25)
    weight = cast(np.random.default_rng(0).uniform(0.5, 2, shape), half)
    for layout in [np.asarray, *layouts.values()]:
        x, y = layout(pred), layout(target)
        options = {"sample_weight": layout(weight), "reduction": "sum"}
        narrow = results(loss, "value_grad_hess", x, y, **options)
        # float32 in the same layout: sums may be of another order in another.
        wide = layout(pred.astype(np.float32)), layout(cast(target, np.float32))
        want = results(loss, "value_grad_hess", *wide, **options)
        assert narrow["l"] == want["l"]
        for name in "gh":
            assert_rounded(narrow[name], want[name], half)
        in_place = x.copy(order="K") if layout is not layouts["strided"] else layout(pred)
        grad = loss.grad(in_place, y, out=in_place, **options)
        assert grad is in_place
        assert_array_equal(grad, narrow["g"])
        swapped = np.zeros(pred.shape, ">f2")
        loss.grad(x, y, out=swapped, **options)
        assert_rounded(swapped.astype(np.float16), want["g"], np.dtype(np.float16))


@every_half
def test_knobs_that_are_arrays(half):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 40, 5)).astype(half)
    labels = rng.integers(5, size=40)
    by_class = np.array([0.5, 1, 2, 0.25, 3]).astype(half)
    for loss, target, name in (
        (fl.cross_entropy, labels, "class_weight"),
        (fl.binary_cross_entropy_with_logits, (y > 0).astype(half), "pos_weight"),
    ):
        value, grad = loss.value_and_grad(x, target, **{name: by_class})
        want, wide = loss.value_and_grad(
            x.astype("f4"), cast(target, np.float32), **{name: by_class.astype("f4")}
        )
        assert value == want
        assert_rounded(grad, wide, half)
        constant = loss.optimal_constant(cast(target, half), **{name: by_class})
        assert_array_equal(
            constant, loss.optimal_constant(cast(target, np.float32), **{name: by_class.tolist()})
        )
    bad = np.zeros((2, 40, 5), half)
    bad[0, 1, 2] = 2
    with pytest.raises(ValueError, match=r"target\[1, 2\] = 2"):
        fl.binary_cross_entropy_with_logits(x, bad[0])
    with pytest.raises(ValueError, match=r"class_weight: .* got class_weight\[1\] = -1"):
        fl.cross_entropy(x, labels, class_weight=np.array([1, -1, 1, 1, 1]).astype(half))
    with pytest.raises(ValueError, match="overlaps pred"):
        fl.cross_entropy.grad(bad[0], labels, out=bad.reshape(-1)[5:205].reshape(40, 5))


@every_half
def test_other_functions(half):
    rng = np.random.default_rng(0)
    x = (5 * rng.standard_normal((7, 300))).astype(half)
    wide = x.astype(np.float32)
    for function in (fl.sigmoid, fl.softplus, fl.log_sigmoid, fl.softmax):
        assert_rounded(function(x), function(wide), half)
    for function in (fl.log_softmax, fl.logsumexp):
        for axis in (0, -1):
            assert_rounded(function(x, axis=axis), function(wide, axis=axis), half)
    total = fl.weighted_sum((0.3, fl.mse_loss), (2.0, fl.huber_loss))
    value, grad = total.value_and_grad(x, x[::-1])
    want, exact = total.value_and_grad(wide, wide[::-1])
    assert value == want
    assert_rounded(grad, exact, half)
    assert_rounded(
        total.grad_and_hess(x, x[::-1])[1], total.grad_and_hess(wide, wide[::-1])[1], half
    )
    assert fl.grad_norm(x) == fl.grad_norm(wide)
    y = x.copy()
    fl.clip_grad_norm(y, 1.0)
    assert_rounded(y, (wide.astype(float) / fl.grad_norm(wide)).astype(np.float32), half)
    assert fl.psnr(x, x[::-1]) == fl.psnr(wide, wide[::-1])


def test_a_loss_that_leaves_the_range():
    """The square of 300 is no float16, and the gradient of a sum may be inf."""
    x = np.array([300, -60000, 6e-8, np.inf, np.nan], np.float16)
    value, grad = fl.mse_loss.value_and_grad(x, np.zeros(5, np.float16), reduction="none")
    assert_array_equal(value[:2], np.float32([90000, 3.6e9]))
    assert_array_equal(grad, np.array([600, -np.inf, 1.2e-7, np.inf, np.nan], np.float16))


@every_half
def test_float64_is_rounded_once_too(half):
    """Half of a last bit, and a little of float64 more: by way of float32 that would be lost."""
    ones = np.array([1.0, 1 + 2.0**-5, 1e-6, 1e-39, 2.0**-130, 3.0, 65504.0, 2.0**15])
    ones = ones[(np.array([1.0] * len(ones)) * ones).astype(half).astype(float) > 0]
    low = ones.astype(half)
    up = (low.view(np.uint16) + 1).astype(np.uint16).view(half)
    middle = (low.astype(float) + up.astype(float)) / 2
    finite = np.isfinite(middle)
    low, up, middle = low[finite], up[finite], middle[finite]
    out = np.empty(len(middle), half)
    for x, want in (
        (np.nextafter(middle, np.inf), up),
        (np.nextafter(middle, 0), low),
        (middle, np.where(low.view(np.uint16) % 2, up, low)),
    ):
        fl.half_mse_loss.grad(x, np.zeros(len(x)), reduction="sum", out=out)
        assert_array_equal(out.view(np.uint16), want.view(np.uint16))


def loads_and_stores(half):
    """Every number of 16 bits by a load; many floats by a store, aligned and not."""
    every = np.arange(65536, dtype=np.uint16)
    x, zero = every.view(half), np.zeros(65536, np.float32)
    wide = np.empty(65536, np.float32)
    with np.errstate(all="ignore"):
        want = x.astype(np.float32)
    for source in (x, np.repeat(x, 2)[::2]):  # the gradient of (x - 0)^2 / 2 is x
        fl.half_mse_loss.grad(source, zero, reduction="sum", out=wide)
        nan = np.isnan(want)
        assert_array_equal(np.isnan(wide), nan)
        assert_array_equal(wide.view(np.uint32)[~nan], want.view(np.uint32)[~nan])
        same = fl.half_mse_loss.grad(source, zero, reduction="sum")
        assert_array_equal(same.view(np.uint16)[~nan], every[~nan])
        assert np.isnan(same.astype(np.float32)[nan]).all()
    rng = np.random.default_rng(0)
    finite = np.sort(want[np.isfinite(want)])
    middle = ((finite[1:].astype(float) + finite[:-1]) / 2).astype(np.float32)  # exact
    floats = np.concatenate(
        [
            rng.integers(2**32, size=500_000, dtype=np.uint64).astype(np.uint32).view(np.float32),
            *(np.nextafter(middle, np.float32(to)) for to in (-np.inf, np.inf)),
            middle,
            np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00001, 0x7F800001, 0x7F7FFFFF], np.uint32).view(
                "f4"
            ),
            np.float32([65519.99, 65520, -65520, 1e38, np.inf, -np.inf, 0.0, -0.0]),
        ]
    )
    with np.errstate(all="ignore"):
        for kind in (np.float32, np.float64):
            for start in range(3):
                out = np.empty(len(floats) + 3, half)[start : start + len(floats)]
                fl.half_mse_loss.grad(
                    floats.astype(kind), np.zeros_like(floats), reduction="sum", out=out
                )
                assert_rounded(out, floats, half)
            swapped = np.empty(len(floats), ">f2")
            fl.half_mse_loss.grad(
                floats.astype(kind), np.zeros_like(floats), reduction="sum", out=swapped
            )
            assert_rounded(swapped.astype(np.float16), floats, np.dtype(np.float16))


@every_half
def test_conversions(half):
    loads_and_stores(half)


@every_half
def test_subnormal_numbers_count_where_they_are_flushed(half):
    """Losses of exp run in a mode in which subnormal floats are 0; float16's are none."""
    x = np.arange(-1023, 1024, dtype=np.float32) * 2.0**-24
    x = x.astype(half)
    want = fl.binary_cross_entropy_with_logits(x.astype("f4"), np.zeros(2047), reduction="none")
    got = fl.binary_cross_entropy_with_logits(x, np.zeros(2047, half), reduction="none")
    assert_array_equal(got, want)
    grad = np.full(2047, 2.0**-10, half)
    out = np.empty(2047, np.float16)
    fl.binary_cross_entropy_with_logits.grad(
        grad, np.zeros(2047), sample_weight=x, reduction="sum", out=out
    )
    assert len(np.unique(out)) > 500


@every_half
def test_within_half_an_ulp_of_its_own(half):
    """0.51 ulp: the rounding, and float32's 4 ulp."""
    rng = np.random.default_rng(0)
    pred = (3 * rng.standard_normal((100, 50))).astype(half)
    labels = rng.integers(50, size=100)
    got = fl.cross_entropy.grad(pred, labels, reduction="sum").astype(float)
    z = pred.astype(float)
    exact = np.exp(z - z.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    exact[np.arange(100), labels] -= 1
    digits, least = (7, -126) if half.name == "bfloat16" else (10, -14)
    ulp = 2.0 ** (np.maximum(np.floor(np.log2(abs(exact))), least) - digits)
    assert (abs(got - exact) / ulp).max() <= 0.51


def test_tensors_come_in_without_a_copy():
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    x = torch.arange(24.0).reshape(4, 6)
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool),
    ):
        whole = x.to(dtype)
        for tensor in (whole, whole.T, whole[::2, 1::3], whole[1, 2], whole[:0]):
            a = fl.from_torch(tensor)
            assert a.dtype.name == str(dtype).removeprefix("torch.")
            assert a.shape == tuple(tensor.shape)
            assert_array_equal(a.astype(float), tensor.double().numpy())
            if a.size:
                assert a.__array_interface__["data"][0] == tensor.data_ptr()
                assert a.strides == tuple(s * a.itemsize for s in tensor.stride())
    logits = torch.randn(8, 5).bfloat16().requires_grad_()
    labels = torch.arange(8) % 5
    logits.grad = torch.empty_like(logits)
    z, g = fl.from_torch(logits), fl.from_torch(logits.grad)
    value = fl.cross_entropy.value_and_grad(z, fl.from_torch(labels), out=g)[0]
    wide = logits.detach().float().requires_grad_()
    want = torch.nn.functional.cross_entropy(wide, labels)
    want.backward()
    assert value == pytest.approx(want.item(), rel=1e-6)
    assert torch.allclose(logits.grad.float(), wide.grad, rtol=2**-8, atol=1e-9)


def test_tensors_that_cannot_come_in():
    torch = pytest.importorskip("torch")
    for error, x, said in (
        (TypeError, [1.0], "expected a torch.Tensor, got <class 'list'>"),
        (TypeError, np.ones(3), "expected a torch.Tensor"),
        (TypeError, torch.ones(3, dtype=torch.complex64), "got torch.complex64"),
        (TypeError, torch.ones(3).to(torch.float8_e4m3fn), "got torch.float8_e4m3fn"),
        (ValueError, torch.ones(3, device="meta"), r"one on meta; copy it with tensor.cpu\(\)"),
        (ValueError, torch.eye(3).to_sparse(), r"copy it with tensor.to_dense\(\)"),
    ):
        with pytest.raises(error, match=f"^from_torch: tensor: .*{said}"):
            fl.from_torch(x)


def test_fastloss_needs_no_ml_dtypes():
    code = """
import sys
sys.modules["ml_dtypes"] = sys.modules["torch"] = None
import numpy as np, fastloss as fl
print(fl.cross_entropy.grad(np.zeros((2, 3), np.float16), [0, 1]).dtype)
"""
    assert run_python(code) == "float16"


@every_other_isa
def test_other_instruction_sets(isa):
    """The conversions, and one loss of each driver."""
    kept = ("conversions", "subnormal", "once_too", "cross_entropy-", "huber_loss-", "nll_loss-")
    run_tests(isa, " or ".join(kept), "test_half.py")
