"""Counts and likelihoods: losses of the logarithm of a mean and a target that is not negative."""

from __future__ import annotations

from typing import Annotated, Any, Unpack

from numpy.typing import ArrayLike

from fastloss import kernels
from fastloss._general import Elementwise
from fastloss._loss import COUNTS, Common, Elsewhere, Interval, Outputs, loss


def _gamma_terms(m: Any, z: Any, y: Any) -> Any:
    g = y * m.exp(-z)
    return m.maximum(m.abs(z), g), m.maximum(1, g), None


@loss(
    Elementwise,
    kernels.gamma_nll,
    target=COUNTS,
    formula=r"z + t e^{-z}",
    naive=lambda m, z, t: z + t * m.exp(-z),
    terms=_gamma_terms,
    sklearn=Elsewhere("HalfGammaLoss"),
)
def gamma_nll_loss(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    r"""Negative log-likelihood of the gamma distribution, of the logarithm z of its mean.

    .. math:: z + t e^{-z}

    Parameters
    ----------
    pred, target : array_like
        Of one shape; float32 or float64, or integers, which count as float64. Targets are not
        negative.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, negative targets (the first is named), dtypes that are not numbers,
        an `out` that does not fit.

    Notes
    -----
    scikit-learn's ``HalfGammaLoss``: half the deviance, up to terms of the target alone.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.gamma_nll_loss([0.0, 0.0], [1.0, 3.0], reduction="none")
    array([1., 3.])
    >>> fl.gamma_nll_loss.grad([0.0, 0.0], [1.0, 3.0], reduction="none")
    array([ 0., -2.])
    """
    return run(pred, target, **common)


def _tweedie(m: Any, z: Any, y: Any, power: Any) -> Any:
    if power == 0:
        return (m.exp(z) - y) ** 2 / 2
    if power == 1:
        return m.exp(z) - y * z
    if power == 2:
        return z + y * m.exp(-z)
    first, second = (m.exp((c - power) * z) / (c - power) for c in (2, 1))
    return first - y * second


def _tweedie_terms(m: Any, z: Any, y: Any, power: Any) -> Any:
    e = m.exp(z)
    if power == 0:
        d = m.maximum(e, y)
        return d**2 / 2, e * d, e * m.maximum(2 * e, y)
    if power == 1:
        return m.maximum(e, m.abs(y * z)), m.maximum(e, y), None
    if power == 2:
        return _gamma_terms(m, z, y)
    c, d = 2 - power, 1 - power
    first, second = m.exp(c * z), y * m.exp(d * z)
    return (
        m.maximum(m.abs(first / c), m.abs(second / d)),
        m.maximum(first, second),
        m.maximum(m.abs(c * first), m.abs(d * second)),
    )


@loss(
    Elementwise,
    kernels.tweedie,
    target=COUNTS,
    formula=r"\frac{e^{(2 - \rho) z}}{2 - \rho} - t \frac{e^{(1 - \rho) z}}{1 - \rho}",
    naive=_tweedie,
    terms=_tweedie_terms,
    sklearn=Elsewhere("HalfTweedieLoss"),
)
def tweedie_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    power: Annotated[float, Interval(1, also=(0,))] = 1.5,
    **common: Unpack[Common],
) -> Outputs:
    r"""Half the Tweedie deviance, of the logarithm z of the mean.

    .. math:: \frac{e^{(2 - \rho) z}}{2 - \rho} - t \frac{e^{(1 - \rho) z}}{1 - \rho}, \quad
              \tfrac12 (e^z - t)^2 \text{ if } \rho = 0, \quad
              e^z - t z \text{ if } \rho = 1, \quad
              z + t e^{-z} \text{ if } \rho = 2

    Parameters
    ----------
    pred, target : array_like
        Of one shape; float32 or float64, or integers, which count as float64. Targets are not
        negative.
    power : float, optional
        The variance is the mean to this power :math:`\rho`: 0 is the normal, 1 the Poisson, 2 the
        gamma, 3 the inverse Gaussian distribution; from 1 to 2, counts of gamma amounts. Between 0
        and 1 there is none.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, negative targets (the first is named), dtypes that are not numbers,
        a power between 0 and 1, an `out` that does not fit.

    Notes
    -----
    B. Jørgensen, Exponential dispersion models, 1987; scikit-learn's ``HalfTweedieLoss``, up to
    terms of the target alone. Those diverge as the power goes to 1 or 2, so the formulas there are
    no limits of the others.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.tweedie_loss([0.0, 0.0], [0.0, 3.0], reduction="none")
    array([2., 8.])
    >>> fl.tweedie_loss([0.0, 0.0], [0.0, 3.0], power=1, reduction="none")
    array([1., 1.])
    """
    return run(pred, target, (power,), **common)
