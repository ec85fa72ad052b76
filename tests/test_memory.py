"""Beyond the arrays it returns a call takes at most 1 MiB per thread, whatever comes in.

Where the neighbours in memory are rows, not classes, it may be 8 MiB: to read thousands of classes
one by one would take ten times as long. Of some losses of vectors it is up to 2 MiB.

Measured in a process of its own as the growth of the peak resident set, which Linux lets a process
reset, so a copy of the input that lives for a moment is seen too; with a fixed threshold malloc
maps and unmaps every such copy, so none hides in memory freed before.
"""

import ctypes
import json
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from samples import counts_memory, every_loss, inputs, run_python, softness

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resets /proc/self peak memory")

GROWTH = """
import json, re
from pathlib import Path
import numpy as np
import fastloss as fl

def status(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def growth(loss, *args, **kwargs):
    # Pages of code that were not in memory come in once; a copy of the input is made each time.
    least = grown(loss, *args, **kwargs)
    for _ in range(2):
        if least > 2**20:
            least = min(least, grown(loss, *args, **kwargs))
    return least

def grown(loss, *args, **kwargs):
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    returned = loss.value_and_grad(*args, **kwargs)
    grads = returned[1] if type(returned[1]) is tuple else (returned[1],)
    own = sum(grad.nbytes for grad in grads) if kwargs.get("out") is None else 0
    own += getattr(returned[0], "nbytes", 0)
    return (status("VmHWM") - before - own) / kwargs.get("num_threads", 1)

bce, ce = fl.binary_cross_entropy_with_logits, fl.cross_entropy
"""

MEASURE = """
n = 4_000_000
f4, f8, rng = np.float32, np.float64, np.random.default_rng(0)
x, y = rng.random((2, n), f4)
w = rng.random(n, f4)
wide, soft = rng.random((2, 64, 50257), f4)
few, labels = rng.random((n // 4, 3), f4), rng.integers(3, size=n // 4)
huge = rng.random((8, 300_000), f4)
wide_labels = np.arange(64)
for loss, data in ((bce, (x, y)), (ce, (few, labels)), (ce, (few, few))):
    for threads in (1, 2):  # the threads themselves, and code pages that the first use brings in
        loss.value_grad_hess(*data, num_threads=threads)
        loss.value_and_grad(data[0][::2], data[1][::2], num_threads=threads)
cases = {
    "contiguous": (bce, (x, y), {}),
    "two threads": (bce, (x, y), {"num_threads": 2}),
    "strided": (bce, (x[::2], y[1::2]), {}),
    "reversed": (bce, (x[::-1], y), {}),
    "transposed": (bce, (x.reshape(2000, 2000).T, y.reshape(2000, 2000)), {}),
    "byte-swapped": (bce, (x.astype(">f4"), y), {}),
    "integer pred": (fl.mse_loss, ((9 * x).astype(int), y), {}),
    "target of another dtype": (bce, (x, y.astype(f8)), {}),
    "broadcast target": (bce, (x, np.broadcast_to(f4(1), n)), {}),
    "weights": (bce, (x, y), {"sample_weight": w}),
    "strided weights": (bce, (x[::2], y[::2]), {"sample_weight": w[::2]}),
    "weights of another dtype": (bce, (x, y), {"sample_weight": (9 * w).astype(int)}),
    "mask": (bce, (x, y), {"mask": w > 0.5}),
    "mask and weights": (bce, (x, y), {"mask": w > 0.5, "sample_weight": w}),
    "per-sample loss": (bce, (x, y), {"reduction": "none"}),
    "in place": (bce, (x, y), {"out": x}),
    "in place, strided": (bce, (x[::2], y[::2]), {"out": x[::2]}),
    "out of another dtype": (bce, (x, y), {"out": np.ones(n)}),
    "short rows": (ce, (few, labels), {}),
    "short rows, uint8 labels": (ce, (few, labels.astype("u1")), {"num_threads": 2}),
    "short rows, weighted": (ce, (few, labels), {"sample_weight": w[: n // 4]}),
    "short rows, ignored": (ce, (few, labels), {"ignore_index": 1}),
    "short rows, class weights": (ce, (few, labels), {"class_weight": [1.0, 2.0, 3.0]}),
    "short rows, first axis": (ce, (few.reshape(3, -1), labels), {"axis": 0}),
    "short rows, strided labels": (ce, (few[::2], labels[::2]), {}),
    "short rows, byte-swapped": (ce, (few.astype(">f4"), labels.astype(">i8")), {}),
    "short rows, integers": (ce, ((9 * few).astype("i2"), labels), {}),
    "50257 classes": (ce, (wide, wide_labels), {"num_threads": 2}),
    "50257 classes, smoothed": (ce, (wide, wide_labels), {"label_smoothing": 0.1}),
    "50257 classes, soft": (ce, (wide, soft), {}),
    "50257 classes, soft float64": (ce, (wide, soft.astype(f8)), {}),
    "50257 classes, strided": (ce, (wide[:, ::2], wide_labels), {}),
    "50257 classes, byte-swapped": (ce, (wide.astype(">f4"), wide_labels), {}),
    "50257 classes, first axis": (ce, (wide.T, wide_labels), {"axis": 0}),
    "50257 classes, in place": (ce, (wide, wide_labels), {"out": wide}),
    "10000 classes, first axis": (ce, (wide[:, :10000].T, wide_labels), {"axis": 0}),
    "300000 classes": (ce, (huge, np.arange(8)), {}),
    "300000 classes, float64 strided": (ce, (huge.astype(f8)[:, ::2], np.arange(8)), {}),
    "300000 classes, weights": (ce, (huge, np.arange(8)), {"class_weight": huge[0] + 0.5}),
}
print(json.dumps({k: growth(f, *a, **{"num_threads": 1} | kw) for k, (f, a, kw) in cases.items()}))
"""


