"""Divergences between distributions, and losses made of them."""

from __future__ import annotations

import math
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fastloss import kernels
from fastloss._general import Array, Elementwise, RowDivergence
from fastloss._loss import (
    CHANCES,
    REAL,
    UNIT,
    Common,
    Domain,
    Elsewhere,
    Flag,
    Gradients,
    NonNegative,
    Outputs,
    VectorsCommon,
    first_order_loss,
    loss,
)
from fastloss._vectors import Vectors, dots
from fastloss.binary import binary_cross_entropy_with_logits


def _kl(m: Any, p: Any, t: Any, log_target: Any) -> Any:
    if log_target:
        return m.exp(t) * (t - p)
    return m.where(t > 0, t * (m.log(m.where(t > 0, t, 1)) - p), 0 * p)


def _kl_terms(m: Any, p: Any, t: Any, log_target: Any) -> Any:
    if log_target or t == 0:
        return None, None, None
    return t * m.maximum(m.abs(m.log(t)), m.abs(p)), None, None


@loss(
    Elementwise,
    kernels.kl_div,
    target=Domain(0, 1, unless="log_target"),
    formula=r"t (\log t - p)",
    naive=_kl,
    terms=_kl_terms,
    torch=Elsewhere("kl_div"),
    link="log",
)
def kl_div(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    log_target: Flag = False,
    **common: Unpack[Common],
) -> Outputs:
    r"""Kullback-Leibler divergence from log-probabilities p to probabilities t, by elements.

    .. math:: t (\log t - p), \quad e^t (t - p) \text{ of log-probabilities } t

    A distribution's divergence is the sum over its elements: of (n, classes) the mean divergence
    is ``reduction="batchmean"``.

    Parameters
    ----------
    pred, target : array_like
        Of one shape; float32 or float64, or integers, which count as float64. Targets in [0, 1]
        unless `log_target`. That they sum to 1 is not checked.
    log_target : bool, optional
        Whether `target` holds the logarithms of its probabilities.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets outside [0, 1] (the first is named), dtypes that are not
        numbers, an `out` that does not fit.

    Notes
    -----
    PyTorch's function of the same name, also with ``"mean"``, which divides by the number of
    elements. 0 log 0 = 0, and a target of 0 costs nothing where `pred` is -inf.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.kl_div([-0.5, -1.0], [0.5, 0.5], reduction="none").round(6)
    array([-0.096574,  0.153426])
    >>> fl.kl_div.grad([[-0.5, -1.0]], [[0.5, 0.5]], reduction="batchmean")
    array([[-0.5, -0.5]])
    """
    return run(pred, target, (log_target,), **common)


def _kl_with_probs(m: Any, p: Any, target: Any) -> Any:
    terms = zip(p, target, strict=True)
    return sum(m.where(t > 0, t * (m.log(t) - m.log(p_k)), 0 * p_k) for p_k, t in terms)


def _kl_with_probs_terms(m: Any, p: Any, target: Any) -> Any:
    # The terms themselves, but where p is close to t only what they are more than t - p.
    size = 0
    for p_k, t in zip(p, target, strict=True):
        if t > 0 and p_k > 0:
            x = t * (m.log(t) - m.log(p_k))
            size = size + m.abs(x + (p_k - t) if m.abs(p_k - t) < t / 2 else x)
    return size, None, None


