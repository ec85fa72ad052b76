"""The thin layer: everything a call may bring that the compiled gate does not take at once.

It checks (all before anything is written), lays weights and outputs over the call's shape, finds
the denominator, and hands a `Job` to the threads. Nothing here touches the elements: that is the
kernels', a block at a time, whatever the layout, so no array is copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MethodType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastloss._gate import ElementwiseGate, Job, RowsGate, readable
from fastloss._loss import CLASSES, DISTRIBUTIONS, as_number
from fastloss._threads import check_threads, get_num_threads, run

Array = NDArray[Any]
REDUCTIONS = ("mean", "batchmean", "sum", "none")

# To so many bytes of prediction one thread is as fast as two: waking a second takes 80 us, the work
# of 1 MiB in cross-entropy and BCE, of 4 MiB in the losses that only move memory.
SERIAL = 1 << 20
# Outputs above this many bytes are written past the cache: they would push everything out of it.
STREAM = 8 << 20


def array(loss: str, name: str, x: Any) -> Array:
    """The argument as an array that kernels read."""
    try:
        a = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{loss}: {name}: {error}") from None
    if not readable(a.dtype):
        cure = f"; convert it with {name}.astype(np.float32)" if a.dtype.kind == "f" else ""
        raise TypeError(
            f"{loss}: {name}: expected float32, float64 or integers, got {a.dtype}{cure}"
        )
    return a


class Call:
    """What is common to the general calls of one gate: the checked arguments of one call."""

    def __init__(self, gate: Any, pred: Any, target: Any, axis: int | None) -> None:
        self.gate = gate
        self.name = gate.loss.name
        self.pred = self.array("pred", pred)
        self.target = self.array("target", target)
        self.dtype = np.dtype(
            np.float32
            if self.pred.dtype.kind == "f" and self.pred.dtype.itemsize == 4
            else np.float64
        )
        self.shape = self.pred.shape
        if axis is not None:
            self.shape = self.shape[:axis] + self.shape[axis + 1 :]

    def fail(self, kind: type[Exception], argument: str, message: str) -> Exception:
        return kind(f"{self.name}: {argument}: {message}")

    def array(self, name: str, x: Any) -> Array:
        return array(self.name, name, x)

    def weight(self, name: str, x: Any) -> Array | None:
        """A weight or mask laid over the per-sample shape."""
        if x is None:
            return None
        if name == "mask" and np.asarray(x).dtype.kind != "b":
            raise self.fail(TypeError, name, f"expected bool, got {np.asarray(x).dtype}")
        a = self.array(name, x)
        lead = a.shape == self.shape[: a.ndim]
        full = a.ndim == len(self.shape) and all(
            n in (1, m) for n, m in zip(a.shape, self.shape, strict=True)
        )
        if not lead and not full:
            raise self.fail(
                ValueError,
                name,
                f"expected a scalar, the leading axes of {self.shape}, or as many axes with 1s, "
                f"got shape {a.shape}",
            )
        return np.broadcast_to(a.reshape(a.shape + (1,) * (len(self.shape) - a.ndim)), self.shape)

    def first_bad(
        self, x: Array, bad: Any, weight: Array | None, mask: Array | None
    ) -> tuple[str, Any]:
        """The first index in C order where bad(x) holds and counts, and the value there."""
        one = np.broadcast_to(np.True_, x.shape)
        operands = [x, one if weight is None else weight, one if mask is None else mask]
        flags: Sequence[Any] = ["external_loop", "buffered", "zerosize_ok"]
        at = 0
        with np.nditer(operands, flags=flags, order="C", buffersize=65536) as it:
            for values, weights, kept in it:
                found = bad(values) & (weights != 0) & kept
                if found.any():
                    i = int(found.argmax())
                    index = np.unravel_index(at + i, x.shape)
                    return ", ".join(str(int(k)) for k in index), values[i]
                at += len(values)
        return "?", "a value that another thread has changed since"

    def reduction(self, reduction: str | None, normalizer: Any) -> str:
        if reduction is None:
            reduction = self.gate.defaults.get("reduction", "mean")
        if reduction not in REDUCTIONS:
            raise self.fail(
                ValueError, "reduction", f"expected one of {REDUCTIONS}, got {reduction!r}"
            )
        if normalizer is not None:
            if reduction != "mean":
                raise self.fail(
                    ValueError, "normalizer", f"goes with reduction='mean', not {reduction!r}"
                )
            try:
                number = as_number(normalizer)
            except TypeError as error:
                raise self.fail(TypeError, "normalizer", str(error)) from None
            if not 0 < number < math.inf:
                raise self.fail(
                    ValueError, "normalizer", f"expected a positive number, got {normalizer!r}"
                )
        return reduction

    def counts(self, reduction: str, normalizer: Any) -> bool:
        """Whether the sum of the weights is asked for."""
        return self.gate.results == "" or (reduction == "mean" and normalizer is None)

    def outputs(self, out: Any, reduction: str, inputs: dict[str, Any]) -> dict[str, Array | None]:
        """The arrays to write, by result; None for a loss that is reduced."""
        results: str = self.gate.results
        given: tuple[Any, ...] = (None,) * len(results)
        if isinstance(out, tuple):
            if len(out) != len(results):
                raise self.fail(
                    ValueError, "out", f"expected {len(results)} entries, got {len(out)}"
                )
            given = out
        elif out is not None:
            if results not in ("g", "lg"):
                raise self.fail(
                    TypeError, "out", f"expected a tuple of {len(results)}, got {type(out)}"
                )
            given = (out,) if results == "g" else (None, out)
        arrays: dict[str, Array | None] = {}
        for result, array in zip(results, given, strict=True):
            shape = self.shape if result == "l" else self.pred.shape
            if result == "l" and reduction != "none":
                if array is not None:
                    raise self.fail(
                        ValueError, "out", f"the loss is a float with reduction={reduction!r}"
                    )
                arrays[result] = None
            elif array is None:
                arrays[result] = np.empty(shape, self.dtype)
            else:
                self.check_out(array, shape, result == "g", inputs)
                for other in arrays.values():
                    if other is not None and np.shares_memory(array, other):
                        raise self.fail(ValueError, "out", "two of the arrays overlap")
                arrays[result] = array
        return arrays

    def check_out(
        self, array: Any, shape: tuple[int, ...], may_be_pred: bool, inputs: dict[str, Any]
    ) -> None:
        if not isinstance(array, np.ndarray):
            raise self.fail(TypeError, "out", f"expected an ndarray, got {type(array)}")
        if array.dtype.kind != "f" or not readable(array.dtype):
            raise self.fail(TypeError, "out", f"expected float32 or float64, got {array.dtype}")
        if array.shape != shape:
            raise self.fail(ValueError, "out", f"expected shape {shape}, got {array.shape}")
        if not array.flags.writeable:
            raise self.fail(ValueError, "out", "expected a writeable array, got a read-only one")
        extent = array.itemsize
        for stride, n in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
            if n > 1 and stride < extent:
                raise self.fail(ValueError, "out", "its elements overlap each other")
            extent += stride * (n - 1)
        for name, x in inputs.items():
            if not isinstance(x, np.ndarray) or not np.may_share_memory(array, x):
                continue
            if name == "pred" and may_be_pred and _same(array, x):
                continue
            if np.shares_memory(array, x):
                cure = "; only the gradient may be exactly pred" if name == "pred" else ""
                raise self.fail(ValueError, "out", f"overlaps {name}{cure}")

    def order(self, skip: int | None) -> list[int]:
        """The axes but `skip`, the most distant in memory first: the order to walk `pred` in."""
        axes = [i for i in range(self.pred.ndim) if i != skip]
        return sorted(axes, key=lambda i: -abs(self.pred.strides[i]))

    def threads(self, num_threads: Any) -> int:
        if num_threads is not None:
            n = check_threads(num_threads, f"{self.name}: num_threads")
        else:
            n = self.gate.defaults.get("num_threads") or get_num_threads()
        return n if self.pred.nbytes > SERIAL else 1

    def reduce(
        self,
        job: Job,
        driver: str,
        reduction: str,
        count: float,
        arrays: dict[str, Array | None],
        num_threads: int,
        check: Any,
    ) -> Any:
        """Runs the job and returns what the method does; `count` is the mean's denominator."""
        length = self.shape[0] if self.shape else 1
        divisor = {"mean": count, "batchmean": length}.get(reduction, 1.0)
        written = sum(a.nbytes for a in arrays.values() if a is not None)
        # No further than the largest number: 0 times inf is nan.
        largest = np.finfo(np.float32 if self.dtype.itemsize == 4 else np.float64).max
        scale = min(1 / divisor, float(largest)) if divisor else 0.0
        job.start(driver, scale, written > STREAM)
        run(job, num_threads)
        if job.bad:
            check()
        results: list[Any] = []
        for result, array in arrays.items():
            if array is None:
                results.append(_divide(job.total(), divisor))
                continue
            if divisor == 0 and result != "l":
                array[...] = 0  # 0 times inf or nan is not 0
            results.append(array)
        return results[0] if len(results) == 1 else tuple(results)


