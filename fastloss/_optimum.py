"""The constant predictions that minimise losses: what declarations name as `constant`.

Each is given the loss, the targets that count (float64, one axis), their weights (positive) and
every knob; of a row loss, the weight of each class and of all. What has no closed form is found by
`least`, from the loss itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def mean(loss: Any, t: Array, w: Array, **knobs: Any) -> float:
    """The weighted mean."""
    return float(np.average(t, weights=w))


def log_mean(loss: Any, t: Array, w: Array, **knobs: Any) -> float:
    """The logarithm of the weighted mean."""
    return _log(mean(loss, t, w))


def poisson(loss: Any, t: Array, w: Array, *, log_input: Any, eps: float, **knobs: Any) -> float:
    """The weighted mean, less what is added to it, or its logarithm."""
    return log_mean(loss, t, w) if log_input else mean(loss, t, w) - eps


def mean_of_logs(loss: Any, t: Array, w: Array, **knobs: Any) -> float:
    """The weighted mean of log(1 + t), as a t."""
    return math.expm1(mean(loss, np.log1p(t), w))


def median(loss: Any, t: Array, w: Array, **knobs: Any) -> float:
    """The weighted median."""
    return _quantile(t, w, 0.5)


def quantile(loss: Any, t: Array, w: Array, *, q: float, **knobs: Any) -> float:
    """The weighted quantile."""
    return _quantile(t, w, q)


def quantiles(loss: Any, t: Array, w: Array, *, q: Any, **knobs: Any) -> Any:
    """The weighted quantile at each level."""
    found = [_quantile(t, w, level) for level in np.ravel(q)]
    return np.array(found) if np.ndim(q) else found[0]


def _quantile(t: Array, w: Array, q: float) -> float:
    # The least t with no less than q of the weight up to it; of two that are as good, the middle.
    order = np.argsort(t, kind="stable")
    t, below = t[order], np.cumsum(w[order])
    share = q * below[-1]
    first = min(int(np.searchsorted(below, share)), len(t) - 1)
    last = first + (below[first] == share and first + 1 < len(t) and q > 0)
    return float(t[first] if first == last else t[first] / 2 + t[last] / 2)


def log_odds(
    loss: Any, t: Array, w: Array, *, pos_weight: Any = None, label_smoothing: float = 0.0
) -> float:
    """The logarithm of the odds of t in [0, 1]."""
    t = t * (1 - label_smoothing) + label_smoothing / 2
    positive = float(np.sum(w * t * (1.0 if pos_weight is None else pos_weight)))
    return _log(positive) - _log(float(np.sum(w * (1 - t))))


def log_odds_of_signs(loss: Any, t: Array, w: Array, **knobs: Any) -> float:
    """The logarithm of the odds of +1 against -1."""
    return log_odds(loss, (1 + t) / 2, w)


def half_log_odds_of_signs(loss: Any, t: Array, w: Array, **knobs: Any) -> float:
    """Half the logarithm of the odds of +1 against -1."""
    return log_odds_of_signs(loss, t, w) / 2


def least(loss: Any, t: Array, w: Array, **knobs: Any) -> float:
    """The minimum of a convex loss between the least and the largest target: where its slope is 0.

    The sign of the slope halves the interval until nothing is between its ends.
    """
    z = np.empty_like(t)
    bounds = np.finfo(t.dtype)
    low, high = np.clip([t.min(), t.max()], bounds.min, bounds.max).tolist()
    while low < (middle := low / 2 + high / 2) < high:
        z.fill(middle)
        slope = loss.grad(z, t, sample_weight=w, reduction="sum", out=z, **knobs).sum()
        if slope == 0:
            return float(middle)
        low, high = (low, middle) if slope > 0 else (middle, high)
    costs = [
        loss(np.full_like(t, end), t, sample_weight=w, reduction="sum", **knobs)
        for end in (low, high)
    ]
    return float(low if costs[0] <= costs[1] else high)


def log_frequencies(
    loss: Any,
    classes: Array,
    total: float,
    *,
    class_weight: Any,
    label_smoothing: float,
    temperature: float,
    softcap: float | None,
    z_loss: float,
    class_mask: Any,
) -> Array:
    """The logarithms of the classes' shares of the weight, which have no `z_loss` to pay.

    A class that `class_mask` leaves out has 0, which plays no part.
    """
    kept = np.ones(len(classes), bool) if class_mask is None else class_mask
    if kept.shape != classes.shape:
        raise ValueError(
            f"{loss.name}: class_mask: expected shape {classes.shape}, got {kept.shape}"
        )
    share = (1 - label_smoothing) * classes + label_smoothing * total / kept.sum()
    share = np.where(kept, share * (1.0 if class_weight is None else class_weight), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = temperature * np.log(share / share.sum())
        if softcap is not None:
            if z_loss == 0:  # then only their differences matter
                logs -= (logs[kept].max() + logs[kept].min()) / 2
            if not (abs(logs[kept]) < softcap).all():
                raise ValueError(
                    f"{loss.name}: softcap: {softcap} keeps logits from these shares of classes"
                )
            logs = softcap * np.arctanh(logs / softcap)
    return np.where(kept, logs, 0)
