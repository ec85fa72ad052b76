"""Every documented error: its type, what its message names, the cure, and what stays untouched."""

import re

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastloss as fl
from samples import (
    LOSSES,
    METHODS,
    every_elementwise,
    every_label_driver,
    every_loss,
    every_method,
    inputs,
    run_python,
)

NOT_A_KNOB = [-np.inf, -1.0, 0.0, 1.0, 1.5, np.inf, np.nan]
BAD_KNOBS = [
    pytest.param(loss, name, value, id=f"{loss.name}-{name}={value}")
    for loss in LOSSES
    for name, knob in loss.knobs.items()
    for value in NOT_A_KNOB
    if isinstance(knob.check, fl.Interval) and not knob.check.contains(value)
]


def raises(error, loss, *words):
    """The message starts with the loss's name and contains every word."""
    found = "".join(f"(?=.*{re.escape(word)})" for word in words)
    return pytest.raises(error, match=rf"(?s)^{re.escape(loss.name)}: {found}")


# Shapes


@every_loss
@every_method
def test_shapes_are_never_broadcast(loss, method):
    pred, target = inputs(loss, (6,))
    call = getattr(loss, method)
    for other in (target[:-1], target[:1], target[0], target[None], target[:, None, None]):
        with raises(ValueError, loss, "target", str(np.shape(pred)), str(np.shape(other))):
            call(pred, other)
    with raises(ValueError, loss, "target"):
        loss.normalizer(pred, target[:-1])


@every_elementwise
def test_a_column_against_a_vector(loss):
    pred, target = inputs(loss, (6,))
    with raises(ValueError, loss, "target[:, None]", "(6, 1)", "(6,)"):
        loss(pred[:, None], target)
    with raises(ValueError, loss, "target", "(6, 1)", "(6,)"):
        loss(pred, target[:, None])


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_the_wrong_class_axis(soft):
    pred, target = inputs(fl.cross_entropy, (3, 7), soft=soft)
    if not soft:
        with raises(ValueError, fl.cross_entropy, "target", "axis=1"):
            fl.cross_entropy(np.moveaxis(pred, -1, 1), target)
    for axis in (3, -4):
        with raises(ValueError, fl.cross_entropy, "axis", str(axis)):
            fl.cross_entropy(pred, target, axis=axis)
    for axis in (1.0, "last", None):
        with raises(TypeError, fl.cross_entropy, "axis"):
            fl.cross_entropy(pred, target, axis=axis)


def test_rows_need_a_class_axis():
    with raises(ValueError, fl.cross_entropy, "pred"):
        fl.cross_entropy(1.0, 0)


# Kinds and dtypes


@every_loss
@every_method
@pytest.mark.parametrize("dtype", ["g", "c8", "c16", "O", "U3", "S3", "M8[s]", "m8[s]"])
def test_dtypes_that_are_not_numbers_we_take(loss, method, dtype):
    pred, target = inputs(loss, (6,))
    if np.dtype(dtype) == np.float64:
        pytest.skip("longdouble is float64 here")
    bad = np.zeros(pred.shape, dtype)
    with raises(TypeError, loss, "pred", str(bad.dtype)):
        getattr(loss, method)(bad, target)


@every_loss
@pytest.mark.parametrize("dtype", ["c16", "O", "U3", "M8[s]"])
def test_targets_and_weights_of_another_kind(loss, dtype):
    pred, target = inputs(loss, (6,))
    bad = np.zeros(6, dtype)
    with raises(TypeError, loss, "target", str(bad.dtype)):
        loss(pred, bad)
    with raises(TypeError, loss, "sample_weight", str(bad.dtype)):
        loss(pred, target, sample_weight=bad)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_labels(dtype):
    pred, target = inputs(fl.cross_entropy, (6,))
    with raises(TypeError, fl.cross_entropy, "target", "target.astype(int)", np.dtype(dtype).name):
        fl.cross_entropy(pred, target.astype(dtype))


