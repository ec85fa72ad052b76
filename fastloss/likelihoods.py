"""Negative log-likelihoods of a prediction and its scale, with the gradients of both."""

import math
from typing import Any, Unpack

from numpy.typing import ArrayLike

from fastloss import kernels
from fastloss._general import Array, Pairs
from fastloss._loss import (
    COUNTS,
    REAL,
    SCALES,
    Common,
    Elsewhere,
    Flag,
    Gradients,
    NonNegative,
    Positive,
    first_order_loss,
)


def _constant(m: Any, full: Any) -> Any:
    return m.log(2 * math.pi) / 2 if full else 0


def _gaussian(m: Any, z: Any, y: Any, var: Any, full: Any, eps: Any) -> Any:
    v = m.maximum(var, eps)
    return (m.log(v) + (z - y) ** 2 / v) / 2 + _constant(m, full)


def _gaussian_terms(m: Any, z: Any, y: Any, var: Any, full: Any, eps: Any) -> Any:
    v = m.maximum(var, eps)
    q = (z - y) ** 2 / v
    largest = m.maximum(m.maximum(m.abs(m.log(v)), q) / 2, _constant(m, full))
    return largest, (None, None if var < eps else m.maximum(1, q) / (2 * v)), None


@first_order_loss(
    Pairs,
    kernels.gaussian_nll,
    target=COUNTS,
    inputs=("pred", "var"),
    checked="var",
    formula=r"\frac{1}{2} \left(\log v + \frac{e^2}{v}\right)",
    use_when="uncertainty, regression: each sample has a mean and a variance of its own",
    naive=_gaussian,
    terms=_gaussian_terms,
    torch=Elsewhere("gaussian_nll_loss"),
)
def gaussian_nll_loss(
    run: Pairs,
    pred: ArrayLike,
    target: ArrayLike,
    var: ArrayLike,
    *,
    full: Flag = False,
    eps: NonNegative = 1e-6,
    **common: Unpack[Common],
) -> Gradients[tuple[Array, Array]]:
    r"""Negative log-likelihood of the normal distribution, of its mean and variance.

    .. math:: \frac{1}{2} \left(\log v + \frac{(p - t)^2}{v}\right),
              \qquad v = \max(\text{var}, \epsilon)

    Parameters
    ----------
    pred : array_like
        Means, floats, or integers, which count as float64.
    target : array_like
        Real, of pred's shape.
    var : array_like
        Variances, not negative, of pred's shape.
    full : bool, optional
        Add the constant log(2 pi) / 2.
    eps : float, optional
        The least variance: what is below counts as this, and has the gradient 0.
    **common

    Returns
    -------
    (gradient of pred, gradient of var)
        Where gradients are asked for.

    Raises
    ------
    ValueError
        For shapes that differ, a negative variance (the first is named), an `out` that does not
        fit.
    TypeError
        For dtypes that are no real numbers.

    Notes
    -----
    PyTorch's ``gaussian_nll_loss``, which below `eps` passes on the gradient of the variance as if
    it were `eps`; and lets `var` be broadcast. Nix & Weigend, "Estimating the mean and variance of
    the target probability distribution" (1994).

    Examples
    --------
    >>> import fastloss as fl
    >>> loss, (grad, grad_var) = fl.gaussian_nll_loss.value_and_grad([1.0], [3.0], [2.0])
    >>> round(loss, 6), grad, grad_var
    (1.346574, array([-1.]), array([-0.25]))
    """
    return run({"pred": pred, "target": target, "var": var}, (full, eps), **common)


def _with_log_var(m: Any, z: Any, y: Any, log_var: Any, full: Any) -> Any:
    return (log_var + (z - y) ** 2 * m.exp(-log_var)) / 2 + _constant(m, full)


def _with_log_var_terms(m: Any, z: Any, y: Any, log_var: Any, full: Any) -> Any:
    q = (z - y) ** 2 * m.exp(-log_var)
    largest = m.maximum(m.maximum(m.abs(log_var), q) / 2, _constant(m, full))
    return largest, (None, m.maximum(1, q) / 2), None


@first_order_loss(
    Pairs,
    kernels.gaussian_nll_with_log_var,
    target=REAL,
    inputs=("pred", "log_var"),
    checked="log_var",
    formula=r"\frac{1}{2} \left(s + e^2 \mathrm{e}^{-s}\right)",
    use_when="uncertainty, regression: as the Gaussian, of log-variances: nothing to clamp",
    naive=_with_log_var,
    terms=_with_log_var_terms,
)
def gaussian_nll_with_log_var_loss(
    run: Pairs,
    pred: ArrayLike,
    target: ArrayLike,
    log_var: ArrayLike,
    *,
    full: Flag = False,
    **common: Unpack[Common],
) -> Gradients[tuple[Array, Array]]:
    r"""Negative log-likelihood of the normal distribution, of its mean and the log of its variance.

    .. math:: \frac{1}{2} \left(s + (p - t)^2 \, \mathrm{e}^{-s}\right), \qquad s = \log v

    Parameters
    ----------
    pred : array_like
        Means, floats, or integers, which count as float64.
    target : array_like
        Real, of pred's shape.
    log_var : array_like
        Logarithms s of the variances, real, of pred's shape.
    full : bool, optional
        Add the constant log(2 pi) / 2.
    **common

    Returns
    -------
    (gradient of pred, gradient of log_var)
        Where gradients are asked for.

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are no real numbers, an `out` that does not fit.

    Notes
    -----
    What networks are trained with, as it needs no least variance: Kendall & Gal, "What
    Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?" (2017), equation 8.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.gaussian_nll_with_log_var_loss.value_and_grad([1.0], [3.0], [0.0])
    (2.0, (array([-2.]), array([-1.5])))
    """
    return run({"pred": pred, "target": target, "log_var": log_var}, (full,), **common)


