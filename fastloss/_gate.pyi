"""Types of the compiled gate (`_gate.pyx`)."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastloss._loss import Gradients

SCORES: tuple[str, ...]
SERIAL: int
REDUCTIONS: tuple[str, ...]

def readable(dtype: np.dtype[Any]) -> bool: ...
def floating(dtype: np.dtype[Any]) -> bool: ...
def same(a: NDArray[Any], b: NDArray[Any]) -> bool: ...
def forked() -> None: ...

class Job:
    def __init__(
        self,
        *,
        wide: bool,
        order: int,
        block: int,
        knobs: tuple[float, ...],
        size: int,
        classes: int = ...,
        extra_value: float = ...,
        smoothing: float = ...,
        domain: tuple[float, float, bool, bool] | None = ...,
        ignore_index: int | None = ...,
        soft: bool = ...,
        softmax: bool = ...,
        across: bool = ...,
        temperature: float = ...,
        z_loss: float = ...,
        softcap: float = ...,
        divergence: int = ...,
        target_logits: bool = ...,
        lists: bool = ...,
        silent: bool = ...,
    ) -> None: ...
    @property
    def ranges(self) -> int: ...
    @property
    def tiles(self) -> int: ...
    @property
    def bad(self) -> bool: ...
    def put(self, name: str, array: NDArray[Any], matrix: bool = ...) -> None: ...
    def start(self, driver: str, scale: float = ..., stream: bool = ...) -> None: ...
    def run(self, helpers: int, main: bool) -> None: ...
    def total(self) -> float: ...

class ScoreJob(Job):
    def __init__(self, *, topk: int, **options: Any) -> None: ...
    def put_score(self, name: str, array: NDArray[Any]) -> None: ...

class Gate:
    loss: Any
    results: str
    defaults: dict[str, Any]
    block: int
    driver: ClassVar[str]
    def __init__(self, loss: Any, results: str, defaults: dict[str, Any]) -> None: ...

class Method:
    def __init__(self, function: Callable[..., Any], gate: Gate) -> None: ...
    @property
    def __self__(self) -> Gate: ...
    @property
    def __func__(self) -> Callable[..., Any]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

class ElementwiseGate(Gate):
    def __call__(
        self,
        pred: Any,
        target: Any,
        knobs: tuple[Any, ...] = ...,
        per_class: Any = ...,
        **common: Any,
    ) -> Any: ...

class PairsGate(Gate):
    def __call__(
        self, inputs: dict[str, Any], knobs: tuple[Any, ...] = ..., **common: Any
    ) -> Gradients[Any]: ...

class RowsGate(Gate):
    def __call__(
        self, pred: Any, target: Any, knobs: tuple[Any, ...] = ..., **common: Any
    ) -> Any: ...
