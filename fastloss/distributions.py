"""Divergences between distributions, and losses made of them."""

from typing import Any, Literal, Unpack

from numpy.typing import ArrayLike

from fastloss import kernels
from fastloss._general import Array, Divergences, Elementwise, KullbackLeibler, Pairs, RowDivergence
from fastloss._loss import (
    CHANCES,
    CHANCES_OR_LOGITS,
    REAL,
    UNIT,
    Common,
    Domain,
    Elsewhere,
    Flag,
    Fraction,
    Gradients,
    NonNegative,
    Outputs,
    Temperature,
    VectorsCommon,
    first_order_loss,
    loss,
)
from fastloss._vectors import Vectors, dots
from fastloss.binary import binary_cross_entropy_with_logits


def _kl(m: Any, p: Any, t: Any, log_target: Any) -> Any:
    if log_target:
        return m.exp(t) * (t - p)
    return m.where(t > 0, t * (m.log(m.where(t > 0, t, 1)) - p), 0 * p)


def _kl_terms(m: Any, p: Any, t: Any, log_target: Any) -> Any:
    if log_target or t == 0:
        return None, None, None
    return t * m.maximum(m.abs(m.log(t)), m.abs(p)), None, None


@loss(
    Elementwise,
    kernels.kl_div,
    target=Domain(0, 1, unless="log_target"),
    formula=r"t (\log t - p)",
    use_when="distributions, distillation: log-probabilities against a distribution",
    naive=_kl,
    terms=_kl_terms,
    torch=Elsewhere("kl_div"),
    link="log",
)
def kl_div(
    run: Elementwise,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    log_target: Flag = False,
    **common: Unpack[Common],
) -> Outputs:
    r"""Kullback-Leibler divergence from log-probabilities p to probabilities t, by elements.

    .. math:: t (\log t - p), \quad e^t (t - p) \text{ of log-probabilities } t

    A distribution's divergence is the sum over its elements: of (n, classes) the mean divergence
    is ``reduction="batchmean"``.

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64. Targets in [0, 1]
        unless `log_target`. That they sum to 1 is not checked.
    log_target : bool, optional
        Whether `target` holds the logarithms of its probabilities.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets outside [0, 1] (the first is named), dtypes that are not
        numbers, an `out` that does not fit.

    Notes
    -----
    PyTorch's function of the same name, also with ``"mean"``, which divides by the number of
    elements. 0 log 0 = 0, and a target of 0 costs nothing where `pred` is -inf.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.kl_div([-0.5, -1.0], [0.5, 0.5], reduction="none").round(6)
    array([-0.096574,  0.153426])
    >>> fl.kl_div.grad([[-0.5, -1.0]], [[0.5, 0.5]], reduction="batchmean")
    array([[-0.5, -0.5]])
    """
    return run(pred, target, (log_target,), **common)


def _kl_with_probs(m: Any, p: Any, target: Any) -> Any:
    terms = zip(p, target, strict=True)
    return sum(m.where(t > 0, t * (m.log(t) - m.log(p_k)), 0 * p_k) for p_k, t in terms)


def _kl_with_probs_terms(m: Any, p: Any, target: Any) -> Any:
    # The terms themselves, but where p is close to t only what they are more than t - p.
    size = 0
    for p_k, t in zip(p, target, strict=True):
        if t > 0 and p_k > 0:
            x = t * (m.log(t) - m.log(p_k))
            size = size + m.abs(x + (p_k - t) if m.abs(p_k - t) < t / 2 else x)
    return size, None, None


