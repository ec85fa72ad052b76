"""Scores of rows against plain NumPy, on every layout, and what may be asked of them."""

import sys

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from fastloss.scoring import DTYPES, FIELDS, TOPK

EMPTY = {name: {np.bool_: False}.get(DTYPES[name], -1) for name in DTYPES}  # else nan
# Rows side by side; one block, which is whole or not; several; labels in any of them.
SHAPES = [(1, 1), (70, 3), (130, 64), (65, 97), (9, 1024), (20, 2500), (3, 70000)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def plain(z, y, k):
    """The scores of rows of finite logits, in float64."""
    z, i = z.astype(np.float64), np.arange(len(y))
    top = z.max(-1)
    lse = top + np.log(np.exp(z - top[:, None]).sum(-1))
    logs = z - lse[:, None]
    others = z.copy()
    others[i, y] = -np.inf
    best = np.argsort(-z, -1, kind="stable")[:, :k]
    return {
        "logprob": logs[i, y],
        "loss": -logs[i, y],
        "lse": lse,
        "entropy": -(np.exp(logs) * logs).sum(-1),
        "margin": z[i, y] - others.max(-1),
        "confidence": np.exp(logs[i, y]),
        "argmax": z.argmax(-1),
        "rank": (z > z[i, y][:, None]).sum(-1),
        "correct": z.argmax(-1) == y,
        "topk": best,
        "topk_logprob": np.take_along_axis(logs, best, -1),
    }


def data(rng, shape, dtype=np.float32):
    """Logits, many of them equal, and labels, some of the highest class."""
    z = 3 * rng.standard_normal(shape)
    z[:, ::2] = z[:, ::2].round()
    y = rng.integers(shape[1], size=shape[0])
    y[::3] = z[::3].argmax(-1)
    return z.astype(dtype), y


def check(got, want, dtype=np.float32):
    rtol = 1e-12 if dtype == np.float64 else 2e-6
    for name, a in got.items():
        assert a.dtype == DTYPES.get(name, np.float64 if dtype == np.float64 else np.float32), name
        if name in DTYPES:
            assert_array_equal(a, want[name], name)
        else:
            assert_allclose(a, want[name], rtol, rtol, err_msg=name)


@every_shape
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_all_are_numpys(rng, shape, dtype):
    z, y = data(rng, shape, dtype)
    k = min(shape[1], 5)
    got = fl.score(z, y, fields=FIELDS, topk=k)
    assert list(got) == [*FIELDS, *TOPK]
    check(got, plain(z, y, k), dtype)


@every_shape
def test_each_alone_is_the_same(rng, shape, dtype):
    z, y = data(rng, shape, dtype)
    together = fl.score(z, y, fields=FIELDS, topk=1)
    for name in FIELDS:
        alone = fl.score(z, y, fields=[name])
        assert list(alone) == [name]
        if name == "lse":  # the sum is of more digits where these are asked for
            assert_allclose(alone[name], together[name], 4 * np.finfo(dtype).eps)
        else:
            assert_array_equal(alone[name], together[name], name)
    alone = fl.score(z, y, fields=(), topk=1)
    assert list(alone) == list(TOPK)
    for name in TOPK:
        assert_array_equal(alone[name], together[name])


@every_shape
def test_logprob_is_that_of_cross_entropy_to_the_bit(rng, shape, dtype):
    z, y = data(rng, shape, dtype)
    z[::2] *= 20  # confident
    want = -fl.cross_entropy(z, y, reduction="none")
    got = fl.score(z, y)["logprob"]
    if shape[1] < 65536:
        assert_array_equal(got, want)
    else:  # whose threads share a row
        assert_allclose(got, want, 8 * np.finfo(dtype).eps)


def test_threads_and_position_do_not_change_the_bits(rng, dtype):
    for shape in [(3000, 10), (700, 300), (40, 20000)]:
        z, y = data(rng, shape, dtype)
        want = fl.score(z, y, fields=FIELDS, topk=3, num_threads=1)
        halves = [
            fl.score(z[i], y[i], fields=FIELDS, topk=3) for i in np.split(np.arange(len(y)), 2)
        ]
        for name, a in fl.score(z, y, fields=FIELDS, topk=3, num_threads=3).items():
            assert_array_equal(a, want[name])
            assert_array_equal(np.concatenate([h[name] for h in halves]), a)


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "byte-swapped": lambda z: z.astype(z.dtype.newbyteorder()),
    "every third class": lambda z: np.repeat(z, 3, axis=1)[:, ::3],
    "backwards": lambda z: z[::-1, ::-1].copy()[::-1, ::-1],
    "unaligned": lambda z: np.frombuffer(b"?" + z.tobytes(), z.dtype, offset=1).reshape(z.shape),
    "read-only": lambda z: np.frombuffer(z.tobytes(), z.dtype).reshape(z.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(70, 3), (20, 2500), (200, 300)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_any_layout(rng, layout, shape, dtype):
    z, y = data(rng, shape, dtype)
    same = LAYOUTS[layout](z)
    assert_array_equal(same, z)
    for labels in (y.astype(np.uint16), y.astype(">i4"), np.repeat(y, 2)[::2]):
        check(fl.score(same, labels, fields=FIELDS, topk=2), plain(z, y, 2), dtype)


def test_integers_lists_scalars_and_nothing():
    z = np.array([[3, 1, 2], [0, 0, 0]])
    got = fl.score(z.tolist(), [1, 2], fields=FIELDS, topk=3)
    check(got, plain(z, np.array([1, 2]), 3), np.float64)
    row = fl.score([0.0, 2.0], 1, fields=FIELDS, topk=2)
    assert row["rank"].shape == () and row["topk"].shape == (2,)
    assert row["rank"] == 0 and row["topk"].tolist() == [1, 0]
    none = fl.score(np.zeros((0, 5), np.float32), np.zeros(0, int), fields=FIELDS, topk=2)
    assert none["topk"].shape == (0, 2) and none["lse"].dtype == np.float32


def test_axes_and_shifted_labels_without_a_copy(rng):
    b, t, v = 3, 9, 1500
    z = rng.standard_normal((b, t, v)).astype(np.float32)
    tokens = rng.integers(v, size=(b, t))
    want = plain(z[:, :-1].reshape(-1, v), tokens[:, 1:].ravel(), 4)
    got = fl.score(z[:, :-1], tokens[:, 1:], fields=FIELDS, topk=4)
    for name, a in got.items():
        assert a.shape == (b, t - 1) + (4,) * (name in TOPK)
    flat = {n: a.reshape(-1, 4) if n in TOPK else a.ravel() for n, a in got.items()}
    check(flat, want)
    for axis in (0, 1, -2):
        moved = np.moveaxis(z[:, :-1], -1, axis)
        for layout in (moved, np.ascontiguousarray(moved)):
            again = fl.score(layout, tokens[:, 1:], fields=FIELDS, topk=4, axis=axis)
            for name, a in again.items():
                assert_allclose(a, got[name], 1e-5, 1e-6)


def test_memory_maps_are_read_where_they_lie(rng, tmp_path):
    z, y = data(rng, (50, 700), np.float16)
    np.save(tmp_path / "z.npy", z)
    got = fl.score(np.load(tmp_path / "z.npy", mmap_mode="r"), y, fields=FIELDS, topk=2)
    check(got, plain(z, y, 2), np.float16)


def test_left_out_rows_are_not_read(rng, dtype):
    for shape in [(70, 3), (20, 2500)]:
        z, y = data(rng, shape, dtype)
        want = fl.score(z, y, fields=FIELDS, topk=2)
        keep = rng.random(shape[0]) < 0.5
        z[~keep] = np.nan
        for options in ({"mask": keep}, {"ignore_index": -100}):
            labels = np.where(keep, y, -100)
            got = fl.score(z, labels, fields=FIELDS, topk=2, **options)
            for name, a in got.items():
                assert_array_equal(a[keep], want[name][keep], name)
                empty = np.full_like(a[~keep], EMPTY.get(name, np.nan))
                assert_array_equal(a[~keep], empty, name)


def test_ties_go_to_the_lowest_index():
    for classes in (4, 3000):
        z = np.full((3, classes), -1.0)
        z[:, [1, classes - 1]] = 5
        y = np.array([1, classes - 1, 0])
        got = fl.score(z, y, fields=("argmax", "rank", "correct", "margin"), topk=3)
        assert got["argmax"].tolist() == [1, 1, 1]
        assert got["rank"].tolist() == [0, 0, 2]
        assert got["correct"].tolist() == [True, False, False]
        assert got["margin"].tolist() == [0, 0, -6]
        assert got["topk"].tolist() == [[1, classes - 1, 0]] * 3


@pytest.mark.parametrize("classes", [3, 200, 3000])
@pytest.mark.parametrize("label", [0, 2, -1])
def test_special_rows(classes, label, dtype):
    """Of nan, of inf, of -inf alone, of -inf but for one; whether sums are asked for or not."""
    y = np.full(5, label % classes)
    z = np.zeros((5, classes), dtype)
    z[0, 1] = np.nan
    z[1, 1] = np.inf
    z[2] = -np.inf
    z[3] = -np.inf
    z[3, 1] = 2
    z[4, label] = np.nan
    every = fl.score(z, y, fields=FIELDS, topk=2)
    argmax = fl.score(z, y, fields=("argmax", "rank", "correct", "margin"))
    for row in (0, 4):
        for name, a in every.items():
            assert_array_equal(a[row], np.full_like(a[row], EMPTY.get(name, np.nan)), name)
    for name, a in argmax.items():
        assert_array_equal(a, every[name])
    assert every["argmax"][1:4].tolist() == [1, 0, 1]
    assert every["rank"][1:4].tolist() == [1, 0, 1]
    assert every["lse"][1:4].tolist() == [np.inf, -np.inf, 2]
    assert_array_equal(every["logprob"][1:4], [np.nan, np.nan, -np.inf])
    assert every["entropy"][3] == every["confidence"][3] == 0
    assert every["topk"][1:4].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert_array_equal(every["topk_logprob"][3], [0, -np.inf])


@pytest.mark.parametrize("classes", [3, 200, 3000])
def test_confident_rows_lose_nothing(classes):
    """Of float32 too: the others' share is 1e-30 of the row."""
    z = np.full((2, classes), -70.0, np.float32)
    z[:, 1] = 0
    y = np.array([1, 0])
    others = (classes - 1) * np.exp(-70.0)
    got = fl.score(z, y, fields=FIELDS, topk=2)
    eps = 1e-6
    assert_allclose(got["logprob"], [-others, -70], eps)
    assert_allclose(got["lse"], others, eps)
    assert_allclose(fl.score(z, y, fields=("lse",))["lse"], others, eps)
    assert_allclose(got["entropy"], others * 71, eps)
    assert_allclose(got["confidence"], [1, np.exp(-70.0)], eps)
    assert_allclose(got["topk_logprob"], [[-others, -70]] * 2, eps)


@pytest.mark.parametrize("k", [1, 7, 64, 300])
def test_topk_of_rows_that_rise_fall_and_stay(rng, k):
    for classes in (k, 500, 5000):
        if k > classes:
            continue
        z = np.stack(
            [np.arange(classes), -np.arange(classes), np.zeros(classes), rng.normal(size=classes)]
        )
        y = np.array([0, classes - 1, classes // 2, 0])
        for layout in (z, np.asfortranarray(z)):
            got = fl.score(layout, y, fields=(), topk=k)
            assert_array_equal(got["topk"], np.argsort(-z, -1, kind="stable")[:, :k])
            logs = fl.log_softmax(z)
            assert_allclose(got["topk_logprob"], np.take_along_axis(logs, got["topk"], -1), 1e-12)


def test_loss_is_any_of_rows_or_elements(rng):
    z, y = data(rng, (50, 6))
    keep = rng.random(50) < 0.7
    for loss in (fl.softmax_focal_loss.bind(gamma=3.0), fl.cross_entropy.bind(temperature=2.0)):
        got = fl.score(z, y, loss=loss, mask=keep)
        assert list(got) == ["logprob", "lse", "argmax", "loss"]
        want = np.where(keep, loss(z, y, reduction="none", mask=keep), np.nan)
        assert_array_equal(got["loss"], want)
    labels = np.where(keep, y, 9)
    got = fl.score(z.T, labels, fields=(), loss=fl.poly_loss, ignore_index=9, axis=0)["loss"]
    want = fl.poly_loss(z, labels, ignore_index=9, reduction="none")
    assert_allclose(got, np.where(keep, want, np.nan), 1e-6)
    same = fl.score(z, y, fields=("loss",), loss=fl.cross_entropy)["loss"]
    assert_array_equal(same, fl.cross_entropy(z, y, reduction="none"))

    soft = fl.softmax(z)
    got = fl.score(z, soft, fields=(), loss=fl.kl_div_with_logits)
    assert_array_equal(got["loss"], fl.kl_div_with_logits(z, soft, reduction="none"))
    got = fl.score(z, z + 1, fields=(), loss=fl.huber_loss.bind(delta=0.5), mask=keep)["loss"]
    assert got.shape == z.shape
    assert_array_equal(got[keep], fl.huber_loss(z, z + 1, delta=0.5, reduction="none")[keep])
    assert np.isnan(got[~keep]).all()


def test_out(rng):
    z, y = data(rng, (40, 300))
    want = fl.score(z, y, fields=FIELDS, topk=3)
    out = {n: np.zeros_like(np.repeat(a, 2, 0))[::2] for n, a in want.items()}
    got = fl.score(z, y, fields=FIELDS, topk=3, out=out)
    for name, a in got.items():
        assert a is out[name]
        assert_array_equal(a, want[name])
    wide = {"lse": np.zeros(40, np.float64), "entropy": np.zeros(40, np.float16)}
    got = fl.score(z, y, fields=("lse", "entropy", "rank"), out=wide)
    assert_array_equal(wide["lse"].astype(np.float32), want["lse"])
    assert_array_equal(wide["entropy"], want["entropy"].astype(np.float16))
    assert_array_equal(got["rank"], want["rank"])
    each = np.zeros(40)
    got = fl.score(z, y, fields=(), loss=fl.poly_loss, out={"loss": each})
    assert got["loss"] is each and each.all()


Z, Y = np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0])
ERRORS = [
    ((Z, [0, 1, 3, 0]), {}, ValueError, r"target\[2\] = 3 is not a class label: .* < 3"),
    ((Z, [0, -1, 3, 0]), {"ignore_index": -1}, ValueError, r"target\[2\] = 3"),
    ((Z, Y[:3]), {}, ValueError, r"target: expected class labels of shape \(4,\) .*, got .*\(3,\)"),
    ((Z.T, Y), {}, ValueError, r"target: .*; the classes may be on axis=0"),
    ((Z, np.eye(4, 3)), {}, ValueError, r"target: .*; of one-hot rows target.argmax\(1\)"),
    ((Z, Y * 1.0), {}, TypeError, r"target: expected integer labels, got float64; .*astype"),
    ((Z[:, :0], Y), {}, ValueError, r"logits: has no classes: shape \(4, 0\)"),
    ((Z, Y), {"axis": 2}, ValueError, r"axis: 2 is not one of the logits' 2 axes"),
    ((["a"], Y), {}, TypeError, "logits: expected float32"),
    ((Z, Y), {"fields": "lse"}, TypeError, "fields: expected a sequence of names, got 'lse'"),
    ((Z, Y), {"fields": ["nll"]}, ValueError, "fields: expected some of logprob, .*, got 'nll'"),
    ((Z, Y), {"fields": ["topk"]}, ValueError, "fields: .* got 'topk'"),
    ((Z, Y), {"topk": 4}, ValueError, "topk: expected 0 to the 3 classes, got 4"),
    ((Z, Y), {"topk": -1}, ValueError, "topk: expected 0 to the 3 classes, got -1"),
    ((Z, Y), {"topk": 1.5}, TypeError, "topk: expected an integer, got 1.5"),
    ((Z, Y), {"loss": "huber"}, TypeError, "loss: expected a Loss, got 'huber'"),
    ((Z, Y), {"loss": fl.dice_loss}, ValueError, "loss: expected one of elements or rows"),
    ((Z, Y), {"loss": fl.mse_loss}, ValueError, r"fields: logprob is of rows .* fields=\(\)"),
    (
        (Z, Y),
        {"loss": fl.mse_loss, "fields": ()},
        ValueError,
        r"target: expected pred's shape \(4, 3\)",
    ),
    (
        (Z, Z),
        {"loss": fl.mse_loss, "fields": (), "ignore_index": 0},
        ValueError,
        "ignore_index: needs labels of rows; use mask",
    ),
    ((Z, Y), {"mask": [1, 0, 1, 1]}, TypeError, "mask: expected bool, got int64"),
    ((Z, Y), {"mask": [True, False]}, ValueError, "mask: expected a scalar, the leading axes"),
    ((Z, Y), {"num_threads": 0}, ValueError, "num_threads: expected an integer >= 1, got 0"),
    ((Z, Y), {"out": [1]}, TypeError, "out: expected a dict of arrays"),
    ((Z, Y), {"out": {"rank": Y}}, ValueError, "out: 'rank' is not asked for; logprob, lse, argm"),
    ((Z, Y), {"out": {"lse": Y}}, TypeError, "out: expected float32, float64, .*, got int64"),
    ((Z, Y), {"out": {"argmax": np.zeros(4)}}, TypeError, "out: expected int64, got float64"),
    ((Z, Y), {"out": {"lse": np.zeros(3)}}, ValueError, r"out: expected shape \(4,\), got \(3,\)"),
    ((Z, Y), {"out": {"lse": Z[:, 0]}}, ValueError, "out: overlaps logits"),
]


@pytest.mark.parametrize(("args", "options", "kind", "message"), ERRORS)
def test_errors(args, options, kind, message):
    with pytest.raises(kind, match=f"^score: {message}"):
        fl.score(*args, **options)


def test_two_outs_must_be_apart():
    a = np.zeros(4)
    with pytest.raises(ValueError, match=r"^score: out: lse overlaps another"):
        fl.score(Z, Y, out={"lse": a, "logprob": a})


def test_nothing_is_written_for_a_wrong_label(rng):
    z, y = data(rng, (5000, 30))
    y[-1] = 30
    lse = np.full(5000, 7.0)
    with pytest.raises(ValueError, match=r"target\[4999\] = 30"):
        fl.score(z, y, out={"lse": lse})
    assert (lse == 7).all()


def test_nothing_of_the_logits_size_is_made(rng):
    resource = pytest.importorskip("resource")
    z = np.zeros((400, 50000), np.float16)
    y = rng.integers(50000, size=400)
    fl.score(z, y, fields=FIELDS, topk=10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fl.score(z, y, fields=FIELDS, topk=10)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * (1 if sys.platform == "darwin" else 1024) < 4 << 20


def test_batches_are_scored_one_by_one_and_their_totals_those_of_all(rng):
    z, y = data(rng, (300, 40))
    y[::7] = -1
    weight, keep = rng.uniform(size=300), rng.random(300) < 0.9
    segments = rng.choice(["a", "b", "c"], 300)
    whole = fl.score(z, y, fields=FIELDS, topk=3, mask=keep, ignore_index=-1)

    def batches(begin, end):
        for i in range(begin, end, 37):
            part = slice(i, min(i + 37, end))
            extra = {"mask": keep[part], "sample_weight": weight[part], "segments": segments[part]}
            yield z[part], y[part], extra

    meters = [fl.LossMeter(), fl.LossMeter()]
    options = {"fields": FIELDS, "topk": 3, "ignore_index": -1}
    found = [
        *fl.score_batches(batches(0, 150), meter=meters[0], **options),
        *fl.score_batches(batches(150, 300), meter=meters[1], **options),
    ]
    for name, a in whole.items():
        assert_array_equal(np.concatenate([each[name] for each in found]), a)
    total = meters[0] + meters[1]
    counts = keep & (y != -1)
    loss, right = whole["loss"].astype(float), whole["correct"]

    def mean(of, where):
        return pytest.approx(np.average(of[where], weights=weight[where]), rel=1e-14)

    assert total.mean == mean(loss, counts)
    assert total.weight == pytest.approx(weight[counts].sum(), rel=1e-14)
    assert total.perplexity == pytest.approx(np.exp(total.mean), rel=1e-15)
    assert total.accuracy == mean(right, counts)
    assert set(total.classes) == set(y[counts].tolist())
    for label, meter in total.classes.items():
        assert meter.mean == mean(loss, counts & (y == label))
    assert {s: m.mean for s, m in total.segments.items()} == {
        s: mean(loss, counts & (segments == s)) for s in "abc"
    }


def test_batches_of_other_losses_and_only_what_is_asked_for(rng):
    z, y = rng.normal(size=(2, 20, 3))
    meter = fl.LossMeter()
    stream = [(z[:8], y[:8]), (z[8:], y[8:], {"sample_weight": np.arange(12.0)})]
    found = list(fl.score_batches(stream, fields=(), loss=fl.huber_loss, meter=meter))
    assert [list(each) for each in found] == [["loss"]] * 2
    weight = np.concatenate([np.ones(8), np.arange(12.0)])
    assert meter.mean == pytest.approx(fl.huber_loss(z, y, sample_weight=weight), rel=1e-14)
    assert not meter.classes and np.isnan(meter.accuracy)
    (only,) = fl.score_batches([(Z, Y)], meter=fl.LossMeter(), fields=("rank",))
    assert list(only) == ["rank"]


def test_bad_batches_are_named():
    for batch, message in (
        (Z, r"got .*ndarray.* as number 1"),
        ((Z,), "as number 1"),
        ((Z, Y, {"weight": 1}), "unexpected option 'weight' of number 1; there are mask"),
    ):
        with pytest.raises(TypeError, match=f"^score_batches: batches: .*{message}"):
            list(fl.score_batches([(Z, Y), batch]))
    with pytest.raises(ValueError, match=r"^score: target\[0\] = 9"):
        list(fl.score_batches([(Z, Y), (Z, Y + 9)]))


def test_a_stream_takes_the_memory_of_a_batch(rng):
    resource = pytest.importorskip("resource")
    z, y = np.zeros((100, 20000), np.float32), rng.integers(5, size=100)
    meter = fl.LossMeter()

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for _ in fl.score_batches(((z, y) for _ in range(20)), meter=meter):
        pass
    before = peak()
    for _ in fl.score_batches(((z + i, y) for i in range(50)), meter=meter):
        pass
    factor = 1 if sys.platform == "darwin" else 1024
    assert (peak() - before) * factor < 4 * z.nbytes
    assert meter.weight == 7000


@pytest.mark.parametrize("classes", [2, 5, 130, 1500])
@pytest.mark.parametrize("scale", [0.1, 3, 30])
def test_scores_are_exact_but_for_the_rounding_of_differences(rng, dtype, classes, scale):
    mpmath = pytest.importorskip("mpmath")
    z = (scale * rng.standard_normal((6, classes))).astype(dtype)
    z[1] -= z[1].max()  # log-sum-exp near 0
    y = rng.integers(classes, size=6)
    y[0], y[1] = z[0].argmax(), z[1].argmax()
    every = fl.score(z, y, fields=FIELDS, topk=2)
    every["alone"] = fl.score(z, y, fields=("lse",))["lse"]
    eps = float(np.finfo(dtype).eps)
    for i, row in enumerate(z.astype(float)):
        with mpmath.workprec(600):
            e = [mpmath.exp(mpmath.mpf(x)) for x in row]
            total = sum(e)
            p = [x / total for x in e]
            lse, top = mpmath.log(total), float(row.max())
            logs = [mpmath.mpf(x) - lse for x in row]
            # -log p of a confident row, from what the others have
            own = mpmath.log1p(sum(x for k, x in enumerate(e) if k != y[i]) / e[y[i]])
            entropy = -sum(x * log for x, log in zip(p, logs, strict=True) if x)
            spread = 4 + top - float(row.min())
            rest = abs(lse - top)
            want = {
                "logprob": (-own, 4 * own),
                "lse": (lse, 4 * (abs(lse) + abs(top) + rest)),
                "alone": (lse, 4 * (abs(lse) + abs(top) + rest)),
                "entropy": (entropy, (4 + spread) * entropy),
                "confidence": (p[y[i]], spread * p[y[i]]),
                "topk_logprob": (logs[every["topk"][i, 1]], 4 * abs(logs[every["topk"][i, 1]])),
            }
            for name, (exact, bound) in want.items():
                got = every[name][i] if name != "topk_logprob" else every[name][i, 1]
                error = abs(mpmath.mpf(float(got)) - exact)
                assert error <= bound * eps + float(np.finfo(dtype).tiny), (name, i, error / eps)