@every_loss
def test_ragged_and_missing_input(loss):
    pred, target = inputs(loss, (2,))
    with pytest.raises((TypeError, ValueError)):
        loss([[1.0], [1.0, 2.0]], target)
    with raises(TypeError, loss, "pred"):
        loss(None, target)
    with raises(TypeError, loss, "target"):
        loss(pred, None)
    with pytest.raises(TypeError, match=loss.name):
        loss(pred)
    with pytest.raises(TypeError, match=loss.name):
        loss(pred, target, 1.0)


# Labels and domains


@every_label_driver
@every_method
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.uint64])
@pytest.mark.parametrize("classes", [4, 100])
def test_labels_out_of_range(loss, method, dtype, classes):
    pred, target = inputs(loss, (40,), classes=classes)
    target = target.astype(dtype)
    top = np.iinfo(dtype).max
    bad = [classes, top] if np.dtype(dtype).kind == "u" else [-1, classes, -100, top]
    for value in bad:
        labels = target.copy()
        labels[[11, 30]] = value, top
        names = METHODS[method]
        out = tuple(np.full((40,) if n == "l" else pred.shape, 7.0) for n in names)
        with raises(ValueError, loss, "target", "11", str(value), str(classes)):
            getattr(loss, method)(pred, labels, reduction="none", out=out)
        for a in out:
            assert (a == 7).all()
        before = pred.copy()
        with raises(ValueError, loss, "target"):
            loss.grad(pred, labels, out=pred)
        assert_array_equal(pred, before)


@every_method
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.uint64])
@pytest.mark.parametrize("classes", [4, 100])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("options", [{}, {"reduction": "none"}])
def test_listed_labels_out_of_range(method, dtype, classes, axis, options):
    loss = fl.multilabel_margin_loss
    pred, target = inputs(loss, (40,), classes=classes)
    top = np.iinfo(dtype).max
    bad = [classes, top] if np.dtype(dtype).kind == "u" else [-2, classes, -100, top]
    target[target < 0] = 0
    for value in bad:
        lists = target.astype(dtype)
        lists[11, [2, 3]] = value, top
        lists[3, 3] = value if axis else 0
        z, y = (np.moveaxis(a, 1, axis).copy() for a in (pred, lists))
        where = "target[3, 3]" if axis else "target[2, 11]"
        with raises(ValueError, loss, f"{where} = {value} ", f"label < {classes}", "-1"):
            getattr(loss, method)(z, y, axis=axis, **options)
        before = z.copy()
        with raises(ValueError, loss, where):
            loss.grad(z, y, axis=axis, out=z, **options)
        assert_array_equal(z, before)
        with raises(ValueError, loss, "target[2, 11]" if axis == 0 else "target[11, 2]"):
            loss(z, y, axis=axis, mask=np.arange(40) != 3)
        loss(z, y, axis=axis, sample_weight=~np.isin(np.arange(40), [3, 11]))
        with raises(ValueError, loss, where):
            loss.normalizer(z, y, axis=axis)


def test_lists_are_of_integers():
    loss = fl.multilabel_margin_loss
    pred, target = inputs(loss, (6,))
    for kind in (float, bool):
        with raises(TypeError, loss, "target", str(np.dtype(kind)), "target.astype(int)"):
            loss(pred, target.astype(kind))
    with raises(ValueError, loss, "target", "(6, 4)", "(6,)"):
        loss(pred, target[:, 0])


def test_a_label_to_ignore_has_a_cure():
    pred, target = inputs(fl.cross_entropy, (6,))
    target[2] = -100
    with raises(ValueError, fl.cross_entropy, "target", "2", "ignore_index=-100"):
        fl.cross_entropy(pred, target)
    target[4] = -1
    with raises(ValueError, fl.cross_entropy, "4", "-1"):
        fl.cross_entropy(pred, target, ignore_index=-100)


def test_the_index_of_a_label_has_every_axis():
    pred, target = inputs(fl.cross_entropy, (6, 5))
    target[3, 1], target[4, 0] = 9, 8
    with raises(ValueError, fl.cross_entropy, "target[3, 1]", "9"):
        fl.cross_entropy(pred, target)
    with raises(ValueError, fl.cross_entropy, "target[4, 0]", "8"):
        fl.cross_entropy(pred, target, mask=target != 9)


