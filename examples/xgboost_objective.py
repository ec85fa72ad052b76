"""Focal loss as an XGBoost objective, on a problem where one label in thirty is positive."""

from sklearn.datasets import make_classification
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from xgboost import XGBClassifier

import fastloss as fl

focal = fl.sigmoid_focal_loss.bind(reduction="sum")  # with the default mean no tree would split


def objective(y, z, sample_weight=None):
    """XGBoost's scikit-learn interface: the labels come first."""
    return focal.grad_and_hess(z, y, sample_weight=sample_weight)


model = XGBClassifier(objective=objective, max_depth=4)

x, y = make_classification(20_000, n_informative=8, weights=[0.97], random_state=0)
x_train, x_test, y_train, y_test = train_test_split(x, y, stratify=y, random_state=0)
model.fit(x_train, y_train)
auc = roc_auc_score(y_test, model.predict_proba(x_test)[:, 1])
print(f"{y.mean():.1%} positive, held-out AUC {auc:.3f}")
