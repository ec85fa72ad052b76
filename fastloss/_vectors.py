"""The gate of losses whose sample is a row of each of several inputs, with a gradient for each.

A loss is a function of a block of rows, `block(scale, *inputs, *knobs)`. The inputs come as float64
copies that it may overwrite, `scale` has a factor of the gradients per row, or one for all, or is
None when they are not asked for; it returns the loss of each row and the gradients. Blocks stay in
the cache, so no input is copied whole, whatever its layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import numpy as np

from fastloss._general import (
    FIRST_ORDER,
    Array,
    Call,
    _checked,
    _divide,
    _flat,
    _Pickles,
    arithmetic,
    derivative,
    is_half,
)
from fastloss._loss import Domain, Gradients

# Numbers of each input in a block: 256 KiB in float64. Half or twice as many are no faster.
BLOCK = 32768
# BLAS uses threads for longer rows, and their number would show in the bits.
PIECE = 4096


def dots(x: Array, y: Array) -> Array:
    """The product of each row with the other's."""
    total: Array = np.vecdot(x[:, :PIECE], y[:, :PIECE])
    for i in range(PIECE, x.shape[-1], PIECE):
        total += np.vecdot(x[:, i : i + PIECE], y[:, i : i + PIECE])
    return total


def norms(x: Array) -> Array:
    """The Euclidean norm of each row, 0 below the smallest normal number."""
    square = dots(x, x)
    norm = np.sqrt(square)
    odd = ~((square > 1e-280) & (square < math.inf))
    if odd.any():  # squares that underflow or overflow, nan and 0
        rows = x[odd]
        unit = np.abs(rows).max(-1, initial=0)
        unit[~((unit > 0) & (unit < math.inf))] = 1
        rows /= unit[:, None]
        norm[odd] = np.sqrt(dots(rows, rows)) * unit
        norm[norm < np.finfo(np.float64).tiny] = 0
    return norm


