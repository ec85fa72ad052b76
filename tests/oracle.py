"""The oracle: what a loss, its gradient and its diagonal Hessian are, exactly, at given inputs.

`exact` evaluates the formula that a loss declares (`loss.naive`) on dual numbers over mpmath: a
value and, per seeded input, its first and second derivative. 2400 bits (600 for float32) leave
the plain formula right at 1e-300, where fixed digits, finite differences and "raise the precision
until two agree" are all wrong; where even that runs out, `OutOfPrecision` is raised and the point
dropped. `ulps` judges a computed number by the rule of the declared bounds. `points`, `rows` and
`settings` choose the inputs from what a loss declares of itself, so the next one is held here from
its first day.
"""

from __future__ import annotations

import functools
import inspect
import operator
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp, mpf

import fastloss as fl

BITS = {np.dtype(np.float32): 600, np.dtype(np.float64): 2400}
# A formula may add numbers this many bits apart, as 1 + exp(-z) does: up to z = 170 and 790. It is
# less than half of BITS because a second derivative may cancel those digits a second time.
SPREAD = {600: 250, 2400: 1150}


class OutOfPrecision(ArithmeticError):
    """The plain formula loses its digits here, at any fixed precision of ours."""


@functools.lru_cache(maxsize=4096)  # long rows repeat their logits
def _exp(x: mpf, _prec: int) -> mpf:
    if mp.isfinite(x) and abs(x) > 2**20:
        raise OutOfPrecision
    return mp.exp(x)


@functools.lru_cache(maxsize=4096)
def _log(x: mpf, _prec: int) -> mpf:
    return mp.log(x)


class Dual:
    """A value v and d[k] = (dv/dz_k, d2v/dz_k2) of each seeded input k that v depends on."""

    __slots__ = ("d", "v")

    def __init__(self, v: Any, d: dict[int, tuple[mpf, mpf]] | None = None) -> None:
        self.v = v if type(v) is mpf else mpf(v if type(v) is int else float(v))
        self.d = d or {}

    def chain(self, f: mpf, df: mpf, ddf: mpf) -> Dual:
        return Dual(f, {k: (df * a, df * b + ddf * a * a) for k, (a, b) in self.d.items()})

    def __add__(self, other: Any) -> Dual:
        u, w = self, lift(other)
        (_, x, i, m), (_, y, j, n) = u.v._mpf_, w.v._mpf_  # sign, mantissa, exponent, its bits
        if x and y and abs(i + m - j - n) > SPREAD[mp.prec]:  # inf, nan and 0 have no mantissa
            raise OutOfPrecision
        if not u.d or not w.d:
            return Dual(u.v + w.v, u.d or w.d)
        d = {**u.d, **w.d}
        for k in u.d.keys() & w.d.keys():
            d[k] = (u.d[k][0] + w.d[k][0], u.d[k][1] + w.d[k][1])
        return Dual(u.v + w.v, d)

    def __sub__(self, other: Any) -> Dual:
        return self + -lift(other)

    def __mul__(self, other: Any) -> Dual:
        u, w = self, lift(other)
        if not w.d and w.v == 1:  # spare the long rows of zeros and ones
            return u
        if not w.v and not w.d and mp.isfinite(u.v):
            return w
        d = {k: (a * w.v, b * w.v) for k, (a, b) in u.d.items()}
        for k, (a, b) in w.d.items():
            if k in d:
                d[k] = (d[k][0] + a * u.v, d[k][1] + b * u.v + 2 * a * u.d[k][0])
            else:
                d[k] = (a * u.v, b * u.v)
        return Dual(u.v * w.v, d)

    def __pow__(self, power: Any) -> Dual:
        p = lift(power)
        assert not p.d, "powers are constants"
        n = int(p.v) if p.v == int(p.v) else p.v
        falling = (mpf(1), mpf(n), mpf(n) * (n - 1))
        return self.chain(*(c * self.v ** (n - i) if c else mpf(0) for i, c in enumerate(falling)))

    def __neg__(self) -> Dual:
        return Dual(-self.v, {k: (-a, -b) for k, (a, b) in self.d.items()})

    def __abs__(self) -> Dual:
        return self.chain(abs(self.v), mpf(mp.sign(self.v)), mpf(0))

    def __bool__(self) -> bool:
        return bool(self.v)

    def __rsub__(self, other: Any) -> Dual:
        return -self + other

    def __truediv__(self, other: Any) -> Dual:
        return self * lift(other) ** -1

    def __rtruediv__(self, other: Any) -> Dual:
        return lift(other) * self**-1

    __radd__, __rmul__ = __add__, __mul__
    __hash__ = None  # type: ignore[assignment]  # numbers that compare by value alone; typed so


