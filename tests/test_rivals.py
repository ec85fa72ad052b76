"""PyTorch and scikit-learn give the same values and gradients where they have the loss.

What a loss declares of the other libraries (`Loss.torch`, `Loss.sklearn`) says what to hold it
against.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import fastloss as fl
from oracle import settings
from samples import CLASSES, LOSSES, inputs, softness

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


def there(elsewhere, loss):
    """The settings of the loss that the other library has, with its own names of the knobs."""
    for knobs in settings(loss, np.random.default_rng(0), CLASSES if loss.kind == "rows" else 0):
        named = elsewhere.named(knobs)
        if named is not None:
            yield knobs, named


@reductions
@pytest.mark.filterwarnings("ignore:reduction")  # kl_div announces another mean
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.torch], ids=lambda x: x.name)
def test_pytorch(torch, loss, reduction):
    for soft in softness(loss):
        pred, target = inputs(loss, (150,) if loss.kind == "rows" else (50, 3), soft=soft)
        for knobs, theirs in there(loss.torch, loss):
            arrays = [name for name, knob in loss.knobs.items() if knob.check is None]
            tensors = {
                k: torch.tensor(v, dtype=torch.float64) if k in arrays or np.ndim(v) else v
                for k, v in theirs.items()
            }

            def function(z, y, reduction, tensors=tensors):
                value = getattr(torch.nn.functional, loss.torch.name)
                return value(z, y, reduction=reduction, **tensors) / loss.torch.factor

            assert_torch_agrees(torch, function, loss.bind(**knobs), pred, target, reduction)


@reductions
def test_pytorch_of_probabilities(torch, reduction):
    functions = torch.nn.functional

    def theirs(p, t, reduction):
        if t.ndim == 1:
            return functions.nll_loss(p.log(), t, reduction=reduction)
        value = functions.kl_div(p.log(), t, reduction="none").sum(1)
        return {"none": value, "mean": value.mean(), "sum": value.sum()}[reduction]

    for ours, soft in ((fl.cross_entropy_with_probs, False), (fl.kl_div_with_probs, True)):
        pred, target = inputs(ours, (50,), soft=soft)
        assert_torch_agrees(torch, theirs, ours, pred, target, reduction)


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
def test_pytorch_ignores_labels_and_images_have_their_classes_on_axis_1(torch, reduction, soft):
    def theirs(z, y, reduction):
        return torch.nn.functional.cross_entropy(z, y, reduction=reduction, label_smoothing=0.2)

    ours = fl.cross_entropy.bind(label_smoothing=0.2)
    pred, target = inputs(fl.cross_entropy, (40,), classes=5, soft=soft)
    if not soft:
        target[::3] = -100
        ignoring = ours.bind(ignore_index=-100)
        assert_torch_agrees(torch, theirs, ignoring, pred, target, reduction)
    pred, target = inputs(fl.cross_entropy, (6, 7), classes=5, soft=soft)
    pred, target = np.moveaxis(pred, -1, 1), np.moveaxis(target, -1, 1) if soft else target
    assert_torch_agrees(torch, theirs, ours.bind(axis=1), pred, target, reduction)


@reductions
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_pytorch_composed_options_of_cross_entropy(torch, reduction, soft):
    mask = np.array([True, True, False, True, True])

    def theirs(z, y, reduction):
        z = (z / 0.7).masked_fill(~torch.tensor(mask), -torch.inf)
        lse = torch.logsumexp(z, -1)
        if soft:
            nll = -torch.where(y == 0, 0, y * torch.log_softmax(z, -1).nan_to_num()).sum(-1)
            value = nll + 0.1 * lse**2 * y.sum(-1)
        else:
            nll = torch.nn.functional.cross_entropy(z, y, reduction="none")
            value = nll + 0.1 * lse**2
        return {"none": value, "mean": value.mean(), "sum": value.sum()}[reduction]

    ours = fl.cross_entropy.bind(temperature=0.7, class_mask=mask, z_loss=0.1)
    pred, target = inputs(fl.cross_entropy, (40,), classes=5, soft=soft)
    target = target * mask if soft else np.where(target == 2, 0, target)
    assert_torch_agrees(torch, theirs, ours, pred, target, reduction)


@pytest.mark.parametrize("reduction", ["batchmean", "sum"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("from_logits", [False, True])
def test_pytorch_kl_div_of_logits(torch, reduction, temperature, from_logits):
    def theirs(z, y, reduction):
        q = torch.softmax(y / temperature, -1) if from_logits else y
        log_p = torch.log_softmax(z / temperature, -1)
        return torch.nn.functional.kl_div(log_p, q, reduction=reduction)

    ours = fl.kl_div_with_logits.bind(temperature=temperature, from_logits=from_logits)
    pred, target = inputs(ours, (50,), classes=7)
    target[:, 3] = 0  # 0 log 0
    assert_torch_agrees(torch, theirs, ours, pred, target, reduction)


@reductions
@pytest.mark.parametrize("beta", [0.5, 0.2])
def test_js_divergence_is_two_kl_divs_of_pytorch(torch, reduction, beta):
    def theirs(z, y, reduction):
        p = torch.softmax(z, -1)
        log_m = (beta * y + (1 - beta) * p).log()
        both = [torch.nn.functional.kl_div(log_m, x, reduction="none").sum(-1) for x in (y, p)]
        value = beta * both[0] + (1 - beta) * both[1]
        return {"none": value, "mean": value.mean(), "sum": value.sum()}[reduction]

    ours = fl.js_divergence_with_logits.bind(beta=beta)
    assert_torch_agrees(torch, theirs, ours, *inputs(ours, (50,), classes=7), reduction)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.sklearn], ids=lambda x: x.name)
def test_scikit_learn(loss, weighted):
    module = pytest.importorskip("sklearn._loss.loss")
    pred, target = inputs(loss, (60,))
    weight = np.random.default_rng(0).uniform(0.1, 2, 60) if weighted else None
    y = target.astype(np.float64)
    factor = loss.sklearn.factor
    for knobs, named in there(loss.sklearn, loss):
        scalars = {name: knob.default for name, knob in loss.knobs.items() if knob.scalar}
        defaults = {loss.sklearn.knobs.get(name, name): x for name, x in scalars.items()}
        named = {name: x for name, x in (defaults | named).items() if name}
        if loss.kind == "rows":
            named["n_classes"] = CLASSES
        ours, theirs = loss.bind(**knobs), getattr(module, loss.sklearn.name)(**named)
        value, grad, hess = ours.value_grad_hess(
            pred, target, sample_weight=weight, reduction="none"
        )
        want, want_grad = theirs.loss_gradient(y, pred, weight)
        assert_allclose(factor * value, want, RTOL, ATOL)
        assert_allclose(factor * grad, want_grad, RTOL, ATOL)
        if not theirs.approx_hessian:
            want_hess = theirs.gradient_hessian(y, pred, weight)[1]
            assert_allclose(factor * hess, want_hess, RTOL, ATOL)
        # Their call is the weighted mean, as is "mean" here
        ours_mean = factor * ours(pred, target, sample_weight=weight)
        assert_allclose(ours_mean, theirs(y, pred, weight), RTOL)
