"""Losses of embeddings: rows of two or three inputs and how far they are from each other."""

from typing import Annotated, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fastloss import kernels
from fastloss._general import Array, Pairs
from fastloss._loss import (
    BINARY,
    SIGNS,
    Common,
    Elsewhere,
    Flag,
    Gradients,
    Interval,
    NonNegative,
    VectorsCommon,
    first_order_loss,
)
from fastloss._vectors import Vectors, dots, norms


def _inverse(norm: Array) -> Array:
    """1 / norm, and 0 for 0."""
    return np.where(norm == 0, 0, 1 / norm)


def _distance(m: Any, x: Any, y: Any, eps: Any = 0) -> Any:
    return m.sqrt(m.sum((x - y + eps) ** 2))


def _contrastive(
    scale: Array | None, x1: Array, x2: Array, y: Array, margin: float
) -> tuple[Array, tuple[Array, ...]]:
    e = np.subtract(x1, x2, out=x1)
    d = norms(e)
    gap = np.maximum(margin - d, 0)
    loss = np.where(y == 1, d * d, gap * gap) + (y - y)  # nan for a nan target
    if scale is None:
        return loss, ()
    e *= (scale * (np.where(y == 1, 2, -2 * gap * _inverse(d)) + (y - y)))[:, None]
    return loss, (e, np.negative(e, out=x2))


def _contrastive_naive(m: Any, x1: Any, x2: Any, y: Any, margin: Any) -> Any:
    d = _distance(m, x1, x2)
    return y * d**2 + (1 - y) * m.maximum(margin - d, 0) ** 2


def _contrastive_terms(m: Any, x1: Any, x2: Any, y: Any, margin: Any) -> Any:
    d = _distance(m, x1, x2)
    if y == 1 or d >= margin:
        return None, None
    slope = m.abs(x1 - x2) * m.maximum(1, margin / d)
    return (margin - d) * m.maximum(margin, d), (slope, slope)


@first_order_loss(
    Vectors,
    target=BINARY,
    formula=r"y d^2 + (1 - y) \max(0, m - d)^2",
    inputs=("x1", "x2"),
    use_when="embedding, contrastive: pairs of rows, marked as alike or not",
    naive=_contrastive_naive,
    terms=_contrastive_terms,
)
def contrastive_loss(
    run: Vectors,
    x1: ArrayLike,
    x2: ArrayLike,
    target: ArrayLike,
    *,
    margin: NonNegative = 1.0,
    **common: Unpack[VectorsCommon],
) -> Gradients[tuple[Array, Array]]:
    r"""Squared distance of similar rows, squared lack of distance of the others.

    .. math:: y d^2 + (1 - y) \max(0, m - d)^2, \quad d = \|x_1 - x_2\|

    Parameters
    ----------
    x1, x2 : array_like
        Of one shape, the features along the last axis; floats, or integers, which count
        as float64.
    target : array_like
        One number y per row: 1 for similar rows, 0 for others.
    margin : float, optional
        The distance m from which rows that are not similar cost nothing; not negative.
    **common

    Returns
    -------
    (gradient of x1, gradient of x2)
        Where gradients are asked for, each of its input's shape and floating dtype.

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than 0 and 1 (the first is named), dtypes that are not
        numbers, an `out` that does not fit.

    Notes
    -----
    Gradients are 0 where rows that are not similar coincide. Computed in float64.

    References
    ----------
    R. Hadsell, S. Chopra and Y. LeCun, *Dimensionality Reduction by Learning an Invariant Mapping*,
    CVPR 2006; there half of it, and similar is 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> x1, x2 = [[0.0, 0.0], [0.0, 0.0]], [[3.0, 4.0], [3.0, 4.0]]
    >>> fl.contrastive_loss(x1, x2, [1, 0], margin=7.0, reduction="none")
    array([25.,  4.])
    """
    inputs = {"x1": x1, "x2": x2, "target": target}
    return run(_contrastive, inputs, "dd.", (margin,), **common)


