"""`fastloss list`, `show` and `choose`: what the declarations of the losses say."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastloss as fl
from fastloss._files import FileError, needs

Array = NDArray[Any]
WIDTH, HEIGHT = 61, 15  # of a curve in characters


def tasks(loss: Any) -> list[str]:
    """The tasks that a loss is for."""
    words, _, _ = loss.use_when.partition(": ")
    return str(words).split(", ")


def all_tasks() -> dict[str, list[Any]]:
    """The losses for each task, both in the order in which they are declared."""
    found: dict[str, list[Any]] = {}
    for loss in fl.losses().values():
        for task in tasks(loss):
            found.setdefault(task, []).append(loss)
    return found


def list_losses(args: argparse.Namespace) -> int:
    """Print every loss with the first line of its documentation, by family."""
    module = ""
    for name, loss in fl.losses().items():
        if loss.__module__ != module:
            module = loss.__module__
            about = (import_module(module).__doc__ or "").splitlines()[0].rstrip(".")
            print(f"\n{about}")
        print(f"  {name:34} {loss.kind:12} {_about(loss)}")
    return 0


def _about(loss: Any) -> str:
    return inspect.cleandoc(loss.__wrapped__.__doc__).splitlines()[0]


def show(args: argparse.Namespace) -> int:
    """Print a loss's formula, domain, knobs, source and curve; or draw the curve."""
    try:
        loss = fl.losses()[args.loss]
    except KeyError:
        near = [name for name in fl.losses() if args.loss.lower() in name]
        hint = f"; there are {', '.join(near)}" if near else "; see `fastloss list`"
        print(f"fastloss show: {args.loss} is no loss{hint}", file=sys.stderr)
        return 2
    print(f"{loss.name}: {_about(loss)}\n")
    print(f"formula  {loss.formula}")
    print(f"target   {loss.domain}")
    print(f"kind     {loss.kind}, gradients of {', '.join(loss.inputs)}")
    for name, knob in loss.knobs.items():
        default = "" if knob.default is inspect.Parameter.empty else f" = {knob.default}"
        check = "" if knob.check is None else f", {knob.check}"
        print(f"knob     {name}{default}{check}")
    print(f"use when {loss.use_when}")
    print(textwrap.fill(f"source   {_source(loss)}", 100, subsequent_indent=" " * 9))
    curve = _curve(loss)
    if args.plot:
        if curve is None:
            print(f"fastloss show: {loss.name} has no curve of one number", file=sys.stderr)
            return 2
        try:
            _draw(loss, curve, args.plot)
        except (FileError, OSError) as error:
            print(f"fastloss show: {error}", file=sys.stderr)
            return 2
    elif curve is not None:
        print()
        print(_characters(*curve[:2]))
        print(f"the loss over {curve[2]}")
    return 0


def _source(loss: Any) -> str:
    """What its documentation refers to, and where it is declared."""
    notes = re.search(r"^Notes\n-+\n(.*?)(?:^\w+\n-+\n|\Z)", _doc(loss), re.M | re.S)
    where = f"{loss.__module__}"
    return f"{where}; {' '.join(notes[1].split())}" if notes else where


def _doc(loss: Any) -> str:
    return inspect.cleandoc(loss.__wrapped__.__doc__)


def _curve(loss: Any) -> tuple[Array, Array, str] | None:
    """Predictions, the losses there, and what they are; None where it is not of one number."""
    if any(knob.default is inspect.Parameter.empty for knob in loss.knobs.values()):
        return None
    domain, pred = loss.domain, loss.pred
    if loss.kind == "elementwise":
        unit = pred.low >= 0 and pred.high <= 1
        x = np.linspace(0.002, 0.998, 400) if unit else np.linspace(-4, 4, 401)
        x = x[pred.contains(x)]
        target = 1.0 if domain.contains(1.0) else 0.0
        if domain.label == "real" and not unit:
            target = 0.0
        if domain.low > -np.inf and domain.low <= -1 and domain.high == 1:
            target = 1.0
        y = loss(x, np.full_like(x, target), reduction="none")
        return x, y, f"the prediction, target {target:g}"
    if loss.kind == "rows" and domain.labels and not domain.lists:
        if pred.low >= 0 and pred.high <= 1:
            x = np.linspace(0.002, 0.998, 400)
            rows, what = np.stack([x, 1 - x], 1), "the label's probability, of two classes"
        else:
            x = np.linspace(-4, 4, 401)
            rows, what = np.stack([x, 0 * x], 1), "the label's score, the other class's being 0"
        return x, loss(rows, np.zeros(len(x), np.int64), reduction="none"), what
    return None


def _characters(x: Array, y: Array) -> str:
    """The curve in characters."""
    finite = np.isfinite(y)
    low, high = float(y[finite].min()), float(y[finite].max())
    at = np.linspace(0, len(x) - 1, WIDTH).round().astype(int)
    scale = (HEIGHT - 1) / (high - low) if high > low else 0.0
    lines = [[" "] * WIDTH for _ in range(HEIGHT)]
    for column, i in enumerate(at):
        if finite[i]:
            lines[HEIGHT - 1 - round((float(y[i]) - low) * scale)][column] = "*"
    ends = {0: f"{high:9.3g}", HEIGHT - 1: f"{low:9.3g}"}
    rows = [f"{ends.get(i, ''):>9} |{''.join(line).rstrip()}" for i, line in enumerate(lines)]
    axis = f"{x[0]:<{WIDTH // 2}.3g}{x[-1]:>{WIDTH - WIDTH // 2}.3g}"
    return "\n".join([*rows, f"{'':9} +{'-' * WIDTH}", f"{'':11}{axis}"])


def _draw(loss: Any, curve: tuple[Array, Array, str], path: Path) -> None:
    matplotlib = needs("matplotlib", path)
    matplotlib.use("Agg")
    plt = needs("matplotlib.pyplot", path)
    x, y, what = curve
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(x, y, label="loss")
    axes.plot(x, np.gradient(y, x), "--", label="slope")
    axes.set(xlabel=what, title=loss.name)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def choose(args: argparse.Namespace) -> int:
    """Print the losses that are for a task, each with when it is the one."""
    known = all_tasks()
    words = args.task.lower().replace("_", "-")
    found = next(
        (
            losses
            for task, losses in known.items()
            if task.replace(" ", "-") == words.replace(" ", "-")
        ),
        None,
    )
    if found is None:
        found = [loss for loss in fl.losses().values() if words in loss.use_when.lower()]
    if not found:
        print(
            f"fastloss choose: no loss is for {args.task}; tasks: {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    for loss in found:
        print(f"{loss.name:34} {loss.use_when.partition(': ')[2]}")
    return 0