def _laplace(m: Any, z: Any, y: Any, scale: Any) -> Any:
    return m.log(2 * scale) + m.abs(z - y) / scale


def _laplace_terms(m: Any, z: Any, y: Any, scale: Any) -> Any:
    r = m.abs(z - y) / scale
    return m.maximum(m.abs(m.log(2 * scale)), r), (None, m.maximum(1, r) / scale), None


@first_order_loss(
    Pairs,
    kernels.laplace_nll,
    target=SCALES,
    inputs=("pred", "scale"),
    checked="scale",
    formula=r"\log 2 b + \frac{|e|}{b}",
    use_when="uncertainty, regression, outliers: a scale for each sample, with heavier tails",
    naive=_laplace,
    terms=_laplace_terms,
)
def laplace_nll_loss(
    run: Pairs, pred: ArrayLike, target: ArrayLike, scale: ArrayLike, **common: Unpack[Common]
) -> Gradients[tuple[Array, Array]]:
    r"""Negative log-likelihood of the Laplace distribution, of its location and scale.

    .. math:: \log 2 b + \frac{|p - t|}{b}

    Parameters
    ----------
    pred : array_like
        Locations, floats, or integers, which count as float64.
    target : array_like
        Real, of pred's shape.
    scale : array_like
        Scales b, positive, of pred's shape.
    **common

    Returns
    -------
    (gradient of pred, gradient of scale)
        Where gradients are asked for.

    Raises
    ------
    ValueError
        For shapes that differ, a scale that is not positive (the first is named), an `out` that
        does not fit.
    TypeError
        For dtypes that are no real numbers.

    Notes
    -----
    ``-torch.distributions.Laplace(pred, scale).log_prob(target)``; `l1_loss` is the scale 1, up to
    a constant.

    Examples
    --------
    >>> import fastloss as fl
    >>> loss, (grad, grad_scale) = fl.laplace_nll_loss.value_and_grad([1.0], [3.0], [0.5])
    >>> loss, grad, grad_scale
    (4.0, array([-2.]), array([-6.]))
    """
    return run({"pred": pred, "target": target, "scale": scale}, **common)


def _student(m: Any, z: Any, y: Any, scale: Any, df: Any) -> Any:
    ratio = m.exp(m.lgamma(df / 2) - m.lgamma((df + 1) / 2))
    constant = m.log(m.sqrt(df * math.pi) * ratio)
    return constant + m.log(scale) + (df + 1) / 2 * m.log(1 + ((z - y) / scale) ** 2 / df)


def _student_terms(m: Any, z: Any, y: Any, scale: Any, df: Any) -> Any:
    square = ((z - y) / scale) ** 2 / df
    largest = m.maximum(m.abs(m.log(scale)), (df + 1) / 2 * m.log(1 + square))
    share = (df + 1) * square / (1 + square)
    return m.maximum(largest, 1), (None, m.maximum(1, share) / scale), None


@first_order_loss(
    Pairs,
    kernels.student_t_nll,
    target=SCALES,
    inputs=("pred", "scale"),
    checked="scale",
    formula=r"\log b + \frac{\nu + 1}{2} \log\left(1 + \frac{e^2}{\nu b^2}\right) + c(\nu)",
    use_when="uncertainty, regression, outliers: a scale for each sample, with the heaviest tails",
    naive=_student,
    terms=_student_terms,
    ulp=(8, 8, 8),
)
def student_t_nll_loss(
    run: Pairs,
    pred: ArrayLike,
    target: ArrayLike,
    scale: ArrayLike,
    *,
    df: Positive = 4.0,
    **common: Unpack[Common],
) -> Gradients[tuple[Array, Array]]:
    r"""Negative log-likelihood of Student's t distribution, of its location and scale.

    .. math:: \log b + \frac{\nu + 1}{2} \log\left(1 + \frac{(p - t)^2}{\nu b^2}\right)
              + \log \frac{\sqrt{\nu \pi} \, \Gamma(\nu / 2)}{\Gamma((\nu + 1) / 2)}

    Parameters
    ----------
    pred : array_like
        Locations, floats, or integers, which count as float64.
    target : array_like
        Real, of pred's shape.
    scale : array_like
        Scales b, positive, of pred's shape.
    df : float
        The degrees of freedom: the fewer, the less an outlier weighs; infinitely many are the
        normal distribution.
    **common

    Returns
    -------
    (gradient of pred, gradient of scale)
        Where gradients are asked for.

    Raises
    ------
    ValueError
        For shapes that differ, a scale that is not positive (the first is named), `df` out of
        range, an `out` that does not fit.
    TypeError
        For dtypes that are no real numbers.

    Notes
    -----
    ``-torch.distributions.StudentT(df, pred, scale).log_prob(target)``. Lange, Little & Taylor,
    "Robust Statistical Modeling Using the t Distribution" (1989).

    Examples
    --------
    >>> import fastloss as fl
    >>> loss, (grad, grad_scale) = fl.student_t_nll_loss.value_and_grad([1.0], [3.0], [1.0], df=4.0)
    >>> round(loss, 6), grad, grad_scale
    (2.713697, array([-1.25]), array([-1.5]))
    """
    return run({"pred": pred, "target": target, "scale": scale}, (df,), **common)
