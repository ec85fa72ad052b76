"""Every method, reduction, weight, mask and `out` of every loss against the naive formula."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from samples import (
    CLASSES,
    LOSSES,
    METHODS,
    every_label_driver,
    every_loss,
    every_method,
    every_rows_driver,
    every_setting,
    expected,
    inputs,
    results,
)

N, D = 6, 5
rng = np.random.default_rng(1)
some = rng.random((N, D)) > 0.4
WEIGHTS = {
    "scalar": 2.5,
    "0-d": np.array(2.5),
    "leading axis": rng.uniform(0.1, 2, N),
    "column": rng.uniform(0.1, 2, (N, 1)),
    "row": rng.uniform(0.1, 2, (1, D)),
    "full": rng.uniform(0.1, 2, (N, D)),
    "negative": rng.uniform(-2, 1, (N, D)),
    "zeros": some * 1.5,
    "integers": rng.integers(1, 4, N),
    "a list": [1.0, 2.0, 0.0, 1.0, 0.5, 3.0],
    "strided": rng.uniform(0.1, 2, (D, 2 * N)).T[::2],
    "float32": rng.uniform(0.1, 2, N).astype(np.float32),
}
MASKS = {
    "leading axis": some[:, 0],
    "column": some[:, :1],
    "row": some[:1],
    "full": some,
    "strided": some.T.copy().T,
    "one kept": np.arange(N * D).reshape(N, D) == 7,
}
reductions = pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum", "none"])


def assert_contract(loss, pred, target, **options):
    """All methods against `expected`; 1e-6 is what central differences give."""
    want = expected(loss, pred, target, **options)
    for method in METHODS:
        for name, got in results(loss, method, pred, target, **options).items():
            assert_allclose(
                got, want[name].astype(float), 1e-6, 1e-6, err_msg=f"{method}: {name}", strict=False
            )
            if name == "l" and options.get("reduction") != "none":
                assert type(got) is float
            else:
                assert got.shape == want[name].shape and got.dtype == np.float64


@every_setting
@reductions
def test_every_method_is_the_formula(loss, knobs, reduction):
    assert_contract(loss, *inputs(loss, (N, D)), reduction=reduction, **knobs)


@every_loss
@reductions
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_sample_weight(loss, reduction, weight):
    assert_contract(loss, *inputs(loss, (N, D)), reduction=reduction, sample_weight=weight)


@every_loss
@reductions
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_mask_alone_and_with_weights(loss, reduction, mask):
    pred, target = inputs(loss, (N, D))
    assert_contract(loss, pred, target, reduction=reduction, mask=mask)
    for kind in ("scalar", "leading axis", "row", "negative"):
        options = {"mask": mask, "sample_weight": WEIGHTS[kind], "reduction": reduction}
        assert_contract(loss, pred, target, **options)


@every_setting
def test_knobs_meet_weights_and_mask(loss, knobs):
    pred, target = inputs(loss, (N, D))
    options = {"sample_weight": WEIGHTS["leading axis"], "mask": MASKS["full"]}
    assert_contract(loss, pred, target, **options, **knobs)


@every_loss
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3, 4), (1, 1), (3, 1, 2)])
def test_any_number_of_axes(loss, shape):
    pred, target = inputs(loss, shape)
    assert_contract(loss, pred, target)
    assert_contract(loss, pred, target, sample_weight=np.arange(1.0, 1 + shape[0]))
    assert_contract(loss, pred, target, mask=np.ones(shape, bool), reduction="batchmean")


def test_two_leading_axes_of_three():
    pred, target = inputs(fl.mse_loss, (2, 3, 4))
    assert_contract(fl.mse_loss, pred, target, sample_weight=np.arange(6.0).reshape(2, 3))


def test_a_square_batch_is_weighed_by_its_leading_axis():
    pred, target, weight = np.eye(3), np.zeros((3, 3)), np.array([1.0, 10.0, 100.0])
    got = fl.mse_loss(pred, target, sample_weight=weight, reduction="none")
    assert_array_equal(got, np.diag(weight))
    got = fl.mse_loss(pred + 1, target, sample_weight=weight, reduction="none")
    assert_array_equal(got[:, 2] / got[0, 1], [1.0, 10.0, 400.0])


@every_loss
def test_lists_and_scalars_are_arrays(loss):
    pred, target = inputs(loss, (3,))
    assert loss(pred.tolist(), target.tolist()) == loss(pred, target)
    per_sample = loss(pred, target, reduction="none")
    assert loss(pred[0].tolist(), target[0].tolist(), reduction="sum") == per_sample[0]


@every_loss
def test_inputs_are_left_alone(loss):
    pred, target = inputs(loss, (N, D))
    weight, mask = WEIGHTS["full"].copy(), MASKS["full"].copy()
    arrays = (pred, target, weight, mask)
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    for method in METHODS:
        getattr(loss, method)(pred, target, sample_weight=weight, mask=mask)
    for a, b in zip(arrays, before, strict=True):
        assert_array_equal(a, b)


# The mean's denominator


@every_setting
@pytest.mark.parametrize("weight", [None, *WEIGHTS.values()], ids=["no weight", *WEIGHTS])
@pytest.mark.parametrize("mask", [None, some[:, 0], some], ids=["no mask", "rows", "full"])
def test_normalizer_is_what_the_mean_divides_by(loss, knobs, weight, mask):
    pred, target = inputs(loss, (N, D))
    options = {"sample_weight": weight, "mask": mask, **knobs}
    total = loss.normalizer(pred, target, **options)
    assert type(total) is float
    want = expected(loss, pred, target, **options)
    assert_allclose(total, want["n"], 1e-6 if np.asarray(weight).dtype == np.float32 else 1e-13)
    mean, summed = (loss(pred, target, reduction=r, **options) for r in ("mean", "sum"))
    assert_allclose(mean * total, summed, 1e-13)


@every_setting
def test_accumulation_over_chunks_is_exact(loss, knobs):
    pred, target = inputs(loss, (N, D))
    weight = WEIGHTS["full"]
    chunks = [(pred[i : i + 2], target[i : i + 2], weight[i : i + 2]) for i in range(0, N, 2)]
    total = sum(loss.normalizer(z, y, sample_weight=w, **knobs) for z, y, w in chunks)
    parts = [
        loss.value_and_grad(z, y, sample_weight=w, normalizer=total, **knobs) for z, y, w in chunks
    ]
    value, grad = loss.value_and_grad(pred, target, sample_weight=weight, **knobs)
    assert_allclose(sum(v for v, _ in parts), value, 1e-14)
    assert_allclose(np.concatenate([g for _, g in parts]), grad, 1e-14, 1e-17)  # p - t cancels


@every_loss
def test_normalizer_replaces_only_the_denominator(loss):
    pred, target = inputs(loss, (N, D))
    assert_contract(loss, pred, target, normalizer=7.0, sample_weight=WEIGHTS["leading axis"])
    nothing = loss.value_and_grad(pred, target, normalizer=7, mask=np.zeros(N, bool))
    assert nothing[0] == 0 and not nothing[1].any()


@every_loss
def test_sample_weight_with_sum_is_the_vector_jacobian_product(loss):
    pred, target = inputs(loss, (N, D))
    vector = WEIGHTS["negative"]
    rows = vector[..., None] if loss.kind == "rows" else vector
    got = loss.grad(pred, target, sample_weight=vector, reduction="sum")
    assert_allclose(got, rows * loss.grad(pred, target, reduction="none"), 1e-13)


@every_loss
@pytest.mark.parametrize("unit", [2.0**-60, 2.0**60])
def test_a_mean_does_not_depend_on_the_unit_of_its_weights(loss, unit):
    pred, target = inputs(loss, (N, D), np.float32)
    weight = WEIGHTS["leading axis"].astype(np.float32)
    want = loss.value_grad_hess(pred, target, sample_weight=weight)
    got = loss.value_grad_hess(pred, target, sample_weight=weight * np.float32(unit))
    for a, b in zip(got, want, strict=True):
        assert_allclose(a, b, 1e-6, 1e-12)


# Nothing kept

NOTHING = {
    "empty": lambda pred, target: (pred[:0], target[:0], {}),
    "masked": lambda pred, target: (pred, target, {"mask": np.zeros(len(pred), bool)}),
    "weights 0": lambda pred, target: (pred, target, {"sample_weight": np.zeros(len(pred))}),
    "weight 0": lambda pred, target: (pred, target, {"sample_weight": 0}),
}


@every_loss
@every_method
@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
def test_nothing_kept(loss, method, nothing):
    pred, target, options = nothing(*inputs(loss, (N, D)))
    per_sample = np.zeros(pred.shape[:-1] if loss.kind == "rows" else pred.shape)
    with np.errstate(all="raise"):
        assert loss.normalizer(pred, target, **options) == 0.0
        for reduction in ("mean", "sum", "none"):
            got = results(loss, method, pred, target, reduction=reduction, **options)
            value = {"mean": np.nan, "sum": 0.0, "none": per_sample}[reduction]
            assert_array_equal(got.pop("l", value), value)
            for array in got.values():
                assert array.shape == pred.shape and not array.any()


@every_loss
def test_weights_that_cancel(loss):
    pred, target = inputs(loss, (2,))
    options = {"sample_weight": [1.0, -1.0]}
    value, grad, hess = loss.value_grad_hess(pred, target, **options)
    assert np.isnan(value) and not grad.any() and not hess.any()
    assert_contract(loss, pred, target, reduction="sum", **options)


def test_every_label_ignored():
    pred, target = np.ones((3, 4)), np.full(3, -100)
    for reduction, value in (("mean", np.nan), ("sum", 0.0), ("none", np.zeros(3))):
        got = fl.cross_entropy.value_and_grad(pred, target, ignore_index=-100, reduction=reduction)
        assert_array_equal(got[0], value)
        assert_array_equal(got[1], np.zeros((3, 4)))


# cross_entropy's own rules

CLASS_WEIGHT = np.array([0.5, 2.0, 0.0, 3.0])


def log_softmax(pred):
    shifted = pred - pred.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_class_weight_and_smoothing_are_pytorchs_formula(smoothing):
    pred, target = inputs(fl.cross_entropy, (50,))
    log_p = log_softmax(pred)
    of_label = CLASS_WEIGHT[target]
    hard = -of_label * log_p[np.arange(50), target]
    spread = -(CLASS_WEIGHT * log_p).sum(-1)
    knobs = {"class_weight": CLASS_WEIGHT, "label_smoothing": smoothing}
    per_sample = (1 - smoothing) * hard + smoothing / CLASSES * spread
    got = fl.cross_entropy(pred, target, reduction="none", **knobs)
    assert_allclose(got, per_sample, 1e-12, 1e-15)
    # The class weight of the label enters the denominator, smoothed or not.
    mean = fl.cross_entropy(pred, target, **knobs)
    assert_allclose(mean, per_sample.sum() / of_label.sum(), 1e-12)
    assert fl.cross_entropy.normalizer(pred, target, **knobs) == of_label.sum()


def test_soft_targets_leave_class_weight_out_of_the_denominator():
    pred, soft = inputs(fl.cross_entropy, (50,), soft=True)
    knobs = {"class_weight": CLASS_WEIGHT, "label_smoothing": 0.3}
    smoothed = 0.7 * soft + 0.3 / CLASSES
    per_sample = -(CLASS_WEIGHT * smoothed * log_softmax(pred)).sum(-1)
    assert_allclose(fl.cross_entropy(pred, soft, **knobs), per_sample.mean(), 1e-12)
    assert fl.cross_entropy.normalizer(pred, soft, **knobs) == 50.0
    assert_contract(fl.cross_entropy, pred, soft, **knobs)


def test_pos_weight_stays_out_of_the_denominator():
    pred, target = inputs(fl.binary_cross_entropy_with_logits, (N, D))
    for pos_weight in (4.0, np.arange(D) + 0.5):
        assert (
            fl.binary_cross_entropy_with_logits.normalizer(pred, target, pos_weight=pos_weight)
            == N * D
        )
        for reduction in ("mean", "none"):
            assert_contract(
                fl.binary_cross_entropy_with_logits,
                pred,
                target,
                pos_weight=pos_weight,
                reduction=reduction,
            )


@pytest.mark.parametrize("shape", [(7, 3), (2, 5, 3), (3,), (4096, 3), (0, 3), (6, 1)])
def test_several_quantiles_of_one_target(shape):
    pred, _ = inputs(fl.multi_quantile_loss, shape)
    target = np.random.default_rng(2).standard_normal(shape[:-1])
    levels = [0.0, 0.2, 0.999][: shape[-1]]
    weight = np.arange(1.0, 1 + shape[0]) if len(shape) > 1 else None
    for method in METHODS:
        got = results(
            fl.multi_quantile_loss,
            method,
            pred,
            target,
            q=levels,
            sample_weight=weight,
            reduction="none",
        )
        for k, q in enumerate(levels):
            want = results(
                fl.quantile_loss,
                method,
                pred[..., k],
                target,
                q=q,
                sample_weight=weight,
                reduction="none",
            )
            for name in want:
                assert_array_equal(got[name][..., k], want[name])
    assert fl.multi_quantile_loss.normalizer(pred, target, q=levels) == pred.size
    bound = fl.multi_quantile_loss.bind(q=levels)
    got = bound(np.asfortranarray(pred), target)
    assert_allclose(got, fl.multi_quantile_loss(pred, target, q=levels), 1e-13)


@every_rows_driver
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_any_class_axis(loss, soft, axis):
    pred, target = inputs(loss, (3, 5), soft=soft)
    want, grad, hess = loss.value_grad_hess(pred, target, reduction="none")
    pred, grad, hess = (np.moveaxis(a, -1, axis) for a in (pred, grad, hess))
    if soft:
        target = np.moveaxis(target, -1, axis)
    for z, y in ((pred, target), (pred.copy(), target.copy())):
        got = loss.value_grad_hess(z, y, axis=axis, reduction="none")
        for a, b in zip(got, (want, grad, hess), strict=True):
            assert_allclose(a, b, 1e-13, 1e-16)


def test_one_hot_targets_of_any_dtype_are_labels():
    pred, target = inputs(fl.cross_entropy, (20,))
    want = fl.cross_entropy.value_grad_hess(pred, target)
    for dtype in (bool, np.int8, np.uint64, np.int64, np.float32, np.float64):
        got = fl.cross_entropy.value_grad_hess(pred, np.eye(CLASSES)[target].astype(dtype))
        for a, b in zip(got, want, strict=True):
            assert_allclose(a, b, 1e-13, 1e-16)


@every_label_driver
@pytest.mark.parametrize("ignored", [-100, 2, 255])
def test_ignored_labels_are_masked_labels(loss, ignored):
    pred, target = inputs(loss, (N, D))
    target[some] = ignored
    keep = target != ignored  # 2 is a class too: all of its samples go
    knobs = {"class_weight": CLASS_WEIGHT, "label_smoothing": 0.1}
    knobs = {name: value for name, value in knobs.items() if name in loss.knobs}
    for reduction in ("mean", "batchmean", "sum", "none"):
        got = loss.value_grad_hess(pred, target, ignore_index=ignored, reduction=reduction, **knobs)
        want = loss.value_grad_hess(pred, target, mask=keep, reduction=reduction, **knobs)
        for a, b in zip(got, want, strict=True):
            assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", "bhilqBHILQ")
def test_any_integer_labels(dtype):
    pred, target = inputs(fl.cross_entropy, (20,))
    want = fl.cross_entropy.value_and_grad(pred, target)
    for labels in (target.astype(dtype), np.repeat(target, 2).astype(dtype)[::2]):
        for order in "<>":
            got = fl.cross_entropy.value_and_grad(
                pred, labels.astype(labels.dtype.newbyteorder(order))
            )
            assert got[0] == want[0]
            assert_array_equal(got[1], want[1])


# out

LAYOUTS = {
    "contiguous": lambda a: a.copy(),
    "Fortran": lambda a: np.asfortranarray(a),
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": lambda a: unaligned(a),
}


def unaligned(a):
    copy = np.frombuffer(bytearray(a.nbytes + 1), a.dtype, a.size, 1).reshape(a.shape)
    copy[...] = a
    return copy


def by_slot(returned, names):
    return returned if len(names) > 1 else (returned,)


@every_loss
@every_method
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_out_is_filled_and_returned(loss, method, layout):
    pred, target = inputs(loss, (N, D))
    names = METHODS[method]
    want = by_slot(getattr(loss, method)(pred, target, reduction="none"), names)
    out = tuple(layout(np.full(a.shape, 7.0)) for a in want)
    got = by_slot(getattr(loss, method)(pred, target, reduction="none", out=out), names)
    for a, b, c in zip(got, out, want, strict=True):
        assert a is b
        assert_allclose(a, c, 1e-13, 1e-16)
    for i in range(len(names)):  # one slot at a time; None is a new array
        out = tuple(layout(np.full(a.shape, 7.0)) if i == j else None for j, a in enumerate(want))
        got = by_slot(getattr(loss, method)(pred, target, reduction="none", out=out), names)
        assert got[i] is out[i]
        for a, c in zip(got, want, strict=True):
            assert_allclose(a, c, 1e-13, 1e-16)


@every_loss
def test_a_bare_out_is_the_gradients(loss):
    pred, target = inputs(loss, (N, D))
    value, grad = loss.value_and_grad(pred, target)
    for method in ("grad", "value_and_grad"):
        out = np.full_like(pred, 7)
        got = results(loss, method, pred, target, out=out)
        assert got["g"] is out
        assert got.get("l", value) == value
        assert_array_equal(out, grad)


@every_loss
@pytest.mark.parametrize("options", [{}, {"sample_weight": WEIGHTS["full"]}, {"mask": some}])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_in_place_over_pred(loss, layout, options):
    pred, target = inputs(loss, (N, D), np.float32)
    value, grad, hess = loss.value_grad_hess(layout(pred), target, **options)
    for method in ("grad", "value_and_grad"):
        z = layout(pred)
        got = results(loss, method, z, target, out=z, **options)
        assert got["g"] is z
        assert_array_equal(z, grad)
        assert got.get("l", value) == value
    z = layout(pred)
    assert_array_equal(loss.grad_and_hess(z, target, out=(z, None), **options)[1], hess)
    assert_array_equal(z, grad)
    z, h = layout(pred), np.empty_like(hess)
    assert loss.value_grad_hess(z, target, out=(None, z, h), **options)[0] == value
    assert_array_equal(z, grad)
    assert_array_equal(h, hess)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("classes", [3, 70, 9000, 17_000])  # lanes to 96, of an axis to 16384
@every_rows_driver
def test_rows_in_place_over_pred(loss, soft, axis, classes):
    pred, target = inputs(loss, (3, 4), np.float32, classes, soft)
    grad = loss.grad(pred, target)
    z = np.moveaxis(pred, -1, axis).copy()
    y = np.moveaxis(target, -1, axis) if soft else target
    assert loss.grad(z, y, axis=axis, out=z) is z
    assert_allclose(np.moveaxis(z, axis, -1), grad, 1e-6, 1e-9)  # p - t cancels


@every_loss
def test_out_may_be_the_other_half_of_preds_memory(loss):
    pred, target = inputs(loss, (N, D))
    both = np.repeat(pred, 2, axis=-1)
    z, out = both[..., ::2], both[..., 1::2]
    assert_allclose(loss.grad(z, target, out=out), loss.grad(pred, target), 1e-13, 1e-16)
    assert_array_equal(z, pred)


@every_loss
@every_method
def test_dtypes_of_the_results(loss, method):
    for dtype in (np.float32, np.float64, np.int64, np.uint8):
        pred, target = inputs(loss, (N, D), np.float64)
        pred = np.abs(pred).astype(dtype)
        want = dtype if np.dtype(dtype).kind == "f" else np.float64
        for array in results(loss, method, pred, target, reduction="none").values():
            assert array.dtype == want


@every_loss
@pytest.mark.parametrize("dtypes", [(np.float32, np.float64), (np.float64, np.float32)])
def test_out_may_have_another_dtype(loss, dtypes):
    pred, target = inputs(loss, (N, D), dtypes[0])
    want = loss.value_grad_hess(pred, target, reduction="none")
    out = tuple(np.empty(a.shape, dtypes[1]) for a in want)
    for a, b in zip(
        loss.value_grad_hess(pred, target, reduction="none", out=out), want, strict=True
    ):
        assert a.dtype == dtypes[1]
        assert_allclose(a, b, 1e-6, 1e-12)


# The registry


def test_losses_are_the_modules_functions():
    assert len(LOSSES) >= 5
    for name, loss in fl.losses().items():
        assert isinstance(loss, fl.Loss)
        assert loss.name == name and getattr(fl, name) is loss and name in fl.__all__
        assert loss.kind in ("elementwise", "rows", "pairs", "vectors", "set")
        assert loss.formula and callable(loss.naive)
        if loss.kind == "set":
            with pytest.raises(TypeError, match=f"^{name}: bounds: none"):
                loss.bounds()
            continue
        bounds = loss.bounds()
        assert len(bounds) == 3 and all(0 < bound < 100 for bound in bounds)


@every_loss
def test_the_sample_inputs_are_in_the_domain(loss):
    target = inputs(loss)[1]
    labels = loss.kind == "rows" and loss.domain.labels
    assert labels or loss.domain.contains(np.asarray(target, float)).all()
    assert str(loss.domain)


@pytest.mark.parametrize("classes", [65_536, 70_001])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sample_weight": np.array([1, 0.5, 0, 2, -1])},
        {"temperature": 2.5, "softcap": 4.0},
        {"class_weight": np.linspace(0.5, 2, 70_001)},
        {"ignore_index": 0},
        {"label_smoothing": 0.1},
        {"class_mask": np.arange(70_001) != 6},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_few_rows_of_very_many_classes_are_cut_for_the_threads(classes, options, rng):
    """They are what rows are that are not cut, since there are many."""
    pred = 3 * rng.normal(size=(5, classes))
    pred[4, 40_000] = np.nan
    target = np.array([0, classes - 1, 40_000, 7, 5])
    few, many = dict(options), dict(options)
    for name in options.keys() & {"class_weight", "class_mask"}:
        few[name] = many[name] = options[name][:classes]
    if "sample_weight" in options:
        many["sample_weight"] = np.tile(options["sample_weight"], 4)
    for threads in (1, 3):
        got = fl.cross_entropy.value_grad_hess(
            pred, target, reduction="none", num_threads=threads, **few
        )
        want = fl.cross_entropy.value_grad_hess(
            np.tile(pred, (4, 1)), np.tile(target, 4), reduction="none", **many
        )
        for a, b in zip(got, want, strict=True):
            assert_allclose(a, b[:5], 1e-12, 1e-18)
        over = pred.copy()
        fl.cross_entropy.grad(over, target, reduction="none", out=over, **few)
        assert_array_equal(over, got[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("shape", [(1100, 4032), (2500, 1777), (4_500_011,)])
def test_what_goes_past_the_cache_is_what_stays(shape, padding, dtype):
    """Gradients and Hessians that begin and end in the middle of a line, and rows with gaps."""
    rng = np.random.default_rng(0)
    rows = len(shape) > 1
    loss = (fl.cross_entropy if rows else fl.huber_loss).bind(reduction="sum", num_threads=2)
    pred = rng.standard_normal(shape).astype(dtype)
    target = rng.integers(0, shape[1], shape[0]) if rows else np.zeros_like(pred)
    held = np.full((2, 5 + pred.size + padding * len(pred) * rows + 5), 7.0, dtype)
    outs = [
        x[5:-5].reshape(len(pred), -1)[:, : shape[1]] if rows else x[5 : 5 + pred.size]
        for x in held
    ]
    loss.grad_and_hess(pred, target, out=tuple(outs))
    part = len(pred) // 97 + 1  # small enough to stay
    for at in range(0, len(pred), part):
        some = slice(at, at + part)
        for got, want in zip(outs, loss.grad_and_hess(pred[some], target[some]), strict=True):
            assert_array_equal(got[some], want)
    for x, out in zip(held, outs, strict=True):
        out[...] = 7
        assert (x == 7).all()  # nothing beside was written


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("plane", [9, 32, 33, 63, 196])
def test_lines_that_planes_share_go_past_the_cache(plane, dtype):
    """Where the classes are apart, one's plane ends in the line in which the next one's begins."""
    rng = np.random.default_rng(0)
    loss = fl.cross_entropy.bind(reduction="sum", num_threads=2, axis=1)
    classes = 37
    shape = (2_200_000 // (classes * plane), classes, plane)
    pred = rng.standard_normal(shape).astype(dtype)
    target = rng.integers(0, classes, (len(pred), plane))
    few = len(pred) // 97 + 1  # small enough to stay
    parts = [
        loss.grad_and_hess(pred[at : at + few], target[at : at + few])
        for at in range(0, len(pred), few)
    ]
    want = [np.concatenate(x) for x in zip(*parts, strict=True)]
    held = np.full((2, pred.size + 32), 7.0, dtype)
    for at in (0, 1, 16):
        outs = [x[at : at + pred.size].reshape(shape) for x in held]
        loss.grad_and_hess(pred, target, out=tuple(outs))
        loss.grad(
            pred, target, out=(alone := np.empty_like(held[0]))[at : at + pred.size].reshape(shape)
        )
        assert_array_equal(alone[at : at + pred.size].reshape(shape), want[0])
        for x, out, right in zip(held, outs, want, strict=True):
            assert_array_equal(out, right)
            out[...] = 7
            assert (x == 7).all()  # nothing beside was written