def _lengths(e: Array, p: float) -> Array:
    """The p-norm of each row."""
    if p == 2:
        return norms(e)
    size = np.abs(e)
    unit = size.max(-1, initial=0)
    unit[(unit == 0) | (unit == np.inf)] = 1
    size /= unit[:, None]  # whose powers do not overflow
    if p != 1:
        np.power(size, p, out=size)
    length: Array = size.sum(-1) ** (1 / p) * unit
    length[length < np.finfo(np.float64).tiny] = 0
    return length


def _slopes(e: Array, length: Array, p: float, squared: bool) -> Array:
    """The factor of each row that makes `e`, changed if p is not 2, the derivative of `length`."""
    if p == 2:
        return np.full_like(length, 2) if squared else _inverse(length)
    sign = np.sign(e)
    if p != 1:
        np.abs(e, out=e)
        e *= _inverse(length)[:, None]
        np.power(e, p - 1, out=e)
        sign *= e
    e[...] = sign
    return 2 * length if squared else np.ones_like(length)


def _triplet(
    scale: Array | None,
    anchor: Array,
    positive: Array,
    negative: Array,
    margin: float,
    p: float,
    eps: float,
    swap: bool,
    squared: bool,
) -> tuple[Array, tuple[Array, ...]]:
    to_positive = np.subtract(anchor, positive, out=None if swap else positive)
    to_negative = np.subtract(anchor, negative, out=anchor)
    to_positive += eps
    to_negative += eps
    near, far = _lengths(to_positive, p), _lengths(to_negative, p)
    other = far
    if swap:
        between = np.subtract(positive, negative, out=positive)
        between += eps
        other = _lengths(between, p)
    swapped = other < far
    least = np.minimum(far, other)  # of nan, nan
    power = 2 if squared else 1
    loss = np.maximum(margin + near**power - least**power, 0)
    if scale is None:
        return loss, ()
    scale = np.where(loss > 0, scale, 0 * loss)
    to_positive *= (scale * _slopes(to_positive, near, p, squared))[:, None]
    slope = _slopes(to_negative, far, p, squared)
    to_negative *= (scale * np.where(swapped, 0, slope))[:, None]
    grad_anchor = np.subtract(to_positive, to_negative, out=negative)
    if swapped.any():
        slope = _slopes(between, other, p, squared)
        between *= (scale * np.where(swapped, slope, 0))[:, None]
        to_positive += between
        to_negative += between
    return loss, (grad_anchor, np.negative(to_positive, out=to_positive), to_negative)


def _triplet_sides(
    m: Any, a: Any, pos: Any, neg: Any, p: Any, eps: Any, swap: Any, squared: Any
) -> Any:
    def d(x: Any, y: Any) -> Any:
        length = m.sum(m.abs(x - y + eps) ** p) ** (1 / p)
        return length**2 if squared else length

    return d(a, pos), m.minimum(d(a, neg), d(pos, neg)) if swap else d(a, neg)


def _triplet_ulp(knobs: dict[str, Any]) -> float:
    return 4 + 2 * float(knobs["p"])


def _triplet_naive(m: Any, a: Any, pos: Any, neg: Any, margin: Any, **knobs: Any) -> Any:
    near, far = _triplet_sides(m, a, pos, neg, **knobs)
    return m.maximum(margin + near - far, 0)


def _triplet_terms(
    m: Any, a: Any, pos: Any, neg: Any, margin: Any, p: Any, eps: Any, swap: Any, squared: Any
) -> Any:
    near, far = _triplet_sides(m, a, pos, neg, p, eps, swap, squared)
    # No slope of a norm is above 1; those of squares grow with the distance.
    slope = 2 * m.sqrt(m.maximum(near, far)) if squared else 1
    slopes = 0 * a + slope
    return m.maximum(margin, m.maximum(near, far)), (slopes, slopes, slopes)


