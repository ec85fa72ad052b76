"""Threads: real overlap without the GIL, settings, nesting, fork, Ctrl-C and shutdown.

No test compares times. Overlap is proven by what one thread sees in memory of another's unfinished
call, and calls too long to finish (a broadcast of 2**38 elements costs no memory) prove the rest.
"""

import asyncio
import contextvars
import gc
import os
import signal
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastloss as fl
from samples import LOSSES, counts_memory, every_loss, inputs, run_python

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="no system call here that binds a thread to a CPU"
)
focal = fl.sigmoid_focal_loss
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


# Overlap


def overlaps(loss, big, small):
    """Whether a whole call of this thread lay inside another thread's one kernel call."""
    pred, target = big
    out = np.full_like(pred, np.nan)
    first, last = out.reshape(-1)[:1], out.reshape(-1)[-1:]
    other = threading.Thread(
        target=loss.grad, args=(pred, target), kwargs={"out": out, "num_threads": 1}
    )
    other.start()
    while np.isnan(first[0]) and other.is_alive():
        pass
    # The other has written its first result: it is in the kernel. If it has not written its last
    # when our call is over, it was in there all along.
    started = not np.isnan(first[0]) and np.isnan(last[0])
    loss.value_and_grad(*small, num_threads=1)
    unfinished = np.isnan(last[0])
    other.join()
    assert not np.isnan(out).any()
    return started and unfinished


@every_loss
def test_two_python_threads_overlap_in_the_kernel(loss):
    n = 1_500_000 if loss.kind == "rows" else 5_000_000
    big, small = inputs(loss, (n,)), inputs(loss, (1000,))
    assert any(overlaps(loss, big, small) for _ in range(1000))  # of 1 ms, on busy processors


def test_two_long_calls_run_at_once():
    """Seen by a third thread: twice in a row, both calls are begun and neither is over."""
    pred, target = inputs(focal, (1_500_000,))

    def both_inside():
        outs = [np.full_like(pred, np.nan) for _ in range(2)]
        calls = [
            threading.Thread(
                target=focal.grad, args=(pred, target), kwargs={"out": o, "num_threads": 1}
            )
            for o in outs
        ]
        for call in calls:
            call.start()
        seen = 0
        while any(call.is_alive() for call in calls):
            begun = all(not np.isnan(o[0]) for o in outs)
            seen += begun and all(np.isnan(o[-1]) for o in outs)
        for call in calls:
            call.join()
        return seen >= 2

    assert any(both_inside() for _ in range(30))


def test_a_call_uses_the_threads_it_is_given():
    """Processor time beyond the calling thread's own is the helpers'."""
    pred, target = inputs(focal, (2_000_000,))

    def helped(num_threads):
        own, total = time.thread_time(), time.process_time()
        for _ in range(10):
            focal.value_and_grad(pred, target, num_threads=num_threads)
        own, total = time.thread_time() - own, time.process_time() - total
        return total - own > total / 10

    assert any(helped(2) for _ in range(20))
    assert not all(helped(1) for _ in range(3))  # another test's thread may still be ending


@every_loss
def test_many_threads_call_the_same_loss(loss):
    """More callers than processors, each asking for more threads than there are: no deadlock."""
    data = [inputs(loss, (n,), np.float32, seed=n) for n in (1, 999, 30_000, 200_000)]
    want = [loss.value_and_grad(*d, num_threads=1) for d in data]
    with ThreadPoolExecutor(16) as pool:
        calls = [
            (i, pool.submit(loss.value_and_grad, *data[i], num_threads=1 + i * 3))
            for i in [0, 1, 2, 3] * 16
        ]
        for i, call in calls:
            value, grad = call.result(timeout=60)
            assert value == want[i][0]
            assert_array_equal(grad, want[i][1])