for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _compare = getattr(operator, _name)
    setattr(Dual, f"__{_name}__", lambda a, b, compare=_compare: compare(a.v, lift(b).v))


def lift(x: Any) -> Dual:
    return x if type(x) is Dual else Dual(x)


def _exp_dual(x: Dual) -> Dual:
    f = _exp(x.v, mp.prec)
    return x.chain(f, f, f)


def _log_dual(x: Dual) -> Dual:
    if not x.v:  # log 0, of a probability that is exactly 0
        return Dual(-mp.inf, {k: (mp.inf * a, -mp.inf) for k, (a, _) in x.d.items()})
    return x.chain(_log(x.v, mp.prec) if x.v > 0 else mp.nan, 1 / x.v, -1 / x.v**2)


def _over_arrays(function: Any) -> Any:
    lifted = np.frompyfunc(
        lambda *args: function(*map(lift, args)), function.__code__.co_argcount, 1
    )
    return staticmethod(lambda *args: lifted(*args))


class m:
    """What a declaration's `naive` and `terms` compute in; numbers and object arrays alike."""

    exp = _over_arrays(_exp_dual)
    log = _over_arrays(_log_dual)
    sqrt = _over_arrays(lambda x: x ** mpf(0.5))
    abs = _over_arrays(lambda x: abs(x))
    minimum = _over_arrays(lambda a, b: a if a <= b else b)
    maximum = _over_arrays(lambda a, b: a if a >= b else b)
    lgamma = _over_arrays(lambda x: Dual(mp.loggamma(x.v)))
    where = _over_arrays(lambda condition, a, b: a if condition else b)
    sum = staticmethod(lambda x: sum(x))


class Exact(NamedTuple):
    """Exact numbers and the magnitudes that set their unit; per seeded input but for the loss."""

    loss: mpf
    grad: list[mpf]
    hess: list[mpf]
    loss_scale: mpf
    grad_scale: list[mpf]
    hess_scale: list[mpf]


def _array(duals: Any) -> np.ndarray:
    out = np.empty(len(duals), dtype=object)
    out[:] = [lift(x) for x in duals]
    return out


