"""Sizes at the ends: no sample, no class, one class, a million of them, more than 2**31 elements.

Those of gigabytes are marked `large` and run by `pytest -m large -n 0` where 10 GiB are free.
"""

import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from samples import (
    LOSSES,
    METHODS,
    counts_memory,
    every_label_driver,
    every_loss,
    inputs,
    naive,
    results,
    run_python,
)

every_rows = pytest.mark.parametrize(
    "loss", [loss for loss in LOSSES if loss.kind == "rows"], ids=lambda loss: loss.name
)
HUGE = 2**31


def gibibytes_free():
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0


@pytest.fixture
def gibibytes():
    if gibibytes_free() < 10:
        pytest.skip("needs 10 GiB of free memory")


# More than 2**31 elements


@pytest.mark.large
def test_more_than_2_to_the_31_elements(gibibytes):
    """All are 0 but some on both sides of each power of two, in place."""
    n = HUGE + 40_961
    x = np.zeros(n, np.float16)
    at = np.array([0, 1, 2**30, HUGE - 1, HUGE, HUGE + 1, n - 1])
    x[at] = np.arange(1, 8)
    target = np.broadcast_to(np.int8(0), n)
    assert fl.mse_loss(x, target, reduction="sum") == np.sum(np.arange(1.0, 8) ** 2)
    assert fl.mse_loss.normalizer(x, target) == n
    kept = np.ones(n, bool)
    kept[[HUGE, n - 1]] = False
    value = fl.mse_loss(x, target, mask=kept)
    assert value == (np.sum(np.arange(1.0, 7) ** 2) - 25) / (n - 2)
    del kept
    value, grad = fl.mse_loss.value_and_grad(x, target, out=x, reduction="sum")
    assert value == np.sum(np.arange(1.0, 8) ** 2) and grad is x
    assert_array_equal(x[at], 2 * np.arange(1, 8))
    assert np.count_nonzero(x) == len(at)


@pytest.mark.large
def test_a_bad_target_past_2_to_the_31(gibibytes):
    n = HUGE + 40_961
    pred = np.broadcast_to(np.float32(1), n)
    target = np.zeros(n, np.uint8)
    target[HUGE + 7] = 2
    with pytest.raises(ValueError, match=rf"target\[{HUGE + 7}\] = 2 is not in"):
        fl.binary_cross_entropy_with_logits(pred, target)


