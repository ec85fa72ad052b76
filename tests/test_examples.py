"""The files of examples/ run, say what they claim, and are the snippets that the README shows."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import xgboost
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score

import fastloss as fl

ROOT = Path(__file__).resolve().parent.parent
README_PYTHON = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)


@pytest.fixture
def example(request):
    """What the example of the test's name has defined when it ends."""
    name = request.node.name.removeprefix("test_")
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


def test_every_example_has_its_test():
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert examples <= {name.removeprefix("test_") for name in globals()}


def test_numpy_training(example):
    assert example["grad"] is example["logits"]
    assert example["accuracy"] > 0.95


def test_xgboost_objective(example):
    assert example["auc"] > 0.8
    assert example["model"].n_estimators is None  # as many trees as XGBoost grows by default

    x, y, x_test, y_test = (example[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    weighted = xgboost.XGBClassifier(objective=example["objective"], max_depth=4)
    weighted.fit(x, y, sample_weight=np.where(y, 10.0, 1.0))
    assert roc_auc_score(y_test, weighted.predict_proba(x_test)[:, 1]) > 0.8

    focal = example["focal"]
    native = xgboost.train(
        {"max_depth": 4},
        xgboost.DMatrix(x, y),
        num_boost_round=100,
        obj=lambda z, data: focal.grad_and_hess(z, data.get_label()),
    )
    assert roc_auc_score(y_test, native.predict(xgboost.DMatrix(x_test))) > 0.8


def test_noisy_labels(example):
    assert len(example["flipped"]) == len(example["labels"]) // 20
    assert (example["labels"][example["flipped"]] != example["truth"][example["flipped"]]).all()
    for name, ranking in example["rankings"].items():
        assert example["recovered"](ranking, 0.05) > 0.8, name
        assert example["recovered"](ranking, 0.08) > 0.95, name
    ours = example["recovered"](example["rankings"]["log-probability"], 0.05)
    for name, ranking in example["rankings"].items():
        if "cleanlab" in name:
            assert abs(example["recovered"](ranking, 0.05) - ours) < 0.03, name


def test_default_mean_trains_nothing_in_xgboost():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 3))
    y = (x[:, 0] > 0).astype(int)
    scores = {}
    for reduction in ("mean", "sum"):
        focal = fl.sigmoid_focal_loss.bind(reduction=reduction)
        model = xgboost.XGBClassifier(objective=lambda y, z, focal=focal: focal.grad_and_hess(z, y))
        scores[reduction] = roc_auc_score(y, model.fit(x, y).predict_proba(x)[:, 1])
    assert scores["mean"] == 0.5
    assert scores["sum"] > 0.9


def test_masked_scoring(example):
    logits, labels, losses = (example[name] for name in ("logits", "labels", "losses"))
    skipped = labels == -100
    assert skipped.any()
    assert (losses[skipped] == 0).all()
    exact = -np.take_along_axis(
        log_softmax(logits.astype(float), axis=-1), np.where(skipped, 0, labels)[..., None], axis=-1
    )
    np.testing.assert_allclose(losses[~skipped], exact[..., 0][~skipped], rtol=1e-5)
    assert example["perplexity"].shape == labels.shape[:1]


def test_joblib_bound(example):
    np.testing.assert_array_equal(example["losses"], example["here"])
    assert example["losses"].shape == example["labels"].shape


def test_naive_beside_kernel(example):
    pred, kernel, naive = (example[name] for name in ("pred", "kernel", "naive"))
    np.testing.assert_allclose(kernel, np.log1p(np.exp(pred)), rtol=1e-15)
    assert (naive[pred < -37] == 0).all()  # where the formula has nothing left, as its comment says


def test_readme_shows_the_xgboost_example():
    (snippet,) = (code for code in README_PYTHON if "XGBClassifier" in code)
    example = (ROOT / "examples" / "xgboost_objective.py").read_text()
    body = snippet.split("import fastloss as fl\n")[1]
    assert body in example


@pytest.mark.parametrize("code", README_PYTHON, ids=lambda code: code.splitlines()[0])
def test_readme_python_runs(code):
    exec(compile(code, "README.md", "exec"), {})