def test_a_call_from_a_pool_that_is_full_of_calls():
    """Nested: each worker starts a pool of its own whose workers call too."""
    pred, target = inputs(fl.mse_loss, (300_000,), np.float32)
    want = fl.mse_loss(pred, target)

    def nested(depth):
        if depth == 0:
            return fl.mse_loss(pred, target, num_threads=4)
        with ThreadPoolExecutor(3) as pool:
            return next(iter(set(pool.map(nested, [depth - 1] * 3, timeout=60))))

    assert nested(3) == want


def test_more_threads_than_the_machine_has():
    pred, target = inputs(focal, (2_000_000,), np.float32)
    want, grad = focal.value_and_grad(pred, target, num_threads=1)
    for n in (300, 2**62):
        value, found = focal.value_and_grad(pred, target, num_threads=n)
        assert value == want
        assert_array_equal(found, grad)


@counts_memory
def test_where_no_thread_can_be_had():
    """The caller does it all, the pool keeps no array for a thread that never comes, and threads
    are used again when there are some.
    """
    code = """if True:
        import os, resource, sys, threading
        import numpy as np
        import fastloss as fl
        threads = lambda: len(os.listdir("/proc/self/task"))
        before = threads()
        x = np.full(2_000_000, 3, np.float32)
        y = np.ones_like(x)
        references = sys.getrefcount(x)
        threading.stack_size(1 << 30)
        no_limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, no_limit[1]))
        for _ in range(3):
            print(fl.mse_loss(x, y, num_threads=4), threads() - before)
        print(sys.getrefcount(x) - references)
        resource.setrlimit(resource.RLIMIT_AS, no_limit)
        threading.stack_size(0)
        print(fl.mse_loss(x, y, num_threads=4), threads() - before)
        for n in (200, 2**62):
            print(fl.mse_loss(x, y, num_threads=n), threads() - before <= 255)
        """
    want = "4.0 0\n4.0 0\n4.0 0\n0\n4.0 3\n4.0 True\n4.0 True"
    assert run_python(code) == want


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer here")
def test_nothing_is_written_after_an_interrupt():
    """Wherever in a call it comes, as the helpers are called and as the caller waits for them too:
    none of them is at work after it, none hangs, and the next call is right.
    """
    code = """if True:
        import random, signal, time
        import numpy as np
        import fastloss as fl
        x = np.linspace(-3, 3, 300_000, dtype=np.float32)
        y = (x > 0.1).astype(np.float32)
        want = fl.sigmoid_focal_loss.grad(x, y, num_threads=1)
        out = np.empty_like(x)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        written = wrong = interrupts = 0
        while interrupts < 500:
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + random.random() * 2e-3)
                while True:
                    fl.sigmoid_focal_loss.grad(x, y, out=out, num_threads=4)
            except KeyboardInterrupt:
                out[...] = 7
                interrupts += 1
            time.sleep(5e-4)
            written += not (out == 7).all()
            fl.sigmoid_focal_loss.grad(x, y, out=out, num_threads=4)
            wrong += not (out == want).all()
        print(written, wrong)
        """
    assert run_python(code) == "0 0"


def test_threads_that_end_in_the_middle():
    """By an exception that another raises in them; those that go on are right.

    Python may forget that a thread has one, while others get theirs: then it is told again.
    """
    code = """if True:
        import ctypes, random, threading, time
        import numpy as np
        import fastloss as fl
        x = np.linspace(-3, 3, 1_000_000, dtype=np.float32)
        y = (x > 0.1).astype(np.float32)
        want = fl.sigmoid_focal_loss(x, y)
        wrong, ended = [], []
        def calls():
            try:
                while True:
                    if fl.sigmoid_focal_loss(x, y, num_threads=3) != want:
                        wrong.append(1)
            finally:
                ended.append(1)
        def end(thread):
            ident = ctypes.c_ulong(thread.ident)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))
        for _ in range(12):
            threads = [threading.Thread(target=calls) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(random.random() / 30)
            for thread in threads:
                end(thread)
            assert fl.sigmoid_focal_loss(x, y, num_threads=3) == want
            for thread in threads:
                thread.join(1)
                while thread.is_alive():
                    end(thread)
                    thread.join(1)
        print(len(wrong), len(ended), fl.sigmoid_focal_loss(x, y, num_threads=3) == want)
        """
    assert run_python(code) == "0 36 True"


