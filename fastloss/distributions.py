"""Divergences between distributions."""

from __future__ import annotations

from typing import Any, Unpack

from numpy.typing import ArrayLike

from fastloss import kernels
from fastloss._general import Elementwise
from fastloss._loss import Common, Domain, Elsewhere, Flag, Outputs, loss


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