def arguments(loss: Any) -> list[str]:
    """The names of a loss's positional arguments."""
    parameters = inspect.signature(loss).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def exact(loss: Any, pred: Any, target: Any, knobs: dict[str, Any], seeds: Any = (0,)) -> Exact:
    """Loss, gradient and Hessian at one sample: a number, or for rows a row and its target.

    Of pairs `pred` is both inputs, `target` the third. The precision follows `pred`'s dtype.
    `knobs` are completed by their defaults.
    """
    wide = loss.kind == "rows"
    pred = np.asarray(pred)
    with mp.workprec(BITS[pred.dtype]):
        z = [
            Dual(float(x), {k: (mpf(1), mpf(0))} if k in seeds else None)
            for k, x in enumerate(pred.ravel())
        ]
        t = _array(target) if np.ndim(target) else int(target) if wide else Dual(float(target))
        if loss.domain.lists:
            t = target
        knobs = {k: knob.default for k, knob in loss.knobs.items()} | knobs
        knobs = {
            k: _array(v) if np.ndim(v) else Dual(v) if isinstance(v, float) else v
            for k, v in knobs.items()
            if k not in ("axis", "ignore_index")
        }

        def call(formula: Any, z: list[Dual]) -> Any:
            if loss.kind == "pairs":
                by_name = dict(zip(loss.inputs, z, strict=True))
                return formula(m, *(by_name.get(name, t) for name in arguments(loss)), **knobs)
            return formula(m, _array(z) if wide else z[0], t, **knobs)

        value = lift(call(loss.naive, z))
        derivatives = [value.d.get(k, (mpf(0), mpf(0))) for k in seeds]
        plain = [Dual(x.v) for x in z]
        terms: Any = (None, None, None)
        if loss.terms:
            terms = call(loss.terms, plain)

        def scales(term: Any) -> list[mpf]:
            each = [term[k] for k in seeds] if np.ndim(term) else [term for _ in seeds]
            return [mpf(0) if x is None else abs(lift(x).v) for x in each]

        return Exact(
            value.v,
            [a for a, _ in derivatives],
            [b for _, b in derivatives],
            scales(terms[0])[0],
            scales(terms[1]),
            scales(terms[2]),
        )


@mp.workprec(max(BITS.values()))
def ulps(got: Any, want: mpf, scale: Any = 0, *, relative: bool = False) -> float:
    """The distance from `got` to the exact `want`, in units in the last place of its dtype.

    The unit is that of max(|want|, scale); with `relative` it is eps times that number. Below the
    smallest normal number the right sign and one smallest normal are asked for: 0 or inf.
    """
    info = np.finfo(np.asarray(got).dtype)
    got = float(got)
    if mp.isnan(want) or np.isnan(got):
        return 0.0 if mp.isnan(want) and np.isnan(got) else np.inf
    if mp.isinf(want):
        return 0.0 if got == want else np.inf
    size = max(abs(want), scale)
    if abs(want) < float(info.tiny):
        near = abs(mpf(got) - want) <= float(info.tiny) and mp.sign(got) in (0, mp.sign(want))
        if near or size < float(info.tiny):
            return 0.0 if near else np.inf
    top = mpf(2) ** int(info.maxexp)  # where the next number after the largest would be
    if np.isinf(got):
        if (got > 0) != (want > 0):
            return np.inf
        error = max(mpf(0), top - abs(want))
    else:
        error = abs(mpf(got) - want)
    size = min(size, top / 2)
    unit = size if relative else mpf(2) ** (mp.mag(size) - 1)
    return float(error / (unit * float(info.eps)))


# Inputs, chosen from what a loss declares