class VectorsCall(Call):
    """The checked inputs of one call, with the features of each along its last axis.

    `features` has a letter per input: those of one letter have equally many; "." is for an input
    with one number per row.
    """

    def __init__(self, gate: Any, inputs: dict[str, Any], features: str) -> None:
        first = next(iter(inputs))
        self.gate, self.name = gate, gate.loss.name
        self.inputs = {name: self.array(name, x) for name, x in inputs.items()}
        self.pred = self.inputs[first]
        if not self.pred.ndim:
            raise self.fail(ValueError, first, "expected rows of features, got a single number")
        self.shape = self.pred.shape[:-1]
        self.features = dict(zip(inputs, features, strict=True))
        wide = any(arithmetic(self.inputs[name].dtype) == np.float64 for name in gate.loss.inputs)
        self.dtype = np.dtype(np.float64 if wide else np.float32)
        leaders: dict[str, str] = {}
        for name, x in self.inputs.items():
            letter = self.features[name]
            leader = leaders.setdefault(letter, name)
            shape = self.inputs[leader].shape
            if letter == ".":
                if x.shape != self.shape:
                    raise self.fail(
                        ValueError,
                        name,
                        f"expected a number for each row of {first}, shape {self.shape}, "
                        f"got {x.shape}",
                    )
            elif x.shape != shape:
                raise self.fail(
                    ValueError, name, f"expected {leader}'s shape {shape}, got {x.shape}"
                )
            elif x.shape[:-1] != self.shape or not x.ndim:
                raise self.fail(
                    ValueError,
                    name,
                    f"expected {first}'s leading axes {self.shape} and one of features, "
                    f"got shape {x.shape}",
                )

    def like(self, result: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """The shape and the dtype of the loss "l", or of the gradient for an input."""
        if result == "l":
            return self.shape, self.dtype
        x = self.inputs[result]
        return x.shape, derivative(x.dtype)

    def weigh(self, sample_weight: Any, mask: Any) -> None:
        """Check what weighs the rows."""
        self.over = [self.weight("sample_weight", sample_weight), self.weight("mask", mask)]
        self.weighted = any(w is not None for w in self.over)

    def weights(self, where: Any) -> Array:
        """The weight of each row of a block, exactly 0 where it is masked."""
        weight, keep = (None if w is None else w[where].ravel() for w in self.over)
        if weight is None:
            return np.ones(1) if keep is None else keep.astype(np.float64)
        return np.where(True if keep is None else keep, weight.astype(np.float64), 0)

    def check_domain(self, domain: Domain) -> None:
        """Raise for the first target out of its domain that is not masked."""
        target = self.inputs["target"]
        bounded = math.isfinite(domain.low) or math.isfinite(domain.high)
        if not (bounded and target.size):
            return
        parts = (target[where] for where in self.blocks())  # Ctrl-C would wait for the whole
        if not domain.ends_only and all(
            domain.low <= part.min() and part.max() <= domain.high for part in parts
        ):
            return
        behind = (1,) * (target.ndim - len(self.shape))
        over = [
            None if w is None else np.broadcast_to(w.reshape(self.shape + behind), target.shape)
            for w in self.over
        ]
        index, value = self.first_bad(target, lambda y: ~domain.contains(y), *over)
        if index != "?":
            raise ValueError(f"{self.name}: target[{index}] = {value} is not in {domain}")

    def blocks(self) -> Iterator[tuple[Any, ...]]:
        """Where the blocks of rows are: indices, a slice, and an ellipsis for the other axes."""
        longest = max(self.inputs[name].shape[-1] for name in self.gate.loss.inputs)
        rows = max(1, BLOCK // max(1, longest))
        if not self.shape:
            yield (...,)
            return
        axis = len(self.shape) - 1
        while axis and math.prod(self.shape[axis:]) <= rows:
            axis -= 1
        step = max(1, rows // max(1, math.prod(self.shape[axis + 1 :])))
        for index in np.ndindex(self.shape[:axis]):
            for start in range(0, self.shape[axis], step):
                yield (*index, slice(start, start + step), ...)


class Vectors(_Pickles):
    """Losses of a row of each of several inputs, with a gradient for the loss's `inputs`."""

    kind: ClassVar[str] = "vectors"
    methods: ClassVar[tuple[str, ...]] = FIRST_ORDER
    options: ClassVar[tuple[str, ...]] = ()
    checked = staticmethod(_checked)

    def __init__(self, loss: Any, results: str, defaults: dict[str, Any]) -> None:
        self.loss, self.results, self.defaults = loss, results, defaults

    def __call__(
        self,
        block: Callable[..., tuple[Array, tuple[Array, ...]]],
        inputs: dict[str, Any],
        features: str,
        knobs: tuple[Any, ...] = (),
        domain: Domain | None = None,
        *,
        sample_weight: Any = None,
        mask: Any = None,
        reduction: str | None = None,
        normalizer: Any = None,
        out: Any = None,
        **unknown: Any,
    ) -> Gradients[Any]:
        """Do a call; `domain` is that of the target where it is not always the loss's."""
        if unknown:
            raise self.loss.unknown(unknown)
        named = zip(self.loss.knobs, knobs, strict=True)
        knobs = tuple(self.loss.check_knob(name, value) for name, value in named)
        with np.errstate(all="ignore"):
            call = VectorsCall(self, inputs, features)
            call.weigh(sample_weight, mask)
            reduction = call.reduction(reduction, normalizer)
            gradients = self.loss.inputs if "g" in self.results else ()
            arrays = call.outputs(
                [*self.results.replace("g", ""), *gradients],
                _flat(call, self.results, out, len(self.loss.inputs)),
                reduction,
                {**call.inputs, "sample_weight": sample_weight, "mask": mask},
                {name: name for name in gradients},
            )
            if "target" in inputs:
                call.check_domain(self.loss.domain if domain is None else domain)
            count = float(math.prod(call.shape))
            if call.weighted:
                count = float(np.sum([call.weights(where).sum() for where in call.blocks()]))
            if self.results == "":
                return cast(Gradients[Any], count)
            count = count if normalizer is None else float(normalizer)
            divisor, scale = call.scale(reduction, count)
            total = self._run(block, call, knobs, arrays, scale)
            found: tuple[Any, ...] = tuple(arrays[name] for name in gradients)
            if divisor == 0:
                for a in found:
                    a[...] = 0  # 0 times inf or nan is not 0
            loss: Any = arrays.get("l")
            loss = _divide(total, divisor) if loss is None else loss
            results = {"l": loss, "g": found, "lg": (loss, found)}
            return cast(Gradients[Any], results[self.results])

    def _run(
        self,
        block: Callable[..., tuple[Array, tuple[Array, ...]]],
        call: VectorsCall,
        knobs: tuple[Any, ...],
        arrays: dict[str, Array | None],
        scale: float,
    ) -> float:
        """Write the arrays, a block of rows at a time, and return the sum of the losses."""
        totals = [0.0]
        scratch: dict[str, Array] = {}
        gradients = [name for name in self.loss.inputs if name in arrays]
        for where in call.blocks():
            shape = call.pred[where].shape[:-1]
            rows = math.prod(shape)
            weight = call.weights(where)
            masked = weight == 0 if call.weighted else None
            copies = []
            for name, x in call.inputs.items():
                part = x[where]
                size = x.shape[-1:] if call.features[name] != "." else ()
                if name not in scratch:
                    scratch[name] = np.empty((rows, *size))
                copy = scratch[name][:rows]
                copy.reshape(part.shape)[...] = part
                if masked is not None:
                    copy[masked] = 0  # whatever is there
                copies.append(copy)
            loss, slopes = block(weight * scale if gradients else None, *copies, *knobs)
            for name, slope in zip(gradients, slopes, strict=True):
                a = arrays[name]
                assert a is not None
                target = a[where]
                if is_half(a.dtype):  # of the gradient in float32, as everywhere
                    slope = slope.astype(np.float32)
                np.copyto(target, slope.reshape(target.shape), casting="same_kind")
            if call.weighted:
                loss = loss * weight
            if "l" not in arrays:
                continue
            each = arrays["l"]
            if each is None:
                totals.append(float(loss.sum()))
            else:
                each[where] = loss.reshape(shape)
        return float(np.sum(totals))
