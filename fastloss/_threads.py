"""How many threads a call uses.

They come from one pool of Python threads, shared by the process (`_gate.serve`). A call wakes each
of them once; inside, they claim ranges from an atomic counter (`_gate.Job`), and so does the
caller, who never waits for a thread that has not started: nested use can't deadlock. After a fork,
at shutdown and where a thread can't be had, the caller does it all.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path

from fastloss._gate import Job, forked

_context: ContextVar[int | None] = ContextVar("fastloss_threads", default=None)
_process: int | None = None


def check_threads(n: object, name: str = "num_threads") -> int:
    """`n` as a number of threads, or the error that says what is wrong."""
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"{name}: expected an integer >= 1, got {n!r}")
    value = int(n.__index__())
    if value < 1:
        raise ValueError(f"{name}: expected an integer >= 1, got {value}")
    return value


def _cgroup_cpus() -> int | None:
    """The CPUs that this process's cgroup (version 2) may use, rounded up; None for no limit."""
    try:
        path = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2]
        quota, period = Path(f"/sys/fs/cgroup{path}/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, -(-int(quota) // int(period)))


def _usable_cpus() -> int:
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(n, _cgroup_cpus() or n)


def _initial() -> int:
    asked = os.environ.get("FASTLOSS_NUM_THREADS")
    if not asked:
        return _usable_cpus()
    if not asked.isdigit() or int(asked) < 1:
        raise ValueError(f"FASTLOSS_NUM_THREADS: expected an integer >= 1, got {asked!r}")
    return int(asked)


def set_num_threads(n: int) -> None:
    """Set the number of threads that calls of this process use by default.

    Parameters
    ----------
    n : int
        At least 1.

    Examples
    --------
    >>> import fastloss as fl
    >>> before = fl.get_num_threads()
    >>> fl.set_num_threads(1)
    >>> fl.get_num_threads()
    1
    >>> fl.set_num_threads(before)
    """
    global _process
    _process = check_threads(n, "set_num_threads")


def get_num_threads() -> int:
    """Return the number of threads that a call made here and now uses.

    That of the innermost `threads` of this context, else that of `set_num_threads`, else that of
    the environment variable ``FASTLOSS_NUM_THREADS``, else the CPUs this process may use (affinity
    and cgroup quota).

    Returns
    -------
    int

    Examples
    --------
    >>> import fastloss as fl
    >>> with fl.threads(3):
    ...     fl.get_num_threads()
    3
    """
    global _process
    n = _context.get()
    if n is not None:
        return n
    if _process is None:
        _process = _initial()
    return _process


def threads(n: int) -> AbstractContextManager[None]:
    """Use `n` threads in the calls of this context: other threads and tasks do not see it.

    Parameters
    ----------
    n : int
        At least 1.

    Examples
    --------
    >>> import fastloss as fl
    >>> with fl.threads(1):
    ...     fl.mse_loss([0.0, 2.0], [0.0, 0.0])
    2.0
    """
    return _scope(check_threads(n, "threads"))


@contextmanager
def _scope(n: int) -> Iterator[None]:
    token = _context.set(n)
    try:
        yield
    finally:
        _context.reset(token)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)


def run(job: Job, num_threads: int) -> None:
    """Do all ranges of a job with up to so many threads, the caller's included."""
    main = threading.current_thread() is threading.main_thread()
    job.run(min(num_threads, job.ranges, 2**15) - 1, main)