def test_no_class_at_all():
    with raises(ValueError, fl.cross_entropy, "pred", "(3, 0)"):
        fl.cross_entropy(np.zeros((3, 0)), np.zeros(3, int))


def test_a_label_on_a_class_of_no_weight_is_still_a_class():
    pred, target = inputs(fl.cross_entropy, (6,))
    with raises(ValueError, fl.cross_entropy, "target"):
        fl.cross_entropy(pred, target + 4, class_weight=np.zeros(4))


def outside(domain):
    values = [-np.inf, -1.0, -1e-300, 0.25, 1.0 + 2**-52, 1e300, np.inf]
    return [v for v in values if not domain.contains(np.array([v]))[0]]


@every_elementwise
@every_method
@pytest.mark.parametrize("layout", ["contiguous", "strided", "weighted", "masked"])
def test_target_outside_the_domain(loss, method, layout):
    pred, target = inputs(loss, (6, 50))
    options = {}
    if layout == "strided":
        target = np.repeat(target, 2, axis=1)[:, ::2]
    elif layout == "weighted":
        options["sample_weight"] = np.arange(6.0)  # row 0 weighs nothing and is not checked
        target[0] = np.inf
    elif layout == "masked":
        options["mask"] = np.arange(300).reshape(6, 50) > 30
        target.flat[:30] = -np.inf
    for value in outside(loss.domain):
        bad = target.copy()
        bad[2, 17] = value
        bad[4, 3] = value
        with raises(ValueError, loss, "target[2, 17]", str(loss.domain)):
            getattr(loss, method)(pred, bad, **options)
        before = pred.copy()
        with raises(ValueError, loss, "target[2, 17]"):
            loss.grad(pred, bad, out=pred, **options)
        assert_array_equal(pred, before)


@pytest.mark.parametrize(
    "loss", [x for x in LOSSES if x.domain.shares and x.domain.high == 1], ids=lambda x: x.name
)
@every_method
@pytest.mark.parametrize("classes", [4, 100, 1500])
@pytest.mark.parametrize("layout", ["contiguous", "first axis", "weighted", "masked"])
def test_shares_outside_their_domain(loss, method, classes, layout):
    pred, target = inputs(loss, (6, 7), classes=classes, soft=True)
    options = {}
    if layout == "weighted":
        options["sample_weight"] = np.arange(6.0)  # row 0 weighs nothing and is not checked
        target[0] = np.inf
    elif layout == "masked":
        options["mask"] = np.arange(42).reshape(6, 7) > 8
        target[0] = -np.inf
    getattr(loss, method)(pred, target, **options)
    where = "target[2, 5, 3]"
    if layout == "first axis":
        pred, target = np.moveaxis(pred, -1, 0).copy(), np.moveaxis(target, -1, 0).copy()
        options["axis"], where = 0, "target[3, 2, 5]"
    for value in (-1e-300, 1 + 2**-52, np.inf, -np.inf):
        bad = target.copy()
        rows = np.moveaxis(bad, 0, -1) if layout == "first axis" else bad
        rows[2, 5, 3] = rows[4, 1, 3] = rows[2, 6, 3] = value
        with raises(ValueError, loss, where, "[0, 1]"):
            getattr(loss, method)(pred, bad, **options)
        with raises(ValueError, loss, where):
            loss.normalizer(pred, bad, **options)
        before = pred.copy()
        with raises(ValueError, loss, where):
            loss.grad(pred, bad, out=pred, **options)
        assert_array_equal(pred, before)


@pytest.mark.parametrize(
    "loss",
    [x for x in LOSSES if x.kind == "rows" and not x.domain.labels],
    ids=lambda x: x.name,
)
def test_labels_where_there_are_none(loss):
    pred, _ = inputs(loss, (6,))
    with raises(ValueError, loss, "target", "(6, 4)", "(6,)"):
        loss(pred, np.zeros(6, int))


