"""How others compute the losses: by a loss's declaration, else by an entry of `NUMPY` or `TORCH`.

Every opponent does the whole job with the knobs at their defaults: the mean of the loss and its
gradient. Each is used at its best: NumPy's expression is the stable one with few temporaries and
writes the gradient into `out`; PyTorch's tensors share NumPy's memory and its results stay tensors;
`torch.compile` sees each shape alone; scikit-learn gets its targets as floats and its buffers
beforehand, and the mean's 1/n as the weight it knows. Where one is not installed, its column is
empty. `compiled.py` has numexpr, numba and JAX.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .compiled import by_jax, by_numba, by_numexpr
from .contest import HESSIAN, Array, Call, Case

try:
    import torch
except ImportError:
    torch = None
try:
    import sklearn._loss.loss as sk  # `closs`: the compiled losses of HistGradientBoosting
except ImportError:
    sk = None


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


def asymmetric(z: Array, y: Array, g: Array) -> Any:
    e = np.exp(-np.abs(z))
    p, q = np.where(z >= 0, 1, e), np.where(z >= 0, e, 1)
    p /= 1 + e
    q /= 1 + e
    nll = np.maximum(-z, 0) + np.log1p(e)
    m = np.maximum(p - 0.05, 0)
    cubed, log = m**3, np.log1p(-m)
    positive = y == 1
    np.copyto(g, np.where(positive, -q * (p * nll + q), cubed * p * q * (m / (1 - m) - 4 * log)))
    g /= z.size
    return np.where(positive, q * nll, -m * cubed * log).mean()


def kl_div(z: Array, y: Array, g: Array) -> Any:
    loss = np.log(np.where(y > 0, y, 1))
    loss -= z
    loss *= y
    np.multiply(y, -1 / z.size, out=g)
    return loss.mean()


def squared_log_error(z: Array, y: Array, g: Array) -> Any:
    d = np.log1p(z)
    d -= np.log1p(y)
    np.divide(d, 1 + z, out=g)
    g *= 2 / z.size
    return np.square(d).mean()


def cross_entropy(z: Array, y: Array, g: Array) -> Any:
    rows = np.arange(len(z))
    np.subtract(z, z.max(axis=1, keepdims=True), out=g)
    of_label = g[rows, y]
    np.exp(g, out=g)
    total = g.sum(axis=1)
    g /= len(z) * total[:, None]
    g[rows, y] -= 1 / len(z)
    return (np.log(total) - of_label).mean()


def of_label(function: Callable[[Array], tuple[Array, Array]]) -> Callable[..., Any]:
    """The loss f(log p) of a label's probability p, from what returns f and its derivative."""

    def loss(z: Array, y: Array, g: Array) -> Any:
        rows = np.arange(len(z))
        np.subtract(z, z.max(axis=1, keepdims=True), out=g)
        of_label = g[rows, y]
        np.exp(g, out=g)
        total = g.sum(axis=1)
        value, slope = function(of_label - np.log(total))
        slope /= len(z)
        g *= (-slope / total)[:, None]
        g[rows, y] += slope
        return value.mean()

    return loss


def softmax_focal(log_p: Array) -> tuple[Array, Array]:
    q = -np.expm1(log_p)
    return -q * q * log_p, q * (2 * (1 - q) * log_p - q)


def poly(log_p: Array) -> tuple[Array, Array]:
    p = np.exp(log_p)
    return 2 * (1 - p) - log_p, -1 - 2 * p


def generalized(log_p: Array) -> tuple[Array, Array]:
    power = np.exp(0.7 * log_p)
    return (1 - power) / 0.7, -power


def pseudo_huber(z: Array, y: Array, g: Array) -> Any:
    np.subtract(z, y, out=g)
    square = g * g
    root = np.sqrt(square + 1)
    g /= root
    g /= z.size
    return (square / (root + 1)).mean()


def charbonnier(z: Array, y: Array, g: Array) -> Any:
    np.subtract(z, y, out=g)
    root = np.sqrt(g * g + 1e-6)
    g /= root
    g /= z.size
    return root.mean()


def log_cosh(z: Array, y: Array, g: Array) -> Any:
    e = z - y
    np.tanh(e, out=g)
    g /= z.size
    np.abs(e, out=e)
    return (e + np.log1p(np.exp(-2 * e))).mean(dtype=np.float64) - np.log(2)


def fair(z: Array, y: Array, g: Array) -> Any:
    np.subtract(z, y, out=g)
    a = np.abs(g)
    g /= a + 1
    g /= z.size
    return (a - np.log1p(a)).mean()


