"""Losses and scores of dask arrays, in one lazy graph (``pip install 'fastloss[dask]'``).

``fastloss.dask.huber_loss(pred, target)`` is `fastloss.huber_loss` of dask arrays, or of columns of
a dask dataframe: every loss of elements and of rows, and `score`. The arrays are cut along their
first axis; each block is a call of fastloss, so that what is of a sample has the same bits, and
means are made of the blocks' sums. Nothing runs before ``compute``.

The plain cross-entropy of labels, and all that `score` says of a row, are merged from chunks of
classes, the sums in two steps, in float64. Other losses of rows bring the classes together first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

import fastloss as fl
from fastloss._general import arithmetic, derivative
from fastloss._loss import METHODS
from fastloss.scoring import DTYPES, TOPK, _names

Array = NDArray[Any]
KINDS = ("elementwise", "rows")


def __getattr__(name: str) -> DaskLoss:
    loss = fl.losses().get(name)
    if loss is None or loss.kind not in KINDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return DaskLoss(loss)


def __dir__() -> list[str]:
    return ["score", *(name for name, loss in fl.losses().items() if loss.kind in KINDS)]


class DaskLoss:
    """A loss of dask arrays: the methods of the `Loss`, with lazy results.

    Examples
    --------
    >>> import dask.array as da
    >>> import fastloss.dask as fld
    >>> pred, target = da.ones(10, chunks=4), da.zeros(10, chunks=4)
    >>> float(fld.huber_loss(pred, target, delta=0.5).compute())
    0.375
    """

    def __init__(self, loss: fl.Loss[Any, Any]) -> None:
        self.loss = loss
        self.__doc__ = loss.__doc__

    def __repr__(self) -> str:
        return f"<dask {self.loss!r}>"

    def bind(self, **options: Any) -> DaskLoss:
        """Return this loss with other defaults."""
        return DaskLoss(self.loss.bind(**options))

    def __call__(self, pred: Any, target: Any, **options: Any) -> Any:
        """The loss: a lazy number, or an array of each sample with reduction='none'."""
        return self._run("__call__", pred, target, options)

    def value_and_grad(self, pred: Any, target: Any, **options: Any) -> Any:
        """(loss, gradient)."""
        return self._run("value_and_grad", pred, target, options)

    def grad(self, pred: Any, target: Any, **options: Any) -> Any:
        """The gradient."""
        return self._run("grad", pred, target, options)

    def grad_and_hess(self, pred: Any, target: Any, **options: Any) -> Any:
        """(gradient, diagonal Hessian)."""
        return self._run("grad_and_hess", pred, target, options)

    def value_grad_hess(self, pred: Any, target: Any, **options: Any) -> Any:
        """(loss, gradient, diagonal Hessian)."""
        return self._run("value_grad_hess", pred, target, options)

    def normalizer(self, pred: Any, target: Any, **options: Any) -> Any:
        """What 'mean' divides by."""
        return self._run("normalizer", pred, target, options)

    def _run(self, method: str, pred: Any, target: Any, options: dict[str, Any]) -> Any:
        loss, results = self.loss, METHODS[method][0]
        name = loss.name
        pred, target = _array(name, "pred", pred), _array(name, "target", target)
        if loss.kind == "rows":
            axis = _axis(name, options.pop("axis", loss.values({})["axis"]), pred.ndim)
            target = da.moveaxis(target, axis, -1) if target.ndim == pred.ndim else target
            pred = da.moveaxis(pred, axis, -1)
            options["axis"] = -1
        if options.pop("out", None) is not None:
            raise TypeError(f"{name}: out: is not for dask arrays, which are lazy")
        weights = {key: options.pop(key, None) for key in ("sample_weight", "mask")}
        reduction = options.pop("reduction", None) or loss._bound.get("reduction", "mean")
        given = options.pop("normalizer", None)
        options.setdefault("num_threads", 1)  # the scheduler has threads of its own
        loss.bind(**{k: v for k, v in options.items() if k != "num_threads"})  # checked now
        if reduction not in ("mean", "batchmean", "sum", "none"):
            raise ValueError(f"{name}: reduction: got {reduction!r}")
        if (
            loss.kind == "rows"
            and results == "l"
            and pred.numblocks[-1] > 1
            and loss == fl.cross_entropy
            and set(options) <= {"axis", "ignore_index", "num_threads"}
            and np.issubdtype(target.dtype, np.integer)
        ):
            return self._of_class_chunks(pred, target, weights, reduction, given, options)
        blocks = _Blocks(name, pred, {"target": target, **weights}, loss.kind == "rows")
        call = partial(_call, loss, options=options)
        if reduction == "none":
            found = blocks.map(partial(call, method, reduction="none"))
            return self._arrays(blocks, results, found)
        divisor = self._divisor(blocks, reduction, given, options)
        if results == "":
            return divisor
        if results == "l":
            sums = blocks.map(partial(call, "__call__", reduction="sum"))
            return _number(dask.delayed(_mean)(sums, divisor))
        found = blocks.map(partial(_scaled, loss, method, options=options), divisor)
        arrays = self._arrays(blocks, results.replace("l", ""), found, skip="l" in results)
        if "l" not in results:
            return arrays
        total = _number(dask.delayed(_sum)([part[0] for part in found]))
        return (total, *(arrays if isinstance(arrays, tuple) else (arrays,)))

    def _divisor(self, blocks: _Blocks, reduction: str, given: Any, options: Any) -> Any:
        """What the sums are divided by, which is known without the predictions."""
        if given is not None:
            return _number(dask.delayed(float)(given))
        if reduction == "sum":
            return _number(dask.delayed(float)(1.0))
        if reduction == "batchmean":
            return _number(dask.delayed(_sum)(blocks.map(_length, without_pred=True)))
        pred = blocks.pred
        weigh = partial(_weight, self.loss, pred.ndim, pred.shape[1:], pred.dtype, options)
        return _number(dask.delayed(_sum)(blocks.map(weigh, without_pred=True)))

    def _arrays(self, blocks: _Blocks, results: str, found: list[Any], skip: bool = False) -> Any:
        """The dask arrays of the blocks' results."""
        arrays = []
        several = len(results) + skip > 1
        for i, result in enumerate(results):
            of = [part[i + skip] if several else part for part in found]
            elementwise = self.loss.kind == "elementwise"
            tail = (
                blocks.pred.shape[1:] if result in "gh" or elementwise else blocks.pred.shape[1:-1]
            )
            dtype = arithmetic(blocks.pred.dtype)
            dtype = derivative(blocks.pred.dtype) if result in "gh" else dtype
            arrays.append(blocks.join(of, tail, dtype))
        return arrays[0] if len(arrays) == 1 else tuple(arrays)

    def _of_class_chunks(
        self, pred: Any, target: Any, weights: Any, reduction: str, given: Any, options: Any
    ) -> Any:
        """Cross-entropy of labels, merged from chunks of classes."""
        ignored = options.get("ignore_index")
        found = score(pred, target, fields=("loss",), mask=weights["mask"], ignore_index=ignored)
        blocks = _Blocks(
            self.loss.name, found["loss"], {"target": target, **weights}, of_rows=False
        )
        each = blocks.map(partial(_weighed, ignored))
        if reduction == "none":
            return blocks.join(
                [part[0] for part in each], found["loss"].shape[1:], found["loss"].dtype
            )
        sums = [part[1] for part in each]
        if given is None and reduction == "mean":
            given = dask.delayed(_sum)([part[2] for part in each])
        divisor = {"mean": given, "batchmean": pred.shape[0], "sum": 1.0}[reduction]
        return _number(dask.delayed(_mean)(sums, divisor))