@every_elementwise
def test_the_first_bad_target_of_all_threads(loss):
    bad = outside(loss.domain)
    if not bad:
        assert loss.domain.low == -np.inf and loss.domain.high == np.inf
        return
    pred, target = inputs(loss, (1_000_000,), np.float32)
    for first in (300_003, 0, 999_000):
        target[[first, 999_500, 999_999]] = bad[0]
        with raises(ValueError, loss, f"target[{first}]"):
            loss.value_and_grad(pred, target, num_threads=4)
        target[first] = target[1]


def test_a_flag_lifts_the_domain():
    pred, target = np.zeros(3), np.array([0.0, -1.0, 2.0])
    for log_target in (False, 0):
        with raises(ValueError, fl.kl_div, "target[1] = -1.0", "[0, 1]"):
            fl.kl_div(pred, target, log_target=log_target)
    for options in ({}, {"reduction": "none"}):
        assert np.isfinite(fl.kl_div(pred, target, log_target=True, **options)).all()
    bound = fl.kl_div.bind(log_target=True)
    assert bound.grad(pred, target, out=pred.copy()).all()
    with raises(ValueError, fl.kl_div, "target[1]"):
        bound(pred, target, log_target=False)


def test_quantiles_that_do_not_fit():
    loss, pred, target = fl.multi_quantile_loss, np.zeros((4, 3)), np.zeros(4)
    for q, words in (
        ([0.1, 0.5], ("q", "(4, 3)", "(2,)")),
        ([0.1, 1.5, -1.0], ("q[1] = 1.5", "[0, 1]")),
        ([0.1, np.nan, 0.5], ("q[1] = nan",)),
        (-0.5, ("q = -0.5",)),
    ):
        with raises(ValueError, loss, *words):
            loss(pred, target, q=q)
    with raises(ValueError, loss, "q[0] = 2.0"):
        loss.bind(q=[2.0])
    for bad in (np.zeros(3), np.zeros((4, 1)), np.zeros((4, 2))):
        with raises(ValueError, loss, "target", "(4,)", "(4, 3)", str(bad.shape)):
            loss(pred, bad, q=[0.1, 0.5, 0.9])
    levels = np.array([0.1, 0.5, 0.9])
    bound = loss.bind(q=levels)
    levels[:] = 0
    assert bound(pred, target + 1) == pytest.approx(0.5)


# Knobs


@pytest.mark.parametrize(("loss", "name", "value"), BAD_KNOBS)
def test_knobs_out_of_range(loss, name, value):
    pred, target = inputs(loss, (6,))
    words = (name, str(loss.knobs[name].check))
    for method in METHODS:
        with raises(ValueError, loss, *words):
            getattr(loss, method)(pred, target, **{name: value})
    with raises(ValueError, loss, *words):
        loss.bind(**{name: value})


@every_loss
def test_knobs_of_another_kind(loss):
    pred, target = inputs(loss, (6,))
    for name, knob in loss.knobs.items():
        for value in ("1", 1j, object()):
            with raises(TypeError, loss, name):
                loss(pred, target, **{name: value})
            with raises(TypeError, loss, name):
                loss.bind(**{name: value})
        if knob.default is not None and not knob.optional:
            with raises(TypeError, loss, name):
                loss(pred, target, **{name: None})
        if knob.check is not None or name in ("axis", "ignore_index"):
            with raises(ValueError, loss, name):
                loss(pred, target, **{name: 10**400})


@every_loss
def test_unknown_knobs_are_reported_for_the_loss(loss):
    pred, target = inputs(loss, (6,))
    for call in (loss, *(getattr(loss, m) for m in METHODS), loss.normalizer):
        with pytest.raises(TypeError, match=rf"{loss.name}.*'tempreature'"):
            call(pred, target, tempreature=2.0)
    with pytest.raises(TypeError, match=rf"{loss.name}.*'tempreature'"):
        loss.bind(tempreature=2.0)
    of_some_rows = {"label_smoothing": 0.1, "ignore_index": 1, "class_mask": [True] * 4}
    if not any(knob.each for knob in loss.knobs.values()):
        of_some_rows["class_weight"] = [1.0] * 4
    for name, value in of_some_rows.items():
        if name not in loss.knobs:
            with pytest.raises(TypeError, match=rf"{loss.name}.*'{name}'"):
                loss(pred, target, **{name: value})
    for name in ("sample_weight", "mask", "normalizer", "out"):  # belong to a call
        with pytest.raises(TypeError, match=rf"{loss.name}.*{name}"):
            loss.bind(**{name: None})


