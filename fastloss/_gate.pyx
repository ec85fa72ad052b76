"""The compiled way in: `Gate` sends plain arrays that one thread does straight to the kernel, `Job`
is a call in the general way, which several threads may work on at once.

A job is cut into ranges by its shape alone. Whoever works claims ranges from an atomic counter,
without the GIL, until none is left; each range leaves one partial sum, and the sums are added
exactly and rounded once, so the bits of a result do not depend on who did what.
"""
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport NAN, isinf, isnan
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastloss.kernels.call cimport *

import math
from _thread import start_new_thread
from inspect import Parameter
from queue import SimpleQueue

from fastloss import kernels

cnp.import_array()

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(_WIN32)
    #include <windows.h>
    static int64_t fl_milliseconds(void) { return (int64_t)GetTickCount64(); }
    static void fl_nap(void) { Sleep(0); }
    #else
    #include <time.h>
    static int64_t fl_milliseconds(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
    }
    static void fl_nap(void) {
        struct timespec t = {0, 20000};
        nanosleep(&t, NULL);
    }
    #endif
    #define FL_THREADS 255 /* of the pool, whatever is asked for */
    static long fl_pool[FL_THREADS]; /* the system's numbers of its threads, or 0 */
    static int fl_caller = -1;       /* the processor that they leave to who calls */
    #if defined(__linux__)
    #include <sched.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static long fl_thread_id(void) { return syscall(SYS_gettid); }
    /* The pool's threads may run where the caller may, but for where it runs. In a virtual machine
     * Linux takes an idle processor for one that is not there, and wakes a thread on the caller's:
     * there it waited for 4 ms, in half of the calls after a pause. */
    static void fl_make_room(void) {
        cpu_set_t cpus;
        int cpu = sched_getcpu();
        if (cpu < 0 || cpu == __atomic_exchange_n(&fl_caller, cpu, __ATOMIC_SEQ_CST) ||
            sched_getaffinity(0, sizeof cpus, &cpus))
            return;
        if (CPU_COUNT(&cpus) > 1)
            CPU_CLR(cpu, &cpus);
        for (int i = 0; i < FL_THREADS; ++i) {
            long id = __atomic_load_n(&fl_pool[i], __ATOMIC_SEQ_CST);
            if (id)
                sched_setaffinity((pid_t)id, sizeof cpus, &cpus);
        }
    }
    #else
    static long fl_thread_id(void) { return 1; }
    static void fl_make_room(void) {}
    #endif
    /* A thread's place in the pool, or -1. */
    static int fl_join_pool(void) {
        for (int i = 0; i < FL_THREADS; ++i) {
            long none = 0;
            if (__atomic_compare_exchange_n(&fl_pool[i], &none, fl_thread_id(), 0, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST)) {
                __atomic_store_n(&fl_caller, -1, __ATOMIC_SEQ_CST);
                return i;
            }
        }
        return -1;
    }
    static void fl_leave_pool(int place) {
        if (place >= 0)
            __atomic_store_n(&fl_pool[place], 0, __ATOMIC_SEQ_CST);
    }
    /* What a small call works in: malloc of as much may go to the system and back every time.
     * Windows aligns a thread's own memory to 16 bytes, whatever is asked for. */
    #define FL_OWN (1 << 17)
    static char *fl_own(void) {
        static _Thread_local char own[FL_OWN + 64];
        return own + (-(uintptr_t)own & 63);
    }
    /* A helper that begins finds no range left, or the caller sees it at work, and waits. */
    #define fl_claim(counter) __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST)
    #define fl_peek(flag) __atomic_load_n(flag, __ATOMIC_SEQ_CST)
    #define fl_add(count, n) __atomic_add_fetch(count, n, __ATOMIC_SEQ_CST)
    #define FL_NONE_LEFT (PY_SSIZE_T_MAX / 2) /* more than any call's ranges */
    #define fl_put(counter, n) __atomic_store_n(counter, n, __ATOMIC_SEQ_CST)
    """
    size_t FL_OWN
    char* fl_own() nogil
    Py_ssize_t FL_NONE_LEFT
    int FL_THREADS
    void fl_make_room() nogil
    int fl_join_pool() nogil
    void fl_leave_pool(int) nogil
    int64_t fl_milliseconds() nogil
    void fl_nap() nogil
    Py_ssize_t fl_claim(Py_ssize_t*) nogil
    int fl_peek(int*) nogil
    Py_ssize_t fl_peek_at "fl_peek" (Py_ssize_t*) nogil
    int fl_add(int*, int) nogil
    void fl_put(Py_ssize_t*, Py_ssize_t) nogil

cdef extern from "Python.h":
    void* PyInterpreterState_Get()
    void* PyInterpreterState_Main()

cdef fl_drivers* DRIVERS = <fl_drivers*><size_t>kernels.DRIVERS

cdef enum:
    RANGE = 32768  # elements: a range takes 5 us or more, against 20 ns to claim it
    RANGES = 4096  # at most so many partial sums, whatever the size
    SCRATCH = 1 << 19  # bytes a thread may use for the exponentials of its rows
    ACROSS = 1 << 22  # of rows whose neighbour in memory is another row: strided reads cost more
    SHORT = 96  # classes: to here rows side by side are faster than one after the other
    SHORT_SOFTMAX = 192  # of a softmax: 4096 x 100 took twice as long one after the other
    GROUP = 1 << 16  # bytes of exponentials at a time: rows of a group stay in the L2 cache
    FEW = 16  # rows: so many, and fewer, of very many classes are shared by the threads
    HOLD_GIL = 4096  # elements: below, giving the GIL away costs more than the work
    POLL = 50  # milliseconds between looks for Ctrl-C
    SPINS = 10000  # looks at whether the helpers are done, some 10 us, before the caller naps

# To so many bytes of prediction, in the dtype computed in, one thread is as fast as two: waking a
# second takes 80 us, the work of 1 MiB in cross-entropy and BCE, of 4 MiB in the losses that only
# move memory.
SERIAL = 1 << 20
cdef Py_ssize_t serial = SERIAL

REDUCTIONS = ("mean", "batchmean", "sum", "none")
FORMS = ("terms", "means", "divergence", "margins", "rival", "lists")  # as in src/call.h


cdef fl_driver* driver_of(str name, int* form) except NULL:
    # The driver of this name, and the form of its rows of terms.
    if name == "elementwise":
        return DRIVERS.elementwise
    if name == "rows":
        return DRIVERS.rows
    if name == "weigh":
        return DRIVERS.weigh
    if name == "tile_sums":
        return DRIVERS.tile_sums
    if name == "tiles":
        return DRIVERS.tiles
    if name == "scores":
        return DRIVERS.scores
    form[0] = FORMS.index(name)
    return DRIVERS.terms

# What `scores` gives of a row, in the order of FL_LOGPROB and those after it (src/call.h).
SCORES = ("logprob", "loss", "lse", "entropy", "margin", "confidence", "argmax", "rank", "correct",
          "topk", "topk_logprob")
OPERANDS = ("pred", "target", "extra", "weight", "mask", "loss", "grad", "hess", "class_mask")
# The scalar knobs that are options of the driver of rows, in the order of `take_options`.
ROW_OPTIONS = ("temperature", "z_loss", "softcap", "from_logits")


cdef size_t plan(fl_call* c, bint wide, bint softmax, bint across) noexcept nogil:
    # Cuts the call into ranges; returns the bytes a thread needs to work in. Rows are taken side by
    # side (`lanes`) if they are short or, within the scratch, if a row's neighbour in memory is
    # another row (`across`).
    cdef Py_ssize_t item = 8 if wide else 4, unit = 0, steps, least = RANGE, align = BLOCK
    # Slower from memory: logits kept beside their exponentials, and soft targets that are doubles.
    cdef bint small = softmax and c.divergence != FL_KULLBACK_LEIBLER and not (c.soft and wide)
    cdef bint short = c.classes <= (SHORT_SOFTMAX if small else SHORT)
    if c.classes >= 0:
        c.unit = c.classes * LANES
        c.lanes = short or (across and c.unit * item <= ACROSS)
        if not c.lanes:  # a row's exponentials, and the maximum of each block of them
            steps = (c.classes + LANES - 1) // LANES
            c.unit = steps * LANES + (steps // STEPS // LANES + 1) * LANES
        unit = c.unit * item
        # What a divergence's gradient is made of is computed again.
        c.stored = c.lanes or unit <= SCRATCH and c.divergence != FL_ANY_DIVERGENCE
        if c.lanes:
            c.group = LANES
        elif not c.stored:
            c.group = 1
        else:
            c.group = max(<Py_ssize_t>1, min(<Py_ssize_t>LANES, GROUP // max(unit, 1)))
        least = RANGE // max(c.classes, 1)
        if c.lanes:
            least = max(least, min(<Py_ssize_t>16 * LANES, c.size // 64))
        align = c.group
    c.tiles = 0
    if c.size <= FEW and c.classes >= 2 * TILE and not (
            c.lanes or c.soft or c.spread or c.divergence):
        c.tiles = (c.classes + TILE - 1) // TILE
    c.range = max(least, (c.size + RANGES - 1) // RANGES)
    c.range = max(align, (c.range + align - 1) // align * align)
    c.ranges = (c.size + c.range - 1) // c.range
    if c.form == FL_LISTS:
        return sizeof(fl_workspace) + 3 * unit
    if not c.stored:
        return sizeof(fl_workspace)
    # Room for two groups of rows, of which one is written while the other is read; side by side,
    # for logits beside their exponentials, or for gradients as they are streamed.
    if c.lanes:
        c.double_buffered = short or c.divergence
    else:
        unit *= c.group
        c.double_buffered = c.order > 0 and 2 * unit <= SCRATCH
    c.double_buffered = c.double_buffered and c.divergence != FL_ANY_DIVERGENCE
    if not c.lanes:
        return sizeof(fl_workspace) + unit * (2 if c.double_buffered else 1)
    # With Hessians for those too, and a line between; and for each class's last lines of gradient
    # and Hessian, where they wait for the next rows, and those shared with the class before.
    unit *= 1 + c.double_buffered * max(c.order, 1)
    return sizeof(fl_workspace) + unit + 64 + 256 * c.classes


cdef fl_workspace* workspace(size_t size, char** memory) except NULL:
    # Aligned memory of this size, to be freed as `memory`.
    memory[0] = <char*>malloc(size + 64)
    if memory[0] == NULL:
        raise MemoryError(f"{size + 64} bytes to work in")
    return <fl_workspace*>(memory[0] + (64 - <size_t>memory[0] % 64))


cdef int code_of(dtype) except -1:
    # The operand code of a dtype (src/call.h), or 0 for one that no kernel reads. bfloat16 is that
    # of ml_dtypes, which need not be there to be told by its name.
    cdef str kind = dtype.kind
    cdef int size = dtype.itemsize, code
    if kind == "f" and size in (2, 4, 8):
        code = size + 32
    elif kind == "V":
        return FL_BF16 if size == 2 and dtype.isnative and dtype.name == "bfloat16" else 0
    elif kind == "i":
        code = size + 16
    elif kind in "ub":
        code = size
    else:
        return 0
    return code if dtype.isnative else code + 64


def readable(dtype) -> bool:
    """Whether kernels read this dtype: booleans, integers, and floats of 16 to 64 bits."""
    return code_of(dtype) != 0


def floating(dtype) -> bool:
    """Whether it is one of those floats: bfloat16 and others of any byte order."""
    return code_of(dtype) & 32 != 0


def same(cnp.ndarray a, cnp.ndarray b) -> bool:
    """Whether they are the same elements in memory, in the same order."""
    return (cnp.PyArray_DATA(a) == cnp.PyArray_DATA(b) and a.dtype == b.dtype
            and cnp.PyArray_SAMESHAPE(a, b) and (<object>a).strides == (<object>b).strides)


cdef class Job:
    """One call of a kernel: operands, options, a counter of ranges and their partial sums."""
    cdef fl_call call
    cdef fl_driver driver
    cdef Py_ssize_t claimed
    cdef size_t scratch
    cdef int wide, working
    cdef object partial, sums
    cdef Py_ssize_t ranges_of_rows
    cdef list kept
    cdef Py_ssize_t[9][2][cnp.NPY_MAXDIMS] dims

    def __init__(self, *, bint wide, int order, size_t block, tuple knobs, Py_ssize_t size,
                 Py_ssize_t classes=-1, double extra_value=1, double smoothing=0, domain=None,
                 ignore_index=None, bint soft=False, bint softmax=False, bint across=False,
                 double temperature=1, double z_loss=0, double softcap=0, int divergence=0,
                 bint target_logits=False, bint lists=False, bint silent=False):
        cdef fl_call* c = &self.call
        cdef Py_ssize_t i
        memset(c, 0, sizeof(fl_call))
        self.wide = wide
        self.kept = []
        c.order = order
        c.silent = silent
        c.block = <fl_block>block
        for i in range(len(knobs)):
            c.knobs[i] = knobs[i]
        c.size = size
        c.classes = classes
        c.extra_value = extra_value
        c.smoothing = smoothing
        c.soft = soft
        c.temperature = temperature
        c.z_loss = z_loss
        c.softcap = softcap
        c.spread = smoothing != 0 or z_loss != 0
        c.divergence = divergence
        c.target_logits = target_logits
        c.form = FL_LISTS if lists else FL_TERMS
        if domain is not None:
            c.bounded = True
            c.low, c.high, c.ends_only, c.open = domain
        if ignore_index is not None:
            c.has_ignored = True
            c.ignored = ignore_index
        self.scratch = plan(c, wide, softmax, across)
        self.ranges_of_rows = c.ranges
        i = max(c.ranges, c.size * c.tiles)
        self.partial = cnp.PyArray_ZEROS(1, <cnp.npy_intp*>&i, cnp.NPY_DOUBLE, 0)
        c.partial = <double*>cnp.PyArray_DATA(self.partial)
        i = 4 * c.size * c.tiles
        self.sums = cnp.PyArray_ZEROS(1, <cnp.npy_intp*>&i, cnp.NPY_DOUBLE, 0)
        c.sums = <double*>cnp.PyArray_DATA(self.sums)

    @property
    def ranges(self) -> int:
        return self.call.ranges

    @property
    def tiles(self) -> int:
        """Into how many each row is cut, if threads are to share it."""
        return 0 if self.call.class_mask.data != NULL else self.call.tiles

    @property
    def bad(self) -> bool:
        return self.call.bad != 0

    def put(self, str name, cnp.ndarray array, bint matrix=False) -> None:
        """Adds an operand in the call's shape; of a matrix the last axis are the classes."""
        cdef int slot = OPERANDS.index(name)
        # The operands come first in fl_call, in this order.
        self.lay(&self.call.pred + slot, self.dims[slot][0], self.dims[slot][1], array, matrix)

    cdef object lay(self, fl_operand* op, Py_ssize_t* shapes, Py_ssize_t* strides,
                    cnp.ndarray array, bint matrix):
        # An operand, whose outer axes are written to `shapes` and `strides`.
        cdef int outer, n = 0
        cdef Py_ssize_t shape, stride
        self.kept.append(array)
        op.data = <char*>cnp.PyArray_DATA(array)
        op.code = code_of(array.dtype)
        if op.code in (FL_F32, FL_F64) and not cnp.PyArray_ISALIGNED(array):
            op.code += FL_UNALIGNED
        outer = array.ndim - (1 if matrix else 0)
        for i in range(outer):
            shape = array.shape[i]
            stride = array.strides[i]
            if shape == 1:
                continue
            if n and strides[n - 1] == shape * stride:
                shapes[n - 1] *= shape
            else:
                shapes[n] = shape
                n += 1
            strides[n - 1] = stride
        if matrix:
            op.cols = array.shape[outer]
            op.step = array.strides[outer]
        elif n:
            n -= 1
            op.cols = shapes[n]
            op.step = strides[n]
        else:
            op.cols = 1
            op.step = array.itemsize
        op.ndim = n
        op.shape = shapes
        op.stride = strides

    def start(self, str driver, double scale=1, bint stream=False) -> None:
        """Makes the ranges claimable: by the driver of a gate, or "weigh"; of rows in tiles by
        "tile_sums", then "tiles".
        """
        if driver.startswith("tile"):
            self.call.ranges = self.call.size * self.call.tiles
        else:
            self.call.ranges = self.ranges_of_rows
        self.driver = driver_of(driver, &self.call.form)[1 if self.wide else 0]
        self.call.scale = scale
        self.call.stream = stream
        self.call.bad = 0
        fl_put(&self.claimed, 0)

    def run(self, int helpers, bint main) -> None:
        """Does all ranges, with so many threads of the pool if they can be had.

        When this returns or raises, no thread is at work any more: no interrupt comes between the
        lines here, as it could in Python. In a child that a signal handler forked meanwhile, where
        the pool's threads are not, it raises if they were at work.
        """
        cdef list cell = [self]  # what is left in the queue keeps no array
        cdef int _, generation = forks
        try:
            for _ in range(recruited(helpers)):
                queue.put(cell)
            self.work(main)
        finally:
            cell.clear()
            # Who comes now finds no range, until `start` has made others.
            fl_put(&self.claimed, FL_NONE_LEFT)
            if fl_peek(&self.working):
                with nogil:
                    for _ in range(SPINS):
                        if not fl_peek(&self.working):
                            break
                    while fl_peek(&self.working) and forks == generation:
                        fl_nap()
        if forks != generation and fl_peek(&self.working):
            raise RuntimeError("this process was forked during the call: the parent's threads hold "
                               "a part of it, so its results are incomplete here")

    cdef int work(self, bint main) except -1:
        # Claims and does ranges until none is left; the main thread looks for Ctrl-C meanwhile.
        cdef Py_ssize_t r
        cdef int64_t last
        cdef char* memory = NULL
        cdef fl_workspace* ws
        if self.call.ranges <= 0:
            return 0
        ws = workspace(self.scratch, &memory)
        try:
            with nogil:
                last = fl_milliseconds() if main else 0
                while True:
                    r = fl_claim(&self.claimed)
                    if r >= self.call.ranges:
                        break
                    fl_run(self.driver, &self.call, r, ws)
                    if main and fl_milliseconds() - last >= POLL:
                        with gil:
                            PyErr_CheckSignals()
                        last = fl_milliseconds()
        finally:
            free(memory)
        return 0

    cdef int help(self) except -1:
        # The same by a thread of the pool. At work it never waits for the GIL, which it does not
        # get while the interpreter shuts down.
        cdef Py_ssize_t r
        cdef char* memory = NULL
        cdef fl_workspace* ws
        if fl_peek_at(&self.claimed) >= FL_NONE_LEFT:
            return 0
        ws = workspace(self.scratch, &memory)
        with nogil:
            fl_add(&self.working, 1)
            while True:
                r = fl_claim(&self.claimed)
                # Who comes late keeps no caller waiting: the next call of `start` may be writing.
                if r >= FL_NONE_LEFT or r >= self.call.ranges:
                    break
                fl_run(self.driver, &self.call, r, ws)
            fl_add(&self.working, -1)
            free(memory)
        return 0

    def total(self) -> float:
        """The sum of the ranges' partial sums, correctly rounded."""
        return _sum(self.partial.tolist())


