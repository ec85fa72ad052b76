"""PyTorch and scikit-learn give the same values and gradients where they have the loss.

Where a definition departs (argument order, `reduction="mean"` of weighted losses, factors of a
half) the test spells the departure out.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import fastloss as fl
from samples import inputs

RTOL, ATOL = 1e-9, 1e-12  # double precision less what the rivals themselves cancel
reductions = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def assert_torch_agrees(torch, theirs, ours, pred, target, reduction):
    z = torch.tensor(pred, requires_grad=True)
    value = theirs(z, torch.tensor(target), reduction)
    value.sum().backward()
    got, grad = ours.value_and_grad(pred, target, reduction=reduction)
    assert_allclose(got, value.detach().numpy(), RTOL, ATOL)
    assert_allclose(grad, z.grad.numpy(), RTOL, ATOL)


@reductions
def test_pytorch_mse(torch, reduction):
    f = torch.nn.functional.mse_loss
    data = inputs(fl.mse_loss, (50, 3))
    assert_torch_agrees(torch, lambda z, y, r: f(z, y, reduction=r), fl.mse_loss, *data, reduction)


@reductions
@pytest.mark.parametrize("delta", [0.3, 1.0, 4.0])
def test_pytorch_huber(torch, reduction, delta):
    f = torch.nn.functional.huber_loss
    data = inputs(fl.huber_loss, (50, 3))
    ours = fl.huber_loss.bind(delta=delta)
    assert_torch_agrees(
        torch, lambda z, y, r: f(z, y, reduction=r, delta=delta), ours, *data, reduction
    )


@reductions
@pytest.mark.parametrize("pos_weight", [None, 3.0, [0.5, 1.0, 4.0]])
def test_pytorch_binary_cross_entropy(torch, reduction, pos_weight):
    f = torch.nn.functional.binary_cross_entropy_with_logits
    data = inputs(fl.binary_cross_entropy_with_logits, (50, 3))
    weight = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float64)
    ours = fl.binary_cross_entropy_with_logits.bind(pos_weight=pos_weight)
    assert_torch_agrees(
        torch, lambda z, y, r: f(z, y, pos_weight=weight, reduction=r), ours, *data, reduction
    )


@reductions
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, None), (1.5, 0.9), (3.0, None)])
def test_torchvision_sigmoid_focal(torch, reduction, gamma, alpha):
    def theirs(z, y, reduction):  # torchvision.ops.sigmoid_focal_loss, whose alpha < 0 is off
        p = torch.sigmoid(z)
        ce = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
        value = ce * (1 - (p * y + (1 - p) * (1 - y))) ** gamma
        if alpha is not None:
            value = (alpha * y + (1 - alpha) * (1 - y)) * value
        return {"none": value, "mean": value.mean(), "sum": value.sum()}[reduction]

    ours = fl.sigmoid_focal_loss.bind(gamma=gamma, alpha=alpha)
    assert_torch_agrees(torch, theirs, ours, *inputs(ours, (50, 3)), reduction)


@reductions
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("class_weight", [None, [0.5, 1.0, 2.0, 0.0, 3.0]])
def test_pytorch_cross_entropy(torch, reduction, soft, smoothing, class_weight):
    weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64)
    knobs = {"label_smoothing": smoothing}

    def theirs(z, y, reduction):
        return torch.nn.functional.cross_entropy(z, y, weight=weight, reduction=reduction, **knobs)

    pred, target = inputs(fl.cross_entropy, (40,), classes=5, soft=soft)
    ours = fl.cross_entropy.bind(class_weight=class_weight, **knobs)
    assert_torch_agrees(torch, theirs, ours, pred, target, reduction)
    if not soft:
        target[::3] = -100
        ours = ours.bind(ignore_index=-100)
        assert_torch_agrees(torch, theirs, ours, pred, target, reduction)
    pred, target = inputs(fl.cross_entropy, (6, 7), classes=5, soft=soft)  # an image's class axis
    pred, target = np.moveaxis(pred, -1, 1), np.moveaxis(target, -1, 1) if soft else target
    ours = fl.cross_entropy.bind(class_weight=class_weight, axis=1, **knobs)
    assert_torch_agrees(torch, theirs, ours, pred, target, reduction)


sklearn_losses = {
    "squared error": ("HalfSquaredError", {}, fl.mse_loss, 0.5),
    "Huber": ("HuberLoss", {"delta": 0.7}, fl.huber_loss.bind(delta=0.7), 1.0),
    "binomial": ("HalfBinomialLoss", {}, fl.binary_cross_entropy_with_logits, 1.0),
    "multinomial": ("HalfMultinomialLoss", {"n_classes": 4}, fl.cross_entropy, 1.0),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("theirs", "knobs", "ours", "factor"), sklearn_losses.values(), ids=sklearn_losses
)
def test_scikit_learn(theirs, knobs, ours, factor, weighted):
    module = pytest.importorskip("sklearn._loss.loss")
    pred, target = inputs(ours, (60,))
    weight = np.random.default_rng(0).uniform(0.1, 2, 60) if weighted else None
    theirs = getattr(module, theirs)(**knobs)
    y = target.astype(np.float64)
    mine = {"sample_weight": weight, "reduction": "none"}
    value, grad, hess = ours.value_grad_hess(pred, target, **mine)
    want, want_grad = theirs.loss_gradient(y, pred, weight)
    assert_allclose(factor * value, want, RTOL, ATOL)
    assert_allclose(factor * grad, want_grad, RTOL, ATOL)
    if not isinstance(theirs, module.HuberLoss):  # theirs has no Hessian
        want_hess = theirs.gradient_hessian(y, pred, weight)[1]
        assert_allclose(factor * hess, want_hess, RTOL, ATOL)
    # Their call is the weighted mean, as is "mean" here
    assert_allclose(
        factor * ours(pred, target, sample_weight=weight), theirs(y, pred, weight), RTOL
    )
