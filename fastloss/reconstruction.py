"""Losses and figures of merit of images against a reference, by kernels of regression."""

import math
from collections.abc import Sequence
from typing import Any, Literal, Unpack

from numpy.typing import ArrayLike

from fastloss._general import Array, Set, per_class_array
from fastloss._loss import Gradients, PerClass, Unweighted, as_number, first_order_loss, named
from fastloss.regression import l1_loss, mse_loss


def _perceptual(m: Any, features: Any, target_features: Any, weights: Any, norm: str) -> Any:
    distances = [
        (m.abs(f - t) if norm == "l1" else (f - t) ** 2).mean()
        for f, t in zip(features, target_features, strict=True)
    ]
    of_maps = [1] * len(distances) if weights is None else weights
    return sum(w * d for w, d in zip(of_maps, distances, strict=True))


def _maps(run: Set, name: str, x: Any) -> dict[str, Array]:
    """The arrays of a sequence by their names."""
    if not isinstance(x, (list, tuple)):
        raise run.fail(TypeError, name, f"expected a list or tuple of arrays, got {type(x)}")
    return {f"{name}[{i}]": run.array(f"{name}[{i}]", part) for i, part in enumerate(x)}


@first_order_loss(
    Set,
    formula=r"\sum_m w_m \operatorname{mean} |f_m - t_m|^q",
    use_when="images: what looks alike is to be near, by the features of a network",
    naive=_perceptual,
    inputs=("features",),
)
def perceptual_loss(
    run: Set,
    features: Sequence[ArrayLike],
    target_features: Sequence[ArrayLike],
    *,
    weights: PerClass = None,
    norm: Literal["l1", "l2"] = "l1",
    **common: Unpack[Unweighted],
) -> Gradients[tuple[Array, ...]]:
    r"""Distance of two sequences of feature maps, as of the layers of a network.

    .. math:: \sum_m w_m \operatorname{mean} |f_m - t_m|^q

    Parameters
    ----------
    features, target_features : list or tuple of array_like
        As many maps, pairwise of one shape; floats, or integers, which count as
        float64.
    weights : array_like, optional
        One w per map, not negative; by default 1. At 0 a map is not read.
    norm : {"l1", "l2"}, optional
        The absolute differences, q = 1, or their squares, q = 2.
    out : sequence of ndarray, optional
        The gradients' arrays, one or None per map, or a tuple of one entry per result. Each may be
        the map itself.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Raises
    ------
    ValueError, TypeError
        For lengths or shapes that differ, negative weights, dtypes that are not numbers, an `out`
        that does not fit.

    Notes
    -----
    J. Johnson, A. Alahi and L. Fei-Fei, Perceptual losses for real-time style transfer and
    super-resolution, 2016, of which the feature reconstruction loss is ``norm="l2"``. The mean is
    over all elements of a map; the sum over maps is not divided by their weights. The gradients, a
    tuple of one per map, go back through the network that made the maps. At no difference the
    gradient is 0. An empty map has no mean: the loss is nan.

    Examples
    --------
    >>> import numpy as np
    >>> import fastloss as fl
    >>> features = [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 0.0])]
    >>> target = [np.zeros((2, 2)), np.zeros(2)]
    >>> loss, grads = fl.perceptual_loss.value_and_grad(features, target, weights=[1.0, 0.5])
    >>> loss
    2.75
    >>> grads[1]
    array([0.25, 0.  ])
    """
    options = run.common(common)
    norm_of = named({"l1": l1_loss, "l2": mse_loss}[run.loss.check_knob("norm", norm)], run.name)
    maps = _maps(run, "features", features)
    targets = _maps(run, "target_features", target_features)
    if len(maps) != len(targets):
        raise run.fail(
            ValueError, "target_features", f"expected {len(maps)} maps, got {len(targets)}"
        )
    for (name, f), (target_name, t) in zip(maps.items(), targets.items(), strict=True):
        if f.shape != t.shape:
            raise run.fail(
                ValueError, target_name, f"expected the shape {f.shape} of {name}, got {t.shape}"
            )
    of_maps = [1.0] * len(maps)
    if weights is not None:
        given = per_class_array(run.loss, "weights", weights)
        if given.shape != (len(maps),):
            raise run.fail(
                ValueError, "weights", f"expected shape ({len(maps)},), got {given.shape}"
            )
        of_maps = given.astype(float).tolist()
    outs = run.outs(common, maps, targets, several=True)
    total, gradients = 0.0, []
    for f, t, w, out in zip(maps.values(), targets.values(), of_maps, outs, strict=True):
        # With the weight alone the mean would be divided by it again.
        size = {"normalizer": f.size} if f.size else {}
        value, grad = run.ask(norm_of, f, t, sample_weight=w, out=out, **size, **options)
        total += value
        gradients.append(grad)
    return run(total, tuple(gradients))


_SQUARES = named(mse_loss, "psnr")


def psnr(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    data_range: float = 1.0,
    sample_weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    num_threads: int | None = None,
) -> float:
    r"""Peak signal-to-noise ratio in decibels; higher is better.

    .. math:: 10 \log_{10} (R^2 / \operatorname{mean} (p - t)^2)

    Parameters
    ----------
    pred, target : array_like
        Of one shape; floats, or integers, which count as float64.
    data_range : float, optional
        The R: the largest value less the smallest that the data may have, positive; 255 for bytes.
    sample_weight : array_like, optional
        A scalar, or of the shape of pred's leading axes, or of as many axes with 1s.
    mask : array_like of bool, optional
        True is kept, shaped like a weight.
    num_threads : int, optional
        Threads for this call; by default those of `get_num_threads`.

    Returns
    -------
    float
        inf where `pred` is `target`; nan where nothing is kept.

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, a `data_range` that is not positive.

    Notes
    -----
    scikit-image's ``peak_signal_noise_ratio(target, pred, data_range=...)``, which guesses the
    range from the dtype if none is given; torchmetrics' likewise from the data. It is a figure, not
    a loss: minimise `mse_loss`.

    Examples
    --------
    >>> import fastloss as fl
    >>> round(fl.psnr([0.0, 0.5, 1.0], [0.0, 0.6, 1.0]), 6)
    24.771213
    """
    try:
        largest = as_number(data_range)
    except TypeError as error:
        raise TypeError(f"psnr: data_range: {error}") from None
    if not 0 < largest < math.inf:
        raise ValueError(f"psnr: data_range: expected a positive number, got {data_range!r}")
    mean = _SQUARES(pred, target, sample_weight=sample_weight, mask=mask, num_threads=num_threads)
    if mean == 0:
        return math.inf
    if not 0 < mean < math.inf:
        return -math.inf if mean == math.inf else math.nan
    # The difference of logarithms: the range's square may overflow.
    return 20 * math.log10(largest) - 10 * math.log10(mean)