cdef class ScoreJob(Job):
    """A call of the driver `scores`, which writes the operands named in SCORES."""
    cdef fl_operand[FL_SCORES] scores
    cdef Py_ssize_t[FL_SCORES][2][cnp.NPY_MAXDIMS] score_dims

    def __init__(self, *, Py_ssize_t topk, **options):
        super().__init__(**options)
        memset(self.scores, 0, sizeof(self.scores))
        self.call.scores = self.scores
        self.call.topk = topk
        self.scratch += topk * 16 * (LANES if self.call.lanes else 1)  # the highest, their classes

    def put_score(self, str name, cnp.ndarray array) -> None:
        """Adds a result that is asked for, in the call's shape; of a row's highest, a matrix."""
        cdef int slot = SCORES.index(name)
        self.lay(&self.scores[slot], self.score_dims[slot][0], self.score_dims[slot][1], array,
                 name.startswith("topk"))


# The pool: threads that take jobs from a queue for ever, as many as calls have asked for at once.
# No lock is one of Python code, where an interrupt may leave it taken for good, as happened to
# those of concurrent.futures; and a signal handler may call a loss, wherever it comes. The threads
# end with the process, which waits for none of them.
queue = SimpleQueue()
cdef int workers = 0, wanted = 0
cdef int forks = 0  # from the process that imported this to the one it is now
# At the end of another interpreter than the main one no thread may be left.
cdef bint may_help = PyInterpreterState_Get() == PyInterpreterState_Main()