class _Blocks:
    """Arrays in blocks along the first axis, all cut as the first is."""

    def __init__(self, name: str, pred: Any, others: dict[str, Any], of_rows: bool) -> None:
        if not pred.ndim:
            raise ValueError(f"{name}: pred: expected an axis of samples, got a single number")
        self.pred = pred.rechunk(dict.fromkeys(range(1, pred.ndim), -1))
        self.chunks = self.pred.chunks[0]
        parts: dict[str, list[Any]] = {"pred": _first_axis(self.pred)}
        self.whole: dict[str, Any] = {}
        for key, x in others.items():
            if x is None:
                continue
            if np.ndim(x) == 0 and not isinstance(x, da.Array):
                self.whole[key] = x
                continue
            a = _array(name, key, x)
            rows = a.shape[0]
            if a.numblocks[0] != len(self.chunks) or not any(map(math.isnan, self.chunks)):
                if rows != pred.shape[0]:
                    raise ValueError(
                        f"{name}: {key}: expected {pred.shape[0]} on the first axis, as pred has, "
                        f"got shape {a.shape}"
                    )
                a = a.rechunk({0: self.chunks, **dict.fromkeys(range(1, a.ndim), -1)})
            else:  # of unknown lengths, as of a dataframe: partition by partition
                a = a.rechunk(dict.fromkeys(range(1, a.ndim), -1))
            parts[key] = _first_axis(a)
        self.parts = [
            dict(zip(parts, part, strict=True)) for part in zip(*parts.values(), strict=True)
        ]

    def map(
        self, function: Callable[..., Any], *args: Any, without_pred: bool = False
    ) -> list[Any]:
        """The function of each block, delayed."""
        call = dask.delayed(function, pure=True)
        return [
            call(
                *args,
                **{k: v for k, v in part.items() if k != "pred" or not without_pred},
                **self.whole,
            )
            for part in self.parts
        ]

    def join(self, parts: Sequence[Any], tail: tuple[Any, ...], dtype: np.dtype[Any]) -> Any:
        """The array of delayed blocks, each of `tail` behind its first axis."""
        found = [
            da.from_delayed(part, (n, *tail), dtype)
            for part, n in zip(parts, self.chunks, strict=True)
        ]
        return da.concatenate(found, allow_unknown_chunksizes=True)