def test_labels_changed_by_another_thread_are_never_used_unchecked():
    code = """if True:
        import threading, time
        import numpy as np
        import fastloss as fl
        for classes in (3, 100, 5000):
            pred = np.zeros((2_000_000 // classes, classes), np.float32)
            labels = np.zeros(len(pred), np.int64)
            weighted = fl.cross_entropy.bind(class_weight=np.ones(classes))
            lists = np.broadcast_to(labels[:, None], pred.shape)[:, :16]
            calls = (weighted, pred, labels), (fl.multilabel_margin_loss, pred[:, :16], lists)
            stop = time.monotonic() + 0.7
            def flip():
                while time.monotonic() < stop:
                    labels[...] = 2**60
                    labels[...] = -(2**60)
                    labels[...] = 0
            other = threading.Thread(target=flip)
            other.start()
            while time.monotonic() < stop:
                for loss, z, y in calls:
                    try:
                        loss.value_and_grad(z, y)
                    except ValueError:
                        pass
            other.join()
            labels[...] = 0
            print(round(fl.cross_entropy(pred, labels) - np.log(classes), 5) == 0)
        """
    assert run_python(code) == "True\nTrue\nTrue"


# Settings


@pytest.fixture
def default_threads():
    before = fl.get_num_threads()
    yield before
    fl.set_num_threads(before)


def test_the_process_default_and_the_contexts_own(default_threads):
    assert default_threads >= 1
    fl.set_num_threads(5)
    assert fl.get_num_threads() == 5
    with fl.threads(2):
        assert fl.get_num_threads() == 2
        with fl.threads(3):
            assert fl.get_num_threads() == 3
            fl.set_num_threads(6)
            assert fl.get_num_threads() == 3
        assert fl.get_num_threads() == 2
    assert fl.get_num_threads() == 6
    with pytest.raises(RuntimeError, match="inside"), fl.threads(4):
        raise RuntimeError("inside")
    assert fl.get_num_threads() == 6


def test_threads_do_not_disturb_each_other(default_threads):
    barrier = threading.Barrier(4)

    def worker(n):
        with fl.threads(n):
            barrier.wait(30)
            seen = fl.get_num_threads()
            fl.mse_loss([1.0], [2.0])
            barrier.wait(30)
            return seen, fl.get_num_threads()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(worker, [1, 2, 3, 4])) == [(n, n) for n in (1, 2, 3, 4)]
    assert fl.get_num_threads() == default_threads


def test_tasks_do_not_disturb_each_other(default_threads):
    async def task(n):
        with fl.threads(n):
            await asyncio.sleep(0.01)
            return fl.get_num_threads()

    async def main():
        with fl.threads(9):
            seen = await asyncio.gather(*map(task, range(1, 5)))
            return seen, fl.get_num_threads()

    assert asyncio.run(main()) == ([1, 2, 3, 4], 9)
    assert fl.get_num_threads() == default_threads


def test_a_copied_context_carries_the_setting(default_threads):
    with fl.threads(default_threads + 3):
        context = contextvars.copy_context()
    assert context.run(fl.get_num_threads) == default_threads + 3
    assert fl.get_num_threads() == default_threads


SHOW = "import fastloss as fl; print(fl.get_num_threads())"


def test_the_environment_sets_the_default():
    assert run_python(SHOW, FASTLOSS_NUM_THREADS="3") == "3"


@needs_affinity
def test_affinity_limits_the_default():
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); {SHOW}"
    assert run_python(code) == "1"
    assert run_python(code, FASTLOSS_NUM_THREADS="3") == "3"
    assert int(run_python(SHOW)) <= len(os.sched_getaffinity(0))


