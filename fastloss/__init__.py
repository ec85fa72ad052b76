"""Loss functions with their gradients and diagonal Hessians on NumPy arrays, in one pass.

Every loss is a `Loss`: called, it returns the loss; its methods `value_and_grad`, `grad`,
`grad_and_hess` and `value_grad_hess` return what their names say.
"""

from typing import TYPE_CHECKING

from fastloss import kernels
from fastloss._config import show_config
from fastloss._loss import Domain, HessianLoss, Interval, Knob, Loss, losses
from fastloss._threads import get_num_threads, set_num_threads, threads
from fastloss.binary import (
    asymmetric_loss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    exponential_loss,
    hinge_embedding_loss,
    hinge_loss,
    modified_huber_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    perceptron_loss,
    sigmoid_focal_loss,
    soft_margin_loss,
    squared_hinge_loss,
)
from fastloss.bridge import from_torch
from fastloss.combine import WeightedSum, weighted_sum
from fastloss.contrastive import nt_xent_loss, supervised_contrastive_loss
from fastloss.counts import (
    gamma_nll_loss,
    negative_binomial_nll_loss,
    poisson_nll_loss,
    tweedie_loss,
)
from fastloss.distributions import (
    elbo_loss,
    gaussian_kl_loss,
    js_divergence_with_logits,
    kl_div,
    kl_div_with_logits,
    kl_div_with_probs,
)
from fastloss.embedding import (
    contrastive_loss,
    cosine_distance_loss,
    cosine_embedding_loss,
    margin_ranking_loss,
    triplet_margin_loss,
)
from fastloss.likelihoods import (
    gaussian_nll_loss,
    gaussian_nll_with_log_var_loss,
    laplace_nll_loss,
    student_t_nll_loss,
)
from fastloss.multiclass import (
    crammer_singer_loss,
    cross_entropy,
    cross_entropy_with_probs,
    generalized_cross_entropy,
    multi_margin_loss,
    nll_loss,
    poly_loss,
    softmax_focal_loss,
)
from fastloss.penalties import elastic_net_penalty, l1_penalty, l2_penalty
from fastloss.reconstruction import perceptual_loss, psnr
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
    multi_quantile_loss,
    pseudo_huber_loss,
    quantile_loss,
    rmse_loss,
    smooth_l1_loss,
    squared_epsilon_insensitive_loss,
    squared_log_error_loss,
)
from fastloss.scoring import score, score_batches
from fastloss.segmentation import dice_loss, tversky_loss
from fastloss.special import log_sigmoid, log_softmax, logsumexp, sigmoid, softmax, softplus
from fastloss.training import (
    GradientCheck,
    LossMeter,
    check_gradient,
    class_weights,
    clip_grad_norm,
    grad_norm,
)

__all__ = [
    "Domain",
    "GradientCheck",
    "HessianLoss",
    "Interval",
    "Knob",
    "Loss",
    "LossMeter",
    "WeightedSum",
    "absolute_percentage_error_loss",
    "asymmetric_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cauchy_loss",
    "charbonnier_loss",
    "check_gradient",
    "class_weights",
    "clip_grad_norm",
    "contrastive_loss",
    "cosine_distance_loss",
    "cosine_embedding_loss",
    "crammer_singer_loss",
    "cross_entropy",
    "cross_entropy_with_probs",
    "dice_loss",
    "elastic_net_penalty",
    "elbo_loss",
    "epsilon_insensitive_loss",
    "expectile_loss",
    "exponential_loss",
    "fair_loss",
    "from_torch",
    "gamma_nll_loss",
    "gaussian_kl_loss",
    "gaussian_nll_loss",
    "gaussian_nll_with_log_var_loss",
    "generalized_cross_entropy",
    "get_num_threads",
    "grad_norm",
    "half_mse_loss",
    "hinge_embedding_loss",
    "hinge_loss",
    "huber_loss",
    "js_divergence_with_logits",
    "kernels",
    "kl_div",
    "kl_div_with_logits",
    "kl_div_with_probs",
    "l1_loss",
    "l1_penalty",
    "l2_penalty",
    "laplace_nll_loss",
    "log_cosh_loss",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "losses",
    "margin_ranking_loss",
    "modified_huber_loss",
    "mse_loss",
    "multi_margin_loss",
    "multi_quantile_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "negative_binomial_nll_loss",
    "nll_loss",
    "nt_xent_loss",
    "perceptron_loss",
    "perceptual_loss",
    "poisson_nll_loss",
    "poly_loss",
    "pseudo_huber_loss",
    "psnr",
    "quantile_loss",
    "rmse_loss",
    "score",
    "score_batches",
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
    "squared_log_error_loss",
    "student_t_nll_loss",
    "supervised_contrastive_loss",
    "threads",
    "triplet_margin_loss",
    "tversky_loss",
    "tweedie_loss",
    "weighted_sum",
]

__version__: str
if not TYPE_CHECKING:  # to whom any name would be one

    def __getattr__(name):
        # When it is asked for: that takes 20 ms.
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version(__name__)