def _first_axis(a: Any) -> list[Any]:
    return list(a.to_delayed().reshape(a.numblocks[0]))


def _array(name: str, key: str, x: Any) -> Any:
    """A dask array of what is one, of a column, or of a NumPy array."""
    if isinstance(x, da.Array):
        return x
    if hasattr(x, "to_dask_array"):
        return x.to_dask_array()
    try:
        return da.asarray(x)
    except Exception as error:
        raise TypeError(f"{name}: {key}: expected a dask array, got {type(x)}") from error


def _axis(name: str, axis: Any, ndim: int) -> int:
    if not isinstance(axis, int) or not -ndim <= axis < ndim:
        raise ValueError(f"{name}: axis: {axis} is not one of pred's {ndim} axes")
    return axis % ndim


def _number(x: Any) -> Any:
    return da.from_delayed(x, (), np.float64)


def _call(loss: Any, method: str, *, options: Any, pred: Array, target: Array, **more: Any) -> Any:
    function = loss if method == "__call__" else getattr(loss, method)
    return function(pred, target, **options, **more)


def _scaled(loss: Any, method: str, divisor: float, *, options: Any, **more: Any) -> Any:
    """The method's results of a block, as of a mean over all."""
    divisor = float(divisor)
    if divisor > 0:
        return _call(loss, method, options=options, reduction="mean", normalizer=divisor, **more)
    results = _call(loss, method, options=options, reduction="sum", **more)
    several = isinstance(results, tuple)
    parts = results if several else (results,)
    if divisor == 0:  # nothing is kept: the mean is nan, the gradients 0
        parts = tuple(np.zeros_like(a) if isinstance(a, np.ndarray) else math.nan for a in parts)
    else:
        parts = tuple(a / divisor for a in parts)
    return parts if several else parts[0]


def _weight(
    loss: Any, ndim: int, tail: Any, dtype: Any, options: Any, *, target: Array, **more: Any
) -> float:
    shape = target.shape if target.ndim == ndim else (*target.shape, tail[-1])
    pred = np.broadcast_to(np.zeros((), dtype), shape)
    return float(loss.normalizer(pred, target, **options, **more))


def _length(*, target: Array, **more: Any) -> float:
    return float(len(target))


def _sum(parts: Sequence[Any]) -> float:
    values = [float(part) for part in parts]
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)


def _mean(parts: Sequence[Any], divisor: Any) -> float:
    divisor = float(divisor)
    return _sum(parts) / divisor if divisor else math.nan


def _weighed(
    ignored: Any, *, pred: Array, target: Array, mask: Any = None, sample_weight: Any = None
) -> tuple[Array, float, float]:
    """Losses of samples, nan where left out: weighed, their sum, and that of the weights."""
    weight = np.ones(pred.shape)
    for given in (sample_weight, mask):
        if given is not None:
            w = np.asarray(given)
            weight *= w.reshape(w.shape + (1,) * (weight.ndim - w.ndim))
    if ignored is not None:
        weight[target == ignored] = 0
    each = np.where(weight == 0, 0, pred * weight).astype(pred.dtype)
    return each, float(each.sum(dtype=np.float64)), float(weight.sum())