@first_order_loss(
    Vectors,
    formula=r"\max(0, m + d(a, p) - d(a, n))",
    inputs=("anchor", "positive", "negative"),
    use_when="embedding, ranking: an anchor is to be nearer to its like than to another",
    naive=_triplet_naive,
    terms=_triplet_terms,
    ulp=(4, _triplet_ulp, 4),
    torch=Elsewhere("triplet_margin_loss", {"squared": None}),
)
def triplet_margin_loss(
    run: Vectors,
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    margin: NonNegative = 1.0,
    p: Annotated[float, Interval(1)] = 2.0,
    eps: NonNegative = 1e-6,
    swap: Flag = False,
    squared: Flag = False,
    **common: Unpack[VectorsCommon],
) -> Gradients[tuple[Array, Array, Array]]:
    r"""How much the distance to a positive row is not a margin less than to a negative one.

    .. math:: \max(0, m + d(a, p) - d(a, n)), \quad d(x, y) = \|x - y + \epsilon\|_p

    Parameters
    ----------
    anchor, positive, negative : array_like
        Of one shape, the features along the last axis; floats, or integers, which count
        as float64.
    margin : float, optional
        The difference m of the distances from which a row costs nothing; not negative.
    p : float, optional
        The norm, at least 1.
    eps : float, optional
        Added to every difference of two features; not negative.
    swap : bool, optional
        Takes the distance of positive and negative where it is less than that of anchor and
        negative.
    squared : bool, optional
        Squares the distances.
    **common

    Returns
    -------
    (gradient of anchor, of positive, of negative)
        Where gradients are asked for, each of its input's shape and floating dtype.

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    Gradients are 0 where the loss is, and those of a distance where it is 0. Computed in float64.

    References
    ----------
    F. Schroff, D. Kalenichenko and J. Philbin, *FaceNet: A Unified Embedding for Face Recognition
    and Clustering*, CVPR 2015 (squared distances). V. Balntas, E. Riba, D. Ponsa and
    K. Mikolajczyk, *Learning local feature descriptors with triplets and shallow convolutional
    neural networks*, BMVC 2016 (the swap).

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.triplet_margin_loss([[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 2.0]], eps=0)
    4.0
    """
    inputs = {"anchor": anchor, "positive": positive, "negative": negative}
    return run(_triplet, inputs, "ddd", (margin, p, eps, swap, squared), **common)


EPS = 1e-6  # PyTorch adds its square to the squares of the norms


def _cosines(x: Array, y: Array, eps: float) -> tuple[Array, Array, list[Array]]:
    """Normalise the rows; their cosine, 1 less it, and the inverses of the norms, 0 for 0."""
    inverses, rests = [], []
    for a in (x, y):
        size = norms(a)
        inverse = np.where(size == 0, 0, 1 / np.hypot(size, eps))
        a *= inverse[:, None]
        inverses.append(inverse)
        rests.append(np.where(size == 0, 1, (eps * inverse) ** 2))  # 1 less the new square
    e = x - y
    # The difference 1 - cosine would lose all of it where the rows are nearly parallel.
    distance = (dots(e, e) + rests[0] + rests[1]) / 2
    return np.where(distance < 0.5, 1 - distance, dots(x, y)), distance, inverses


def _cosine_slopes(
    slope: Array, x: Array, y: Array, cosine: Array, inverses: list[Array]
) -> tuple[Array, ...]:
    """The gradients, from the normalised rows, for this slope of the cosine."""
    grads = []
    for a, b, inverse in zip((x, y), (y, x), inverses, strict=True):
        grad = b * (slope * inverse)[:, None]
        grad -= a * (slope * inverse * cosine)[:, None]
        grads.append(grad)
    return tuple(grads)


def _cosine_embedding(
    scale: Array | None, x1: Array, x2: Array, y: Array, margin: float
) -> tuple[Array, tuple[Array, ...]]:
    cosine, distance, inverses = _cosines(x1, x2, EPS)
    excess = np.maximum(cosine - margin, 0)
    loss = np.where(y == 1, distance, excess) + (y - y)  # nan for a nan target
    if scale is None:
        return loss, ()
    slope = scale * (np.where(y == 1, -1.0, excess > 0) + (y - y))
    return loss, _cosine_slopes(slope, x1, x2, cosine, inverses)


