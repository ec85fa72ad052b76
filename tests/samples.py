"""Inputs for any loss, and what the contract says must come back.

Both are made from the loss's declaration alone (kind, domain, knobs, naive formula), so a test that
uses them covers the next loss the day it is declared. `expected` spells out weights, masks and
reductions in plain NumPy, with derivatives by central differences: good to six digits, which tells
a wrong rule from a right one. How right the digits are is the oracle's question, not this module's.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss._loss import REAL

LOSSES = [loss for loss in fl.losses().values() if isinstance(loss, fl.HessianLoss)]
METHODS = {  # what each method returns, in order: l(oss), g(radient), h(essian)
    "__call__": "l",
    "value_and_grad": "lg",
    "grad": "g",
    "grad_and_hess": "gh",
    "value_grad_hess": "lgh",
}
CLASSES = 4
# Knob settings worth a test beside the defaults.
KNOBS = {
    "huber_loss": [{"delta": 0.3}, {"delta": 5}],
    "smooth_l1_loss": [{"beta": 0}, {"beta": 0.3}],
    "pseudo_huber_loss": [{"delta": 0.3}],
    "charbonnier_loss": [{"eps": 0.5}],
    "fair_loss": [{"c": 0.3}],
    "cauchy_loss": [{"c": 3}],
    "quantile_loss": [{"q": 0.1}],
    "expectile_loss": [{"tau": 0.9}],
    "epsilon_insensitive_loss": [{"epsilon": 0}, {"epsilon": 0.7}],
    "squared_epsilon_insensitive_loss": [{"epsilon": 0.7}],
    "absolute_percentage_error_loss": [{"floor": 0.5}],
    "binary_cross_entropy_with_logits": [{"pos_weight": 3.0, "label_smoothing": 0.2}],
    "sigmoid_focal_loss": [{"gamma": 0.0, "alpha": None}, {"gamma": 1.5, "alpha": 0.9}],
    "asymmetric_loss": [{"gamma_neg": 1.5, "gamma_pos": 0.3}, {"gamma_neg": 2, "clip": 0}],
    "hinge_embedding_loss": [{"margin": 0.3}],
    "poisson_nll_loss": [{"full": True}],
    "negative_binomial_nll_loss": [{"alpha": 0.3}],
    "tweedie_loss": [{"power": power} for power in (0, 1, 2, 3.7)],
    "multi_quantile_loss": [{"q": 0.9}],
    "kl_div": [{"log_target": True}],
    "cross_entropy": [
        {"class_weight": [1.0, 0.5, 2.0, 0.25]},
        {"class_weight": [1.0, 0.5, 2.0, 0.25], "label_smoothing": 0.3, "ignore_index": 1},
        {"temperature": 2.5},
        {"softcap": 1.5},
        {"z_loss": 0.3, "class_weight": [1.0, 0.5, 2.0, 0.25], "temperature": 0.7},
        {"class_mask": [True, True, False, True], "label_smoothing": 0.3, "ignore_index": 2},
    ],
    "softmax_focal_loss": [{"gamma": 1.5, "alpha": [1.0, 0.5, 2.0, 0.25], "ignore_index": 1}],
    "poly_loss": [{"epsilon": 0.5, "class_weight": [1.0, 0.5, 2.0, 0.25]}],
    "kl_div_with_logits": [{"temperature": 2.5}, {"from_logits": True, "temperature": 0.7}],
    "js_divergence_with_logits": [{"beta": 0.3, "temperature": 2.5}, {"from_logits": True}],
    "generalized_cross_entropy": [{"q": 0.2, "class_weight": [1.0, 0.5, 2.0, 0.25]}],
    "nll_loss": [{"class_weight": [1.0, 0.5, 2.0, 0.25], "ignore_index": 1}],
    "cross_entropy_with_probs": [{"class_weight": [1.0, 0.5, 2.0, 0.25], "ignore_index": 1}],
    "multi_margin_loss": [
        {"p": 2.0, "margin": 0.3, "class_weight": [1.0, 0.5, 2.0, 0.25], "ignore_index": 1}
    ],
    "crammer_singer_loss": [{"margin": 3.0, "ignore_index": 1}],
    "multilabel_soft_margin_loss": [{"class_weight": [1.0, 0.5, 2.0, 0.25]}],
}

# A sanitizer maps terabytes, and keeps what is freed.
counts_memory = pytest.mark.skipif(
    sys.platform != "linux" or "san.so" in os.environ.get("LD_PRELOAD", ""),
    reason="limits or measures the memory of a process, as Linux counts it",
)
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
every_elementwise = pytest.mark.parametrize(
    "loss", [loss for loss in LOSSES if loss.kind == "elementwise"], ids=lambda loss: loss.name
)


def softness(loss):
    """Of the kinds of target that a loss takes, whether it has pred's shape: of rows labels,
    or a number for each class, or either; or a list.
    """
    if loss.kind == "elementwise":
        return (False,)
    return (False,) * loss.domain.labels + (True,) * (loss.domain.shares or loss.domain.lists)


# Of rows a loss of each driver, with each kind of target it takes: what differs is the drivers.
DRIVERS = {loss._gate.driver: loss for loss in reversed(LOSSES) if loss.kind == "rows"}
every_rows_driver = pytest.mark.parametrize(
    ("loss", "soft"),
    [
        pytest.param(loss, soft, id=f"{driver}-{'soft' if soft else 'labels'}")
        for driver, loss in sorted(DRIVERS.items())
        for soft in softness(loss)
    ],
)
every_label_driver = pytest.mark.parametrize(
    "loss", [loss for loss in DRIVERS.values() if loss.domain.labels], ids=lambda loss: loss.name
)
every_method = pytest.mark.parametrize("method", METHODS)
every_setting = pytest.mark.parametrize(
    ("loss", "knobs"),
    [
        pytest.param(loss, knobs, id=f"{loss.name}-{','.join(knobs) or 'defaults'}")
        for loss in LOSSES
        for knobs in [{}, *KNOBS.get(loss.name, [])]
    ],
)


def label_lists(shape, classes, rng):
    """Lists of 1 to 8 labels, some of them twice, and never all; behind their ends anything."""
    target = rng.integers(classes, size=(*shape, classes))
    ends = rng.integers(1, min(max(classes, 2), 9), (*shape, 1))
    return np.where(np.arange(classes) == ends, -1, target)


def inputs(loss, shape=(6, 5), dtype=np.float64, classes=CLASSES, soft=False, seed=0):
    """`pred` and a valid `target`; `shape` is that of the per-sample loss."""
    rng = np.random.default_rng(seed)
    if loss.kind == "rows":
        pred = 2 * rng.standard_normal((*shape, classes))
        if loss.pred is not REAL:  # away from the ends too
            unit = 0.1 + 0.8 / (1 + np.exp(-pred))
            pred = loss.pred.low + (loss.pred.high - loss.pred.low) * unit
        pred = pred.astype(dtype)
        if loss.domain.lists:
            return pred, label_lists(shape, classes, rng)
        if soft or not loss.domain.labels:
            return pred, rng.dirichlet(np.ones(classes), shape).astype(dtype)
        return pred, rng.integers(classes, size=shape)
    low, high = loss.domain.low, loss.domain.high
    if loss.domain.ends_only:
        target = rng.choice([low, high], shape)
    elif np.isfinite(low) and np.isfinite(high):
        target = rng.uniform(low, high, shape)
    elif np.isfinite(low):
        target = low + rng.exponential(size=shape)
    else:
        target = rng.standard_normal(shape)
    if loss.pred is REAL:
        pred = 2 * rng.standard_normal(shape)
    else:  # away from the ends, where differences of a logarithm are coarse
        low, high = loss.pred.low, loss.pred.high
        width = high - low if high < np.inf else 5
        pred = low + width * rng.uniform(0.1, 0.9, shape)
    return pred.astype(dtype), target.astype(dtype)


def naive(loss, pred, target, **knobs):
    """The unweighted loss of every sample, by the declaration's own formula."""
    knobs = {name: knob.default for name, knob in loss.knobs.items()} | knobs
    if loss.kind == "elementwise":
        return loss.naive(np, pred, target, **knobs)
    axis, ignored = knobs.pop("axis"), knobs.pop("ignore_index", None)
    soft = np.ndim(target) == np.ndim(pred)
    rows = np.moveaxis(pred, axis, -1)
    target = np.moveaxis(target, axis, -1) if soft else np.asarray(target)
    loss_of = np.zeros(rows.shape[:-1], rows.dtype)
    for i in np.ndindex(loss_of.shape):
        if soft or target[i] != ignored:
            loss_of[i] = loss.naive(np, rows[i], target[i], **knobs)
    return loss_of