@needs_affinity
def test_the_pool_leaves_the_caller_its_processor():
    run_python("""if True:
        import os, time
        import numpy as np
        import fastloss as fl
        x = np.zeros(1_000_000, np.float32)
        cpus = sorted(os.sched_getaffinity(0))[:2]  # of one, all may run there
        tasks = lambda: {int(task) for task in os.listdir("/proc/self/task")}
        before = tasks()

        def helpers_get(allowed, wanted):
            os.sched_setaffinity(0, allowed)
            end = time.monotonic() + 60
            while True:  # a thread has to have begun before it can be told
                fl.mse_loss(x, x, num_threads=3)
                pool = tasks() - before
                if pool and all(os.sched_getaffinity(task) in wanted for task in pool):
                    return
                assert time.monotonic() < end, [os.sched_getaffinity(task) for task in pool]

        for cpu in cpus:
            helpers_get({cpu}, [{cpu}])
        helpers_get(cpus, [{cpu} for cpu in cpus])
        """)


# Fork

FORK = """if True:
    import os, sys, time, warnings
    import numpy as np
    import fastloss as fl
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork of a threaded process
    x = np.linspace(-3, 3, 2_000_000, dtype=np.float32)
    y = (x > 0.1).astype(np.float32)
    want = fl.sigmoid_focal_loss(x, y, num_threads=4)  # the parent's pool is up

    def child():
        for _ in range(3):
            assert fl.sigmoid_focal_loss(x, y, num_threads=4) == want
            assert fl.sigmoid_focal_loss(x, y) == want
    """


@needs_fork
def test_a_forked_child_of_a_threaded_parent():
    code = """
    pid = os.fork()
    if pid == 0:
        try:
            child()
            if (grandchild := os.fork()) == 0:
                child()
                os._exit(0)
            os._exit(os.waitpid(grandchild, 0)[1] != 0)
        except BaseException as error:
            print(repr(error))
        os._exit(1)
    stop = time.monotonic() + 60
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < stop:
        time.sleep(0.01)
    if done[0] == 0:
        os.kill(pid, 9)
    child()
    print("right" if done == (pid, 0) else f"the child ended as {done}")
    """
    assert run_python(FORK + code) == "right"


@needs_fork
def test_multiprocessing_by_fork():
    code = """
    import multiprocessing
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        loss = fl.sigmoid_focal_loss.bind(num_threads=2)
        got = [pool.apply_async(loss, (x, y)) for _ in range(4)]
        print({r.get(timeout=60) for r in got} == {want})
    """
    assert run_python(FORK + code) == "True"


@needs_fork
def test_a_fork_while_another_thread_is_in_a_kernel():
    code = """
    import threading
    stop = False
    def busy():
        while not stop:
            fl.sigmoid_focal_loss(x, y, num_threads=2)
    other = threading.Thread(target=busy)
    other.start()
    ends = []
    for _ in range(5):
        time.sleep(0.01)
        if (pid := os.fork()) == 0:
            child()
            os._exit(0)
        ends.append(os.waitpid(pid, 0)[1])
    stop = True
    other.join()
    print(ends)
    """
    assert run_python(FORK + code) == "[0, 0, 0, 0, 0]"


@needs_fork
def test_a_signal_handler_that_forks_during_a_call():
    """The child has none of the threads that were at work: it says so, and hangs not."""
    code = """
    import signal
    ones, threes = (np.broadcast_to(np.float32(x), 2**29) for x in (1, 3))
    pids = []
    def handler(*_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        pids.append(os.fork())
        if pids[-1] == 0:
            signal.alarm(60)  # ends it
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, handler)
    ends = set()
    for _ in range(5):
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        try:
            got = fl.mse_loss(ones, threes, num_threads=2) == 4
        except RuntimeError as error:
            got = pids[-1] == 0 and "forked during the call" in str(error)
        if pids[-1] == 0:
            assert got
            child()
            os._exit(7)
        assert got
        ends.add(os.waitstatus_to_exitcode(os.waitpid(pids[-1], 0)[1]))
    print(len(pids), ends)
    """
    assert run_python(FORK + code) == "5 {7}"


