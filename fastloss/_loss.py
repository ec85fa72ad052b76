"""What a loss is: `Loss`, the declaration that makes one, and the data a declaration consists of.

A declaration is a function with the public signature and docstring, decorated with `@loss(...)`.
Its first parameter, hidden from the public, is the gate that runs it; every method of a `Loss` is
that same function bound to a gate that asks for other results, so a call costs one Python frame.
The decorator reads the knobs and their checks from the annotations.
"""

from __future__ import annotations

import copy
import inspect
import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypedDict,
    TypeVar,
    overload,
)

import numpy as np
from numpy.typing import ArrayLike, NDArray

P = ParamSpec("P")
Array = NDArray[Any]
Outputs = Any  # what a gate returns depends on the method, which types it
Naive = Callable[..., Any]


def as_number(x: Any) -> float:
    """A real number as a float, beyond the largest float inf; TypeError for anything else."""
    if isinstance(x, (str, bytes)) or not hasattr(x, "__float__") or np.ndim(x):
        raise TypeError(f"expected a number, got {x!r}")
    try:
        return float(x)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Interval:
    """The finite numbers a scalar knob may be: from `low` (itself unless `open`) to `high`.

    And those of `also`, outside.
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    also: tuple[float, ...] = ()

    def contains(self, x: float) -> bool:
        """Whether the knob may be x."""
        inside = self.low <= x <= self.high and not (self.open and x == self.low)
        return math.isfinite(x) and (inside or x in self.also)

    def __str__(self) -> str:
        also = "".join(f"{x:g} or " for x in self.also)
        if self.low == self.high:
            return f"{also}{self.low:g}"
        if self.high < math.inf:
            return f"{also}in [{self.low:g}, {self.high:g}]"
        if self.low > -math.inf:
            return f"{also}{'>' if self.open else '>='} {self.low:g}"
        return "finite"


Positive = Annotated[float, Interval(0, open=True)]
NonNegative = Annotated[float, Interval(0)]
Fraction = Annotated[float, Interval(0, 1)]
Flag = Annotated[bool, Interval(1, 1, also=(0,))]  # to the kernel 1.0 or 0.0
PerClass = Annotated[ArrayLike | None, "per class"]  # an array along the last or the class axis
ClassMask = Annotated[ArrayLike | None, "class mask"]  # booleans, per class or of pred's shape


@dataclass(frozen=True)
class Domain:
    """The numbers an input may be: [low, high], or the two ends alone. nan is let through."""

    low: float = -math.inf
    high: float = math.inf
    ends_only: bool = False
    label: str = ""

    def contains(self, x: ArrayLike) -> NDArray[np.bool_]:
        """Elementwise, whether x may be a target."""
        x = np.asarray(x)
        inside = (x == self.low) | (x == self.high) if self.ends_only else None
        if inside is None:
            inside = (x >= self.low) & (x <= self.high)
        return np.asarray(inside | (x != x))

    def __str__(self) -> str:
        if self.label:
            return self.label
        return ("{%g, %g}" if self.ends_only else "[%g, %g]") % (self.low, self.high)


REAL = Domain(label="real")
UNIT = Domain(0, 1)
BINARY = Domain(0, 1, ends_only=True)
COUNTS = Domain(0)
SIGNS = Domain(-1, 1, ends_only=True)
CLASSES = Domain(label="class labels or class probabilities")
LABELS = Domain(label="class labels")
DISTRIBUTIONS = Domain(label="class probabilities")


@dataclass(frozen=True)
class Knob:
    """A loss's own parameter: its default, what it may be, and who reads it."""

    default: Any
    check: Interval | None
    optional: bool
    scalar: bool  # passed to the kernel, in the order of the declaration


