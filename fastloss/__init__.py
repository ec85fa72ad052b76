"""Loss functions with their gradients and diagonal Hessians on NumPy arrays, in one pass.

Every loss is a `Loss`: called, it returns the loss; its methods `value_and_grad`, `grad`,
`grad_and_hess` and `value_grad_hess` return what their names say.
"""

from importlib.metadata import version

from fastloss import kernels
from fastloss._config import show_config
from fastloss._loss import Domain, Interval, Knob, Loss, losses
from fastloss._threads import get_num_threads, set_num_threads, threads
from fastloss.binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    exponential_loss,
    hinge_embedding_loss,
    hinge_loss,
    modified_huber_loss,
    perceptron_loss,
    sigmoid_focal_loss,
    soft_margin_loss,
    squared_hinge_loss,
)
from fastloss.counts import (
    gamma_nll_loss,
    negative_binomial_nll_loss,
    poisson_nll_loss,
    tweedie_loss,
)
from fastloss.multiclass import cross_entropy
from fastloss.regression import huber_loss, mse_loss

__version__ = version("fastloss")
__all__ = [
    "Domain",
    "Interval",
    "Knob",
    "Loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "exponential_loss",
    "gamma_nll_loss",
    "get_num_threads",
    "hinge_embedding_loss",
    "hinge_loss",
    "huber_loss",
    "kernels",
    "losses",
    "modified_huber_loss",
    "mse_loss",
    "negative_binomial_nll_loss",
    "perceptron_loss",
    "poisson_nll_loss",
    "set_num_threads",
    "show_config",
    "sigmoid_focal_loss",
    "soft_margin_loss",
    "squared_hinge_loss",
    "threads",
    "tweedie_loss",
]
