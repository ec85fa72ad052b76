"""Every dtype and memory layout gives what native, contiguous, aligned arrays give."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from samples import (
    LOSSES,
    METHODS,
    every_label_driver,
    every_loss,
    every_method,
    every_rows_driver,
    inputs,
    results,
)


def spread(a, *, axis=-1, step=2):
    """`a` as every `step`-th entry of a larger array."""
    index = [slice(None)] * a.ndim
    index[axis] = slice(None, None, step)
    return np.repeat(a, abs(step), axis)[tuple(index)]


def transposed(a):
    return a.T.copy().T


def unaligned(a):
    copy = np.frombuffer(bytearray(a.nbytes + 1), a.dtype, a.size, 1).reshape(a.shape)
    copy[...] = a
    return copy


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "every third": lambda a: spread(a, step=3),
    "every other row": lambda a: spread(a, axis=0),
    "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "reversed rows": lambda a: a[::-1].copy()[::-1],
    "part of longer rows": lambda a: np.concatenate([a, a[..., :1]], axis=-1)[..., :-1],
    "transposed": transposed,
    "middle axis last": lambda a: np.moveaxis(np.moveaxis(a, -1, 0).copy(), 0, -1),
    "unaligned": unaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "byte-swapped, strided": lambda a: spread(a.astype(a.dtype.newbyteorder())),
    "unaligned, reversed": lambda a: unaligned(a[..., ::-1])[..., ::-1],
    "read-only": read_only,
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
few_or_many_classes = pytest.mark.parametrize("classes", [4, 1500])


def assert_close(got, want, dtype):
    """Equal but for the last digits: bits may depend on the layout."""
    assert got.keys() == want.keys()
    eps = float(np.finfo(dtype).eps)
    for name, value in want.items():
        assert got[name].dtype == dtype
        assert got[name].dtype.isnative
        assert_allclose(got[name], value, 20 * eps, 20 * eps, err_msg=name)


def check(loss, layout, shape, dtype, **kinds):
    """Each operand in turn in this layout, then all, by every method; nothing is written to."""
    pred, target = inputs(loss, shape, dtype, **kinds)
    weight = np.random.default_rng(1).uniform(0.5, 2, shape)
    options = {"reduction": "none"}
    plain = {"pred": pred, "target": target, "sample_weight": weight}
    laid = {name: layout(a) for name, a in plain.items()}
    for name, a in plain.items():
        assert_array_equal(laid[name], a)
    want = results(loss, "value_grad_hess", **plain, **options)
    for of in (*({name: laid[name]} for name in laid), laid):
        assert_close(results(loss, "value_grad_hess", **plain | of, **options), want, dtype)
    for method in METHODS:
        got = results(loss, method, **laid, **options)
        assert_close(got, {name: want[name] for name in got}, dtype)
    for name, a in plain.items():
        assert_array_equal(laid[name], a)


@every_loss
@every_layout
def test_layouts(loss, layout, dtype):
    check(loss, layout, (3, 29, 31), dtype)


@every_layout
@few_or_many_classes
@every_rows_driver
def test_layouts_of_rows(loss, soft, layout, classes, dtype):
    check(loss, layout, (3, 5, 7), dtype, classes=classes, soft=soft)


@every_loss
def test_repeated_by_a_stride_of_zero(loss, dtype):
    for axis in (0, 1):
        pred, target = (
            np.broadcast_to(a.take([0], axis), a.shape) for a in inputs(loss, (40, 50), dtype)
        )
        got = results(loss, "value_grad_hess", pred, target, reduction="none")
        want = results(loss, "value_grad_hess", pred.copy(), target.copy(), reduction="none")
        assert_close(got, want, dtype)


@few_or_many_classes
@every_rows_driver
def test_images_have_their_classes_first(loss, soft, classes, dtype):
    """(N, C, H, W) with axis=1, in C order, in channels-last memory and transposed."""
    pred, target = inputs(loss, (2, 5, 7), dtype, classes, soft)
    options = {"sample_weight": np.linspace(0, 2, 70).reshape(2, 5, 7), "reduction": "none"}
    value, grad, hess = loss.value_grad_hess(pred, target, **options)
    want = {"l": value, "g": np.moveaxis(grad, -1, 1), "h": np.moveaxis(hess, -1, 1)}
    target = np.moveaxis(target, -1, 1) if soft else target
    for layout in (np.copy, np.asarray, transposed):
        z = layout(np.moveaxis(pred, -1, 1))
        for axis in (1, -3):
            got = results(loss, "value_grad_hess", z, target, axis=axis, **options)
            assert_close(got, want, dtype)


INTEGERS = list(
    dict.fromkeys(np.dtype(order + code) for code in np.typecodes["AllInteger"] for order in "<>")
)


@pytest.mark.parametrize("labels", INTEGERS, ids=str)
@pytest.mark.parametrize("classes", [5, 120, 2000])
def test_integer_labels(labels, classes, dtype):
    pred, target = inputs(fl.cross_entropy, (150,), dtype, classes)
    target %= min(classes, np.iinfo(labels).max)
    want = results(fl.cross_entropy, "value_grad_hess", pred, target, reduction="none")
    typed = target.astype(labels)
    for same in (typed, spread(typed, step=-3)[::-1], unaligned(typed), typed.tolist()):
        got = results(fl.cross_entropy, "value_grad_hess", pred, same, reduction="none")
        for name in want:
            assert_array_equal(got[name], want[name])


@every_loss
@pytest.mark.parametrize("kind", [np.dtype(bool), *INTEGERS], ids=str)
def test_integers_count_as_float64(loss, kind):
    pred, target = (abs(a).astype(int) % 2 for a in inputs(loss, (50, 6)))
    exact = target if loss.kind == "rows" else target.astype(float)
    want = results(loss, "value_grad_hess", pred.astype(float), exact)
    if loss.kind == "elementwise" or kind.kind != "b":
        target = target.astype(kind)
    got = results(loss, "value_grad_hess", pred.astype(kind), target)
    assert got["l"] == pytest.approx(want["l"], rel=1e-14)
    del got["l"], want["l"]
    assert_close(got, want, np.float64)


@pytest.mark.parametrize(
    "loss",
    [loss for loss in LOSSES if loss.kind == "elementwise" or loss.domain.shares],
    ids=lambda loss: loss.name,
)
@pytest.mark.parametrize("kind", ["float32", "float64", ">f4", ">f8", "int8", ">i8", "bool"])
def test_targets_take_the_dtype_of_pred(loss, kind, dtype):
    pred, target = inputs(loss, (2000,), dtype, soft=True)
    if not np.issubdtype(kind, np.floating):
        target = target.round() % 2
    target = target.astype(kind)
    want = results(loss, "value_grad_hess", pred, target.astype(dtype), reduction="none")
    got = results(loss, "value_grad_hess", pred, target, reduction="none")
    assert_close(got, want, dtype)


@every_loss
@every_method
def test_one_sample_without_axes(loss, method, dtype):
    pred, target = inputs(loss, (3,), dtype)
    want = results(loss, method, pred, target, reduction="none")
    got = results(loss, method, pred[1], target[1], reduction="none")
    for name, value in got.items():
        assert value.shape == want[name][1].shape
        assert value.dtype == dtype
        assert_array_equal(value, want[name][1])


@every_loss
@every_method
def test_no_sample_keeps_shape_and_dtype(loss, method, dtype):
    pred, target = inputs(loss, (0, 3), dtype)
    want = {"l": pred[..., 0] if loss.kind == "rows" else pred, "g": pred, "h": pred}
    for a in (pred, spread(pred), pred.astype(dtype.newbyteorder())):
        for name, value in results(loss, method, a, target, reduction="none").items():
            assert value.shape == want[name].shape
            assert value.dtype == dtype


@every_loss
def test_lists(loss):
    pred, target = inputs(loss, (6, 5))
    got = results(loss, "value_grad_hess", pred.tolist(), target.tolist())
    want = results(loss, "value_grad_hess", pred, target)
    for name in want:
        assert_array_equal(got[name], want[name])


@pytest.mark.parametrize("classes", [256, 257, 1023, 1024, 1025, 2047, 2048, 2049])
@every_label_driver
def test_classes_apart_at_the_limit_of_the_scratch(loss, dtype, classes):
    """Where rows stop to be taken side by side, for either dtype: one more class did overflow."""
    rng = np.random.default_rng(classes)
    pred = rng.normal(size=(2, classes, 70)).astype(dtype)
    labels = rng.integers(classes, size=(2, 70))
    pred = abs(pred)  # of any loss a prediction
    apart = loss.value_grad_hess(pred, labels, axis=1)
    near = loss.value_grad_hess(np.moveaxis(pred, 1, -1).copy(), labels)
    assert_allclose(apart[0], near[0], rtol=1e-6 if dtype == "float32" else 1e-14)
    for a, b in zip(apart[1:], near[1:], strict=True):
        assert_allclose(np.moveaxis(a, 1, -1), b, rtol=1e-5 if dtype == "float32" else 1e-13)
