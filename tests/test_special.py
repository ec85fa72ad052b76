"""softmax, sigmoid and their logarithms against SciPy and exact values."""

import inspect

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from fastloss import special

scipy_special = pytest.importorskip("scipy.special")
ELEMENTWISE = {
    fl.sigmoid: (scipy_special.expit, lambda x: 1 / (1 + mpmath.exp(-x))),
    fl.log_sigmoid: (scipy_special.log_expit, lambda x: -mpmath.log1p(mpmath.exp(-x))),
    fl.softplus: (lambda x: -scipy_special.log_expit(-x), lambda x: mpmath.log1p(mpmath.exp(x))),
}
ROWS = {
    fl.softmax: scipy_special.softmax,
    fl.log_softmax: scipy_special.log_softmax,
    fl.logsumexp: scipy_special.logsumexp,
}
IN_PLACE = [fl.sigmoid, fl.softmax, fl.log_softmax]
every_elementwise = pytest.mark.parametrize("function", ELEMENTWISE, ids=lambda f: f.__name__)
every_rows = pytest.mark.parametrize("function", ROWS, ids=lambda f: f.__name__)
every_function = pytest.mark.parametrize(
    "function", [*ELEMENTWISE, *ROWS], ids=lambda f: f.__name__
)


def exact_rows(function, row):
    """The function of one row of floats, with 2000 bits."""
    with mpmath.workprec(2000):
        z = [mpmath.mpf(float(x)) for x in row]
        total = mpmath.log(sum(mpmath.exp(x) for x in z))
        if function is fl.logsumexp:
            return total
        logs = [x - total for x in z]
        return logs if function is fl.log_softmax else [mpmath.exp(x) for x in logs]


@every_elementwise
def test_elementwise_within_4_ulp(function, dtype, rng):
    x = np.concatenate([rng.uniform(-80, 80, 300), rng.normal(size=300), [0.0, 1e-30]])
    x = x.astype(dtype)
    got = function(x)
    assert got.dtype == dtype
    for a, b in zip(x, got, strict=True):
        want = ELEMENTWISE[function][1](mpmath.mpf(float(a)))
        assert abs(mpmath.mpf(float(b)) - want) <= 4 * float(np.spacing(abs(dtype.type(want)))), a


@every_elementwise
def test_elementwise_special_values_are_scipys(function, dtype):
    x = np.array([-np.inf, np.inf, np.nan, 1e4, -1e4, 0.0, -0.0], dtype)
    assert_allclose(function(x), ELEMENTWISE[function][0](x), rtol=1e-6)


@every_rows
@pytest.mark.parametrize(("n", "classes"), [(50, 2), (40, 5), (30, 33), (10, 1), (3, 300)])
@pytest.mark.parametrize("scale", [0.1, 3, 30])
def test_rows_are_exact_but_for_the_rounding_of_differences(
    function, dtype, rng, n, classes, scale
):
    z = (scale * rng.standard_normal((n, classes))).astype(dtype)
    got = function(z)
    assert got.dtype == dtype
    eps = float(np.finfo(dtype).eps)
    for row, result in zip(z, got, strict=True):
        want = exact_rows(function, row)
        spread = float(row.max() - row.min())
        for j, (a, b) in enumerate(zip(np.atleast_1d(result), np.atleast_1d(want), strict=True)):
            if function is fl.logsumexp:
                top = abs(float(row.max()))
                bound = 4 * eps * (abs(b) + top + abs(b - top))
            else:
                bound = (6 + spread) * eps * abs(b) + float(np.finfo(dtype).tiny)
            assert abs(mpmath.mpf(float(a)) - b) <= bound, (row, j)


def test_confident_rows_lose_nothing():
    assert_allclose(fl.log_softmax([70.0, 0.0])[0], -3.975449735908647e-31, rtol=1e-15)
    assert_allclose(fl.softmax([-300.0, 0.0, 400.0]), [np.exp(-700), np.exp(-400), 1], rtol=1e-13)
    # Whichever the class of which no gradient can be had.
    for row in ([-90.0, 0.0, 1.0], [0.0, -90.0, 1.0], [1.0, -90.0, 0.0], [1.0, 0.0, -90.0]):
        smallest = fl.softmax(row)[np.argmin(row)]
        assert_allclose(smallest, np.exp(-90) / (1 + np.e), rtol=1e-13)
    assert fl.logsumexp([0.0, -70.0]) == np.exp(-70)


def test_no_subnormal_probabilities_whichever_the_class():
    for row in ([-740.0, 0.0, 1.0], [0.0, -740.0, 1.0], [1.0, -740.0, 0.0], [1.0, 0.0, -740.0]):
        assert fl.softmax(row)[np.argmin(row)] == 0
        narrow = fl.softmax(np.divide(row, 7.4, dtype=np.float32))
        assert narrow[np.argmin(row)] == 0 and narrow.sum() == 1


@every_rows
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_rows_special_values_are_scipys(function, classes, dtype):
    rows = np.array(
        np.meshgrid(*[[-np.inf, np.inf, np.nan, 0.0, 1.0]] * min(classes, 3)), dtype
    ).reshape(min(classes, 3), -1)
    rows = np.concatenate([rows, np.zeros((classes - len(rows), rows.shape[1]), dtype)]).T.copy()
    with np.errstate(all="ignore"):
        want = ROWS[function](rows, axis=-1)
    assert_allclose(function(rows), want, rtol=1e-6, atol=1e-7)
    assert_allclose(function(rows.T.copy(), axis=0), want.T, rtol=1e-6, atol=1e-7)


