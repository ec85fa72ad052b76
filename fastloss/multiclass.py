"""Losses of one class out of several, from a row of scores or of probabilities."""

from typing import Annotated, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fastloss import _optimum, kernels
from fastloss._general import RowMargins, RowRival, Rows, RowTerms
from fastloss._loss import (
    CLASSES,
    LABELS,
    UNIT,
    ClassMask,
    Common,
    Elsewhere,
    Fraction,
    Interval,
    NonNegative,
    Outputs,
    PerClass,
    Positive,
    Temperature,
    loss,
)


def _masses(
    kept: list[int], target: Any, class_weight: Any, label_smoothing: Any
) -> dict[int, Any]:
    if np.ndim(target) == 0:
        target = {j: 1 if j == target else 0 for j in kept}
    spread = label_smoothing / len(kept)
    masses = {j: target[j] * (1 - label_smoothing) + spread for j in kept}
    return masses if class_weight is None else {j: class_weight[j] * masses[j] for j in kept}


def _kept(z: Any, class_mask: Any) -> list[int]:
    return [k for k in range(len(z)) if class_mask is None or class_mask[k]]


def _cap(m: Any, z: Any, softcap: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """The capped logits c tanh(z / c), and their first and second derivatives."""
    if softcap is None:
        return list(z), [1] * len(z), [0] * len(z)
    e = [m.exp(2 * z_k / softcap) for z_k in z]
    tanh = [1 - 2 / (e_k + 1) for e_k in e]
    slope = [4 / (e_k + 2 + 1 / e_k) for e_k in e]
    bend = [-2 * t * s / softcap for t, s in zip(tanh, slope, strict=True)]
    return [softcap * t for t in tanh], slope, bend


def _cross_entropy(
    m: Any,
    z: Any,
    target: Any,
    class_weight: Any,
    label_smoothing: Any,
    temperature: Any,
    z_loss: Any,
    softcap: Any,
    class_mask: Any,
) -> Any:
    z, _, _ = _cap(m, z, softcap)
    kept = _kept(z, class_mask)
    mass = _masses(kept, target, class_weight, label_smoothing)
    total = m.log(sum(m.exp(z[k] / temperature) for k in kept))
    loss = sum(mass[k] * (total - z[k] / temperature) for k in kept)
    return loss + z_loss * total * total * sum(mass.values())


def _cross_entropy_terms(
    m: Any,
    z: Any,
    target: Any,
    class_weight: Any,
    label_smoothing: Any,
    temperature: Any,
    z_loss: Any,
    softcap: Any,
    class_mask: Any,
) -> Any:
    # With soft or smoothed targets the gradient is the difference of the mass's share and the mass.
    # The logarithm of the sum is known to the last digit of the largest logit. Through a cap the
    # Hessian is a sum.
    plain = np.ndim(target) == 0 and label_smoothing == 0 and z_loss == 0
    if plain and softcap is None:
        return None, None, None
    z, slope, bend = _cap(m, z, softcap)
    kept = _kept(z, class_mask)
    mass = _masses(kept, target, class_weight, label_smoothing)
    e = {k: m.exp(z[k] / temperature) for k in kept}
    total, all_mass = sum(e.values()), sum(mass.values())
    largest = max(abs(z[k]) for k in kept) / temperature + 1
    log_total = abs(m.log(total))
    first = all_mass * max(1, 2 * z_loss * largest, 2 * z_loss * log_total)
    grad, hess = [], []
    for k in range(len(z)):
        p = e[k] / total if k in e else 0 * total
        of_k = max(mass.get(k, 0), p * first) / temperature
        if plain:
            of_k = abs(p * all_mass - mass.get(k, 0)) / temperature
        second = max(first * p * (1 - p), 2 * z_loss * all_mass * p * p) / temperature**2
        grad.append(of_k * slope[k])
        hess.append(max(second * slope[k] ** 2, of_k * abs(bend[k])))
    if z_loss == 0:
        return None, grad, None if softcap is None else hess
    return z_loss * all_mass * log_total * largest, grad, hess


@loss(
    Rows,
    kernels.cross_entropy,
    target=CLASSES,
    formula=r"\log \sum_k e^{z_k} - z_y",
    use_when="multi-class, calibration, distillation: one class out of several, from logits",
    naive=_cross_entropy,
    terms=_cross_entropy_terms,
    torch=Elsewhere(
        "cross_entropy",
        {
            "class_weight": "weight",
            **dict.fromkeys(("temperature", "z_loss", "softcap", "class_mask")),
        },
    ),
    sklearn=Elsewhere(
        "HalfMultinomialLoss",
        dict.fromkeys(
            ("class_weight", "label_smoothing", "temperature", "z_loss", "softcap", "class_mask")
        ),
    ),
    link="multilogit",
    constant=_optimum.log_frequencies,
)
def cross_entropy(
    run: Rows,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    class_weight: PerClass = None,
    label_smoothing: Fraction = 0.0,
    temperature: Temperature = 1.0,
    z_loss: NonNegative = 0.0,
    softcap: Positive | None = None,
    class_mask: ClassMask = None,
    ignore_index: int | None = None,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Softmax cross-entropy of rows of logits z and labels y, or class probabilities t.

    .. math:: w_y \left(\log \sum_k e^{z_k} - z_y\right) \quad\text{or}\quad
              \sum_j w_j t_j \left(\log \sum_k e^{z_k} - z_j\right)

    Parameters
    ----------
    pred : array_like
        Logits, floats, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Integer labels of any dtype, of pred's shape without `axis`; or probabilities (or one-hot,
        of any dtype) of pred's shape, in [0, 1]; that they sum to 1 is not checked.
    class_weight : array_like, optional
        One weight per class, not negative. For labels it enters the mean's denominator.
    label_smoothing : float, optional
        The share s of each target that is spread evenly: t becomes t (1 - s) + s / K.
    temperature : float, optional
        What divides the logits (from 1e-12 to 1e12), after `softcap` and before everything else.
        The gradient is that in `pred`.
    z_loss : float, optional
        Adds this times the square of log sum exp, which keeps that near 0. It is weighed like the
        sample's loss, by class weights too.
    softcap : float, optional
        c, which bounds the logits: z becomes c tanh(z / c) at first. Their rounding is one of
        numbers as large as c: what is promised to 4 ulp is then within 4 + 2 c / temperature.
    class_mask : array_like of bool, optional
        True is kept: one per class, or of pred's shape. A class that is left out is as if its logit
        were -inf: no part of the sum, gradient 0, and no share of `label_smoothing`. It can't be a
        label, and the loss is inf where it has a probability.
    ignore_index : int, optional
        The label of samples to leave out, such as -100.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels out of range or left out by `class_mask` (the first is
        named), labels that are not integers, an `out` that does not fit.

    Notes
    -----
    PyTorch's ``cross_entropy`` with ``weight=class_weight``, whose classes are on axis 1 and whose
    `ignore_index` is -100 unless given. The label is left out of the sum of exponentials, so that a
    confident sample's loss and gradient keep their precision, down to 1e-300.

    Examples
    --------
    >>> import fastloss as fl
    >>> loss, grad = fl.cross_entropy.value_and_grad([[2.0, 0.0, 0.0]], [0])
    >>> round(loss, 6), grad.round(6)
    (0.239545, array([[-0.213014,  0.106507,  0.106507]]))
    >>> fl.cross_entropy([[70.0, 0.0]], [0])
    3.975449735908647e-31
    """
    return run(
        pred,
        target,
        (temperature, z_loss, softcap),
        class_weight=class_weight,
        label_smoothing=label_smoothing,
        class_mask=class_mask,
        ignore_index=ignore_index,
        axis=axis,
        **common,
    )


def _chances(m: Any, z: Any, y: int) -> tuple[Any, Any]:
    """p_y, and 1 - p_y without its cancellation."""
    e = [m.exp(z_k) for z_k in z]
    total = sum(e)
    return e[y] / total, sum(e_k for k, e_k in enumerate(e) if k != y) / total


def _weight(weight: Any, y: int) -> Any:
    return 1 if weight is None else weight[y]


def _softmax_focal(m: Any, z: Any, y: int, gamma: Any, alpha: Any) -> Any:
    p, q = _chances(m, z, y)
    return _weight(alpha, y) * q**gamma * -m.log(p) if len(z) > 1 else 0 * z[0]


def _poly(m: Any, z: Any, y: int, epsilon: Any, class_weight: Any) -> Any:
    p, q = _chances(m, z, y)
    return _weight(class_weight, y) * (epsilon * q - m.log(p))


def _generalized(m: Any, z: Any, y: int, q: Any, class_weight: Any) -> Any:
    p, _ = _chances(m, z, y)
    return _weight(class_weight, y) * (1 - p**q) / q


def _hessian_terms(m: Any, z: Any, y: int, first: Any, second: Any) -> Any:
    """The larger term of f' s (1 - s) + f'' s s, s being a class's share of all but the label.

    `second` is the largest term of f'', which is the label's.
    """
    e = [m.exp(z_k) for z_k in z]
    others = sum(e_k for k, e_k in enumerate(e) if k != y)
    shares = [e_k / others for e_k in e]
    of_others = [m.maximum(first * s * (1 - s), second * s * s) for s in shares]
    return None, None, [second if k == y else term for k, term in enumerate(of_others)]


def _softmax_focal_terms(m: Any, z: Any, y: int, gamma: Any, alpha: Any) -> Any:
    if len(z) == 1:
        return None, None, None
    p, q = _chances(m, z, y)
    scale, nll = _weight(alpha, y) * q**gamma, -m.log(p)
    largest = m.maximum(gamma * gamma * p * nll, gamma * q * nll)
    second = scale * p * m.maximum(largest, (2 * gamma + 1) * q)
    return _hessian_terms(m, z, y, scale * (gamma * p * nll + q), second)


def _poly_terms(m: Any, z: Any, y: int, epsilon: Any, class_weight: Any) -> Any:
    if len(z) == 1:
        return None, None, None
    p, q = _chances(m, z, y)
    weight = _weight(class_weight, y)
    first, second = weight * q * (1 + epsilon * p), weight * p * q * (1 + epsilon)
    return _hessian_terms(m, z, y, first, second)


def _generalized_terms(m: Any, z: Any, y: int, q: Any, class_weight: Any) -> Any:
    if len(z) == 1:
        return None, None, None
    p, rest = _chances(m, z, y)
    first = _weight(class_weight, y) * p**q * rest
    return _hessian_terms(m, z, y, first, first * m.maximum(p, q * rest))


@loss(
    Rows,
    kernels.softmax_focal_loss,
    target=LABELS,
    formula=r"-\alpha_y (1 - p_y)^\gamma \log p_y",
    use_when="multi-class, imbalance: easy samples outnumber the hard ones",
    naive=_softmax_focal,
    terms=_softmax_focal_terms,
    ulp=(
        lambda knobs: 4 + knobs["gamma"],  # an ulp in the logarithm of q, gamma times
        lambda knobs: 4 + knobs["gamma"],
        lambda knobs: 6 + knobs["gamma"],
    ),
    link="multilogit",
)
def softmax_focal_loss(
    run: Rows,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    gamma: NonNegative = 2.0,
    alpha: PerClass = None,
    ignore_index: int | None = None,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Focal loss of one class out of several: cross-entropy that cares less for easy samples.

    .. math:: -\alpha_y (1 - p_y)^\gamma \log p_y, \qquad p = \operatorname{softmax}(z)

    Parameters
    ----------
    pred : array_like
        Logits, floats, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Integer labels of any dtype, of pred's shape without `axis`.
    gamma : float, optional
        How much less; 0 is cross-entropy.
    alpha : array_like, optional
        One factor per class, not negative. It does not enter the mean's denominator.
    ignore_index : int, optional
        The label of samples to leave out, such as -100.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels out of range (the first is named), labels that are not
        integers, an `out` that does not fit.

    Notes
    -----
    Lin et al., "Focal Loss for Dense Object Detection" (2017), with the softmax in place of the
    sigmoid. `sigmoid_focal_loss` is the binary one.

    Examples
    --------
    >>> import fastloss as fl
    >>> loss = fl.softmax_focal_loss([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], [0, 0], reduction="none")
    >>> loss.round(6)
    array([0.010869, 1.787895])
    """
    return run(
        pred, target, (gamma,), class_weight=alpha, ignore_index=ignore_index, axis=axis, **common
    )


@loss(
    Rows,
    kernels.poly_loss,
    target=LABELS,
    formula=r"-\log p_y + \epsilon (1 - p_y)",
    use_when="multi-class: a little more weight on unsure samples than cross-entropy gives",
    naive=_poly,
    terms=_poly_terms,
    link="multilogit",
)
def poly_loss(
    run: Rows,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    epsilon: NonNegative = 2.0,
    class_weight: PerClass = None,
    ignore_index: int | None = None,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Poly-1 loss: cross-entropy whose first polynomial coefficient is raised by `epsilon`.

    .. math:: w_y \left(-\log p_y + \epsilon (1 - p_y)\right),
              \qquad p = \operatorname{softmax}(z)

    Parameters
    ----------
    pred : array_like
        Logits, floats, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Integer labels of any dtype, of pred's shape without `axis`.
    epsilon : float, optional
        The weight of 1 - p; 0 is cross-entropy.
    class_weight : array_like, optional
        One weight per class, not negative. It enters the mean's denominator.
    ignore_index : int, optional
        The label of samples to leave out, such as -100.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels out of range (the first is named), labels that are not
        integers, an `out` that does not fit.

    Notes
    -----
    Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions"
    (2022).

    Examples
    --------
    >>> import fastloss as fl
    >>> loss, grad = fl.poly_loss.value_and_grad([[2.0, 0.0, 0.0]], [0])
    >>> round(loss, 6), grad.round(6)
    (0.665573, array([[-0.548292,  0.274146,  0.274146]]))
    """
    return run(
        pred,
        target,
        (epsilon,),
        class_weight=class_weight,
        ignore_index=ignore_index,
        axis=axis,
        **common,
    )


@loss(
    Rows,
    kernels.generalized_cross_entropy,
    target=LABELS,
    formula=r"\frac{1 - p_y^q}{q}",
    use_when="multi-class, noisy labels: a share of the labels is wrong",
    naive=_generalized,
    terms=_generalized_terms,
    link="multilogit",
)
def generalized_cross_entropy(
    run: Rows,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    q: Annotated[float, Interval(0, 1, open=True)] = 0.7,
    class_weight: PerClass = None,
    ignore_index: int | None = None,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Generalised cross-entropy, which bounds what a mislabelled sample can cost.

    .. math:: w_y \frac{1 - p_y^q}{q}, \qquad p = \operatorname{softmax}(z)

    Parameters
    ----------
    pred : array_like
        Logits, floats, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Integer labels of any dtype, of pred's shape without `axis`.
    q : float, optional
        In (0, 1]: 1 is the mean absolute error 1 - p, and cross-entropy is the limit at 0.
    class_weight : array_like, optional
        One weight per class, not negative. It enters the mean's denominator.
    ignore_index : int, optional
        The label of samples to leave out, such as -100.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels out of range (the first is named), labels that are not
        integers, an `out` that does not fit.

    Notes
    -----
    Zhang & Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels" (2018).

    Examples
    --------
    >>> import fastloss as fl
    >>> round(fl.generalized_cross_entropy([[2.0, 0.0, 0.0]], [0]), 6)
    0.220538
    >>> round(fl.generalized_cross_entropy([[0.0, 99.0]], [0]), 6)  # 1 / q, where others cost 99
    1.428571
    """
    return run(
        pred,
        target,
        (q,),
        class_weight=class_weight,
        ignore_index=ignore_index,
        axis=axis,
        **common,
    )


def _nll(m: Any, z: Any, y: int, class_weight: Any) -> Any:
    return -_weight(class_weight, y) * z[y]


@loss(
    RowTerms,
    kernels.nll,
    target=LABELS,
    formula=r"-w_y z_y",
    use_when="multi-class: there are log-probabilities already",
    naive=_nll,
    torch=Elsewhere("nll_loss", {"class_weight": "weight"}),
    link="log",
)
def nll_loss(
    run: RowTerms,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    class_weight: PerClass = None,
    ignore_index: int | None = None,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Negative log-likelihood of labels y, of rows of log-probabilities z.

    .. math:: -w_y z_y

    Of logits, `cross_entropy` is the same in one step.

    Parameters
    ----------
    pred : array_like
        Logarithms of probabilities, floats, or integers, which count as float64; the
        classes on `axis`. The label's alone is read.
    target : array_like
        Integer labels of any dtype, of pred's shape without `axis`.
    class_weight : array_like, optional
        One weight per class, not negative. It enters the mean's denominator.
    ignore_index : int, optional
        The label of samples to leave out, such as -100.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels out of range (the first is named), labels that are not
        integers, an `out` that does not fit.

    Notes
    -----
    PyTorch's ``nll_loss`` with ``weight=class_weight``, whose classes are on axis 1 and whose
    `ignore_index` is -100 unless given. That probabilities add up to 1 is not checked.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.nll_loss.value_and_grad([[-0.25, -1.5], [-2.0, -0.125]], [0, 0])
    (1.125, array([[-0.5,  0. ],
           [-0.5,  0. ]]))
    """
    return run(
        pred, target, class_weight=class_weight, ignore_index=ignore_index, axis=axis, **common
    )


def _cross_entropy_with_probs(m: Any, p: Any, target: Any, class_weight: Any) -> Any:
    mass = _masses(list(range(len(p))), target, class_weight, 0)
    terms = zip(mass.values(), p, strict=True)
    return sum(m.where(u > 0, -u * m.log(p_k), 0 * p_k) for u, p_k in terms)


@loss(
    RowTerms,
    kernels.cross_entropy_with_probs,
    pred=UNIT,
    target=CLASSES,
    formula=r"-w_y \log p_y",
    use_when="multi-class: there are probabilities already, and no logits",
    naive=_cross_entropy_with_probs,
    link="identity",
)
def cross_entropy_with_probs(
    run: RowTerms,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    class_weight: PerClass = None,
    ignore_index: int | None = None,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Cross-entropy of rows of probabilities p and labels y, or class probabilities t.

    .. math:: -w_y \log p_y \quad\text{or}\quad -\sum_j w_j t_j \log p_j

    Where p comes from logits, `cross_entropy` of those loses nothing.

    Parameters
    ----------
    pred : array_like
        Probabilities, floats, or integers, which count as float64; the classes on
        `axis`. With labels, the label's alone is read.
    target : array_like
        Integer labels of any dtype, of pred's shape without `axis`; or probabilities (or one-hot,
        of any dtype) in [0, 1], of pred's shape.
    class_weight : array_like, optional
        One weight per class, not negative. For labels it enters the mean's denominator.
    ignore_index : int, optional
        The label of samples to leave out, such as -100.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels out of range or probabilities outside [0, 1] (the first
        is named), labels that are not integers, an `out` that does not fit.

    Notes
    -----
    The formula as it is, without a clamp: p = 0 where the target is not costs inf, and 0 log 0 = 0.
    That probabilities add up to 1 is checked neither of `pred` nor of `target`, and the gradient is
    that of each p on its own. A negative p that a target weighs gives nan.

    Examples
    --------
    >>> import fastloss as fl
    >>> p = [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]
    >>> fl.cross_entropy_with_probs(p, [1, 0], reduction="none").round(6)
    array([1.386294, 0.      ])
    >>> fl.cross_entropy_with_probs.grad(p, [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], reduction="sum")
    array([[-1., -2.,  0.],
           [-1.,  0.,  0.]])
    """
    return run(
        pred, target, class_weight=class_weight, ignore_index=ignore_index, axis=axis, **common
    )


def _others(m: Any, z: Any, y: int, margin: Any) -> list[Any]:
    """By how much each of the other classes breaks the margin."""
    short = [margin - z[y] + z_k for k, z_k in enumerate(z) if k != y]
    return [m.where(x > 0, x, 0 * x) for x in short]


def _multi_margin(m: Any, z: Any, y: int, p: Any, margin: Any, class_weight: Any) -> Any:
    total = sum((x**p for x in _others(m, z, y, margin)), 0 * z[y])
    return _weight(class_weight, y) * total / len(z)


@loss(
    RowMargins,
    kernels.multi_margin,
    target=LABELS,
    formula=r"\frac{w_y}{K} \sum_{j \ne y} \max(0, m - z_y + z_j)^p",
    use_when="multi-class, margin: the decision counts; every class is to stay below the label",
    naive=_multi_margin,
    torch=Elsewhere("multi_margin_loss", {"class_weight": "weight"}),
)
def multi_margin_loss(
    run: RowMargins,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    p: Annotated[float, Interval(1, 1, also=(2,))] = 1.0,
    margin: NonNegative = 1.0,
    class_weight: PerClass = None,
    ignore_index: int | None = None,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Hinge loss of rows of scores z and labels y: every other class is to stay a margin below.

    .. math:: \frac{w_y}{K} \sum_{j \ne y} \max(0, m - z_y + z_j)^p

    Parameters
    ----------
    pred : array_like
        Scores, floats, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Integer labels of any dtype, of pred's shape without `axis`.
    p : float, optional
        The power, 1 or 2.
    margin : float, optional
        The lead m over every other class that is enough; not negative.
    class_weight : array_like, optional
        One weight per class, not negative. It does not enter the mean's denominator.
    ignore_index : int, optional
        The label of samples to leave out, such as -100.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels out of range (the first is named), labels that are not
        integers, an `out` that does not fit.

    Notes
    -----
    J. Weston and C. Watkins, Support vector machines for multi-class pattern recognition, 1999;
    PyTorch's ``multi_margin_loss`` with ``weight=class_weight``. Where a class is exactly the
    margin below, its gradient and its Hessian are 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.multi_margin_loss.value_and_grad([[2.0, 1.5, 0.0, 1.75]], [0])
    (0.3125, array([[-0.5 ,  0.25,  0.  ,  0.25]]))
    """
    return run(
        pred,
        target,
        (p, margin),
        class_weight=class_weight,
        ignore_index=ignore_index,
        axis=axis,
        **common,
    )


def _crammer_singer(m: Any, z: Any, y: int, margin: Any) -> Any:
    largest = 0 * z[y]
    for x in _others(m, z, y, margin):
        largest = m.where(x > largest, x, largest)
    return largest


@loss(
    RowRival,
    kernels.crammer_singer,
    target=LABELS,
    formula=r"\max\left(0, m - z_y + \max_{j \ne y} z_j\right)",
    use_when="multi-class, margin: the decision counts; only the strongest rival matters",
    naive=_crammer_singer,
)
def crammer_singer_loss(
    run: RowRival,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    margin: NonNegative = 1.0,
    ignore_index: int | None = None,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Hinge loss of rows of scores z and labels y: the label is to lead by a margin.

    .. math:: \max\left(0, m - z_y + \max_{j \ne y} z_j\right)

    Parameters
    ----------
    pred : array_like
        Scores, floats, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Integer labels of any dtype, of pred's shape without `axis`.
    margin : float, optional
        The lead m that is enough; not negative.
    ignore_index : int, optional
        The label of samples to leave out, such as -100.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels out of range (the first is named), labels that are not
        integers, an `out` that does not fit.

    Notes
    -----
    K. Crammer and Y. Singer, On the algorithmic implementation of multiclass kernel-based vector
    machines, 2001; scikit-learn's metric ``hinge_loss`` of several classes and
    ``LinearSVC(multi_class="crammer_singer")``. The gradient is +1 at the largest other class (the
    first of them) and -1 at the label; at the kink, where the lead is exactly the margin, 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.crammer_singer_loss.value_and_grad([[2.0, 1.5, 0.0, 1.75]], [0])
    (0.75, array([[-1.,  0.,  0.,  1.]]))
    """
    return run(pred, target, (margin,), ignore_index=ignore_index, axis=axis, **common)
