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
from dataclasses import dataclass, field, replace
from functools import cache
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    overload,
)

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._gate import Gate, Method

P = ParamSpec("P")
G = TypeVar("G")
Array = NDArray[Any]
Outputs = Any  # what a gate returns depends on the method, which types it
Naive = Callable[..., Any]


class Gradients(Generic[G]):
    """What `first_order_loss` declares to return: for the type checker, of gradients G."""


def as_number(x: Any) -> float:
    """A real number as a float, beyond the largest float inf; TypeError for anything else."""
    if type(x) is float:
        return x
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


@dataclass(frozen=True)
class Choice:
    """The words a knob may be: those of its Literal."""

    words: tuple[str, ...]

    def contains(self, x: object) -> bool:
        """Whether the knob may be x."""
        return x in self.words

    def __str__(self) -> str:
        return " or ".join(map(repr, self.words))


Positive = Annotated[float, Interval(0, open=True)]
NonNegative = Annotated[float, Interval(0)]
Temperature = Annotated[float, Interval(1e-12, 1e12)]  # squared still among the floats
Fraction = Annotated[float, Interval(0, 1)]
Flag = Annotated[bool, Interval(1, 1, also=(0,))]  # to the kernel 1.0 or 0.0
ClassMask = Annotated[ArrayLike | None, "class mask"]  # booleans, per class or of pred's shape


@dataclass(frozen=True)
class Domain:
    """The numbers an input may be: [low, high], or the two ends alone. nan is let through.

    `open`: low itself is not one of them. `unless`: the flag that lifts the limits.
    Targets of rows are class `labels`, or `shares`: such a number for each class, or `lists`: of
    pred's shape, along the classes the labels of a row, up to the first -1.
    """

    low: float = -math.inf
    high: float = math.inf
    ends_only: bool = False
    label: str = ""
    open: bool = False
    unless: str = ""
    labels: bool = False
    shares: bool = False
    lists: bool = False

    def contains(self, x: ArrayLike) -> NDArray[np.bool_]:
        """Elementwise, whether x may be a target."""
        x = np.asarray(x)
        inside = (x == self.low) | (x == self.high) if self.ends_only else None
        if inside is None:
            inside = ((x > self.low) if self.open else (x >= self.low)) & (x <= self.high)
        return np.asarray(inside | (x != x))

    def excludes(self, x: ArrayLike) -> NDArray[np.bool_]:
        """Elementwise, whether x may not."""
        return ~self.contains(x)

    def __str__(self) -> str:
        if self.label:
            return self.label
        ends = "{%g, %g}" if self.ends_only else "(%g, %g]" if self.open else "[%g, %g]"
        return ends % (self.low, self.high)


REAL = Domain(label="real")
UNIT = Domain(0, 1)
BINARY = Domain(0, 1, ends_only=True)
COUNTS = Domain(0)
SCALES = Domain(0, open=True)
SIGNS = Domain(-1, 1, ends_only=True)
CLASSES = Domain(
    0, 1, label="class labels or class probabilities in [0, 1]", labels=True, shares=True
)
LABELS = Domain(label="class labels", labels=True)
LABEL_LISTS = Domain(label="lists of class labels", lists=True)
CHANCES = Domain(0, 1, label="class probabilities in [0, 1]", shares=True)
CHANCES_OR_LOGITS = replace(CHANCES, unless="from_logits")
# Knobs that are arrays along the last or the class axis, and what their numbers may be.
PerClass = Annotated[ArrayLike | None, COUNTS]
Levels = Annotated[ArrayLike, UNIT]


@dataclass(frozen=True)
class Knob:
    """A loss's own parameter: its default, what it may be, and who reads it."""

    default: Any
    check: Interval | Choice | None
    optional: bool
    scalar: bool  # passed to the kernel, in the order of the declaration
    each: Domain | None = None  # what the numbers of an array may be


