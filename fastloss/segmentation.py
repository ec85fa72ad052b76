"""Losses of how much a predicted region overlaps the true one.

Each is one number of three sums per class: the overlap I, what is predicted wrongly (FP) and what
is missed (FN), so two passes are made over the prediction: the sums, then the gradients. The first
leaves in the gradient's array p - e, with e = 1 in one class of every position (in the binary modes
where p > 1/2), which a kernel computes: from it come p and 1 - p, neither with a cancellation. All
else goes a block at a time, with the classes as first axis and the samples as second.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fastloss._gate import floating
from fastloss._general import Array, Set, arithmetic, derivative, integer, is_half
from fastloss._loss import Domain, Flag, Gradients, NonNegative, Unweighted, first_order_loss, named
from fastloss.binary import binary_cross_entropy_with_logits
from fastloss.multiclass import cross_entropy

Mode = Literal["binary", "multiclass", "multilabel"]

CHUNK = 1 << 20  # numbers the kernel takes at a time, enough for several threads
BLOCK = 1 << 15  # numbers NumPy takes at a time: half a dozen arrays of them stay in the L2 cache


def _blocks(shape: tuple[int, ...], size: int) -> Iterator[tuple[slice, ...]]:
    """Slices that cut an array into blocks of about so many numbers."""
    if not shape:
        yield ()
        return
    inner = math.prod(shape[1:])
    if inner > size and shape[0]:
        for i in range(shape[0]):
            for rest in _blocks(shape[1:], size):
                yield slice(i, i + 1), *rest
        return
    step = max(1, size // max(1, inner))
    for i in range(0, shape[0], step):
        yield slice(i, i + step), *(slice(None) for _ in shape[1:])


class _Overlap:
    """A checked call; classes come first, then samples (or one, of all), then the rest."""

    def __init__(
        self,
        run: Set,
        pred: Any,
        target: Any,
        mode: Any,
        from_logits: Any,
        per_sample: Any,
        ignore_index: Any,
        axis: Any,
        num_threads: int | None,
    ) -> None:
        z, t = run.array("pred", pred), run.array("target", target)
        if mode is None:
            mode = "binary" if t.shape == z.shape else "multiclass"
        self.mode = run.loss.check_knob("mode", mode)
        self.from_logits = bool(run.check_knob("from_logits", from_logits))
        axis = integer(run.loss, "axis", axis)
        if ignore_index is not None:
            ignore_index = integer(run.loss, "ignore_index", ignore_index)
        self.ignore_index, self.num_threads = ignore_index, num_threads
        self.labels = self.mode == "multiclass" and t.ndim != z.ndim
        if self.mode == "multiclass" and not self.labels and ignore_index is not None:
            raise run.fail(
                ValueError, "ignore_index", "needs labels or a binary target, got class shares"
            )
        if self.mode != "binary" and not -z.ndim <= axis < z.ndim:
            raise run.fail(
                ValueError,
                "axis",
                f"expected -{z.ndim} <= axis < {z.ndim} for {z.ndim} axes, got {axis}",
            )
        # What the targets may be, these losses check.
        if self.mode == "multiclass":
            self.kernel = named(cross_entropy, run.name)
            self.kernel.normalizer(z, t, axis=axis, ignore_index=ignore_index)
        else:
            self.kernel = named(binary_cross_entropy_with_logits, run.name)
            kept = None if ignore_index is None else t != ignore_index
            self.kernel.normalizer(z, t, mask=kept)
        self.axis = None if self.mode == "binary" else axis
        self.per_sample = bool(run.check_knob("per_sample", per_sample))
        self.dtype = arithmetic(z.dtype)
        self.given = z, t
        self.pred = self.turned(z)
        self.target = self.turned(t, classes=not self.labels)
        self.classes = len(self.pred)
        self.shape = self.pred.shape[1:]

    def turned(self, a: Array, classes: bool = True) -> Array:
        """An array with its classes first, if it has any, and an axis of samples behind them."""
        if classes:
            a = a[None] if self.axis is None else np.moveaxis(a, self.axis, 0)
        alone = self.per_sample and a.ndim > classes
        return a if alone else np.expand_dims(a, int(classes))

    def ignored(self, where: tuple[slice, ...]) -> Array | None:
        """Which positions of a block are left out, if any may be."""
        if self.ignore_index is None:
            return None
        target = self.target[where] if self.labels else self.target[:, *where]
        return np.asarray(target == self.ignore_index)

    def residual(self, where: tuple[slice, ...], out: Array) -> None:
        """Write p - e for one chunk; of probabilities p itself, 0 where it is ignored."""
        z, ignored = self.pred[:, *where], self.ignored(where)
        options: dict[str, Any] = {"reduction": "none", "num_threads": self.num_threads}
        if not self.from_logits:
            np.copyto(out, z, casting="same_kind")
            if ignored is not None:
                np.copyto(out, 0, where=ignored)
        elif self.mode == "multiclass":
            label = self.target[where] if self.labels else self.target[:, *where].argmax(0)
            options |= {"axis": 0, "ignore_index": self.ignore_index}
            self.kernel.grad(z, label, out=out, **options)
        else:
            kept = None if ignored is None else ~ignored
            e = z > 0
            if kept is not None:
                e &= kept
            self.kernel.grad(z, e, mask=kept, out=out, **options)
            # The sign says e, also of 0.
            np.abs(out, out=out)
            np.negative(out, out=out, where=e)

    def parts(self, where: tuple[slice, ...], r: Array) -> tuple[Array, Array, Array, Array]:
        """(p, 1 - p, t, e) of a block, from its residuals r."""
        k = np.arange(self.classes).reshape(-1, *(1,) * (r.ndim - 1))
        if self.labels:
            hot = self.target[where] == k
            ignored = self.ignored(where)
            if ignored is not None:
                hot &= ~ignored
            t = hot.astype(self.dtype, order="C")
            e = t if self.from_logits else np.zeros_like(t)
        else:
            given = self.target[:, *where]
            t = np.empty(r.shape, self.dtype)
            np.copyto(t, given, casting="same_kind" if floating(given.dtype) else "unsafe")
            if self.mode == "multiclass":
                e = (given.argmax(0) == k).astype(self.dtype, order="C")
            else:
                ignored = self.ignored(where)
                if ignored is not None:
                    np.copyto(t, 0, where=ignored)
                e = np.signbit(r).astype(self.dtype, order="C")
            if not self.from_logits:
                e[...] = 0
        p = np.add(r, e, out=np.empty_like(t))
        rest = np.subtract(1, e)
        rest -= r
        return p, rest, t, e

    def sums(self, residuals: Array | None) -> Array:
        """FP, FN and I of each class and sample; `residuals` is where to keep p - e."""
        sums = np.zeros((3, self.classes, self.shape[0]))
        spare = None
        for chunk in _blocks(self.shape, max(1, CHUNK // max(1, self.classes))):
            if residuals is not None:
                r = residuals[:, *chunk]
            else:
                shape = self.pred[:, *chunk].shape
                if spare is None or spare.shape != shape:
                    spare = np.empty(shape, self.dtype)
                r = spare
            self.residual(chunk, r)
            for block in _blocks(r.shape[1:], max(1, BLOCK // max(1, self.classes))):
                where = tuple(
                    slice((c.start or 0) + (b.start or 0), (c.start or 0) + (b.start or 0) + n)
                    for c, b, n in zip(chunk, block, r[0][block].shape, strict=True)
                )
                p, rest, t, _ = self.parts(where, r[:, *block])
                axes = tuple(range(2, p.ndim))
                rest *= t
                overlap = p * t
                p -= overlap
                # p (1 - t): of a hard target the difference is exact.
                for total, part in zip(sums, (p, rest, overlap), strict=True):
                    total[:, where[0]] += part.sum(axes, dtype=np.float64)
        return sums

    def gradients(self, r: Array, off: Array, on: Array) -> None:
        """Turn residuals into gradients: the loss's by p is `off` + t (`on` - `off`)."""
        for where in _blocks(self.shape, max(1, BLOCK // max(1, self.classes))):
            g = r[:, *where]
            p, rest, t, e = self.parts(where, g)
            behind = (..., *(None,) * (g.ndim - 2))
            low, high = off[:, where[0]][behind], on[:, where[0]][behind]
            u = t * (high - low).astype(self.dtype)
            u += low.astype(self.dtype)
            if self.from_logits and self.mode == "multiclass":
                # p (u - sum p u), the sum being that of e u and of (p - e) u. The first is one
                # class's u, whose own difference is then exactly 0.
                of_rest = (g * u).sum(0)
                u -= np.multiply(e, u, out=rest).sum(0)
                u -= of_rest
                u *= p
            elif self.from_logits:
                u *= p
                u *= rest
            else:
                ignored = self.ignored(where)
                if ignored is not None:
                    np.copyto(u, 0, where=ignored)
            g[...] = u


def _overlap(
    run: Set,
    pred: Any,
    target: Any,
    alpha: float,
    beta: float,
    smooth: float,
    common: Any,
    **knobs: Any,
) -> Gradients[Array]:
    """The mean over classes of (a FP + b FN) / (I + a FP + b FN + smooth)."""
    options = run.common(common)
    call = _Overlap(run, pred, target, **knobs, **options)
    (out,) = run.outs(common, {"pred": call.given[0]}, {"target": call.given[1]}, several=False)
    own = None
    if "g" in run.results:
        # Numbers of the sums' precision are kept between the passes.
        fits = out is not None and out.dtype == call.dtype and out.dtype.isnative
        own = out if fits else np.empty(call.given[0].shape, call.dtype)
    residuals = None if own is None else call.turned(own)
    with np.errstate(all="ignore"):
        fp, fn, both = call.sums(residuals)
        wrong = alpha * fp + beta * fn
        overlap = both + smooth
        whole = overlap + wrong
        some = whole != 0  # 0 / 0, of a class that is nowhere, is no loss
        value = np.divide(wrong, whole, out=np.zeros_like(wrong), where=some)
        count = value.size
        total = float(value.mean()) if count else math.nan
        if own is None or residuals is None:
            return run(total, None)
        scale = np.divide(1 / max(count, 1), whole, out=np.zeros_like(whole), where=some)
        off = alpha * (overlap / whole) * scale
        on = -(beta * (overlap / whole) + value) * scale
        off[~some] = on[~some] = 0
        call.gradients(residuals, off, on)
        if out is None and is_half(call.given[0].dtype):
            out = np.empty(own.shape, derivative(call.given[0].dtype))
        if out is not None and own is not out:
            out[...] = own
    return run(total, own if out is None else out)


def _naive(
    m: Any,
    pred: Any,
    target: Any,
    alpha: Any,
    beta: Any,
    smooth: Any,
    mode: Any,
    from_logits: Any,
    per_sample: Any,
    ignore_index: Any,
    axis: Any,
) -> Any:
    if mode is None:
        mode = "binary" if target.shape == pred.shape else "multiclass"
    keep = m.ones_like(pred)
    if mode == "multiclass":
        e = m.exp(pred - pred.max(axis, keepdims=True))
        p = e / e.sum(axis, keepdims=True) if from_logits else pred
        t = target
        if target.ndim < pred.ndim:
            t = m.stack([target == k for k in range(pred.shape[axis])], axis) * m.ones_like(pred)
            keep = keep * m.expand_dims(target != ignore_index, axis)
    else:
        p, t = 1 / (1 + m.exp(-pred)) if from_logits else pred, target
        keep = keep * (target != ignore_index)
    if mode == "binary":
        p, t, keep = p[None], t[None], keep[None]
    else:
        p, t, keep = (m.moveaxis(a, axis, 0) for a in (p, t, keep))
    axes = tuple(range(2 if per_sample else 1, p.ndim))
    both, fp, fn = ((keep * a).sum(axes) for a in (p * t, p * (1 - t), (1 - p) * t))
    return (1 - (both + smooth) / (both + alpha * fp + beta * fn + smooth)).mean()


CLASS_TARGETS = Domain(label="class labels, class shares, or in [0, 1] if binary")


@first_order_loss(
    Set,
    target=CLASS_TARGETS,
    formula=r"\frac{1}{C} \sum_c \left("
    r"1 - \frac{2 \sum p_c t_c + s}{\sum p_c + \sum t_c + s}\right)",
    use_when="segmentation, imbalance: regions are small beside the background",
    naive=lambda m, pred, target, smooth, **knobs: _naive(
        m, pred, target, 0.5, 0.5, smooth / 2, **knobs
    ),
)
def dice_loss(
    run: Set,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    smooth: NonNegative = 1e-5,
    mode: Mode | None = None,
    from_logits: Flag = True,
    per_sample: Flag = False,
    ignore_index: int | None = None,
    axis: int = -1,
    **common: Unpack[Unweighted],
) -> Gradients[Array]:
    r"""One less the Dice coefficient of predicted and true regions, the mean over classes.

    .. math:: \frac{1}{C} \sum_c \left(
              1 - \frac{2 \sum p_c t_c + s}{\sum p_c + \sum t_c + s}\right)

    Parameters
    ----------
    pred : array_like
        Logits, of which p is the softmax or the sigmoid, or probabilities p; floats, or
        integers, which count as float64.
    target : array_like
        Integer labels of pred's shape without `axis`; or of pred's shape in [0, 1], checked, in the
        binary modes, and class shares t, not checked, with ``mode="multiclass"``.
    smooth : float, optional
        The s, not negative.
    mode : {"binary", "multiclass", "multilabel"}, optional
        One region, pred's sigmoid; classes of which a position has one, the softmax over `axis`; or
        classes of which it may have several, the sigmoid. By default "binary" for a target of
        pred's shape, else "multiclass".
    from_logits : bool, optional
        False: `pred` are probabilities, which are not checked, and the gradient is by them.
    per_sample : bool, optional
        True: the sums are over each sample, an index of the first axis (of those but `axis`), and
        the mean over classes and samples. By default they are over the whole batch.
    ignore_index : int, optional
        The label, or binary target, of positions to leave out, such as 255.
    axis : int, optional
        The axis of the classes; not used if binary.
    out : ndarray or tuple, optional
        The gradient's array, or a tuple of one entry per result. May be `pred` itself.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels or targets out of range (the first is named), an `out`
        that does not fit.

    Notes
    -----
    F. Milletari, N. Navab and S.-A. Ahmadi, V-Net, 2016, whose denominator has squares in place of
    p and t. Sums over the whole batch are the default of segmentation_models_pytorch, where
    `smooth` is 0 and absent classes count 0; sums per sample that of MONAI, where it is 1e-5 too. A
    class that is nowhere, with no smoothing either, has loss and gradient 0. The sums are of
    1 - p where the target is 1, so that a loss near 0 keeps its digits. An empty batch has loss 0,
    per sample nan.

    Examples
    --------
    >>> import numpy as np
    >>> import fastloss as fl
    >>> logits = np.array([[[4.0, 0.0], [0.0, 4.0]]])  # one image of two pixels, two classes
    >>> round(fl.dice_loss(logits, np.array([[0, 1]])), 6)
    0.017986
    >>> fl.dice_loss([0.5, 0.5], [1.0, 0.0], from_logits=False, smooth=0)
    0.5
    """
    return _overlap(
        run,
        pred,
        target,
        0.5,
        0.5,
        run.check_knob("smooth", smooth) / 2,
        common,
        mode=mode,
        from_logits=from_logits,
        per_sample=per_sample,
        ignore_index=ignore_index,
        axis=axis,
    )


@first_order_loss(
    Set,
    target=CLASS_TARGETS,
    formula=r"\frac{1}{C} \sum_c \left(1 - \frac{I_c + s}{I_c + \alpha F_c + \beta M_c + s}\right)",
    use_when="segmentation, imbalance: missed and invented regions cost differently",
    naive=_naive,
)
def tversky_loss(
    run: Set,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    alpha: NonNegative = 0.5,
    beta: NonNegative = 0.5,
    smooth: NonNegative = 1e-5,
    mode: Mode | None = None,
    from_logits: Flag = True,
    per_sample: Flag = False,
    ignore_index: int | None = None,
    axis: int = -1,
    **common: Unpack[Unweighted],
) -> Gradients[Array]:
    r"""One less the Tversky index: Dice that weighs false positives and negatives apart.

    .. math:: \frac{1}{C} \sum_c \left(
              1 - \frac{I_c + s}{I_c + \alpha F_c + \beta M_c + s}\right), \quad
              I = \sum p t, \ F = \sum p (1 - t), \ M = \sum (1 - p) t

    Parameters
    ----------
    pred : array_like
        Logits, of which p is the softmax or the sigmoid, or probabilities p; floats, or
        integers, which count as float64.
    target : array_like
        Integer labels of pred's shape without `axis`; or of pred's shape in [0, 1], checked, in the
        binary modes, and class shares t, not checked, with ``mode="multiclass"``.
    alpha, beta : float, optional
        The weights of what is predicted wrongly and of what is missed, not negative. 1/2 and 1/2 is
        `dice_loss` with twice the `smooth`, 1 and 1 the Jaccard index.
    smooth : float, optional
        The s, not negative.
    mode : {"binary", "multiclass", "multilabel"}, optional
        One region, pred's sigmoid; classes of which a position has one, the softmax over `axis`; or
        classes of which it may have several, the sigmoid. By default "binary" for a target of
        pred's shape, else "multiclass".
    from_logits : bool, optional
        False: `pred` are probabilities, which are not checked, and the gradient is by them.
    per_sample : bool, optional
        True: the sums are over each sample, an index of the first axis (of those but `axis`), and
        the mean over classes and samples. By default they are over the whole batch.
    ignore_index : int, optional
        The label, or binary target, of positions to leave out, such as 255.
    axis : int, optional
        The axis of the classes; not used if binary.
    out : ndarray or tuple, optional
        The gradient's array, or a tuple of one entry per result. May be `pred` itself.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels or targets out of range (the first is named), an `out`
        that does not fit.

    Notes
    -----
    S. S. M. Salehi, D. Erdogmus and A. Gholipour, Tversky loss function for image segmentation
    using 3D fully convolutional deep networks, 2017, where 0.3 and 0.7 favour finding all. Sums,
    `smooth` and classes that are nowhere as in `dice_loss`.

    Examples
    --------
    >>> import fastloss as fl
    >>> missed = fl.tversky_loss([0.0, 1.0], [1.0, 1.0], from_logits=False, alpha=0.3, beta=0.7)
    >>> wrong = fl.tversky_loss([1.0, 1.0], [0.0, 1.0], from_logits=False, alpha=0.3, beta=0.7)
    >>> round(missed, 4), round(wrong, 4)
    (0.4118, 0.2308)
    """
    return _overlap(
        run,
        pred,
        target,
        run.check_knob("alpha", alpha),
        run.check_knob("beta", beta),
        run.check_knob("smooth", smooth),
        common,
        mode=mode,
        from_logits=from_logits,
        per_sample=per_sample,
        ignore_index=ignore_index,
        axis=axis,
    )
