"""Scores of samples: what a row of logits says of its label, a million rows at a time.

Everything about a row comes from one pass over it (fastloss/kernels/scores.pxi); nothing of the
logits' size is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss import kernels
from fastloss._gate import SCORES, ScoreJob
from fastloss._general import Call, integer
from fastloss._loss import Loss, named
from fastloss._threads import run
from fastloss.multiclass import cross_entropy
from fastloss.training import LossMeter

Array = NDArray[Any]
TOPK = ("topk", "topk_logprob")
FIELDS = tuple(name for name in SCORES if name not in TOPK)
DTYPES = {"argmax": np.int64, "rank": np.int64, "topk": np.int64, "correct": np.bool_}
_CALL = named(cross_entropy, "score")


def score(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    fields: Sequence[str] = ("logprob", "lse", "argmax"),
    topk: int = 0,
    loss: Loss[Any, Any] | None = None,
    mask: ArrayLike | None = None,
    ignore_index: int | None = None,
    axis: int = -1,
    out: Mapping[str, Array] | None = None,
    num_threads: int | None = None,
) -> dict[str, Array]:
    r"""Score each row of logits z against its label y, in one pass over the row.

    .. math:: \log p_y = z_y - \log \sum_k e^{z_k}

    and what else of the row is asked for. No softmax is made of the whole array, nor a copy, of
    memory maps and shifted views neither.

    Parameters
    ----------
    logits : array_like
        Of any shape; floats, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Integer labels of any dtype, of the logits' shape without `axis`. For the field ``"loss"``
        alone, whatever `loss` takes.
    fields : sequence of str, optional
        Any of those below; what is not asked for is not computed.

        ==================  =======================================================================
        ``"logprob"``       the logarithm of the label's probability: -`cross_entropy`
        ``"loss"``          the loss of the sample; given a `loss`, it is there without being named
        ``"lse"``           the logarithm of the sum of the exponentials of the row
        ``"entropy"``       of the row's softmax, in nats: -sum p log p
        ``"margin"``        the label's logit less the highest of the others; inf of one class
        ``"confidence"``    the probability of the label
        ``"argmax"``        the class of the highest logit; of equal ones the first
        ``"rank"``          how many classes are above the label, equal ones not counted: 0 is best
        ``"correct"``       whether `argmax` is the label
        ==================  =======================================================================
    topk : int, optional
        k > 0 adds ``"topk"``, the k highest classes of each row in descending order, of equal ones
        the first, and ``"topk_logprob"``, the logarithms of their probabilities; both have an axis
        of k at the end.
    loss : Loss, optional
        What ``"loss"`` is, by default `cross_entropy`: any loss of rows or of elements, with its
        knobs by `Loss.bind`. One that is not the plain `cross_entropy` is another pass.
    mask : array_like of bool, optional
        True is kept, shaped like a weight of a loss. What is masked is neither read nor checked.
    ignore_index : int, optional
        The label of samples to leave out, such as -100.
    axis : int, optional
        The axis of the classes.
    out : mapping of str to ndarray, optional
        Where to write some of the results, by name: arrays of the result's shape; floats of any
        float dtype, the others of their own dtype. None may overlap another or an input.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Returns
    -------
    dict of str to ndarray
        A result for each field, of the logits' shape without `axis`. `argmax`, `rank` and `topk`
        are int64, `correct` is bool, all else is float64 for logits of float64 and integers, else
        float32. A row that is left out has nan, -1 and False; so has a row with a nan.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels out of range (the first is named), labels that are not
        integers, unknown fields, k out of range, an `out` that does not fit.

    Notes
    -----
    `logprob` is the negative of ``cross_entropy(..., reduction="none")``, to the bit but for a few
    rows of 65536 classes or more, which that shares among threads. Of an infinite logit it is nan
    as that is, and `lse` is inf.

    Examples
    --------
    >>> import fastloss as fl
    >>> found = fl.score([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]], [0, 1], fields=("rank", "margin"))
    >>> found["rank"], found["margin"]
    (array([0, 1]), array([ 2., -2.]))
    >>> fl.score([[2.0, 0.0, 1.0]], [0], fields=(), topk=2)["topk"]
    array([[0, 2]])
    """
    names = _names(fields, topk, loss)
    of_rows = [name for name in names if name != "loss" or loss is None or loss == cross_entropy]
    if of_rows and loss is not None and loss.kind == "elementwise":
        raise ValueError(
            f"score: fields: {of_rows[0]} is of rows of classes, {loss.name} of elements; ask for "
            "the loss alone by fields=()"
        )
    call = _ScoreCall(logits, target, axis, bool(of_rows))
    if ignore_index is not None:
        ignore_index = integer(_CALL, "ignore_index", ignore_index)
    threads = call.threads(num_threads)
    if loss is not None and "loss" not in of_rows:
        call.loss = _per_sample(loss, call, axis, ignore_index)
    topk = integer(_CALL, "topk", topk)
    results = call.results(names, topk, {} if out is None else out, mask)
    keep = call.weight("mask", mask)
    if of_rows:
        call.run({name: results[name] for name in of_rows}, topk, keep, ignore_index, threads)
    if call.loss is not None:
        call.loss(call.pred, call.target, mask=mask, out=(results["loss"],), num_threads=threads)
        if keep is not None:
            results["loss"][~keep] = math.nan
        if ignore_index is not None:
            results["loss"][call.target == ignore_index] = math.nan
    return results


def _names(fields: Any, topk: Any, loss: Any) -> list[str]:
    """The results that are asked for, each once."""
    if isinstance(fields, str) or not isinstance(fields, Sequence):
        raise TypeError(f"score: fields: expected a sequence of names, got {fields!r}")
    for name in fields:
        if name not in FIELDS:
            raise ValueError(f"score: fields: expected some of {', '.join(FIELDS)}, got {name!r}")
    if loss is not None and not isinstance(loss, Loss):
        raise TypeError(f"score: loss: expected a Loss, got {loss!r}")
    if loss is not None and loss.kind not in ("elementwise", "rows"):
        raise ValueError(
            f"score: loss: expected one of elements or rows, got {loss.name} of {loss.kind}"
        )
    names = [*fields, *(["loss"] if loss is not None else []), *(TOPK if topk else ())]
    return list(dict.fromkeys(names))


def _per_sample(loss: Loss[Any, Any], call: _ScoreCall, axis: int, ignore_index: Any) -> Any:
    """The loss with the options of this call."""
    options: dict[str, Any] = {"reduction": "none"}
    if loss.kind == "rows":
        options["axis"] = axis
        if ignore_index is not None:
            if "ignore_index" not in loss.knobs:
                raise call.fail(ValueError, "ignore_index", f"{loss.name} has none; use mask")
            options["ignore_index"] = ignore_index
    elif ignore_index is not None:
        raise call.fail(ValueError, "ignore_index", "needs labels of rows; use mask")
    else:
        call.shape = call.pred.shape
    return named(loss, "score").bind(**options)


class _ScoreCall(Call):
    """The checked arguments of a call."""

    loss: Any = None

    def __init__(self, logits: Any, target: Any, axis: Any, of_labels: bool) -> None:
        super().__init__(_CALL.grad.__self__, logits, target, None, ("logits", "target"))
        axis, shape = integer(_CALL, "axis", axis), self.pred.shape
        if not -len(shape) <= axis < len(shape):
            raise self.fail(
                ValueError, "axis", f"{axis} is not one of the logits' {len(shape)} axes"
            )
        self.axis = axis % len(shape)
        self.shape = shape[: self.axis] + shape[self.axis + 1 :]
        self.classes = shape[self.axis]
        if of_labels:
            self.check_rows()

    def check_rows(self) -> None:
        """Raise where the target has not a label for each row; their range is seen by `run`."""
        shape, cure = self.pred.shape, ""
        if not self.classes:
            raise self.fail(ValueError, "logits", f"has no classes: shape {shape}")
        if self.target.shape == shape:
            cure = f"; of one-hot rows target.argmax({self.axis}); fields=() for a loss alone"
        self.check_labels("class labels", f"the logits' {shape}", self.axis, cure)

    def results(
        self, names: Sequence[str], topk: int, out: Mapping[str, Array], mask: Any
    ) -> dict[str, Array]:
        """The arrays to write, those of `out` or new ones."""
        if topk and not 0 < topk <= self.classes:
            raise self.fail(
                ValueError, "topk", f"expected 0 to the {self.classes} classes, got {topk}"
            )
        if not isinstance(out, Mapping):
            raise self.fail(TypeError, "out", f"expected a dict of arrays, got {type(out)}")
        for name in out:
            if name not in names:
                raise self.fail(
                    ValueError, "out", f"{name!r} is not asked for; {', '.join(names)} are"
                )
        inputs = {"logits": self.pred, "target": self.target, "mask": mask}
        found: dict[str, Array] = {}
        for name in names:
            shape = self.shape + (topk,) * (name in TOPK)
            dtype = np.dtype(DTYPES[name]) if name in DTYPES else None
            if name not in out:
                found[name] = np.empty(shape, dtype or self.dtype)
                continue
            self.check_out(out[name], shape, name, inputs, {}, dtype)
            for other in found.values():
                if np.shares_memory(out[name], other):
                    raise self.fail(ValueError, "out", f"{name} overlaps another of the arrays")
            found[name] = out[name]
        return found

    def run(
        self,
        results: dict[str, Array],
        topk: int,
        keep: Array | None,
        ignore_index: int | None,
        threads: int,
    ) -> None:
        """Check the labels, then write the results, which are not of another loss."""
        outer = self.order(self.axis)
        near = [abs(self.pred.strides[i]) for i in outer if self.pred.shape[i] > 1]
        job = ScoreJob(
            wide=self.dtype.itemsize == 8,
            order=0,
            block=kernels.cross_entropy,
            knobs=(),
            size=math.prod(self.shape),
            classes=self.classes,
            ignore_index=ignore_index,
            softmax=True,
            across=0 < min(near, default=0) < abs(self.pred.strides[self.axis]),
            topk=topk,
        )
        rows = [i - (i > self.axis) for i in outer]  # the same axes, of the shape without classes
        job.put("pred", self.pred.transpose([*outer, self.axis]), True)
        for operand, a in {"target": self.target, "mask": keep}.items():
            if a is not None:
                job.put(operand, a.transpose(rows))
        for name, a in results.items():
            job.put_score(name, a.transpose([*rows, len(rows)] if name in TOPK else rows))
        for driver in ("weigh", "scores"):
            job.start(driver)
            run(job, threads)
            if job.bad:
                raise self.not_a_label(self.classes, ignore_index, None, keep)


def score_batches(
    batches: Iterable[tuple[Any, ...]],
    *,
    meter: LossMeter | None = None,
    fields: Sequence[str] = ("logprob", "lse", "argmax"),
    topk: int = 0,
    loss: Loss[Any, Any] | None = None,
    ignore_index: int | None = None,
    axis: int = -1,
    num_threads: int | None = None,
) -> Iterator[dict[str, Array]]:
    """Score a stream of batches one after the other, and keep the totals.

    Nothing is kept of a batch but its sums, so the memory is that of one batch.

    Parameters
    ----------
    batches : iterable of tuple
        Logits and target, as for `score`; after them may come a dict with `mask`, as for `score`,
        and for the meter `sample_weight`, of the losses' shape or its leading axes, and
        `segments`, a label of a group for each sample.
    meter : LossMeter, optional
        To which each batch is added before it is yielded: the weighted mean of the losses, the
        accuracy, and the same of each class and of each segment. Of a loss that is not of labels
        there is no accuracy and no class. Rows that are left out are not counted.
    fields, topk, loss, ignore_index, axis, num_threads
        As for `score`.

    Yields
    ------
    dict of str to ndarray
        What `score` returns of each batch, in their order.

    Raises
    ------
    ValueError, TypeError
        As `score`, when the batch in question is reached.

    Notes
    -----
    Meters of several streams are merged by ``+``.

    Examples
    --------
    >>> import fastloss as fl
    >>> batches = [([[2.0, 0.0], [0.0, 1.0]], [0, 0]), ([[0.0, 3.0]], [1])]
    >>> meter = fl.LossMeter()
    >>> [found["argmax"].tolist() for found in fl.score_batches(batches, meter=meter)]
    [[0, 1], [1]]
    >>> meter.weight, round(meter.mean, 6), round(meter.accuracy, 6)
    (3.0, 0.496259, 0.666667)
    """
    names = _names(fields, topk, loss)
    of_rows = [name for name in names if name != "loss" or loss is None]
    labels = bool(of_rows)  # else the target may be anything that the loss takes
    counted = () if meter is None else ("loss", "correct") if labels else ("loss",)
    wanted = [name for name in dict.fromkeys((*names, *counted)) if name not in TOPK]
    for i, batch in enumerate(batches):
        if not isinstance(batch, (tuple, list)) or not 2 <= len(batch) <= 3:
            raise TypeError(
                f"score_batches: batches: expected (logits, target) or (logits, target, options), "
                f"got {type(batch)} as number {i}"
            )
        options = dict(batch[2]) if len(batch) == 3 else {}
        weight, segments = options.pop("sample_weight", None), options.pop("segments", None)
        mask = options.pop("mask", None)
        if options:
            raise TypeError(
                f"score_batches: batches: unexpected option {next(iter(options))!r} of number {i}; "
                "there are mask, sample_weight and segments"
            )
        found = score(
            *batch[:2],
            fields=wanted,
            topk=topk,
            loss=loss,
            mask=mask,
            ignore_index=ignore_index,
            axis=axis,
            num_threads=num_threads,
        )
        if meter is not None:
            target = np.asarray(batch[1])
            keep = np.ones(found["loss"].shape, np.float64)
            for given in (mask, weight):
                if given is not None:
                    w = np.asarray(given)
                    keep *= w.reshape(w.shape + (1,) * (keep.ndim - w.ndim))
            if ignore_index is not None:
                keep[target == ignore_index] = 0
            meter.update_each(
                found["loss"],
                keep,
                correct=found.get("correct"),
                classes=target if labels else None,
                segments=segments,
            )
        yield {name: found[name] for name in names}