def _cosine_distance(scale: Array | None, x1: Array, x2: Array) -> tuple[Array, tuple[Array, ...]]:
    cosine, distance, inverses = _cosines(x1, x2, 0)
    if scale is None:
        return distance, ()
    return distance, _cosine_slopes(-scale, x1, x2, cosine, inverses)


def _naive_cosine(m: Any, x: Any, y: Any, eps: Any) -> Any:
    return m.sum(x * y) / m.sqrt((m.sum(x * x) + eps) * (m.sum(y * y) + eps))


def _cosine_terms(m: Any, x1: Any, x2: Any, eps: Any = EPS**2) -> Any:
    """The terms of the cosine, of 1 less it, and of the gradients, which the norms divide."""
    a, b = m.sqrt(m.sum(x1 * x1) + eps), m.sqrt(m.sum(x2 * x2) + eps)
    u, v = m.abs(x1) / a, m.abs(x2) / b
    apart = m.sqrt(m.maximum(2 * (1 - _naive_cosine(m, x1, x2, eps)), 2.0**-104))
    products = m.sum(u * v)
    slopes = (v + u * products) / a, (u + v * products) / b
    return products, apart, slopes


def _cosine_embedding_naive(m: Any, x1: Any, x2: Any, y: Any, margin: Any) -> Any:
    cosine = _naive_cosine(m, x1, x2, EPS**2)
    return m.where(y == 1, 1 - cosine, m.maximum(cosine - margin, 0))


def _cosine_embedding_terms(m: Any, x1: Any, x2: Any, y: Any, margin: Any) -> Any:
    products, apart, slopes = _cosine_terms(m, x1, x2)
    return apart if y == 1 else products + m.abs(margin), slopes


@first_order_loss(
    Vectors,
    target=SIGNS,
    formula=r"1 - \cos \text{ or } \max(0, \cos - m)",
    inputs=("x1", "x2"),
    use_when="embedding: pairs of rows, marked as alike or not, whose lengths do not matter",
    naive=_cosine_embedding_naive,
    terms=_cosine_embedding_terms,
    ulp=(4, 6, 4),
    torch=Elsewhere("cosine_embedding_loss"),
)
def cosine_embedding_loss(
    run: Vectors,
    x1: ArrayLike,
    x2: ArrayLike,
    target: ArrayLike,
    *,
    margin: Annotated[float, Interval(-1, 1)] = 0.0,
    **common: Unpack[VectorsCommon],
) -> Gradients[tuple[Array, Array]]:
    r"""One minus the cosine for similar rows, the cosine beyond a margin for the others.

    .. math:: 1 - \cos \text{ or } \max(0, \cos - m), \quad
        \cos = \frac{x_1 \cdot x_2}
            {\sqrt{(\|x_1\|^2 + 10^{-12}) (\|x_2\|^2 + 10^{-12})}}

    Parameters
    ----------
    x1, x2 : array_like
        Of one shape, the features along the last axis; floats, or integers, which count
        as float64.
    target : array_like
        One number per row: 1 for similar rows, -1 for others.
    margin : float, optional
        The cosine m up to which rows that are not similar cost nothing, from -1 to 1.
    **common

    Returns
    -------
    (gradient of x1, gradient of x2)
        Where gradients are asked for, each of its input's shape and floating dtype.

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than -1 and 1 (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    The gradient for a row of zeros is 0. Rows that are nearly parallel keep their precision.
    Computed in float64.

    References
    ----------
    PyTorch's ``cosine_embedding_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> x1, x2 = [[1.0, 0.0], [1.0, 0.0]], [[3.0, 4.0], [3.0, 4.0]]
    >>> fl.cosine_embedding_loss(x1, x2, [1, -1], margin=0.5, reduction="none").round(12)
    array([0.4, 0.1])
    """
    inputs = {"x1": x1, "x2": x2, "target": target}
    return run(_cosine_embedding, inputs, "dd.", (margin,), **common)