cdef int recruited(int helpers) except -1:
    # How many of so many helpers the pool will have for one more call, after the call for more: in
    # a forked child none, as the pool's threads are the parent's.
    if helpers <= 0 or not may_help or forks:
        return 0
    cdef int needed = min(fl_add(&wanted, helpers), FL_THREADS)
    while fl_peek(&workers) < needed:
        fl_add(&workers, 1)
        try:
            start_new_thread(serve, ())
        except RuntimeError:  # no thread to be had, or the interpreter is shutting down
            fl_add(&workers, -1)
            break
        except BaseException:
            fl_add(&workers, -1)
            fl_add(&wanted, -helpers)
            raise
    if fl_peek(&workers) == 0:
        fl_add(&wanted, -helpers)
        return 0
    if fl_peek(&wanted) == helpers:  # else other calls are under way
        fl_make_room()
    return helpers


def forked() -> None:
    """Says that this process is a forked child."""
    global forks
    forks += 1


def serve() -> None:
    """What a thread of the pool does."""
    cdef list cell
    cdef Job job
    cdef int place = fl_join_pool()
    try:
        while True:
            cell = queue.get()
            try:
                for job in tuple(cell):  # none, if the call is over
                    job.help()
            except MemoryError:  # the call goes on without
                pass
            finally:
                cell = job = None
                fl_add(&wanted, -1)
    finally:
        fl_leave_pool(place)
        fl_add(&workers, -1)


