"""Losses of a batch of embeddings, each told from all others by its cosines with them.

The cosines of all pairs make a square matrix, which is never held: it is made a tile at a time by
BLAS, twice, for the logarithms of the rows' sums of exponentials and then for the gradients. The
matrix is symmetric, so that only tiles on and above the diagonal are made; each serves its rows and
its columns. Rows are divided by the root of the temperature beforehand, so that their products are
the logits.
"""

import math
from collections.abc import Iterator
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._general import Array, Set, arithmetic, derivative
from fastloss._loss import LABELS, Gradients, Temperature, first_order_loss

TILE = 1024  # rows of a tile: two of them in float32 take 8 MiB


class Written(TypedDict, total=False):
    """The keyword arguments of these losses; their threads are those of BLAS."""

    out: Any


def _blocks(n: int) -> Iterator[slice]:
    """The rows of one tile after the other."""
    for i in range(0, n, TILE):
        yield slice(i, min(i + TILE, n))


class _Cosines:
    """The logits of all pairs of some rows, a tile at a time.

    `apart` are pairs that are left out, besides every row with itself: a row's column, for each.
    """

    def __init__(self, inputs: dict[str, Array], temperature: float, apart: Array | None) -> None:
        self.inputs = list(inputs.values())
        n = sum(len(z) for z in self.inputs)
        self.dtype = np.result_type(*(arithmetic(z.dtype) for z in self.inputs))
        self.apart = [np.arange(n), *([] if apart is None else [apart])]
        self.rows = np.empty((n, self.inputs[0].shape[1]), self.dtype)
        self.norms = np.empty(n)  # of the inputs, times the root of the temperature
        root = math.sqrt(temperature)
        for rows, z in self._pieces():
            row = z.astype(np.float64)
            top = np.abs(row).max(1, initial=0)
            divisor = np.where(top == 0, 1, top)
            row /= divisor[:, None]
            norm = np.sqrt(np.einsum("ij,ij->i", row, row))
            self.norms[rows] = divisor * norm * root
            row /= np.where(norm == 0, 1, norm * root)[:, None]
            self.rows[rows] = row
        # The largest logit is 1 / temperature: its exponential needs no shift up to here.
        self.plain = 1 / temperature <= (40 if self.dtype == np.float32 else 350)
        self.ones = np.ones(TILE, self.dtype)
        self.tiles = np.empty((2, min(n, TILE) ** 2), self.dtype)

    def _pieces(self) -> Iterator[tuple[slice, Array]]:
        """The inputs by blocks, and where they are among all rows."""
        at = 0
        for z in self.inputs:
            for rows in _blocks(len(z)):
                yield slice(at + rows.start, at + rows.stop), z[rows]
            at += len(z)

    def _tiles(self) -> Iterator[tuple[slice, slice, Array, Array]]:
        """Rows, columns, their logits, and another array to work in."""
        for a in _blocks(len(self.rows)):
            for b in _blocks(len(self.rows)):
                if b.start >= a.start:
                    shape = a.stop - a.start, b.stop - b.start
                    logits, other = (t[: math.prod(shape)].reshape(shape) for t in self.tiles)
                    np.matmul(self.rows[a], self.rows[b].T, out=logits)
                    yield a, b, logits, other

    def _leave_out(self, a: slice, b: slice, tile: Array, value: float) -> None:
        for column in self.apart:
            columns = column[a] - b.start
            row = np.flatnonzero((columns >= 0) & (columns < tile.shape[1]))
            tile[row, columns[row]] = value

    def _largest(self) -> NDArray[np.float64]:
        """The largest logit of each row."""
        top = np.full(len(self.rows), -np.inf)
        for a, b, logits, _ in self._tiles():
            self._leave_out(a, b, logits, -np.inf)
            np.maximum(top[a], logits.max(1), out=top[a])
            np.maximum(top[b], logits.max(0), out=top[b])
        top[top == -np.inf] = 0
        return top

    def log_sums(self) -> NDArray[np.float64]:
        """The logarithm of each row's sum of exponentials; -inf where no other row is."""
        sums = np.zeros(len(self.rows))
        top = None if self.plain else self._largest()
        for a, b, logits, other in self._tiles():
            shifted = logits
            if top is not None:
                shifted = np.subtract(logits, top[a][:, None].astype(self.dtype), out=other)
            np.exp(shifted, out=shifted)
            self._leave_out(a, b, shifted, 0)
            sums[a] += shifted @ self.ones[: b.stop - b.start]
            if a != b:
                if top is not None:
                    np.subtract(logits, top[b].astype(self.dtype), out=shifted)
                    np.exp(shifted, out=shifted)
                    self._leave_out(a, b, shifted, 0)
                sums[b] += self.ones[: a.stop - a.start] @ shifted
        logs = np.log(sums)
        return logs if top is None else logs + top

    def gradients(self, factors: Array, log_sums: Array) -> Array:
        """The gradients by the rows of the sum of `factors` times `log_sums`."""
        found = np.zeros_like(self.rows)
        if self.plain:
            per_row = (factors * np.exp(-log_sums)).astype(self.dtype)
        factors, log_sums = factors.astype(self.dtype), log_sums.astype(self.dtype)
        for a, b, logits, other in self._tiles():
            if self.plain:
                np.exp(logits, out=logits)
                np.add(per_row[a][:, None], per_row[b], out=other)
                other *= logits
            else:
                np.subtract(logits, log_sums[a][:, None], out=other)
                np.exp(other, out=other)
                other *= factors[a][:, None]
                logits -= log_sums[b]
                np.exp(logits, out=logits)
                logits *= factors[b]
                other += logits
            self._leave_out(a, b, other, 0)
            found[a] += other @ self.rows[b]
            if a != b:
                found[b] += other.T @ self.rows[a]
        return found

    def back(self, of_rows: Array, outs: list[Array | None]) -> list[Array]:
        """The gradients by the inputs, from those by the rows: 0 where the norm is 0."""
        results = [
            np.empty(z.shape, derivative(z.dtype)) if out is None else out
            for z, out in zip(self.inputs, outs, strict=True)
        ]
        at = 0
        for z, result in zip(self.inputs, results, strict=True):
            for rows in _blocks(len(z)):
                here = slice(at + rows.start, at + rows.stop)
                row, g = self.rows[here].astype(np.float64), of_rows[here].astype(np.float64)
                length = np.einsum("ij,ij->i", row, row)
                share = np.einsum("ij,ij->i", row, g) / np.where(length == 0, 1, length)
                g -= share[:, None] * row
                norm = self.norms[here]
                g /= np.where(norm == 0, 1, norm)[:, None]
                g[norm == 0] = 0
                result[rows] = g
            at += len(z)
        return results