@dataclass(frozen=True)
class Elsewhere:
    """The same loss in another library, for the tests and benchmarks that hold it against ours.

    `name` is that in torch.nn.functional or sklearn._loss.loss, `knobs` what ours are called there
    where that differs (None: there is none), `factor` their value as a multiple of ours.
    """

    name: str
    knobs: dict[str, str | None] = field(default_factory=dict)
    factor: float = 1

    def named(self, knobs: dict[str, Any]) -> dict[str, Any] | None:
        """These settings in its words; None if it lacks one of them."""
        names = ((self.knobs.get(name, name), value) for name, value in knobs.items())
        named = {name: value for name, value in names if name and value is not None}
        return named if len(named) == len(knobs) else None


class Common(TypedDict, total=False):
    """The keyword arguments of every elementwise and row loss."""

    sample_weight: ArrayLike | None
    mask: ArrayLike | None
    reduction: Literal["mean", "batchmean", "sum"]
    normalizer: float | None
    out: Array | tuple[Array | None, ...] | None
    num_threads: int | None


class VectorsCommon(TypedDict, total=False):
    """The keyword arguments of every loss of vectors."""

    sample_weight: ArrayLike | None
    mask: ArrayLike | None
    reduction: Literal["mean", "batchmean", "sum"]
    normalizer: float | None
    out: tuple[Any, ...] | None


class Unweighted(TypedDict, total=False):
    """The keyword arguments of a loss of a whole set, which weighs no samples."""

    out: Any
    num_threads: int | None


_COMMON_DOC = {
    "sample_weight": """\
sample_weight : array_like, optional
    Multiplies loss, gradient and Hessian: a scalar, or of the shape of the per-sample loss's
    leading axes, or of as many axes with 1s. A weight of 0 is a mask. May be negative.""",
    "mask": """\
mask : array_like of bool, optional
    True is kept, shaped like a weight. What is masked is neither read nor checked and contributes
    exact zeros.""",
    "reduction": """\
reduction : {"mean", "batchmean", "sum", "none"}, optional
    ``"mean"``: sum(w l) / sum(w) over what is kept, the default; ``"batchmean"``: sum(w l) / length
    of the first axis; ``"sum"``; ``"none"``: one loss per sample. Gradients and Hessians are of the
    reduced value; a gradient booster wants ``"sum"``.""",
    "normalizer": """\
normalizer : float, optional
    Replaces the mean's denominator, for gradients accumulated over batches.""",
    "out": """\
out : ndarray or tuple, optional
    The gradient's array in `grad` and `value_and_grad`; else a tuple with an array or None per
    result of the method. May be `pred` itself. Of float16, bfloat16, float32 or float64, as
    `pred`. By default derivatives are of pred's dtype (of integers float64) and a loss per sample
    is at least float32. In float16 the gradient of a mean underflows: below 3e-8 it is 0. Give a
    float32 array, or take ``reduction="sum"``.""",
    "num_threads": """\
num_threads : int, optional
    Threads for this call; by default those of `get_num_threads`.""",
}

_VECTORS_DOC = {
    "sample_weight": """\
sample_weight : array_like, optional
    Multiplies loss and gradients: a scalar, or one per row, or of the rows' leading axes, or of as
    many axes with 1s. A weight of 0 is a mask. May be negative.""",
    "out": """\
out : tuple, optional
    An array or None per gradient in `grad` and `value_and_grad`; else a tuple with an array, such a
    tuple of gradients, or None per result of the method. A gradient's may be its input itself. Of
    float16, bfloat16, float32 or float64, as the inputs. By default a gradient is of its input's
    dtype (of integers float64) and a loss per sample is at least float32. In float16 the gradient
    of a mean underflows: below 3e-8 it is 0. Give float32 arrays, or take ``reduction="sum"``.""",
}

METHODS = {
    "__call__": ("l", "float, or an array per sample with reduction='none'"),
    "value_and_grad": ("lg", "(loss, gradient)"),
    "grad": ("g", "gradient"),
    "grad_and_hess": ("gh", "(gradient, diagonal Hessian)"),
    "value_grad_hess": ("lgh", "(loss, gradient, diagonal Hessian)"),
    "normalizer": ("", "float: what 'mean' divides by"),
}
_losses: dict[str, Loss[Any, Any]] = {}


def losses() -> dict[str, Loss[Any, Any]]:
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


