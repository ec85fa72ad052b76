"""Losses of real predictions and real targets."""

import math
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fastloss import _optimum, kernels
from fastloss._general import Array, Elementwise, Quantiles, Set, narrowed, unrounded
from fastloss._loss import (
    REAL,
    Common,
    Domain,
    Elsewhere,
    Fraction,
    Gradients,
    Levels,
    NonNegative,
    Outputs,
    Positive,
    first_order_loss,
    loss,
    named,
)


@loss(
    Elementwise,
    kernels.mse,
    target=REAL,
    formula=r"(p - t)^2",
    use_when="regression: the mean is wanted, and residuals are about normal; the default",
    naive=lambda m, p, t: (p - t) ** 2,
    torch=Elsewhere("mse_loss"),
    sklearn=Elsewhere("HalfSquaredError", factor=0.5),
    link="identity",
    constant=_optimum.mean,
)
def mse_loss(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    """Squared error, the mean squared error when reduced.

    .. math:: (p - t)^2

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
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
    use_when="regression, outliers: as the square, but some targets are far off",
    naive=lambda m, p, t, delta: m.where(
        m.abs(p - t) <= delta, (p - t) ** 2 / 2, delta * (m.abs(p - t) - delta / 2)
    ),
    torch=Elsewhere("huber_loss"),
    sklearn=Elsewhere("HuberLoss"),
    link="identity",
    constant=_optimum.least,
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
        Of one shape; floats, or integers, which count as float64.
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


@loss(
    Elementwise,
    kernels.half_mse,
    target=REAL,
    formula=r"\tfrac12 (p - t)^2",
    use_when="regression, boosting: as the square, with the residual itself as gradient",
    naive=lambda m, p, t: (p - t) ** 2 / 2,
    sklearn=Elsewhere("HalfSquaredError"),
    link="identity",
    constant=_optimum.mean,
)
def half_mse_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    **common: Unpack[Common],
) -> Outputs:
    r"""Half the squared error, whose gradient is the residual.

    .. math:: \tfrac12 (p - t)^2

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    scikit-learn's ``HalfSquaredError``. At a Hessian of 1 a booster's leaf weights count samples.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.half_mse_loss.value_and_grad([1.0, 2.0], [1.0, 4.0], reduction="sum")
    (2.0, array([ 0., -2.]))
    """
    return run(pred, target, **common)


@loss(
    Elementwise,
    kernels.l1,
    target=REAL,
    formula=r"|p - t|",
    use_when="regression, outliers: the median is wanted",
    naive=lambda m, p, t: m.abs(p - t),
    torch=Elsewhere("l1_loss"),
    sklearn=Elsewhere("AbsoluteError"),
    link="identity",
    constant=_optimum.median,
)
def l1_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    **common: Unpack[Common],
) -> Outputs:
    r"""Absolute error, the mean absolute error when reduced.

    .. math:: |p - t|

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    PyTorch's ``l1_loss``; scikit-learn's ``AbsoluteError``. The gradient at 0 is 0, the Hessian 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.l1_loss([1.0, 2.0], [1.0, 4.0])
    1.0
    >>> fl.l1_loss.grad([1.0, 2.0], [1.0, 4.0], reduction="sum")
    array([ 0., -1.])
    """
    return run(pred, target, **common)


def _smooth_l1(m: Any, p: Any, t: Any, beta: Any) -> Any:
    e = m.abs(p - t)
    return m.where(e < beta, (p - t) ** 2 / (2 * m.where(beta > 0, beta, 1)), e - beta / 2)


@loss(
    Elementwise,
    kernels.smooth_l1,
    target=REAL,
    formula=r"\tfrac{1}{2 \beta} e^2 \text{ if } |e| < \beta \text{ else } |e| - \tfrac12 \beta",
    use_when="regression, outliers: Huber's at the scale of the absolute error, as for boxes",
    naive=_smooth_l1,
    torch=Elsewhere("smooth_l1_loss"),
    link="identity",
    constant=_optimum.least,
)
def smooth_l1_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    beta: NonNegative = 1.0,
    **common: Unpack[Common],
) -> Outputs:
    r"""Absolute error that is quadratic near zero: Huber's loss over its delta.

    .. math:: \tfrac{1}{2 \beta} e^2 \text{ if } |e| < \beta
              \text{ else } |e| - \tfrac12 \beta, \quad e = p - t

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    beta : float, optional
        Where the loss turns linear, in the units of `pred`; 0 is the absolute error.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    R. Girshick, Fast R-CNN, 2015; PyTorch's ``smooth_l1_loss``. At abs(e) = beta the Hessian is 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.smooth_l1_loss([0.5, 3.0], [0.0, 0.0], reduction="none")
    array([0.125, 2.5  ])
    """
    return run(pred, target, (beta,), **common)


@loss(
    Elementwise,
    kernels.pseudo_huber,
    target=REAL,
    formula=r"\delta^2 (\sqrt{1 + (e / \delta)^2} - 1), \quad e = p - t",
    use_when="regression, outliers, boosting: as Huber's, with a Hessian that is nowhere 0",
    naive=lambda m, p, t, delta: delta**2 * (m.sqrt(1 + ((p - t) / delta) ** 2) - 1),
    ulp=(6, 4, 12),
    link="identity",
    constant=_optimum.least,
)
def pseudo_huber_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    delta: Positive = 1.0,
    **common: Unpack[Common],
) -> Outputs:
    r"""A smooth Huber loss: quadratic near zero, of slope `delta` far away.

    .. math:: \delta^2 (\sqrt{1 + (e / \delta)^2} - 1), \quad e = p - t

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    delta : float, optional
        The slope far away, in the units of `pred`; positive.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    R. Hartley and A. Zisserman, Multiple View Geometry in Computer Vision, 2003; XGBoost's
    ``reg:pseudohubererror``. All derivatives are continuous.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.pseudo_huber_loss([0.0, 0.75], [0.0, 0.0], reduction="none")
    array([0.  , 0.25])
    >>> fl.pseudo_huber_loss.grad([0.0, 0.75], [0.0, 0.0], reduction="sum")
    array([0. , 0.6])
    """
    return run(pred, target, (delta,), **common)


@loss(
    Elementwise,
    kernels.charbonnier,
    target=REAL,
    formula=r"\sqrt{e^2 + \epsilon^2}, \quad e = p - t",
    use_when="regression, outliers, images: as the absolute error, but smooth at 0",
    naive=lambda m, p, t, eps: m.sqrt((p - t) ** 2 + eps**2),
    ulp=(6, 4, 12),
    link="identity",
    constant=_optimum.least,
)
def charbonnier_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    eps: Positive = 1e-3,
    **common: Unpack[Common],
) -> Outputs:
    r"""Absolute error that is smooth at zero, where it is `eps`.

    .. math:: \sqrt{e^2 + \epsilon^2}, \quad e = p - t

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    eps : float, optional
        The width of the smooth part, in the units of `pred`; positive.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    P. Charbonnier and others, Two deterministic half-quadratic regularization algorithms for
    computed imaging, 1994.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.charbonnier_loss([0.0, 3.0], [0.0, 0.0], eps=4.0, reduction="none")
    array([4., 5.])
    """
    return run(pred, target, (eps,), **common)


@loss(
    Elementwise,
    kernels.log_cosh,
    target=REAL,
    formula=r"\log \cosh(p - t)",
    use_when="regression, outliers, boosting: as Huber's, without a knob and smooth",
    naive=lambda m, p, t: m.log((m.exp(p - t) + m.exp(t - p)) / 2),
    ulp=(4, 4, 6),
    link="identity",
    constant=_optimum.least,
)
def log_cosh_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    **common: Unpack[Common],
) -> Outputs:
    r"""Logarithm of the hyperbolic cosine: half the square near zero, abs(e) - log 2 far away.

    .. math:: \log \cosh(p - t)

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    Keras' ``LogCosh``. Right to the last digits for every residual: those of 1e-150 too cost half
    their square.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.log_cosh_loss([0.0, 1.0], [0.0, 0.0], reduction="none").round(6)
    array([0.      , 0.433781])
    """
    return run(pred, target, **common)


def _fair(m: Any, p: Any, t: Any, c: Any) -> Any:
    a = m.where(p > t, p - t, t - p) / c  # abs, but smooth at 0 from one side
    return c**2 * (a - m.log(1 + a))


@loss(
    Elementwise,
    kernels.fair,
    target=REAL,
    formula=r"c^2 (|e| / c - \log(1 + |e| / c)), \quad e = p - t",
    use_when="regression, outliers: far residuals hardly weigh more than near ones",
    naive=_fair,
    ulp=(4, 4, 8),
    link="identity",
    constant=_optimum.least,
)
def fair_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    c: Positive = 1.0,
    **common: Unpack[Common],
) -> Outputs:
    r"""Fair's robust loss: quadratic near zero, almost linear far away, smooth.

    .. math:: c^2 (|e| / c - \log(1 + |e| / c)), \quad e = p - t

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    c : float, optional
        Where the gradient is half of its limit c, in the units of `pred`; positive.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    R. C. Fair, On the robust estimation of econometric models, 1974; LightGBM's ``fair``.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.fair_loss([0.0, 1.0], [0.0, 0.0], reduction="none").round(6)
    array([0.      , 0.306853])
    >>> fl.fair_loss.grad([0.0, 1.0], [0.0, 0.0], reduction="sum")
    array([0. , 0.5])
    """
    return run(pred, target, (c,), **common)


def _cauchy_terms(m: Any, p: Any, t: Any, c: Any) -> Any:
    square = ((p - t) / c) ** 2
    return None, None, m.maximum(1, square) / (1 + square) ** 2


@loss(
    Elementwise,
    kernels.cauchy,
    target=REAL,
    formula=r"\tfrac12 c^2 \log(1 + (e / c)^2), \quad e = p - t",
    use_when="regression, outliers: gross errors are to be ignored nearly altogether",
    naive=lambda m, p, t, c: c**2 / 2 * m.log(1 + ((p - t) / c) ** 2),
    terms=_cauchy_terms,
    ulp=(8, 4, 4),
    link="identity",
)
def cauchy_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    c: Positive = 1.0,
    **common: Unpack[Common],
) -> Outputs:
    r"""Cauchy's robust loss, whose gradient falls off again: far residuals hardly count.

    .. math:: \tfrac12 c^2 \log(1 + (e / c)^2), \quad e = p - t

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    c : float, optional
        Where the gradient is largest, in the units of `pred`; positive.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    M. J. Black and P. Anandan, The robust estimation of multiple motions, 1996, there Lorentzian.
    Not convex: beyond abs(e) = c the Hessian is negative.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.cauchy_loss([0.0, 1.0], [0.0, 0.0], reduction="none").round(6)
    array([0.      , 0.346574])
    >>> fl.cauchy_loss.grad([0.0, 1.0, 9.0], [0.0, 0.0, 0.0], reduction="sum").round(6)
    array([0.      , 0.5     , 0.109756])
    """
    return run(pred, target, (c,), **common)


@loss(
    Elementwise,
    kernels.quantile,
    target=REAL,
    formula=r"\max(q (t - p), (q - 1)(t - p))",
    use_when="regression, quantiles, uncertainty: over- and underestimates cost differently",
    naive=lambda m, p, t, q: m.abs(p - t) * m.where(p > t, 1 - q, q),
    sklearn=Elsewhere("PinballLoss", {"q": None}),  # which refuses 0 and 1,
    link="identity",
    constant=_optimum.quantile,
)
def quantile_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    q: Fraction = 0.5,
    **common: Unpack[Common],
) -> Outputs:
    r"""The pinball loss, whose minimum is the quantile `q`.

    .. math:: \max(q (t - p), (q - 1)(t - p))

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    q : float, optional
        The quantile: the weight of predictions that are too low, 1 - q being that of the others.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    R. Koenker and G. Bassett, Regression quantiles, 1978; scikit-learn's ``PinballLoss`` and
    ``mean_pinball_loss``. The gradient at 0 is 0, the Hessian 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.quantile_loss([0.0, 2.0], [1.0, 1.0], q=0.75, reduction="none")
    array([0.75, 0.25])
    """
    return run(pred, target, (q,), **common)


@loss(
    Quantiles,
    kernels.multi_quantile,
    target=REAL,
    formula=r"\max(q_k (t - p_k), (q_k - 1)(t - p_k))",
    use_when="regression, quantiles, uncertainty: several quantiles at once, as an interval",
    naive=lambda m, p, t, q: m.abs(p - t) * m.where(p > t, 1 - q, q),
    link="identity",
    constant=_optimum.quantiles,
)
def multi_quantile_loss(
    run: Quantiles,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    q: Levels = 0.5,
    **common: Unpack[Common],
) -> Outputs:
    r"""The pinball loss of several quantiles of each target, the mean over all of them.

    .. math:: \max(q_k (t - p_k), (q_k - 1)(t - p_k))

    Parameters
    ----------
    pred : array_like
        Of shape (..., Q), a prediction per quantile; floats, or integers, which count
        as float64.
    target : array_like
        Of shape (...), one for Q predictions.
    q : array_like
        The Q quantiles, in [0, 1]. With a single number, as by default, this is `quantile_loss`,
        and `target` is of `pred`'s shape.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, quantiles outside [0, 1] (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    A sample is one prediction: with ``reduction="none"`` losses have the shape of `pred`, and a
    `sample_weight` of shape (n,) weighs the rows. Nothing keeps the quantiles from crossing.

    Examples
    --------
    >>> import fastloss as fl
    >>> pred, target = [[0.0, 1.0, 2.0], [1.0, 1.5, 3.0]], [1.0, 3.0]
    >>> fl.multi_quantile_loss(pred, target, q=[0.25, 0.5, 0.75], reduction="none")
    array([[0.25, 0.  , 0.25],
           [0.5 , 0.75, 0.  ]])
    >>> forecast = fl.multi_quantile_loss.bind(q=[0.25, 0.5, 0.75], reduction="sum")
    >>> forecast.grad(pred, target)
    array([[-0.25,  0.  ,  0.25],
           [-0.25, -0.5 ,  0.  ]])
    """
    return run(pred, target, (), q, **common)


@loss(
    Elementwise,
    kernels.expectile,
    target=REAL,
    formula=r"|\tau - [t < p]| (p - t)^2",
    use_when="regression, quantiles: as a quantile, but smooth and heedful of how far off",
    naive=lambda m, p, t, tau: m.where(p > t, 1 - tau, tau) * (p - t) ** 2,
    link="identity",
    constant=_optimum.least,
)
def expectile_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    tau: Fraction = 0.5,
    **common: Unpack[Common],
) -> Outputs:
    r"""Asymmetric squared error, whose minimum is the expectile `tau`.

    .. math:: |\tau - [t < p]| (p - t)^2

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    tau : float, optional
        The weight of predictions that are too low, 1 - tau being that of the others.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    W. K. Newey and J. L. Powell, Asymmetric least squares estimation and testing, 1987. At 0 the
    Hessian is 2 tau.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.expectile_loss([0.0, 2.0], [1.0, 1.0], tau=0.75, reduction="none")
    array([0.75, 0.25])
    """
    return run(pred, target, (tau,), **common)


@loss(
    Elementwise,
    kernels.epsilon_insensitive,
    target=REAL,
    formula=r"\max(0, |p - t| - \epsilon)",
    use_when="regression, margin, outliers: small errors do not matter at all",
    naive=lambda m, p, t, epsilon: m.maximum(0, m.abs(p - t) - epsilon),
    link="identity",
    constant=_optimum.least,
)
def epsilon_insensitive_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    epsilon: NonNegative = 0.1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Absolute error beyond `epsilon`, as in support vector regression.

    .. math:: \max(0, |p - t| - \epsilon)

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    epsilon : float, optional
        The residual that costs nothing, in the units of `pred`.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    V. Vapnik, The nature of statistical learning theory, 1995; scikit-learn's loss of that name in
    ``SGDRegressor`` and ``LinearSVR``.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.epsilon_insensitive_loss([0.25, 2.0], [0.0, 0.0], epsilon=0.5, reduction="none")
    array([0. , 1.5])
    """
    return run(pred, target, (epsilon,), **common)


@loss(
    Elementwise,
    kernels.squared_epsilon_insensitive,
    target=REAL,
    formula=r"\max(0, |p - t| - \epsilon)^2",
    use_when="regression, margin: small errors do not matter, large ones do all the more",
    naive=lambda m, p, t, epsilon: m.maximum(0, m.abs(p - t) - epsilon) ** 2,
    link="identity",
    constant=_optimum.least,
)
def squared_epsilon_insensitive_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    epsilon: NonNegative = 0.1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Squared error beyond `epsilon`.

    .. math:: \max(0, |p - t| - \epsilon)^2

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    epsilon : float, optional
        The residual that costs nothing, in the units of `pred`.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    scikit-learn's loss of that name in ``SGDRegressor`` and ``LinearSVR``. At abs(e) = epsilon the
    Hessian is 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.squared_epsilon_insensitive_loss([0.25, 2.0], [0.0, 0.0], epsilon=0.5, reduction="none")
    array([0.  , 2.25])
    """
    return run(pred, target, (epsilon,), **common)


@loss(
    Elementwise,
    kernels.squared_log_error,
    pred=Domain(-1, open=True),
    target=Domain(-1, open=True),
    formula=r"(\log(1 + p) - \log(1 + t))^2",
    use_when="regression, amounts, counts: ratios matter, as from 1 to 2 so from 100 to 200",
    naive=lambda m, p, t: (m.log(1 + p) - m.log(1 + t)) ** 2,
    terms=lambda m, p, t: (
        None,
        None,
        2 * m.maximum(1, m.abs(m.log(1 + p) - m.log(1 + t))) / (1 + p) ** 2,
    ),
    ulp=(8, 8, 8),
    link="identity",
    constant=_optimum.mean_of_logs,
)
def squared_log_error_loss(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    r"""Squared error of log(1 + p): about the squared ratio, of amounts and counts.

    .. math:: (\log(1 + p) - \log(1 + t))^2

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are above -1;
        of a prediction below -1 the loss is nan, of -1 inf.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets not above -1 (the first is named), dtypes that are not
        numbers, an `out` that does not fit.

    Notes
    -----
    scikit-learn's ``mean_squared_log_error``, which wants predictions above -1 too. Targets are
    compared with -1 in the dtype of `pred`. Not convex: the Hessian is negative where 1 + p is more
    than e times 1 + t.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.squared_log_error_loss([0.0, 9.0], [0.0, 99.0], reduction="none").round(6)
    array([0.      , 5.301898])
    >>> fl.squared_log_error_loss.grad([0.0, 9.0], [0.0, 99.0], reduction="none").round(6)
    array([ 0.      , -0.460517])
    """
    return run(pred, target, **common)


@loss(
    Elementwise,
    kernels.absolute_percentage_error,
    target=REAL,
    formula=r"|p - t| / \max(|t|, f)",
    use_when="regression, amounts: errors are reported in percent; it favours low predictions",
    naive=lambda m, p, t, floor: m.abs(p - t) / m.maximum(m.abs(t), floor),
    link="identity",
    constant=_optimum.least,
)
def absolute_percentage_error_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    floor: Positive = 2.0**-52,
    **common: Unpack[Common],
) -> Outputs:
    r"""Absolute error relative to the target, as a fraction: not times 100.

    .. math:: |p - t| / \max(|t|, f)

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    floor : float, optional
        The least f that an error is divided by, for targets near 0; positive.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    scikit-learn's ``mean_absolute_percentage_error``, with its floor. The gradient at 0 is 0, the
    Hessian 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.absolute_percentage_error_loss([1.5, 1.0], [1.0, 4.0], reduction="none")
    array([0.5 , 0.75])
    """
    return run(pred, target, (floor,), **common)


class Weighted(TypedDict, total=False):
    """The keyword arguments of a loss that is always the mean."""

    sample_weight: ArrayLike | None
    mask: ArrayLike | None
    out: Array | tuple[Array | None, ...] | None
    num_threads: int | None


_SQUARES = named(mse_loss, "rmse_loss")


@first_order_loss(
    Set,
    formula=r"\sqrt{\sum w (p - t)^2 / \sum w}",
    use_when="regression: the square, in the units of the target",
    naive=lambda m, p, t, sample_weight=1: m.sqrt(
        (sample_weight * (p - t) ** 2).sum() / (sample_weight * m.ones_like(p)).sum()
    ),
)
def rmse_loss(
    run: Set, pred: ArrayLike, target: ArrayLike, **common: Unpack[Weighted]
) -> Gradients[Array]:
    r"""Root of the mean of the squared errors, in the units of `pred`.

    .. math:: \sqrt{\sum w (p - t)^2 / \sum w}

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    sample_weight : array_like, optional
        The w: a scalar, or of the shape of pred's leading axes, or of as many axes with 1s. A
        weight of 0 is a mask.
    mask : array_like of bool, optional
        True is kept, shaped like a weight. What is masked is neither read nor checked and
        contributes exact zeros.
    out : ndarray or tuple, optional
        The gradient's array, or a tuple of one entry per result. May be `pred` itself.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    scikit-learn's ``root_mean_squared_error`` of one output. It is the root of all samples' mean,
    so there is no `reduction` and no Hessian of single samples. At 0 the gradient is 0. The squares
    are of pred's dtype: beyond an error of 1.8e19 in float32, 1.3e154 in float64, the loss is inf,
    and errors below 1e-19 and 1e-154 count as 0. Where the loss is not finite, the gradient is 0
    where the error is 0, else e / (n l) as far as that is a number. Weights that make the mean of
    the squares negative give nan.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.rmse_loss.value_and_grad([3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    (2.5, array([0.3, 0.4, 0. , 0. ]))
    """
    options = run.common(common)
    (given,) = run.slots(common.get("out"), 1, several=False)
    mean = _SQUARES(pred, target, **options)
    value = math.sqrt(mean) if mean >= 0 else math.nan
    if "g" not in run.results:
        return run(value, None)
    count = _SQUARES.normalizer(pred, target, **options)
    divisor = 2 * count * value
    if 0 < divisor < math.inf:
        return run(value, _SQUARES.grad(pred, target, normalizer=divisor, out=given, **options))
    z = run.array("pred", pred)
    wide = unrounded(z, given)
    grad = _SQUARES.grad(z, target, reduction="sum", out=wide, **options)
    if divisor == 0 or count == 0:
        grad[...] = 0
    else:
        with np.errstate(all="ignore"):
            np.divide(grad, divisor, out=grad, where=grad != 0)
    return run(value, narrowed(grad, z, given))
