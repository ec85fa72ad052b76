"""Losses of real predictions and real targets."""

from __future__ import annotations

from typing import Unpack

from numpy.typing import ArrayLike

from fastloss import kernels
from fastloss._general import Elementwise
from fastloss._loss import REAL, Common, Elsewhere, Outputs, Positive, loss


@loss(
    Elementwise,
    kernels.mse,
    target=REAL,
    formula=r"(p - t)^2",
    naive=lambda m, p, t: (p - t) ** 2,
    torch=Elsewhere("mse_loss"),
    sklearn=Elsewhere("HalfSquaredError", factor=0.5),
)
def mse_loss(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    """Squared error, the mean squared error when reduced.

    .. math:: (p - t)^2

    Parameters
    ----------
    pred, target : array_like
        Of one shape; float32 or float64, or integers, which count as float64.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    PyTorch's ``mse_loss``; scikit-learn's ``HalfSquaredError`` is half of it.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.mse_loss([1.0, 2.0], [1.0, 4.0])
    2.0
    >>> fl.mse_loss.value_and_grad([1.0, 2.0], [1.0, 4.0])
    (2.0, array([ 0., -2.]))
    """
    return run(pred, target, **common)


@loss(
    Elementwise,
    kernels.huber,
    target=REAL,
    formula=r"\tfrac12 e^2 \text{ if } |e| \le \delta \text{ else } \delta(|e| - \tfrac12\delta)",
    naive=lambda m, p, t, delta: m.where(
        m.abs(p - t) <= delta, (p - t) ** 2 / 2, delta * (m.abs(p - t) - delta / 2)
    ),
    torch=Elsewhere("huber_loss"),
    sklearn=Elsewhere("HuberLoss"),
)
def huber_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    delta: Positive = 1.0,
    **common: Unpack[Common],
) -> Outputs:
    r"""Huber's loss: quadratic near zero, linear beyond `delta`.

    .. math:: \tfrac12 e^2 \text{ if } |e| \le \delta
              \text{ else } \delta(|e| - \tfrac12\delta), \quad e = p - t

    Parameters
    ----------
    pred, target : array_like
        Of one shape; float32 or float64, or integers, which count as float64.
    delta : float, optional
        Where the loss turns linear, in the units of `pred`; positive.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    P. J. Huber, Robust estimation of a location parameter, 1964; PyTorch's ``huber_loss``. At
    abs(e) = delta the Hessian is 1.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.huber_loss([0.5, 3.0], [0.0, 0.0], reduction="none")
    array([0.125, 2.5  ])
    >>> fl.huber_loss.grad_and_hess([0.5, 3.0], [0.0, 0.0], reduction="sum")
    (array([0.5, 1. ]), array([1., 0.]))
    """
    return run(pred, target, (delta,), **common)
