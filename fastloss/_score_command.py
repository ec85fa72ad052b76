"""`fastloss score`: the loss of each sample in a file, and what stands out among them.

Rows are read, scored and written a chunk at a time, in order, into a file beside the output, which
gets its name when it is complete: a run that was killed goes on after its last whole chunk.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import math
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastloss as fl
from fastloss._files import EXTRA, FileError, Records, Source, needs, to_parquet
from fastloss._general import arithmetic
from fastloss._report import Block, draw, summary
from fastloss.scoring import DTYPES, FIELDS, TOPK

Array = NDArray[Any]


@dataclass(frozen=True)
class Work:
    """What is scored and how: all that the records depend on."""

    logits: str
    targets: str
    weight: str | None
    loss: str
    knobs: tuple[tuple[str, Any], ...]
    fields: tuple[str, ...]
    topk: int
    plot: bool
    ignore_index: int | None


class Opened:
    """The files of some work, checked against each other, and the form of its records."""

    def __init__(self, work: Work, stack: contextlib.ExitStack) -> None:
        self.work = work
        self.logits = Source(work.logits, ("logits", "pred", "predictions"), stack)
        self.targets = Source(work.targets, ("targets", "target", "labels", "label"), stack)
        self.weight = None
        if work.weight:
            self.weight = Source(work.weight, ("weight", "weights"), stack)
        self.loss = _loss(work)
        shape, of_target = self.logits.shape, self.targets.shape
        self.labels = self.targets.dtype.kind in "iu" and of_target == shape[:-1] != ()
        self.classes = shape[-1] if self.labels else 0
        self.topk = max(work.topk, int(work.plot and self.labels))  # a picture has the highest's
        for name, source in (("targets", self.targets), ("weight", self.weight)):
            if source is not None and len(source) != len(self.logits):
                raise FileError(
                    f"{source.spec}: has {len(source)} {name} for the {len(self.logits)} rows of "
                    f"{self.logits.spec}"
                )
        if not self.labels and of_target != shape:
            raise FileError(
                f"{self.targets.spec}: expected integer labels of shape {shape[:-1]}, or an array "
                f"of {self.logits.spec}'s shape {shape}, got {self.targets.dtype} of {of_target}"
            )
        if self.labels and self.loss.kind != "rows":
            raise FileError(
                f"{work.loss}: is a loss of elements, and {self.targets.spec} has a label for "
                f"each row of {self.logits.spec}"
            )
        for asked, what in ((work.fields, "--fields"), (work.topk, "--topk")):
            if asked and not self.labels:
                raise FileError(f"{what}: needs labels, got {self.targets.spec} of {of_target}")
        samples = of_target if self.loss.kind == "elementwise" else shape[:-1]
        self.each = math.prod(samples[1:])  # records of a row
        self.count = math.prod(samples)
        if self.weight is not None and self.weight.shape != samples[: len(self.weight.shape)]:
            raise FileError(
                f"{self.weight.spec}: expected the leading axes of {samples}, got "
                f"{self.weight.shape}"
            )
        number = arithmetic(self.logits.dtype)
        columns: list[Any] = [("loss", number)]
        if self.labels:
            names = dict.fromkeys(("argmax", "correct", *work.fields))
            columns += [(name, np.dtype(DTYPES.get(name, number))) for name in names]
            if self.topk:
                columns += [(n, np.dtype(DTYPES.get(n, number)), (self.topk,)) for n in TOPK]
        self.dtype = np.dtype(columns)

    def score(self, start: int, stop: int) -> Array:
        """The records of the rows [start, stop)."""
        logits, target = self.logits.rows(start, stop), self.targets.rows(start, stop)
        weight, work = self.weights(start, stop), self.work
        if self.labels:
            self.check_labels(target, weight, start)
        names = [name for name in self.dtype.names or () if name not in TOPK and name != "loss"]
        try:
            found = fl.score(
                logits,
                target,
                fields=names,
                topk=self.topk,
                loss=self.loss,
                ignore_index=work.ignore_index,
                mask=None if weight is None else weight != 0,
            )
        except (TypeError, ValueError) as error:
            raise FileError(f"rows {start} to {stop - 1}: {error}") from error
        records = np.empty((stop - start) * self.each, self.dtype)
        for name, a in found.items():
            records[name] = a.reshape(records[name].shape)
        return records

    def check_labels(self, target: Array, weight: Array | None, start: int) -> None:
        """Raise for the first label out of range, by its row in the file."""
        bad = (target < 0) | (target >= self.classes)
        if self.work.ignore_index is not None:
            bad &= target != self.work.ignore_index
        if bad.any() and weight is not None:
            bad &= np.broadcast_to(
                weight.reshape(weight.shape + (1,) * (bad.ndim - weight.ndim)) != 0, bad.shape
            )
        if bad.any():
            first = np.unravel_index(int(bad.argmax()), bad.shape)
            where = ", ".join(str(int(k)) for k in (start + first[0], *first[1:]))
            raise FileError(
                f"{self.targets.spec}: [{where}] is {target[first]}, expected 0 <= label < "
                f"{self.classes} (to skip such rows: --ignore-index {target[first]})"
            )

    def weights(self, start: int, stop: int) -> Array | None:
        """Those of a range of rows, if there are any."""
        return None if self.weight is None else self.weight.rows(start, stop)

    def blocks(self, records: Records) -> Iterator[Block]:
        """The records again, with labels and weights."""
        for start, block in records:
            # From the first row that has one of these records to the last.
            first, last = start // self.each, -(-(start + len(block)) // self.each)
            part = slice(start - first * self.each, start - first * self.each + len(block))
            labels = None
            target = self.targets.rows(first, last) if self.labels else None
            if target is not None:
                labels = target.reshape(-1)[part]
            weight = self.weights(first, last)
            if weight is None:
                of_each = np.ones(len(block))
            else:
                each = np.repeat(
                    weight.reshape(-1).astype(np.float64), (last - first) * self.each // weight.size
                )
                of_each = each[part]
            if labels is not None and self.work.ignore_index is not None:
                of_each = np.where(labels == self.work.ignore_index, 0.0, of_each)
            yield Block(start, block, labels, of_each)


def _loss(work: Work) -> Any:
    losses = {n: loss for n, loss in fl.losses().items() if loss.kind in ("elementwise", "rows")}
    if work.loss not in losses:
        raise FileError(f"--loss: {work.loss} is none of {', '.join(losses)}")
    try:
        return losses[work.loss].bind(**dict(work.knobs))
    except (TypeError, ValueError) as error:
        raise FileError(f"--set: {error}") from error


def _knob(text: str) -> tuple[str, Any]:
    """NAME=VALUE, a Python literal or a word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _fields(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in FIELDS:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(FIELDS)}")
    return tuple(name for name in names if name != "loss")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add = parser.add_argument
    add("logits", metavar="LOGITS", help="or predictions: a row for each sample, classes last")
    add("targets", metavar="TARGETS", help="a label for each row, or an array like LOGITS")
    add(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="a record for each sample, .npy or .parquet",
    )
    add(
        "--loss",
        default=fl.cross_entropy.name,
        metavar="NAME",
        help="see `fastloss list` (%(default)s)",
    )
    add("--set", dest="knobs", action="append", type=_knob, default=[], metavar="KNOB=VALUE")
    add("--fields", type=_fields, default=(), metavar="A,B", help=f"more of {', '.join(FIELDS)}")
    add("--topk", type=_positive, default=0, metavar="K", help="the K highest classes too")
    add("--weight", metavar="W", help="a file of weights, one for each row; 0 leaves it out")
    add("--ignore-index", type=int, metavar="LABEL", help="the label of rows to leave out")
    add("--threads", type=_positive, metavar="N", help="those of the machine")
    add("--chunk", type=_positive, default=128, metavar="MB", help="read at a time (%(default)s)")
    add("--worst", type=_positive, default=10, metavar="K", help="how many to name (%(default)s)")
    add("--plot", type=Path, metavar="PNG", help="draw the losses; confusion and calibration")
    add("--format", choices=("text", "json"), default="text", help="of the summary")
    add("--dask-scheduler", metavar="ADDRESS", help="of a cluster that does the work")
    add("--resume", action="store_true", help="go on with a run that was killed")