def cauchy(z: Array, y: Array, g: Array) -> Any:
    np.subtract(z, y, out=g)
    square = g * g
    g /= square + 1
    g /= z.size
    return 0.5 * np.log1p(square).mean()


def poisson(z: Array, y: Array, g: Array) -> Any:
    np.exp(z, out=g)
    loss = (g - y * z).mean()
    g -= y
    g /= z.size
    return loss


def gamma(z: Array, y: Array, g: Array) -> Any:
    np.exp(-z, out=g)
    g *= y
    loss = (z + g).mean()
    np.subtract(1, g, out=g)
    g /= z.size
    return loss


def tweedie(z: Array, y: Array, g: Array) -> Any:
    np.exp(z / 2, out=g)
    rest = y / g
    loss = 2 * (g + rest).mean()
    g -= rest
    g /= z.size
    return loss


def negative_binomial(z: Array, y: Array, g: Array) -> Any:
    e = np.exp(-np.abs(z))
    loss = ((y + 1) * (np.maximum(z, 0) + np.log1p(e)) - y * z).mean()
    np.divide(np.where(z >= 0, 1, e), 1 + e, out=g)
    g *= y + 1
    g -= y
    g /= z.size
    return loss


def probabilities(p: Array, y: Array, g: Array) -> Any:
    loss = -(y * np.log(p) + (1 - y) * np.log1p(-p)).mean()
    np.subtract(p, y, out=g)
    g /= p * (1 - p)
    g /= p.size
    return loss


def soft_margin(z: Array, y: Array, g: Array) -> Any:
    x = -y * z
    e = np.exp(-np.abs(x))
    loss = (np.maximum(x, 0) + np.log1p(e)).mean()
    np.divide(np.where(x >= 0, 1, e), 1 + e, out=g)
    g *= y / -z.size
    return loss


def exponential(z: Array, y: Array, g: Array) -> Any:
    np.multiply(z, -y, out=g)
    np.exp(g, out=g)
    loss = g.mean()
    g *= y / -z.size
    return loss


def focal_torch(z: Any, y: Any) -> Any:  # as in torchvision.ops
    p = torch.sigmoid(z)
    ce = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    p_t = p * y + (1 - p) * (1 - y)
    return ((0.25 * y + 0.75 * (1 - y)) * (ce * ((1 - p_t) ** 2))).mean()


def kl_div_torch(z: Any, y: Any) -> Any:  # which warns of a mean by elements
    return torch.nn.functional.kl_div(z, y, reduction="sum") / z.numel()


NUMPY: dict[str, Callable[[Array, Array, Array], Any]] = {
    "mse_loss": mse,
    "huber_loss": huber,
    "binary_cross_entropy_with_logits": bce,
    "sigmoid_focal_loss": focal,
    "asymmetric_loss": asymmetric,
    "kl_div": kl_div,
    "squared_log_error_loss": squared_log_error,
    "cross_entropy": cross_entropy,
    "softmax_focal_loss": of_label(softmax_focal),
    "poly_loss": of_label(poly),
    "generalized_cross_entropy": of_label(generalized),
    "pseudo_huber_loss": pseudo_huber,
    "charbonnier_loss": charbonnier,
    "log_cosh_loss": log_cosh,
    "fair_loss": fair,
    "cauchy_loss": cauchy,
    "poisson_nll_loss": poisson,
    "gamma_nll_loss": gamma,
    "tweedie_loss": tweedie,
    "negative_binomial_nll_loss": negative_binomial,
    "binary_cross_entropy": probabilities,
    "soft_margin_loss": soft_margin,
    "exponential_loss": exponential,
}


def cross_entropy_with_probs_torch(p: Any, y: Any) -> Any:
    return torch.nn.functional.nll_loss(p.log(), y)


def kl_with_probs_torch(p: Any, y: Any) -> Any:
    return torch.nn.functional.kl_div(p.log(), y, reduction="batchmean")


def rmse_torch(z: Any, y: Any) -> Any:
    return torch.nn.functional.mse_loss(z, y).sqrt()


def contrastive_torch(x1: Any, x2: Any, y: Any) -> Any:
    square = (x1 - x2).square().sum(1)
    gap = (1 - square.sqrt()).clamp(min=0)
    return (y * square + (1 - y) * gap.square()).mean()


def cosine_distance_torch(x1: Any, x2: Any) -> Any:
    return (1 - torch.nn.functional.cosine_similarity(x1, x2)).mean()


