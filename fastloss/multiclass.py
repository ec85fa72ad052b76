"""Losses of one class out of several, from a row of logits."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fastloss import kernels
from fastloss._general import Rows
from fastloss._loss import CLASSES, Common, Elsewhere, Fraction, Outputs, PerClass, loss


def _masses(k: int, target: Any, class_weight: Any, label_smoothing: Any) -> list[Any]:
    weight = [1] * k if class_weight is None else class_weight
    if np.ndim(target) == 0:
        target = [1 if j == target else 0 for j in range(k)]
    return [weight[j] * (target[j] * (1 - label_smoothing) + label_smoothing / k) for j in range(k)]


def _cross_entropy(m: Any, z: Any, target: Any, class_weight: Any, label_smoothing: Any) -> Any:
    mass = _masses(len(z), target, class_weight, label_smoothing)
    total = m.log(sum(m.exp(z_k) for z_k in z))
    return sum(u * (total - z_k) for u, z_k in zip(mass, z, strict=True))


def _cross_entropy_terms(
    m: Any, z: Any, target: Any, class_weight: Any, label_smoothing: Any
) -> Any:
    # With soft or smoothed targets the gradient is the difference of the mass's share and the mass.
    if np.ndim(target) == 0 and label_smoothing == 0:
        return None, None, None
    mass = _masses(len(z), target, class_weight, label_smoothing)
    scale = sum(mass) / sum(m.exp(z_k) for z_k in z)
    shares = [m.exp(z_k) * scale for z_k in z]
    return None, [max(u, s) for u, s in zip(mass, shares, strict=True)], None


@loss(
    Rows,
    kernels.cross_entropy,
    target=CLASSES,
    formula=r"\log \sum_k e^{z_k} - z_y",
    naive=_cross_entropy,
    terms=_cross_entropy_terms,
    torch=Elsewhere("cross_entropy", {"class_weight": "weight"}),
    sklearn=Elsewhere("HalfMultinomialLoss", {"class_weight": None, "label_smoothing": None}),
)
def cross_entropy(
    run: Rows,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    class_weight: PerClass = None,
    label_smoothing: Fraction = 0.0,
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
        Logits, float32 or float64, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Integer labels of any dtype, of pred's shape without `axis`; or probabilities (or one-hot,
        of any dtype) of pred's shape, which are not checked.
    class_weight : array_like, optional
        One weight per class, not negative. For labels it enters the mean's denominator.
    label_smoothing : float, optional
        The share s of each target that is spread evenly: t becomes t (1 - s) + s / K.
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
        class_weight=class_weight,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        axis=axis,
        **common,
    )