def _sum(list values) -> float:
    # fsum refuses infinities of both signs and overflow, where the plain sum is right.
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return float(sum(values))


cdef class Gate:
    """What a declaration's function calls: one loss, asked for some of loss, gradient, Hessian.

    `results` is a subset of "lgh". Plain input is done here; `general`, which a subclass gives,
    does the rest and raises the errors.
    """
    cdef readonly object loss
    cdef readonly str results
    cdef readonly dict defaults
    cdef readonly size_t block
    cdef int order, silent, bounded, ends_only, open, unless, n_knobs
    cdef double low, high
    cdef double[4] knob_low, knob_high
    cdef int[4] knob_open, knob_optional, knob_zero
    cdef bint optional_array, labels, lists, shares, smooths, weighs_classes
    cdef int own_divergence
    cdef bint usual  # what a call leaves out has a default, and one that `plain` calls take
    cdef double[4] usual_knobs
    cdef object usual_ignored
    cdef fl_driver* drivers
    cdef int form
    cdef int[4] row_option

    def __init__(self, loss, str results, dict defaults):
        cdef int i
        self.loss = loss
        self.results = results
        self.defaults = defaults
        self.block = loss.block
        self.order = 2 if "h" in results else 1 if "g" in results else 0
        self.silent = "l" not in results
        self.bounded = math.isfinite(loss.domain.low) or math.isfinite(loss.domain.high)
        self.low = loss.domain.low
        self.high = loss.domain.high
        self.ends_only = loss.domain.ends_only
        self.open = loss.domain.open
        self.unless = loss.scalars().index(loss.domain.unless) if loss.domain.unless else -1
        self.optional_array = all(k.optional or not k.each for k in loss.knobs.values())
        self.labels = loss.domain.labels
        self.lists = loss.domain.lists
        self.shares = loss.domain.shares
        self.smooths = "label_smoothing" in loss.knobs
        self.weighs_classes = self.driver == "elementwise" or (
            "class_weight" in loss.knobs and self.counted)
        self.own_divergence = getattr(self, "divergence", 0)
        self.drivers = driver_of(self.driver, &self.form)
        scalars = [knob for knob in loss.knobs.values() if knob.scalar]
        self.n_knobs = len(scalars)
        if self.n_knobs > FL_MAX_KNOBS:
            raise TypeError(f"{loss.name}: more than {FL_MAX_KNOBS} scalar knobs")
        for i in range(self.n_knobs):
            self.knob_low[i] = scalars[i].check.low
            self.knob_high[i] = scalars[i].check.high
            self.knob_open[i] = scalars[i].check.open
            self.knob_optional[i] = scalars[i].optional
            self.knob_zero[i] = scalars[i].check.contains(0)
        names = [name for name, knob in loss.knobs.items() if knob.scalar]
        for i in range(self.n_knobs):
            self.row_option[i] = ROW_OPTIONS.index(names[i]) if names[i] in ROW_OPTIONS else -1
        options = loss.values({})
        usual = tuple([options.pop(name) for name in names])
        self.usual_ignored = options.pop("ignore_index", None)
        self.usual = (
            results != "" and Parameter.empty not in usual
            and options.pop("axis", -1) in (-1, 1)
            and options.pop("label_smoothing", 0) == 0
            and (self.usual_ignored is None or type(self.usual_ignored) is int
                 and -2**62 < self.usual_ignored < 2**62)
            and all(value is None for value in options.values())
        )
        if self.usual:
            self.read_knobs(usual, self.usual_knobs)

    def general(self, pred, target, tuple knobs, **options):
        raise NotImplementedError

    cdef object plain(self, pred, target, double* knobs, ignore_index, double smoothing,
                      per_class, weight, mask, reduction, normalizer, out):
        # The results of a plain call, or None.
        return None

    cdef int given(self, out, cnp.ndarray pred, tuple others, list into) except -1:
        # Puts the arrays for gradient and Hessian that `out` gives into their places; whether they
        # are plain too, and apart from all others, but for a gradient that lies on the prediction.
        cdef Py_ssize_t i, slot
        if out is None:
            return True
        if type(out) is not tuple:
            out = (out,) if self.results == "g" else (None, out) if self.results == "lg" else ()
        if len(out) != len(self.results):
            return False
        for i in range(len(out)):
            x = out[i]
            if x is None:
                continue
            slot = "lgh".index(self.results[i])
            if not (slot and is_plain(x) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>x)
                    and cnp.PyArray_TYPE(<cnp.ndarray>x) == cnp.PyArray_TYPE(pred)
                    and cnp.PyArray_SAMESHAPE(<cnp.ndarray>x, pred)
                    and (apart(x, pred) or slot == 1 and upon(x, pred))):
                return False
            for other in others:
                if other is not None and not apart(x, other):
                    return False
            into[slot] = x
        return into[1] is None or into[2] is None or apart(into[1], into[2])

    cdef int read_knobs(self, tuple knobs, double* into) except -1:
        cdef int i
        cdef double x
        if len(knobs) != self.n_knobs:
            raise TypeError(f"{self.loss.name}: {len(knobs)} knobs for {self.n_knobs} declared")
        for i in range(self.n_knobs):
            knob = knobs[i]
            if type(knob) is float or type(knob) is bool:
                x = knob
            elif knob is None and self.knob_optional[i]:
                into[i] = NAN
                continue
            else:
                x = self.loss.check_scalar(i, knob)
            if x == 0:
                if not self.knob_zero[i]:
                    self.loss.check_scalar(i, knob)
            elif not self.knob_low[i] <= x <= self.knob_high[i] or isinf(x) or (
                    self.knob_open[i] and x == self.knob_low[i]):
                self.loss.check_scalar(i, knob)
            into[i] = x
        return 0

    cdef void take_options(self, fl_call* c, const double* knobs) noexcept:
        # The knobs that are options of the driver of rows. In `small` they cost every call 80 ns.
        cdef int i
        for i in range(self.n_knobs):
            if self.row_option[i] == 0:
                c.temperature = knobs[i]
            elif self.row_option[i] == 1:
                c.z_loss = knobs[i]
            elif self.row_option[i] == 2:
                c.softcap = 0 if isnan(knobs[i]) else knobs[i]
            elif self.row_option[i] == 3:
                c.target_logits = knobs[i] != 0

    cdef object small(self, cnp.ndarray pred, cnp.ndarray target, double* knobs, ignore_index,
                      double smoothing, per_class, weight, mask, reduction, normalizer, out):
        # A plain call that one thread does; None where the general way must say what is wrong.
        cdef fl_call c
        cdef list into = [None, None, None]  # the loss per sample, the gradient, the Hessian
        cdef bint wide = cnp.PyArray_TYPE(pred) == cnp.NPY_DOUBLE
        cdef bint of_rows = self.drivers != DRIVERS.elementwise
        cdef bint weighted = weight is not None or mask is not None, mean, late, in_place
        cdef int axes = 1 if of_rows else pred.ndim  # of the loss per sample
        cdef double[NEAR] partial
        cdef double divisor
        cdef char* memory = NULL
        cdef fl_workspace* ws
        cdef size_t scratch
        cdef fl_driver driver = self.drivers[wide]
        cdef Py_ssize_t i, every = 0  # the stride of what is the same in all rows
        cdef double number = 1
        if reduction is None:
            reduction = self.defaults.get("reduction", "mean")
        if type(reduction) is not str or reduction not in REDUCTIONS:
            return None
        mean = reduction == "mean"
        if normalizer is not None and not (mean and type(normalizer) is float and normalizer > 0):
            return None
        if weight is not None and not over_axes(weight, pred, axes):
            return None
        if per_class is not None and not of_rows and type(per_class) in (float, int):
            if not 0 <= per_class < 2.0 ** 62:
                return None
            number = per_class
            per_class = None
        if per_class is not None and not (self.weighs_classes and pred.ndim
                                          and none_below_0(per_class)
                                          and (<cnp.ndarray>per_class).ndim == 1
                                          and cnp.PyArray_DIM(<cnp.ndarray>per_class, 0)
                                          == cnp.PyArray_DIM(pred, pred.ndim - 1)):
            return None
        if mask is not None and not (over_axes(mask, pred, axes)
                                     and cnp.PyArray_ISBOOL(<cnp.ndarray>mask)):
            return None
        if not self.given(out, pred, (target, per_class, weight, mask), into):
            return None
        memset(&c, 0, sizeof(c))
        c.order = self.order
        c.silent = self.silent
        c.block = <fl_block>self.block
        c.temperature = 1
        c.partial = partial
        c.extra_value = number
        c.form = self.form
        for i in range(self.n_knobs):
            c.knobs[i] = knobs[i]
        c.size = cnp.PyArray_SIZE(pred)
        c.classes = -1
        if of_rows:
            c.size = cnp.PyArray_DIM(pred, 0)
            c.classes = cnp.PyArray_DIM(pred, 1)
            c.soft = target.ndim == 2
            self.take_options(&c, knobs)
            c.smoothing = smoothing
            c.spread = smoothing != 0 or c.z_loss != 0
            c.divergence = self.own_divergence
            if ignore_index is not None:
                c.has_ignored = True
                c.ignored = ignore_index
        if not of_rows or (c.soft and not self.lists):
            c.bounded = self.bounded and (self.unless < 0 or knobs[self.unless] == 0)
            c.low = self.low
            c.high = self.high
            c.ends_only = self.ends_only
            c.open = self.open
        scratch = plan(&c, wide, driver == DRIVERS.rows[wide], False)
        if c.ranges > NEAR or c.tiles:
            return None
        lie(&c.pred, pred, of_rows)
        lie(&c.target, target, c.soft)
        if weight is not None:
            lie(&c.weight, weight, False)
        if mask is not None:
            lie(&c.mask, mask, False)
        if per_class is not None:
            lie(&c.extra, per_class, False)
            if not of_rows:
                c.extra.ndim = 1
                c.extra.stride = &every
        # Labels are checked beforehand, but where all count and nothing of the caller's is written:
        # there the kernel does, as it does targets with a domain, if no prediction is written over.
        late = not of_rows or (c.soft and not self.lists) or (
            out is None and not (weighted or c.extra.data or c.has_ignored or self.lists))
        in_place = into[1] is not None and upon(into[1], pred)
        divisor = c.size
        if not late or (c.bounded and in_place) or (weighted and mean and normalizer is None):
            for i in range(c.ranges):
                fl_run(DRIVERS.weigh[wide], &c, i, NULL)
            if c.bad:
                return None
            divisor = summed(partial, c.ranges)
        if normalizer is not None:
            divisor = normalizer
        elif reduction == "batchmean":
            divisor = cnp.PyArray_DIM(pred, 0) if pred.ndim else 1
        elif not mean:
            divisor = 1
        if not 2.0 ** -126 < abs(divisor) < 2.0 ** 126:  # else its inverse may be no number
            return None
        c.scale = 1 / divisor
        if reduction == "none" and not self.silent:
            into[0] = cnp.PyArray_EMPTY(axes, cnp.PyArray_DIMS(pred), cnp.PyArray_TYPE(pred), 0)
            lie(&c.loss, into[0], False)
        for i in range(1, self.order + 1):
            if into[i] is None:
                into[i] = cnp.PyArray_EMPTY(
                    pred.ndim, cnp.PyArray_DIMS(pred), cnp.PyArray_TYPE(pred), 0)
            lie(&c.grad if i == 1 else &c.hess, into[i], of_rows)
        ws = <fl_workspace*>fl_own() if scratch <= FL_OWN else workspace(scratch, &memory)
        if cnp.PyArray_SIZE(pred) <= HOLD_GIL:
            fl_run(driver, &c, 0, ws)
        else:
            with nogil:
                for i in range(c.ranges):
                    fl_run(driver, &c, i, ws)
        free(memory)
        if c.bad:
            return None
        if into[0] is None:
            into[0] = summed(partial, c.ranges) / divisor
        if self.results == "l":
            return into[0]
        if self.results == "g":
            return into[1]
        if self.results == "lg":
            return into[0], into[1]
        return tuple(into[self.silent:])


