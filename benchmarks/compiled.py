"""The opponents that compile an expression when they meet it: numexpr, numba and JAX.

numexpr and numba share the expressions of `EXPRESSIONS`, in z and y: the loss and its derivative.
numexpr works through each in cached blocks; numba compiles both as one loop, with `fastmath` and
`prange` (without Intel's SVML, which only conda's build of it can use). JAX differentiates optax's
loss under `jit`; its arrays are put where it wants them beforehand, and the labels are int32.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .contest import Array, Call, Case

try:
    import numexpr
except ImportError:
    numexpr = None
try:
    import numba
except ImportError:
    numba = None
try:
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    jax.devices("cpu")  # its threads start now, for all CPUs, before a case is held on fewer
except ImportError:
    jax = optax = None

D = "(z - y)"
E = f"exp(-2 * abs{D})"
X = "((1 - 2 * y) * z)"  # focal's Q = sigmoid(X) is the probability of the wrong class
Q = f"(where({X} > 0, 1, exp(-abs({X}))) / (1 + exp(-abs({X}))))"
SOFTPLUS = f"(where({X} > 0, {X}, 0) + log1p(exp(-abs({X}))))"
WEIGHT = f"((3 - 2 * y) / 4 * {Q} * {Q})"
EXPRESSIONS = {
    "mse_loss": (f"{D} * {D}", f"2 * {D}"),
    "l1_loss": (f"abs{D}", "where(z > y, 1, where(z < y, -1, 0))"),
    "huber_loss": (
        f"where(abs{D} < 1, {D} * {D}, 2 * abs{D} - 1) / 2",
        f"where(abs{D} < 1, {D}, where(z > y, 1, -1))",
    ),
    "pseudo_huber_loss": (
        f"{D} * {D} / (1 + sqrt(1 + {D} * {D}))",
        f"{D} / sqrt(1 + {D} * {D})",
    ),
    "log_cosh_loss": (f"abs{D} + log((1 + {E}) / 2)", f"tanh{D}"),
    "poisson_nll_loss": ("exp(z) - y * z", "exp(z) - y"),
    "binary_cross_entropy_with_logits": (
        "where(z > 0, z, 0) - z * y + log1p(exp(-abs(z)))",
        "where(z > 0, 1, exp(-abs(z))) / (1 + exp(-abs(z))) - y",
    ),
    "sigmoid_focal_loss": (
        f"{WEIGHT} * {SOFTPLUS}",
        f"(1 - 2 * y) * {WEIGHT} * (2 * (1 - {Q}) * {SOFTPLUS} + {Q})",
    ),
}


def by_numexpr(case: Case, arguments: dict[str, Array], outs: tuple[Array, ...]) -> Call | None:
    if not numexpr or case.what or case.loss.name not in EXPRESSIONS:
        return None
    numexpr.set_num_threads(case.threads)
    arrays = dict(zip("zy", arguments.values(), strict=True))
    loss, grad = EXPRESSIONS[case.loss.name]
    grad = f"({grad}) / {arrays['z'].size}"
    each = np.empty_like(arrays["z"])
    return lambda: (
        numexpr.evaluate(loss, arrays, out=each).mean(),
        numexpr.evaluate(grad, arrays, out=outs[0]),
    )


def by_numba(case: Case, arguments: dict[str, Array], outs: tuple[Array, ...]) -> Call | None:
    if not numba or case.what:
        return None
    T = np.dtype(case.dtype).type
    if case.loss.name == "cross_entropy":
        loop = numba_rows(T)
    elif case.loss.name in EXPRESSIONS:
        loop = numba_loop(case.loss.name, T)
    else:
        return None
    numba.set_num_threads(case.threads)
    return lambda: (loop(*arguments.values(), *outs), outs[0])


@cache
def numba_loop(name: str, T: type) -> Callable[[Array, Array, Array], float]:
    """The expressions of a loss as one loop, in the arithmetic of T."""

    @numba.njit(fastmath=True)
    def where(condition, a, b):
        return a if condition else b

    text = re.sub(r"\b\d+\b", r"T(\g<0>)", "lambda z, y: ({}, {})".format(*EXPRESSIONS[name]))
    functions = {f.__name__: f for f in (np.exp, np.log, np.log1p, np.sqrt, np.tanh)}
    at = numba.njit(fastmath=True)(eval(text, {**functions, "where": where, "T": T}))

    @numba.njit(parallel=True, fastmath=True)
    def loop(z, y, g):
        total, scale = 0.0, T(1 / z.size)
        for i in numba.prange(z.size):
            loss, grad = at(z[i], y[i])
            g[i] = grad * scale
            total += loss
        return total / z.size

    return loop


@cache
def numba_rows(T: type) -> Callable[[Array, Array, Array], float]:
    """Cross-entropy, row by row."""

    @numba.njit(parallel=True, fastmath=True)
    def loop(z, y, g):
        n, k = z.shape
        total, scale = 0.0, T(1 / n)
        for i in numba.prange(n):
            row, grad = z[i], g[i]
            top, sum_ = row.max(), T(0)
            for j in range(k):
                grad[j] = np.exp(row[j] - top)
                sum_ += grad[j]
            grad *= scale / sum_
            grad[y[i]] -= scale
            total += np.log(sum_) - (row[y[i]] - top)
        return total / n

    return loop


# optax's name and arguments, or a function of what it has.
OPTAX: dict[str, tuple[str, dict[str, Any]] | Callable[..., Any]] = {
    "mse_loss": ("squared_error", {}),
    "half_mse_loss": ("l2_loss", {}),
    "huber_loss": ("huber_loss", {}),
    "log_cosh_loss": ("log_cosh", {}),
    "hinge_loss": ("hinge_loss", {}),
    "perceptron_loss": ("perceptron_loss", {}),
    "binary_cross_entropy_with_logits": ("sigmoid_binary_cross_entropy", {}),
    "sigmoid_focal_loss": ("sigmoid_focal_loss", {"alpha": 0.25}),
    "cross_entropy": ("softmax_cross_entropy_with_integer_labels", {}),
    "poly_loss": lambda z, y: optax.losses.poly_loss_cross_entropy(
        z, jax.nn.one_hot(y, z.shape[1], dtype=z.dtype)
    ),
    "crammer_singer_loss": ("multiclass_hinge_loss", {}),
    "kl_div_with_probs": lambda p, y: optax.losses.kl_divergence(jax.numpy.log(p), y),
    "cosine_distance_loss": ("cosine_distance", {}),
}


def by_jax(case: Case, arguments: dict[str, Array], outs: tuple[Array, ...]) -> Call | None:
    theirs = OPTAX.get(case.loss.name)
    if not jax or case.what or not theirs:
        return None
    if isinstance(theirs, tuple):
        name, options = theirs
        function = getattr(optax.losses, name)
    else:
        function, options = theirs, {}
    wanted = tuple(range(len(case.loss.inputs)))
    run = jax.jit(
        jax.value_and_grad(
            lambda *arrays: function(*arrays, **options).mean(),
            argnums=wanted[0] if len(wanted) == 1 else wanted,
        )
    )
    arrays = [
        jax.device_put(a.astype(np.int32) if a.dtype.kind == "i" else a) for a in arguments.values()
    ]
    return lambda: jax.block_until_ready(run(*arrays))