def _unit(m: Any, z: Any) -> Any:
    norm = m.sqrt((z * z).sum(-1, keepdims=True))
    return z / m.where(norm == 0, 1, norm)


def _logits(m: Any, z: Any, temperature: Any) -> Any:
    u = _unit(m, z)
    return (u[:, None] * u).sum(-1) / temperature


def _log_sum(m: Any, row: Any) -> Any:
    return row.max() + m.log(m.exp(row - row.max()).sum())


def _nt_xent(m: Any, z1: Any, z2: Any, temperature: Any) -> Any:
    logits, n = _logits(m, m.concatenate([z1, z2]), temperature), len(z1)
    losses = [
        _log_sum(m, m.delete(row, i)) - row[(i + n) % (2 * n)] for i, row in enumerate(logits)
    ]
    return sum(losses) / len(losses)


def _supervised(m: Any, z: Any, labels: Any, temperature: Any) -> Any:
    losses = []
    for i, row in enumerate(_logits(m, z, temperature)):
        alike = m.delete(row, i)[m.delete(labels, i) == labels[i]]
        if len(alike):
            losses.append(_log_sum(m, m.delete(row, i)) - alike.sum() / len(alike))
    return sum(losses) / len(losses) if losses else m.nan


def _matrix(run: Set, name: str, z: Any) -> Array:
    a = run.array(name, z)
    if a.ndim != 2:
        raise run.fail(ValueError, name, f"expected shape (samples, features), got {a.shape}")
    return a


