"""Calls that a type checker must refuse; read by mypy --strict, never run.

Each `type: ignore` is an assertion: mypy warns of one that silences nothing.
"""

import numpy as np

import fastloss as fl

x = np.zeros((4, 3), np.float32)
y = np.zeros((4, 3), np.float32)
labels = np.zeros(4, np.int64)

fl.huber_loss(x, y, gamma=2.0)  # type: ignore[call-overload]
fl.huber_loss.grad(x, y, gamma=2.0)  # type: ignore[call-overload]
fl.mse_loss.value_and_grad(x, y, delta=1.0)  # type: ignore[call-overload]
fl.cross_entropy(x, labels, dim=1)  # type: ignore[call-overload]
fl.huber_loss(x, y, 1.0)  # type: ignore[call-overload]
fl.huber_loss(x)  # type: ignore[call-overload]
fl.huber_loss(x, y, delta="1")  # type: ignore[call-overload]
fl.huber_loss(x, y, reduction="average")  # type: ignore[call-overload]
fl.mse_loss(x, y, normalizer="n")  # type: ignore[call-overload]
fl.mse_loss(x, y, out=1.0)  # type: ignore[call-overload]
fl.mse_loss.hessian(x, y)  # type: ignore[attr-defined]
fl.rmse_loss(x, y, reduction="sum")  # type: ignore[call-overload]
fl.rmse_loss.grad_and_hess(x, y)  # type: ignore[attr-defined]
fl.dice_loss(x, labels, mode="ternary")  # type: ignore[call-overload]
fl.mae_loss(x, y)  # type: ignore[attr-defined]
fl.set_num_threads("2")  # type: ignore[arg-type]