def _knobs(
    function: Callable[..., Any], options: Sequence[str]
) -> tuple[dict[str, Knob], tuple[str, ...]]:
    """The knobs, and the names in the TypedDict that the declaration's `**common` unpacks."""
    hints = typing.get_type_hints(function, include_extras=True)
    knobs = {}
    common: tuple[str, ...] = ()
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.VAR_KEYWORD:
            common = tuple(typing.get_args(hints[p.name])[0].__annotations__)
        members = _members(hints.get(p.name))
        words = [m for m in members if typing.get_origin(m) is Literal]
        check: Interval | Choice | None = Choice(typing.get_args(words[0])) if words else None
        check = next((m for m in members if isinstance(m, Interval)), check)
        if p.kind is not p.KEYWORD_ONLY and check is None:
            continue
        knobs[p.name] = Knob(
            default=p.default,
            check=check,
            optional=type(None) in members,
            scalar=check is not None and p.name not in options,
            each=next((m for m in members if isinstance(m, Domain)), None),
        )
    return knobs, common


class Loss(Generic[P, G]):
    """A loss function with its gradient, or gradients G: call it, or one of its methods.

    The floats that a loss takes are float16, bfloat16 (of the package ml_dtypes), float32 and
    float64, in any layout and byte order (bfloat16 in the machine's). Those of 16 bits are computed
    with in float32, a block at a time, and derivatives rounded to nearest even; totals are summed
    in float64.

    Attributes
    ----------
    name, kind, formula : str
        The public name; "elementwise", "rows", "pairs" (of inputs, each with a gradient),
        "vectors" (a row of each of several inputs is a sample) or "set"; the formula in LaTeX.
    use_when : str
        The tasks it is for, and when among these it is the one: "outliers, regression: ...".
    naive : callable
        The textbook formula, ``naive(m, pred, target, **knobs)`` in the functions of a namespace
        `m` such as `numpy`; of one row for a loss of rows or vectors.
    domain : Domain
        The numbers a target may be.
    knobs : dict of str to Knob
        The loss's own parameters.
    inputs : tuple of str
        The arguments that there are gradients of.
    link : str or None
        The function whose value at what is predicted (a mean, a probability, a quantile) `pred`
        is: "identity", "log", "logit", "half_logit" or "multilogit"; None where there is none.
    """

    name: str
    kind: str
    formula: str
    use_when: str
    naive: Naive
    domain: Domain
    knobs: dict[str, Knob]
    common: tuple[str, ...]
    inputs: tuple[str, ...]

    def __init__(
        self,
        function: Callable[..., Any],
        gate: type[Any],
        block: int,
        *,
        target: Domain = REAL,
        formula: str,
        use_when: str,
        naive: Naive,
        ulp: tuple[Any, Any, Any] = (4, 4, 4),
        terms: Callable[..., Any] | None = None,
        pred: Domain = REAL,
        inputs: tuple[str, ...] = ("pred",),
        checked: str = "target",
        torch: Elsewhere | None = None,
        sklearn: Elsewhere | None = None,
        link: str | Callable[[dict[str, Any]], str] | None = None,
        constant: Callable[..., Any] | None = None,
    ) -> None:
        self.name = self.__name__ = self.__qualname__ = function.__name__
        self.__module__ = function.__module__
        self.__wrapped__ = function
        self.kind, self.block, self.domain = gate.kind, block, target
        self.formula, self.naive, self.ulp, self.terms = formula, naive, ulp, terms
        self.use_when = use_when
        self.pred, self.torch, self.sklearn = pred, torch, sklearn
        self.inputs, self.checked = inputs, checked  # `checked` is the one whose domain it is
        self.knobs, self.common = _knobs(function, gate.options)
        self._link, self.constant = link, constant
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
            for name in self.common
        ]
        signature = inspect.Signature(public)
        own = signature.replace(parameters=public[1:])
        self.__signature__ = own
        plain = [p.replace(annotation=inspect.Parameter.empty) for p in own.parameters.values()]
        shown = str(own.replace(parameters=plain))
        doc = inspect.cleandoc(function.__doc__ or "")
        shared = _COMMON_DOC | (_VECTORS_DOC if self.kind == "vectors" else {})
        doc = doc.replace("**common", "\n".join(shared[name] for name in self.common))
        for method in self._gate.methods:
            results, returns = METHODS[method]
            if results == "l" and "reduction" not in self.common:
                returns = "float"
            assert isinstance(function, types.FunctionType)
            bound = types.FunctionType(
                function.__code__,
                function.__globals__,
                self.name if method == "__call__" else method,
                function.__defaults__,
                function.__closure__,
            )
            if bound.__defaults__:
                positional = [p for p in public if p.kind is p.POSITIONAL_OR_KEYWORD]
                given = positional[-len(bound.__defaults__) :]
                bound.__defaults__ = tuple(p.default for p in given)
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
            gate = self._gate(self, results, common)
            call = (Method if isinstance(gate, Gate) else types.MethodType)(bound, gate)
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
        def value_and_grad(self, *args: P.args, **kwargs: P.kwargs) -> tuple[float, G]: ...
        @overload
        def value_and_grad(
            self, *args: Any, reduction: Literal["none"], **kwargs: Any
        ) -> tuple[Array, G]: ...
        def value_and_grad(self, *args: Any, **kwargs: Any) -> Any: ...

        @overload
        def grad(self, *args: P.args, **kwargs: P.kwargs) -> G: ...
        @overload
        def grad(self, *args: Any, reduction: Literal["none"], **kwargs: Any) -> G: ...
        def grad(self, *args: Any, **kwargs: Any) -> Any: ...

        def normalizer(self, *args: P.args, **kwargs: P.kwargs) -> float: ...

    else:

        def __call__(self, *args, **kwargs):
            return self._call(*args, **kwargs)

    def bind(self, **options: Any) -> Self:
        """Return this loss with other defaults: knobs, ``reduction``, ``num_threads``.

        Everything is checked now; arrays are kept as read-only copies. The result compares equal to
        a loss bound alike, and can be pickled.

        Examples
        --------
        >>> import fastloss as fl
        >>> fl.huber_loss.bind(delta=2.0, reduction="sum")([0.0, 3.0], [0.0, 0.0])
        4.0
        """
        common = [name for name in ("reduction", "num_threads") if name in self.common]
        self._check_names("bind", options, *common)
        new = copy.copy(self)
        new._bound = {**self._bound, **self._gate.checked(self, options)}
        new._make_methods(self.__wrapped__)
        return new

    def _check_names(self, method: str, given: dict[str, Any], *others: str) -> None:
        for name in given:
            if name not in self.knobs and name not in others:
                raise TypeError(
                    f"{self.name}: {method}() got an unexpected argument {name!r}; it takes "
                    f"{', '.join([*self.knobs, *others])}"
                )

    def values(self, knobs: dict[str, Any]) -> dict[str, Any]:
        """Every knob: as given, else as bound, else its default."""
        bound = {name: v for name, v in self._bound.items() if name in self.knobs}
        return {name: knob.default for name, knob in self.knobs.items()} | bound | knobs

    @property
    def link(self) -> str | None:
        """The function whose value at what is predicted `pred` is, or None."""
        return self._link(self.values({})) if callable(self._link) else self._link

    def optimal_constant(
        self, target: ArrayLike, sample_weight: ArrayLike | None = None, **knobs: Any
    ) -> Any:
        """Return the constant prediction that minimises the weighted loss, on the scale of `pred`.

        Where several do, such as between two medians, it is one of them. It is where training can
        start, and what a model must do better than.

        Parameters
        ----------
        target : array_like
            As in a call; of a row loss integers are labels, other numbers probabilities of the
            classes on `axis`.
        sample_weight : array_like, optional
            A scalar, or of the shape of the leading axes, as in a call; not negative.
        **knobs
            The loss's own parameters, as in a call; of a row loss also `n_classes`, needed where
            the labels do not show every class.

        Returns
        -------
        float, or ndarray of a number per class or quantile
            nan where nothing weighs anything.

        Raises
        ------
        TypeError
            Where the loss has no such constant that is known or easily found.
        ValueError
            For targets out of the domain, negative weights, shapes that do not fit.

        Examples
        --------
        >>> import fastloss as fl
        >>> fl.l1_loss.optimal_constant([1.0, 2.0, 9.0])
        2.0
        >>> round(fl.poisson_nll_loss.optimal_constant([1, 2, 9]), 6)  # log(4)
        1.386294
        >>> fl.cross_entropy.optimal_constant([0, 1, 1, 1]).round(6)
        array([-1.386294, -0.287682])
        """
        self._check_names("optimal_constant", knobs, *self._gate.constant_options)
        if self.constant is None:
            raise TypeError(
                f"{self.name}: optimal_constant: no constant prediction is known to minimise it"
            )
        gate: Any = self._gate(self, "", {})
        return gate.constant(target, sample_weight, knobs)

    def bounds(self, **knobs: Any) -> tuple[float, float, float]:
        """Return the declared error bounds in ulp of loss, gradient and Hessian, at these knobs.

        A loss of kind "set" declares none: a TypeError.
        """
        if self.kind == "set":
            raise TypeError(f"{self.name}: bounds: none are declared of a loss of a whole set")
        values = self.values(knobs)
        loss, grad, hess = (float(u(values) if callable(u) else u) for u in self.ulp)
        return loss, grad, hess

    def unknown(self, arguments: dict[str, Any]) -> TypeError:
        """The error for keyword arguments that this loss does not have."""
        return TypeError(
            f"{self.name}: unexpected argument {next(iter(arguments))!r}; it takes "
            f"{', '.join([*self.knobs, *self.common])}"
        )

    def scalars(self) -> list[str]:
        """The names of the knobs that are passed to the kernel, in their order."""
        return [name for name, knob in self.knobs.items() if knob.scalar]

    def domain_at(self, scalars: Sequence[float]) -> Domain:
        """The numbers a target may be, at these scalar knobs."""
        unless = self.domain.unless
        return REAL if unless and scalars[self.scalars().index(unless)] else self.domain

    def check_scalar(self, index: int, value: object) -> float:
        """The scalar knob of this index as a float, or the error that says what is wrong."""
        return float(self.check_knob(self.scalars()[index], value))

    def check_knob(self, name: str, value: object) -> Any:
        """The knob of this name as a float or a word, or the error that says what is wrong."""
        check = self.knobs[name].check or Interval()
        if isinstance(check, Choice):
            if not (isinstance(value, str) and check.contains(value)):
                kind = ValueError if isinstance(value, str) else TypeError
                raise kind(f"{self.name}: {name}: expected {check}, got {value!r}")
            return value
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

    def __copy__(self) -> Self:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.name, self._bound)

    def __repr__(self) -> str:
        bound = ", ".join(f"{k}={v!r}" for k, v in self._bound.items())
        return f"<fastloss {self.name}{f' bound to {bound}' if bound else ''}>"


