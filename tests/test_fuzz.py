"""Any call at all: the documented error, or what the formula and the contract say.

A call is put together from a loss's declaration: samples, of which the oracle knows the exact
numbers; arrays that repeat them in any shape, dtype and layout, with garbage where nothing is read;
options; a place for the results; and maybe one thing that is wrong. An error must be that of what
is wrong and leave everything as it was. A result must be within a tolerance that follows the
numbers on their way: the bound that the loss declares, then each rounding after it.

Each loss has examples of its own, of every run the same, which another loss does not change;
`--hypothesis-profile=long` tries many others.
"""

import itertools
import math
import pickle
import zlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
import oracle
from fastloss._general import REDUCTIONS, Quantiles, arithmetic, derivative, floating, readable
from fastloss._loss import REAL
from judge import Case, rounding, seeds
from samples import LOSSES, METHODS, inputs, naive, reduced, softness
from test_contract import assert_contract
from test_half import HALVES

FLOATS = [*map(np.dtype, "fd"), *HALVES]
INTEGERS = [*map(np.dtype, "bhiqBHIQ")]
UNREADABLE = [np.dtype(t) for t in ("g", "D", "O", "U3", "M8[s]") if not readable(np.dtype(t))]
SEEDS = st.integers(0, 2**32 - 1)
real = np.longdouble


def fuzz(share=1.0, losses=LOSSES):
    """A test of each loss, with examples of its own: this share of the profile's number."""

    def decorate(check):
        def test(loss):
            run = given(data=st.data())(lambda data: check(loss, data))
            run = settings(max_examples=int(share * settings.default.max_examples))(run)
            if settings.default.derandomize:
                run = seed(zlib.crc32(loss.name.encode()))(run)
            run()

        test.__name__ = check.__name__
        return pytest.mark.parametrize("loss", losses, ids=lambda loss: loss.name)(test)

    return decorate


# Samples, and what is exact of them


def limits(dtype):
    """eps, the smallest normal number, the smallest and the largest."""
    if dtype.kind == "V":  # bfloat16
        return real(2.0**-7), real(2.0**-126), real(2.0**-133), (2 - real(2.0**-7)) * 2.0**127
    about = np.finfo(dtype)
    return tuple(map(real, (about.eps, about.tiny, about.smallest_subnormal, about.max)))


def long(x):
    """A number of many digits as one of 64 bits."""
    high = float(x)
    return real(high) + real(float(x - high)) if np.isfinite(high) else real(high)


@np.errstate(all="ignore")
def exact(case):
    """Loss, gradient and Hessian of every sample, and how far off each may be; nan: unknown."""
    loss, n = fl.losses()[case.name], len(case.pred)
    wide = loss.kind == "rows"
    eps, tiny, _, largest = limits(case.pred.dtype)
    parts = tuple(np.full(shape, np.nan, real) for shape in (n, case.pred.shape, case.pred.shape))
    errors = tuple(np.zeros_like(a) for a in parts)
    bounds = loss.bounds(**case.knobs)
    given = case._replace(knobs={k: v for k, v in case.knobs.items() if v is not None})
    for i in range(n):
        own = {
            name: knob if wide or not np.ndim(knob) else float(knob[i])
            for name, knob in case.knobs.items()
        }
        rng = np.random.default_rng(0)
        some = seeds(case.pred[i], case.target[i], rng) if wide else (0,)
        more, apart = rounding(given, i) if wide else (0, [0])
        with suppress(oracle.OutOfPrecision):
            found = oracle.exact(loss, case.pred[i], case.target[i], own, some)
            numbers = [(0, i, found.loss, found.loss_scale, more)]
            for j, k in enumerate(some):
                at = (i, k) if wide else i
                numbers.append((1, at, found.grad[j], found.grad_scale[j], apart[k]))
                numbers.append((2, at, found.hess[j], found.hess_scale[j], apart[k]))
            for part, at, want, scale, more in numbers:
                parts[part][at] = long(want)
                size = max(abs(long(want)), long(scale))
                if largest < size < np.inf:  # it is inf, but not after a small enough weight
                    parts[part][at] = np.nan
                errors[part][at] = (bounds[part] + more) * eps * size + tiny
    return parts, errors


def cast(x, dtype, domain=REAL, work=np.float64):
    """x in another dtype, whole in integers; 1, which all domains have, where it leaves its own."""
    if dtype.kind in "iu":
        x = np.rint(np.clip(x, max(np.iinfo(dtype).min, -1e9), min(np.iinfo(dtype).max, 1e9)))
    with np.errstate(all="ignore"):
        x = x.astype(dtype)
        return np.where(domain.contains(x.astype(work)), x, dtype.type(1))


def scalar_knob(check):
    """What a number may be that is a knob: those named in formulas, and any."""
    low, high = max(check.low, -1e3), min(check.high, 1e3)
    some = map(float, (0, 0.1, 0.5, 1, 2, 3.7, *check.also, low, high))
    anything = st.floats(low, high) if low < high else st.nothing()
    # As in arrays, what float32 has no normal number for may count as 0.
    anything = anything.filter(lambda x: x == 0 or abs(x) >= np.finfo("f").tiny)
    return (st.sampled_from(list(some)) | anything).filter(check.contains)