def _divide(total: float, divisor: float) -> float:
    return total / divisor if divisor else math.nan


def _same(a: Array, b: Array) -> bool:
    return (
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and a.strides == b.strides
        and a.shape == b.shape
        and a.dtype == b.dtype
    )


def _checked(loss: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options of `bind`, checked; arrays as read-only copies."""
    done: dict[str, Any] = {}
    for name, value in options.items():
        if name == "reduction":
            if value not in REDUCTIONS:
                raise ValueError(
                    f"{loss.name}: reduction: expected one of {REDUCTIONS}, got {value!r}"
                )
            done[name] = value
        elif name == "num_threads":
            done[name] = (
                None if value is None else check_threads(value, f"{loss.name}: num_threads")
            )
        elif value is None and loss.knobs[name].optional:
            done[name] = None
        elif loss.knobs[name].check is not None:
            done[name] = loss.check_knob(name, value)
        elif name in ("axis", "ignore_index"):
            done[name] = _integer(loss, name, value)
        elif name == "class_mask":
            done[name] = np.array(_class_mask(loss.name, value))
            done[name].flags.writeable = False
        else:
            done[name] = np.array(_per_class(loss.name, name, value))
            done[name].flags.writeable = False
    return done


def _per_class(loss: str, name: str, x: Any) -> Array:
    """A knob of one number per class, or for all: none negative."""
    a = array(loss, name, x)
    if a.ndim > 1:
        raise ValueError(f"{loss}: {name}: expected a number or one axis, got shape {a.shape}")
    if a.size and not (a >= 0).all():
        raise ValueError(f"{loss}: {name}: expected numbers >= 0, got {a.min()}")
    return a


def _class_mask(loss: str, x: Any) -> Array:
    a = array(loss, "class_mask", x)
    if a.dtype.kind != "b":
        raise TypeError(f"{loss}: class_mask: expected bool, got {a.dtype}")
    return a


def _integer(loss: Any, name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{loss.name}: {name}: expected an integer, got {value!r}")
    number = int(value.__index__())
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{loss.name}: {name}: expected a 64-bit integer, got {value!r}")
    return number


def _gate(loss: Any, results: str) -> Any:
    methods = [m for m in vars(loss).values() if isinstance(m, MethodType)]
    gates: list[Any] = [m.__self__ for m in methods]
    return next(gate for gate in gates if gate.results == results)


class _Pickles:
    """A bound method such as `loss.grad` is pickled as an attribute of its gate: the loss's."""

    loss: Any
    results: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _gate, (self.loss, self.results)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.loss, name)