class HessianLoss(Loss[P, Array]):
    """A loss of one prediction, which has the diagonal of its Hessian too."""

    if TYPE_CHECKING:

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


@cache
def named(loss: Loss[Any, Any], name: str) -> Any:
    """The loss with another name, so that its errors name the function called."""
    new = copy.copy(loss)
    new.name = name
    new._make_methods(new.__wrapped__)
    return new


def _restore(name: str, bound: dict[str, Any]) -> Loss[Any, Any]:
    found = _losses[name]
    return found.bind(**bound) if bound else found


Run = TypeVar("Run")


def loss(
    gate: type[Run], block: int, **fields: Any
) -> Callable[[Callable[Concatenate[Run, P], Outputs]], HessianLoss[P]]:
    """Declare a loss: the decorated function becomes a `Loss` that runs `block` by `gate`."""

    def declare(function: Callable[Concatenate[Run, P], Outputs]) -> HessianLoss[P]:
        declared: HessianLoss[P] = HessianLoss(function, gate, block, **fields)
        _losses[declared.name] = declared
        return declared

    return declare


def first_order_loss(
    gate: type[Run], block: int = 0, **fields: Any
) -> Callable[[Callable[Concatenate[Run, P], Gradients[G]]], Loss[P, G]]:
    """Declare a loss without a Hessian: of several inputs, or of a set that is one sample."""

    def declare(function: Callable[Concatenate[Run, P], Gradients[G]]) -> Loss[P, G]:
        declared: Loss[P, G] = Loss(function, gate, block, **fields)
        _losses[declared.name] = declared
        return declared

    return declare
