"""Losses between distributions."""

from __future__ import annotations

from typing import Any, Unpack

from numpy.typing import ArrayLike

from fastloss import kernels
from fastloss._general import Divergences, KullbackLeibler
from fastloss._loss import (
    DISTRIBUTIONS,
    Common,
    Flag,
    Fraction,
    Outputs,
    Positive,
    loss,
)


def _shares(m: Any, z: Any, temperature: Any) -> list[Any]:
    e = [m.exp(z_k / temperature) for z_k in z]
    total = sum(e)
    return [e_k / total for e_k in e]


def _target(m: Any, target: Any, temperature: Any, from_logits: Any) -> Any:
    return _shares(m, target, temperature) if from_logits else target


def _divergence(m: Any, q: Any, p: Any) -> Any:
    return sum(
        q_k * m.log(q_k / p_k) if q_k != 0 else 0 * p_k for q_k, p_k in zip(q, p, strict=True)
    )


def _kl(m: Any, z: Any, target: Any, temperature: Any, from_logits: Any) -> Any:
    q = _target(m, target, temperature, from_logits)
    return _divergence(m, q, _shares(m, z, temperature))


def _kl_terms(m: Any, z: Any, target: Any, temperature: Any, from_logits: Any) -> Any:
    # Of probabilities log(q / p) is no better than its logarithms, which weigh by q - p.
    q, p = _target(m, target, temperature, from_logits), _shares(m, z, temperature)
    pairs = list(zip(q, p, strict=True))
    total = sum(q)
    largest = [m.maximum(q_k, total * p_k) / temperature for q_k, p_k in pairs]
    return None if from_logits else sum(m.abs(q_k - p_k) for q_k, p_k in pairs), largest, None


@loss(
    KullbackLeibler,
    kernels.kl_div_with_logits,
    target=DISTRIBUTIONS,
    formula=r"\sum_k q_k (\log q_k - \log p_k)",
    naive=_kl,
    terms=_kl_terms,
)
def kl_div_with_logits(
    run: KullbackLeibler,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    temperature: Positive = 1.0,
    from_logits: Flag = False,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Kullback-Leibler divergence of rows of logits z from distributions q.

    .. math:: D(q \| p) = \sum_k q_k (\log q_k - \log p_k),
              \qquad p = \operatorname{softmax}(z / T)

    Parameters
    ----------
    pred : array_like
        Logits, float32 or float64, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Of pred's shape: probabilities, not negative; that they sum to 1 is not checked. Or logits,
        with `from_logits`.
    temperature : float, optional
        T, which divides the logits, also those of the target. The divergence is not multiplied by
        T squared, as distillation often does: ``sample_weight=T**2`` with ``reduction="sum"`` does.
    from_logits : bool, optional
        Whether the target is logits: q is their softmax.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    A row is a sample: PyTorch's ``kl_div(log_softmax(z / T), q, reduction="batchmean")``. The
    gradient is (p sum(q) - q) / T. 0 log 0 is 0, and what is expected of a class that can't be
    (a logit of -inf) costs inf. Close distributions keep their digits: with `from_logits` all of
    them; probabilities know log(q / p) only to the last digit of their own logarithms. The
    divergence is never negative if q sums to 1, and of a nan where a probability is negative.

    Kullback & Leibler, "On Information and Sufficiency" (1951); Hinton et al., "Distilling the
    Knowledge in a Neural Network" (2015).

    Examples
    --------
    >>> import fastloss as fl
    >>> loss, grad = fl.kl_div_with_logits.value_and_grad([[2.0, 0.0, 0.0]], [[0.5, 0.25, 0.25]])
    >>> round(loss, 6), grad.round(6)
    (0.199824, array([[ 0.286986, -0.143493, -0.143493]]))
    >>> round(fl.kl_div_with_logits([[1.0, 1e-9]], [[1.0, 0.0]], from_logits=True) * 1e19, 6)
    0.98306
    """
    return run(pred, target, (temperature, from_logits), axis=axis, **common)


def _mixture(q: Any, p: Any, beta: Any) -> list[Any]:
    return [beta * q_k + (1 - beta) * p_k for q_k, p_k in zip(q, p, strict=True)]


def _js(m: Any, z: Any, target: Any, beta: Any, temperature: Any, from_logits: Any) -> Any:
    if beta in (0, 1):
        return 0 * sum(z)
    q, p = _target(m, target, temperature, from_logits), _shares(m, z, temperature)
    middle = _mixture(q, p, beta)
    return beta * _divergence(m, q, middle) + (1 - beta) * _divergence(m, p, middle)


def _js_terms(m: Any, z: Any, target: Any, beta: Any, temperature: Any, from_logits: Any) -> Any:
    if beta in (0, 1):
        return None, None, None
    q, p = _target(m, target, temperature, from_logits), _shares(m, z, temperature)
    middle = _mixture(q, p, beta)
    first, second = [], []
    for q_k, p_k, m_k in zip(q, p, middle, strict=True):
        first.append((1 - beta) * p_k * m.log(p_k / m_k) if p_k * m_k != 0 else 0 * p_k)
        second.append((1 - beta) * beta * q_k * p_k / m_k if m_k != 0 else 0 * p_k)
    total, all_second = sum(first), sum(second)
    grad, hess = [], []
    for f, s, p_k in zip(first, second, p, strict=True):
        grad.append(max(abs(f), abs(p_k * total), s) / temperature)
        hess.append(max(abs(f), abs(p_k * total), s, p_k * p_k * all_second) / temperature**2)
    return sum(abs(f) for f in first), grad, hess


@loss(
    Divergences,
    kernels.js_divergence_with_logits,
    target=DISTRIBUTIONS,
    formula=r"\beta D(q \| m) + (1 - \beta) D(p \| m)",
    naive=_js,
    terms=_js_terms,
)
def js_divergence_with_logits(
    run: Divergences,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    beta: Fraction = 0.5,
    temperature: Positive = 1.0,
    from_logits: Flag = False,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Generalised Jensen-Shannon divergence of rows of logits z and distributions q.

    .. math:: \beta D(q \| m) + (1 - \beta) D(p \| m), \qquad
              m = \beta q + (1 - \beta) p, \quad p = \operatorname{softmax}(z / T)

    Parameters
    ----------
    pred : array_like
        Logits, float32 or float64, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Of pred's shape: probabilities, not negative; that they sum to 1 is not checked. Or logits,
        with `from_logits`.
    beta : float, optional
        The target's weight in the mixture m, in [0, 1]: 1/2 is the Jensen-Shannon divergence; at
        the ends, where m is one of the two, it is 0.
    temperature : float, optional
        T, which divides the logits, also those of the target.
    from_logits : bool, optional
        Whether the target is logits: q is their softmax.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    At most the entropy of (beta, 1 - beta), log 2 by default: bounded also where the distributions
    have no class in common. Lin, "Divergence Measures Based on the Shannon Entropy" (1991).

    Examples
    --------
    >>> import fastloss as fl
    >>> round(fl.js_divergence_with_logits([[2.0, 0.0, 0.0]], [[0.5, 0.25, 0.25]]), 6)
    0.045847
    >>> round(fl.js_divergence_with_logits([[99.0, 0.0]], [[0.0, 1.0]]), 6)
    0.693147
    """
    return run(pred, target, (beta, temperature, from_logits), axis=axis, **common)