cdef double summed(double* partial, Py_ssize_t n) except? -1:
    return partial[0] if n == 1 else _sum([partial[i] for i in range(n)])


cdef inline int plain_code(object x) noexcept:
    # The operand code of a C-contiguous, aligned array in native byte order of floats, doubles or
    # integers; of all else 0.
    cdef cnp.ndarray a
    if type(x) is not cnp.ndarray or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x):
        return 0
    a = x
    if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT:
        return FL_F32
    if cnp.PyArray_TYPE(a) == cnp.NPY_DOUBLE:
        return FL_F64
    if cnp.PyArray_ISSIGNED(a):
        return 16 + cnp.PyArray_ITEMSIZE(a)
    return cnp.PyArray_ITEMSIZE(a) if cnp.PyArray_ISUNSIGNED(a) or cnp.PyArray_ISBOOL(a) else 0


cdef bint none_below_0(object x) noexcept:
    # Whether it is plain, of floats or doubles, and none of them below 0 or nan.
    cdef Py_ssize_t i
    cdef double value
    if not is_plain(x):
        return False
    for i in range(cnp.PyArray_SIZE(<cnp.ndarray>x)):
        if cnp.PyArray_TYPE(<cnp.ndarray>x) == cnp.NPY_DOUBLE:
            value = (<const double*>cnp.PyArray_DATA(<cnp.ndarray>x))[i]
        else:
            value = (<const float*>cnp.PyArray_DATA(<cnp.ndarray>x))[i]
        if not value >= 0:
            return False
    return True


