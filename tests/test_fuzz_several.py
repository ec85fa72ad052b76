"""Any call of the losses of pairs, of vectors and of sets, as test_fuzz.py does for the others.

Their numbers are held elsewhere (test_pairs.py, test_vectors.py, test_sets.py). Here a valid call
of those files is laid out anew, in any dtype, stride, order and alignment, which changes nothing;
or one thing of it is made wrong, which is an error that names the loss and leaves all as it was.
"""

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import fastloss as fl
import test_pairs
import test_sets
import test_vectors
from fastloss._loss import Interval
from test_fuzz import bytes_of, fuzz, layouts
from test_sets import METHODS, flat, several

LOSSES = [loss for loss in fl.losses().values() if loss.kind in ("pairs", "vectors", "set")]


def arguments(loss):
    """Those of a valid call."""
    if loss.kind == "set":
        return list(test_sets.call(loss))
    module = test_pairs if loss.kind == "pairs" else test_vectors
    return list(module.inputs(loss).values())


def each(change, args):
    """The same arguments with all arrays changed."""
    return [
        type(x)(each(change, x)) if several(x) else change(x) if isinstance(x, np.ndarray) else x
        for x in args
    ]


def arrays_in(args):
    return [a for x in args for a in (arrays_in(x) if several(x) else [x])]


@st.composite
def calls(draw, loss):
    """Arguments in one dtype, and knobs."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    args = each(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a, arguments(loss))
    settings = test_sets.CALLS[loss.name][1] if loss.kind == "set" else [{}]
    return args, draw(st.sampled_from(settings))


@fuzz(1, LOSSES)
def test_no_layout_changes_anything(loss, data):
    plain, knobs = data.draw(calls(loss))
    given = each(lambda a: data.draw(layouts).put(swapped(data, a)), plain)
    before = bytes_of(arrays_in(given))
    method = data.draw(st.sampled_from(METHODS))
    want = getattr(loss, method)(*plain, **knobs)
    got = getattr(loss, method)(*given, **knobs)
    if method == "grad":
        want, got = (0.0, want), (0.0, got)
    elif method == "__call__":
        want, got = (want, ()), (got, ())
    eps = np.finfo(arrays_in(plain)[0].dtype).eps
    assert_allclose(got[0], want[0], 8 * eps)
    for g, w in zip(arrays_in(flat(got[1])), arrays_in(flat(want[1])), strict=True):
        assert g.dtype == w.dtype and g.dtype.isnative
        assert_allclose(g, w, 64 * eps, 64 * eps * abs(w).max(initial=0))
    assert bytes_of(arrays_in(given)) == before


def swapped(data, a):
    return a.astype(a.dtype.newbyteorder()) if data.draw(st.booleans()) else a


@st.composite
def wrong(draw, loss, args, knobs):
    """The call with one thing made wrong, and the error that it is."""
    arrays = arrays_in(args)
    scalars = [n for n, knob in loss.knobs.items() if isinstance(knob.check, Interval)]
    kinds = ["dtype", "out"] + ["knob"] * bool(scalars) + ["shape"] * (len(arrays) > 1)
    if "penalty" in loss.name:  # each array has a shape of its own
        kinds.remove("shape") if "shape" in kinds else None
    kind = draw(st.sampled_from(kinds))
    one = draw(st.sampled_from(arrays))
    if kind == "dtype":
        other = draw(st.sampled_from([complex, object, "U3", "M8[s]", np.longdouble]))
        return each(lambda a: a.astype(other) if a is one else a, args), knobs, {}, TypeError
    if kind == "shape":
        cut = draw(st.sampled_from([lambda a: a[1:], lambda a: a[None], lambda a: a[..., None]]))
        return each(lambda a: cut(a) if a is one else a, args), knobs, {}, ValueError
    if kind == "knob":
        name = draw(st.sampled_from(scalars))
        check = loss.knobs[name].check
        outside = [np.nan, np.inf] + [x for x in (check.low - 1, check.high + 1) if np.isfinite(x)]
        value = draw(st.sampled_from([x for x in outside if not check.contains(x)]))
        return args, knobs | {name: value}, {}, ValueError
    grad = loss.grad(*args, **knobs)
    outs = [np.full_like(g, 7) for g in flat(grad)]
    i = draw(st.integers(0, len(outs) - 1))
    what = draw(st.sampled_from(["shape", "dtype", "read-only", "overlap"]))
    if what == "shape":
        outs[i] = np.full((*outs[i].shape, 1), 7, outs[i].dtype)
    elif what == "dtype":
        outs[i] = outs[i].astype(int)
    elif what == "read-only":
        outs[i].flags.writeable = False
    else:
        one = draw(st.sampled_from([a for a in arrays if a.dtype.kind == "f"]))
        memory = np.full(one.size + outs[i].size, 7, outs[i].dtype)
        outs[i] = memory[1 : outs[i].size + 1].reshape(outs[i].shape)
        lapped = memory[: one.size].reshape(one.shape)
        lapped[...] = one
        args = each(lambda a: lapped if a is one else a, args)
    out = tuple(outs) if several(grad) else outs[0]
    return args, knobs, {"out": out}, TypeError if what == "dtype" else ValueError


@fuzz(1, LOSSES)
def test_a_mistake_is_its_error_and_nothing_is_written(loss, data):
    args, knobs = data.draw(calls(loss))
    args, knobs, out, error = data.draw(wrong(loss, args, knobs))
    arrays = arrays_in(args) + arrays_in(out.values())
    before = bytes_of(arrays)
    with pytest.raises(error, match=f"^{loss.name}: "):
        loss.grad(*args, **knobs, **out)
    assert bytes_of(arrays) == before
