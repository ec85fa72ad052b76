"""Counts and amounts: losses of the logarithm of a mean and a target that is not negative."""

import math
from typing import Annotated, Any, Unpack

from numpy.typing import ArrayLike

from fastloss import _optimum, kernels
from fastloss._general import Elementwise
from fastloss._loss import COUNTS, Common, Elsewhere, Flag, Interval, Outputs, Positive, loss


def _poisson(m: Any, z: Any, y: Any, log_input: Any, full: Any, eps: Any) -> Any:
    log_mean = z if log_input else m.log(z + eps)
    value = (m.exp(z) if log_input else z) - m.where(y > 0, y * log_mean, 0 * y)
    if full:
        large = m.maximum(y, 1)
        stirling = large * m.log(large) - large + m.log(2 * math.pi * large) / 2
        value = value + m.where(y > 1, stirling, 0 * y)
    return value


def _poisson_terms(m: Any, z: Any, y: Any, log_input: Any, full: Any, eps: Any) -> Any:
    rest = m.abs(y * m.log(m.maximum(y, 1))) if full else 0
    if log_input:
        e = m.exp(z)
        return m.maximum(m.maximum(e, m.abs(y * z)), rest), m.maximum(e, y), None
    if z + eps <= 0:
        return None, None, None
    each = m.maximum(m.abs(z), m.abs(y * m.log(z + eps)))
    return m.maximum(each, rest), m.maximum(1, y / (z + eps)), None


@loss(
    Elementwise,
    kernels.poisson_nll,
    target=COUNTS,
    formula=r"e^z - t z",
    use_when="counts: events per sample, whose variance is about their mean",
    naive=_poisson,
    terms=_poisson_terms,
    torch=Elsewhere("poisson_nll_loss"),
    sklearn=Elsewhere("HalfPoissonLoss", {"log_input": None, "full": None, "eps": None}),
    link=lambda knobs: "log" if knobs["log_input"] else "identity",
    constant=_optimum.poisson,
)
def poisson_nll_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    log_input: Flag = True,
    full: Flag = False,
    eps: Positive = 1e-8,
    **common: Unpack[Common],
) -> Outputs:
    r"""Negative log-likelihood of the Poisson distribution, of the logarithm z of its mean.

    .. math:: e^z - t z, \quad z - t \log(z + \epsilon) \text{ of the mean itself}

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are not
        negative.
    log_input : bool, optional
        Whether `pred` is the logarithm of the mean; else it is the mean.
    full : bool, optional
        Adds Stirling's approximation t log t - t + log(2 pi t) / 2 of log(t!) where t > 1.
    eps : float, optional
        Added to the mean where `pred` is that; positive.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, negative targets (the first is named), dtypes that are not numbers,
        an `out` that does not fit.

    Notes
    -----
    PyTorch's ``poisson_nll_loss``; scikit-learn's ``HalfPoissonLoss``, half the deviance up to
    terms of the target alone. Where the mean plus eps is negative the loss is nan,
    or that mean for t = 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.poisson_nll_loss([0.0, 1.0], [2.0, 2.0], reduction="none").round(6)
    array([1.      , 0.718282])
    >>> fl.poisson_nll_loss.grad([0.0, 0.0], [1.0, 3.0], reduction="none")
    array([ 0., -2.])
    """
    return run(pred, target, (log_input, full, eps), **common)


def _negative_binomial_terms(m: Any, z: Any, y: Any, alpha: Any) -> Any:
    e = m.exp(z)
    odds = 1 + alpha * e
    return m.maximum((y + 1 / alpha) * m.log(odds), m.abs(y * z)), m.maximum(e, y) / odds, None


@loss(
    Elementwise,
    kernels.negative_binomial_nll,
    target=COUNTS,
    formula=r"(t + 1 / \alpha) \log(1 + \alpha e^z) - t z",
    use_when="counts: their variance is well above their mean",
    naive=lambda m, z, y, alpha: (y + 1 / alpha) * m.log(1 + alpha * m.exp(z)) - y * z,
    terms=_negative_binomial_terms,
    link="log",
    constant=_optimum.log_mean,
)
def negative_binomial_nll_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    alpha: Positive = 1.0,
    **common: Unpack[Common],
) -> Outputs:
    r"""Negative log-likelihood of the negative binomial distribution, of its mean's logarithm z.

    .. math:: (t + 1 / \alpha) \log(1 + \alpha e^z) - t z

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are not
        negative.
    alpha : float, optional
        The dispersion: of mean :math:`\mu` the variance is :math:`\mu + \alpha \mu^2`; positive.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, negative targets (the first is named), dtypes that are not numbers,
        an `out` that does not fit.

    Notes
    -----
    J. M. Hilbe, Negative binomial regression, 2011, whose NB2 it is, up to terms of the target and
    alpha alone; with alpha near 0 the Poisson distribution.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.negative_binomial_nll_loss([0.0, 1.0], [0.0, 2.0], reduction="none").round(6)
    array([0.693147, 1.939785])
    """
    return run(pred, target, (alpha,), **common)


def _gamma_terms(m: Any, z: Any, y: Any) -> Any:
    g = y * m.exp(-z)
    return m.maximum(m.abs(z), g), m.maximum(1, g), None


@loss(
    Elementwise,
    kernels.gamma_nll,
    target=COUNTS,
    formula=r"z + t e^{-z}",
    use_when="amounts: positive, of a constant relative spread, as costs and durations",
    naive=lambda m, z, t: z + t * m.exp(-z),
    terms=_gamma_terms,
    sklearn=Elsewhere("HalfGammaLoss"),
    link="log",
    constant=_optimum.log_mean,
)
def gamma_nll_loss(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    r"""Negative log-likelihood of the gamma distribution, of the logarithm z of its mean.

    .. math:: z + t e^{-z}

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are not
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
    use_when="amounts, counts: many exact zeros and a positive rest, as insurance claims",
    naive=_tweedie,
    terms=_tweedie_terms,
    sklearn=Elsewhere("HalfTweedieLoss"),
    link="log",
    constant=_optimum.log_mean,
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
        Of one shape; floats, or integers, which count as float64. Targets are not
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
