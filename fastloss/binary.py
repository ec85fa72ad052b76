"""Losses of binary and multi-label classification, from logits."""

from __future__ import annotations

from typing import Any, Unpack

from numpy.typing import ArrayLike

from fastloss import kernels
from fastloss._general import Elementwise
from fastloss._loss import (
    BINARY,
    UNIT,
    Common,
    Elsewhere,
    Fraction,
    NonNegative,
    Outputs,
    PerClass,
    loss,
)


def _bce(m: Any, z: Any, y: Any, pos_weight: Any, label_smoothing: Any) -> Any:
    y = y * (1 - label_smoothing) + label_smoothing / 2
    p = 1 / (1 + m.exp(-z))
    return -((1 if pos_weight is None else pos_weight) * y * m.log(p) + (1 - y) * m.log(1 - p))


def _bce_terms(m: Any, z: Any, y: Any, pos_weight: Any, label_smoothing: Any) -> Any:
    # With soft targets the gradient is the difference of these two.
    y = y * (1 - label_smoothing) + label_smoothing / 2
    p = 1 / (1 + m.exp(-z))
    weight = 1 if pos_weight is None else pos_weight
    return None, m.maximum(weight * y * (1 - p), (1 - y) * p), None


@loss(
    Elementwise,
    kernels.binary_cross_entropy_with_logits,
    target=UNIT,
    formula=r"-w y \log \sigma(z) - (1 - y) \log(1 - \sigma(z))",
    naive=_bce,
    terms=_bce_terms,
    torch=Elsewhere("binary_cross_entropy_with_logits", {"label_smoothing": None}),
    sklearn=Elsewhere("HalfBinomialLoss", {"pos_weight": None, "label_smoothing": None}),
)
def binary_cross_entropy_with_logits(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    pos_weight: PerClass = None,
    label_smoothing: Fraction = 0.0,
    **common: Unpack[Common],
) -> Outputs:
    r"""Binary cross-entropy of logits z and targets y in [0, 1].

    .. math:: -w y \log \sigma(z) - (1 - y) \log(1 - \sigma(z))

    With ``reduction="batchmean"`` on (n, classes) it is multi-label cross-entropy.

    Parameters
    ----------
    pred, target : array_like
        Of one shape; float32 or float64, or integers, which count as float64. Targets in [0, 1].
    pos_weight : float or array_like, optional
        The weight w of the positive part, not negative: a number, or one per column of the last
        axis.
    label_smoothing : float, optional
        Draws targets to 1/2: y becomes y (1 - s) + s / 2.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets outside [0, 1] (the first is named), dtypes that are not
        numbers, an `out` that does not fit.

    Notes
    -----
    PyTorch's function of the same name, whose `weight` is `sample_weight` here; scikit-learn's
    ``HalfBinomialLoss``. Computed as w y softplus(-z) + (1 - y) softplus(z), which loses nothing
    at either end.

    Examples
    --------
    >>> import fastloss as fl
    >>> round(fl.binary_cross_entropy_with_logits([0.0, 2.0], [0.0, 1.0]), 6)
    0.410038
    >>> fl.binary_cross_entropy_with_logits.grad([0.0, 0.0], [0.0, 1.0], reduction="sum")
    array([ 0.5, -0.5])
    """
    return run(pred, target, (label_smoothing,), pos_weight, **common)


def _focal(m: Any, z: Any, y: Any, gamma: Any, alpha: Any) -> Any:
    p = 1 / (1 + m.exp(-z))
    p_y = p * y + (1 - p) * (1 - y)
    weight = 1 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    return -weight * (1 - p_y) ** gamma * m.log(p_y)


def _focal_terms(m: Any, z: Any, y: Any, gamma: Any, alpha: Any) -> Any:
    p = 1 / (1 + m.exp(-z))
    p_y = p * y + (1 - p) * (1 - y)
    q, log_p = 1 - p_y, -m.log(p_y)
    weight = 1 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    scale = weight * q**gamma * p_y
    largest = m.maximum(gamma * gamma * p_y * log_p, gamma * q * log_p)
    return None, None, scale * m.maximum(largest, (2 * gamma + 1) * q)


@loss(
    Elementwise,
    kernels.sigmoid_focal_loss,
    target=BINARY,
    formula=r"-\alpha_y (1 - p_y)^\gamma \log p_y",
    naive=_focal,
    terms=_focal_terms,
    ulp=(
        lambda knobs: 6 + 3 * knobs["gamma"],
        lambda knobs: 6 + 3 * knobs["gamma"],
        lambda knobs: 16 + 4 * knobs["gamma"],
    ),
)
def sigmoid_focal_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    gamma: NonNegative = 2.0,
    alpha: Fraction | None = 0.25,
    **common: Unpack[Common],
) -> Outputs:
    r"""Focal loss of logits z and binary targets y: cross-entropy that neglects easy samples.

    .. math:: -\alpha_y (1 - p_y)^\gamma \log p_y, \quad
              p_1 = \sigma(z),\ p_0 = 1 - p_1,\ \alpha_1 = \alpha,\ \alpha_0 = 1 - \alpha

    Parameters
    ----------
    pred, target : array_like
        Of one shape; float32 or float64, or integers, which count as float64. Targets are 0 or 1.
    gamma : float, optional
        How much easy samples are neglected; 0 is cross-entropy.
    alpha : float or None, optional
        The weight of the positive class, 1 - alpha being the negative's; None weighs neither.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than 0 and 1 (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    T.-Y. Lin and others, Focal loss for dense object detection, 2017; torchvision's function of
    the same name, which reduces by "none". Not convex: the Hessian may be negative.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.sigmoid_focal_loss([0.0, 0.0], [0, 1], reduction="none").round(6)
    array([0.129965, 0.043322])
    """
    return run(pred, target, (gamma, alpha), **common)
