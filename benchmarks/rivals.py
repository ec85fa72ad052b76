"""How others compute the losses: by a loss's declaration, and by NumPy an expression in `NUMPY`.

Every opponent does the whole job with the knobs at their defaults: the mean of the loss and its
gradient. Each is used at its best: NumPy's expression is the stable one with few temporaries and
writes the gradient into `out`; PyTorch's tensors share NumPy's memory and its results stay tensors;
scikit-learn gets its targets as floats and its buffers beforehand, and the mean's 1/n as the weight
it knows. Where PyTorch or scikit-learn is not installed, its column is empty.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastloss import Loss

try:
    import torch
except ImportError:
    torch = None
try:
    import sklearn._loss.loss as sk  # `closs`: the compiled losses of HistGradientBoosting
except ImportError:
    sk = None

Array = np.ndarray[Any, Any]
Call = Callable[[], tuple[Any, Any]]  # () -> mean loss, gradient


def mse(z: Array, y: Array, g: Array) -> Any:
    np.subtract(z, y, out=g)
    loss = np.square(g).mean()
    g *= 2 / z.size
    return loss


def huber(z: Array, y: Array, g: Array) -> Any:
    d = z - y
    np.clip(d, -1, 1, out=g)
    d -= 0.5 * g
    d *= g
    g /= z.size
    return d.mean()


def bce(z: Array, y: Array, g: Array) -> Any:
    e = np.exp(-np.abs(z))
    loss = (np.maximum(z, 0) - z * y + np.log1p(e)).mean()
    np.divide(np.where(z >= 0, 1, e), 1 + e, out=g)
    g -= y
    g /= z.size
    return loss


def focal(z: Array, y: Array, g: Array) -> Any:
    sign = 1 - 2 * y
    x = sign * z  # q = sigmoid(x) is the probability of the wrong class
    e = np.exp(-np.abs(x))
    softplus = np.maximum(x, 0) + np.log1p(e)
    q, p = np.where(x >= 0, 1, e), np.where(x >= 0, e, 1)
    q /= 1 + e
    p /= 1 + e
    weight = (0.75 - 0.5 * y) * q * q
    np.multiply(sign / z.size * weight, 2 * p * softplus + q, out=g)
    weight *= softplus
    return weight.mean()


def cross_entropy(z: Array, y: Array, g: Array) -> Any:
    rows = np.arange(len(z))
    np.subtract(z, z.max(axis=1, keepdims=True), out=g)
    of_label = g[rows, y]
    np.exp(g, out=g)
    total = g.sum(axis=1)
    g /= len(z) * total[:, None]
    g[rows, y] -= 1 / len(z)
    return (np.log(total) - of_label).mean()


def focal_torch(z: Any, y: Any) -> Any:  # as in torchvision.ops
    p = torch.sigmoid(z)
    ce = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    p_t = p * y + (1 - p) * (1 - y)
    return ((0.25 * y + 0.75 * (1 - y)) * (ce * ((1 - p_t) ** 2))).mean()


NUMPY: dict[str, Callable[[Array, Array, Array], Any]] = {
    "mse_loss": mse,
    "huber_loss": huber,
    "binary_cross_entropy_with_logits": bce,
    "sigmoid_focal_loss": focal,
    "cross_entropy": cross_entropy,
}


def cross_entropy_with_probs_torch(p: Any, y: Any) -> Any:
    return torch.nn.functional.nll_loss(p.log(), y)


def kl_with_probs_torch(p: Any, y: Any) -> Any:
    return torch.nn.functional.kl_div(p.log(), y, reduction="batchmean")


TORCH = {  # what torch.nn.functional does not have
    "sigmoid_focal_loss": focal_torch,
    "cross_entropy_with_probs": cross_entropy_with_probs_torch,
    "kl_div_with_probs": kl_with_probs_torch,
}


def opponents(loss: Loss, pred: Array, target: Array, out: Array, threads: int) -> dict[str, Call]:
    """Return the calls that compute this loss elsewhere, by the column they fill."""
    calls: dict[str, Call] = {}
    if by_numpy := NUMPY.get(loss.name):
        calls["NumPy"] = lambda: (by_numpy(pred, target, out), out)
    if torch and (loss.torch or loss.name in TORCH):
        by_torch = TORCH.get(loss.name) or getattr(torch.nn.functional, loss.torch.name)
        torch.set_num_threads(threads)
        leaf = torch.from_numpy(pred).requires_grad_()
        calls["PyTorch"] = partial(backward, by_torch, leaf, torch.from_numpy(target))
    if sk and loss.sklearn:
        knobs = {
            loss.sklearn.knobs.get(name, name): knob.default
            for name, knob in loss.knobs.items()
            if knob.scalar and loss.sklearn.knobs.get(name, name)
        }
        theirs = getattr(sk, loss.sklearn.name)(**knobs).closs
        weight = np.full(len(pred), 1 / loss.sklearn.factor / len(pred), pred.dtype)
        each = np.empty_like(weight)
        job = partial(theirs.loss_gradient, target.astype(pred.dtype), pred, weight, each, out)
        calls["scikit-learn"] = lambda: (job(threads) or each.sum(), out)  # it returns None
    return calls


def backward(loss: Callable[[Any, Any], Any], pred: Any, target: Any) -> tuple[Any, Any]:
    pred.grad = None  # a kept gradient would be read and added to
    value = loss(pred, target)
    value.backward()
    return value.detach(), pred.grad