@dataclass(frozen=True)
class Elsewhere:
    """The same loss in another library, for the tests and benchmarks that hold it against ours.

    `name` is that in torch.nn.functional or sklearn._loss.loss, `knobs` what ours are called there
    where that differs (None: there is none), `factor` their value as a multiple of ours.
    """

    name: str
    knobs: dict[str, str | None] = field(default_factory=dict)
    factor: float = 1


class Common(TypedDict, total=False):
    """The keyword arguments of every elementwise and row loss."""

    sample_weight: ArrayLike | None
    mask: ArrayLike | None
    reduction: Literal["mean", "batchmean", "sum"]
    normalizer: float | None
    out: Array | tuple[Array | None, ...] | None
    num_threads: int | None


_COMMON_DOC = """\
sample_weight : array_like, optional
    Multiplies loss, gradient and Hessian: a scalar, or of the shape of the per-sample loss's
    leading axes, or of as many axes with 1s. A weight of 0 is a mask. May be negative.
mask : array_like of bool, optional
    True is kept, shaped like a weight. What is masked is neither read nor checked and contributes
    exact zeros.
reduction : {"mean", "batchmean", "sum", "none"}, optional
    ``"mean"``: sum(w l) / sum(w) over what is kept, the default; ``"batchmean"``: sum(w l) / length
    of the first axis; ``"sum"``; ``"none"``: one loss per sample. Gradients and Hessians are of the
    reduced value; a gradient booster wants ``"sum"``.
normalizer : float, optional
    Replaces the mean's denominator, for gradients accumulated over batches.
out : ndarray or tuple, optional
    The gradient's array in `grad` and `value_and_grad`; else a tuple with an array or None per
    result of the method. May be `pred` itself.
num_threads : int, optional
    Threads for this call; by default those of `get_num_threads`."""

_RETURNS = {
    "__call__": ("l", "float, or an array per sample with reduction='none'"),
    "value_and_grad": ("lg", "(loss, gradient)"),
    "grad": ("g", "gradient"),
    "grad_and_hess": ("gh", "(gradient, diagonal Hessian)"),
    "value_grad_hess": ("lgh", "(loss, gradient, diagonal Hessian)"),
    "normalizer": ("", "float: what 'mean' divides by"),
}
_COMMON = tuple(Common.__annotations__)
_losses: dict[str, Loss[Any]] = {}


def losses() -> dict[str, Loss[Any]]:
    """Return every loss by its name.

    Returns
    -------
    dict of str to Loss

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.losses()["mse_loss"] is fl.mse_loss
    True
    """
    return dict(_losses)


def _members(hint: Any) -> list[Any]:
    """A type hint, what it is a union of, and what it is annotated with."""
    return [hint, *(m for part in typing.get_args(hint) for m in _members(part))]


def _knobs(function: Callable[..., Any], options: Sequence[str]) -> dict[str, Knob]:
    hints = typing.get_type_hints(function, include_extras=True)
    knobs = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind is not p.KEYWORD_ONLY:
            continue
        members = _members(hints[p.name])
        check = next((m for m in members if isinstance(m, Interval)), None)
        knobs[p.name] = Knob(
            default=p.default,
            check=check,
            optional=type(None) in members,
            scalar=check is not None and p.name not in options,
        )
    return knobs