MEASURE_HALVES = """
try:
    from ml_dtypes import bfloat16
except ImportError:
    kinds = [np.float16]
else:
    kinds = [np.float16, bfloat16]
rng = np.random.default_rng(0)
found = {}
for kind in kinds:
    x, y = rng.random((2, 4_000_000), np.float32).astype(kind)
    few, labels = x.reshape(-1, 4), rng.integers(4, size=1_000_000)
    long = x[:3_200_000].reshape(64, 50000)
    for data in ((bce, x, y), (ce, few, labels), (ce, long, labels[:64])):
        data[0].value_and_grad(*data[1:])
        data[0].value_and_grad(*data[1:], out=np.zeros(data[1].shape, np.float32))
    for name, call, options in (
        ("plain", (bce, x, y), {}),
        ("in place", (bce, x, y), {"out": x}),
        ("per sample", (bce, x, y), {"reduction": "none"}),
        ("weights", (bce, x, y), {"sample_weight": y}),
        ("strided", (bce, x[::2], y[::2]), {}),
        ("into float32", (bce, x, y), {"out": np.ones(4_000_000, np.float32)}),
        ("short rows", (ce, few, labels), {}),
        ("long rows", (ce, long, labels[:64]), {}),
        ("long rows, in place", (ce, long, labels[:64]), {"out": long}),
        ("classes first", (ce, few.reshape(4, -1), labels), {"axis": 0}),
    ):
        found[f"{np.dtype(kind).name}, {name}"] = growth(
            call[0], *call[1:], num_threads=1, **options
        )
print(json.dumps(found))
"""


MEASURE_EVERY_LOSS = """
import sys
sys.path.insert(0, TESTS)
import samples, test_pairs, test_vectors

layouts = {
    "contiguous": lambda a: a,
    "strided": lambda a: a[::2],
    "reversed": lambda a: a[::-1],
    "Fortran": np.asfortranarray,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "of integers": lambda a: a.astype("i4"),
}
small, found = 1000, {}
for loss in fl.losses().values():
    if loss.kind == "set":  # of which an array more is documented
        continue
    if loss.kind in ("elementwise", "rows"):
        given = dict(zip(("pred", "target"), samples.inputs(loss, (600_000,), np.float32, 7)))
    elif loss.kind == "pairs":
        given = test_pairs.inputs(loss, (1_500_000,), np.float32)
    else:
        given = test_vectors.inputs(loss, (60_000,), 64, np.float32)
    for name, layout in layouts.items():
        if name == "of integers" and loss.kind != "vectors" and loss.pred is not samples.REAL:
            continue
        try:
            laid = {key: layout(a) for key, a in given.items()}
            of_rows = np.ones(len(next(iter(laid.values()))), "f4")
            loss.value_and_grad(**{key: a[:small] for key, a in laid.items()})
        except ValueError:  # a target that is no integer's
            assert name == "of integers"
            continue
        for options in ({}, {"sample_weight": of_rows, "mask": of_rows > 0}):
            case = f"{loss.name}, {name}, {'weighted' * bool(options)}"
            found[case] = growth(loss, **laid, **options)
print(json.dumps(found))
"""


# MiB, where it is not 1: losses of vectors work on a block of each input in float64.
MOST = {"10000 classes": 8, "elbo_loss": 2, "cosine_embedding_loss": 2, "cosine_distance_loss": 2}