@pytest.mark.parametrize(
    ("loss", "name", "axis"),
    [
        (fl.cross_entropy, "class_weight", 4),
        (fl.binary_cross_entropy_with_logits, "pos_weight", 5),
    ],
    ids=["class_weight", "pos_weight"],
)
def test_array_knobs(loss, name, axis):
    pred, target = inputs(loss, (6,) if loss.kind == "rows" else (6, 5))
    for shape in [(axis - 1,), (axis + 1,), (1, axis), (6, axis), (0,)]:
        with raises(ValueError, loss, name, str(shape), str(axis)):
            loss.grad(pred, target, **{name: np.ones(shape)})
    with raises(TypeError, loss, name):
        loss(pred, target, **{name: ["a"] * axis})


def test_pos_weight_is_not_negative():
    loss = fl.binary_cross_entropy_with_logits
    pred, target = inputs(loss, (6, 5))
    for bad in (-1.0, np.array([1.0, 2.0, -1.0, 0.0, 1.0])):
        with raises(ValueError, loss, "pos_weight", "-1"):
            loss(pred, target, pos_weight=bad)


def test_class_masks():
    pred, target = inputs(fl.cross_entropy, (6,))
    mask = np.arange(4) != 2
    target[:] = 0
    target[3:] = 2
    for given in (mask, np.broadcast_to(mask, pred.shape)):
        for order in (None, "sum"):  # the short way and the general
            with raises(ValueError, fl.cross_entropy, "target[3]", "2", "class_mask"):
                fl.cross_entropy.grad(pred, target, class_mask=given, reduction=order or "mean")
    assert fl.cross_entropy(pred, target, class_mask=mask, ignore_index=2) > 0
    for shape in [(3,), (5,), (1, 4), (6, 3), (4, 6)]:
        with raises(ValueError, fl.cross_entropy, "class_mask", str(shape), "4"):
            fl.cross_entropy(pred, target, class_mask=np.ones(shape, bool))
    with raises(TypeError, fl.cross_entropy, "class_mask", "bool", "float64"):
        fl.cross_entropy(pred, target, class_mask=np.ones(4))
    with raises(TypeError, fl.cross_entropy, "class_mask", "bool"):
        fl.cross_entropy.bind(class_mask=[1, 0, 1, 1])


# The common arguments


@every_loss
def test_reduction(loss):
    pred, target = inputs(loss, (6,))
    for bad in ("average", "Mean", "", 1):
        with raises((TypeError, ValueError), loss, "reduction", repr(bad)):
            loss(pred, target, reduction=bad)
        with raises((TypeError, ValueError), loss, "reduction", repr(bad)):
            loss.bind(reduction=bad)
    with raises(ValueError, loss, "reduction", "'none'", "'batchmean'", "'average'"):
        loss.grad(pred, target, reduction="average")


@every_loss
def test_normalizer(loss):
    pred, target = inputs(loss, (6,))
    for bad in (0.0, -1, np.nan, np.inf, 10**400):
        with raises(ValueError, loss, "normalizer"):
            loss(pred, target, normalizer=bad)
    for bad in ("6", 6j, [6.0, 6.0]):
        with raises(TypeError, loss, "normalizer"):
            loss(pred, target, normalizer=bad)
    for reduction in ("sum", "batchmean", "none"):
        with raises(ValueError, loss, "normalizer", reduction):
            loss.grad(pred, target, normalizer=6.0, reduction=reduction)


