"""What never changes a bit: threads, what else was asked for, n, the position, the neighbours.

Bits may differ between instruction sets, dtypes and memory layouts; so each of those is compared
with itself here, and the file runs once more on every other instruction set.
"""

import math

import numpy as np
import pytest

import fastloss as fl
from samples import (
    METHODS,
    every_loss,
    every_other_isa,
    every_rows_driver,
    every_setting,
    inputs,
    results,
    run_tests,
    softness,
)

LAYOUTS = {
    "contiguous": np.ascontiguousarray,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "Fortran": np.asfortranarray,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def bits(value):
    return np.shape(value), np.asarray(value).tobytes()


def assert_same_bits(got, want):
    assert got.keys() <= want.keys()
    for name, value in got.items():
        assert bits(value) == bits(want[name]), name


def shapes(loss):
    """(shape, classes) that meet every driver: blocks, lanes of short rows, blocks of long ones,
    tiles of very long ones.
    """
    if loss.kind == "elementwise":
        return [((300_007,), 0), ((3001, 100), 0)]
    return [((40_003,), 7), ((2003,), 300), ((30,), 20_011), ((2,), 70_001)]


@every_loss
@every_layout
def test_any_number_of_threads(loss, layout, dtype, rng):
    for shape, classes in shapes(loss):
        pred, target = inputs(loss, shape, dtype, classes)
        pred, target = layout(pred), layout(target)
        for options in (
            {},
            {"reduction": "none", "mask": rng.random(shape) < 0.7},
            {"sample_weight": rng.normal(size=shape)},
        ):
            one, *more = (
                results(loss, "value_grad_hess", pred, target, num_threads=n, **options)
                for n in (1, 2, 7)
            )
            for other in more:
                assert_same_bits(other, one)


@every_setting
@every_layout
def test_what_else_is_asked_for(loss, knobs, layout, dtype, rng):
    """Loss only, gradient only and the fused calls are one function."""
    for shape, classes in (((2500,), 4), ((41, 61), 4), ((3,), 1500)):
        if classes != 4 and any(np.ndim(value) for value in knobs.values()):
            continue
        pred, target = inputs(loss, shape, dtype, classes)
        pred, target = layout(pred), layout(target)
        for options in ({}, {"reduction": "none"}, {"sample_weight": rng.normal(size=shape)}):
            everything = results(loss, "value_grad_hess", pred, target, **knobs, **options)
            for method in METHODS:
                part = results(loss, method, pred, target, **knobs, **options)
                assert_same_bits(part, everything)


def assert_every_part_is_the_whole(loss, pred, target, **knobs):
    """Prefixes and suffixes of every length, each sample alone, and a shuffle."""

    def run(index):
        return results(
            loss, "value_grad_hess", pred[index], target[index], reduction="none", **knobs
        )

    whole = run(slice(None))
    n = len(pred)
    shuffled = np.random.default_rng(0).permutation(n)
    parts = [slice(0, i) for i in range(1, n)] + [slice(i, n) for i in range(1, n)]
    parts += [slice(i, i + 1) for i in range(n)] + [shuffled]
    for part in parts:
        assert_same_bits(run(part), {name: value[part] for name, value in whole.items()})


@every_setting
def test_any_n_and_position(loss, knobs, dtype):
    assert_every_part_is_the_whole(loss, *inputs(loss, (257,), dtype), **knobs)


@every_rows_driver
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 16, 17, 64, 65, 130, 1100])
def test_any_n_and_position_of_rows(loss, soft, classes, dtype):
    pred, target = inputs(loss, (257,), dtype, classes, soft)
    assert_every_part_is_the_whole(loss, pred, target)


@every_loss
@pytest.mark.parametrize("neighbour", [np.nan, np.inf, -1e30, 0.0])
def test_any_neighbours(loss, neighbour, dtype):
    for classes in (4, 100, 300):
        pred, target = inputs(loss, (1500,), dtype, classes)
        want = results(loss, "value_grad_hess", pred, target, reduction="none")
        pred[::2] = neighbour
        got = results(loss, "value_grad_hess", pred, target, reduction="none")
        odd = slice(1, None, 2)
        assert_same_bits(*({k: v[odd] for k, v in r.items()} for r in (got, want)))