class Elementwise(_Pickles, ElementwiseGate):
    """Losses of one prediction and one target each."""

    kind: ClassVar[str] = "elementwise"
    options: ClassVar[tuple[str, ...]] = ()
    checked = staticmethod(_checked)

    def general(
        self,
        pred: Any,
        target: Any,
        knobs: tuple[float, ...],
        *,
        per_class: Any,
        sample_weight: Any,
        mask: Any,
        reduction: str | None,
        normalizer: Any,
        out: Any,
        num_threads: Any,
    ) -> Any:
        """Do a call of any kind."""
        call = Call(self, pred, target, None)
        shape = call.shape
        if call.target.shape != shape:
            cure = (
                "; target[:, None] has"
                if call.target.shape == shape[:-1] and shape[-1] == 1
                else ""
            )
            raise call.fail(
                ValueError,
                "target",
                f"expected pred's shape {shape}, got {call.target.shape}{cure}",
            )
        extra, extra_value = self._per_class(call, per_class)
        weight, keep = call.weight("sample_weight", sample_weight), call.weight("mask", mask)
        reduction = call.reduction(reduction, normalizer)
        threads = call.threads(num_threads)
        inputs = {
            "pred": call.pred,
            "target": call.target,
            "sample_weight": sample_weight,
            "mask": mask,
            self.per_class_name(): per_class,
        }
        arrays = call.outputs(out, reduction, inputs)
        domain = self.loss.domain
        bounded = math.isfinite(domain.low) or math.isfinite(domain.high)
        job = Job(
            wide=call.dtype.itemsize == 8,
            order=2 if "h" in arrays else 1 if "g" in arrays else 0,
            block=self.block,
            knobs=knobs,
            size=call.pred.size,
            extra_value=extra_value,
            domain=(domain.low, domain.high, domain.ends_only) if bounded else None,
        )
        axes = call.order(None)
        operands = {
            "pred": call.pred,
            "target": call.target,
            "extra": extra,
            "weight": weight,
            "mask": keep,
            "loss": arrays.get("l"),
            "grad": arrays.get("g"),
            "hess": arrays.get("h"),
        }
        for name, a in operands.items():
            if a is not None:
                job.put(name, a.transpose(axes))

        def check() -> None:
            def outside(y: Any) -> Any:
                return ~domain.contains(y)

            index, value = call.first_bad(call.target, outside, weight, keep)
            raise ValueError(f"{call.name}: target[{index}] = {value} is not in {domain}")

        count = float(call.pred.size)
        in_place = "g" in arrays and arrays["g"] is not None and _same(arrays["g"], call.pred)
        weighted = weight is not None or keep is not None
        counted = weighted and call.counts(reduction, normalizer)
        if counted or (bounded and (in_place or self.results == "")):
            job.start("weigh")
            run(job, threads)
            if job.bad:
                check()
            count = job.total()
        if self.results == "":
            return count
        if normalizer is not None:
            count = float(normalizer)
        return call.reduce(job, "elementwise", reduction, count, arrays, threads, check)

    def per_class_name(self) -> str:
        """The knob that is an array along the last axis, if the loss has one."""
        return next((k for k, knob in self.loss.knobs.items() if knob.check is None), "per_class")

    def _per_class(self, call: Call, x: Any) -> tuple[Array | None, float]:
        if x is None:
            return None, 1.0
        name = self.per_class_name()
        a = _per_class(call.name, name, x)
        if a.ndim == 0:
            return None, float(a)
        if not call.shape or a.shape != call.shape[-1:]:
            raise call.fail(
                ValueError,
                name,
                f"expected a number or the last axis of {call.shape}, got shape {a.shape}",
            )
        return np.broadcast_to(a, call.shape), 1.0


