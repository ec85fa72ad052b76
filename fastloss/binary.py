"""Losses of binary and multi-label classification, from logits and from scores of either sign."""

from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fastloss import _optimum, kernels
from fastloss._general import Elementwise, RowLists, RowMeans
from fastloss._loss import (
    BINARY,
    CHANCES,
    LABEL_LISTS,
    SIGNS,
    UNIT,
    Common,
    Elsewhere,
    Fraction,
    NonNegative,
    Outputs,
    PerClass,
    Positive,
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
    use_when="binary, multi-label, calibration: a probability of yes or no, from logits",
    naive=_bce,
    terms=_bce_terms,
    torch=Elsewhere("binary_cross_entropy_with_logits", {"label_smoothing": None}),
    sklearn=Elsewhere("HalfBinomialLoss", {"pos_weight": None, "label_smoothing": None}),
    link="logit",
    constant=_optimum.log_odds,
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
        Of one shape; floats, or integers, which count as float64. Targets in [0, 1].
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

    The multi-label loss of two samples, summed over their three labels:

    >>> labels = [[1, 0, 0], [1, 1, 0]]
    >>> z = [[2.0, -1.0, -3.0], [0.5, 0.0, -2.0]]
    >>> round(fl.binary_cross_entropy_with_logits(z, labels, reduction="batchmean"), 6)
    0.891465
    """
    return run(pred, target, (label_smoothing,), pos_weight, **common)


@loss(
    Elementwise,
    kernels.binary_cross_entropy,
    pred=UNIT,
    target=UNIT,
    formula=r"-t \log p - (1 - t) \log(1 - p)",
    use_when="binary, multi-label, calibration: there are probabilities already, and no logits",
    naive=lambda m, p, t: (
        -m.where(t > 0, t * m.log(p), 0 * p) - m.where(t < 1, (1 - t) * m.log(1 - p), 0 * p)
    ),
    torch=Elsewhere("binary_cross_entropy"),
    link="identity",
    constant=_optimum.mean,
)
def binary_cross_entropy(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    r"""Binary cross-entropy of probabilities p and targets t, both in [0, 1].

    .. math:: -t \log p - (1 - t) \log(1 - p)

    Where p comes from a logit, `binary_cross_entropy_with_logits` of that loses nothing.

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Of a prediction
        outside [0, 1] the loss is nan; targets in [0, 1].
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets outside [0, 1] (the first is named), dtypes that are not
        numbers, an `out` that does not fit.

    Notes
    -----
    PyTorch's function of the same name, without its clamps: the loss of p = 0 for t = 1 is inf,
    with 0 log 0 = 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> round(fl.binary_cross_entropy([0.5, 0.25], [1, 0]), 6)
    0.490415
    >>> fl.binary_cross_entropy.grad([0.5, 0.25], [1, 0], reduction="none").round(6)
    array([-2.      ,  1.333333])
    """
    return run(pred, target, **common)


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
    use_when="imbalance, binary, multi-label: easy negatives outnumber all else, as in detection",
    naive=_focal,
    terms=_focal_terms,
    ulp=(
        lambda knobs: 6 + 3 * knobs["gamma"],
        lambda knobs: 6 + 3 * knobs["gamma"],
        lambda knobs: 16 + 4 * knobs["gamma"],
    ),
    link="logit",
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
        Of one shape; floats, or integers, which count as float64. Targets are 0 or 1.
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


def _asymmetric(m: Any, z: Any, y: Any, gamma_neg: Any, gamma_pos: Any, clip: Any) -> Any:
    p = 1 / (1 + m.exp(-z))
    q = m.where(p > clip, p - clip, 0 * p + 0.5)
    negative = m.where(p > clip, -(q**gamma_neg) * m.log(1 - q), 0 * p)
    return m.where(y == 1, -((1 - p) ** gamma_pos) * m.log(p), negative)


def _asymmetric_terms(m: Any, z: Any, y: Any, gamma_neg: Any, gamma_pos: Any, clip: Any) -> Any:
    if y == 1 or clip == 0:
        return _focal_terms(m, z, y, gamma_pos if y == 1 else gamma_neg, None)
    p = 1 / (1 + m.exp(-z))
    if p <= clip:
        return None, None, None
    # Next to the clip all is relative to the clip's logit, which z is compared with.
    q, n = p - clip, 1 - p + clip
    lost = m.maximum(1, m.abs(m.log(clip / (1 - clip))) * clip * (1 - p) / q)
    scale, log, v = lost * q**gamma_neg, -m.log(n), p * (1 - p)
    slope, by_power = v / n, gamma_neg * v * log / q
    largest = m.maximum(m.maximum(gamma_neg, 1) * by_power, 2 * gamma_neg * slope) * v / q
    largest = m.maximum(largest, slope * m.maximum((1 - p) ** 2, clip) / n)
    return scale * log, scale * (by_power + slope), scale * m.maximum(largest, by_power)


@loss(
    Elementwise,
    kernels.asymmetric,
    target=BINARY,
    formula=r"-(1 - p)^{\gamma_+} \log p \text{ if } y = 1 \text{ else } "
    r"-p_m^{\gamma_-} \log(1 - p_m), \quad p_m = \max(p - c, 0)",
    use_when="imbalance, multi-label: many labels, few hold, and some that do are not marked",
    naive=_asymmetric,
    terms=_asymmetric_terms,
    ulp=(
        lambda knobs: 6 + 3 * max(knobs["gamma_neg"], knobs["gamma_pos"]),
        lambda knobs: 6 + 3 * max(knobs["gamma_neg"], knobs["gamma_pos"]),
        lambda knobs: 16 + 4 * max(knobs["gamma_neg"], knobs["gamma_pos"]),
    ),
    link="logit",
)
def asymmetric_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    gamma_neg: NonNegative = 4.0,
    gamma_pos: NonNegative = 1.0,
    clip: Fraction = 0.05,
    **common: Unpack[Common],
) -> Outputs:
    r"""Asymmetric loss of logits z and binary targets y, for many labels of which few hold.

    .. math:: -(1 - p)^{\gamma_+} \log p \text{ if } y = 1 \text{ else }
              -p_m^{\gamma_-} \log(1 - p_m), \quad p_m = \max(p - c, 0),\ p = \sigma(z)

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are 0 or 1.
    gamma_neg, gamma_pos : float, optional
        How much easy negatives and easy positives are neglected, as in `sigmoid_focal_loss`.
    clip : float, optional
        The probability c to which a negative costs nothing; 0 with equal gammas is focal loss.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than 0 and 1 (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    T. Ridnik and others, Asymmetric loss for multi-label classification, 2021. Their code sums over
    all, and may leave the derivative of the powers out; this is the whole gradient, as their
    text has it. Not convex: the Hessian may be negative. At p = c all is 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.asymmetric_loss([0.0, 0.0, -4.0], [0, 1, 0], reduction="none").round(6)
    array([0.024515, 0.346574, 0.      ])
    >>> fl.asymmetric_loss.grad([0.0, 0.0, -4.0], [0, 1, 0], reduction="none").round(6)
    array([ 0.073117, -0.423287,  0.      ])
    """
    return run(pred, target, (gamma_neg, gamma_pos, clip), **common)


@loss(
    Elementwise,
    kernels.soft_margin,
    target=SIGNS,
    formula=r"\log(1 + e^{-t s})",
    use_when="binary, calibration: targets are -1 and +1, and probabilities are wanted",
    naive=lambda m, p, t: m.log(1 + m.exp(-t * p)),
    torch=Elsewhere("soft_margin_loss"),
    link="logit",
    constant=_optimum.log_odds_of_signs,
)
def soft_margin_loss(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    r"""Logistic loss of scores s and targets t of -1 or +1.

    .. math:: \log(1 + e^{-t s})

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are -1 or +1.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than -1 and +1 (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    PyTorch's ``soft_margin_loss``; `binary_cross_entropy_with_logits` with targets of -1 for 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> round(fl.soft_margin_loss([0.0, 2.0], [-1, 1]), 6)
    0.410038
    >>> fl.soft_margin_loss.grad([0.0, 0.0], [-1, 1], reduction="sum")
    array([ 0.5, -0.5])
    """
    return run(pred, target, **common)


@loss(
    Elementwise,
    kernels.exponential,
    target=SIGNS,
    formula=r"e^{-t s}",
    use_when="binary, boosting: AdaBoost's own; wrong labels cost exponentially",
    naive=lambda m, p, t: m.exp(-t * p),
    link="half_logit",
    constant=_optimum.half_log_odds_of_signs,
)
def exponential_loss(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    r"""Exponential loss of scores s and targets t of -1 or +1, that of AdaBoost.

    .. math:: e^{-t s}

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are -1 or +1.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than -1 and +1 (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    J. Friedman, T. Hastie and R. Tibshirani, Additive logistic regression, 2000. scikit-learn's
    ``ExponentialLoss`` takes targets of 0 and 1.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.exponential_loss([0.0, 0.0], [-1, 1])
    1.0
    >>> fl.exponential_loss([1.0, 1.0], [-1, 1], reduction="none").round(6)
    array([2.718282, 0.367879])
    """
    return run(pred, target, **common)


@loss(
    Elementwise,
    kernels.hinge,
    target=SIGNS,
    formula=r"\max(0, 1 - t s)",
    use_when="binary, margin: the decision counts, not its probability; sparse support vectors",
    naive=lambda m, p, t: m.where(t * p < 1, 1 - t * p, 0 * p),
    constant=_optimum.least,
)
def hinge_loss(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    r"""Hinge loss of scores s and targets t of -1 or +1, that of support vector machines.

    .. math:: \max(0, 1 - t s)

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are -1 or +1.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than -1 and +1 (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    C. Cortes and V. Vapnik, Support-vector networks, 1995; scikit-learn's metric of the same name
    and ``SGDClassifier(loss="hinge")``. At the kink, t s = 1, the gradient is 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.hinge_loss([0.5, 0.5, 3.0], [-1, 1, 1], reduction="none")
    array([1.5, 0.5, 0. ])
    >>> fl.hinge_loss.grad([0.5, 0.5, 3.0], [-1, 1, 1], reduction="none")
    array([ 1., -1.,  0.])
    """
    return run(pred, target, **common)


@loss(
    Elementwise,
    kernels.squared_hinge,
    target=SIGNS,
    formula=r"\max(0, 1 - t s)^2",
    use_when="binary, margin: as the hinge, but smooth",
    naive=lambda m, p, t: m.where(t * p < 1, (1 - t * p) ** 2, 0 * p),
    constant=_optimum.least,
)
def squared_hinge_loss(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    r"""Squared hinge loss of scores s and targets t of -1 or +1.

    .. math:: \max(0, 1 - t s)^2

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are -1 or +1.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than -1 and +1 (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    scikit-learn's ``SGDClassifier(loss="squared_hinge")``, the default of ``LinearSVC``. At t s = 1
    the Hessian is 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.squared_hinge_loss([0.5, 0.5, 3.0], [-1, 1, 1], reduction="none")
    array([2.25, 0.25, 0.  ])
    """
    return run(pred, target, **common)


@loss(
    Elementwise,
    kernels.modified_huber,
    target=SIGNS,
    formula=r"\max(0, 1 - t s)^2 \text{ if } t s \ge -1 \text{ else } -4 t s",
    use_when="binary, margin, outliers: as the squared hinge, where some labels are wrong",
    naive=lambda m, p, t: m.where(
        t * p < -1, -4 * t * p, m.where(t * p < 1, (1 - t * p) ** 2, 0 * p)
    ),
    constant=_optimum.least,
)
def modified_huber_loss(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    r"""Squared hinge loss that is linear beyond -1, of scores s and targets t of -1 or +1.

    .. math:: \max(0, 1 - t s)^2 \text{ if } t s \ge -1 \text{ else } -4 t s

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are -1 or +1.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than -1 and +1 (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    T. Zhang, Solving large scale linear prediction problems using stochastic gradient descent
    algorithms, 2004; scikit-learn's ``SGDClassifier(loss="modified_huber")``. The Hessian is 2 at
    t s = -1 and 0 at t s = 1.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.modified_huber_loss([3.0, 0.5, 3.0], [-1, 1, 1], reduction="none")
    array([12.  ,  0.25,  0.  ])
    """
    return run(pred, target, **common)


@loss(
    Elementwise,
    kernels.perceptron,
    target=SIGNS,
    formula=r"\max(0, -t s)",
    use_when="binary, margin: only mistakes count, without a margin",
    naive=lambda m, p, t: m.where(t * p < 0, -t * p, 0 * p),
    constant=_optimum.least,
)
def perceptron_loss(
    run: Elementwise, pred: ArrayLike, target: ArrayLike, **common: Unpack[Common]
) -> Outputs:
    r"""The perceptron's loss of scores s and targets t of -1 or +1.

    .. math:: \max(0, -t s)

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are -1 or +1.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than -1 and +1 (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    F. Rosenblatt, The perceptron, 1958; scikit-learn's ``SGDClassifier(loss="perceptron")``. At the
    kink, s = 0, the gradient is 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.perceptron_loss([0.5, 0.5, -3.0], [-1, 1, 1], reduction="none")
    array([0.5, 0. , 3. ])
    """
    return run(pred, target, **common)


@loss(
    Elementwise,
    kernels.hinge_embedding,
    target=SIGNS,
    formula=r"p \text{ if } t = 1 \text{ else } \max(0, m - p)",
    use_when="embedding: distances of pairs, marked as alike or not",
    naive=lambda m, p, t, margin: m.where(t > 0, p, m.where(p < margin, margin - p, 0 * p)),
    torch=Elsewhere("hinge_embedding_loss"),
)
def hinge_embedding_loss(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    margin: Positive = 1.0,
    **common: Unpack[Common],
) -> Outputs:
    r"""Draws pairs together (t = 1) or a margin apart (t = -1), of distances p.

    .. math:: p \text{ if } t = 1 \text{ else } \max(0, m - p)

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets are -1 or +1.
    margin : float, optional
        The distance m at which what should be apart is far enough; positive.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than -1 and +1 (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    PyTorch's ``hinge_embedding_loss``. At the kink, p = m, the gradient is 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.hinge_embedding_loss([0.25, 0.25, 3.0], [1, -1, -1], reduction="none")
    array([0.25, 0.75, 0.  ])
    """
    return run(pred, target, (margin,), **common)


def _multilabel_margin(m: Any, z: Any, labels: Any) -> Any:
    ends = [*(i for i, k in enumerate(labels) if k < 0), len(z)]
    labels = labels[: ends[0]]
    gaps = [np.delete(z, labels) - (z[k] - 1) for k in labels]
    return sum((sum(m.where(gap > 0, gap, 0 * gap)) for gap in gaps), 0 * z[0]) / len(z)


@loss(
    RowLists,
    kernels.multilabel_margin,
    target=LABEL_LISTS,
    formula=r"\frac{1}{K} \sum_{j \in y} \sum_{i \notin y} \max(0, 1 - z_j + z_i)",
    use_when="multi-label, margin: each sample's labels are to be ranked above all other classes",
    naive=_multilabel_margin,
    torch=Elsewhere("multilabel_margin_loss"),
)
def multilabel_margin_loss(
    run: RowLists,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Hinge loss of each label of a sample against each class that is none, over the classes.

    .. math:: \frac{1}{K} \sum_{j \in y} \sum_{i \notin y} \max(0, 1 - z_j + z_i)

    Parameters
    ----------
    pred : array_like
        Scores z, floats, or integers, which count as float64; the K classes on `axis`.
    target : array_like of int
        Of pred's shape: along `axis` the labels y of the sample, ended by the first -1 if they are
        fewer than K. What is behind the end is not read; a label that is twice there counts twice.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, labels out of range (the first is named), dtypes that are not
        numbers, an `out` that does not fit.

    Notes
    -----
    PyTorch's ``multilabel_margin_loss``. At the kinks, z_j = 1 + z_i, the gradient is 0; the
    Hessian is 0. Where there is no pair of a label and another class the loss is 0. The time grows
    with the labels of a sample times the classes; a thread works in three times a row's memory.

    Examples
    --------
    >>> import fastloss as fl
    >>> z, labels = [[0.1, 0.2, 0.4, 0.8], [2.0, 0.0, 0.5, 0.0]], [[3, 0, -1, -1], [0, -1, -1, -1]]
    >>> fl.multilabel_margin_loss(z, labels, reduction="none").round(6)
    array([0.85, 0.  ])
    >>> fl.multilabel_margin_loss.grad(z[:1], labels[:1])
    array([[-0.5,  0.5,  0.5, -0.5]])
    """
    return run(pred, target, axis=axis, **common)


def _multilabel(m: Any, z: Any, y: Any, class_weight: Any) -> Any:
    weight = [1] * len(z) if class_weight is None else class_weight
    terms = zip(weight, z, y, strict=True)
    return sum(w * _bce(m, z_k, y_k, None, 0) for w, z_k, y_k in terms) / len(z)


def _multilabel_terms(m: Any, z: Any, y: Any, class_weight: Any) -> Any:
    weight = [1] * len(z) if class_weight is None else class_weight
    terms = zip(weight, z, y, strict=True)
    grad = [w * _bce_terms(m, z_k, y_k, None, 0)[1] / len(z) for w, z_k, y_k in terms]
    return None, grad, None


@loss(
    RowMeans,
    kernels.multilabel_soft_margin,
    target=CHANCES,
    formula=r"-\frac{1}{K} \sum_k w_k \left(y_k \log \sigma(z_k)"
    r" + (1 - y_k) \log(1 - \sigma(z_k))\right)",
    use_when="multi-label: yes or no for each class, one loss for a sample",
    naive=_multilabel,
    terms=_multilabel_terms,
    torch=Elsewhere("multilabel_soft_margin_loss", {"class_weight": "weight"}),
    link="logit",
)
def multilabel_soft_margin_loss(
    run: RowMeans,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    class_weight: PerClass = None,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Binary cross-entropy of each class of a sample, the mean over the classes being its loss.

    .. math:: -\frac{1}{K} \sum_k w_k \left(y_k \log \sigma(z_k)
              + (1 - y_k) \log(1 - \sigma(z_k))\right)

    Parameters
    ----------
    pred : array_like
        Logits z, floats, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Of pred's shape, in [0, 1]: whether the sample has the label.
    class_weight : array_like, optional
        One weight per class, not negative. It does not enter the mean's denominator.
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
    PyTorch's ``multilabel_soft_margin_loss`` with ``weight=class_weight``.
    `binary_cross_entropy_with_logits` has a loss, a weight and a mask of each class instead of each
    sample.

    Examples
    --------
    >>> import fastloss as fl
    >>> z, labels = [[2.0, -1.0, -3.0], [0.5, 0.0, -2.0]], [[1, 0, 0], [1, 1, 0]]
    >>> fl.multilabel_soft_margin_loss(z, labels, reduction="none").round(6)
    array([0.162926, 0.431384])
    """
    return run(pred, target, class_weight=class_weight, axis=axis, **common)
