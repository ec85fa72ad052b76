"""Divergences of distributions."""

from __future__ import annotations

from typing import Any, Unpack

from numpy.typing import ArrayLike

from fastloss import kernels
from fastloss._general import RowDivergence
from fastloss._loss import CHANCES, UNIT, Common, Outputs, loss


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