@every_loss
@every_method
def test_weights_and_masks_of_the_wrong_shape(loss, method):
    pred, target = inputs(loss, (6, 5))
    call = getattr(loss, method)
    for shape in [(5,), (1,), (6, 5, 1), (1, 6), (5, 6), (0,), (6, 0), (1, 6, 5)]:
        with raises(ValueError, loss, "sample_weight", str(shape), "(6, 5)"):
            call(pred, target, sample_weight=np.ones(shape))
        with raises(ValueError, loss, "mask", str(shape), "(6, 5)"):
            call(pred, target, mask=np.ones(shape, bool))


@every_loss
def test_mask_is_boolean(loss):
    pred, target = inputs(loss, (6,))
    for bad in (np.ones(6), np.ones(6, int), ["True"] * 6):
        with raises(TypeError, loss, "mask", "bool"):
            loss(pred, target, mask=bad)


@every_loss
def test_num_threads(loss):
    pred, target = inputs(loss, (6,))
    for error, bad in [(ValueError, -1), (ValueError, 0), (TypeError, 1.5), (TypeError, "2")]:
        with raises(error, loss, "num_threads"):
            loss(pred, target, num_threads=bad)
        with raises(error, loss, "num_threads"):
            loss.bind(num_threads=bad)
        for setter in (fl.set_num_threads, fl.threads):
            with pytest.raises(error, match="threads"):
                setter(bad)


# out


@every_loss
@every_method
def test_out_is_an_array_or_a_tuple_of_one_per_result(loss, method):
    pred, target = inputs(loss, (6,))
    call, count = getattr(loss, method), len(METHODS[method])
    g = np.zeros_like(pred)
    for bad in ([[0.0] * 6] * 4, "out", 1.0, (*[None] * (count - 1), "g"), [None] * count):
        with raises(TypeError, loss, "out"):
            call(pred, target, out=bad, reduction="none")
    for length in {0, 1, 2, 3, 4} - {count}:
        with raises(ValueError, loss, "out", str(count), str(length)):
            call(pred, target, out=(None,) * length)
    if method in ("grad_and_hess", "value_grad_hess", "__call__"):
        with raises((TypeError, ValueError), loss, "out", "tuple"):
            call(pred, target, out=g)


def bad_out(loss, error, pred, target, out, *words, **options):
    """`out` is refused in the gradient's and in the Hessian's slot, and nothing is written."""
    before = np.array(out), pred.copy()
    for method, slots in (
        ("grad", out),
        ("value_and_grad", (None, out)),
        ("grad_and_hess", (None, out)),
        ("value_grad_hess", (None, None, out)),
    ):
        with raises(error, loss, "out", *words):
            getattr(loss, method)(pred, target, out=slots, **options)
    assert_array_equal(out, before[0])
    assert_array_equal(pred, before[1])


@every_loss
def test_out_of_the_wrong_shape_dtype_or_read_only(loss):
    pred, target = inputs(loss, (6, 5))
    for shape in [pred.shape[1:], (1, *pred.shape), (*pred.shape[:-1], 1), (0,)]:
        bad_out(loss, ValueError, pred, target, np.zeros(shape), str(shape), str(pred.shape))
    for dtype in (np.int64, np.longdouble, np.complex128, object):
        if np.dtype(dtype) != np.float64:
            out = np.zeros(pred.shape, dtype)
            bad_out(loss, (TypeError, ValueError), pred, target, out, str(out.dtype))
    out = np.zeros(pred.shape)
    out.flags.writeable = False
    bad_out(loss, ValueError, pred, target, out, "read-only")
    pred.flags.writeable = False
    bad_out(loss, ValueError, pred, target, pred, "read-only")


@every_loss
def test_out_for_the_per_sample_loss(loss):
    pred, target = inputs(loss, (6, 5))
    for shape in [(6,), (6, 5, 4, 1), (5, 6), ()]:
        with raises(ValueError, loss, "out", str(shape), "(6, 5)"):
            loss(pred, target, reduction="none", out=(np.zeros(shape),))