class Loss(Generic[P]):
    """A loss function with its gradient and diagonal Hessian: call it, or one of its methods.

    Attributes
    ----------
    name, kind, formula : str
        The public name; "elementwise" or "rows"; the formula in LaTeX.
    naive : callable
        The textbook formula, ``naive(m, pred, target, **knobs)`` in the functions of a namespace
        `m` such as `numpy`; of one row for a row loss.
    domain : Domain
        The numbers a target may be.
    knobs : dict of str to Knob
        The loss's own parameters.
    """

    name: str
    kind: str
    formula: str
    naive: Naive
    domain: Domain
    knobs: dict[str, Knob]

    def __init__(
        self,
        function: Callable[..., Any],
        gate: type[Any],
        block: int,
        *,
        target: Domain,
        formula: str,
        naive: Naive,
        ulp: tuple[Any, Any, Any] = (4, 4, 4),
        terms: Callable[..., Any] | None = None,
        pred: Domain = REAL,
        torch: Elsewhere | None = None,
        sklearn: Elsewhere | None = None,
    ) -> None:
        self.name = self.__name__ = self.__qualname__ = function.__name__
        self.__module__ = function.__module__
        self.__wrapped__ = function
        self.kind, self.block, self.domain = gate.kind, block, target
        self.formula, self.naive, self.ulp, self.terms = formula, naive, ulp, terms
        self.pred, self.torch, self.sklearn = pred, torch, sklearn
        self.knobs = _knobs(function, gate.options)
        self._gate = gate
        self._bound: dict[str, Any] = {}
        self._make_methods(function)

    def _make_methods(self, function: Callable[..., Any]) -> None:
        public = [
            p
            for p in inspect.signature(function).parameters.values()
            if p.kind is not p.VAR_KEYWORD
        ]
        defaults = {"reduction": "mean", **self._bound}
        public = [p.replace(default=self._bound.get(p.name, p.default)) for p in public]
        public += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name))
            for name in _COMMON
        ]
        signature = inspect.Signature(public)
        own = signature.replace(parameters=public[1:])
        self.__signature__ = own
        shown = own.replace(
            parameters=[
                p.replace(annotation=inspect.Parameter.empty) for p in own.parameters.values()
            ]
        )
        doc = inspect.cleandoc(function.__doc__ or "")
        doc = doc.replace("**common", _COMMON_DOC)
        for method, (results, returns) in _RETURNS.items():
            assert isinstance(function, types.FunctionType)
            bound = types.FunctionType(
                function.__code__,
                function.__globals__,
                self.name if method == "__call__" else method,
                function.__defaults__,
                function.__closure__,
            )
            bound.__kwdefaults__ = {
                **(function.__kwdefaults__ or {}),
                **{k: v for k, v in self._bound.items() if k in self.knobs},
            }
            title = self.name if method == "__call__" else f"{self.name}.{method}"
            text = f"{title}{shown} -> {returns}\n\n{doc}"
            bound.__doc__ = text
            bound.__module__ = function.__module__
            bound.__qualname__ = title
            bound.__signature__ = signature  # type: ignore[attr-defined]
            common = {k: v for k, v in self._bound.items() if k not in self.knobs}
            call = types.MethodType(bound, self._gate(self, results, common))
            if method == "__call__":
                self.__doc__ = text
                self._call = call
            else:
                setattr(self, method, call)

    if TYPE_CHECKING:

        @overload
        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> float: ...
        @overload
        def __call__(self, *args: Any, reduction: Literal["none"], **kwargs: Any) -> Array: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

        @overload
        def value_and_grad(self, *args: P.args, **kwargs: P.kwargs) -> tuple[float, Array]: ...
        @overload
        def value_and_grad(
            self, *args: Any, reduction: Literal["none"], **kwargs: Any
        ) -> tuple[Array, Array]: ...
        def value_and_grad(self, *args: Any, **kwargs: Any) -> Any: ...

        @overload
        def grad(self, *args: P.args, **kwargs: P.kwargs) -> Array: ...
        @overload
        def grad(self, *args: Any, reduction: Literal["none"], **kwargs: Any) -> Array: ...
        def grad(self, *args: Any, **kwargs: Any) -> Any: ...

        @overload
        def grad_and_hess(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Array, Array]: ...
        @overload
        def grad_and_hess(
            self, *args: Any, reduction: Literal["none"], **kwargs: Any
        ) -> tuple[Array, Array]: ...
        def grad_and_hess(self, *args: Any, **kwargs: Any) -> Any: ...

        @overload
        def value_grad_hess(
            self, *args: P.args, **kwargs: P.kwargs
        ) -> tuple[float, Array, Array]: ...
        @overload
        def value_grad_hess(
            self, *args: Any, reduction: Literal["none"], **kwargs: Any
        ) -> tuple[Array, Array, Array]: ...
        def value_grad_hess(self, *args: Any, **kwargs: Any) -> Any: ...

        def normalizer(self, *args: P.args, **kwargs: P.kwargs) -> float: ...

    else:

        def __call__(self, *args, **kwargs):
            return self._call(*args, **kwargs)

    def bind(self, **options: Any) -> Loss[P]:
        """Return this loss with other defaults: knobs, ``reduction``, ``num_threads``.

        Everything is checked now; arrays are kept as read-only copies. The result compares equal to
        a loss bound alike, and can be pickled.

        Examples
        --------
        >>> import fastloss as fl
        >>> fl.huber_loss.bind(delta=2.0, reduction="sum")([0.0, 3.0], [0.0, 0.0])
        4.0
        """
        for name in options:
            if name not in self.knobs and name not in ("reduction", "num_threads"):
                raise TypeError(
                    f"{self.name}: bind() got an unexpected argument {name!r}; it takes "
                    f"{', '.join([*self.knobs, 'reduction', 'num_threads'])}"
                )
        new = copy.copy(self)
        new._bound = {**self._bound, **self._gate.checked(self, options)}
        new._make_methods(self.__wrapped__)
        return new

    def bounds(self, **knobs: Any) -> tuple[float, float, float]:
        """Return the declared error bounds in ulp of loss, gradient and Hessian, at these knobs."""
        values = {name: knob.default for name, knob in self.knobs.items()} | self._bound | knobs
        loss, grad, hess = (float(u(values) if callable(u) else u) for u in self.ulp)
        return loss, grad, hess

    def unknown(self, arguments: dict[str, Any]) -> TypeError:
        """The error for keyword arguments that this loss does not have."""
        return TypeError(
            f"{self.name}: unexpected argument {next(iter(arguments))!r}; it takes "
            f"{', '.join([*self.knobs, *_COMMON])}"
        )

    def check_scalar(self, index: int, value: object) -> float:
        """The scalar knob of this index as a float, or the error that says what is wrong."""
        name = [name for name, knob in self.knobs.items() if knob.scalar][index]
        return self.check_knob(name, value)

    def check_knob(self, name: str, value: object) -> float:
        """The knob of this name as a float, or the error that says what is wrong."""
        check = self.knobs[name].check or Interval()
        try:
            number = as_number(value)
        except TypeError:
            raise TypeError(
                f"{self.name}: {name}: expected a number {check}, got {value!r}"
            ) from None
        if not check.contains(number):
            raise ValueError(f"{self.name}: {name}: expected a number {check}, got {value!r}")
        return number

    def _key(self) -> tuple[Any, ...]:
        def frozen(v: Any) -> Any:
            return (v.dtype.str, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v

        return self.name, tuple(sorted((k, frozen(v)) for k, v in self._bound.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loss) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __copy__(self) -> Loss[P]:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.name, self._bound)

    def __repr__(self) -> str:
        bound = ", ".join(f"{k}={v!r}" for k, v in self._bound.items())
        return f"<fastloss {self.name}{f' bound to {bound}' if bound else ''}>"


def _restore(name: str, bound: dict[str, Any]) -> Loss[Any]:
    found = _losses[name]
    return found.bind(**bound) if bound else found


Run = TypeVar("Run")


def loss(
    gate: type[Run], block: int, **fields: Any
) -> Callable[[Callable[Concatenate[Run, P], Outputs]], Loss[P]]:
    """Declare a loss: the decorated function becomes a `Loss` that runs `block` by `gate`."""

    def declare(function: Callable[Concatenate[Run, P], Outputs]) -> Loss[P]:
        declared: Loss[P] = Loss(function, gate, block, **fields)
        _losses[declared.name] = declared
        return declared

    return declare
