"""The thin layer: everything a call may bring that the compiled gate does not take at once.

It checks (all before anything is written), lays weights and outputs over the call's shape, finds
the denominator, and hands a `Job` to the threads. Nothing here touches the elements: that is the
kernels', a block at a time, whatever the layout, so no array is copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MethodType
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from fastloss._gate import (
    REDUCTIONS,
    SERIAL,
    ElementwiseGate,
    Job,
    Method,
    PairsGate,
    RowsGate,
    floating,
    readable,
    same,
)
from fastloss._loss import CLASSES, METHODS, Domain, Gradients, as_number
from fastloss._threads import check_threads, get_num_threads, run

Array = NDArray[Any]
FIRST_ORDER = tuple(name for name, (results, _) in METHODS.items() if "h" not in results)

FLOATS = "float32, float64, float16, bfloat16"
# Outputs above this many bytes are written past the cache: they would push everything out of it.
STREAM = 8 << 20
# Elements of an array, so that no size in bytes, a workspace's too, is near 2**63. Only an array of
# which many elements lie in one place can have more.
MOST = 1 << 50
LARGEST = {4: float(np.finfo(np.float32).max), 8: float(np.finfo(np.float64).max)}


def array(loss: str, name: str, x: Any) -> Array:
    """The argument as an array that kernels read."""
    try:
        a = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{loss}: {name}: {error}") from None
    if not readable(a.dtype):
        near = "float32" if a.dtype.itemsize < 8 else "float64"
        cure = f"; convert it with {name}.astype(np.{near})" if "float" in a.dtype.name else ""
        raise TypeError(f"{loss}: {name}: expected {FLOATS} or integers, got {a.dtype}{cure}")
    if a.size > MOST:
        raise ValueError(f"{loss}: {name}: expected at most {MOST} elements, got {a.size}")
    return a


def arithmetic(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype to compute in: float32 for floats of up to 32 bits, float64 for all else."""
    return np.dtype(np.float32 if floating(dtype) and dtype.itemsize <= 4 else np.float64)