@every_loss
def test_out_may_not_overlap(loss):
    pred, target = inputs(loss, (6, 6), classes=6)
    n = pred.size
    buffer = np.zeros(n + 6)
    shifted = buffer[6:].reshape(pred.shape)
    z = buffer[:n].reshape(pred.shape)
    z[...] = pred
    bad_out(loss, ValueError, z, target, shifted, "pred", "overlap")
    bad_out(loss, ValueError, z, target, z[::-1], "pred", "overlap")
    bad_out(loss, ValueError, z, target, z.swapaxes(0, 1), "pred", "overlap")
    weight = pred[..., 0] if loss.kind == "rows" else pred
    bad_out(loss, ValueError, pred.copy(), target, pred, "sample_weight", sample_weight=weight)
    other = np.zeros(pred.shape)
    for out in ((other, other), (other, other[::-1]), (z, z)):
        with raises(ValueError, loss, "out", "overlap"):
            loss.grad_and_hess(z, target, out=out)
    per_sample = pred[..., 0] if loss.kind == "rows" else pred
    with raises(ValueError, loss, "out", "overlap"):
        loss.value_and_grad(pred, target, reduction="none", out=(per_sample, pred))


@every_elementwise
def test_out_may_not_overlap_the_target(loss):
    pred, target = inputs(loss, (6, 5))
    bad_out(loss, ValueError, pred, target, target, "target", "overlap")
    bad_out(loss, ValueError, target, target, target, "overlap")


def test_out_may_not_overlap_pos_weight():
    loss = fl.binary_cross_entropy_with_logits
    pred, target = inputs(loss, (6, 5))
    out = np.ones(pred.shape)
    bad_out(loss, ValueError, pred, target, out, "pos_weight", "overlap", pos_weight=out[0])


def test_out_may_not_overlap_labels_probabilities_or_a_mask():
    pred, soft = inputs(fl.cross_entropy, (6,), soft=True)
    bad_out(fl.cross_entropy, ValueError, pred, soft, soft, "target", "overlap")
    out = np.zeros(pred.shape)
    labels = out.view(np.int64)[:, 0]
    bad_out(fl.cross_entropy, ValueError, pred, labels, out, "target", "overlap")
    labels = out.view(np.int64).reshape(-1)[:6]
    bad_out(fl.cross_entropy, ValueError, out, labels, out, "overlap")
    mask = out.view(bool)[:, 0]
    labels = np.zeros(6, int)
    bad_out(fl.cross_entropy, ValueError, pred, labels, out, "mask", "overlap", mask=mask)
    weight = out[0]
    bad_out(fl.cross_entropy, ValueError, pred, labels, out, "class_weight", class_weight=weight)


# The environment


def refusal(**env):
    code = """if True:
        try:
            import fastloss
            fastloss.get_num_threads()
        except (ImportError, ValueError) as error:
            print(error)
        """
    return run_python(code, **env)


@pytest.mark.parametrize(
    "isa", sorted({"baseline", "avx2", "avx512", "sse9"} - {*fl.kernels.available})
)
def test_an_instruction_set_that_cannot_be_had(isa):
    message = refusal(FASTLOSS_ISA=isa)
    assert "FASTLOSS_ISA" in message and isa in message


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_is_none(threads):
    message = refusal(FASTLOSS_NUM_THREADS=threads)
    assert "FASTLOSS_NUM_THREADS" in message and repr(threads) in message


@pytest.mark.parametrize("name", ["temperature", "z_loss", "softcap", "label_smoothing"])
def test_a_wrong_label_loses_nothing_whatever_the_option(name, dtype):
    pred = np.arange(12.0, dtype=dtype).reshape(4, 3)
    before, other, labels = pred.copy(), np.full_like(pred, 7), [0, 1, 3, 2]
    for target in (np.array(labels), labels):  # straight to the kernel, and the general way
        for out in (None, other, pred):
            with pytest.raises(ValueError, match=r"^cross_entropy: target\[2\] = 3 is not a class"):
                fl.cross_entropy.grad(pred, target, out=out, **{name: 0.5})
    assert_array_equal(pred, before)
    assert (other == 7).all()