cdef inline bint over_axes(object x, cnp.ndarray pred, int axes) noexcept:
    # Whether it is plain, and of the shape of the first axes.
    cdef int i
    if not plain_code(x) or (<cnp.ndarray>x).ndim != axes:
        return False
    for i in range(axes):
        if cnp.PyArray_DIM(<cnp.ndarray>x, i) != cnp.PyArray_DIM(pred, i):
            return False
    return True


cdef inline void lie(fl_operand* op, cnp.ndarray x, bint matrix) noexcept:
    # A plain operand; of a matrix the second axis are the classes.
    op.data = <char*>cnp.PyArray_DATA(x)
    op.code = plain_code(x)
    op.step = cnp.PyArray_ITEMSIZE(x)
    op.cols = cnp.PyArray_DIM(x, 1) if matrix else cnp.PyArray_SIZE(x)
    op.ndim = matrix
    op.shape = <const Py_ssize_t*>cnp.PyArray_DIMS(x)
    op.stride = <const Py_ssize_t*>cnp.PyArray_STRIDES(x)


cdef inline bint is_plain(object x) noexcept:
    # A C-contiguous, aligned, native float32 or float64 array.
    return plain_code(x) in (FL_F32, FL_F64)


cdef inline bint apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    # Whether two contiguous arrays share no byte.
    cdef char* begin_a = <char*>cnp.PyArray_DATA(a)
    cdef char* begin_b = <char*>cnp.PyArray_DATA(b)
    return begin_a + cnp.PyArray_NBYTES(a) <= begin_b or begin_b + cnp.PyArray_NBYTES(b) <= begin_a


