"""Penalties on weights: sums over one array or several, each array by kernels of losses to 0."""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fastloss._general import Set, narrowed, unrounded
from fastloss._loss import Gradients, NonNegative, Unweighted, first_order_loss, named
from fastloss.regression import half_mse_loss, l1_loss

Weights = ArrayLike | Sequence[ArrayLike]


def _several(weights: Any) -> bool:
    """Whether it is a sequence of arrays: a list of numbers is one array."""
    return isinstance(weights, (list, tuple)) and (
        not weights or any(isinstance(w, np.ndarray) for w in weights)
    )


def _l1(m: Any, weights: Any, strength: Any) -> Any:
    arrays = weights if _several(weights) else [weights]
    return strength * sum(m.abs(w).sum() for w in arrays)


def _l2(m: Any, weights: Any, strength: Any) -> Any:
    arrays = weights if _several(weights) else [weights]
    return strength * sum((w**2).sum() for w in arrays) / 2


def _penalty(
    run: Set, weights: Any, common: Any, l1: float | None, l2: float | None
) -> Gradients[Any]:
    """The sum over arrays of the penalties that are not None."""
    options = run.common(common)
    several = _several(weights)
    given = {f"weights[{i}]": w for i, w in enumerate(weights)} if several else {"weights": weights}
    arrays = {name: run.array(name, w) for name, w in given.items()}
    outs = run.outs(common, arrays, {}, several=several)
    terms = [
        (named(loss, run.name), strength)
        for loss, strength in ((l1_loss, l1), (half_mse_loss, l2))
        if strength is not None
    ]
    total, gradients = 0.0, []
    for w, out in zip(arrays.values(), outs, strict=True):
        zero = np.broadcast_to(np.float32(0), w.shape)
        sum_of_grads = None
        own = unrounded(w, out) if len(terms) > 1 and "g" in run.results else out
        for i, (loss, strength) in enumerate(terms):
            value, grad = run.ask(
                loss,
                w,
                zero,
                sample_weight=strength,
                reduction="sum",
                # It may be w: the last term's alone.
                out=own if i == len(terms) - 1 else unrounded(w, None),
                **options,
            )
            total += value
            if sum_of_grads is not None:
                with np.errstate(all="ignore"):
                    np.add(grad, sum_of_grads, out=grad, casting="same_kind")
            sum_of_grads = grad
        if own is not out and sum_of_grads is not None:
            sum_of_grads = narrowed(sum_of_grads, w, out)
        gradients.append(sum_of_grads)
    if several:
        return run(total, gradients if isinstance(weights, list) else tuple(gradients))
    return run(total, gradients[0])


@first_order_loss(
    Set,
    formula=r"\lambda \sum |w|",
    use_when="penalties: most weights are to become 0",
    naive=_l1,
    inputs=("weights",),
)
def l1_penalty(
    run: Set, weights: Weights, strength: NonNegative = 1.0, **common: Unpack[Unweighted]
) -> Gradients[Any]:
    r"""Sum of the absolute weights, which makes small ones 0.

    .. math:: \lambda \sum |w|

    Parameters
    ----------
    weights : array_like, or list or tuple of arrays
        floats, or integers, which count as float64. A list or tuple in which there is
        no ndarray is one array.
    strength : float, optional
        The :math:`\lambda`, not negative; at 0 the weights are not read.
    out : ndarray or sequence, optional
        The gradient's array, or those of a list or tuple; or a tuple of one entry per result. Each
        may be the weights themselves.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Raises
    ------
    ValueError, TypeError
        For a negative `strength`, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    R. Tibshirani, Regression shrinkage and selection via the lasso, 1996. The gradients come as the
    weights did: an array, or a list or tuple of as many. At a weight of 0 the gradient is 0. No
    average: neither over weights nor over samples.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.l1_penalty.value_and_grad([1.0, -2.0, 0.0], 0.5)
    (1.5, array([ 0.5, -0.5,  0. ]))
    """
    return _penalty(run, weights, common, run.check_knob("strength", strength), None)


@first_order_loss(
    Set,
    formula=r"\tfrac{\lambda}{2} \sum w^2",
    use_when="penalties: weights are to stay small",
    naive=_l2,
    inputs=("weights",),
)
def l2_penalty(
    run: Set, weights: Weights, strength: NonNegative = 1.0, **common: Unpack[Unweighted]
) -> Gradients[Any]:
    r"""Half the sum of the squared weights: weight decay.

    .. math:: \tfrac{\lambda}{2} \sum w^2

    Parameters
    ----------
    weights : array_like, or list or tuple of arrays
        floats, or integers, which count as float64. A list or tuple in which there is
        no ndarray is one array.
    strength : float, optional
        The :math:`\lambda`, not negative; at 0 the weights are not read.
    out : ndarray or sequence, optional
        The gradient's array, or those of a list or tuple; or a tuple of one entry per result. Each
        may be the weights themselves.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Raises
    ------
    ValueError, TypeError
        For a negative `strength`, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    A. E. Hoerl and R. W. Kennard, Ridge regression, 1970. The gradient is :math:`\lambda w`, as of
    PyTorch's ``weight_decay``; scikit-learn's ``Ridge(alpha)`` has no half. The gradients come as
    the weights did: an array, or a list or tuple of as many.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.l2_penalty.value_and_grad([1.0, -2.0, 0.0], 0.5)
    (1.25, array([ 0.5, -1. ,  0. ]))
    """
    return _penalty(run, weights, common, None, run.check_knob("strength", strength))


@first_order_loss(
    Set,
    formula=r"\lambda_1 \sum |w| + \tfrac{\lambda_2}{2} \sum w^2",
    use_when="penalties: both, as where weights are correlated",
    naive=lambda m, weights, l1, l2: _l1(m, weights, l1) + _l2(m, weights, l2),
    inputs=("weights",),
)
def elastic_net_penalty(
    run: Set,
    weights: Weights,
    l1: NonNegative = 1.0,
    l2: NonNegative = 1.0,
    **common: Unpack[Unweighted],
) -> Gradients[Any]:
    r"""Sum of `l1_penalty` and `l2_penalty`.

    .. math:: \lambda_1 \sum |w| + \tfrac{\lambda_2}{2} \sum w^2

    Parameters
    ----------
    weights : array_like, or list or tuple of arrays
        floats, or integers, which count as float64. A list or tuple in which there is
        no ndarray is one array.
    l1, l2 : float, optional
        The strengths :math:`\lambda_1, \lambda_2`, not negative.
    out : ndarray or sequence, optional
        The gradient's array, or those of a list or tuple; or a tuple of one entry per result. Each
        may be the weights themselves.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Raises
    ------
    ValueError, TypeError
        For a negative strength, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    H. Zou and T. Hastie, Regularization and variable selection via the elastic net, 2005; of
    scikit-learn's ``ElasticNet(alpha, l1_ratio)`` `l1` is ``alpha * l1_ratio`` and `l2` is
    ``alpha * (1 - l1_ratio)``. A pass for each of the two; while both run, a second gradient of one
    array is held.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.elastic_net_penalty.value_and_grad([1.0, -2.0, 0.0], 0.5, 1.0)
    (4.0, array([ 1.5, -2.5,  0. ]))
    """
    return _penalty(run, weights, common, run.check_knob("l1", l1), run.check_knob("l2", l2))