def derivatives(loss, pred, target, **knobs):
    """Loss, gradient and Hessian diagonal of every sample, by central differences of `naive`."""
    pred = np.asarray(pred, np.longdouble)
    h = np.finfo(pred.dtype).eps ** 0.25
    value = naive(loss, pred, target, **knobs)
    step, grad, hess = np.zeros((3, *pred.shape), pred.dtype)
    # Of a row one logit is moved at a time; elements all at once, as each has a loss of its own.
    axis = knobs.get("axis", -1)
    views = [
        np.moveaxis(a, axis, 0) if loss.kind == "rows" else a[None] for a in (step, grad, hess)
    ]
    for moved, g, c in zip(*views, strict=True):
        moved[...] = h
        up, down = (naive(loss, z, target, **knobs) for z in (pred + step, pred - step))
        moved[...] = 0
        g[...] = (up - down) / (2 * h)
        c[...] = (up - 2 * value + down) / h**2
    return value, grad, hess


def expected(loss, pred, target, **options):
    """`{"l": loss, "g": gradient, "h": Hessian, "n": the mean's denominator}` by the contract."""
    own = {name: value for name, value in options.items() if name in loss.knobs}
    return reduced(loss, pred, target, derivatives(loss, pred, target, **own), **options)


def reduced(
    loss,
    pred,
    target,
    parts,
    *,
    sample_weight=None,
    mask=None,
    reduction="mean",
    normalizer=None,
    **knobs,
):
    """What `expected` says, of the loss, gradient and Hessian of every sample."""
    value, grad, hess = parts
    weight = np.ones(value.shape)
    for given in (sample_weight, mask):
        if given is not None:
            given = np.asarray(given, float)
            weight = weight * given.reshape(given.shape + (1,) * (value.ndim - given.ndim))
    if loss.kind == "rows" and np.ndim(target) < np.ndim(pred):
        weight = np.where(target == knobs.get("ignore_index"), 0.0, weight)
        by_class = knobs.get("class_weight") if loss._gate.counted else None
        of_class = 1.0 if by_class is None else np.take(by_class, target, mode="clip")
        total = np.sum(weight * of_class)
    else:
        total = np.sum(weight)
    length = value.shape[0] if value.ndim else 1
    scale = {
        "mean": 1 / normalizer if normalizer else (1 / total if total else np.nan),
        "batchmean": 1 / length if length else np.nan,
    }.get(reduction, 1.0)
    spread = weight if loss.kind == "elementwise" else np.expand_dims(weight, knobs.get("axis", -1))
    value, grad, hess = (
        np.where(w == 0, 0, w * part)
        for w, part in ((weight, value), (spread, grad), (spread, hess))
    )
    if reduction != "none":
        value = np.sum(value) * scale
    scale = np.nan_to_num(scale)  # nothing kept: the mean is nan and every gradient 0
    return {"l": value, "g": grad * scale, "h": hess * scale, "n": total}


def results(loss, method, *args, **kwargs):
    """What a method returns as `{"l": ..., "g": ..., "h": ...}`, whichever it has."""
    returned = getattr(loss, method)(*args, **kwargs)
    names = METHODS[method]
    return dict(zip(names, returned if len(names) > 1 else (returned,), strict=True))


# Those that are not tested now; none where one is forced.
every_other_isa = pytest.mark.parametrize(
    "isa",
    [] if "FASTLOSS_ISA" in os.environ else sorted({*fl.kernels.available} - {fl.kernels.isa}),
)


def run_tests(isa, keywords, *files):
    """Run the tests of these files that match, on another instruction set."""
    paths = [Path(__file__).with_name(name) for name in files]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-k", keywords, *paths],
        env={**os.environ, "FASTLOSS_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


def run_python(code, *, timeout=120, **env):
    """Run `code` in a new interpreter, in which every warning is an error; return its output."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env=os.environ | {"FASTLOSS_NUM_THREADS": ""} | env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert (done.returncode, done.stderr[-3000:]) == (0, "")
    return done.stdout.strip()