@pytest.mark.parametrize(
    ("method", "half"), [("grad", False), ("grad_and_hess", False), ("grad_and_hess", True)]
)
@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (fl.huber_loss, (2_500_001,)),
        (fl.fair_loss, (2_500_001,)),
        (fl.gamma_nll_loss, (2_500_001,)),
        (fl.cross_entropy, (2300, 1001)),
        (fl.cross_entropy, (400_001, 7)),
        (fl.kl_div_with_logits, (30_011, 90)),
        (fl.cross_entropy.bind(axis=1), (3, 1001, 901)),
        (fl.cross_entropy.bind(axis=1), (1999, 35, 37)),
        (fl.cross_entropy.bind(axis=1), (20_011, 33, 5)),
    ],
    ids=["quick", "slow", "moderate", "rows", "few", "divergence", "far-apart", "apart", "near"],
)
def test_what_is_stored_past_the_cache(loss, shape, method, half, dtype, rng):
    """Outputs of more than 8 MiB, on any of a cache line's places; strided ones are not."""
    pred = rng.standard_normal(shape, dtype)
    target = 1 - rng.random(shape, dtype)
    if loss.domain.labels:
        target = rng.integers(shape[1], size=shape[:1] + shape[2:])
    n = METHODS[method].count("g") + METHODS[method].count("h")
    into = np.float16 if half else dtype
    memory = np.empty((n, pred.size + 64), into)
    spread = tuple(np.empty((*shape, 2), into)[..., 0] for _ in range(n))
    weights = {"sample_weight": rng.random(shape[0]).astype(dtype)}
    run = getattr(loss.bind(reduction="sum"), method)  # a mean's would be 0 in float16
    for options in ({}, weights):
        run(pred, target, out=spread if n > 1 else spread[0], **options)
        want = [np.ascontiguousarray(each).tobytes() for each in spread]
        for offset, threads in ((0, 1), (1, 2), (4, 2), (15, 1)):
            memory[...] = 7
            outs = tuple(row[offset : offset + pred.size].reshape(shape) for row in memory)
            run(pred, target, out=outs if n > 1 else outs[0], num_threads=threads, **options)
            same = [out.tobytes() for out in outs] == want  # bytes that differ take minutes to show
            assert same, offset
            assert (memory[:, :offset] == 7).all() and (memory[:, offset + pred.size :] == 7).all()


@every_loss
@every_layout
@pytest.mark.parametrize("n", [1, 2, 255, 1025, 100_003])
def test_totals_are_exact_sums(loss, layout, n, rng):
    pred, target = inputs(loss, (n,), classes=5)
    pred *= 10.0 ** rng.integers(-3, 2 if loss.pred.low == -np.inf else 1, pred.shape)
    pred, target = layout(pred), layout(target)
    each = loss(pred, target, reduction="none")
    total = loss(pred, target, reduction="sum")
    assert abs(total - math.fsum(each)) <= 2**-50 * math.fsum(abs(each))


class Indirect(np.ndarray):
    """No plain array, so that a call goes the general way."""


def short_options(loss, n, rng):
    """What the gate takes of plain arrays, beside the two: each alone, and much at once."""
    weights = {"sample_weight": rng.random(n).astype(np.float32)}
    whole = np.where(np.arange(n) == 0, n, rng.integers(-1, 3, n))
    yield from ({}, weights, {"sample_weight": whole}, {"normalizer": 3.0}, {"mask": whole > 0})
    yield {"mask": whole > 1, "sample_weight": rng.random(n), "reduction": "batchmean"}
    yield from ({"reduction": reduction} for reduction in ("sum", "none", "batchmean", "mean"))
    knobs = {"label_smoothing": 0.2, "class_weight": np.arange(1.0, 5)}
    knobs = {name: knob for name, knob in knobs.items() if name in loss.knobs}
    if loss.kind == "rows" and loss.name not in ("multi_margin_loss", "kl_div_with_logits"):
        yield from ({name: knob} for name, knob in knobs.items())
        yield {**knobs, **weights, "reduction": "none"}
    of_rows = {"temperature": 1.7, "z_loss": 0.01, "softcap": 5.0, "from_logits": True}
    of_rows = {name: knob for name, knob in of_rows.items() if name in loss.knobs}
    if loss.kind == "rows":
        yield from ({name: knob} for name, knob in of_rows.items())
        yield {**of_rows, **weights}
    if "pos_weight" in loss.knobs:
        yield from ({"pos_weight": weight, **weights} for weight in (2.5, 3, rng.random(n)))