def _cosine_distance_terms(m: Any, x1: Any, x2: Any) -> Any:
    return _cosine_terms(m, x1, x2, 0)[1:]


@first_order_loss(
    Vectors,
    formula=r"1 - \frac{x_1 \cdot x_2}{\|x_1\| \|x_2\|}",
    inputs=("x1", "x2"),
    use_when="embedding, distillation: rows are to point the same way as their targets",
    naive=lambda m, x1, x2: 1 - _naive_cosine(m, x1, x2, 0),
    terms=_cosine_distance_terms,
    ulp=(4, 6, 4),
)
def cosine_distance_loss(
    run: Vectors,
    x1: ArrayLike,
    x2: ArrayLike,
    **common: Unpack[VectorsCommon],
) -> Gradients[tuple[Array, Array]]:
    r"""One minus the cosine of the angle between two rows.

    .. math:: 1 - \frac{x_1 \cdot x_2}{\|x_1\| \|x_2\|}

    Parameters
    ----------
    x1, x2 : array_like
        Of one shape, the features along the last axis; floats, or integers, which count
        as float64.
    **common

    Returns
    -------
    (gradient of x1, gradient of x2)
        Where gradients are asked for, each of its input's shape and floating dtype.

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    A row of zeros is at distance 1 from any, and its gradient is 0. Computed in float64, as half
    the squared distance of the normalised rows, which keeps the precision of those that are nearly
    parallel.

    References
    ----------
    SciPy's ``cosine`` distance; BYOL and SimSiam minimise it: J.-B. Grill et al., *Bootstrap Your
    Own Latent*, NeurIPS 2020, twice it; X. Chen and K. He, *Exploring Simple Siamese Representation
    Learning*, CVPR 2021, less 1.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.cosine_distance_loss([[1.0, 0.0], [1.0, 1e-9]], [[0.0, 2.0], [1.0, 0.0]],
    ...                         reduction="none")
    array([1.e+00, 5.e-19])
    """
    return run(_cosine_distance, {"x1": x1, "x2": x2}, "dd", **common)


@first_order_loss(
    Pairs,
    kernels.margin_ranking,
    target=SIGNS,
    formula=r"\max(0, m - y (x_1 - x_2))",
    inputs=("x1", "x2"),
    use_when="ranking: of two scores it is known which is to be higher",
    naive=lambda m, x1, x2, y, margin: m.maximum(0, margin - y * (x1 - x2)),
    terms=lambda m, x1, x2, y, margin: (m.maximum(m.abs(x1 - x2), margin), None, None),
    torch=Elsewhere("margin_ranking_loss"),
)
def margin_ranking_loss(
    run: Pairs,
    x1: ArrayLike,
    x2: ArrayLike,
    target: ArrayLike,
    *,
    margin: NonNegative = 0.0,
    **common: Unpack[Common],
) -> Gradients[tuple[Array, Array]]:
    r"""Hinge loss of the order of two scores.

    .. math:: \max(0, m - y (x_1 - x_2))

    Parameters
    ----------
    x1, x2 : array_like
        Scores of one shape; floats, or integers, which count as float64.
    target : array_like
        1 where `x1` is to be the higher, -1 where `x2`; of their shape.
    margin : float, optional
        How much higher; not negative.
    **common

    Returns
    -------
    (gradient of x1, gradient of x2)
        Where gradients are asked for.

    Raises
    ------
    ValueError, TypeError
        For shapes that differ, targets other than -1 and 1 (the first is named), dtypes that are
        not numbers, an `out` that does not fit.

    Notes
    -----
    PyTorch's ``margin_ranking_loss``, which takes any target and any margin. At the kink the
    gradient is 0.

    References
    ----------
    R. Herbrich, T. Graepel and K. Obermayer, *Large Margin Rank Boundaries for Ordinal
    Regression*, 2000.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.margin_ranking_loss([2.0, 2.0], [1.5, 3.0], [1, 1], margin=1.0, reduction="none")
    array([0.5, 2. ])
    """
    return run({"x1": x1, "x2": x2, "target": target}, (margin,), **common)