class Rows(_Pickles, RowsGate):
    """Losses of one row of class scores and a label, or a row of class probabilities, each."""

    kind: ClassVar[str] = "rows"
    options: ClassVar[tuple[str, ...]] = ("class_weight", "label_smoothing", "ignore_index", "axis")
    divergence: ClassVar[int] = 0
    checked = staticmethod(_checked)

    def general(
        self,
        pred: Any,
        target: Any,
        knobs: tuple[float, ...],
        *,
        class_weight: Any,
        label_smoothing: Any,
        ignore_index: Any,
        axis: Any,
        class_mask: Any,
        sample_weight: Any,
        mask: Any,
        reduction: str | None,
        normalizer: Any,
        out: Any,
        num_threads: Any,
    ) -> Any:
        """Do a call of any kind."""
        axis = _integer(self.loss, "axis", axis)
        pred = array(self.loss.name, "pred", pred)
        ndim = pred.ndim
        if not -ndim <= axis < ndim:
            raise ValueError(f"{self.loss.name}: axis: {axis} is not one of pred's {ndim} axes")
        axis %= ndim
        call = Call(self, pred, target, axis)
        smoothing = 0.0
        if "label_smoothing" in self.loss.knobs:
            smoothing = self.loss.check_knob("label_smoothing", label_smoothing)
        if ignore_index is not None:
            ignore_index = _integer(self.loss, "ignore_index", ignore_index)
        classes = call.pred.shape[axis]
        if classes == 0:
            raise call.fail(ValueError, "pred", f"has no classes: shape {call.pred.shape}")
        soft = call.target.ndim == ndim
        self._check_target(call, axis, soft, ignore_index)
        weights = self._per_class(call, class_weight, classes)
        kept = self._class_mask(call, class_mask, axis)
        weight, keep = call.weight("sample_weight", sample_weight), call.weight("mask", mask)
        reduction = call.reduction(reduction, normalizer)
        threads = call.threads(num_threads)
        inputs = {
            "pred": call.pred,
            "target": call.target,
            "sample_weight": sample_weight,
            "mask": mask,
            "class_weight": weights,
            "class_mask": kept,
        }
        arrays = call.outputs(out, reduction, inputs)
        outer = call.order(axis)
        near = min((abs(call.pred.strides[i]) for i in outer if call.pred.shape[i] > 1), default=0)
        across = 0 < near < abs(call.pred.strides[axis])  # neighbours are rows, not classes
        scalars = [name for name, knob in self.loss.knobs.items() if knob.scalar]
        given = dict(zip(scalars, knobs, strict=True))
        job = Job(
            wide=call.dtype.itemsize == 8,
            order=2 if "h" in arrays else 1 if "g" in arrays else 0,
            block=self.block,
            knobs=knobs,
            size=math.prod(call.shape),
            classes=classes,
            smoothing=smoothing,
            ignore_index=ignore_index,
            soft=soft,
            across=across,
            temperature=given.get("temperature", 1.0),
            z_loss=given.get("z_loss", 0.0),
            divergence=self.divergence,
            target_logits=given.get("from_logits", 0.0) != 0,
        )
        rows = [i - (i > axis) for i in outer]  # the same axes, of the per-sample shape
        operands = {
            "pred": call.pred,
            "target": call.target,
            "grad": arrays.get("g"),
            "hess": arrays.get("h"),
            "weight": weight,
            "mask": keep,
            "loss": arrays.get("l"),
            "class_mask": kept,
        }
        for name, a in operands.items():
            if a is None:
                continue
            if a.ndim == ndim and name not in ("weight", "mask", "loss"):
                job.put(name, a.transpose([*outer, axis]), True)
            else:
                job.put(name, a.transpose(rows))
        counted = "class_weight" in self.loss.knobs  # in the mean's denominator
        if weights is not None and counted:
            job.put("extra", weights)

        def check() -> None:
            def bad(y: Any) -> Any:
                return ((y < 0) | (y >= classes)) & (
                    True if ignore_index is None else y != ignore_index
                )

            index, value = call.first_bad(call.target, bad, weight, keep)
            if index == "?" and kept is not None:
                labels = np.where(call.target < classes, call.target, 0).astype(np.intp)
                of_label = np.expand_dims(labels.clip(0), axis)
                out = ~np.take_along_axis(kept, of_label, axis).squeeze(axis)
                out &= True if ignore_index is None else call.target != ignore_index
                left_out = np.where(out, labels, -1)
                index, value = call.first_bad(left_out, lambda y: y >= 0, weight, keep)
                raise ValueError(
                    f"{call.name}: target[{index}] = {value} is a class that class_mask leaves out"
                )
            raise ValueError(
                f"{call.name}: target[{index}] = {value} is not a class label: expected "
                f"0 <= label < {classes} (labels to skip: ignore_index={value})"
            )

        count = float(math.prod(call.shape))
        weighted = weight is not None or keep is not None
        if not soft or (weighted and call.counts(reduction, normalizer)):
            job.start("weigh")
            run(job, threads)
            if job.bad:
                check()
            count = job.total()
        if self.results == "":
            return count
        if normalizer is not None:
            count = float(normalizer)
        if weights is not None and not counted:
            job.put("extra", weights)
        return call.reduce(job, "rows", reduction, count, arrays, threads, check)

    def _check_target(self, call: Call, axis: int, soft: bool, ignore_index: Any) -> None:
        shape, target = call.pred.shape, call.target
        if not soft and self.loss.domain is DISTRIBUTIONS:
            raise call.fail(
                ValueError,
                "target",
                f"expected {self.loss.domain} of pred's shape {shape}, got shape {target.shape}",
            )
        if soft and self.loss.domain not in (CLASSES, DISTRIBUTIONS):
            cure = f"; of one-hot rows target.argmax({axis})" if target.shape == shape else ""
            raise call.fail(
                ValueError,
                "target",
                f"expected {self.loss.domain} of shape {call.shape} for pred's {shape}, "
                f"got shape {target.shape}{cure}",
            )
        if soft:
            if target.shape != shape:
                column = target.shape == (*shape[:axis], 1, *shape[axis + 1 :])
                cure = f"; labels are target.squeeze({axis})" if column else ""
                raise call.fail(
                    ValueError,
                    "target",
                    f"expected pred's shape {shape}, got {target.shape}{cure}",
                )
            if ignore_index is not None:
                raise call.fail(
                    ValueError, "ignore_index", "needs labels, got class probabilities; use mask"
                )
            return
        if target.shape != call.shape:
            other = [i for i in range(len(shape)) if shape[:i] + shape[i + 1 :] == target.shape]
            cure = f"; the classes may be on axis={other[0]}" if other else ""
            raise call.fail(
                ValueError,
                "target",
                f"expected {self.loss.domain}: labels of shape {call.shape} for pred's {shape} "
                f"(axis={axis}), got shape {target.shape}{cure}",
            )
        if target.dtype.kind not in "iu":
            raise call.fail(
                TypeError,
                "target",
                f"expected integer labels, got {target.dtype}; convert them with "
                "target.astype(int)",
            )

    def _per_class(self, call: Call, x: Any, classes: int) -> Array | None:
        if x is None:
            return None
        name = next(k for k, knob in self.loss.knobs.items() if knob.check is None)
        a = _per_class(call.name, name, x)
        if a.shape != (classes,):
            raise call.fail(ValueError, name, f"expected shape ({classes},), got {a.shape}")
        return a

    def _class_mask(self, call: Call, x: Any, axis: int) -> Array | None:
        if x is None:
            return None
        a, shape = _class_mask(call.name, x), call.pred.shape
        if a.shape == shape[axis : axis + 1]:
            a = a.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        elif a.shape != shape:
            raise call.fail(
                ValueError,
                "class_mask",
                f"expected shape ({shape[axis]},) or pred's {shape}, got {a.shape}",
            )
        return np.broadcast_to(a, shape)


class KullbackLeibler(Rows):
    """The divergence of a row's softmax from a distribution, with the gradient of cross-entropy."""

    divergence: ClassVar[int] = 1


class Divergences(Rows):
    """Any other divergence of a row's softmax from a distribution: a sum over the classes."""

    divergence: ClassVar[int] = 2