@st.composite
def knobs_of(draw, loss, n):
    """Some of a loss's knobs by their declaration; those that are arrays of n numbers."""
    found = {}
    for name, knob in loss.knobs.items():
        if name in ("axis", "ignore_index") or draw(st.booleans()):
            continue
        if knob.optional and draw(st.booleans()):
            found[name] = None
        elif isinstance(knob.default, bool):
            found[name] = draw(st.booleans())
        elif isinstance(knob.check, fl.Interval):
            found[name] = draw(scalar_knob(knob.check))
        elif knob.check:
            found[name] = draw(st.sampled_from(knob.check.words))
        elif knob.each:
            each = st.floats(knob.each.low, min(knob.each.high, 3), width=16)
            alone = loss.kind == "elementwise" and draw(st.booleans())
            numbers = draw(each if alone else st.lists(each, min_size=n, max_size=n))
            found[name] = numbers if alone else np.array(numbers)
        else:
            kept = draw(st.sets(st.integers(0, n - 1), min_size=1))
            found[name] = np.isin(np.arange(n), sorted(kept))
    return found


@st.composite
def cases(draw, loss):
    """A few samples of a loss, and the dtypes of prediction and target that they are exact in."""
    wide = loss.kind == "rows"
    soft = draw(st.sampled_from(softness(loss)))
    lengths = [*range(1, 7)] * 5 + ([17] if soft else [17, 100])  # the oracle is slow of soft ones
    classes = draw(st.sampled_from(lengths)) if wide else 0
    n = 1 if classes > 6 else 3
    knobs = draw(knobs_of(loss, classes or n))
    pred_dtype, target_dtype = (draw(st.sampled_from(FLOATS * 3 + INTEGERS)) for _ in range(2))
    pred, target = inputs(loss, (n,), np.float64, classes, soft, draw(SEEDS))
    if loss.pred is REAL:
        pred *= draw(st.sampled_from([1, 1, 1e-3, 8]))
    pred, work = cast(pred, pred_dtype, loss.pred), arithmetic(pred_dtype)
    mask = knobs.get("class_mask")
    if target.dtype.kind != "f":
        if mask is not None:
            target = np.flatnonzero(mask)[target % mask.sum()]
        target_dtype = draw(st.sampled_from([t for t in INTEGERS if t.kind == "i" or not soft]))
        target = target.astype(target_dtype)
    else:
        scalars = [loss.values(knobs)[name] for name in loss.scalars()]
        target = cast(target, target_dtype, loss.domain_at(scalars), work)
        if soft and mask is not None:
            target = np.where(mask, target, target_dtype.type(0))
        if issubclass(loss._gate, Quantiles) and np.ndim(knobs.get("q")):
            target = np.repeat(target[:1], n)
    labels = wide and (not soft or loss.domain.lists)
    as_read = target if labels else target.astype(work)
    return Case(loss.name, pred.astype(work), as_read, knobs), pred, target


# Arrays


@dataclass(frozen=True)
class Layout:
    """Where an array lies: axes in another order, every step-th entry, off by a byte, swapped."""

    roll: int = 0
    step: int = 1
    shift: int = 0
    swapped: bool = False
    read_only: bool = False

    def empty(self, shape, dtype):
        """An array in a larger one, its `base`, of bytes that are all 7."""
        if self.swapped and dtype.kind in "fiu":
            dtype = dtype.newbyteorder()
        axes = np.roll(np.arange(len(shape)), self.roll)
        room = [shape[i] for i in axes]
        if room:
            room[-1] *= abs(self.step)
        memory = np.full(self.shift + dtype.itemsize * int(np.prod(room)), 7, np.uint8)
        a = memory[self.shift :].view(dtype).reshape(room)
        return (a[..., :: self.step] if room else a).transpose(np.argsort(axes))

    def put(self, a):
        new = self.empty(a.shape, a.dtype)
        new[...] = a
        new.flags.writeable = not self.read_only
        return new


PLAIN = Layout()
layouts = st.just(PLAIN) | st.builds(
    Layout,
    roll=st.integers(0, 2),
    step=st.sampled_from([1, 1, 2, -1, -3]),
    shift=st.sampled_from([0, 1]),
    swapped=st.booleans(),
    read_only=st.booleans(),
)
small = st.lists(st.sampled_from([1, 2, 3, 5, 0]), max_size=3).map(tuple)