@loss(
    RowDivergence,
    kernels.kl_div_with_probs,
    pred=UNIT,
    target=CHANCES,
    formula=r"\sum_k t_k \log \frac{t_k}{p_k}",
    naive=_kl_with_probs,
    terms=_kl_with_probs_terms,
    link="identity",
)
def kl_div_with_probs(
    run: RowDivergence,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Kullback-Leibler divergence of probabilities p from the target's t, a row being a sample.

    .. math:: D(t \| p) = \sum_k t_k \log \frac{t_k}{p_k}

    Parameters
    ----------
    pred : array_like
        Probabilities p, float32 or float64, or integers, which count as float64; the classes on
        `axis`.
    target : array_like
        Probabilities t of pred's shape, in [0, 1].
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets outside [0, 1] (the first is named), dtypes that are not
        numbers, an `out` that does not fit.

    Notes
    -----
    S. Kullback and R. A. Leibler, On information and sufficiency, 1951; scipy.stats.entropy(t, p)
    without its normalisation. That probabilities add up to 1 is checked neither of `pred` nor of
    `target`, and the gradient is that of each p on its own. 0 log 0 = 0, and p = 0 where t is not
    costs inf. Of close distributions nothing cancels: t log(t / p) is summed as what it exceeds
    t - p by, which is not negative, and t - p, exactly.

    Examples
    --------
    >>> import fastloss as fl
    >>> round(fl.kl_div_with_probs([[0.5, 0.5]], [[0.25, 0.75]]), 6)
    0.130812
    >>> fl.kl_div_with_probs.grad([[0.5, 0.5]], [[0.25, 0.75]])
    array([[-0.5, -1.5]])
    """
    return run(pred, target, axis=axis, **common)


_BCE = binary_cross_entropy_with_logits.bind(num_threads=1)
# (sinh x - x) / x^3 in x^2, by Taylor: below 1/2 the next term is beyond float64
_SERIES = [1 / math.factorial(k) for k in range(3, 16, 2)]


def _exp_less_tangent(x: Array, expm1: Array) -> Array:
    """e^x - 1 - x, which is not negative: cosh x - 1 + sinh x - x where the difference cancels."""
    square: Array = x * x
    series = square * _SERIES[-1]
    for c in _SERIES[-2:0:-1]:
        series += c
        series *= square
    series += _SERIES[0]
    series *= square
    series *= x
    cosh = np.add(expm1, 1, out=square)
    np.divide(expm1, cosh, out=cosh)
    cosh *= expm1
    cosh *= 0.5
    series += cosh
    difference: Array = np.subtract(expm1, x, out=cosh)
    np.copyto(difference, series, where=np.abs(x) < 0.5)
    return difference


def _elbo(
    scale: Array | None,
    recon: Array,
    target: Array,
    mu: Array,
    log_var: Array,
    likelihood: str,
    beta: float,
) -> tuple[Array, tuple[Array, ...]]:
    if likelihood == "bernoulli":
        if scale is None:
            each = _BCE(recon, target, reduction="none")
        else:
            each, _ = _BCE.value_and_grad(recon, target, reduction="none", out=(None, recon))
        loss = each.sum(-1)
    else:
        recon -= target
        loss = dots(recon, recon) / 2
    expm1 = np.expm1(log_var)
    loss += beta / 2 * (_exp_less_tangent(log_var, expm1).sum(-1) + dots(mu, mu))
    if scale is None:
        return loss, ()
    recon *= scale[:, None]
    mu *= (beta * scale)[:, None]
    expm1 *= (beta / 2 * scale)[:, None]
    return loss, (recon, mu, expm1)


def _elbo_naive(m: Any, x: Any, y: Any, mu: Any, v: Any, likelihood: str, beta: Any) -> Any:
    bernoulli = likelihood == "bernoulli"
    rebuilt = m.log(1 + m.exp(x)) - y * x if bernoulli else (x - y) ** 2 / 2
    return m.sum(rebuilt) + beta * m.sum(m.exp(v) + mu**2 - 1 - v) / 2


def _elbo_terms(m: Any, x: Any, y: Any, mu: Any, v: Any, likelihood: str, beta: Any) -> Any:
    return None, (
        m.maximum(1 / (1 + m.exp(-x)), y) if likelihood == "bernoulli" else None,
        None,
        None,
    )


@first_order_loss(
    Vectors,
    target=UNIT,
    formula=r"-\log p(x \mid z) + \beta D(q(z \mid x) \| N(0, 1))",
    inputs=("recon", "mu", "log_var"),
    naive=_elbo_naive,
    terms=_elbo_terms,
)
def elbo_loss(
    run: Vectors,
    recon: ArrayLike,
    target: ArrayLike,
    mu: ArrayLike,
    log_var: ArrayLike,
    *,
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    beta: NonNegative = 1.0,
    **common: Unpack[VectorsCommon],
) -> Gradients[tuple[Array, Array, Array]]:
    r"""Negative evidence lower bound of a variational autoencoder, of each row.

    .. math:: -\log p(x \mid z) + \beta D(q(z \mid x) \| N(0, 1)), \quad
        D = \tfrac{1}{2} \sum_j (e^{v_j} + \mu_j^2 - 1 - v_j)

    Parameters
    ----------
    recon : array_like
        What is made of the sample z, features along the last axis: logits of the Bernoulli
        distributions of the features, or means of Gaussians of variance 1. float32 or float64, or
        integers, which count as float64.
    target : array_like
        The data x, of recon's shape; of Bernoulli distributions in [0, 1].
    mu, log_var : array_like
        Means and logarithms v of the variances of q, of one shape: recon's leading axes, and the
        latent features along the last axis.
    likelihood : {"bernoulli", "gaussian"}, optional
        Of x: sums `binary_cross_entropy_with_logits` over the features, or (x - recon)^2 / 2, the
        constant left out.
    beta : float, optional
        The weight of the divergence D; not negative.
    **common

    Returns
    -------
    (gradient of recon, of mu, of log_var)
        Where gradients are asked for, each of its input's shape and floating dtype.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, Bernoulli targets outside [0, 1] (the first is named), dtypes
        that are not numbers, an `out` that does not fit.

    Notes
    -----
    Features on several axes, as of images, are flattened: ``recon.reshape(n, -1)``. Distributions q
    close to N(0, 1) keep their precision. Computed in float64.

    References
    ----------
    D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, ICLR 2014; I. Higgins et al.,
    *beta-VAE*, ICLR 2017.

    Examples
    --------
    >>> import fastloss as fl
    >>> recon, target = [[0.0, 2.0]], [[1.0, 1.0]]
    >>> fl.elbo_loss(recon, target, [[2.0]], [[0.0]], likelihood="gaussian", beta=0.5)
    2.0
    """
    inputs = {"recon": recon, "target": target, "mu": mu, "log_var": log_var}
    domain = UNIT if likelihood == "bernoulli" else REAL
    return run(_elbo, inputs, "ddkk", (likelihood, beta), domain, **common)
