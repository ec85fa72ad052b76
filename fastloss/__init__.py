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
from fastloss.combine import WeightedSum, weighted_sum
from fastloss.counts import (
    gamma_nll_loss,
    negative_binomial_nll_loss,
    poisson_nll_loss,
    tweedie_loss,
)
from fastloss.distributions import js_divergence_with_logits, kl_div_with_logits
from fastloss.multiclass import (
    cross_entropy,
    generalized_cross_entropy,
    poly_loss,
    softmax_focal_loss,
)
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
from fastloss.special import log_sigmoid, log_softmax, logsumexp, sigmoid, softmax, softplus
from fastloss.training import (
    GradientCheck,
    LossMeter,
    check_gradient,
    class_weights,
    clip_grad_norm,
    grad_norm,
)

__version__ = version("fastloss")
__all__ = [
    "Domain",
    "GradientCheck",
    "Interval",
    "Knob",
    "Loss",
    "LossMeter",
    "WeightedSum",
    "absolute_percentage_error_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cauchy_loss",
    "charbonnier_loss",
    "check_gradient",
    "class_weights",
    "clip_grad_norm",
    "cross_entropy",
    "epsilon_insensitive_loss",
    "expectile_loss",
    "exponential_loss",
    "fair_loss",
    "gamma_nll_loss",
    "generalized_cross_entropy",
    "get_num_threads",
    "grad_norm",
    "half_mse_loss",
    "hinge_embedding_loss",
    "hinge_loss",
    "huber_loss",
    "js_divergence_with_logits",
    "kernels",
    "kl_div_with_logits",
    "l1_loss",
    "log_cosh_loss",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "losses",
    "modified_huber_loss",
    "mse_loss",
    "negative_binomial_nll_loss",
    "perceptron_loss",
    "poisson_nll_loss",
    "poly_loss",
    "pseudo_huber_loss",
    "quantile_loss",
    "set_num_threads",
    "show_config",
    "sigmoid",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmax_focal_loss",
    "softplus",
    "squared_epsilon_insensitive_loss",
    "squared_hinge_loss",
    "threads",
    "tweedie_loss",
    "weighted_sum",
]