cdef inline bint upon(cnp.ndarray a, cnp.ndarray b) noexcept:
    # Whether one of two contiguous arrays of a shape and a dtype lies exactly upon the other.
    return cnp.PyArray_DATA(a) == cnp.PyArray_DATA(b)


cdef inline bint no_threads(object n) except -1:
    # What is done here is done by the caller; what is no number of threads is the general way's.
    return n is None or (type(n) is int and n >= 1)


cdef class Method:
    """A loss's method: its function's, bound to a gate. Plain calls with nothing but the two arrays
    go straight to the kernel.
    """
    cdef readonly Gate __self__
    cdef readonly object __func__

    def __init__(self, function, Gate gate):
        self.__func__ = function
        self.__self__ = gate

    def __call__(self, *args, **kwargs):
        cdef Gate gate = self.__self__
        if gate.usual and len(args) == 2 and not kwargs:
            result = gate.plain(args[0], args[1], gate.usual_knobs, gate.usual_ignored, 0, None,
                                None, None, None, None, None)
            if result is not None:
                return result
        return self.__func__(gate, *args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.__func__, name)

    @property
    def __doc__(self):
        return self.__func__.__doc__

    @property
    def __signature__(self):
        own = self.__func__.__signature__
        return own.replace(parameters=list(own.parameters.values())[1:])

    def __eq__(self, other):
        return (type(other) is Method and self.__func__ is (<Method>other).__func__
                and self.__self__ is (<Method>other).__self__)

    def __hash__(self):
        return hash((self.__func__, id(self.__self__)))

    def __reduce__(self):
        return getattr, (self.__self__, self.__func__.__name__)

    def __repr__(self):
        return f"<method {self.__func__.__qualname__} of {self.__self__.loss!r}>"