def nt_xent_torch(z1: Any, z2: Any) -> Any:
    z = torch.nn.functional.normalize(torch.cat((z1, z2)))
    similar = (z @ z.T / 0.5).fill_diagonal_(-torch.inf)
    of_pair = torch.arange(len(z)).roll(len(z1))
    return torch.nn.functional.cross_entropy(similar, of_pair)


# What torch.nn.functional does not have, or not without a warning.
TORCH = {
    "rmse_loss": rmse_torch,
    "contrastive_loss": contrastive_torch,
    "cosine_distance_loss": cosine_distance_torch,
    "nt_xent_loss": nt_xent_torch,
    "sigmoid_focal_loss": focal_torch,
    "kl_div": kl_div_torch,
    "cross_entropy_with_probs": cross_entropy_with_probs_torch,
    "kl_div_with_probs": kl_with_probs_torch,
}


# To how many roundings a loss's contenders agree, where that is more than usual: PyTorch adds a
# label's gradient up in float32, class by class.
ROUNDINGS = {"multilabel_margin_loss": 5000}


def by_numpy(case: Case, arguments: dict[str, Array], outs: tuple[Array, ...]) -> Call | None:
    function = NUMPY.get(case.loss.name)
    if not function or case.what:
        return None
    return lambda: (function(*arguments.values(), *outs), outs[0])


def by_torch(
    case: Case,
    arguments: dict[str, Array],
    outs: tuple[Array, ...],
    compiler: Callable[..., Any] = lambda function: function,
) -> Call | None:
    loss = case.loss
    if not torch or case.what or not (loss.torch or loss.name in TORCH):
        return None
    function = TORCH.get(loss.name) or getattr(torch.nn.functional, loss.torch.name)
    torch.set_num_threads(case.threads)
    tensors = {name: torch.from_numpy(x) for name, x in arguments.items()}
    leaves = [tensors[name].requires_grad_() for name in loss.inputs]
    return partial(backward, compiler(function), leaves, list(tensors.values()))


def backward(loss: Callable[..., Any], leaves: list[Any], tensors: list[Any]) -> tuple[Any, Any]:
    for leaf in leaves:
        leaf.grad = None  # a kept gradient would be read and added to
    value = loss(*tensors)
    value.backward()
    grads = tuple(leaf.grad for leaf in leaves)
    return value.detach(), grads[0] if len(grads) == 1 else grads


MISCOMPILED = {"multilabel_margin_loss"}  # by torch.compile of 2.13: another loss


def by_torch_compile(
    case: Case, arguments: dict[str, Array], outs: tuple[Array, ...]
) -> Call | None:
    if not torch or case.loss.name in MISCOMPILED:
        return None
    torch.compiler.reset()  # else the second shape is compiled for all shapes
    call = by_torch(case, arguments, outs, partial(torch.compile, dynamic=False))
    try:
        if call:
            call()
    except Exception as error:  # of a compiler that is not there, or of what it can't do
        reason = str(error).strip().split("\n")[0]
        print(f"{case.name}: torch.compile: {type(error).__name__}: {reason}", file=sys.stderr)
        return None
    return call


def by_sklearn(case: Case, arguments: dict[str, Array], outs: tuple[Array, ...]) -> Call | None:
    theirs = case.loss.sklearn
    if not (sk and theirs):
        return None
    pred, target = arguments.values()
    knobs = {
        theirs.knobs.get(name, name): knob.default
        for name, knob in case.loss.knobs.items()
        if knob.scalar and theirs.knobs.get(name, name)
    }
    compiled = getattr(sk, theirs.name)(**knobs).closs
    weight = np.full(len(pred), 1 / theirs.factor / len(pred), pred.dtype)
    inputs = target.astype(pred.dtype), pred, weight
    if case.what == HESSIAN:
        job = partial(compiled.gradient_hessian, *inputs, *outs, case.threads)
        return lambda: (job(), outs)[1]
    each = np.empty_like(weight)
    job = partial(compiled.loss_gradient, *inputs, each, *outs, case.threads)
    return lambda: (job() or each.sum(), outs[0])  # it returns None


# By column: (case, arguments, arrays for the gradients) -> a call, or None where there is none.
RIVALS: dict[str, Callable[[Case, dict[str, Array], tuple[Array, ...]], Call | None]] = {
    "NumPy": by_numpy,
    "numexpr": by_numexpr,
    "numba": by_numba,
    "PyTorch": by_torch,
    "torch.compile": by_torch_compile,
    "JAX": by_jax,
    "scikit-learn": by_sklearn,
}