# ---- scores ----


def score(
    logits: Any,
    target: Any,
    *,
    fields: Sequence[str] = ("logprob", "lse", "argmax"),
    topk: int = 0,
    loss: fl.Loss[Any, Any] | None = None,
    mask: Any = None,
    ignore_index: int | None = None,
    axis: int = -1,
    num_threads: int | None = 1,
) -> dict[str, Any]:
    """`fastloss.score` of dask arrays: a dict of lazy arrays, in one graph.

    Chunks of classes are merged: what is of a sample is then within some roundings of `score`,
    and without them the same to the bit.

    Parameters
    ----------
    logits, target, mask : dask arrays, or columns of a dask dataframe
        As for `fastloss.score`, cut along the first axis.
    fields, topk, loss, ignore_index, axis
        As there.
    num_threads : int, optional
        Of each block; the scheduler has threads of its own.

    Returns
    -------
    dict of str to dask.array.Array

    Raises
    ------
    ValueError, TypeError
        As `fastloss.score`: for unknown fields and shapes now, for labels when it is computed.
    """
    names = _names(fields, topk, loss)
    logits, target = _array("score", "logits", logits), _array("score", "target", target)
    logits = da.moveaxis(logits, _axis("score", axis, logits.ndim), -1)
    if topk and not 0 < topk <= logits.shape[-1]:
        raise ValueError(f"score: topk: expected 0 to the {logits.shape[-1]} classes, got {topk}")
    options = {"topk": topk, "ignore_index": ignore_index, "num_threads": num_threads}
    merged = logits.numblocks[-1] > 1 and (loss is None or loss == fl.cross_entropy)
    if merged:
        parts, blocks = _of_class_chunks(logits, target, mask, options)
    else:
        blocks = _Blocks("score", logits, {"target": target, "mask": mask}, True)
        fields = [name for name in names if name not in TOPK]
        parts = blocks.map(partial(_score, {**options, "fields": fields, "loss": loss}))
    elementwise = loss is not None and loss.kind == "elementwise"
    found = {}
    for name in names:
        tail = logits.shape[1:] if name == "loss" and elementwise else logits.shape[1:-1]
        tail = (*tail, topk) if name in TOPK else tail
        dtype = np.dtype(DTYPES.get(name, arithmetic(logits.dtype)))
        found[name] = blocks.join([part[name] for part in parts], tail, dtype)
    return found


def _score(options: Any, *, pred: Array, target: Array, mask: Any = None) -> dict[str, Array]:
    return fl.score(pred, target, mask=mask, **options)


def _of_class_chunks(
    logits: Any, target: Any, mask: Any, options: Any
) -> tuple[list[Any], _Blocks]:
    """The scores of each block of samples: the label's logit, then each chunk, then all."""
    logits = logits.rechunk(dict.fromkeys(range(1, logits.ndim - 1), -1))
    blocks = _Blocks(
        "score", da.moveaxis(logits, -1, 0)[0], {"target": target, "mask": mask}, False
    )
    chunks = logits.to_delayed().reshape(logits.numblocks[0], -1)
    begins = np.cumsum([0, *logits.chunks[-1]])[:-1].tolist()
    classes = logits.shape[-1]
    narrow = arithmetic(logits.dtype)
    pick, part = dask.delayed(_pick, pure=True), dask.delayed(_part, pure=True)
    merge = dask.delayed(_merge, pure=True)
    found = []
    for row, others in zip(chunks, blocks.parts, strict=True):
        labels = dask.delayed(_labels, pure=True)(
            classes, options["ignore_index"], others["target"], others.get("mask")
        )
        own = dask.delayed(_first, pure=True)(
            [pick(chunk, begin, labels) for chunk, begin in zip(row, begins, strict=True)]
        )
        parts = [
            part(chunk, begin, labels, own, options["topk"], options["num_threads"])
            for chunk, begin in zip(row, begins, strict=True)
        ]
        found.append(merge(parts, labels, own, options["topk"], narrow))
    return found, blocks


def _labels(classes: int, ignored: Any, target: Array, mask: Any) -> Array:
    """The labels, -1 where a sample is left out."""
    labels = np.asarray(target).astype(np.int64)
    keep = np.ones(labels.shape, bool) if ignored is None else labels != ignored
    if mask is not None:
        m = np.asarray(mask, bool)
        keep &= m.reshape(m.shape + (1,) * (keep.ndim - m.ndim))
    bad = keep & ((labels < 0) | (labels >= classes))
    if bad.any():
        raise ValueError(
            f"score: target: {labels[bad][0]} is not a class label: expected 0 <= label < {classes}"
        )
    return np.where(keep, labels, -1)