@loss(
    RowDivergence,
    kernels.kl_div_with_probs,
    pred=UNIT,
    target=CHANCES,
    formula=r"\sum_k t_k \log \frac{t_k}{p_k}",
    use_when="distributions: probabilities against a distribution, a row being a sample",
    naive=_kl_with_probs,
    terms=_kl_with_probs_terms,
    link="identity",
)
def kl_div_with_probs(
    run: RowDivergence,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Kullback-Leibler divergence of probabilities p from the target's t, a row being a sample.

    .. math:: D(t \| p) = \sum_k t_k \log \frac{t_k}{p_k}

    Parameters
    ----------
    pred : array_like
        Probabilities p, floats, or integers, which count as float64; the classes on
        `axis`.
    target : array_like
        Probabilities t of pred's shape, in [0, 1].
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets outside [0, 1] (the first is named), dtypes that are not
        numbers, an `out` that does not fit.

    Notes
    -----
    S. Kullback and R. A. Leibler, On information and sufficiency, 1951; scipy.stats.entropy(t, p)
    without its normalisation. That probabilities add up to 1 is checked neither of `pred` nor of
    `target`, and the gradient is that of each p on its own. 0 log 0 = 0, and p = 0 where t is not
    costs inf. Of close distributions nothing cancels: t log(t / p) is summed as what it exceeds
    t - p by, which is not negative, and t - p, exactly.

    Examples
    --------
    >>> import fastloss as fl
    >>> round(fl.kl_div_with_probs([[0.5, 0.5]], [[0.25, 0.75]]), 6)
    0.130812
    >>> fl.kl_div_with_probs.grad([[0.5, 0.5]], [[0.25, 0.75]])
    array([[-0.5, -1.5]])
    """
    return run(pred, target, axis=axis, **common)


def _shares(m: Any, z: Any, temperature: Any) -> list[Any]:
    e = [m.exp(z_k / temperature) for z_k in z]
    total = sum(e)
    return [e_k / total for e_k in e]


def _target(m: Any, target: Any, temperature: Any, from_logits: Any) -> Any:
    return _shares(m, target, temperature) if from_logits else target


def _divergence(m: Any, q: Any, p: Any) -> Any:
    return sum(
        q_k * m.log(q_k / p_k) if q_k != 0 else 0 * p_k for q_k, p_k in zip(q, p, strict=True)
    )


def _kl_of_logits(m: Any, z: Any, target: Any, temperature: Any, from_logits: Any) -> Any:
    q = _target(m, target, temperature, from_logits)
    return _divergence(m, q, _shares(m, z, temperature))


def _kl_terms_of_logits(m: Any, z: Any, target: Any, temperature: Any, from_logits: Any) -> Any:
    # Of probabilities log(q / p) is no better than its logarithms, which weigh by q - p.
    q, p = _target(m, target, temperature, from_logits), _shares(m, z, temperature)
    pairs = list(zip(q, p, strict=True))
    total = sum(q)
    largest = [m.maximum(q_k, total * p_k) / temperature for q_k, p_k in pairs]
    return None if from_logits else sum(m.abs(q_k - p_k) for q_k, p_k in pairs), largest, None


@loss(
    KullbackLeibler,
    kernels.kl_div_with_logits,
    target=CHANCES_OR_LOGITS,
    formula=r"\sum_k q_k (\log q_k - \log p_k)",
    use_when="distributions, distillation: a student's logits against a teacher's distribution",
    naive=_kl_of_logits,
    terms=_kl_terms_of_logits,
)
def kl_div_with_logits(
    run: KullbackLeibler,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    temperature: Temperature = 1.0,
    from_logits: Flag = False,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Kullback-Leibler divergence of rows of logits z from distributions q.

    .. math:: D(q \| p) = \sum_k q_k (\log q_k - \log p_k),
              \qquad p = \operatorname{softmax}(z / T)

    Parameters
    ----------
    pred : array_like
        Logits, floats, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Of pred's shape: probabilities in [0, 1]; that they sum to 1 is not checked. Or logits,
        with `from_logits`.
    temperature : float, optional
        T, which divides the logits, also those of the target; from 1e-12 to 1e12. The divergence is
        not multiplied by T squared, as distillation often does: ``sample_weight=T**2`` with
        ``reduction="sum"`` does.
    from_logits : bool, optional
        Whether the target is logits: q is their softmax.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    A row is a sample: PyTorch's ``kl_div(log_softmax(z / T), q, reduction="batchmean")``. The
    gradient is (p sum(q) - q) / T. 0 log 0 is 0, and what is expected of a class that can't be
    (a logit of -inf) costs inf. Close distributions keep their digits: with `from_logits` all of
    them; probabilities know log(q / p) only to the last digit of their own logarithms. The
    divergence is never negative if q sums to 1, and of a nan where a probability is negative.

    Kullback & Leibler, "On Information and Sufficiency" (1951); Hinton et al., "Distilling the
    Knowledge in a Neural Network" (2015).

    Examples
    --------
    >>> import fastloss as fl
    >>> loss, grad = fl.kl_div_with_logits.value_and_grad([[2.0, 0.0, 0.0]], [[0.5, 0.25, 0.25]])
    >>> round(loss, 6), grad.round(6)
    (0.199824, array([[ 0.286986, -0.143493, -0.143493]]))
    >>> round(fl.kl_div_with_logits([[1.0, 1e-9]], [[1.0, 0.0]], from_logits=True) * 1e19, 6)
    0.98306
    """
    return run(pred, target, (temperature, from_logits), axis=axis, **common)


def _mixture(q: Any, p: Any, beta: Any) -> list[Any]:
    return [beta * q_k + (1 - beta) * p_k for q_k, p_k in zip(q, p, strict=True)]


def _js(m: Any, z: Any, target: Any, beta: Any, temperature: Any, from_logits: Any) -> Any:
    if beta in (0, 1):
        return 0 * sum(z)
    q, p = _target(m, target, temperature, from_logits), _shares(m, z, temperature)
    middle = _mixture(q, p, beta)
    return beta * _divergence(m, q, middle) + (1 - beta) * _divergence(m, p, middle)


def _js_terms(m: Any, z: Any, target: Any, beta: Any, temperature: Any, from_logits: Any) -> Any:
    if beta in (0, 1):
        return None, None, None
    q, p = _target(m, target, temperature, from_logits), _shares(m, z, temperature)
    middle = _mixture(q, p, beta)
    first, second = [], []
    for q_k, p_k, m_k in zip(q, p, middle, strict=True):
        first.append((1 - beta) * p_k * m.log(p_k / m_k) if p_k * m_k != 0 else 0 * p_k)
        second.append((1 - beta) * beta * q_k * p_k / m_k if m_k != 0 else 0 * p_k)
    total, all_second = sum(first), sum(second)
    grad, hess = [], []
    for f, s, p_k in zip(first, second, p, strict=True):
        grad.append(max(abs(f), abs(p_k * total), s) / temperature)
        hess.append(max(abs(f), abs(p_k * total), s, p_k * p_k * all_second) / temperature**2)
    return sum(abs(f) for f in first), grad, hess


@loss(
    Divergences,
    kernels.js_divergence_with_logits,
    target=CHANCES_OR_LOGITS,
    formula=r"\beta D(q \| m) + (1 - \beta) D(p \| m)",
    use_when="distributions, distillation: as Kullback-Leibler, but bounded and of both directions",
    naive=_js,
    terms=_js_terms,
)
def js_divergence_with_logits(
    run: Divergences,
    pred: ArrayLike,
    target: ArrayLike,
    *,
    beta: Fraction = 0.5,
    temperature: Temperature = 1.0,
    from_logits: Flag = False,
    axis: int = -1,
    **common: Unpack[Common],
) -> Outputs:
    r"""Generalised Jensen-Shannon divergence of rows of logits z and distributions q.

    .. math:: \beta D(q \| m) + (1 - \beta) D(p \| m), \qquad
              m = \beta q + (1 - \beta) p, \quad p = \operatorname{softmax}(z / T)

    Parameters
    ----------
    pred : array_like
        Logits, floats, or integers, which count as float64; the classes on `axis`.
    target : array_like
        Of pred's shape: probabilities in [0, 1]; that they sum to 1 is not checked. Or logits,
        with `from_logits`.
    beta : float, optional
        The target's weight in the mixture m, in [0, 1]: 1/2 is the Jensen-Shannon divergence; at
        the ends, where m is one of the two, it is 0.
    temperature : float, optional
        T, which divides the logits, also those of the target; from 1e-12 to 1e12.
    from_logits : bool, optional
        Whether the target is logits: q is their softmax.
    axis : int, optional
        The axis of the classes.
    **common

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    At most the entropy of (beta, 1 - beta), log 2 by default: bounded also where the distributions
    have no class in common. Lin, "Divergence Measures Based on the Shannon Entropy" (1991).

    Examples
    --------
    >>> import fastloss as fl
    >>> round(fl.js_divergence_with_logits([[2.0, 0.0, 0.0]], [[0.5, 0.25, 0.25]]), 6)
    0.045847
    >>> round(fl.js_divergence_with_logits([[99.0, 0.0]], [[0.0, 1.0]]), 6)
    0.693147
    """
    return run(pred, target, (beta, temperature, from_logits), axis=axis, **common)


@first_order_loss(
    Pairs,
    kernels.gaussian_kl,
    formula=r"\frac{1}{2} \left(e^s + \mu^2 - 1 - s\right)",
    inputs=("mu", "log_var"),
    checked="log_var",
    use_when="distributions: the latent variables of a variational autoencoder",
    naive=lambda m, mu, s: (m.exp(s) + mu**2 - 1 - s) / 2,
)
def gaussian_kl_loss(
    run: Pairs, mu: ArrayLike, log_var: ArrayLike, **common: Unpack[Common]
) -> Gradients[tuple[Array, Array]]:
    r"""Kullback-Leibler divergence of a normal distribution from N(0, 1).

    .. math:: \frac{1}{2} \left(e^s + \mu^2 - 1 - s\right), \qquad s = \log \sigma^2

    Parameters
    ----------
    mu : array_like
        Means, floats, or integers, which count as float64.
    log_var : array_like
        Logarithms s of the variances, of mu's shape.
    **common

    Returns
    -------
    (gradient of mu, gradient of log_var)
        Where gradients are asked for.

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    Right to the last digits also close to N(0, 1), where the terms cancel. Of latent variables
    (n, d) the mean divergence of a sample is ``reduction="batchmean"``.

    References
    ----------
    D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, ICLR 2014, appendix B.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.gaussian_kl_loss([2.0, 0.0], [0.0, 1e-10], reduction="none")
    array([2.0e+00, 2.5e-21])
    """
    return run({"mu": mu, "log_var": log_var}, **common)


_BCE = binary_cross_entropy_with_logits.bind(num_threads=1)
_KL = gaussian_kl_loss.bind(num_threads=1)


def _elbo(
    scale: Array | None,
    recon: Array,
    target: Array,
    mu: Array,
    log_var: Array,
    likelihood: str,
    beta: float,
) -> tuple[Array, tuple[Array, ...]]:
    if likelihood == "bernoulli":
        if scale is None:
            each = _BCE(recon, target, reduction="none")
        else:
            each, _ = _BCE.value_and_grad(recon, target, reduction="none", out=(None, recon))
        loss = each.sum(-1)
    else:
        recon -= target
        loss = dots(recon, recon) / 2
    if scale is None:
        return loss + beta * _KL(mu, log_var, reduction="none").sum(-1), ()
    each, slopes = _KL.value_and_grad(mu, log_var, reduction="none", out=(mu, log_var))
    recon *= scale[:, None]
    for slope in slopes:
        slope *= (beta * scale)[:, None]
    return loss + beta * each.sum(-1), (recon, mu, log_var)


def _elbo_naive(m: Any, x: Any, y: Any, mu: Any, v: Any, likelihood: str, beta: Any) -> Any:
    bernoulli = likelihood == "bernoulli"
    rebuilt = m.log(1 + m.exp(x)) - y * x if bernoulli else (x - y) ** 2 / 2
    return m.sum(rebuilt) + beta * m.sum(m.exp(v) + mu**2 - 1 - v) / 2


def _elbo_terms(m: Any, x: Any, y: Any, mu: Any, v: Any, likelihood: str, beta: Any) -> Any:
    return None, (
        m.maximum(1 / (1 + m.exp(-x)), y) if likelihood == "bernoulli" else None,
        None,
        None,
    )


@first_order_loss(
    Vectors,
    target=UNIT,
    formula=r"-\log p(x \mid z) + \beta D(q(z \mid x) \| N(0, 1))",
    inputs=("recon", "mu", "log_var"),
    use_when="distributions: a whole variational autoencoder",
    naive=_elbo_naive,
    terms=_elbo_terms,
)
def elbo_loss(
    run: Vectors,
    recon: ArrayLike,
    target: ArrayLike,
    mu: ArrayLike,
    log_var: ArrayLike,
    *,
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    beta: NonNegative = 1.0,
    **common: Unpack[VectorsCommon],
) -> Gradients[tuple[Array, Array, Array]]:
    r"""Negative evidence lower bound of a variational autoencoder, of each row.

    .. math:: -\log p(x \mid z) + \beta D(q(z \mid x) \| N(0, 1)), \quad
        D = \tfrac{1}{2} \sum_j (e^{v_j} + \mu_j^2 - 1 - v_j)

    Parameters
    ----------
    recon : array_like
        What is made of the sample z, features along the last axis: logits of the Bernoulli
        distributions of the features, or means of Gaussians of variance 1. floats, or
        integers, which count as float64.
    target : array_like
        The data x, of recon's shape; of Bernoulli distributions in [0, 1].
    mu, log_var : array_like
        Means and logarithms v of the variances of q, of one shape: recon's leading axes, and the
        latent features along the last axis.
    likelihood : {"bernoulli", "gaussian"}, optional
        Of x: sums `binary_cross_entropy_with_logits` over the features, or (x - recon)^2 / 2, the
        constant left out.
    beta : float, optional
        The weight of the divergence D; not negative.
    **common

    Returns
    -------
    (gradient of recon, of mu, of log_var)
        Where gradients are asked for, each of its input's shape and floating dtype.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, Bernoulli targets outside [0, 1] (the first is named), dtypes
        that are not numbers, an `out` that does not fit.

    Notes
    -----
    Features on several axes, as of images, are flattened: ``recon.reshape(n, -1)``. Distributions q
    close to N(0, 1) keep their precision. Computed in float64.

    References
    ----------
    D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, ICLR 2014; I. Higgins et al.,
    *beta-VAE*, ICLR 2017.

    Examples
    --------
    >>> import fastloss as fl
    >>> recon, target = [[0.0, 2.0]], [[1.0, 1.0]]
    >>> fl.elbo_loss(recon, target, [[2.0]], [[0.0]], likelihood="gaussian", beta=0.5)
    2.0
    """
    inputs = {"recon": recon, "target": target, "mu": mu, "log_var": log_var}
    domain = UNIT if likelihood == "bernoulli" else REAL
    return run(_elbo, inputs, "ddkk", (likelihood, beta), domain, **common)
