"""What got slower or faster since another revision: timed in turns with it, A B A B.

python -m benchmarks compare HEAD --quick --only '^huber|cross_entropy 1024'
python -m benchmarks compare v0.1.0 --seconds 5 --json compared.json

REV is built (about a minute) in a temporary folder, which is removed however this ends, and
compared with the fastloss that is imported here. Both run the cases of these benchmarks, each in a
process of its own. The ratio is that of a turn's two times; a case is marked where the quartiles
of the ratio are both on one side of 1, by more than 8 %: two processes of the same code differ by
up to 5 %, with where their arrays happen to lie. The exit status is 1 if for some case even the
lower quartile is above 1.1.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from timeit import Timer
from typing import Any

import numpy as np

import fastloss as fl

from .contest import TURN, Case, cases
from .table import duration, heading, machine, options, quartiles

ROOT = Path(__file__).resolve().parents[1]
NOISE, TOO_SLOW = 0.08, 1.1
# The package from one folder, the benchmarks from here.
WORKER = (
    "import sys; sys.path.insert(0, sys.argv[1]); import fastloss; sys.path[0] = sys.argv[2]; "
    "from benchmarks.compare import serve; serve()"
)


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process and its children, which do not outlive the block."""
    with subprocess.Popen(command, text=True, process_group=0, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def built(revision: str) -> Iterator[Path]:
    """A folder with this revision, its modules built."""
    git = ["git", "-C", str(ROOT)]
    archive = subprocess.run(
        [*git, "archive", "--format=tar", revision], capture_output=True, check=False
    )
    if archive.returncode:
        raise SystemExit(f"compare: {archive.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="fastloss-") as name:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(name, filter="data")
        print(f"Building {revision} ...", file=sys.stderr)
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with running(command, cwd=name, **pipes) as build:
            output, _ = build.communicate()
        if build.returncode:
            raise SystemExit(f"compare: {revision} does not build:\n{output}")
        yield Path(name)


class Worker:
    """A process that times the fastloss of a folder."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        command = [sys.executable, "-P", "-c", WORKER, str(folder), str(ROOT)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.folder = folder
        self.process = stack.enter_context(running(command, **pipes))

    def ask(self, *request: Any) -> Any:
        answer = ""
        if self.process.poll() is None:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"compare: the process that times {self.folder} ended: see above")
        return json.loads(answer)


def serve() -> None:
    """Answer the lines of stdin: [name, threads, dtype] of a case by about how long a call takes,
    [number] of calls of it by the seconds of one, what can't be had by the reason.
    """
    timer = Timer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if len(request) == 1:
                answer: float | str = timer.timeit(*request) / request[0]
            else:
                timer = Timer()  # the arrays of the last case go first
                timer = Timer(find(*request).calls()["fastloss"])
                answer = min(timer.repeat(3, 1))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


def find(name: str, threads: int, dtype: str) -> Case:
    for case in cases(threads, dtype):
        if (case.name, case.threads) == (name, threads):
            return case
    raise LookupError(f"no such case: {name}")


def contest(
    folders: tuple[Path, Path], wanted: list[Case], budget: float
) -> Iterator[tuple[Case, tuple[list[float], list[float]] | str]]:
    """Time each case by the packages in both folders in turns, or say why that can't be."""
    with ExitStack() as stack:
        workers = [Worker(folder, stack) for folder in folders]
        for case in wanted:
            about = [worker.ask(case.name, case.threads, case.dtype) for worker in workers]
            if reasons := [reason for reason in about if isinstance(reason, str)]:
                yield case, reasons[0]
                continue
            number = int(TURN / min(about)) + 1
            seconds: tuple[list[float], list[float]] = [], []
            end = time.perf_counter() + budget
            while len(seconds[0]) < 5 or time.perf_counter() < end:
                for worker, times in zip(workers, seconds, strict=True):
                    times.append(worker.ask(number))
            yield case, seconds


def verdict(ratio: np.ndarray) -> str:
    """What the quartiles of the ratio of the times say."""
    low, _, high = ratio
    if low > 1 + NOISE:
        return "**slower**"
    return "faster" if high < 1 - NOISE else ""


def report(
    folders: tuple[Path, Path], names: tuple[str, str], wanted: list[Case], budget: float
) -> tuple[list[dict[str, Any]], int]:
    """Print the table; return its rows, and 1 if one of them is too slow, else 0."""
    print(heading(["loss + gradient", "threads", *names, " / ".join(reversed(names)), ""]))
    rows: list[dict[str, Any]] = []
    status = 0
    for case, seconds in contest(folders, wanted, budget):
        row: dict[str, Any] = {"case": case.name, "threads": case.threads}
        cells = [case.name, str(case.threads)]
        if isinstance(seconds, str):
            row["error"] = seconds
            cells += ["-", "-", "-", seconds]
        else:
            old, new = seconds
            ratio = quartiles(np.divide(new, old))
            row |= {"ratio": list(ratio), "seconds": dict(zip(names, seconds, strict=True))}
            cells += [duration(old), duration(new), "{1:.2f} ({0:.2f}-{2:.2f})".format(*ratio)]
            cells += [verdict(ratio)]
            status |= int(ratio[0] > TOO_SLOW)
        print(f"| {' | '.join(cells)} |", flush=True)
        rows.append(row)
    return rows, status


def main(argv: list[str]) -> int:
    parser = options("python -m benchmarks compare", __doc__, "case", "case", 5)
    parser.add_argument("revision", metavar="REV", help="a commit, branch or tag")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all times, in seconds")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does: by way of `finally`
    wanted = [c for c in cases(args.threads, args.dtype) if re.search(args.only, c.name)]
    head = {"machine": machine(), "isa": fl.kernels.isa, "dtype": args.dtype}
    print(*head.values(), sep=", ", end="\n\n")
    here = Path(fl.__file__).resolve().parents[1]
    with built(args.revision) as folder:
        names = (args.revision, "here")
        rows, status = report((folder, here), names, wanted, args.seconds)
    if args.json:
        args.json.write_text(json.dumps({**head, "cases": rows}, indent=1))
    return status
