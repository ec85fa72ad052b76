"""One round of boosting by a booster's own objective, and by fastloss as a custom objective.

The objective alone can't be called, so that a whole round is timed: on one feature of two values
and trees of one split, where the objective is most of it. The limit is a round whose gradients are
there already. One round's predictions are checked equal first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fastloss as fl

from .contest import Array, Call, Case, check_equal

try:
    import xgboost
except ImportError:
    xgboost = None
try:
    import lightgbm
except ImportError:
    lightgbm = None

# A booster's update, and what predicts from its first round.
Made = tuple[Callable[[], Any], Callable[[], Array]]
Custom = Callable[[Array, Any], tuple[Array, Array]]  # (scores, data) -> gradient, Hessian


def by_xgboost(own: str, custom: Custom | None, x: Array, y: Array) -> Made:
    data = xgboost.QuantileDMatrix(x, y)
    base = 0.5 if own.startswith("binary") else 0  # begin with a score of 0
    parameters = {"max_depth": 1, "nthread": 1, "base_score": base, "objective": own}
    booster = xgboost.Booster(parameters, [data])
    rounds = iter(range(1 << 62))
    return (
        lambda: booster.update(data, next(rounds), fobj=custom),
        lambda: booster.predict(data, output_margin=True, iteration_range=(0, 1)),
    )


def by_lightgbm(own: str, custom: Custom | None, x: Array, y: Array) -> Made:
    parameters = {
        "max_depth": 1,
        "num_leaves": 2,
        "num_threads": 1,
        "boost_from_average": False,
        "verbose": -1,
        "objective": "none" if custom else own,
    }
    booster = lightgbm.Booster(parameters, lightgbm.Dataset(x, y))
    return (
        lambda: booster.update(fobj=custom),
        lambda: booster.predict(x, raw_score=True, num_iteration=1),
    )


SIZE = 1_000_000
BOOSTERS = {"XGBoost": by_xgboost, "LightGBM": by_lightgbm}
OBJECTIVES = {
    ("half_mse_loss", "XGBoost"): "reg:squarederror",
    ("half_mse_loss", "LightGBM"): "regression",
    ("binary_cross_entropy_with_logits", "XGBoost"): "binary:logistic",
    ("binary_cross_entropy_with_logits", "LightGBM"): "binary",
}


@dataclass(frozen=True)
class Round(Case):
    """A case of another kind: `what` is the booster."""

    @property
    def name(self) -> str:
        return f"{super().name} round"

    def calls(self, who: str | None = None) -> dict[str, Call]:
        """All contenders; none where the booster is not asked for or not installed."""
        package = {"XGBoost": xgboost, "LightGBM": lightgbm}[self.what]
        if who is None or not re.search(who, self.what) or not package:
            return {}
        rng = np.random.default_rng(0)
        x = rng.integers(0, 2, (*self.shape, 1)).astype(np.float32)
        y = (rng.random(self.shape) < 0.2 + 0.5 * x[:, 0]).astype(np.float32)
        out = np.empty_like(y), np.empty_like(y)
        loss = self.loss.bind(reduction="sum", num_threads=self.threads)
        target = y.astype(float) if self.what == "LightGBM" else y  # the scores' dtype
        ready = tuple(each.copy() for each in loss.grad_and_hess(np.zeros_like(y), y))
        customs: dict[str, Custom | None] = {
            "fastloss": lambda score, _: loss.grad_and_hess(score, target, out=out),
            self.what: None,
            "limit": lambda score, _: ready,
        }
        make, own = BOOSTERS[self.what], OBJECTIVES[self.loss.name, self.what]
        calls, checks = {}, {}
        for contender, custom in customs.items():
            calls[contender], predict = make(own, custom, x, y)
            calls[contender]()
            checks[contender] = partial(lambda scores: (scores.mean(), scores), predict())
        check_equal(checks)
        return calls


def rounds(dtype: str) -> Iterator[Case]:
    for name, booster in OBJECTIVES if dtype == "float32" else ():
        yield Round(fl.losses()[name], (SIZE,), 1, dtype, booster)
