"""What a type checker sees; read by mypy --strict, never run.

A `type: ignore` here is an assertion: mypy warns of one that silences nothing.
"""

from collections.abc import Callable
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fastloss as fl

x = np.zeros((4, 3), np.float32)
y = np.zeros((4, 3), np.float32)
labels = np.zeros(4, np.int64)
weight = np.ones(4)

# Reduced, the loss is a float; with "none" an array.
assert_type(fl.mse_loss(x, y), float)
assert_type(fl.huber_loss(x, y, delta=2.0, reduction="sum"), float)
assert_type(fl.sigmoid_focal_loss(x, y, alpha=None, reduction="batchmean"), float)
assert_type(fl.binary_cross_entropy_with_logits(x, y, pos_weight=weight), float)
assert_type(fl.cross_entropy(x, labels, class_weight=[1.0, 2.0, 3.0], ignore_index=-100), float)
assert_type(fl.mse_loss(x, y, reduction="none"), NDArray[Any])
assert_type(fl.huber_loss(x, y, delta=2.0, reduction="none"), NDArray[Any])
assert_type(fl.cross_entropy(x, labels, axis=-1, reduction="none"), NDArray[Any])

assert_type(fl.huber_loss.value_and_grad(x, y, delta=2.0), tuple[float, NDArray[Any]])
assert_type(fl.huber_loss.value_and_grad(x, y, reduction="none"), tuple[NDArray[Any], NDArray[Any]])
assert_type(fl.mse_loss.grad(x, y), NDArray[Any])
assert_type(fl.mse_loss.grad(x, y, reduction="none", out=x), NDArray[Any])
assert_type(fl.cross_entropy.grad_and_hess(x, labels), tuple[NDArray[Any], NDArray[Any]])
assert_type(
    fl.cross_entropy.value_grad_hess(x, labels, out=(None, x, None)),
    tuple[float, NDArray[Any], NDArray[Any]],
)
assert_type(
    fl.cross_entropy.value_grad_hess(x, labels, reduction="none"),
    tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
)
assert_type(fl.cross_entropy.normalizer(x, labels, sample_weight=weight, ignore_index=0), float)

# Losses of a whole set are always one float; of several inputs the gradient is a tuple.
assert_type(fl.rmse_loss(x, y, sample_weight=weight), float)
assert_type(fl.rmse_loss.value_and_grad(x, y), tuple[float, NDArray[Any]])
assert_type(fl.dice_loss.grad(x, labels, mode="multiclass", out=x), NDArray[Any])
assert_type(
    fl.nt_xent_loss.value_and_grad(x, y, temperature=0.1),
    tuple[float, tuple[NDArray[Any], NDArray[Any]]],
)
assert_type(fl.supervised_contrastive_loss.grad(x, labels), NDArray[Any])
assert_type(fl.perceptual_loss.grad([x, y], [y, x], norm="l2"), tuple[NDArray[Any], ...])
assert_type(fl.l1_penalty([x, y], 0.1), float)
fl.elastic_net_penalty.value_and_grad(x, l1=0.1, l2=0.2)

# Lists and scalars are arrays.
assert_type(fl.mse_loss([1.0, 2.0], [1, 2], sample_weight=2, mask=[True, False]), float)
assert_type(fl.mse_loss(1.0, 2), float)

# Losses of vectors have a gradient per input.
row = np.ones(4)
assert_type(fl.contrastive_loss(x, y, row, margin=2.0), float)
assert_type(fl.contrastive_loss(x, y, row, reduction="none"), NDArray[Any])
assert_type(fl.cosine_distance_loss.grad(x, y, out=(x, None)), tuple[NDArray[Any], NDArray[Any]])
assert_type(
    fl.triplet_margin_loss.value_and_grad(x, y, x, swap=True),
    tuple[float, tuple[NDArray[Any], NDArray[Any], NDArray[Any]]],
)
assert_type(fl.elbo_loss.normalizer(x, y, x, x, likelihood="gaussian", mask=row > 0), float)

# A bound loss is a loss.
bound = fl.huber_loss.bind(delta=2.0, reduction="sum", num_threads=1)
assert_type(bound(x, y), float)
assert_type(bound.grad(x, y, delta=3.0), NDArray[Any])
bound.bind(delta=1.0).value_and_grad(x, y)
objective: Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]
objective = fl.mse_loss.bind(reduction="sum").grad_and_hess

assert_type(bound.link, str | None)
fl.cross_entropy.optimal_constant(labels, weight, n_classes=3, label_smoothing=0.1)

# The registry and the threads.
for name, loss in fl.losses().items():
    assert_type(name, str)
    assert_type(loss.name, str)
    assert_type(loss.formula, str)
    assert_type(loss.bounds(), tuple[float, float, float])
with fl.threads(2):
    assert_type(fl.get_num_threads(), int)
fl.set_num_threads(2)
fl.show_config()

# Functions and tools.
assert_type(fl.softmax(x, axis=0, out=x, num_threads=1), NDArray[Any])
assert_type(fl.logsumexp([1.0, 2.0]), NDArray[Any])
assert_type(fl.sigmoid(0.0), NDArray[Any])
assert_type(fl.psnr(x, y, data_range=255), float)
assert_type(fl.class_weights(labels, 3, method="effective", beta=0.9), NDArray[np.float64])
meter = fl.LossMeter()
meter.update(fl.mse_loss(x, y), fl.mse_loss.normalizer(x, y))
assert_type((meter + meter).mean, float)
assert_type(fl.check_gradient(fl.mse_loss, x, y, reduction="sum").error, float)
assert_type(fl.clip_grad_norm([x, y], 1.0), float)
assert_type(fl.grad_norm(x), float)
both = fl.weighted_sum((0.5, fl.mse_loss), (2.0, bound))
assert_type(both.grad_and_hess(x, y, reduction="sum"), tuple[NDArray[Any], NDArray[Any]])
assert_type(both.normalizer(x, y), float)