@first_order_loss(
    Set,
    formula=r"-\frac{1}{2N} \sum_i "
    r"\log \frac{e^{s_{i p(i)} / \tau}}{\sum_{j \ne i} e^{s_{ij} / \tau}}",
    use_when="embedding, contrastive: two views of each sample and no labels (SimCLR)",
    naive=_nt_xent,
    inputs=("z1", "z2"),
)
def nt_xent_loss(
    run: Set,
    z1: ArrayLike,
    z2: ArrayLike,
    *,
    temperature: Temperature = 0.5,
    **common: Unpack[Written],
) -> Gradients[tuple[Array, Array]]:
    r"""Cross-entropy that tells the other view of each sample from all other samples of the batch.

    .. math:: -\frac{1}{2N} \sum_i
              \log \frac{e^{s_{i p(i)} / \tau}}{\sum_{j \ne i} e^{s_{ij} / \tau}}

    The sums are over the 2N rows of both inputs, s is their cosine, p(i) the same sample's row in
    the other input.

    Parameters
    ----------
    z1, z2 : array_like
        Two views of N samples, of shape (N, D), which need no normalisation; floats, or
        integers, which count as float64.
    temperature : float, optional
        The :math:`\tau` that cosines are divided by, from 1e-12 to 1e12.
    out : tuple of ndarray, optional
        The gradients' arrays, for `z1` and `z2`, or None; or a tuple of one entry per result. Each
        may be the input itself.

    Raises
    ------
    ValueError, TypeError
        For shapes that differ or are not (N, D), a `temperature` out of range, dtypes that
        are not numbers, an `out` that does not fit.

    Notes
    -----
    T. Chen, S. Kornblith, M. Norouzi and G. Hinton, A simple framework for contrastive learning of
    visual representations (SimCLR), 2020. The 2N x 2N cosines are never held: in float32 it takes
    8 MiB beyond two copies of the inputs. The threads are those of NumPy's BLAS. The error of
    a loss l is within 4 eps (1 + l + sqrt(D) / temperature), and near 0 relative to l, as the
    positives are left out of the sums. The gradient of a row of zeros is 0. A sample alone has loss
    0; no sample, nan.

    Examples
    --------
    >>> import numpy as np
    >>> import fastloss as fl
    >>> z1, z2 = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 0.0], [0.0, 1.0]])
    >>> round(fl.nt_xent_loss(z1, z2), 6)
    0.239545
    >>> of_z1, of_z2 = fl.nt_xent_loss.grad(z1, z2)
    >>> of_z1.round(6)
    array([[0.      , 0.213014],
           [0.106507, 0.      ]])
    """
    run.common(common)
    tau = run.check_knob("temperature", temperature)
    inputs = {"z1": _matrix(run, "z1", z1), "z2": _matrix(run, "z2", z2)}
    first, second = inputs.values()
    if first.shape != second.shape:
        raise run.fail(ValueError, "z2", f"expected z1's shape {first.shape}, got {second.shape}")
    outs = run.outs(common, inputs, {}, several=True)
    n = len(first)
    other = np.roll(np.arange(2 * n), n)
    with np.errstate(all="ignore"):
        cosines = _Cosines(inputs, tau, other)
        rows = cosines.rows
        # The positive is left out of the sums, so that a loss near 0 keeps its digits.
        excess = cosines.log_sums()
        log_sums = excess.copy()
        for here in _blocks(n):
            product = np.einsum("ij,ij->i", rows[:n][here], rows[n:][here], dtype=np.float64)
            excess[:n][here] -= product
            excess[n:][here] -= product
        losses = np.logaddexp(0, excess)
        value = float(losses.mean()) if n else math.nan
        if "g" not in run.results:
            return run(value, None)
        factors = np.exp(excess - losses) / max(1, 2 * n)
        grad = cosines.gradients(factors, log_sums)
        both = (factors[:n] + factors[n:]).astype(cosines.dtype)[:, None]
        grad[:n] -= both * rows[n:]
        grad[n:] -= both * rows[:n]
        return run(value, tuple(cosines.back(grad, outs)))


