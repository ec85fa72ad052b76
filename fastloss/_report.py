"""What `fastloss score` says of the samples: totals, exact quantiles, the worst, and pictures.

All from the records of the scores, read in blocks, so that a run that was killed and resumed says
the same, and no more memory is used the more samples there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastloss._files import needs
from fastloss.training import LossMeter

Array = NDArray[Any]
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
SHOWN = 20  # classes of a confusion picture
BINS = 50  # of losses


@dataclass(frozen=True)
class Block:
    """Samples [start, ...): records, labels or None, and weights, 0 of those left out."""

    start: int
    records: Array
    labels: Array | None
    weight: Array


Blocks = Callable[[], Iterator[Block]]


def summary(blocks: Blocks, k: int, likelihood: bool) -> tuple[dict[str, Any], int]:
    """The figures by their names, nan where there is none; how many losses are nan."""
    meter, count, odd = LossMeter(), 0, 0
    worst: list[tuple[float, int, Any, Any]] = []
    for block in blocks():
        losses, keep = block.records["loss"], block.weight != 0
        correct = block.records["correct"] if block.labels is not None else None
        meter.update_each(losses, block.weight, correct=correct)
        count += int(keep.sum())
        kept = np.flatnonzero(keep & (losses == losses))
        odd += int(keep.sum()) - len(kept)
        if k and len(kept) > k:  # equal ones in the order of their rows
            cut = np.partition(losses[kept], -k)[-k]
            above, equal = kept[losses[kept] > cut], kept[losses[kept] == cut]
            kept = np.concatenate([above, equal[: k - len(above)]])
        for i in kept.tolist() if k else ():
            label = None if block.labels is None else int(block.labels[i])
            guess = None if block.labels is None else int(block.records["argmax"][i])
            worst.append((float(losses[i]), block.start + i, label, guess))
        worst = sorted(worst, key=lambda each: (-each[0], each[1]))[:k]
    mean, squares = meter.mean, 0.0
    for block in blocks():
        keep = block.weight != 0
        off = block.weight[keep] * (block.records["loss"][keep].astype(np.float64) - mean)
        squares += float(off @ off)
    stderr = math.nan
    if count > 1:
        stderr = math.sqrt(squares * count / (count - 1)) / abs(meter.weight)
    of_labels = {} if not worst or worst[0][2] is None else {"target": 2, "argmax": 3}
    found = {
        "count": count,
        "mean": mean,
        "stderr": stderr,
        "perplexity": meter.perplexity if likelihood else math.nan,
        "accuracy": meter.accuracy,
        "quantiles": {f"{q:g}": x for q, x in zip(QUANTILES, quantiles(blocks), strict=True)},
        "worst": [
            {"row": each[1], "loss": each[0], **{n: each[i] for n, i in of_labels.items()}}
            for each in worst
        ],
    }
    return found, odd


def quantiles(blocks: Blocks) -> list[float]:
    """The losses of which a share q is no larger, exactly: by their bits, 16 at a time."""
    prefixes, ranks = [0] * len(QUANTILES), [0] * len(QUANTILES)
    level, width = 0, 64
    while 16 * level < width:
        found = {prefix: np.zeros(1 << 16, np.int64) for prefix in prefixes}
        for block in blocks():
            losses = block.records["loss"]
            bits = _ordered(losses[(block.weight != 0) & (losses == losses)])
            width = bits.itemsize * 8
            for prefix, count in found.items():
                inside = bits
                if level:
                    inside = bits[bits >> bits.dtype.type(width - 16 * level) == prefix]
                digit = inside >> bits.dtype.type(width - 16 * (level + 1))
                count += np.bincount(
                    (digit & bits.dtype.type(0xFFFF)).astype(np.int64), None, 1 << 16
                )
        if level == 0:
            n = int(found[0].sum())
            if n == 0:
                return [math.nan] * len(QUANTILES)
            ranks = [max(0, math.ceil(q * n) - 1) for q in QUANTILES]
        for i, prefix in enumerate(prefixes):
            upto = found[prefix].cumsum()
            digit_of = int(np.searchsorted(upto, ranks[i], "right"))
            ranks[i] -= int(upto[digit_of - 1]) if digit_of else 0
            prefixes[i] = prefix << 16 | digit_of
        level += 1
    return [_number(prefix, width) for prefix in prefixes]


def _ordered(losses: Array) -> Array:
    """The bits of floats as integers in the same order: those of negative numbers turned round."""
    bits = np.ascontiguousarray(losses).view(f"u{losses.itemsize}")
    sign = bits.dtype.type(1 << (losses.itemsize * 8 - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def _number(ordered: int, width: int) -> float:
    sign = 1 << (width - 1)
    bits = ordered ^ sign if ordered & sign else ~ordered & (2 * sign - 1)
    return float(np.array(bits, f"u{width // 8}").view(f"f{width // 8}"))


def draw(blocks: Blocks, found: dict[str, Any], classes: int, path: Path) -> None:
    """Draw how the losses are distributed; of labels also a confusion and a calibration picture."""
    matplotlib = needs("matplotlib", path)
    matplotlib.use("Agg")
    plt = needs("matplotlib.pyplot", path)

    of_labels = classes > 0
    figure, axes = plt.subplots(
        1, 3 if of_labels else 1, figsize=(15 if of_labels else 6, 4.6), layout="constrained"
    )
    left = axes[0] if of_labels else axes
    finite = [x for x in found["quantiles"].values() if math.isfinite(x)]
    edges = np.linspace(min(finite, default=0), max(finite, default=1), BINS + 1)
    height = np.zeros(BINS)
    for block in blocks():
        losses = block.records["loss"][block.weight != 0]
        height += np.histogram(losses[np.isfinite(losses)], edges)[0]
    left.stairs(height, edges, fill=True)
    left.set(xlabel="loss", ylabel="samples", yscale="log" if height.any() else "linear")
    left.set_title(f"{found['count']} samples, mean {found['mean']:.4g}")
    if of_labels:
        _confusion(blocks, classes, axes[1])
        _calibration(blocks, axes[2])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _pairs(blocks: Blocks) -> Iterator[tuple[Array, Array]]:
    """The labels and the guesses of what counts."""
    for block in blocks():
        assert block.labels is not None
        keep = (block.weight != 0) & (block.records["argmax"] >= 0)
        yield block.labels[keep].astype(np.int64), block.records["argmax"][keep]


def _confusion(blocks: Blocks, classes: int, axes: Any) -> None:
    """Of few classes all, of many those that are confused most."""
    shown = np.arange(classes)
    if classes > SHOWN:
        wrong = np.zeros(classes, np.int64)
        for labels, guesses in _pairs(blocks):
            wrong += np.bincount(labels[labels != guesses], minlength=classes)
        shown = np.sort(np.argsort(-wrong, kind="stable")[:SHOWN])
    place = np.full(classes, -1)
    place[shown] = np.arange(len(shown))
    counts = np.zeros((len(shown), len(shown)), np.int64)
    for labels, guesses in _pairs(blocks):
        rows, columns = place[labels], place[guesses]
        both = (rows >= 0) & (columns >= 0)
        np.add.at(counts, (rows[both], columns[both]), 1)
    axes.imshow(np.log1p(counts), cmap="Blues")
    axes.set_xticks(range(len(shown)), shown, rotation=90, fontsize=7)
    axes.set_yticks(range(len(shown)), shown, fontsize=7)
    axes.set(xlabel="highest class", ylabel="label")
    axes.set_title("Confusion" + (f" of {len(shown)} of {classes}" if classes > SHOWN else ""))


def _calibration(blocks: Blocks, axes: Any) -> None:
    """How often the highest class is right, over the probability it has."""
    bins = 15
    count, right, sure = np.zeros(bins), np.zeros(bins), np.zeros(bins)
    for block in blocks():
        keep = (block.weight != 0) & (block.records["argmax"] >= 0)
        p = np.exp(block.records["topk_logprob"][keep, 0].astype(np.float64))
        at = np.minimum((p * bins).astype(int), bins - 1)
        count += np.bincount(at, minlength=bins)
        right += np.bincount(at, block.records["correct"][keep], bins)
        sure += np.bincount(at, p, bins)
    some = count > 0
    axes.plot([0, 1], [0, 1], "k:", linewidth=1)
    axes.plot(sure[some] / count[some], right[some] / count[some], "o-")
    error = np.abs(right - sure).sum() / max(1.0, count.sum())
    axes.set(xlabel="probability of the highest class", ylabel="share that is right")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"Calibration, expected error {error:.3f}")