@every_rows
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_any_axis_and_layout(function, axis, rng):
    z = rng.standard_normal((4, 6, 5))
    want = ROWS[function](z, axis=axis)
    wide = np.zeros((8, 6, 10))
    wide[::2, :, ::2] = z
    for layout in (z, np.asfortranarray(z), wide[::2, :, ::2], z.astype(">f8"), z[::-1][::-1]):
        assert_allclose(function(layout, axis=axis), want, rtol=1e-12, atol=1e-15)


@every_rows
@pytest.mark.parametrize("shape", [(7, 3), (300, 3), (300, 7), (2, 5, 7)])
def test_blocks_and_threads_change_nothing(function, monkeypatch, rng, shape):
    z = rng.standard_normal(shape)
    whole = function(z)
    assert_array_equal(function(z, num_threads=2), whole)
    monkeypatch.setattr(special, "BLOCK", 100)
    assert_array_equal(function(z), whole)
    # In place across blocks, too.
    if whole.shape == z.shape:
        assert_array_equal(function(z.copy(), out=z), whole)


@pytest.mark.parametrize("function", IN_PLACE)
def test_in_place(function, dtype, rng):
    z = rng.standard_normal((50, 6)).astype(dtype)
    want = function(z)
    assert function(z, out=z) is z
    assert_array_equal(z, want)


@every_function
def test_out(function, dtype, rng):
    z = rng.standard_normal((5, 6))
    want = function(z.astype(dtype))
    out = np.empty(want.shape[::-1], np.float64).T
    assert function(z.astype(dtype), out=out) is out
    assert_allclose(out, want, rtol=1e-6)
    narrow = np.empty(want.shape, np.float32)
    assert_allclose(function(z, out=narrow), function(z), rtol=1e-6)


def test_narrow_out_overflows_in_silence():
    z = np.array([1e300, -1e300])
    assert fl.logsumexp(z, out=np.empty((), np.float32)) == np.inf
    assert_array_equal(fl.log_softmax(z, out=np.empty(2, np.float32)), [0, -np.inf])
    assert_array_equal(fl.softplus(z, out=np.empty(2, np.float32)), [np.inf, 0])


@pytest.mark.parametrize("shape", [(2, 5000), (5, 5000), (300, 2000), (300, 20)])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_classes_far_apart_in_memory(dtype, rng, shape, value):
    z = rng.standard_normal(shape).astype(dtype)
    z[:, 7] = z[-1, 3] = z[0, 4] = value
    with np.errstate(all="ignore"):
        for function, scipys in ROWS.items():
            assert_allclose(function(z, axis=0), scipys(z, axis=0), rtol=1e-5, atol=1e-6)


@every_function
def test_scalars_lists_integers_and_nothing(function):
    assert_array_equal(function([1, 2, 3]), function(np.array([1.0, 2.0, 3.0])))
    for kind in (np.int8, np.uint64, bool):
        x = np.array([[0, 1], [1, 1]], kind)
        assert_array_equal(function(x), function(x.astype(float)))
    assert function(np.zeros((0, 3), np.float32)).dtype == np.float32
    assert function(np.zeros((0, 3))).size == 0
    assert function(np.zeros((0, 300))).size == 0
    if function in ELEMENTWISE:
        assert function(0.0).shape == () and isinstance(function(0.0), np.ndarray)


@every_function
def test_bad_input_is_named(function):
    name = function.__name__
    first = next(iter(inspect.signature(function).parameters))
    x = np.zeros((4, 3))
    for bad in ("abc", 1j, x.astype(np.complex64)):
        with pytest.raises(TypeError, match=f"^{name}: {first}: expected float32, float64, .* or"):
            function(bad)
    with pytest.raises(TypeError, match=f"^{name}: num_threads: expected an integer"):
        function(x, num_threads="2")
    want = function(x).shape
    with pytest.raises(TypeError, match=f"^{name}: out: expected an ndarray, got .*list"):
        function(x, out=[0.0])
    with pytest.raises(TypeError, match=f"^{name}: out: expected float32, float64, .* got int64"):
        function(x, out=np.zeros(want, int))
    with pytest.raises(ValueError, match=rf"^{name}: out: expected shape .*, got \(2,\)"):
        function(x, out=np.zeros(2))
    fixed = np.zeros(want)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match=f"^{name}: out: expected a writeable array"):
        function(x, out=fixed)
    buffer = np.zeros((5, 3))
    out = buffer[1:] if want == (4, 3) else buffer[1:, 0]
    exactly = " without being exactly it" if function in IN_PLACE else ", which is only read"
    with pytest.raises(ValueError, match=f"^{name}: out: overlaps {first}{exactly}$"):
        function(buffer[:-1], out=out)


@pytest.mark.parametrize("function", [fl.softplus, fl.log_sigmoid])
def test_not_in_place(function):
    x = np.ones(3)
    with pytest.raises(ValueError, match="out: overlaps x"):
        function(x, out=x)
    assert_array_equal(x, 1)


@every_rows
def test_bad_axes(function):
    name = function.__name__
    with pytest.raises(ValueError, match=f"^{name}: axis: expected -2 <= axis < 2 .*, got 2"):
        function(np.zeros((2, 3)), axis=2)
    with pytest.raises(ValueError, match=f"^{name}: axis: expected"):
        function(1.0)
    with pytest.raises(TypeError, match=f"^{name}: axis: expected an integer, got None"):
        function(np.zeros(3), axis=None)
    with pytest.raises(ValueError, match=rf"^{name}: pred: expected at least one class.*\(2, 0\)"):
        function(np.zeros((2, 0)))