@pytest.mark.large
@pytest.mark.parametrize("classes", [4, 1024, 2**20])
def test_rows_of_more_than_2_to_the_31_elements(classes, gibibytes):
    """A row's bits do not depend on where it is, so the rows of a call are those of a few."""
    n = HUGE // classes + 3
    few = np.random.default_rng(0).standard_normal((7, classes)).astype(np.float16)
    labels = np.arange(7) % classes
    pred = np.empty((n, classes), np.float16)
    pred[...] = 1
    at = [0, 1, n // 2, n - 4, n - 3, n - 2, n - 1]
    pred[at] = few
    target = np.zeros(n, np.int8 if classes < 100 else np.int32)
    target[at] = labels
    want, grad = fl.cross_entropy.value_and_grad(few, labels, reduction="none")
    got = fl.cross_entropy(pred, target, reduction="none")
    assert_array_equal(got[at], want)
    target[n - 2] = classes
    with pytest.raises(ValueError, match=rf"target\[{n - 2}\] = {classes} is not a class label"):
        fl.cross_entropy(pred, target)
    target[n - 2] = labels[-2]
    fl.cross_entropy.grad(pred, target, reduction="none", out=pred)
    assert_array_equal(pred[at], grad)


@pytest.mark.large
def test_more_than_2_to_the_31_rows(gibibytes):
    n = HUGE + 40_961
    pred = np.broadcast_to(np.float16(1), (n, 1))
    target = np.zeros(n, np.int8)
    assert fl.cross_entropy(pred, target, reduction="sum") == 0
    target[HUGE + 7] = -1
    assert fl.cross_entropy.normalizer(pred, target, ignore_index=-1) == n - 1
    with pytest.raises(ValueError, match=rf"target\[{HUGE + 7}\] = -1 is not a class label"):
        fl.cross_entropy(pred, target)


@pytest.mark.large
def test_a_row_of_more_than_2_to_the_31_classes(gibibytes):
    """All logits are 0 but the label's."""
    n = HUGE + 40_961
    pred = np.zeros((1, n), np.float16)
    pred[0, HUGE + 5] = 9
    value = fl.cross_entropy(pred, [HUGE + 5])
    assert_allclose(value, np.log1p((n - 1) * np.exp(-9.0)), rtol=1e-6)
    assert_allclose(fl.cross_entropy(pred, [n - 1]), value + 9, rtol=1e-6)
    grad = fl.cross_entropy.grad(pred, [HUGE + 5], out=pred, reduction="sum")
    p = 1 / (1 + (n - 1) * np.exp(-9.0))
    assert_allclose(grad[0, HUGE + 5], p - 1, rtol=1e-3)
    assert np.count_nonzero(grad) == 1  # the others' 5e-10 are none in float16
    with pytest.raises(ValueError, match="is not a class label"):
        fl.cross_entropy(pred, [n])


# The small ends


@every_rows
def test_no_class(loss):
    for shape in ((0, 0), (3, 0), (2, 3, 0)):
        pred = np.zeros(shape)
        target = pred if not loss.domain.labels else np.zeros(shape[:-1], int)
        if loss.domain.lists:
            target = np.zeros(shape, int)
        for method in METHODS:
            with pytest.raises(ValueError, match=f"{loss.name}: pred: has no classes: shape"):
                getattr(loss, method)(pred, target)


@every_rows
@pytest.mark.parametrize("n", [0, 1, 7, 50_000])
def test_one_class(loss, n, dtype):
    """A class alone is certain; what is not a probability has the naive formula's value."""
    pred, target = inputs(loss, (n,), dtype, 1)
    got = results(loss, "value_grad_hess", pred, target, reduction="none")
    assert got["l"].shape == (n,) and got["g"].shape == got["h"].shape == (n, 1)
    few = slice(7)
    assert_allclose(got["l"][few], naive(loss, pred[few], target[few]), rtol=1e-5, atol=1e-6)


@every_label_driver
def test_a_million_classes(loss):
    pred, target = inputs(loss, (1,), np.float32, 2**20)
    got = results(loss, "value_grad_hess", pred, target, reduction="none")
    assert_allclose(got["l"], naive(loss, pred.astype(float), target), rtol=1e-5)
    strided = np.empty((1, 2**21), np.float32)[:, ::2]
    strided[...] = pred
    again = results(loss, "value_grad_hess", strided, target, reduction="none")
    assert_allclose(again["g"], got["g"], rtol=1e-4, atol=1e-12)


def test_more_elements_than_any_memory_holds():
    """Of which many lie in one place: an error before the sizes in bytes no longer fit."""
    for n in (2**62, 2**63 - 1):
        x = np.broadcast_to(np.int8(3), n)
        for call in (fl.mse_loss, fl.mse_loss.normalizer, fl.rmse_loss, fl.dice_loss):
            with pytest.raises(ValueError, match=r"expected at most \d+ elements"):
                call(x, x)
    for shape in ((1, 2**60), (0, 2**60)):
        pred = np.broadcast_to(np.int8(3), shape)
        for loss in LOSSES:
            if loss.kind == "rows":
                target = np.zeros(shape[:1], int)
                target = target if loss.domain.labels else np.broadcast_to(np.int8(-1), shape)
                with pytest.raises(ValueError, match=r"expected at most \d+ (elements|classes)"):
                    loss(pred, target)


# Memory of a file


@every_loss
def test_arrays_in_files(loss, tmp_path, dtype):
    """Read-only inputs, outputs in a file, in place in a file and in a private copy of it."""
    pred, target = inputs(loss, (9_000,), dtype)
    want = results(loss, "value_grad_hess", pred, target)

    def mapped(name, array, mode):
        path = tmp_path / name
        if not path.exists():
            array.tofile(path)
        return np.memmap(path, array.dtype, mode, shape=array.shape)

    z, y = mapped("pred", pred, "r"), mapped("target", target, "r")
    assert_array_equal(results(loss, "value_grad_hess", z, y)["g"], want["g"])
    out = mapped("out", np.zeros_like(pred), "r+")
    assert loss.grad(z, y, out=out) is out
    out.flush()
    assert_array_equal(np.fromfile(tmp_path / "out", dtype).reshape(pred.shape), want["g"])
    with pytest.raises(ValueError, match="out: expected a writeable array"):
        loss.grad(z, y, out=mapped("out", out, "r"))
    private = mapped("pred", pred, "c")
    assert_array_equal(loss.grad(private, y, out=private), want["g"])
    assert_array_equal(z, pred)
    both = mapped("pred", pred, "r+")
    assert_array_equal(loss.grad(both, y, out=both), want["g"])
    assert_array_equal(z, want["g"])


# No memory

LIMIT = """
import resource
from pathlib import Path
import numpy as np
import fastloss as fl

hard = resource.getrlimit(resource.RLIMIT_AS)[1]

def limited(extra, call):
    # The call with so many bytes beyond what the process has.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, hard))
    try:
        return call()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
"""


@counts_memory
def test_no_memory_to_work_in():
    """Neither the caller nor a helper has room for a row; the row needs no memory by itself."""
    code = """
x = np.full(1_000_000, 3, np.float32)
y = np.ones_like(x)
pred, target = np.broadcast_to(np.float32(1), (3, 2**28)), np.broadcast_to(np.int8(-1), (3, 2**28))
print(fl.mse_loss(x, y, num_threads=3))
for n in (1, 3):
    try:
        limited(1 << 30, lambda: fl.multilabel_margin_loss(pred, target, num_threads=n))
    except MemoryError as error:
        print(error)
print(fl.mse_loss(x, y, num_threads=3))
"""
    first, *errors, last = run_python(LIMIT + code).splitlines()
    assert (first, last) == ("4.0", "4.0")
    assert len(errors) == 2 and all("bytes to work in" in error for error in errors)


@counts_memory
def test_any_allocation_may_fail():
    """Of any loss, with more and more memory: an error, until it is right, and right after that."""
    code = """
import gc, sys, time
sys.path.insert(0, PATH)
from samples import LOSSES, inputs

failed = 0
for loss in LOSSES:
    pred, target = inputs(loss, (200_000,), np.float32, 3)
    before = sys.getrefcount(pred), sys.getrefcount(target)
    want = loss.value_and_grad(pred, target, num_threads=2)
    for extra in (0, 1 << 16, 1 << 18, 1 << 20, 1 << 21, 1 << 22, 1 << 30):
        gc.collect()
        try:
            value, grad = limited(
                extra, lambda: loss.value_and_grad(pred, target, num_threads=2)
            )
        except MemoryError:
            failed += 1
            assert extra < 1 << 30
        else:
            assert value == want[0] and (grad == want[1]).all(), loss
        value, grad = loss.value_and_grad(pred, target, num_threads=2)
        assert value == want[0] and (grad == want[1]).all(), loss
    gc.collect()
    stop = time.monotonic() + 10  # a helper lets go of the call a moment after it
    while (sys.getrefcount(pred), sys.getrefcount(target)) != before:
        assert time.monotonic() < stop, loss
print(failed > len(LOSSES))
"""
    here = f"PATH = {os.path.dirname(__file__)!r}\n"
    assert run_python(here + LIMIT + code, MALLOC_MMAP_THRESHOLD_="65536") == "True"
