"""Find wrong labels: 5 % of the digits' are flipped, and the worst-ranked few per cent hold most.

The logits of each image come from weights that never saw it, or the model would learn the flips.
"""

import importlib.util

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

import fastloss as fl

rng = np.random.default_rng(0)
images, truth = load_digits(return_X_y=True)
flipped = rng.choice(len(truth), len(truth) // 20, replace=False)
labels = truth.copy()
labels[flipped] += rng.integers(1, 10, len(flipped))
labels %= 10

model = LogisticRegression(C=0.1, max_iter=300)
logits = cross_val_predict(model, images / 16, labels, cv=5, method="decision_function")
found = fl.score(logits, labels, fields=("logprob", "margin", "argmax"))


def recovered(ranking, share):
    """Of the flipped labels, how many are in this share of all, the most suspicious first."""
    worst = ranking[: round(share * len(ranking))]
    return np.isin(flipped, worst).mean()


rankings = {"log-probability": found["logprob"].argsort(), "margin": found["margin"].argsort()}
if importlib.util.find_spec("cleanlab"):
    from cleanlab.rank import get_label_quality_scores

    probabilities = fl.softmax(logits)
    for method in ("self_confidence", "normalized_margin"):
        quality = get_label_quality_scores(labels, probabilities, method=method)
        rankings[f"cleanlab {method}"] = quality.argsort()
for name, ranking in rankings.items():
    in_5, in_8 = recovered(ranking, 0.05), recovered(ranking, 0.08)
    print(f"{name:26} {in_5:4.0%} of the flips in the worst 5 %, {in_8:4.0%} in the worst 8 %")
for i in rankings["log-probability"][:5]:
    print(f"image {i}: labelled {labels[i]}, looks like {found['argmax'][i]}, is {truth[i]}")