def shapes(classes):
    """Few samples, or once in a while so many that threads share them."""
    large = st.just((131_101 // classes,))
    return st.sampled_from([small] * 99 + [large]).flatmap(lambda x: x)


@st.composite
def weights_of(draw, shape, *, mask):
    """A weight or a mask of one of the shapes that it may have."""
    leading = st.integers(0, len(shape)).map(lambda n: shape[:n])
    ones = st.tuples(*(st.sampled_from([1, n]) for n in shape))
    own, rng = draw(leading | ones), np.random.default_rng(draw(SEEDS))
    if mask:
        return draw(layouts).put(rng.random(own) < 0.7)
    kind, dtype = draw(st.sampled_from("nuz")), draw(st.sampled_from(FLOATS * 3 + INTEGERS))
    a = rng.normal(size=own) if kind == "n" else rng.uniform(0.2, 3, own)
    if kind == "z":
        a *= rng.random(own) < 0.7
    return draw(layouts).put(cast(a, dtype))


def spread(a, shape):
    """A weight or mask laid over the shape of the losses."""
    return np.broadcast_to(a.reshape(a.shape + (1,) * (len(shape) - a.ndim)), shape)


# Calls

SAME_IN_LISTS = [np.dtype(t) for t in (float, int, bool)]


def some_of(names):
    return st.just(set()) | st.sets(st.sampled_from(names)) if names else st.just(set())


@dataclass(repr=False)
class Call:
    """A call, and what is known of its samples."""

    def _repr_pretty_(self, printer, _cycle):
        printer.text(repr(self))

    def __repr__(self):
        given = {"pred": self.pred, "target": self.target, **self.options, "out": self.given_out}
        return (
            f"{self.loss.name}.{self.method}({given}, bound={self.bound}, listed={self.listed}, "
            f"pickled={self.pickled})"
        )

    loss: Any
    method: str
    pred: np.ndarray
    target: np.ndarray
    options: dict
    bound: set
    listed: set
    shape: tuple
    keep: np.ndarray  # the samples that are read
    parts: tuple  # loss, gradient and Hessian of each sample
    errors: tuple  # and how far off they may be
    out: dict = field(default_factory=dict)  # the array for each result, if there is one
    given_out: Any = None
    pickled: bool = False

    @property
    def reduction(self):
        return self.options.get("reduction", "mean")

    def arrays(self):
        """The arrays that it is given, by their names."""
        named = {"pred": self.pred, "target": self.target, **self.options}
        return {name: a for name, a in named.items() if isinstance(a, np.ndarray)}

    def but(self, **changed):
        """The same call with other arguments."""
        arrays = {name: changed.pop(name) for name in ("pred", "target") if name in changed}
        listed = self.listed - changed.keys() - arrays.keys()
        return replace(self, options=self.options | changed, listed=listed, **arrays)

    def run(self):
        given = {k: a.tolist() for k, a in self.arrays().items() if k in self.listed}
        options = self.options | given
        pred, target = options.pop("pred", self.pred), options.pop("target", self.target)
        bound = {k: v for k, v in options.items() if k in self.bound}
        loss = self.loss.bind(**bound) if bound else self.loss
        rest = {k: v for k, v in options.items() if k not in self.bound}
        if self.pickled:
            again = pickle.loads(pickle.dumps(loss))
            assert again == loss and hash(again) == hash(loss)
            loss = again
        method = getattr(loss, self.method)
        if self.pickled and self.method != "__call__":
            method = pickle.loads(pickle.dumps(method))
        if self.given_out is not None:
            rest["out"] = self.given_out
        return method(pred, target, **rest)


@st.composite
def calls(draw, loss, *, known=True):
    """A valid call, of which half of all choices are the plain ones; `known`: with its numbers."""
    wide = loss.kind == "rows"
    case, pred, target = draw(cases(loss))
    nothing = np.zeros(len(pred)), np.zeros(pred.shape), np.zeros(pred.shape)
    parts, errors = exact(case) if known else (nothing, nothing)
    knobs = dict(case.knobs)
    by_column = [name for name, knob in knobs.items() if np.ndim(knob) and not wide]
    some = shapes(case.pred.shape[1] if wide else 1)
    shape = draw(some.filter(len) if by_column else some)
    rng = np.random.default_rng(draw(SEEDS))
    index = rng.integers(len(pred), size=shape[-1:] if by_column else shape)
    for name in by_column:
        knobs[name] = knobs[name][index]
    for name, knob in knobs.items():
        if np.ndim(knob):
            knobs[name] = draw(layouts).put(knob)
    index = np.broadcast_to(index, shape)
    parts, errors = (tuple(np.array(a[index]) for a in of) for of in (parts, errors))
    soft = np.ndim(target) == np.ndim(pred)
    pred, target = np.array(pred[index]), np.array(target[index])
    options = {}
    keep = np.ones(shape, bool)
    if draw(st.booleans()):
        options["sample_weight"] = draw(weights_of(shape, mask=False))
        keep &= spread(options["sample_weight"].astype(float), shape) != 0
    if draw(st.booleans()):
        options["mask"] = draw(weights_of(shape, mask=True))
        keep &= spread(options["mask"], shape)
    if "ignore_index" in loss.knobs and not soft and draw(st.booleans()):
        options["ignore_index"] = ignored = draw(st.sampled_from([-100, -1, 0, 1, 255, 2**40]))
        if np.iinfo(target.dtype).min <= ignored <= np.iinfo(target.dtype).max:
            target[rng.random(shape) < 0.3] = ignored
        keep &= target != ignored
        options["ignore_index"] = ignored
    quantiles = issubclass(loss._gate, Quantiles) and by_column
    garbage = [np.nan, np.inf, -np.inf, -7.0, 300.0]
    if floating(pred.dtype):
        pred[~keep] = rng.choice(garbage)
    if not quantiles and "ignore_index" not in options:
        nonsense = {"i": [-3, 100], "u": [100, 200]}.get(target.dtype.kind, garbage)
        target[~keep] = rng.choice(nonsense)
    if floating(pred.dtype) and draw(st.integers(0, 5)) == 0:
        wild = keep & (rng.random(shape) < 0.3)
        pred[wild] = rng.choice([np.nan, np.inf, -np.inf, 60000.0])
        for a in parts:
            a[wild] = np.nan
    if quantiles:
        target = target[..., 0] if shape[-1] else np.zeros(shape[:-1], target.dtype)
    if wide:
        axis = draw(st.sampled_from([-1, -1, *range(-len(shape) - 1, len(shape) + 1)]))
        if axis != -1 or draw(st.booleans()):
            options["axis"] = axis
        pred = np.moveaxis(pred, -1, axis)
        target = np.moveaxis(target, -1, axis) if soft else target
        parts, errors = (
            (of[0], *(np.moveaxis(a, -1, axis) for a in of[1:])) for of in (parts, errors)
        )
    pred, target = draw(layouts).put(pred), draw(layouts).put(target)
    if draw(st.booleans()):
        options["reduction"] = draw(st.sampled_from(REDUCTIONS))
    if options.get("reduction", "mean") == "mean" and draw(st.booleans()):
        options["normalizer"] = draw(st.sampled_from([7, 0.3, np.float32(2.5)]))
    if draw(st.booleans()):
        options["num_threads"] = draw(st.sampled_from([None, 1, 2, 7]))
    options |= knobs
    bindable = [k for k in options if k in loss.knobs or k in ("reduction", "num_threads")]
    bound = draw(some_of(bindable))
    method = draw(st.sampled_from([*METHODS, "normalizer"]))
    call = Call(loss, method, pred, target, options, bound, set(), shape, keep, parts, errors)
    same = [name for name, a in call.arrays().items() if a.size and a.dtype in SAME_IN_LISTS]
    call.listed = draw(some_of(same))
    call.pickled = draw(st.booleans())
    if method != "normalizer" and draw(st.booleans()):
        draw(outs(call))
    return call


@st.composite
def outs(draw, call):
    """Give the call arrays for some of its results."""
    for result in METHODS[call.method]:
        if (result == "l" and call.reduction != "none") or draw(st.booleans()):
            call.out[result] = None
        elif (
            result == "g"
            and floating(call.pred.dtype)
            and "pred" not in call.listed
            and draw(st.booleans())
        ):
            call.pred.flags.writeable = True
            call.out[result] = call.pred
        else:
            shape = call.shape if result == "l" else call.pred.shape
            call.out[result] = draw(layouts).empty(shape, draw(st.sampled_from(FLOATS)))
    call.given_out = tuple(call.out.values())
    bare = METHODS[call.method] in ("g", "lg") and call.given_out[0] is None
    if METHODS[call.method] == "g" or bare:
        call.given_out = call.given_out[-1] if draw(st.booleans()) else call.given_out


@np.errstate(all="ignore")
def tolerated(call):
    """`{"l": (loss, error), ...}`: what must come back, and how far off it may be."""
    loss, options = call.loss, dict(call.options)
    knobs = {k: options.pop(k) for k in loss.knobs if k in options}
    if "normalizer" in options:
        options["normalizer"] = float(options["normalizer"])
    options.pop("num_threads", None)
    args = loss, call.pred, call.target
    eps, tiny, *_ = limits(arithmetic(call.pred.dtype))
    want = reduced(*args, call.parts, **options, **knobs)
    # Of all sizes: weights are rounded, and multiplied by those of their class.
    weight = options.pop("sample_weight", None)
    options["sample_weight"] = None if weight is None else abs(weight.astype(float))
    sizes = tuple(map(abs, call.parts))
    count = 2 * eps * reduced(*args, sizes, **options, **knobs)["n"]
    unsure = 0
    if call.reduction == "mean" and not options.get("normalizer"):
        if want["n"] == 0:
            return {k: (x, np.zeros_like(x)) for k, x in want.items()} | {"n": (want["n"], count)}
        unsure = count / abs(want["n"])
        options["normalizer"] = float(abs(want["n"]))
    size = reduced(*args, sizes, **options, **knobs)
    error = reduced(*args, call.errors, **options, **knobs)
    # Products that are too small, by a unit that may be large.
    normalizer = options.get("normalizer") or 1
    least = tiny * (1 + 1 / real(normalizer))
    found = {}
    for name, roundings in (("l", 1 * eps), ("g", 2 * eps), ("h", 2 * eps)):
        a = error[name] + (roundings + 2.0**-50 + unsure) * size[name]
        if name == "l" and call.reduction != "none":
            a = a + least * np.size(call.parts[0])
        else:
            a = np.where(size[name] == 0, np.where(error[name] == 0, 0, a + least), a + least)
        found[name] = want[name], np.nan_to_num(a)
    return found | {"n": (want["n"], count)}


def assert_within(name, got, want, error, dtype):
    """As near as it may be, after it was rounded to this dtype."""
    eps, tiny, least, largest = limits(dtype)
    least = tiny if dtype.itemsize > 2 else least  # kernels take smaller ones for 0, but for halves
    got = np.asarray(got).astype(real)
    with np.errstate(all="ignore"):
        error = error + eps / 2 * abs(want) + np.where(error == 0, 0, least)
        near = [np.clip(a, -largest, largest) for a in (got, want)]
        unknown = np.isnan(want) & (np.isnan(got) | (error != 0))
        right = (abs(near[0] - near[1]) <= error) | unknown
    assert right.all(), (
        f"{name}: {got[~right][:3]}, expected {np.asarray(want)[~right][:3]} +- "
        f"{np.broadcast_to(error, got.shape)[~right][:3]}"
    )


def bytes_of(arrays):
    """What is in the memory of these arrays, and beside them."""
    return [(a.base if isinstance(a.base, np.ndarray) else a).tobytes() for a in arrays]


@fuzz()
def test_a_result_is_the_formulas(loss, data):
    call = data.draw(calls(loss))
    wanted = tolerated(call)
    work = arithmetic(call.pred.dtype)
    like = {"l": work, "g": derivative(call.pred.dtype), "h": derivative(call.pred.dtype)}
    left = [a for a in call.arrays().values() if a is not call.out.get("g")]
    before = bytes_of(left)
    returned = call.run()
    assert bytes_of(left) == before
    names = METHODS.get(call.method, "n")
    found = dict(zip(names, returned if len(names) > 1 else (returned,), strict=True))
    for name, got in found.items():
        want, error = wanted[name]
        if name == "n" or (name == "l" and call.reduction != "none"):
            assert type(got) is float
            dtype = np.dtype(float)
        else:
            assert got.shape == (call.shape if name == "l" else call.pred.shape)
            if call.out.get(name) is not None:
                assert got is call.out[name]
            else:
                assert got.dtype == like[name] and got.dtype.isnative
            dtype = got.dtype.newbyteorder("=") if got.dtype.kind == "f" else got.dtype
        assert_within(name, got, want, error, dtype)
    for a in call.out.values():
        if a is not None:
            a[...] = np.full(a.itemsize, 7, np.uint8).view(a.dtype)[0]
            assert (a.base == 7).all(), "written beside `out`"


# Mistakes


def bad_target(call):
    """A target that is none where it is read, or None."""
    if not call.keep.any() or issubclass(call.loss._gate, Quantiles):
        return None
    loss, target = call.loss, call.target.copy()
    axis = call.options.get("axis", -1)
    whole = loss.kind == "rows" and (target.ndim < call.pred.ndim or loss.domain.lists)
    if whole:
        dtype, classes = np.iinfo(target.dtype), call.pred.shape[axis]
        values = {-100, -2, classes, dtype.min, dtype.max}
        values -= {*range(classes), call.options.get("ignore_index")}
        values -= {-1} if loss.domain.lists else set()
        values = [x for x in sorted(values) if dtype.min <= x <= dtype.max]
    else:
        scalars = [call.options.get(k, loss.knobs[k].default) for k in loss.scalars()]
        domain = loss.domain_at(scalars)
        values = np.array([domain.low - 1, domain.low, domain.high + 1, -np.inf, np.inf, 0.5, 2])
        if not floating(target.dtype):
            values = values[np.isfinite(values) & (values == np.rint(values))]
            values = values[values >= 0] if target.dtype.kind == "u" else values
        values = values.astype(target.dtype)
        values = values[domain.excludes(values.astype(arithmetic(call.pred.dtype)))]
    if not len(values):
        return None
    where = tuple(np.argwhere(call.keep)[-1])
    rows = np.moveaxis(target, axis, -1) if target.shape != call.shape else target
    rows[where if rows.shape == call.shape else (*where, 0)] = values[-1]
    return target


def bad_outs(call):
    """What `out` must not be."""
    names = METHODS[call.method]
    last = names[-1]
    if last == "l" and call.reduction != "none":
        return [((np.zeros(()),), ValueError), ([None], TypeError)]
    shape = call.shape if last == "l" else call.pred.shape
    slots = (None,) * (len(names) - 1)
    a = np.zeros(shape)
    found = [
        (np.zeros((*shape, 1)), ValueError),
        (np.zeros(shape, int), TypeError),
        (np.zeros(shape, UNREADABLE[0]), TypeError),
        (Layout(read_only=True).put(a), ValueError),
        ("g", TypeError),
    ]
    if a.size > 1:
        overlapping = np.lib.stride_tricks.as_strided(np.zeros(2), shape, (0,) * a.ndim)
        found.append((overlapping, ValueError))
    found = [((*slots, x), error) for x, error in found]
    found += [((*slots, a, a), ValueError), ([*slots, a], TypeError)]
    if names[-2:] == "gh" and a.size:
        found.append(((*slots[1:], a, a[...]), ValueError))
    return found


def overlapping(call, name, shift):
    """The call, with an `out` that begins so many bytes into one of its arrays."""
    x, last = call.arrays()[name], METHODS[call.method][-1]
    shape = call.shape if last == "l" else call.pred.shape
    dtype = derivative(call.pred.dtype)
    memory = np.zeros(x.nbytes + int(np.prod(shape)) * dtype.itemsize, np.uint8)
    moved = memory[: x.nbytes].view(x.dtype).reshape(x.shape)
    moved[...] = x
    out = memory[shift:][: memory.size - x.nbytes].view(dtype).reshape(shape)
    slots = (None,) * (len(METHODS[call.method]) - 1)
    return replace(call.but(**{name: moved}), given_out=(*slots, out))


def wrong(call):
    """`{argument: [(what it must not be, the error)]}`."""
    loss, pred, target, shape = call.loss, call.pred, call.target, call.shape
    wide, axis = loss.kind == "rows", call.options.get("axis", -1)
    soft = target.shape == pred.shape
    T, V = TypeError, ValueError
    reshaped = target[None], target[..., None], target.ravel()[:-1]
    beyond = [(97,), (1,) * (len(shape) + 1), (*shape, 2)]
    found = {
        "pred": [(np.zeros(pred.shape, t), T) for t in UNREADABLE],
        "target": [(np.zeros(target.shape, t), T) for t in UNREADABLE]
        + [(a, V) for a in reshaped if a.shape not in (pred.shape, shape, target.shape)],
        "sample_weight": [(np.zeros(shape, t), T) for t in UNREADABLE]
        + [(np.ones(s), V) for s in beyond],
        "mask": [(np.ones(s, bool), V) for s in beyond] + [(np.ones(shape), T)],
        "reduction": [("total", V), ("", V)],
        "normalizer": [(x, V) for x in (0, -1.0, np.inf, np.nan)] + [("7", (T, V))],
        "num_threads": [(0, V), (-1, V), (1.5, T), (True, T), ("2", T)],
        "nonsense": [(1, T)],
    }
    if call.reduction != "mean":
        found["normalizer"].append((7.0, V))
    if wide and not soft:
        found["target"].append((target.astype(float), T))
    for name, knob in loss.knobs.items():
        n = pred.shape[axis] if wide else shape[-1] if shape else 0
        if name == "axis":
            some = [(pred.ndim, V), (-pred.ndim - 1, V), (1.0, T), (None, T), (True, T)]
        elif name == "ignore_index":
            some = [(1.5, T), ("x", T), (True, T), (2**63, V)] + [(0, V)] * soft
        elif isinstance(knob.check, fl.Interval):
            low, high = knob.check.low, knob.check.high
            some = [low - 1, low, high + 1, -np.inf, np.inf, np.nan]
            some = [(x, V) for x in some if not knob.check.contains(x)] + [("x", T), ([1.0], T)]
            some += [] if knob.optional else [(None, T)]
        elif knob.check:
            some = [("nonsense", V), (3, T)]
        elif knob.each:
            some = [(np.full(n + 1, 0.5), V), (np.ones((1, n)), V), ("x", T), (np.array("x"), T)]
            some += [(np.full(max(n, 1), x), V) for x in (knob.each.low - 1, np.nan)]
        else:
            some = [(np.ones(n + 1, bool), V), (np.ones(n), T)]
        found[name] = some
    return found


def mistakes(call, shift):
    """Calls with one thing wrong: (error, what it names, the call, whether `out` stays)."""
    for name, some in wrong(call).items():
        for value, error in some:
            words = [name, "target"] if name in call.loss.knobs else [name]
            yield error, words, call.but(**{name: value}), True
    bad = bad_target(call)
    if bad is not None:
        # A domain is checked on the way: only an input is safe from that.
        labels = call.loss.kind == "rows" and bad.dtype.kind in "iu" and bad.shape == call.shape
        yield ValueError, ["target["], call.but(target=bad), labels or call.loss.domain.lists
        if floating(call.pred.dtype) and call.pred.flags.writeable:
            again = call.but(target=bad)
            again.listed.discard("pred")
            yield ValueError, ["target["], replace(again, method="grad", given_out=call.pred), True
    if call.method == "normalizer":
        return
    for value, error in bad_outs(call):
        yield error, ["out"], replace(call, given_out=value), True
    if call.pred.size and (METHODS[call.method] != "l" or call.reduction == "none"):
        for name, x in call.arrays().items():
            at = shift % max(x.nbytes, 1)
            if name == "pred" and METHODS[call.method][-1] == "g":
                at = max(at, 1)  # exactly is allowed
            if at < x.nbytes and name not in call.bound | call.listed:
                yield ValueError, ["overlap"], overlapping(call, name, at), True


@fuzz(0.2)
def test_a_mistake_is_its_error_and_nothing_is_written(loss, data):
    """Of a valid call, with every mistake there is."""
    right = data.draw(calls(loss, known=False))
    for error, words, call, kept in mistakes(right, data.draw(st.integers(0, 100))):
        outs = call.given_out if isinstance(call.given_out, tuple) else (call.given_out,)
        outs = [a for a in outs if isinstance(a, np.ndarray)] if kept else []
        left = [*call.arrays().values(), *outs]
        before = bytes_of(left)
        try:
            with pytest.raises(error, match=rf"(?s)^{loss.name}: ") as found:
                call.run()
            assert any(word in str(found.value) for word in words), found.value
            assert bytes_of(left) == before
        except BaseException as failure:
            failure.add_note(f"of {call}")
            raise


# Equivalences


class Batch(NamedTuple):
    """Up to 40 samples, or rows of elements where a knob is an array."""

    loss: Any
    pred: np.ndarray
    target: np.ndarray
    knobs: dict

    def results(self, index=slice(None), **options):
        return self.loss.value_grad_hess(
            self.pred[index], self.target[index], **self.knobs, **options
        )

    def count(self, index=slice(None), **options):
        return self.loss.normalizer(self.pred[index], self.target[index], **self.knobs, **options)

    def unit(self, reduction="mean", **options):
        """The sum or mean of the absolute losses, which the error of theirs is relative to: totals
        also have what each alone is too small for.
        """
        each = self.loss(self.pred, self.target, reduction="none", **self.knobs, **options)
        least = real(np.finfo(each.dtype).tiny)  # what is below may be 0
        with np.errstate(all="ignore"):
            count = real(self.count(**options) if reduction == "mean" else 1)
            return np.sum(abs(each) + least) / count

    def near(self, got, want, unit):
        """Whether totals are the same but for 2^-50 of their unit, or are none."""
        with np.errstate(all="ignore"):
            return got == want or abs(got - want) <= 2.0**-50 * unit or not np.isfinite(want)


@st.composite
def batches(draw, loss):
    case, pred, target = draw(cases(loss))
    rng, n = np.random.default_rng(draw(SEEDS)), draw(st.integers(1, 40))
    if loss.kind == "elementwise" and any(np.ndim(knob) for knob in case.knobs.values()):
        target = target[:1] if issubclass(loss._gate, Quantiles) else target[None]
        return Batch(loss, np.repeat(pred[None], n, 0), np.repeat(target, n, 0), case.knobs)
    index = rng.integers(len(pred), size=n)
    return Batch(loss, pred[index], target[index], case.knobs)


# Weights are of few bits, as the knobs that are arrays are: so counts are exact, and derivatives
# have the same bits.


def assert_same(got, want):
    """Of halves too, of which NumPy does not know every nan."""
    assert got.dtype == want.dtype
    assert_array_equal(got.astype(float), want.astype(float))


@fuzz(0.3)
def test_rows_that_are_left_out_are_not_there(loss, data):
    batch = data.draw(batches(loss))
    n, rng = len(batch.pred), np.random.default_rng(data.draw(SEEDS))
    keep, weight = rng.random(n) < 0.6, rng.integers(1, 4, n) / 2
    ways = [(batch, {"mask": keep, "sample_weight": weight})]
    ways.append((batch, {"sample_weight": weight * keep}))
    if "ignore_index" in loss.knobs and batch.target.ndim < batch.pred.ndim:
        ignored = batch._replace(target=np.where(keep, batch.target, batch.target.dtype.type(101)))
        ways.append((ignored, {"ignore_index": 101, "sample_weight": weight}))
    for reduction in ("mean", "sum", "none"):
        want = batch.results(keep, sample_weight=weight[keep], reduction=reduction)
        for whole, way in ways:
            value, *derivatives = whole.results(**way, reduction=reduction)
            if reduction == "none":
                assert not value[~keep].any()
                assert_same(value[keep], want[0])
            else:
                assert whole.near(value, want[0], whole.unit(reduction, **way))
            for got, of_kept in zip(derivatives, want[1:], strict=True):
                assert not got[~keep].astype(np.float32).any()
                assert_same(got[keep], of_kept)


@fuzz(0.3)
def test_a_batch_may_be_split(loss, data):
    batch = data.draw(batches(loss))
    n, rng = len(batch.pred), np.random.default_rng(data.draw(SEEDS))
    weight, mask = rng.integers(16, size=n) / 8, rng.random(n) < 0.8
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=5)))
    parts = [slice(a, b) for a, b in itertools.pairwise([0, *cuts, n])]
    ways = [{"sample_weight": weight[part], "mask": mask[part]} for part in parts]
    value, *derivatives = batch.results(sample_weight=weight, mask=mask)
    counts = [batch.count(part, **way) for part, way in zip(parts, ways, strict=True)]
    total = math.fsum(counts)
    if not total:
        return
    found = [
        batch.results(part, **way, normalizer=total) for part, way in zip(parts, ways, strict=True)
    ]
    unit = batch.unit(sample_weight=weight, mask=mask)
    assert batch.near(sum(part[0] for part in found), value, unit)
    for got, whole in zip(zip(*found, strict=True), [value, *derivatives], strict=True):
        if np.ndim(whole):
            assert_same(np.concatenate(got), whole)
    if any(part[0] and not count for part, count in zip(found, counts, strict=True)):
        return  # smoothing: labels of weight 0 pay for the others, but their mean is none
    meters = fl.LossMeter(), fl.LossMeter()
    for i, (part, way, count) in enumerate(zip(parts, ways, counts, strict=True)):
        meters[i % 2].update(batch.results(part, **way)[0], count)
    assert batch.near((meters[0] + meters[1]).mean, value, unit)


