"""``fastloss demo``: the main job on real input.

A softmax classifier of scikit-learn's handwritten digits, trained by L-BFGS on the fused
cross-entropy gradient. Five folds, so that every image is judged once by weights which never saw
it: the per-sample losses of those judgements rank the labels by how suspicious they are. Then the
same training with the same optimiser, where only the loss and its gradient come from elsewhere.
"""

import importlib
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

import fastloss as fl

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
#: Takes logits, which it may overwrite, and labels; gives the mean loss and its gradient.
LossAndGrad = Callable[[Floats, Labels], tuple[float, Floats]]

CLASSES = 10
FOLDS = 5
SUSPICIOUS = 12
ITERATIONS = 100
PENALTY = 1e-4  # on the squared weights; the held-out accuracy is flat around it
ROUNDS = 3  # of timing, the rivals taking turns; the quickest counts


def train(
    images: Floats,
    labels: Labels,
    loss_and_grad: LossAndGrad,
    watch: Callable[[Floats], None] = lambda weights: None,
) -> tuple[Floats, float]:
    """Fit the weights; also return the objective they reach. `watch` sees each iteration's."""
    logits = np.empty((len(images), CLASSES))

    def objective(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(-1, CLASSES)
        np.matmul(images, weights, out=logits)
        loss, grad = loss_and_grad(logits, labels)
        slope = images.T @ grad + PENALTY * weights
        return loss + PENALTY / 2 * float(flat @ flat), slope.ravel()

    found = minimize(
        objective,
        np.zeros(images.shape[1] * CLASSES),
        jac=True,
        method="L-BFGS-B",
        callback=lambda flat: watch(flat.reshape(-1, CLASSES)),
        options={"maxiter": ITERATIONS, "ftol": 0, "gtol": 0},  # all of the iterations
    )
    return found.x.reshape(-1, CLASSES), float(found.fun)


def fused(logits: Floats, labels: Labels) -> tuple[float, Floats]:
    """Fastloss: the gradient overwrites the logits."""
    return fl.cross_entropy.value_and_grad(logits, labels, out=logits)


def plain_numpy(logits: Floats, labels: Labels) -> tuple[float, Floats]:
    """NumPy, in place too: as few passes and temporaries as it takes."""
    rows = np.arange(len(labels))
    logits -= logits.max(axis=1, keepdims=True)
    picked = logits[rows, labels]
    np.exp(logits, out=logits)
    total = logits.sum(axis=1, keepdims=True)
    logits /= total
    logits[rows, labels] -= 1
    logits /= len(labels)
    return float(np.mean(np.log(total[:, 0]) - picked)), logits


def rivals() -> dict[str, LossAndGrad]:
    """Return the same function of fastloss, of NumPy and, if installed, of PyTorch."""
    found: dict[str, LossAndGrad] = {"fastloss": fused, "NumPy": plain_numpy}
    if importlib.util.find_spec("torch"):
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(1)  # as for the others: threads only cost at this size

        def pytorch(logits: Floats, labels: Labels) -> tuple[float, Floats]:
            pred = torch.from_numpy(logits).requires_grad_()
            loss = torch.nn.functional.cross_entropy(pred, torch.from_numpy(labels))
            loss.backward()
            return loss.item(), pred.grad.numpy()

        found["PyTorch"] = pytorch
    return found


def compare(images: Floats, labels: Labels) -> None:
    """Print what the same training costs with each rival's loss and gradient."""
    inside: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    reached: dict[str, float] = {}
    contenders = rivals()
    for _ in range(ROUNDS):
        for name, loss_and_grad in contenders.items():
            spent = 0.0

            def timed(
                logits: Floats, labels: Labels, call: LossAndGrad = loss_and_grad
            ) -> tuple[float, Floats]:
                nonlocal spent
                start = time.perf_counter()
                result = call(logits, labels)
                spent += time.perf_counter() - start
                return result

            start = time.perf_counter()
            _, reached[name] = train(images, labels, timed)
            whole.setdefault(name, []).append(time.perf_counter() - start)
            inside.setdefault(name, []).append(spent)

    print(f"{'':10}{'loss + gradient':>18}{'ratio':>7}{'whole training':>18}{'ratio':>7}")
    for name in contenders:
        part, total = min(inside[name]), min(whole[name])
        print(
            f"{name:10}{part * 1e3:>15.1f} ms{part / min(inside['fastloss']):>7.2f}"
            f"{total * 1e3:>15.1f} ms{total / min(whole['fastloss']):>7.2f}"
        )
    np.testing.assert_allclose(list(reached.values()), reached["fastloss"], rtol=1e-6)
    print(f"All reach the same objective, {reached['fastloss']:.6f}.")


def draw(curves: dict[str, Floats], pictures: Floats, captions: list[str], path: Path) -> None:
    """Draw the loss curves on the left, the suspicious digits on the right."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure: Any = plt.figure(figsize=(12, 5.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.15])
    axes = left.subplots()
    for name, folds in curves.items():
        step = np.arange(1, folds.shape[1] + 1)
        axes.plot(step, folds.mean(axis=0), label=name)
        axes.fill_between(step, folds.min(axis=0), folds.max(axis=0), alpha=0.2)
    axes.set(xlabel="L-BFGS iteration", ylabel="mean cross-entropy", yscale="log")
    axes.set_title("Loss (band: the folds)")
    axes.legend()
    right.suptitle("Most suspicious labels")
    for axes, picture, caption in zip(right.subplots(3, 4).flat, pictures, captions, strict=True):
        axes.imshow(picture.reshape(8, 8), cmap="gray_r", interpolation="bicubic")
        axes.set_title(caption, fontsize=9)
        axes.set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def judge(images: Floats, labels: Labels) -> tuple[Floats, dict[str, Floats]]:
    """Each image's logits by weights that never saw it; (fold, iteration) losses by curve."""
    logits = np.empty((len(images), CLASSES))
    curves: dict[str, list[list[float]]] = {"training": [], "held out": []}
    splits = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(images, labels)
    for fold, parts in enumerate(splits, 1):
        seen, held = parts
        for curve in curves.values():
            curve.append([])

        def watch(weights: Floats, parts: Any = parts) -> None:
            for curve, part in zip(curves.values(), parts, strict=True):
                curve[-1].append(fl.cross_entropy(images[part] @ weights, labels[part]))

        weights, _ = train(images[seen], labels[seen], fused, watch)
        logits[held] = images[held] @ weights
        ends = ", ".join(f"{name} loss {curve[-1][-1]:.4f}" for name, curve in curves.items())
        right = np.mean(logits[held].argmax(axis=1) == labels[held])
        print(f"  fold {fold}/{FOLDS}: {ends}, held-out accuracy {right:.1%}", flush=True)
    return logits, {name: np.array(curve) for name, curve in curves.items()}


def run(output: Path) -> None:
    """Train, judge, rank, compare, and write the picture into the folder `output`."""
    pixels, labels = load_digits(return_X_y=True)
    images = np.column_stack([pixels / 16, np.ones(len(pixels))])
    print(f"{len(images)} handwritten digits, {ITERATIONS} L-BFGS iterations in each fold")
    # BLAS threads only slow matrices of this size down.
    with threadpool_limits(limits=1, user_api="blas"):
        logits, curves = judge(images, labels)
    guesses = logits.argmax(axis=1)
    print(f"Held-out accuracy {np.mean(guesses == labels):.2%}")

    print("\nThe most suspicious labels, by held-out loss:")
    losses = fl.cross_entropy(logits, labels, reduction="none")
    worst = np.argsort(losses)[::-1][:SUSPICIOUS]
    for i in worst:
        print(f"  image {i:4}: labelled {labels[i]}, looks like {guesses[i]}, loss {losses[i]:.2f}")

    print("\nThe same training, the loss from elsewhere, one thread each:")
    with threadpool_limits(limits=1, user_api="blas"), fl.threads(1):
        compare(images, labels)

    path = output / "fastloss-demo.png"
    captions = [f"label {labels[i]}, like {guesses[i]}\nloss {losses[i]:.1f}" for i in worst]
    draw(curves, pixels[worst], captions, path)
    print(f"\nLoss curves and suspicious digits: {path}")
