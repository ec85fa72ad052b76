"""Loss functions with their gradients and diagonal Hessians on NumPy arrays, in one pass.

Every loss is a `Loss`: called, it returns the loss; its methods `value_and_grad`, `grad`,
`grad_and_hess` and `value_grad_hess` return what their names say.
"""

from importlib.metadata import version

from fastloss import kernels
from fastloss._config import show_config
from fastloss._loss import Domain, Interval, Knob, Loss, losses
from fastloss._threads import get_num_threads, set_num_threads, threads
from fastloss.binary import binary_cross_entropy_with_logits, sigmoid_focal_loss
from fastloss.multiclass import cross_entropy
from fastloss.regression import (
    absolute_percentage_error_loss,
    cauchy_loss,
    charbonnier_loss,
    epsilon_insensitive_loss,
    expectile_loss,
    fair_loss,
    half_mse_loss,
    huber_loss,
    l1_loss,
    log_cosh_loss,
    mse_loss,
    pseudo_huber_loss,
    quantile_loss,
    smooth_l1_loss,
    squared_epsilon_insensitive_loss,
)

__version__ = version("fastloss")
__all__ = [
    "Domain",
    "Interval",
    "Knob",
    "Loss",
    "absolute_percentage_error_loss",
    "binary_cross_entropy_with_logits",
    "cauchy_loss",
    "charbonnier_loss",
    "cross_entropy",
    "epsilon_insensitive_loss",
    "expectile_loss",
    "fair_loss",
    "get_num_threads",
    "half_mse_loss",
    "huber_loss",
    "kernels",
    "l1_loss",
    "log_cosh_loss",
    "losses",
    "mse_loss",
    "pseudo_huber_loss",
    "quantile_loss",
    "set_num_threads",
    "show_config",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "squared_epsilon_insensitive_loss",
    "threads",
]
