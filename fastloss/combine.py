"""Sums of losses: one pass of the kernels per term, added as they come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._general import derivative, is_half
from fastloss._loss import METHODS, Common, HessianLoss, as_number

Array = NDArray[Any]
_OPTIONS = tuple(name for name in Common.__annotations__ if name != "out")
# What terms must have in common, for their results to have one shape.
_ALIKE: dict[str, Any] = {
    "kind": lambda loss: loss.kind,
    "reduction": lambda loss: loss._bound.get("reduction", "mean"),
    "axis": lambda loss: loss._bound.get("axis", -1),
}


@dataclass(frozen=True)
class WeightedSum:
    """A sum of losses of one prediction and one target, with the methods of a loss.

    It is made, and checked, by `weighted_sum`; it compares and pickles.

    Attributes
    ----------
    terms : tuple of (float, Loss)
        The weights, and the losses with what is bound to them.
    """

    terms: tuple[tuple[float, HessianLoss[Any]], ...]

    @property
    def kind(self) -> str:
        """The kind of every term: "elementwise" or "rows"."""
        return self.terms[0][1].kind

    def __call__(self, pred: ArrayLike, target: ArrayLike, **common: Any) -> Any:
        """Return the loss: a float, or an array per sample with ``reduction="none"``."""
        return self._sum("__call__", pred, target, common)

    def value_and_grad(
        self, pred: ArrayLike, target: ArrayLike, **common: Any
    ) -> tuple[Any, Array]:
        """Return (loss, gradient)."""
        loss, grad = self._sum("value_and_grad", pred, target, common)
        return loss, grad

    def grad(self, pred: ArrayLike, target: ArrayLike, **common: Any) -> Array:
        """Return the gradient."""
        grad: Array = self._sum("grad", pred, target, common)
        return grad

    def grad_and_hess(
        self, pred: ArrayLike, target: ArrayLike, **common: Any
    ) -> tuple[Array, Array]:
        """Return (gradient, diagonal Hessian)."""
        grad, hess = self._sum("grad_and_hess", pred, target, common)
        return grad, hess

    def value_grad_hess(
        self, pred: ArrayLike, target: ArrayLike, **common: Any
    ) -> tuple[Any, Array, Array]:
        """Return (loss, gradient, diagonal Hessian)."""
        loss, grad, hess = self._sum("value_grad_hess", pred, target, common)
        return loss, grad, hess

    def normalizer(self, pred: ArrayLike, target: ArrayLike, **common: Any) -> float:
        """Return what "mean" divides every term by; a ValueError where they are not one number."""
        _check_options(common)
        first, *rest = (loss.normalizer(pred, target, **common) for _, loss in self.terms)
        if any(n != first for n in rest):
            raise ValueError(
                "weighted_sum: normalizer: expected terms divided by one number, got "
                f"{', '.join(map(str, [first, *rest]))}"
            )
        return first

    def _sum(self, method: str, pred: Any, target: Any, common: dict[str, Any]) -> Any:
        _check_options(common)
        z, results = np.asarray(pred), METHODS[method][0]
        half = is_half(z.dtype)
        totals: list[Any] = []
        with np.errstate(all="ignore"):
            for weight, loss in self.terms:
                if half and method != "__call__":  # sums are of what is not rounded yet
                    out = tuple(
                        None if r == "l" else np.empty(z.shape, np.float32) for r in results
                    )
                    common["out"] = out if len(out) > 1 else out[0]
                found = getattr(loss, method)(pred, target, **common)
                parts = list(found) if isinstance(found, tuple) else [found]
                # In place where they are arrays: they are this call's own.
                for i, part in enumerate(parts):
                    part *= weight
                    if i < len(totals):
                        totals[i] += part
                    else:
                        totals.append(part)
            for i, result in enumerate(results if half else ""):
                if result != "l":
                    totals[i] = totals[i].astype(derivative(z.dtype))
        return totals[0] if len(totals) == 1 else tuple(totals)


def weighted_sum(*terms: tuple[float, HessianLoss[Any]]) -> WeightedSum:
    r"""Weighted sum of losses, with the methods of a loss.

    .. math:: \sum_i c_i \, l_i(p, t)

    Parameters
    ----------
    *terms : (float, Loss)
        Weights c, finite, and losses l of one kind; knobs are bound to them. What is bound as
        `reduction` and `axis` must be alike.

    Returns
    -------
    WeightedSum
        Called with `pred`, `target` and the keywords that all losses have, but for `out`:
        `sample_weight`, `mask`, `reduction`, `normalizer`, `num_threads`.

    Raises
    ------
    TypeError
        For what is not a pair of a number and a loss; in a call, for other arguments.
    ValueError
        For no terms, weights that are not finite, kinds, reductions or axes that differ.

    Notes
    -----
    Each term runs once over the arrays and is added to the sum, so that two gradients are held at a
    time. A mean is the sum of the terms' means, each over what that term keeps.

    Examples
    --------
    >>> import fastloss as fl
    >>> loss = fl.weighted_sum((0.5, fl.mse_loss), (2.0, fl.huber_loss.bind(delta=1.0)))
    >>> loss.value_and_grad([3.0, 0.0], [0.0, 0.0])
    (4.75, array([2.5, 0. ]))
    """
    if not terms:
        raise ValueError("weighted_sum: terms: expected at least one pair (weight, loss)")
    checked = []
    for i, term in enumerate(terms):
        if not isinstance(term, tuple) or len(term) != 2 or not isinstance(term[1], HessianLoss):
            raise TypeError(f"weighted_sum: terms[{i}]: expected (weight, loss), got {term!r}")
        try:
            weight = as_number(term[0])
        except TypeError as error:
            raise TypeError(f"weighted_sum: terms[{i}]: {error}") from None
        if not math.isfinite(weight):
            raise ValueError(f"weighted_sum: terms[{i}]: expected a finite weight, got {term[0]!r}")
        checked.append((weight, term[1]))
    for what, of in _ALIKE.items():
        found = [of(loss) for _, loss in checked]
        for i, value in enumerate(found):
            if value != found[0]:
                raise ValueError(
                    f"weighted_sum: terms[{i}]: expected the {what} of terms[0], {found[0]!r}, "
                    f"got {value!r} ({checked[i][1].name})"
                )
    return WeightedSum(tuple(checked))


def _check_options(common: dict[str, Any]) -> None:
    for name in common:
        if name not in _OPTIONS:
            cure = "" if name == "out" else "; bind knobs to the terms"
            raise TypeError(
                f"weighted_sum: unexpected argument {name!r}; it takes {', '.join(_OPTIONS)}{cure}"
            )