@needs_fork
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("preload", [False, True])
def test_multiprocessing_by_a_new_process(method, preload):
    """Also by copies of a server that has imported fastloss."""
    code = f"""
    import multiprocessing
    context = multiprocessing.get_context("{method}")
    if {preload}:
        multiprocessing.set_forkserver_preload(["fastloss"])
    with context.Pool(2) as pool:
        loss = fl.sigmoid_focal_loss.bind(num_threads=2)
        got = [pool.apply_async(loss, (x, y)) for _ in range(4)]
        print({{r.get(timeout=60) for r in got}} == {{want}})
    """
    assert run_python(FORK + code) == "True"


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_joblib(backend):
    pytest.importorskip("joblib")
    code = f"""
    from joblib import Parallel, delayed
    warnings.simplefilter("ignore")  # joblib's own
    loss = fl.sigmoid_focal_loss.bind(num_threads=2)
    for _ in range(2):
        got = Parallel(n_jobs=2, backend="{backend}")(delayed(loss)(x, y) for _ in range(4))
        print(set(got) == {{want}})
    """
    assert run_python(FORK + code) == "True\nTrue"


# Ctrl-C

LONG = {
    "elementwise": "fl.mse_loss(long, long, num_threads={n})",
    "weighted": "fl.huber_loss(long, long, sample_weight=long, num_threads={n})",
    "rows": "fl.cross_entropy(wide, labels, num_threads={n})",
    "vectors": "fl.elbo_loss(wide, wide, wide, wide)",
    "sets": "fl.dice_loss(wide, labels, num_threads={n})",
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals do not reach a Windows child so")
@pytest.mark.parametrize("call", LONG.values(), ids=LONG)
@pytest.mark.parametrize("n", [1, 3])
def test_ctrl_c_ends_a_long_call(call, n):
    code = f"""if True:
        import os, signal, threading, time
        import numpy as np
        import fastloss as fl
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job may ignore it
        long = np.broadcast_to(np.float32(1), 2**36)
        wide = np.broadcast_to(np.float32(1), (2**32, 16))
        labels = np.broadcast_to(np.int8(1), 2**32)
        fl.mse_loss(long[:100_000], long[:100_000], num_threads={n})
        waits = []
        for _ in range(3):
            sent = []
            def interrupt():
                sent.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)
            threading.Timer(0.2, interrupt).start()
            try:
                {call.format(n=n)}
            except KeyboardInterrupt:
                waits.append(time.monotonic() - sent[0])
            print(fl.mse_loss(long[:100_000], 3 * long[:100_000], num_threads={n}))
        print(len(waits), min(waits) < 0.1 or waits, max(waits) < 5 or waits)
        """
    assert run_python(code) == "4.0\n4.0\n4.0\n3 True True"  # the least, on busy processors


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer here")
def test_a_signal_handler_runs_during_a_call_and_may_call_a_loss():
    code = """if True:
        import signal
        import numpy as np
        import fastloss as fl
        long = np.broadcast_to(np.float32(1), 2**38)
        seen = []
        def handler(*_):
            seen.append(fl.mse_loss([1.0, 2.0], [0.0, 0.0]))
            if len(seen) == 3:
                signal.setitimer(signal.ITIMER_REAL, 0)
                raise TimeoutError
        fl.mse_loss([1.0, 2.0], [0.0, 0.0])  # the first asks the system for the number of CPUs
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        try:
            fl.mse_loss(long, long, num_threads=2)
        except TimeoutError:
            print(seen)
        """
    assert run_python(code) == "[2.5, 2.5, 2.5]"


# Shutdown


@pytest.mark.parametrize("warm", [True, False], ids=["pool is up", "pool is not up"])
def test_calls_during_interpreter_shutdown(warm):
    late = not FREE_THREADED  # which empties modules before it deletes what is in them
    code = f"""if True:
        import atexit
        import numpy as np
        import fastloss as fl
        x = np.full(1_000_000, 3, np.float32)
        y = np.ones_like(x)
        def call(who, loss=fl.mse_loss):
            print(who, loss(x, y, num_threads=2), flush=True)
        class Late:
            call = staticmethod(call)
            def __del__(self):
                self.call("del")
        late = Late() if {late} else None
        atexit.register(call, "atexit")
        if {warm}:
            call("main")
        """
    want = ["main 4.0"] * warm + ["atexit 4.0"] + ["del 4.0"] * late
    assert run_python(code).splitlines() == want


def test_shutdown_while_the_pool_works_for_a_daemon_thread():
    """Which has minutes to go."""
    code = """if True:
        import threading, time
        import numpy as np
        import fastloss as fl
        long = np.broadcast_to(np.float32(1), 2**38)
        fl.mse_loss(long[:1_000_000], long[:1_000_000], num_threads=3)
        call = threading.Thread(
            target=fl.mse_loss, args=(long, long), kwargs={"num_threads": 3}, daemon=True
        )
        call.start()
        time.sleep(0.1)
        print(call.is_alive())
        """
    assert run_python(code) == "True"


def test_a_non_daemon_thread_outlives_the_main_one():
    code = """if True:
        import threading, time
        import numpy as np
        import fastloss as fl
        x = np.full(1_000_000, 3, np.float32)
        y = np.ones_like(x)
        def late():
            time.sleep(0.2)
            print({fl.mse_loss(x, y, num_threads=2) for _ in range(20)})
        threading.Thread(target=late).start()
        """
    assert run_python(code) == "{4.0}"


# What the modules declare


@pytest.mark.skipif(not FREE_THREADED, reason="a Python with the GIL")
def test_the_gil_stays_off():
    """Where a module needs it Python says so as it turns it on: an error here."""
    code = "import sys, fastloss as fl; fl.mse_loss([1.0], [3.0]); print(sys._is_gil_enabled())"
    assert run_python(code) == "False"


SUBINTERPRETER = """if True:
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    if {first}:
        import fastloss as fl
    inside = '''if True:
        import warnings
        warnings.simplefilter("ignore")  # NumPy's
        try:
            import fastloss as fl
            import numpy as np
            x = np.full(1_000_000, 3, np.float32)
            assert fl.mse_loss(x, np.ones_like(x), num_threads=3) == 4
        except ImportError:
            pass
        '''
    for _ in range(3):
        one = interpreters.create()
        assert interpreters.run_string(one, inside) is None
        interpreters.destroy(one)
    try:
        import fastloss as fl
        print(fl.mse_loss([1.0], [3.0]))
    except ImportError:
        print("ImportError")
    """


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="3.12.1 crashes at `import email.message` in a second"
)
@pytest.mark.parametrize("first", [True, False])
def test_subinterpreters(first):
    """Of one interpreter a process: in any other the import is an error, and nothing breaks."""
    found = run_python(SUBINTERPRETER.format(first=first))
    assert found == "4.0" if first else found in ("4.0", "ImportError")


def test_every_loss_releases_what_it_takes():
    """Many calls, errors among them, leave no thread behind and keep no array."""
    for loss in LOSSES:
        pred, target = inputs(loss, (50_000,), np.float32)
        loss.value_and_grad(pred, target, num_threads=2)
    gc.collect()
    threads = threading.active_count()
    for loss in LOSSES:
        pred, target = inputs(loss, (50_000,), np.float32)
        references = sys.getrefcount(pred), sys.getrefcount(target)
        for _ in range(20):
            loss.value_and_grad(pred, target, num_threads=2)
            loss.grad(pred, target, out=np.empty_like(pred))
            with pytest.raises(ValueError, match="target"):
                loss.grad(pred, target[:-1], num_threads=2)
        gc.collect()  # the errors' tracebacks
        assert (sys.getrefcount(pred), sys.getrefcount(target)) == references
    assert threading.active_count() <= threads