def _pick(chunk: Array, begin: int, labels: Array) -> Array:
    """The labels' logits that are in a chunk of classes; nothing, as nan, of the others."""
    at = labels - begin
    inside = (at >= 0) & (at < chunk.shape[-1])
    index = np.where(inside, at, 0)[..., None]
    own = np.take_along_axis(chunk, index, -1)[..., 0].astype(np.float64)
    return np.stack([np.where(inside, own, 0.0), inside.astype(np.float64)])


def _first(parts: Sequence[Array]) -> Array:
    """The labels' logits."""
    own: Array = parts[0][0]
    for value, inside in parts[1:]:
        own = np.where(inside != 0, value, own)
    return own


def _part(
    chunk: Array, begin: int, labels: Array, own: Array, topk: int, num_threads: Any
) -> dict[str, Array]:
    """What a chunk of classes says, in float64, of its rows with and without the label."""
    z = np.array(chunk, np.float64)
    at = labels - begin
    inside = (at >= 0) & (at < z.shape[-1])
    k = min(topk, z.shape[-1])
    anything = np.zeros(labels.shape, np.int64)
    found = fl.score(
        z, anything, fields=("lse", "entropy", "argmax"), topk=max(k, 1), num_threads=num_threads
    )
    rank = (z > own[..., None]).sum(-1)
    best = np.where(found["topk"] < 0, 0, found["topk"])
    values = np.take_along_axis(z, best, -1)
    index = np.where(inside, at, 0)[..., None]
    there = np.take_along_axis(z, index, -1)
    np.put_along_axis(z, index, np.where(inside[..., None], -np.inf, there), -1)
    return {
        "odd": np.isnan(chunk).any(-1),
        "lse": found["lse"],
        "entropy": found["entropy"],
        "rank": rank,
        "others": fl.logsumexp(z, num_threads=num_threads),
        "rival": z.max(-1),
        "best": best + begin,
        "values": values,
    }


def _merge(
    parts: Sequence[dict[str, Array]], labels: Array, own: Array, topk: int, narrow: np.dtype[Any]
) -> dict[str, Array]:
    """The scores of rows, from those of their chunks of classes."""
    with np.errstate(all="ignore"):
        stacked = {key: np.stack([part[key] for part in parts], -1) for key in ("lse", "others")}
        lse, others = fl.logsumexp(stacked["lse"]), fl.logsumexp(stacked["others"])
        odds = np.where(own == np.inf, np.nan, others - own)
        loss = fl.softplus(odds)
        rival = np.max([part["rival"] for part in parts], 0)
        # The entropy of the chunk, and of which chunk it is.
        share = np.exp(stacked["lse"] - lse[..., None])
        entropy = np.stack([part["entropy"] for part in parts], -1) + (
            lse[..., None] - stacked["lse"]
        )
        entropy = np.where(share == 0, 0, share * entropy).sum(-1)
        entropy = np.where(np.isinf(lse), np.nan, entropy)
        values = np.concatenate([part["values"] for part in parts], -1)
        best = np.concatenate([part["best"] for part in parts], -1)
        order = np.argsort(-values, -1, kind="stable")
        top = np.take_along_axis(best, order, -1)
        logs = np.take_along_axis(values, order, -1) - lse[..., None]
        margin = own - rival
    odd = np.any([part["odd"] for part in parts], 0) | (labels < 0)
    argmax = top[..., 0]
    found = {
        "logprob": -loss,
        "loss": loss,
        "lse": lse,
        "entropy": entropy,
        "margin": margin,
        "confidence": fl.sigmoid(-odds),
        "argmax": argmax,
        "rank": np.sum([part["rank"] for part in parts], 0),
        "correct": argmax == labels,
        "topk": top[..., :topk],
        "topk_logprob": logs[..., :topk],
    }
    for name, a in found.items():
        empty = {np.dtype(bool): False, np.dtype(np.int64): -1}.get(a.dtype, np.nan)
        left_out = odd[..., None] if name in TOPK else odd
        a = np.where(left_out, empty, a)
        found[name] = a.astype(narrow) if a.dtype.kind == "f" else a
    return found