@fuzz(0.3)
def test_a_weight_of_2_is_the_row_twice(loss, data):
    batch = data.draw(batches(loss))
    n, rng = len(batch.pred), np.random.default_rng(data.draw(SEEDS))
    weight = rng.integers(3, size=n)
    twice = np.repeat(np.arange(n), weight)
    for reduction in ("mean", "sum"):
        value, *derivatives = batch.results(sample_weight=weight, reduction=reduction)
        other, *repeated = batch.results(twice, reduction=reduction)
        assert batch.near(value, other, batch.unit(reduction, sample_weight=weight))
        for got, of_one in zip(derivatives, repeated, strict=True):
            factor = weight[twice].reshape(-1, *[1] * (got.ndim - 1)).astype(got.dtype)
            if got.itemsize > 2:  # halves are often below the smallest normal number
                least = 2 * np.finfo(got.dtype).tiny  # of what is 0 as it is below it, twice
                assert_allclose(got[twice], of_one * factor, rtol=0, atol=least)


@fuzz(0.3)
def test_a_mask_of_true_and_a_weight_of_1_change_no_bit(loss, data):
    batch = data.draw(batches(loss))
    ones = np.ones(len(batch.pred))
    want = batch.results(reduction="none")
    for way in ({"mask": ones > 0}, {"sample_weight": ones}, {"sample_weight": 1}):
        for got, plain in zip(batch.results(**way, reduction="none"), want, strict=True):
            assert got.tobytes() == plain.tobytes(), way