def derivative(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of derivatives by an array: its own, in native byte order; of integers float64."""
    if not floating(dtype):
        return np.dtype(np.float64)
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether it is float16 or bfloat16: NumPy may lack functions of the second."""
    return floating(dtype) and dtype.itemsize == 2


def widened(x: Array) -> Array:
    """The numbers of a small array or a block in a dtype that NumPy computes in: no half."""
    return x.astype(np.float32) if is_half(x.dtype) else x


def unrounded(x: Array, out: Array | None) -> Array | None:
    """Where to have a gradient by x written that is computed with before it is `narrowed`."""
    half = is_half(x.dtype if out is None else out.dtype)
    return np.empty(x.shape, np.float32) if half else out


def narrowed(grad: Array, x: Array, out: Array | None) -> Array:
    """That gradient in `out`, or in x's dtype: rounded once."""
    if out is None:
        return grad.astype(derivative(x.dtype)) if is_half(x.dtype) else grad
    if out is not grad:
        with np.errstate(all="ignore"):
            out[...] = grad
    return out


class Checks:
    """What is common to those who check arguments in the name of a loss."""

    name: str

    def fail(self, kind: type[Exception], argument: str, message: str) -> Exception:
        return kind(f"{self.name}: {argument}: {message}")

    def array(self, name: str, x: Any) -> Array:
        return array(self.name, name, x)

    def check_out(
        self,
        array: Any,
        shape: tuple[int, ...],
        result: str,
        inputs: dict[str, Any],
        over: dict[str, str],
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        """Raise where the result can't be written there; it has this dtype, or is a float."""
        if not isinstance(array, np.ndarray):
            raise self.fail(TypeError, "out", f"expected an ndarray, got {type(array)}")
        if array.dtype != dtype if dtype else not floating(array.dtype):
            raise self.fail(TypeError, "out", f"expected {dtype or FLOATS}, got {array.dtype}")
        if array.shape != shape:
            raise self.fail(ValueError, "out", f"expected shape {shape}, got {array.shape}")
        if not array.flags.writeable:
            raise self.fail(ValueError, "out", "expected a writeable array, got a read-only one")
        extent = array.itemsize
        for stride, n in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
            if n > 1 and stride < extent and array.size:
                raise self.fail(ValueError, "out", "its elements overlap each other")
            extent += stride * (n - 1)
        for name, x in inputs.items():
            if not isinstance(x, np.ndarray) or not np.may_share_memory(array, x):
                continue
            if name == over.get(result) and same(array, x):
                continue
            if np.shares_memory(array, x):
                cure = f"; only its gradient may be exactly {name}" if name in over.values() else ""
                raise self.fail(ValueError, "out", f"overlaps {name}{cure}")


class Call(Checks):
    """What is common to the general calls of one gate: the checked arguments of one call."""

    def __init__(
        self,
        gate: Any,
        pred: Any,
        target: Any,
        axis: int | None,
        names: tuple[str, str] = ("pred", "target"),
    ) -> None:
        self.gate = gate
        self.name = gate.loss.name
        self.pred = self.array(names[0], pred)
        self.target = self.array(names[1], target)
        self.dtype = arithmetic(self.pred.dtype)
        self.shape = self.pred.shape
        if axis is not None:
            self.shape = self.shape[:axis] + self.shape[axis + 1 :]

    def check_labels(self, labels: str, of: str, axis: int, cure: str = "") -> None:
        """Raise where the target has not one of these labels for each row of those logits."""
        shape, target = self.pred.shape, self.target
        if target.shape != self.shape:
            other = [i for i in range(len(shape)) if shape[:i] + shape[i + 1 :] == target.shape]
            cure = f"; the classes may be on axis={other[0]}" if other else cure
            raise self.fail(
                ValueError,
                "target",
                f"expected {labels} of shape {self.shape} for {of} (axis={axis}), got shape "
                f"{target.shape}{cure}",
            )
        self.check_integers()

    def check_integers(self) -> None:
        """Raise where the target has no integers."""
        if self.target.dtype.kind not in "iu":
            raise self.fail(
                TypeError,
                "target",
                f"expected integer labels, got {self.target.dtype}; convert them with "
                "target.astype(int)",
            )

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
        if a.shape == self.shape:
            return a
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
                found = bad(widened(values)) & (widened(weights) != 0) & kept
                if found.any():
                    i = int(found.argmax())
                    index = np.unravel_index(at + i, x.shape)
                    return ", ".join(str(int(k)) for k in index), values[i]
                at += len(values)
        return "?", "a value that another thread has changed since"

    def outside(
        self, name: str, x: Array, domain: Domain, weight: Array | None, mask: Array | None
    ) -> Exception:
        """The error for an input out of its domain, as the kernel sees it."""
        index, value = self.first_bad(
            x, lambda y: domain.excludes(y.astype(self.dtype)), weight, mask
        )
        return ValueError(f"{self.name}: {name}[{index}] = {value} is not in {domain}")

    def not_a_label(
        self,
        classes: int,
        ignored: int | None,
        weight: Array | None,
        mask: Array | None,
        masked: Array | None = None,
    ) -> Exception:
        """The error for a target that is no label; `masked` has those of masked classes, or -1."""

        def bad(y: Any) -> Any:
            return ((y < 0) | (y >= classes)) & (True if ignored is None else y != ignored)

        index, value = self.first_bad(self.target, bad, weight, mask)
        if index == "?" and masked is not None:
            index, value = self.first_bad(masked, lambda y: y >= 0, weight, mask)
            return ValueError(
                f"{self.name}: target[{index}] = {value} is a class that class_mask leaves out"
            )
        return ValueError(
            f"{self.name}: target[{index}] = {value} is not a class label: expected "
            f"0 <= label < {classes} (labels to skip: ignore_index={value})"
        )

    def positive(self, weight: Array | None) -> Array:
        """The weights, none of them negative."""
        w = np.ones(self.shape) if weight is None else weight.astype(np.float64)
        if (w < 0).any():
            raise self.fail(ValueError, "sample_weight", f"expected none below 0, got {w.min()}")
        return w

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

    def like(self, result: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """The shape and the dtype of a result."""
        if result == "l":
            return self.shape, self.dtype
        return self.pred.shape, derivative(self.pred.dtype)

    def outputs(
        self,
        results: Sequence[str],
        out: Any,
        reduction: str,
        inputs: dict[str, Any],
        over: dict[str, str],
    ) -> dict[str, Array | None]:
        """The arrays to write, by result; None for a loss that is reduced.

        `over` names the input that a result may lie upon exactly.
        """
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
            shape, dtype = self.like(result)
            if result == "l" and reduction != "none":
                if array is not None:
                    raise self.fail(
                        ValueError, "out", f"the loss is a float with reduction={reduction!r}"
                    )
                arrays[result] = None
            elif array is None:
                arrays[result] = np.empty(shape, dtype)
            else:
                self.check_out(array, shape, result, inputs, over)
                for other in arrays.values():
                    if other is not None and np.shares_memory(array, other):
                        raise self.fail(ValueError, "out", "two of the arrays overlap")
                arrays[result] = array
        return arrays

    def order(self, skip: int | None) -> list[int]:
        """The axes but `skip`, the most distant in memory first: the order to walk `pred` in."""
        axes = [i for i in range(self.pred.ndim) if i != skip]
        return sorted(axes, key=lambda i: -abs(self.pred.strides[i]))

    def threads(self, num_threads: Any) -> int:
        if num_threads is not None:
            n = check_threads(num_threads, f"{self.name}: num_threads")
        else:
            n = self.gate.defaults.get("num_threads") or get_num_threads()
        return n if self.pred.size * self.dtype.itemsize > SERIAL else 1

    def scale(self, reduction: str, count: float) -> tuple[float, float]:
        """What the sum of the losses is divided by, and the factor of their gradients."""
        length = self.shape[0] if self.shape else 1
        divisor = {"mean": count, "batchmean": length}.get(reduction, 1.0)
        # No further than the largest number: 0 times inf is nan.
        return divisor, min(1 / divisor, LARGEST[self.dtype.itemsize]) if divisor else 0.0

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
        divisor, scale = self.scale(reduction, count)
        given = [a for a in arrays.values() if a is not None]
        # In place the lines are in the cache already.
        over = any(np.may_share_memory(a, x) for a in given for x in (self.pred, self.target))
        stream = not over and sum(a.nbytes for a in given) > STREAM
        if driver == "rows" and job.tiles:
            job.start("tile_sums", scale)
            run(job, num_threads)
            driver = "tiles"
        job.start(driver, scale, stream)
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
            done[name] = integer(loss, name, value)
        elif name == "class_mask":
            done[name] = np.array(_class_mask(loss.name, value))
            done[name].flags.writeable = False
        else:
            # Of one dtype and byte order, so that what is alike is equal, unpickled too.
            done[name] = np.array(per_class_array(loss, name, value), np.float64)
            done[name].flags.writeable = False
    return done


def per_class_array(loss: Any, name: str, x: Any) -> Array:
    """A knob of one number per class, or for all, each in its domain."""
    a = widened(array(loss.name, name, x))
    if a.ndim > 1:
        raise ValueError(f"{loss.name}: {name}: expected a number or one axis, got shape {a.shape}")
    domain = loss.knobs[name].each
    bad = ~domain.contains(a) | (a != a)
    if bad.any():
        index = f"[{bad.argmax()}]" if a.ndim else ""
        raise ValueError(
            f"{loss.name}: {name}: expected numbers in {domain}, got {name}{index} = {a[bad][0]}"
        )
    return a


def _class_mask(loss: str, x: Any) -> Array:
    a = array(loss, "class_mask", x)
    if a.dtype.kind != "b":
        raise TypeError(f"{loss}: class_mask: expected bool, got {a.dtype}")
    return a


def integer(loss: Any, name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{loss.name}: {name}: expected an integer, got {value!r}")
    number = int(value.__index__())
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{loss.name}: {name}: expected a 64-bit integer, got {value!r}")
    return number


def _gate(loss: Any, results: str) -> Any:
    methods = [m for m in vars(loss).values() if isinstance(m, (Method, MethodType))]
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


def each(
    call: Call,
    inputs: dict[str, Any],
    operands: tuple[Array, Array, Array | None],
    knobs: tuple[float, ...],
    *,
    extra_value: float,
    checked: str,
    over: dict[str, str],
    results: str,
    sample_weight: Any,
    mask: Any,
    reduction: str | None,
    normalizer: Any,
    out: Any,
    num_threads: Any,
) -> Any:
    """Run a block function over all elements of its three operands.

    The second operand is the one whose domain is checked: that of the input named `checked`.
    """
    weight, keep = call.weight("sample_weight", sample_weight), call.weight("mask", mask)
    reduction = call.reduction(reduction, normalizer)
    threads = call.threads(num_threads)
    inputs = {**inputs, "sample_weight": sample_weight, "mask": mask}
    arrays = call.outputs(results, out, reduction, inputs, over)
    domain = call.gate.loss.domain_at(knobs)
    bounded = math.isfinite(domain.low) or math.isfinite(domain.high)
    job = Job(
        wide=call.dtype.itemsize == 8,
        order=2 if "h" in arrays else 1 if "g" in arrays else 0,
        silent="l" not in arrays,
        block=call.gate.block,
        knobs=knobs,
        size=call.pred.size,
        extra_value=extra_value,
        domain=(domain.low, domain.high, domain.ends_only, domain.open) if bounded else None,
    )
    axes = call.order(None)
    results_of = {"loss": arrays.get("l"), "grad": arrays.get("g"), "hess": arrays.get("h")}
    named = dict(zip(("pred", "target", "extra"), operands, strict=True))
    for name, a in {**named, "weight": weight, "mask": keep, **results_of}.items():
        if a is not None:
            job.put(name, a.transpose(axes))

    def check() -> None:
        raise call.outside(checked, operands[1], domain, weight, keep)

    count = float(call.pred.size)
    in_place = any(
        a is not None and name in over and same(a, inputs[over[name]]) for name, a in arrays.items()
    )
    weighted = weight is not None or keep is not None
    counted = weighted and call.counts(reduction, normalizer)
    if counted or (bounded and (in_place or results == "")):
        job.start("weigh")
        run(job, threads)
        if job.bad:
            check()
        count = job.total()
    if results == "":
        return count
    if normalizer is not None:
        count = float(normalizer)
    return call.reduce(job, "elementwise", reduction, count, arrays, threads, check)


class Elementwise(_Pickles, ElementwiseGate):
    """Losses of one prediction and one target each."""

    kind: ClassVar[str] = "elementwise"
    methods: ClassVar[tuple[str, ...]] = tuple(METHODS)
    driver: ClassVar[str] = "elementwise"
    options: ClassVar[tuple[str, ...]] = ()
    constant_options: ClassVar[tuple[str, ...]] = ()
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
        return each(
            call,
            {"pred": call.pred, "target": call.target, self.per_class_name(): per_class},
            (call.pred, call.target, extra),
            knobs,
            extra_value=extra_value,
            checked="target",
            over={"g": "pred"},
            results=self.results,
            sample_weight=sample_weight,
            mask=mask,
            reduction=reduction,
            normalizer=normalizer,
            out=out,
            num_threads=num_threads,
        )

    def constant(self, target: Any, sample_weight: Any, knobs: dict[str, Any]) -> Any:
        """The constant prediction that minimises the loss."""
        loss = self.loss
        knobs = loss.values(_checked(loss, knobs))
        call = Call(self, target, target, None)
        w = call.positive(call.weight("sample_weight", sample_weight))
        keep = w != 0
        domain = loss.domain_at([knobs[name] for name in loss.scalars()])
        if not domain.contains(call.target[keep].astype(call.dtype)).all():
            raise call.outside("target", call.target, domain, w, None)
        for name in knobs:
            if name == self.per_class_name():
                knobs[name] = self.along(call, name, knobs[name], keep)
        t, w = call.target[keep].astype(np.float64), w[keep]
        if not t.size or np.isnan(t).any() or np.isnan(w).any():
            return math.nan
        return loss.constant(loss, t, w, **knobs)

    def along(self, call: Call, name: str, x: Any, keep: Array) -> Any:
        """A knob of one number per column, for each target that is kept."""
        extra, number = self._per_class(call, x)
        return number if extra is None else extra[keep]

    def per_class_name(self) -> str:
        """The knob that is an array along the last axis, if the loss has one."""
        return next((k for k, knob in self.loss.knobs.items() if knob.check is None), "per_class")

    def operand(self, a: Array) -> Array:
        """What the kernel reads of that knob."""
        return a

    def _per_class(self, call: Call, x: Any) -> tuple[Array | None, float]:
        name = self.per_class_name()
        if x is None and (name not in self.loss.knobs or self.loss.knobs[name].optional):
            return None, 1.0
        a = self.operand(per_class_array(self.loss, name, x))
        if a.ndim == 0:
            return None, float(a)
        if not call.shape or a.shape != call.shape[-1:]:
            raise call.fail(
                ValueError,
                name,
                f"expected a number or the last axis of {call.shape}, got shape {a.shape}",
            )
        return np.broadcast_to(a, call.shape), 1.0


class PairsCall(Call):
    """A call whose `pred` and `target` are the two inputs that have gradients, "g" and "h"."""

    def like(self, result: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """The shape and the dtype of a result."""
        if result == "h" and is_half(self.target.dtype):
            return self.shape, derivative(self.target.dtype)
        if result == "h":
            return self.shape, self.dtype
        return super().like(result)


class Pairs(_Pickles, PairsGate):
    """Losses of two predictions each, or of a prediction and its scale: a gradient for both.

    The kernel gets as z the first of the loss's `inputs`, as y the one that it names as `checked`
    (0 if there is none), as a the other; its hess is the derivative by the second of `inputs`.
    """

    kind: ClassVar[str] = "pairs"
    driver: ClassVar[str] = "elementwise"
    methods: ClassVar[tuple[str, ...]] = FIRST_ORDER
    options: ClassVar[tuple[str, ...]] = ()
    checked = staticmethod(_checked)

    def general(
        self, given: dict[str, Any], knobs: tuple[float, ...], *, out: Any, **common: Any
    ) -> Any:
        """Do a call of any kind, of the arrays by their names."""
        (first, second), checked = self.loss.inputs, self.loss.checked
        call = PairsCall(self, given[first], given[second], None, self.loss.inputs)
        inputs = {name: call.array(name, x) for name, x in given.items()}
        for name, x in inputs.items():
            if x.shape != call.shape:
                raise call.fail(
                    ValueError, name, f"expected {first}'s shape {call.shape}, got {x.shape}"
                )
        y = inputs.get(checked, np.broadcast_to(0.0, call.shape))
        rest = [x for name, x in inputs.items() if name not in (first, checked)]
        found = each(
            call,
            inputs,
            (inputs[first], y, rest[0] if rest else None),
            knobs,
            extra_value=0,
            checked=checked,
            over={"g": first, "h": second},
            results=self.results.replace("g", "gh"),
            out=_flat(call, self.results, out, 2),
            **common,
        )
        return (found[0], found[1:]) if self.results == "lg" else found


def _flat(call: Call, results: str, out: Any, n: int) -> Any:
    """The arrays of `out` in a row, from n gradients g: (g, g), (loss, (g, g)) or ((g, g),)."""
    if out is None or "g" not in results:
        return out
    if not isinstance(out, tuple):
        raise call.fail(TypeError, "out", f"expected a tuple, got {type(out)}")
    by_result = len(out) == len(results) and not isinstance(out[-1], np.ndarray)
    gradients = (out[-1] or (None,) * n) if by_result else out
    if not isinstance(gradients, tuple) or len(gradients) != n:
        raise call.fail(ValueError, "out", f"expected a tuple of {n} gradients, got {gradients}")
    loss = out[:-1] if by_result else (None,) * (len(results) - 1)
    return (*loss, *gradients)


class Set(_Pickles, Checks):
    """Losses whose sample is a whole call, put together from others by their declaration.

    The declaration calls `run.common` with its `**common`, then `run.outs` once it knows its
    inputs, computes what `run.results` asks for, and returns `run(value, gradient)`.
    """

    kind: ClassVar[str] = "set"
    methods: ClassVar[tuple[str, ...]] = FIRST_ORDER[:3]
    options: ClassVar[tuple[str, ...]] = ()
    checked = staticmethod(_checked)

    def __init__(self, loss: Any, results: str, defaults: dict[str, Any]) -> None:
        self.loss, self.results, self.defaults = loss, results, defaults
        self.name = loss.name

    def common(self, given: Any) -> dict[str, Any]:
        """All common arguments that the loss has, given or not, without `out`."""
        for name in given:
            if name not in self.loss.common:
                raise self.loss.unknown({name: None})
        found: dict[str, Any] = {name: self.defaults.get(name) for name in self.loss.common}
        found.update(given)
        found.pop("out", None)
        if found.get("num_threads") is not None:
            check_threads(found["num_threads"], f"{self.name}: num_threads")
        return found

    def outs(
        self, given: Any, inputs: dict[str, Any], others: dict[str, Any], *, several: bool
    ) -> list[Array | None]:
        """The arrays to write the gradients of the inputs to; None where none is given.

        `given` is the call's `**common`, in which the gradient of `several` inputs is a sequence.
        A gradient may lie exactly upon its input, and touches no other array.
        """
        arrays = self.slots(given.get("out"), len(inputs), several=several)
        everything = {**inputs, **others}
        written: list[Array] = []
        for (name, x), array in zip(inputs.items(), arrays, strict=True):
            if array is None:
                continue
            self.check_out(array, x.shape, "g", everything, {"g": name})
            if any(np.shares_memory(array, other) for other in written):
                raise self.fail(ValueError, "out", "two of the arrays overlap")
            written.append(array)
        return arrays

    def slots(self, out: Any, n: int, *, several: bool) -> list[Any]:
        """One entry per gradient, from the forms that `out` may have: g, (loss, g) or (g,)."""
        if out is None:
            return [None] * n
        results = self.results
        if results == "l":
            if not isinstance(out, tuple):
                raise self.fail(TypeError, "out", f"expected a tuple of 1, got {type(out)}")
            if len(out) != 1:
                raise self.fail(ValueError, "out", f"expected 1 entries, got {len(out)}")
            if out[0] is not None:
                raise self.fail(ValueError, "out", "the loss is a float")
            return [None] * n
        by_result = isinstance(out, tuple) and (
            len(out) == len(results)
            and (isinstance(out[-1], (tuple, list)) or (out[0] is None and out[-1] is None))
            if several
            else True
        )
        if by_result:
            if len(out) != len(results):
                raise self.fail(
                    ValueError, "out", f"expected {len(results)} entries, got {len(out)}"
                )
            if len(out) == 2 and out[0] is not None:
                raise self.fail(ValueError, "out", "the loss is a float")
            out = out[-1]
            if out is None:
                return [None] * n
        if not several:
            return [out]
        if not isinstance(out, (tuple, list)):
            raise self.fail(TypeError, "out", f"expected a tuple of {n} arrays, got {type(out)}")
        if len(out) != n:
            raise self.fail(ValueError, "out", f"expected {n} gradients, got {len(out)}")
        return list(out)

    def ask(self, loss: Any, *args: Any, out: Any, **options: Any) -> tuple[Any, Any]:
        """Loss and gradient of another loss, as far as this call is for them: else 0 and None."""
        if self.results == "l":
            return loss(*args, **options), None
        if self.results == "g":
            return 0, loss.grad(*args, out=out, **options)
        value, grad = loss.value_and_grad(*args, out=out, **options)
        return value, grad

    def __call__(self, value: float, gradient: Any) -> Gradients[Any]:
        """What the method returns, of a loss and a gradient of which it may ask for one."""
        found: Any = {"l": value, "g": gradient, "lg": (value, gradient)}[self.results]
        return cast(Gradients[Any], found)


class Quantiles(Elementwise):
    """Losses of predictions along the last axis, a quantile each, and one target for all of them.

    Of a single quantile, a number, they are elementwise.
    """

    def general(
        self, pred: Any, target: Any, knobs: tuple[float, ...], *, per_class: Any, **options: Any
    ) -> Any:
        """Do a call of any kind."""
        name = self.loss.name
        levels = per_class_array(self.loss, self.per_class_name(), per_class)
        if levels.ndim:
            pred, target = array(name, "pred", pred), array(name, "target", target)
            if not pred.ndim or target.shape != pred.shape[:-1]:
                raise ValueError(
                    f"{name}: target: expected shape {pred.shape[:-1]}, one for the "
                    f"{len(levels)} quantiles of pred's {pred.shape}, got {target.shape}"
                )
            target = np.broadcast_to(target[..., None], pred.shape)
        return super().general(pred, target, knobs, per_class=levels, **options)

    def along(self, call: Call, name: str, x: Any, keep: Array) -> Any:
        """The levels."""
        return per_class_array(self.loss, name, x)

    def operand(self, a: Array) -> Array:
        """The level q, or where that is above 1/2 minus what is left: the digits of both."""
        return np.where(a <= 0.5, a, -(1.0 - a))


class Rows(_Pickles, RowsGate):
    """Losses of one row of class scores and a label, or a row of class probabilities, each.

    Of the softmax of the row; the subclasses, of terms that the classes have apart.
    """

    kind: ClassVar[str] = "rows"
    methods: ClassVar[tuple[str, ...]] = tuple(METHODS)
    driver: ClassVar[str] = "rows"
    counted: ClassVar[bool] = True  # `class_weight` enters the mean's denominator
    options: ClassVar[tuple[str, ...]] = ("class_weight", "label_smoothing", "ignore_index", "axis")
    constant_options: ClassVar[tuple[str, ...]] = ("n_classes",)
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
        for name, asked in (
            ("ignore_index", ignore_index is not None),
            ("label_smoothing", label_smoothing != 0),
            ("class_mask", class_mask is not None),
        ):
            if asked and name not in self.loss.knobs:
                raise self.loss.unknown({name: None})
        if class_weight is not None and not any(knob.each for knob in self.loss.knobs.values()):
            raise self.loss.unknown({"class_weight": None})
        axis = integer(self.loss, "axis", axis)
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
            ignore_index = integer(self.loss, "ignore_index", ignore_index)
        classes = call.pred.shape[axis]
        if classes == 0:
            raise call.fail(ValueError, "pred", f"has no classes: shape {call.pred.shape}")
        if classes > MOST:
            raise call.fail(ValueError, "pred", f"expected at most {MOST} classes, got {classes}")
        soft = call.target.ndim == ndim or not self.loss.domain.labels
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
        arrays = call.outputs(self.results, out, reduction, inputs, {"g": "pred"})
        domain = self.loss.domain_at(knobs)
        bounded = soft and (math.isfinite(domain.low) or math.isfinite(domain.high))
        outer = call.order(axis)
        near = min((abs(call.pred.strides[i]) for i in outer if call.pred.shape[i] > 1), default=0)
        across = 0 < near < abs(call.pred.strides[axis])  # neighbours are rows, not classes
        scalars = [name for name, knob in self.loss.knobs.items() if knob.scalar]
        given = dict(zip(scalars, knobs, strict=True))
        softcap = given.get("softcap", math.nan)
        job = Job(
            wide=call.dtype.itemsize == 8,
            order=2 if "h" in arrays else 1 if "g" in arrays else 0,
            block=self.block,
            knobs=knobs,
            size=math.prod(call.shape),
            classes=classes,
            smoothing=smoothing,
            domain=(domain.low, domain.high, domain.ends_only, domain.open) if bounded else None,
            ignore_index=ignore_index,
            soft=soft,
            softmax=self.driver == "rows",
            across=across,
            temperature=given.get("temperature", 1.0),
            z_loss=given.get("z_loss", 0.0),
            softcap=0.0 if math.isnan(softcap) else softcap,
            divergence=self.divergence,
            target_logits=given.get("from_logits", 0.0) != 0,
            lists=domain.lists,
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
        counted = self.counted and "class_weight" in self.loss.knobs
        if weights is not None and counted:
            job.put("extra", weights)

        def check() -> None:
            over = [
                None if w is None else np.broadcast_to(np.expand_dims(w, axis), call.pred.shape)
                for w in (weight, keep)
            ]
            if domain.lists:
                listed = np.logical_and.accumulate(call.target != -1, axis)
                listed &= True if over[1] is None else over[1]
                index, value = call.first_bad(
                    call.target, lambda y: (y < 0) | (y >= classes), over[0], listed
                )
                raise ValueError(
                    f"{call.name}: target[{index}] = {value} is not a class label: expected "
                    f"0 <= label < {classes}, or -1 to end the list"
                )
            if soft:
                index, value = call.first_bad(call.target, domain.excludes, *over)
                raise ValueError(
                    f"{call.name}: target[{index}] = {value} is not in "
                    f"[{domain.low:g}, {domain.high:g}]"
                )

            masked = None
            if kept is not None:
                labels = np.where(call.target < classes, call.target, 0).astype(np.intp).clip(0)
                of_label = np.take_along_axis(kept, np.expand_dims(labels, axis), axis)
                counts = True if ignore_index is None else call.target != ignore_index
                masked = np.where(counts & ~of_label.squeeze(axis), labels, -1)
            raise call.not_a_label(classes, ignore_index, weight, keep, masked)

        count = float(math.prod(call.shape))
        weighted = weight is not None or keep is not None
        grad = arrays.get("g")
        in_place = grad is not None and same(grad, call.pred)
        first = bounded and (in_place or self.results == "")
        # Where all count and nothing of the caller's is written, the kernel checks the labels.
        late = self.results != "" and all(
            x is None for x in (out, weight, keep, kept, weights, ignore_index)
        )
        if (
            not (soft or late)
            or domain.lists
            or first
            or (weighted and call.counts(reduction, normalizer))
        ):
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
        return call.reduce(job, self.driver, reduction, count, arrays, threads, check)

    def constant(self, target: Any, sample_weight: Any, knobs: dict[str, Any]) -> Any:
        """The constant prediction that minimises the loss."""
        loss = self.loss
        knobs = dict(knobs)
        classes = knobs.pop("n_classes", None)
        knobs = loss.values(_checked(loss, knobs))
        axis, ignored = knobs.pop("axis"), knobs.pop("ignore_index")
        target = array(loss.name, "target", target)
        soft = floating(target.dtype)
        if soft and (loss.domain is not CLASSES or not -target.ndim <= axis < target.ndim):
            raise TypeError(f"{loss.name}: target: expected {loss.domain}, got {target.dtype}")
        if soft and ignored is not None:
            raise ValueError(
                f"{loss.name}: ignore_index: needs labels, got class probabilities; use a weight"
            )
        # To a call the labels are predictions: it lays the weights over their shape.
        call = Call(self, target, target, axis % target.ndim if soft else None)
        w = call.positive(call.weight("sample_weight", sample_weight))
        class_weight = knobs["class_weight"]
        if classes is not None:
            classes = integer(loss, "n_classes", classes)
        elif soft:
            classes = target.shape[axis]
        elif class_weight is not None:
            classes = np.size(class_weight)
        else:
            keep = w != 0 if ignored is None else (w != 0) & (target != ignored)
            classes = int(target[keep].max(initial=-1)) + 1
        if class_weight is not None:
            knobs["class_weight"] = self._per_class(call, class_weight, classes)
        if soft:
            if target.shape[axis] != classes:
                raise call.fail(
                    ValueError, "target", f"expected {classes} classes, got {target.shape[axis]}"
                )
            rows = np.moveaxis(target, axis, -1)[w != 0]
            share = w[w != 0] @ rows.astype(np.float64)
        else:
            if ignored is not None:
                w = np.where(target == ignored, 0.0, w)
            kept = target[w != 0]
            if ((kept < 0) | (kept >= classes)).any():
                raise call.not_a_label(classes, ignored, w, None)
            share = np.bincount(kept.astype(np.int64), w[w != 0], classes)
        return loss.constant(loss, share, float(w.sum()), **knobs)

    def _check_target(self, call: Call, axis: int, soft: bool, ignore_index: Any) -> None:
        shape, target = call.pred.shape, call.target
        lists = self.loss.domain.lists
        if soft and not self.loss.domain.shares and not lists:
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
                labels = column and self.loss.domain.labels
                cure = f"; labels are target.squeeze({axis})" if labels else ""
                raise call.fail(
                    ValueError,
                    "target",
                    f"expected pred's shape {shape}, got {target.shape}{cure}",
                )
            if ignore_index is not None:
                raise call.fail(
                    ValueError, "ignore_index", "needs labels, got class probabilities; use mask"
                )
            if not lists:
                return
            call.check_integers()
        else:
            call.check_labels(f"{self.loss.domain}: labels", f"pred's {shape}", axis)

    def _per_class(self, call: Call, x: Any, classes: int) -> Array | None:
        if x is None:
            return None
        name = next(k for k, knob in self.loss.knobs.items() if knob.check is None)
        a = per_class_array(self.loss, name, x)
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


class RowTerms(Rows):
    """Row losses that are sums of a term of each class; of a label, of its class alone."""

    driver: ClassVar[str] = "terms"


class RowMeans(Rows):
    """Row losses that are means over the classes of a term of each."""

    driver: ClassVar[str] = "means"


class RowDivergence(Rows):
    """Row losses that are sums of a term of each class less their p - t where these are close."""

    driver: ClassVar[str] = "divergence"


class RowMargins(Rows):
    """Row losses that are sums over the number of classes of a term of each other and the label."""

    driver: ClassVar[str] = "margins"
    counted: ClassVar[bool] = False


class RowLists(Rows):
    """Row losses over the number of classes of a term of each class that is none and each label."""

    driver: ClassVar[str] = "lists"


class RowRival(Rows):
    """Row losses of the largest of the other classes and the label."""

    driver: ClassVar[str] = "rival"


class KullbackLeibler(Rows):
    """The divergence of a row's softmax from a distribution, with the gradient of cross-entropy."""

    divergence: ClassVar[int] = 1


class Divergences(Rows):
    """Any other divergence of a row's softmax from a distribution: a sum over the classes."""

    divergence: ClassVar[int] = 2
