"""The functions that logits go through: softmax, sigmoid and their logarithms.

Each is a loss or its gradient at a target chosen for it, so the kernels of the losses compute them
all: softplus is binary cross-entropy at target 0, of which sigmoid is the gradient; cross-entropy
at the label of the largest logit is log-sum-exp less that logit; and the gradient of cross-entropy
is softmax in every class but the label's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._gate import same
from fastloss._general import Call, array, derivative, integer, is_half
from fastloss._loss import Loss, named
from fastloss.binary import binary_cross_entropy_with_logits
from fastloss.multiclass import cross_entropy

Array = NDArray[Any]

# Rows are taken so many bytes at a time, so that the numbers kept per row are few. Blocks that stay
# in the cache do not pay: a call of the kernels costs more than they save (4 MiB take 1.4 times as
# long).
BLOCK = 32 << 20


_NAMES: tuple[tuple[Loss[Any, Any], tuple[str, ...]], ...] = (
    (binary_cross_entropy_with_logits, ("sigmoid", "log_sigmoid", "softplus")),
    (cross_entropy, ("softmax", "log_softmax", "logsumexp")),
)
_LOSSES: dict[str, Any] = {
    name: named(loss, name).bind(reduction="none") for loss, names in _NAMES for name in names
}


def _check_out(call: Call, out: Any, shape: tuple[int, ...], name: str, in_place: bool) -> None:
    """Raise where `out` cannot be written: over the input of this name, if not in place."""
    exact = in_place and isinstance(out, np.ndarray) and same(out, call.pred)
    overlapped = f"{name} without being exactly it" if in_place else f"{name}, which is only read"
    call.check_out(out, shape, "l", {} if exact else {overlapped: call.pred}, {})


def _elementwise(
    name: str, method: str, x: ArrayLike, target: int, out: Any, num_threads: int | None
) -> Any:
    loss = _LOSSES[name]
    x = array(name, "x", x)
    everywhere = np.broadcast_to(np.float32(target), x.shape)
    if out is not None:
        _check_out(Call(loss.grad.__self__, x, 0, None), out, x.shape, "x", method == "grad")
    if method == "grad":
        return loss.grad(x, everywhere, out=out, num_threads=num_threads)
    if out is None and is_half(x.dtype):
        out = np.empty(x.shape, derivative(x.dtype))
    out = None if out is None else (out,)
    return loss(x, everywhere, out=out, num_threads=num_threads)


def sigmoid(x: ArrayLike, *, out: Array | None = None, num_threads: int | None = None) -> Array:
    r"""Logistic function.

    .. math:: \sigma(x) = 1 / (1 + e^{-x})

    Parameters
    ----------
    x : array_like
        Of any shape; floats, or integers, which count as float64.
    out : ndarray, optional
        Where to write, of x's shape; floats. May be `x` itself.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Returns
    -------
    ndarray
        Of x's floating dtype.

    Raises
    ------
    ValueError, TypeError
        For dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    ``scipy.special.expit``, within 4 ulp. Results below the smallest normal number are 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.sigmoid([-800.0, 0.0, 800.0])
    array([0. , 0.5, 1. ])
    """
    return np.asarray(_elementwise("sigmoid", "grad", x, 0, out, num_threads))


def softplus(x: ArrayLike, *, out: Array | None = None, num_threads: int | None = None) -> Array:
    r"""Smooth positive part.

    .. math:: \log(1 + e^x)

    Parameters
    ----------
    x : array_like
        Of any shape; floats, or integers, which count as float64.
    out : ndarray, optional
        Where to write, of x's shape; floats. May not overlap `x`.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Returns
    -------
    ndarray
        Of x's floating dtype.

    Raises
    ------
    ValueError, TypeError
        For dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    PyTorch's ``softplus`` without its knobs, and without its threshold above which it is x; within
    4 ulp. Results below the smallest normal number are 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.softplus([-70.0, 0.0, 70.0])
    array([3.97544974e-31, 6.93147181e-01, 7.00000000e+01])
    """
    return np.asarray(_elementwise("softplus", "__call__", x, 0, out, num_threads))


def log_sigmoid(x: ArrayLike, *, out: Array | None = None, num_threads: int | None = None) -> Array:
    r"""Logarithm of the logistic function.

    .. math:: \log \sigma(x) = -\log(1 + e^{-x})

    Parameters
    ----------
    x : array_like
        Of any shape; floats, or integers, which count as float64.
    out : ndarray, optional
        Where to write, of x's shape; floats. May not overlap `x`.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Returns
    -------
    ndarray
        Of x's floating dtype.

    Raises
    ------
    ValueError, TypeError
        For dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    ``scipy.special.log_expit``; PyTorch's ``logsigmoid``. Within 4 ulp; results above the negative
    of the smallest normal number are 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.log_sigmoid([-800.0, 0.0, 70.0])
    array([-8.00000000e+02, -6.93147181e-01, -3.97544974e-31])
    """
    result = np.asarray(_elementwise("log_sigmoid", "__call__", x, 1, out, num_threads))
    np.negative(result, out=result)
    return result


class _RowCall(Call):
    """A checked call over the rows of logits that lie along `axis`."""

    def __init__(self, name: str, pred: ArrayLike, axis: int) -> None:
        self.loss = _LOSSES[name]
        super().__init__(self.loss.grad.__self__, pred, 0, None)
        axis, ndim = integer(self.loss, "axis", axis), self.pred.ndim
        if not -ndim <= axis < ndim:
            raise self.fail(
                ValueError, "axis", f"expected -{ndim} <= axis < {ndim} for {ndim} axes, got {axis}"
            )
        self.axis = axis % ndim
        self.shape = self.shape[: self.axis] + self.shape[self.axis + 1 :]
        if not self.pred.shape[self.axis]:
            raise self.fail(
                ValueError, "pred", f"expected at least one class, got shape {self.pred.shape}"
            )

    def out(self, given: Array | None, shape: tuple[int, ...]) -> Array:
        if given is None:
            return np.empty(shape, derivative(self.pred.dtype))
        _check_out(self, given, shape, "pred", shape == self.pred.shape)
        return given

    def rows(self, a: Array) -> Array:
        """An array of pred's shape with the classes last, and an axis before them."""
        return np.atleast_2d(np.moveaxis(a, self.axis, -1))

    def blocks(self) -> Iterator[tuple[slice, Array, Array, Array]]:
        """Blocks of rows: where they are, the logits, the class of the largest, and that logit."""
        rows = self.rows(self.pred)
        size = BLOCK // 8 if is_half(rows.dtype) else BLOCK  # of those a block is copied
        step = max(1, size * len(rows) // max(1, rows.nbytes))
        for start in range(0, len(rows), step):
            where = slice(start, start + step)
            yield where, rows[where], *self.largest(rows[where])

    def at(self, rows: Array, classes: Array) -> Array:
        """The number of each row at its class."""
        index = classes[..., None].astype(np.intp, copy=False)
        return np.take_along_axis(rows, index, -1)[..., 0].astype(self.dtype)

    def largest(self, rows: Array) -> tuple[Array, Array]:
        """The class of each row's largest logit, and that logit."""
        classes = rows.shape[-1]
        distant = rows.strides[-1] != rows.itemsize and rows.size > 1024 * classes
        if classes > 4 and not distant:
            largest = rows.argmax(-1)
            return largest, self.at(rows, largest)
        # argmax along distant or few classes takes 3 to 10 times longer than this.
        label = np.min_scalar_type(classes - 1).type
        top = rows[..., 0].astype(self.dtype)
        largest = np.zeros_like(top, label)
        larger, here = np.empty_like(top, bool), np.empty_like(largest)
        for k in range(1, classes):
            np.greater(rows[..., k], top, out=larger)
            np.multiply(larger.view(np.uint8), label(k), out=here)
            np.maximum(largest, here, out=largest)
            np.maximum(top, rows[..., k], out=top, casting="same_kind")
        return largest, top

    def log_sums(self, num_threads: int | None) -> Iterator[tuple[slice, Array, Array, Array]]:
        """Blocks of rows: where, the logits, the largest, and log-sum-exp less the largest."""
        for where, rows, largest, top in self.blocks():
            rest = self.loss(rows, largest, num_threads=num_threads)
            # nan here; then the largest alone decides
            rest[np.isinf(top)] = 0
            yield where, rows, top, rest


def softmax(
    pred: ArrayLike, *, axis: int = -1, out: Array | None = None, num_threads: int | None = None
) -> Array:
    r"""Class probabilities of rows of logits.

    .. math:: p_j = e^{z_j} / \sum_k e^{z_k}

    Parameters
    ----------
    pred : array_like
        Logits, floats, or integers, which count as float64.
    axis : int, optional
        The axis of the classes.
    out : ndarray, optional
        Where to write, of pred's shape; floats. May be `pred` itself.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Returns
    -------
    ndarray
        Of pred's shape and floating dtype.

    Raises
    ------
    ValueError, TypeError
        For an axis that is not there or is empty, dtypes that are not numbers, an `out` that does
        not fit.

    Notes
    -----
    ``scipy.special.softmax``: a row whose largest logit is inf, -inf or nan is nan. Results below
    the smallest normal number are 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.softmax([[0.0, 0.0], [-1000.0, 1000.0]])
    array([[0.5, 0.5],
           [0. , 1. ]])
    """
    call = _RowCall("softmax", pred, axis)
    result = call.out(out, call.pred.shape)
    with np.errstate(all="ignore"):
        for where, rows, largest, top in call.blocks():
            written = p = call.rows(result)[where]
            if is_half(p.dtype):  # one class is made of another's before it is rounded
                p = np.empty(p.shape, call.dtype)
            if rows.shape[-1] == 1:
                written[...] = (top - top + 1)[..., None]
                continue
            # The label is 0, or 1 where 0 is the largest: at the label the gradient is p - 1, in
            # which a small p is lost. It is the largest's p times a ratio.
            second = largest == 0
            p_label = np.where(second, rows[..., 1], rows[..., 0]).astype(call.dtype)
            np.exp(np.subtract(p_label, top, out=p_label), out=p_label)
            call.loss.grad(rows, second.view(np.uint8), out=p, num_threads=num_threads)
            p_label *= call.at(p, largest)
            p_label[p_label < np.finfo(p_label.dtype).tiny] = 0  # as the kernels do
            np.copyto(p[..., 0], p_label, where=~second, casting="same_kind")
            np.copyto(p[..., 1], p_label, where=second, casting="same_kind")
            if p is not written:
                written[...] = p
    return result


def log_softmax(
    pred: ArrayLike, *, axis: int = -1, out: Array | None = None, num_threads: int | None = None
) -> Array:
    r"""Logarithms of the class probabilities of rows of logits.

    .. math:: z_j - \log \sum_k e^{z_k}

    Parameters
    ----------
    pred : array_like
        Logits, floats, or integers, which count as float64.
    axis : int, optional
        The axis of the classes.
    out : ndarray, optional
        Where to write, of pred's shape; floats. May be `pred` itself.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Returns
    -------
    ndarray
        Of pred's shape and floating dtype.

    Raises
    ------
    ValueError, TypeError
        For an axis that is not there or is empty, dtypes that are not numbers, an `out` that does
        not fit.

    Notes
    -----
    ``scipy.special.log_softmax``, whose results for rows with inf and nan it has; but the class of
    the largest logit keeps its precision however confident it is, down to -1e-300.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.log_softmax([70.0, 0.0])
    array([-3.97544974e-31, -7.00000000e+01])
    """
    call = _RowCall("log_softmax", pred, axis)
    result = call.out(out, call.pred.shape)
    with np.errstate(all="ignore"):
        for where, rows, top, rest in call.log_sums(num_threads):
            log_p = call.rows(result)[where]
            if is_half(rows.dtype) or is_half(log_p.dtype):  # rounded once
                log_p[...] = np.subtract(rows, top[..., None], dtype=call.dtype) - rest[..., None]
                continue
            np.subtract(rows, top[..., None], out=log_p, casting="same_kind")
            log_p -= rest[..., None]
    return result


def logsumexp(
    pred: ArrayLike, *, axis: int = -1, out: Array | None = None, num_threads: int | None = None
) -> Array:
    r"""Logarithm of the sum of the exponentials of each row of logits.

    .. math:: \log \sum_k e^{z_k}

    Parameters
    ----------
    pred : array_like
        Logits, floats, or integers, which count as float64.
    axis : int, optional
        The axis to sum over.
    out : ndarray, optional
        Where to write, of pred's shape without `axis`; floats.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Returns
    -------
    ndarray
        Of pred's shape without `axis`, and its floating dtype.

    Raises
    ------
    ValueError, TypeError
        For an axis that is not there or is empty, dtypes that are not numbers, an `out` that does
        not fit.

    Notes
    -----
    ``scipy.special.logsumexp`` over one axis, without its other options: inf where a logit is inf,
    -inf where all are -inf, nan where one is nan.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.logsumexp([[1000.0, 1000.0], [0.0, 0.0]])
    array([1.00069315e+03, 6.93147181e-01])
    """
    call = _RowCall("logsumexp", pred, axis)
    result = call.out(out, call.shape)
    sums = result if result.ndim else result[None]
    with np.errstate(all="ignore"):
        for where, _, top, rest in call.log_sums(num_threads):
            np.add(top, rest, out=sums[where], casting="same_kind")
    return result