def pairs(
    loss: Any, dtype: Any, knobs: dict[str, Any], rng: np.random.Generator, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """n adversarial (both inputs, third input) of a loss of pairs."""
    dtype = np.dtype(dtype)
    free = points(fl.mse_loss, dtype, knobs, rng, n)
    sizes = magnitudes(dtype)
    small = sizes[sizes <= (170 if dtype == np.float32 else 790)]
    if loss.domain.ends_only:
        bounded = rng.choice([loss.domain.low, loss.domain.high], n)
    else:
        bounded = np.where(rng.random(n) < 0.5, rng.choice(small, n), 3 * rng.exponential(size=n))
        bounded *= 1 if loss.domain.low == 0 else rng.choice([-1, 1], n)
    rest = iter(free)
    given = [
        bounded.astype(dtype) if name == loss.checked else next(rest) for name in arguments(loss)
    ]
    by_name = dict(zip(arguments(loss), given, strict=True))
    pred = np.stack([by_name.pop(name) for name in loss.inputs], axis=1)
    return pred, next(iter(by_name.values()), np.zeros(n, dtype))


def settings(loss: Any, rng: np.random.Generator, classes: int = 0) -> list[dict[str, Any]]:
    """Knob settings: the defaults, every knob through its valid values, and a few mixtures.

    Weights are numbers, or with `classes` arrays of one per class.
    """
    values: dict[str, list[Any]] = {}
    for name, knob in loss.knobs.items():
        if knob.check is not None:
            tried = (0.0, 0.1, 0.5, 1.0, 1.3, 2.0, 3.0, 3.7)
            values[name] = [v for v in tried if knob.check.contains(v)]
            if isinstance(knob.default, bool):
                values[name] = [False, True]
            values[name] += [None] if knob.optional else []
            values[name] += getattr(knob.check, "words", ())
        elif knob.each and knob.each.high < np.inf:
            values[name] = [0.0, 0.1, 0.5, 0.999, 1.0]
        elif name.endswith("_weight"):
            spread = [rng.uniform(0.1, 3, classes), np.arange(classes) % 3.0]
            values[name] = spread if classes else [0.0, 0.3, 1.0, 37.0]
        elif name.endswith("_mask"):
            values[name] = [np.arange(classes) % 3 != 1, np.arange(classes) < max(1, classes // 2)]
    single = [{name: v} for name, tried in values.items() for v in tried]
    mixed = [
        {name: tried[rng.integers(len(tried))] for name, tried in values.items()}
        for _ in range(4 if len(values) > 1 else 0)
    ]
    return [{}, *single, *mixed]


def magnitudes(dtype: np.dtype) -> np.ndarray:
    """Sizes where something happens, from the smallest subnormal to a quarter of the largest."""
    info = np.finfo(dtype)
    tiny, eps, largest = float(info.tiny), float(info.eps), float(info.max)
    edges = [-np.log(eps), -np.log(tiny), -np.log(float(info.smallest_subnormal)), np.log(largest)]
    reach = 170 if dtype == np.float32 else 790
    sizes = [info.smallest_subnormal, tiny / 3, tiny, tiny**0.5, eps**2, eps / 2, eps, eps**0.5]
    sizes += [1e-3, 0.1, 0.5, np.log(2), 1, 2, 5, 10, 20, *edges, *np.multiply(edges, 0.5), reach]
    sizes += [2 - np.log(tiny), 1e4, 1e10, largest**0.5, largest / 4]
    return np.array(sizes, dtype)


def points(
    loss: Any, dtype: Any, knobs: dict[str, Any], rng: np.random.Generator, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """n adversarial (pred, target) of an elementwise loss."""
    dtype = np.dtype(dtype)
    info, sizes = np.finfo(dtype), magnitudes(dtype)
    scalars = [knobs.get(name, loss.knobs[name].default) for name in loss.scalars()]
    domain = loss.domain_at(scalars)
    pred = np.concatenate([[0], sizes, -sizes, rng.normal(0, 3, 40), rng.normal(0, 30, 10)])
    pred = rng.choice(pred.astype(dtype), n)

    def between(low: float, high: float) -> np.ndarray:
        near = [info.tiny, info.eps, 0.25, 0.5, 1 - info.epsneg, *rng.uniform(size=5)]
        some = rng.choice([low, high, low, high, *(low + (high - low) * np.array(near))], n)
        return some.astype(dtype)

    if np.isfinite([loss.pred.low, loss.pred.high]).all():
        inside = pred[(loss.pred.low <= pred) & (pred <= loss.pred.high)]
        pred = np.where(
            rng.random(n) < 0.5, rng.choice(inside, n), between(loss.pred.low, loss.pred.high)
        )
    elif loss.pred.low > -np.inf:  # also close to that end
        pred = np.where(rng.random(n) < 0.5, loss.pred.low + abs(pred), abs(pred))
        pred = np.maximum(pred, np.nextafter(dtype.type(loss.pred.low), dtype.type(np.inf)))
    low, high = domain.low, domain.high
    if domain.open:
        low = np.nextafter(dtype.type(low), dtype.type(np.inf))
    if domain.ends_only:
        target = rng.choice([low, high], n).astype(dtype)
    elif np.isfinite([low, high]).all():
        target = between(low, high)
    else:
        # Residuals of every size: none, the last digits of pred, and the numbers the knobs name.
        named = [float(v) for v in knobs.values() if isinstance(v, float)] or [1.0]
        close = rng.choice(named, n) * (1 + rng.integers(-6, 7, n) * float(info.eps) / 2)
        last = pred * (1 + rng.integers(-3, 4, n) * float(info.eps))
        other = rng.choice([-1, 1], n) * rng.choice(sizes, n)
        far, kink, normal = (pred.astype(float) + x for x in (other, -close, rng.normal(0, 2, n)))
        with np.errstate(over="ignore"):
            target = np.stack([other, last, kink, far, normal, -close]).astype(dtype)
        target = np.clip(target[rng.integers(len(target), size=n), np.arange(n)], low, high)
        pred[-n // 8 :] = 0  # the residual is the target itself
    assert domain.contains(target).all(), f"{loss.name}: the points leave {domain}"
    return pred, target


def chances(dtype: Any, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """n adversarial rows of probabilities: of any size, 0 and 1 among them, and near the target."""
    dtype = np.dtype(dtype)
    sizes = magnitudes(dtype)
    pool = np.concatenate([[0, 1], sizes[sizes <= 1], rng.random(200)])
    p = rng.choice(pool, target.shape)
    near = target * (1 + rng.choice([1e-8, 1e-3, 0.3, 0.6], (len(p), 1)) * rng.normal(size=p.shape))
    return np.where(rng.random((len(p), 1)) < 0.5, p, near.clip(0, 1)).astype(dtype)


def rows(
    dtype: Any, classes: int, rng: np.random.Generator, n: int, shifted: bool = True
) -> np.ndarray:
    """n adversarial rows of logits: plain, nearly equal, tied, shifted far, saturated by a leader.

    Shifts are for losses of differences of logits. They repeat 200 numbers, which keeps the oracle
    affordable on long rows.
    """
    dtype = np.dtype(dtype)
    reach = 160 if dtype == np.float32 else 780
    lead = rng.choice([0, 0, 5, 40, 0.95 * reach], n)
    scale = rng.choice([0, float(np.finfo(dtype).eps), 0.1, 1, 5, 30], n)
    pool = rng.normal(size=200)
    scale = np.minimum(scale, (reach - lead) / 2 / np.abs(pool).max())
    z = rng.choice(pool, (n, classes)) * scale[:, None]
    z[np.arange(n), rng.integers(classes, size=n)] += lead
    return (z + rng.choice([0, 0, 1e3, -1e4], n)[:, None] * shifted).astype(dtype)


def soft_targets(
    pred: np.ndarray, rng: np.random.Generator, *, from_logits: bool = False
) -> np.ndarray:
    """Class probabilities, or logits of such: of every third row close to the prediction's own.

    Of the others' probabilities every other row is sparse.
    """
    n, classes = pred.shape
    near = pred * (1 + rng.choice([1e-2, 1e-4, 1e-7], (n, 1)) * rng.normal(size=pred.shape))
    if from_logits:
        t = rows(pred.dtype, classes, rng, n)
    else:
        e = np.exp(near - near.max(axis=1, keepdims=True))
        near = e / e.sum(axis=1, keepdims=True)
        t = rng.dirichlet(np.full(classes, 0.5), n)
        t[::2] *= rng.random((t[::2]).shape) < 0.5
    t[::3] = near[::3]
    t = t.astype(pred.dtype)
    # Subnormal numbers count as 0, also as a part of what is not: no last digit may be one.
    info = np.finfo(t.dtype)
    return np.where(abs(t) < info.tiny / info.eps, 0, t)