@first_order_loss(
    Set,
    target=LABELS,
    formula=r"\frac{1}{|I|} \sum_{i \in I} \frac{-1}{|P(i)|} \sum_{p \in P(i)} "
    r"\log \frac{e^{s_{ip} / \tau}}{\sum_{j \ne i} e^{s_{ij} / \tau}}",
    use_when="embedding, contrastive: samples of a label are to lie together",
    naive=_supervised,
    inputs=("z",),
)
def supervised_contrastive_loss(
    run: Set,
    z: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: Temperature = 0.1,
    **common: Unpack[Written],
) -> Gradients[Array]:
    r"""Cross-entropy that tells samples of the same label from all others of the batch.

    .. math:: \frac{1}{|I|} \sum_{i \in I} \frac{-1}{|P(i)|} \sum_{p \in P(i)}
              \log \frac{e^{s_{ip} / \tau}}{\sum_{j \ne i} e^{s_{ij} / \tau}}

    P(i) are the other samples with i's label, I the samples that have any, s is the cosine.

    Parameters
    ----------
    z : array_like
        Embeddings of shape (N, D), which need no normalisation; floats, or integers,
        which count as float64.
    labels : array_like of int
        Of shape (N,); any integers.
    temperature : float, optional
        The :math:`\tau` that cosines are divided by, from 1e-12 to 1e12.
    out : ndarray or tuple, optional
        The gradient's array, or a tuple of one entry per result. May be `z` itself.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels that are not integers, a `temperature` out of
        range, dtypes that are not numbers, an `out` that does not fit.

    Notes
    -----
    P. Khosla and others, Supervised contrastive learning, 2020, equation 2 (their L_out), whose
    temperature is 0.1; their code multiplies it by the temperature over 0.07. A sample that is the
    only one of its label contributes nothing and is not counted, but the others are told from it;
    where all are, the loss is nan and the gradient 0. For several views of a sample, repeat its
    label. Memory, threads, rows of zeros and the error, but for losses near 0, are as in
    `nt_xent_loss`, which is this loss with one label for the two views of each sample.

    Examples
    --------
    >>> import numpy as np
    >>> import fastloss as fl
    >>> z = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 1.0]])
    >>> round(fl.supervised_contrastive_loss(z, [0, 0, 1, 1, 2], temperature=0.5), 6)
    0.602861
    """
    run.common(common)
    tau = run.check_knob("temperature", temperature)
    given = _matrix(run, "z", z)
    y = run.array("labels", labels)
    n = len(given)
    if y.shape != (n,):
        raise run.fail(ValueError, "labels", f"expected shape ({n},), got {y.shape}")
    if y.dtype.kind not in "iu" and n:
        raise run.fail(
            TypeError,
            "labels",
            f"expected integers, got {y.dtype}; convert them with labels.astype(int)",
        )
    outs = run.outs(common, {"z": given}, {"labels": y}, several=False)
    with np.errstate(all="ignore"):
        cosines = _Cosines({"z": given}, tau, None)
        rows = cosines.rows
        _, classes, sizes = np.unique(y, return_inverse=True, return_counts=True)
        alike = sizes[classes] - 1
        counted = alike > 0
        count = int(counted.sum())
        factors = counted / max(1, count)
        log_sums = cosines.log_sums()
        # Sums over positives are products with the sum of the class's rows.
        totals = np.zeros((len(sizes), rows.shape[1]))
        if n:
            order, starts = np.argsort(classes, kind="stable"), np.cumsum(sizes) - sizes
            np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64, out=totals)
        wants_gradient = "g" in run.results
        grad = np.zeros_like(rows)
        if wants_gradient and count:
            grad = cosines.gradients(factors, log_sums)
        total = 0.0
        for here in _blocks(n):
            row = rows[here].astype(np.float64)
            others = totals[classes[here]] - row
            others /= np.maximum(alike[here], 1)[:, None]
            losses = log_sums[here] - np.einsum("ij,ij->i", row, others)
            total += float(losses[counted[here]].sum())
            others *= 2 * factors[here][:, None]
            grad[here] -= others
        value = total / count if count else math.nan
        if not wants_gradient:
            return run(value, None)
        (result,) = cosines.back(grad, outs)
        if not count:
            result[...] = 0
        return run(value, result)