cdef class ElementwiseGate(Gate):
    cdef object plain(self, pred, target, double* knobs, ignore_index, double smoothing,
                      per_class, weight, mask, reduction, normalizer, out):
        if (is_plain(pred) and plain_code(target)
                and 0 < cnp.PyArray_NBYTES(<cnp.ndarray>pred) <= serial
                and cnp.PyArray_SAMESHAPE(<cnp.ndarray>pred, <cnp.ndarray>target)):
            return self.small(pred, target, knobs, None, 0, per_class, weight, mask, reduction,
                              normalizer, out)
        return None

    def __call__(self, pred, target, tuple knobs=(), per_class=None, *, sample_weight=None,
                 mask=None, reduction=None, normalizer=None, out=None, num_threads=None,
                 **unknown):
        cdef double[4] values
        if unknown:
            raise self.loss.unknown(unknown)
        self.read_knobs(knobs, values)
        if self.optional_array and no_threads(num_threads) and self.results != "":
            result = self.plain(pred, target, values, None, 0, per_class, sample_weight, mask,
                                reduction, normalizer, out)
            if result is not None:
                return result
        return self.general(
            pred, target, tuple([values[i] for i in range(self.n_knobs)]), per_class=per_class,
            sample_weight=sample_weight, mask=mask, reduction=reduction, normalizer=normalizer,
            out=out, num_threads=num_threads)


cdef class PairsGate(Gate):
    def __call__(self, dict inputs, tuple knobs=(), *, sample_weight=None, mask=None,
                 reduction=None, normalizer=None, out=None, num_threads=None, **unknown):
        cdef double[4] values
        if unknown:
            raise self.loss.unknown(unknown)
        self.read_knobs(knobs, values)
        return self.general(
            inputs, tuple([values[i] for i in range(self.n_knobs)]), sample_weight=sample_weight,
            mask=mask, reduction=reduction, normalizer=normalizer, out=out,
            num_threads=num_threads)


cdef class RowsGate(Gate):
    cdef object plain(self, pred, target, double* knobs, ignore_index, double smoothing,
                      class_weight, weight, mask, reduction, normalizer, out):
        cdef bint integers
        if not (is_plain(pred) and plain_code(target) and (<cnp.ndarray>pred).ndim == 2
                and 0 < cnp.PyArray_NBYTES(<cnp.ndarray>pred) <= serial):
            return None
        integers = cnp.PyArray_ISINTEGER(<cnp.ndarray>target)  # no booleans
        if (<cnp.ndarray>target).ndim == 1:
            if not (self.labels and integers) or (
                    cnp.PyArray_DIM(<cnp.ndarray>target, 0)
                    != cnp.PyArray_DIM(<cnp.ndarray>pred, 0)):
                return None
        elif not (cnp.PyArray_SAMESHAPE(<cnp.ndarray>pred, <cnp.ndarray>target)
                  and ignore_index is None and (self.shares or self.lists and integers)):
            return None
        return self.small(pred, target, knobs, ignore_index, smoothing, class_weight, weight, mask,
                          reduction, normalizer, out)

    def __call__(self, pred, target, tuple knobs=(), *, class_weight=None, label_smoothing=0.0,
                 ignore_index=None, axis=-1, class_mask=None, sample_weight=None, mask=None,
                 reduction=None, normalizer=None, out=None, num_threads=None, **unknown):
        cdef double[4] values
        if unknown:
            raise self.loss.unknown(unknown)
        self.read_knobs(knobs, values)
        if (class_mask is None and no_threads(num_threads)
                and self.results != ""
                and type(label_smoothing) is float and (
                    label_smoothing == 0 or self.smooths and 0 < label_smoothing <= 1)
                and (ignore_index is None or self.labels
                     and type(ignore_index) is int and -2**62 < ignore_index < 2**62)
                and type(axis) is int and (axis == -1 or axis == 1)):
            result = self.plain(pred, target, values, ignore_index, label_smoothing,
                                class_weight, sample_weight, mask, reduction, normalizer, out)
            if result is not None:
                return result
        return self.general(
            pred, target, tuple([values[i] for i in range(self.n_knobs)]),
            class_weight=class_weight, label_smoothing=label_smoothing, ignore_index=ignore_index,
            axis=axis, class_mask=class_mask, sample_weight=sample_weight, mask=mask,
            reduction=reduction, normalizer=normalizer, out=out, num_threads=num_threads)