def run(args: argparse.Namespace) -> int:
    """Do the command; return the exit status."""
    try:
        _run(args)
    except FileError as error:
        return _fail(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        name = error.filename or args.output or "the records"
        on = "; --resume goes on" if args.output and _beside(args.output)[0].exists() else ""
        return _fail(f"{name}: {error.strerror or error}{on}")
    except KeyboardInterrupt:
        _fail("interrupted" + ("; --resume goes on" if args.output else ""))
        return 130
    return 0


def _fail(message: str) -> int:
    print(f"fastloss score: {message}", file=sys.stderr)
    return 2


def _run(args: argparse.Namespace) -> None:
    out: Path | None = args.output
    if out is not None and out.suffix not in (".npy", ".parquet"):
        raise FileError(f"{out}: expected .npy or .parquet")
    for path, package in ((out, "pyarrow"), (args.plot, "matplotlib")):
        if path is not None and path.suffix != ".npy":  # before hours of work
            needs(package, path)
    if args.resume and out is None:
        raise FileError("--resume: needs an output, by -o")
    work = Work(
        args.logits,
        args.targets,
        args.weight,
        args.loss,
        tuple(args.knobs),
        args.fields,
        args.topk,
        args.plot is not None,
        args.ignore_index,
    )
    with contextlib.ExitStack() as stack:
        opened = Opened(work, stack)
        rows = _rows(opened, args.chunk << 20)
        if args.threads:
            stack.enter_context(fl.threads(args.threads))
        file, done = _partial(stack, opened, out, rows, args.resume)
        starts = range(done // max(1, opened.each), len(opened.logits), rows)
        chunks = ((i, min(i + rows, len(opened.logits))) for i in starts)
        scored: Iterable[tuple[int, Array]] = ((b - a, opened.score(a, b)) for a, b in chunks)
        if args.dask_scheduler:
            scored = _on_cluster(args.dask_scheduler, work, chunks, stack)
        with _progress(opened, starts.start) as advance:
            try:
                for n, records in scored:
                    file.append(records)
                    advance(n * opened.logits.row_bytes)
            except FileError:
                _discard(out)
                raise

        def blocks() -> Iterator[Block]:
            return opened.blocks(file)

        found, odd = summary(
            blocks, args.worst, opened.labels and work.loss == fl.cross_entropy.name
        )
        if out is not None:
            _finish(file, out)
        if args.plot:
            draw(blocks, found, opened.classes, args.plot)
    if odd:
        print(f"fastloss score: {odd} samples have no number as loss: nan", file=sys.stderr)
    _print(found, args.format)


def _rows(opened: Opened, size: int) -> int:
    """How many rows at a time take so many bytes: what is read, and results and records of it."""
    read = [opened.logits, opened.targets, *([opened.weight] if opened.weight else [])]
    row = sum(source.row_bytes for source in read) + 2 * opened.each * opened.dtype.itemsize
    return max(1, size // max(1, row))


def _on_cluster(
    address: str, work: Work, chunks: Iterable[tuple[int, int]], stack: contextlib.ExitStack
) -> Iterator[tuple[int, Array]]:
    """The records of the chunks in their order, made by the workers, which see the same files.

    A few more are under way than there are threads; what a lost worker had is done again.
    """
    distributed = needs("distributed", "--dask-scheduler", "dask")
    try:
        client = stack.enter_context(distributed.Client(address, timeout="10s"))
    except (OSError, ValueError) as error:
        raise FileError(f"--dask-scheduler: {address}: {error}") from error
    threads = max(1, sum(client.nthreads().values()))
    names = ("logits", "targets", "weight")
    paths = {n: os.path.abspath(p) for n in names if (p := getattr(work, n)) is not None}
    work = replace(work, **paths)
    waiting: deque[tuple[int, Any]] = deque()
    for start, stop in chunks:
        task = client.submit(_score_rows, work, start, stop, pure=False, retries=3)
        waiting.append((stop - start, task))
        if len(waiting) > 2 * threads:
            n, task = waiting.popleft()
            yield n, task.result()
    for n, task in waiting:
        yield n, task.result()


def _score_rows(work: Work, start: int, stop: int) -> Array:
    """The records of a chunk, on a worker, whose own threads are those of the cluster."""
    with contextlib.ExitStack() as stack, fl.threads(1):
        return Opened(work, stack).score(start, stop)


def _partial(
    stack: contextlib.ExitStack, opened: Opened, out: Path | None, rows: int, resume: bool
) -> tuple[Records, int]:
    """The file that the records go to, and how many it has already."""
    if out is None:
        return Records(stack.enter_context(tempfile.TemporaryFile()), opened.dtype, opened.count), 0
    partial, about = _beside(out)
    sources = [opened.logits, opened.targets, *([opened.weight] if opened.weight else [])]
    same = {**asdict(opened.work), "files": [source.stamp() for source in sources], "rows": rows}
    same = json.loads(json.dumps(same, default=repr))
    if resume and partial.exists() and about.exists():
        before = json.loads(about.read_text())
        for key in same:
            if before.get(key) != same[key]:
                raise FileError(
                    f"{partial}: is of another run, where {key} was {before.get(key)}, not "
                    f"{same[key]}; without --resume all is scored anew"
                )
        records = Records(stack.enter_context(partial.open("r+b")), opened.dtype, opened.count)
        return records, records.resume(rows * opened.each)
    _discard(out)
    about.write_text(json.dumps(same))
    return Records(stack.enter_context(partial.open("w+b")), opened.dtype, opened.count), 0


def _beside(out: Path) -> tuple[Path, Path]:
    """Where the records are until they are complete, and what they are of."""
    return Path(f"{out}.partial"), Path(f"{out}.partial.json")


def _discard(out: Path | None) -> None:
    for path in _beside(out) if out is not None else ():
        path.unlink(missing_ok=True)


def _finish(file: Records, out: Path) -> None:
    """Give the complete records their name, in one step."""
    partial, about = _beside(out)
    if out.suffix == ".parquet":
        columns = Path(f"{out}.partial.parquet")
        try:
            to_parquet(file, columns)
            columns.replace(out)
        finally:
            columns.unlink(missing_ok=True)
        partial.unlink()
    else:
        os.fsync(file.file.fileno())
        partial.replace(out)
    about.unlink()


@contextlib.contextmanager
def _progress(opened: Opened, done: int) -> Iterator[Callable[[int], Any]]:
    """A bar with rate and time left on a terminal; takes bytes."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    try:
        import rich.progress as rich
        from rich.console import Console
    except ModuleNotFoundError:
        print(f"fastloss score: a progress bar needs rich: {EXTRA.format('cli')}", file=sys.stderr)
        yield lambda n: None
        return
    columns = (
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    row = opened.logits.row_bytes
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(opened.logits) * row, completed=done * row)
        yield lambda n: bar.advance(task, n)


def _print(found: dict[str, Any], form: str) -> None:
    if form == "json":
        print(json.dumps(_finite(found), allow_nan=False))
        return
    for name in ("count", "mean", "stderr", "perplexity", "accuracy"):
        if found[name] == found[name]:
            print(f"{name:11}{found[name]:.8g}")
    print("quantiles  " + "  ".join(f"{q}: {x:.6g}" for q, x in found["quantiles"].items()))
    for each in found["worst"]:
        rest = f"  label {each['target']}, highest {each['argmax']}" if "target" in each else ""
        print(f"worst      row {each['row']}: {each['loss']:.6g}{rest}")


def _finite(x: Any) -> Any:
    """With None for what JSON has no number for: nan and infinities."""
    if isinstance(x, dict):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, list):
        return [_finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