@pytest.mark.parametrize(
    ("measure", "cases"),
    [
        (MEASURE, 37),
        (MEASURE_HALVES, 10),
        pytest.param(
            f"TESTS = {str(Path(__file__).parent)!r}\n" + MEASURE_EVERY_LOSS,
            500,
            marks=counts_memory,
        ),
    ],
    ids=["all", "halves", "every loss"],
)
def test_memory_beyond_the_results(measure, cases):
    grown = json.loads(run_python(GROWTH + measure, MALLOC_MMAP_THRESHOLD_="65536"))
    too_much = {
        case: f"{grew / 2**20:.2f} MiB"
        for case, grew in grown.items()
        if grew > MOST.get(case.split(", ")[0], 1) * 2**20
    }
    assert len(grown) >= cases and not too_much


CALLS = """
import gc, itertools, sys
from pathlib import Path
import numpy as np
import fastloss as fl
sys.path.insert(0, TESTS)
import samples, test_pairs, test_vectors

rng, calls = np.random.default_rng(0), []
for loss in fl.losses().values():
    methods = [loss, loss.grad, loss.value_and_grad]
    if loss.kind in ("elementwise", "rows"):
        methods += [loss.grad_and_hess, loss.value_grad_hess, loss.normalizer]
        given = samples.inputs(loss, (6,), np.float32)
        wrong = [(given[0], given[1][:-1]), (given[0].astype(complex), given[1])]
    elif loss.kind == "set":
        continue
    else:
        module = test_pairs if loss.kind == "pairs" else test_vectors
        given = tuple(module.inputs(loss, (6,)).values())
        wrong = [(given[0], *(x[:-1] for x in given[1:])), (None, *given[1:])]
    for method in methods:
        calls.append((method, given, {}))
        calls.append((method, given, {"mask": rng.random(6) > 0.5}))
        calls += [(method, args, {}) for args in wrong]
        calls.append((method, given, {"reduction": "max"}))
        calls.append((method, given, {"no_such": 1}))
for loss in (fl.dice_loss, fl.tversky_loss, fl.rmse_loss):
    calls.append((loss.grad, (np.ones(6), np.ones(6)), {}))
    calls.append((loss.grad, (np.ones(6), np.ones(5)), {}))
# Not float64's dtype: np.empty(n) of NumPy 2.4 leaves a reference to it.
watched = [None, np.dtype("f4"), np.dtype("i8"), np.ndarray, ValueError, calls[0][0]]
errors = 0

def rounds(n):
    # So many calls; the blocks of memory, the pages and the references that are left.
    global errors
    for method, args, options in itertools.islice(itertools.cycle(calls), n):
        try:
            method(*args, **options)
        except (TypeError, ValueError):
            errors += 1
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return sys.getallocatedblocks(), pages * 4096, [sys.getrefcount(x) for x in watched]

rounds(20_000)
blocks, size, references = rounds(20_000)
after = rounds(100_000)
more = after[0] - blocks, after[1] - size, [a - b for a, b in zip(after[2], references)]
print(abs(more[0]) < 1000 or more, more[1] < 2 << 20 or more, max(map(abs, more[2])) < 100 or more,
      errors > 50_000)
"""


@counts_memory
def test_a_hundred_thousand_calls_leave_nothing():
    """Errors among them: no block of memory, no page, no reference."""
    found = run_python(f"TESTS = {str(Path(__file__).parent)!r}\n" + CALLS)
    assert found == "True True True True"


def fenced(a, first):
    """A copy of `a` that begins where a page without access ends, or ends where one begins."""
    page, at = mmap.PAGESIZE, -(-a.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, at + 2 * page)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for edge in (begin, begin + page + at):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(edge), page, 0) == 0
    copy = np.frombuffer(memory, a.dtype, a.size, page if first else page + at - a.nbytes)
    copy = copy.reshape(a.shape)
    copy[...] = a
    return copy


@every_loss
@pytest.mark.parametrize("first", [True, False])
def test_nothing_beyond_an_array_is_touched(loss, first, dtype):
    """Not by a vector that is partly filled, nor by one before the first: it would be fatal."""
    if loss.kind == "elementwise":
        sizes = [((n,), 0) for n in (1, 7, 320, 1025)]
    else:
        sizes = [((n,), k) for n, k in ((70, 3), (70, 17), (65, 100), (3, 200), (2, 1030))]
    for (shape, classes), soft in ((size, soft) for size in sizes for soft in softness(loss)):
        pred, target = inputs(loss, shape, dtype=dtype, classes=classes, soft=soft)
        weight = np.linspace(1, 2, len(pred)).astype(dtype)
        value, grad = loss.value_and_grad(pred, target, sample_weight=weight)
        data = [fenced(a, first) for a in (pred, target, weight, np.empty_like(pred))]
        found, out = loss.value_and_grad(*data[:2], sample_weight=data[2], out=data[3])
        assert found == value
        np.testing.assert_array_equal(out, grad)
