"""What a training loop needs around a loss: weights by class, means over batches, checks, clipping.

NumPy alone. What may be as large as a gradient is read and written a block at a time.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._gate import floating, readable
from fastloss._general import FLOATS
from fastloss._loss import Loss, as_number

Array = NDArray[Any]

# Numbers of a gradient at a time: within the first cache, and below what BLAS wakes threads for.
BLOCK = 8192


def _number(where: str, x: Any, low: float, expected: str) -> float:
    """`x` as a number >= low, which nan is not, or the error that says what is wrong."""
    try:
        number = as_number(x)
    except TypeError:
        raise TypeError(f"{where}: expected {expected}, got {x!r}") from None
    if not number >= low:
        raise ValueError(f"{where}: expected {expected}, got {x!r}")
    return number


def class_weights(
    labels: ArrayLike,
    n_classes: int | None = None,
    *,
    method: Literal["balanced", "effective"] = "balanced",
    beta: float = 0.999,
) -> NDArray[np.float64]:
    r"""Class weights against the imbalance of labels, as `class_weight` of a loss.

    .. math:: \frac{n}{P n_c} \quad\text{or}\quad
              \frac{1 - \beta}{1 - \beta^{n_c}}, \text{ scaled to the sum } P

    n labels, of which n_c are of class c, and P classes that occur.

    Parameters
    ----------
    labels : array_like of int
        Of any shape and integer dtype; at least 0.
    n_classes : int, optional
        The number of classes K; by default the largest label plus 1.
    method : {"balanced", "effective"}, optional
        Inverse frequency, or the inverse of the effective number of samples.
    beta : float, optional
        Of "effective", at least 0 and less than 1: 0 weighs all classes alike, near 1 it is inverse
        frequency.

    Returns
    -------
    ndarray of float64
        One weight per class; 0 for a class without samples, which counts nowhere.

    Raises
    ------
    TypeError
        For labels that are not integers, arguments that are not numbers.
    ValueError
        For labels outside 0 to K - 1 (the first is named), an unknown `method`, numbers out of
        range.

    Notes
    -----
    scikit-learn's ``compute_class_weight("balanced")``; Y. Cui and others, Class-balanced loss
    based on effective number of samples, 2019.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.class_weights([0, 0, 0, 1])
    array([0.66666667, 2.        ])
    >>> fl.class_weights([0, 0, 0, 1], 3, method="effective", beta=0.5)
    array([0.72727273, 1.27272727, 0.        ])
    """
    y = np.asarray(labels)
    if y.dtype.kind not in "iu" and y.size:
        raise TypeError(
            f"class_weights: labels: expected integers, got {y.dtype}; convert them with "
            "labels.astype(int)"
        )
    if n_classes is not None:
        if isinstance(n_classes, (bool, np.bool_)) or not hasattr(n_classes, "__index__"):
            raise TypeError(f"class_weights: n_classes: expected an integer, got {n_classes!r}")
        n_classes = n_classes.__index__()
        if n_classes < 1:
            raise ValueError(f"class_weights: n_classes: expected at least 1, got {n_classes}")
    if method not in ("balanced", "effective"):
        raise ValueError(
            f"class_weights: method: expected 'balanced' or 'effective', got {method!r}"
        )
    beta = _number("class_weights: beta", beta, 0, "a number in [0, 1)")
    if beta >= 1:
        raise ValueError(f"class_weights: beta: expected a number in [0, 1), got {beta!r}")
    low, high = (int(y.min()), int(y.max())) if y.size else (0, -1)
    k = high + 1 if n_classes is None else n_classes
    if low < 0 or high >= k:
        bad = (y < 0) | (y >= k)
        index = np.unravel_index(int(bad.argmax()), y.shape)
        raise ValueError(
            f"class_weights: labels[{', '.join(map(str, index))}] = {y[index]} is not a class "
            f"label: expected 0 <= label{'' if n_classes is None else f' < {k}'}"
        )
    count = np.bincount(y.ravel().astype(np.intp, copy=False), minlength=k)
    weights = np.zeros(k)
    occurs = count > 0
    samples = count[occurs]
    if method == "balanced":
        weights[occurs] = y.size / (len(samples) * samples)
    elif y.size:
        inverse = -1 / np.expm1(samples * (math.log(beta) if beta else -math.inf))
        weights[occurs] = inverse / inverse.mean()
    return weights


class LossMeter:
    r"""The mean of a loss over batches, as exact as over all samples at once.

    .. math:: \sum_b n_b l_b \Big/ \sum_b n_b

    with a batch's mean loss l_b and weight n_b.

    Attributes
    ----------
    mean, weight : float
        The mean so far, nan where nothing was kept; the sum of the weights.
    perplexity, accuracy : float
        exp of the mean; the weighted share of what was told to be correct (`update_each`), nan
        where nothing was.
    classes, segments : dict of LossMeter
        The same of each class and segment that `update_each` was told.

    Notes
    -----
    With ``loss(pred, target, ...)`` and ``loss.normalizer(pred, target, ...)`` of each batch, the
    mean is that of all samples. The sums are compensated, so that millions of batches lose nothing.
    Meters of workers are merged, or added; they compare and pickle. Not for updates from several
    threads at once.

    Examples
    --------
    >>> import fastloss as fl
    >>> meter = fl.LossMeter()
    >>> for pred, target in (([1.0, 2.0], [0.0, 0.0]), ([3.0], [0.0])):
    ...     meter.update(fl.mse_loss(pred, target), fl.mse_loss.normalizer(pred, target))
    >>> meter
    LossMeter(mean=4.666666666666667, weight=3.0)
    >>> fl.mse_loss([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    4.666666666666667
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every batch."""
        # Each sum is two floats, of which the second holds what the first has lost.
        self._total = self._weight = self._right = self._judged = (0.0, 0.0)
        self.classes: dict[Any, LossMeter] = {}
        self.segments: dict[Any, LossMeter] = {}

    def update(self, mean: float, weight: float = 1.0) -> None:
        """Add a batch.

        Parameters
        ----------
        mean : float
            Its mean loss. A sum is ``update(total / n, n)``.
        weight : float, optional
            What the mean was divided by: ``loss.normalizer(...)``, or a number of samples. A batch
            of weight 0 contributes nothing, though its mean is nan.

        Raises
        ------
        TypeError, ValueError
            For what is not a number, a weight that is not finite.
        """
        try:
            mean, weight = as_number(mean), as_number(weight)
        except TypeError:
            raise TypeError(
                f"LossMeter.update: mean, weight: expected two numbers, got {mean!r}, {weight!r}"
            ) from None
        if not math.isfinite(weight):
            raise ValueError(f"LossMeter.update: weight: expected a finite number, got {weight!r}")
        if weight:
            self._plus_sums(mean * weight, weight)

    def update_each(
        self,
        losses: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        correct: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        segments: ArrayLike | None = None,
    ) -> None:
        """Add a batch by the loss of each sample.

        Parameters
        ----------
        losses : array_like
            Of any shape.
        sample_weight : array_like, optional
            Of the leading axes of that shape, or a scalar. What weighs 0 (or is False) contributes
            nothing, though its loss is nan.
        correct : array_like of bool, optional
            Which samples are right, of the losses' shape: for `accuracy`.
        classes, segments : array_like, optional
            The class and the segment of each sample, of the losses' shape: labels, integers or
            strings. The meter has a meter of each.

        Raises
        ------
        TypeError, ValueError
            For what is not of the losses' shape, weights that are not finite.

        Examples
        --------
        >>> import fastloss as fl
        >>> meter = fl.LossMeter()
        >>> meter.update_each([1.0, 2.0, 6.0], classes=[0, 0, 1], correct=[True, True, False])
        >>> meter.mean, meter.classes[0].mean, round(meter.accuracy, 3)
        (3.0, 1.5, 0.667)
        """
        each = np.asarray(losses, np.float64)
        weight = np.asarray(1.0 if sample_weight is None else sample_weight, np.float64)
        if weight.shape != each.shape[: weight.ndim]:
            raise ValueError(
                f"LossMeter.update_each: sample_weight: expected a scalar or the leading axes of "
                f"{each.shape}, got {weight.shape}"
            )
        if not np.isfinite(weight).all():
            raise ValueError("LossMeter.update_each: sample_weight: expected finite numbers")
        weight = weight.reshape(weight.shape + (1,) * (each.ndim - weight.ndim))
        weight = np.broadcast_to(weight, each.shape)
        keep = weight != 0
        each, weight = each[keep], weight[keep]
        of_each = {"correct": correct, "classes": classes, "segments": segments}
        told = {}
        for name, given in of_each.items():
            if given is not None:
                a = np.asarray(given)
                if a.shape != keep.shape:
                    raise ValueError(
                        f"LossMeter.update_each: {name}: expected the losses' shape {keep.shape}, "
                        f"got {a.shape}"
                    )
                told[name] = a[keep]
        with np.errstate(all="ignore"):
            totals = each * weight
        self._plus_sums(float(totals.sum()), float(weight.sum()))
        if correct is not None:
            self._right = _plus(self._right, float(weight[told["correct"].astype(bool)].sum()))
            self._judged = _plus(self._judged, float(weight.sum()))
        for name, meters in (("classes", self.classes), ("segments", self.segments)):
            if name not in told:
                continue
            values, at = np.unique(told[name], return_inverse=True)
            sums = (np.bincount(at, totals), np.bincount(at, weight))
            for value, total, of_value in zip(
                values.tolist(), *(a.tolist() for a in sums), strict=True
            ):
                meters.setdefault(value, LossMeter())._plus_sums(total, of_value)

    def _plus_sums(self, total: float, weight: float) -> None:
        self._total = _plus(self._total, total)
        self._weight = _plus(self._weight, weight)

    def merge(self, other: LossMeter) -> None:
        """Add all batches of another meter to this one."""
        if not isinstance(other, LossMeter):
            raise TypeError(f"LossMeter.merge: other: expected a LossMeter, got {type(other)}")
        for name in ("_total", "_weight", "_right", "_judged"):
            for part in getattr(other, name):
                setattr(self, name, _plus(getattr(self, name), part))
        for ours, theirs in ((self.classes, other.classes), (self.segments, other.segments)):
            for value, meter in list(theirs.items()):
                ours.setdefault(value, LossMeter()).merge(meter)

    def __copy__(self) -> LossMeter:
        return copy.deepcopy(self)

    def __add__(self, other: LossMeter) -> LossMeter:
        if not isinstance(other, LossMeter):
            return NotImplemented
        new = copy.copy(self)
        new.merge(other)
        return new

    @property
    def mean(self) -> float:
        """The mean over all batches, nan where nothing was kept."""
        return sum(self._total) / self.weight if self.weight else math.nan

    @property
    def weight(self) -> float:
        """The sum of the weights."""
        return sum(self._weight)

    @property
    def perplexity(self) -> float:
        """Exp of the mean, inf beyond the largest float."""
        try:
            return math.exp(self.mean)
        except OverflowError:
            return math.inf

    @property
    def accuracy(self) -> float:
        """The weighted share of what is correct, nan where that was never told."""
        return sum(self._right) / sum(self._judged) if sum(self._judged) else math.nan

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LossMeter) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"LossMeter(mean={self.mean!r}, weight={self.weight!r})"


def _plus(total: tuple[float, float], x: float) -> tuple[float, float]:
    """The sum of both by Knuth's two-sum, which finds the rounding error of an addition."""
    high, low = total
    new = high + x
    if not math.isfinite(new):
        return new, 0.0
    part = new - high
    return new, low + ((high - (new - part)) + (x - part))


@dataclass(frozen=True)
class GradientCheck:
    """The point where a gradient is furthest from finite differences.

    Attributes
    ----------
    argument : int
        The position of the differentiable argument, 0 being the prediction.
    index : tuple of int
        The index in it; of a sequence of arrays first which of them.
    analytic, numeric : float
        The gradient there, and the finite difference.
    error : float
        Their difference, relative to the largest number of that gradient.
    """

    argument: int
    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float


def check_gradient(loss: Any, *args: Any, **kwargs: Any) -> GradientCheck:
    r"""Compare a loss's gradient with finite differences.

    .. math:: \frac{4 D_{h/2} - D_h}{3}, \quad D_h = \frac{L(z + h) - L(z - h)}{2 h}

    one number of z at a time, so that an input of n numbers costs 4 n calls of the loss.

    Parameters
    ----------
    loss : Loss
        Or anything with `value_and_grad`, whose gradient may be a tuple: then of that many first
        arguments, or of the loss's `inputs`.
    *args, **kwargs
        As for the loss, but for `out`. What the gradient is of, is converted to float64. With
        ``reduction="none"`` the gradient is that of the sum.

    Returns
    -------
    GradientCheck
        The worst point: argument, index, analytic, numeric, error. A smooth loss of moderate
        numbers has an error below 1e-8.

    Raises
    ------
    TypeError
        For an `out`, inputs that are not numbers or not given by position.
    ValueError
        For gradients that have not their argument's shape.

    Notes
    -----
    Where the input is not finite there is no difference to take, and no check. At a kink, and
    within h = 7e-4 max(1, abs(z)) of one, the two differ. Each loss of a sample is subtracted
    before they are summed, so with ``reduction="none"`` large sums cost no digits.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.check_gradient(fl.cross_entropy, [[2.0, 0.5], [1.0, 3.0]], [0, 0]).error < 1e-8
    True
    """
    if "out" in kwargs:
        raise TypeError("check_gradient: out: expected none, a gradient is kept to compare")
    if isinstance(loss, Loss):
        names = list(inspect.signature(loss).parameters)
        positions = [names.index(name) for name in loss.inputs]
        moved = _moved(args, positions)
        grads = loss.value_and_grad(*moved, **kwargs)[1]
        grads = grads if len(positions) > 1 else (grads,)
    else:
        moved = _moved(args, [0])
        grads = loss.value_and_grad(*moved, **kwargs)[1]
        positions = list(range(len(grads) if isinstance(grads, tuple) else 1))
        if isinstance(grads, tuple):
            moved = _moved(args, positions)
            grads = loss.value_and_grad(*moved, **kwargs)[1]
        else:
            grads = (grads,)
    points = []  # where, in the argument and the array, and the arrays and their gradients
    for argument, grad in zip(positions, grads, strict=True):
        x = moved[argument]
        several = isinstance(x, list)
        for k, (part, slope) in enumerate(zip(x, grad, strict=True) if several else [(x, grad)]):
            points.append((argument, (k,) if several else (), part, slope))

    worst = GradientCheck(0, (), 0.0, 0.0, 0.0)
    for argument, which, x, grad in points:
        if np.shape(grad) != x.shape:
            raise ValueError(
                f"check_gradient: expected a gradient of argument {argument}'s shape {x.shape}, "
                f"got {np.shape(grad)}"
            )
        indices = [tuple(map(int, i)) for i in np.argwhere(np.isfinite(x))]
        numeric = [_difference(lambda: loss(*moved, **kwargs), x, i) for i in indices]
        analytic = [float(grad[i]) for i in indices]
        scale = max(map(abs, [*analytic, *numeric]), default=0.0) or 1.0
        for index, a, n in zip(indices, analytic, numeric, strict=True):
            error = abs(a - n) / scale
            if not error <= worst.error and not math.isnan(worst.error):
                worst = GradientCheck(argument, (*which, *index), a, n, error)
    return worst


def _moved(args: tuple[Any, ...], positions: list[int]) -> list[Any]:
    """The arguments, at these positions as float64 that is this call's own: arrays, or lists."""
    if len(args) <= max(positions):
        raise TypeError(
            f"check_gradient: args: expected {max(positions) + 1} or more by position, as many as "
            f"there are gradients, got {len(args)}"
        )
    moved = list(args)
    for i in positions:
        x = args[i]
        several = isinstance(x, (list, tuple)) and any(isinstance(a, np.ndarray) for a in x)
        for a in x if several else [x]:
            if not readable(np.asarray(a).dtype):
                raise TypeError(
                    f"check_gradient: args[{i}]: expected numbers, got {np.asarray(a).dtype}"
                )
        arrays = [np.array(a, np.float64) for a in (x if several else [x])]
        moved[i] = arrays if several else arrays[0]
    return moved


def _difference(value: Any, x: Array, index: tuple[int, ...]) -> float:
    at = float(x[index])
    # The rounding of the values, over h, and what is left of the series, with h^4, are then alike.
    h = np.finfo(np.float64).eps ** 0.2 * max(1.0, abs(at))
    slopes = []
    for step in (h, h / 2):
        x[index] = at + step
        up, above = value(), x[index]
        x[index] = at - step
        rise = np.subtract(up, value())
        slopes.append(float(np.sum(rise)) / float(above - x[index]))
    x[index] = at
    return (4 * slopes[1] - slopes[0]) / 3


def _gradients(name: str, grads: Any) -> list[Array]:
    """One array, or a sequence of them, as a list; floats of up to 8 bytes."""
    arrays = [grads] if isinstance(grads, np.ndarray) else grads
    if not isinstance(arrays, (list, tuple)):
        raise TypeError(
            f"{name}: grads: expected an array or a sequence of arrays, got {type(grads)}"
        )
    for i, a in enumerate(arrays):
        which = "grads" if arrays is not grads else f"grads[{i}]"
        if not isinstance(a, np.ndarray):
            raise TypeError(f"{name}: {which}: expected an array, got {type(a)}")
        if not floating(a.dtype):
            raise TypeError(f"{name}: {which}: expected {FLOATS}, got {a.dtype}")
    return list(arrays)


def _blocks(a: Array, mode: Literal["readonly", "readwrite"]) -> Any:
    """The numbers of an array of any layout as float64, a block at a time."""
    flags: Sequence[Any] = ["external_loop", "buffered", "zerosize_ok"]
    return np.nditer(a, flags, [mode], np.dtype(np.float64), casting="same_kind", buffersize=BLOCK)


def _norms(arrays: list[Array]) -> Iterator[float]:
    for a in arrays:
        with _blocks(a, "readonly") as blocks:
            for block in blocks:
                square = float(np.dot(block, block))
                # Outside of these bounds squares may have gone beyond the range of numbers.
                if not 1e-280 < square < math.inf:
                    largest = float(np.abs(block).max(initial=0.0))
                    if 0 < largest < math.inf:
                        power = math.frexp(largest)[1] - 1
                        part = np.ldexp(block, -power)
                        yield 2.0**power * math.sqrt(float(np.dot(part, part)))
                        continue
                yield math.sqrt(square)


def _norm(arrays: list[Array]) -> float:
    with np.errstate(all="ignore"):
        norms = list(_norms(arrays))
    # The norm of inf and nan is nan, which hypot does not say.
    return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)


def grad_norm(grads: Array | Sequence[Array]) -> float:
    r"""Euclidean norm of all gradients together.

    .. math:: \sqrt{\sum_i g_i^2}

    Parameters
    ----------
    grads : ndarray or sequence of ndarray
        floats of 16 to 64 bits, of any shapes and layouts.

    Returns
    -------
    float
        Summed in float64, and right wherever it is a number: squares neither overflow nor vanish.
        inf or nan where a gradient is; 0 for none.

    Raises
    ------
    TypeError
        For what is not an array of such numbers.

    Notes
    -----
    PyTorch's ``get_total_norm`` with ``norm_type=2``. One pass, a block at a time.

    Examples
    --------
    >>> import fastloss as fl
    >>> import numpy as np
    >>> fl.grad_norm([np.array([3.0]), np.array([[0.0, 4.0]])])
    5.0
    """
    return _norm(_gradients("grad_norm", grads))


def clip_grad_norm(
    grads: Array | Sequence[Array], max_norm: float, *, error_if_nonfinite: bool = False
) -> float:
    r"""Scale all gradients, in place, so that their common norm is at most `max_norm`.

    .. math:: g \leftarrow g \cdot \min(1, c / \lVert g \rVert)

    Parameters
    ----------
    grads : ndarray or sequence of ndarray
        floats of 16 to 64 bits, of any shapes and layouts; writeable, none overlapping another.
    max_norm : float
        The bound c, at least 0; inf clips nothing.
    error_if_nonfinite : bool, optional
        Raise where the norm is inf or nan; otherwise it is returned, and the gradients stay as they
        are.

    Returns
    -------
    float
        The norm before.

    Raises
    ------
    TypeError
        For what is not an array of such numbers.
    ValueError
        For read-only or overlapping arrays, a negative or nan `max_norm`; a norm that is not
        finite, if so asked. Nothing is changed then.

    Notes
    -----
    PyTorch's ``clip_grad_norm_``, which divides by the norm + 1e-6 and, for a norm that is not
    finite, writes nan and 0 into the gradients.

    Examples
    --------
    >>> import fastloss as fl
    >>> import numpy as np
    >>> grad = np.array([3.0, 4.0])
    >>> fl.clip_grad_norm(grad, 1.0), grad
    (5.0, array([0.6, 0.8]))
    """
    arrays = _gradients("clip_grad_norm", grads)
    bound = _number("clip_grad_norm: max_norm", max_norm, 0, "a number >= 0")
    for i, a in enumerate(arrays):
        if not a.flags.writeable:
            raise ValueError(
                f"clip_grad_norm: grads[{i}]: expected a writeable array, got a read-only one"
            )
    _check_apart(arrays)
    norm = _norm(arrays)
    if error_if_nonfinite and not math.isfinite(norm):
        raise ValueError(f"clip_grad_norm: grads: expected a finite norm, got {norm}")
    if bound < norm < math.inf:
        for a in arrays:
            with _blocks(a, "readwrite") as blocks:
                for block in blocks:
                    # As float64: in half precision the factor may be below the smallest number.
                    block *= bound / norm
    return norm


def _check_apart(arrays: list[Array]) -> None:
    """Raise where two arrays overlap: what both hold would be scaled twice."""
    spans = sorted((*np.lib.array_utils.byte_bounds(a), i) for i, a in enumerate(arrays) if a.size)
    open_spans: list[tuple[int, int, int]] = []
    for span in spans:
        open_spans = [s for s in open_spans if s[1] > span[0]]
        for _, _, i in open_spans:
            if np.shares_memory(arrays[i], arrays[span[2]]):
                raise ValueError(
                    f"clip_grad_norm: grads[{span[2]}]: overlaps grads[{i}]; give each once"
                )
        open_spans.append(span)