def shift_free(loss, case):
    """Whether the formula says that one number added to a row of scores changes nothing."""
    if case.knobs.get("z_loss") or case.knobs.get("softcap"):  # however little, or far away
        return False
    rows = np.random.default_rng(0).normal(size=case.pred.shape).astype(real)
    knobs = case.knobs | ({"temperature": 1.0} if "temperature" in case.knobs else {})
    with np.errstate(all="ignore"):
        one, other = (naive(loss, z, case.target, **knobs) for z in (rows, rows + 1))
    return np.allclose(one, other, 1e-15, 1e-15)


@fuzz(0.6)
def test_scores_shifted_together_change_nothing(loss, data):
    """Nor is there a gradient along such a shift."""
    if loss.kind != "rows":
        return
    case, _, _ = data.draw(cases(loss))
    case = case._replace(pred=np.rint(case.pred * 256) / case.pred.dtype.type(256))
    if case.pred.shape[1] > 16 or loss.pred is not REAL or not shift_free(loss, case):
        return
    parts, errors = exact(case)
    for shift in (0, 1, -37, 500):  # exact in float32: of 1/256 and below 1024
        found = loss.value_grad_hess(
            case.pred + case.pred.dtype.type(shift), case.target, reduction="none", **case.knobs
        )
        for got, want, error in zip(found, parts, errors, strict=True):
            assert_within(f"shifted by {shift}", got, want, error, got.dtype)
        with np.errstate(all="ignore"):
            along, error = found[1].sum(1, dtype=real), errors[1].sum(1)
        assert_within("sum of the gradient", along, 0 * parts[1].sum(1), error, found[1].dtype)


@pytest.mark.parametrize("loss", [x for x in LOSSES if x.kind == "rows"], ids=lambda x: x.name)
def test_every_combination_of_options_is_the_formula(loss):
    """Class weights, smoothing, ignored labels, a class mask, weights and a mask."""
    rng = np.random.default_rng(0)
    options = {"sample_weight": rng.uniform(0.5, 2, 6), "mask": rng.random((6, 2)) < 0.7}
    for name, knob in loss.knobs.items():
        if knob.each:
            options[name] = np.array([1.0, 0.5, 2.0, 0.25])
        elif name.endswith("_mask"):
            options[name] = np.array([True, True, False, True])
        elif name == "ignore_index":
            options[name] = 1
        elif not knob.scalar and knob.check:
            options[name] = 0.3
    for soft in softness(loss):
        pred, target = inputs(loss, (6, 2), soft=soft)
        for chosen in itertools.product([False, True], repeat=len(options)):
            given = {name: options[name] for name in itertools.compress(options, chosen)}
            if soft and "ignore_index" in given:
                continue
            y = target
            if "class_mask" in given:
                y = target * given["class_mask"] if soft else np.where(target == 2, 0, target)
            assert_contract(loss, pred, y, **given)