@every_loss
@pytest.mark.parametrize("n", [1, 320, 131_072])
def test_the_short_way_and_the_general(loss, n, dtype, rng, monkeypatch):
    """Plain calls of up to 1 MiB of prediction, of several ranges too, go from the gate to the
    kernel, also into arrays that are given, whatever is asked for.
    """
    gate = type(loss._call.__self__)
    direct = all(knob.optional or not knob.each for knob in loss.knobs.values())
    n = n if loss.kind == "elementwise" else min(n, 20000)
    for soft in softness(loss):
        pred, target = inputs(loss, (n,), dtype=dtype, soft=soft)
        for options in short_options(loss, n, rng):
            for method in METHODS:
                general = results(loss, method, pred.view(Indirect), target, **options)
                with monkeypatch.context() as patch:
                    if direct:  # the levels of quantiles are the general way's
                        patch.setattr(gate, "general", None)
                    short = results(loss, method, pred, target, **options)
                    assert_same_bits(short, general)
                    outs = tuple(None if r == "l" else np.empty_like(pred) for r in METHODS[method])
                    if METHODS[method] != "l":
                        out = outs if len(outs) > 1 else outs[0]
                        into = results(loss, method, pred, target, out=out, **options)
                        assert_same_bits(into, general)
                        given = zip(into.items(), outs, strict=True)
                        assert all(a is out for (r, a), out in given if r != "l")
                    if "g" in METHODS[method]:
                        over = pred.copy()
                        slots = {"l": None, "g": over, "h": None}
                        out = tuple(slots[r] for r in METHODS[method])
                        into = results(loss, method, over, target, out=out, **options)
                        assert_same_bits(into, general)
                        assert into["g"] is over


@pytest.mark.parametrize("shape", [(50, 10), (2, 3, 5), (3, 3000), (4, 1)])
def test_the_short_way_of_a_weight_of_columns(shape, dtype, rng, monkeypatch):
    """One number per column, of any rows and however the blocks fall."""
    loss = fl.binary_cross_entropy_with_logits
    pred, target = inputs(loss, shape, dtype=dtype)
    for weight in (rng.random(shape[-1]), rng.random(shape[-1]).astype(np.float32)):
        general = loss.value_and_grad(pred.view(Indirect), target, pos_weight=weight)
        with monkeypatch.context() as patch:
            patch.setattr(type(loss._call.__self__), "general", None)
            value, grad = loss.value_and_grad(pred, target, pos_weight=weight)
        assert value == general[0]
        np.testing.assert_array_equal(grad, general[1])


@every_setting
def test_the_short_way_of_a_bound_loss(loss, knobs, dtype):
    """A plain call of two arrays takes what is bound without asking the declared function."""
    pred, target = inputs(loss, (320,), dtype=dtype)
    for reduction in ("mean", "sum", "none"):
        bound = loss.bind(**knobs, reduction=reduction)
        for method in METHODS:
            want = results(loss, method, pred.view(Indirect), target, reduction=reduction, **knobs)
            assert_same_bits(results(bound, method, pred, target), want)


@every_other_isa
def test_other_instruction_sets(isa):
    """This file, the dtypes and the limits once more, for one loss of each kind: what differs is
    the drivers, not the gate, and the oracle goes through all losses by itself.
    """
    others = fl.losses().keys() - {"huber_loss", "cross_entropy"}
    skipped = " or ".join(["within_the_declared_bounds", "short_way", *sorted(others)])
    run_tests(isa, f"not ({skipped})", "test_bits.py", "test_dtypes.py", "test_accuracy.py")
