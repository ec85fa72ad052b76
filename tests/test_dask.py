"""Dask arrays give what NumPy arrays give, lazily; a cluster of processes too."""

import json
import os
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from fastloss.__main__ import main
from fastloss.scoring import DTYPES, FIELDS
from samples import inputs

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")
fld = pytest.importorskip("fastloss.dask")

LOSSES = [loss for loss in fl.losses().values() if loss.kind in ("elementwise", "rows")]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def cut(a, n=7):
    return da.from_array(a, chunks=(n, *a.shape[1:]))


@every_loss
def test_every_loss_is_the_same(loss, rng):
    pred, target = inputs(loss, (20, 4))
    weight, keep = rng.uniform(size=20), rng.random(20) < 0.8
    lazy = getattr(fld, loss.name)
    plain = ({}, {})
    weighted = ({"sample_weight": weight}, {"sample_weight": cut(weight, 5)})
    masked = (
        {"sample_weight": 2.0, "mask": keep},
        {"sample_weight": 2.0, "mask": da.asarray(keep)},
    )
    for (options, of_dask), reduction in (
        (plain, "batchmean"),
        (weighted, "none"),
        (weighted, "mean"),
        (masked, "sum"),
    ):
        options, of_dask = ({**given, "reduction": reduction} for given in (options, of_dask))
        want = loss.value_grad_hess(pred, target, **options)
        value = lazy(cut(pred), cut(target), **of_dask)
        grad = lazy.grad(cut(pred), cut(target), **of_dask)
        got = lazy.value_grad_hess(cut(pred), cut(target, 6), **of_dask)
        assert all(isinstance(a, da.Array) for a in got)
        value, grad, got = dask.compute(value, grad, got)
        for number in (value, got[0]):
            assert_allclose(number, want[0], 1e-12, 1e-15)
        assert_array_equal(grad, want[1])
        for a, b in zip(got[reduction != "none" :], want[reduction != "none" :], strict=True):
            assert_array_equal(a, b)
            assert a.dtype == b.dtype
    divisor = lazy.normalizer(cut(pred), cut(target), sample_weight=cut(weight))
    want = loss.normalizer(pred, target, sample_weight=weight)
    assert divisor.compute() == pytest.approx(want)


def test_nothing_kept():
    z, y = np.ones((6, 3)), np.full(6, -1)
    options = {"ignore_index": -1}
    value, grad = fld.cross_entropy.value_and_grad(cut(z, 2), cut(y, 2), **options)
    assert np.isnan(value.compute()) and not grad.compute().any()
    assert np.isnan(fld.cross_entropy(cut(z, 2), cut(y, 2), **options).compute())


def test_bound_losses_axes_and_columns(rng):
    z, y = rng.normal(size=(20, 4)), rng.integers(4, size=20)
    bound = fld.cross_entropy.bind(temperature=2.0, reduction="sum")
    assert bound(cut(z), cut(y)).compute() == pytest.approx(
        fl.cross_entropy(z, y, temperature=2.0, reduction="sum")
    )
    turned = da.from_array(z.T, chunks=(4, 7))
    assert fld.poly_loss(turned, cut(y), axis=0).compute() == pytest.approx(fl.poly_loss(z, y))
    dataframe = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"p": z[:, 0], "t": z[:, 1], "w": abs(z[:, 2])})
    columns = dataframe.from_pandas(frame, npartitions=3)
    got = fld.huber_loss(columns["p"], columns["t"], sample_weight=columns["w"])
    want = fl.huber_loss(frame["p"], frame["t"], sample_weight=frame["w"])
    assert got.compute() == pytest.approx(want)
    each = fld.huber_loss(columns["p"], columns["t"], reduction="none").compute()
    assert_array_equal(each, fl.huber_loss(frame["p"], frame["t"], reduction="none"))


def rows(rng, dtype=np.float32):
    z = (3 * rng.standard_normal((40, 60))).round(1).astype(dtype)
    y = rng.integers(60, size=40)
    y[::3] = z[::3].argmax(-1)
    y[5], z[7, 3], z[8, 4], z[9], z[10] = -1, np.nan, np.inf, -np.inf, -80
    z[10, y[10]] = 0  # confident
    return z, y


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_scores_are_the_same_to_the_bit(rng, dtype):
    z, y = rows(rng, dtype)
    keep = rng.random(40) < 0.8
    options = {"fields": FIELDS, "topk": 5, "ignore_index": -1}
    want = fl.score(z, y, mask=keep, **options)
    got = fld.score(cut(z), cut(y), mask=cut(keep), **options)
    assert list(got) == list(want)
    for name, a in dask.compute(got)[0].items():
        assert_array_equal(a, want[name], name)
        assert got[name].dtype == a.dtype == want[name].dtype
        assert got[name].shape == a.shape
    loss = fl.softmax_focal_loss
    got = fld.score(cut(z), cut(y), loss=loss, ignore_index=-1)["loss"].compute()
    assert_array_equal(got, fl.score(z, y, loss=loss, ignore_index=-1)["loss"])


@pytest.mark.parametrize("chunks", [(7, 25), (40, 1), (3, 59)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_chunks_of_classes_are_merged(rng, dtype, chunks):
    z, y = rows(rng, dtype)
    keep = rng.random(40) < 0.8
    options = {"fields": FIELDS, "topk": 5, "ignore_index": -1}
    want = fl.score(z, y, mask=keep, **options)
    lazy = da.from_array(z, chunks=chunks)
    got = dask.compute(fld.score(lazy, cut(y), mask=keep, **options))[0]
    eps = np.finfo(dtype).eps
    for name, a in got.items():
        assert a.dtype == want[name].dtype
        if name in DTYPES:
            assert_array_equal(a, want[name], name)
        else:
            assert_allclose(a, want[name], 40 * eps, 4 * eps * (name == "lse"), err_msg=name)
    assert want["logprob"][10] != 0 or not keep[10]
    whole = rng.standard_normal((40, 60)).astype(dtype)
    cut_up, weight = da.from_array(whole, chunks=chunks), rng.uniform(size=40)
    for reduction in ("mean", "sum", "batchmean", "none"):
        options = {"ignore_index": -1, "reduction": reduction}
        got = fld.cross_entropy(cut_up, cut(y), sample_weight=cut(weight), **options).compute()
        same = fl.cross_entropy(whole, y, sample_weight=weight, **options)
        assert_allclose(got, same, 8 * eps)
    got = fld.poly_loss(cut_up, cut(y), ignore_index=-1).compute()
    assert got == pytest.approx(fl.poly_loss(whole, y, ignore_index=-1))


def test_sequences_and_their_chunks(rng):
    z, y = rng.standard_normal((6, 5, 30)), rng.integers(30, size=(6, 5))
    want = fl.score(z, y, fields=FIELDS, topk=2)
    for chunks in ((2, 5, 30), (4, 2, 30), (4, 2, 11)):
        got = fld.score(da.from_array(z, chunks=chunks), y, fields=FIELDS, topk=2)
        for name, a in dask.compute(got)[0].items():
            assert_allclose(a, want[name], 1e-12, err_msg=name)


def test_nothing_runs_before_compute_and_mistakes_are_seen_at_once(rng):
    def explode(block):
        raise RuntimeError("computed")

    z = da.map_blocks(explode, da.zeros((10, 3), chunks=5), dtype=np.float64)
    fld.score(z, np.zeros(10, int))
    fld.cross_entropy.value_and_grad(z, np.zeros(10, int))
    with pytest.raises(ValueError, match=r"^score: fields: expected some of"):
        fld.score(z, np.zeros(10, int), fields=["x"])
    with pytest.raises(ValueError, match=r"^cross_entropy: target: expected 10 on the first axis"):
        fld.cross_entropy(z, np.zeros(9, int))
    with pytest.raises(ValueError, match=r"^huber_loss: delta: expected a number > 0"):
        fld.huber_loss(z, z, delta=-1)
    with pytest.raises(TypeError, match=r"^huber_loss: out: is not for dask arrays"):
        fld.huber_loss(z, z, out=np.zeros(3))
    with pytest.raises(AttributeError, match="no attribute 'dice_loss'"):
        _ = fld.dice_loss
    bad = da.from_array(np.zeros((4, 6)), chunks=(2, 3))
    with pytest.raises(ValueError, match=r"^score: target: 9 is not a class label: .* < 6"):
        fld.score(bad, [0, 1, 9, 2])["lse"].compute()
    with pytest.raises(ValueError, match="axis: 2 is not one of pred's 2 axes"):
        fld.score(bad, [0, 1, 9, 2], axis=2)
    assert "score" in dir(fld) and "huber_loss" in dir(fld)


# ---- a cluster ----


def die_once(block, path):
    """Kill the worker at the first block that gets here."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return block
    os.kill(os.getpid(), 9)
    return block


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


# Sockets and loops that a killed worker's connections leave behind are dask's.
quietly = pytest.mark.filterwarnings("ignore")


@quietly
def test_a_killed_worker_loses_nothing(cluster, tmp_path, rng):
    from distributed import Client

    z = rng.standard_normal((400, 50)).astype(np.float32)
    y = rng.integers(50, size=400)
    want = fl.score(z, y, fields=FIELDS, topk=2)
    with Client(cluster) as client:
        lazy = da.from_array(z, chunks=(50, 50)).map_blocks(
            die_once, str(tmp_path / "dead"), meta=z[:0]
        )
        mean = fld.cross_entropy(lazy, cut(y, 50))
        scores = fld.score(lazy, cut(y, 50), fields=FIELDS, topk=2)
        got, mean = dask.compute(scores, mean, scheduler=client)
        assert (tmp_path / "dead").exists()
    for name, a in got.items():
        assert_array_equal(a, want[name], name)
    assert mean == pytest.approx(fl.cross_entropy(z, y), rel=1e-6)


@quietly
def test_the_command_on_a_cluster(cluster, tmp_path, monkeypatch, capsys, rng):
    monkeypatch.chdir(tmp_path)
    z = rng.standard_normal((3000, 300)).astype(np.float32)
    np.save("z.npy", z)
    np.save("y.npy", rng.integers(300, size=3000))
    args = ["score", "z.npy", "y.npy", "--topk", "2", "--chunk", "1", "--format", "json"]
    assert main([*args, "-o", "here.npy"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert main([*args, "-o", "there.npy", "--dask-scheduler", cluster.scheduler_address]) == 0
    assert json.loads(capsys.readouterr().out) == here
    assert (tmp_path / "there.npy").read_bytes() == (tmp_path / "here.npy").read_bytes()
    np.save("bad.npy", np.full(3000, 300))
    status = main(["score", "z.npy", "bad.npy", "--dask-scheduler", cluster.scheduler_address])
    assert status == 2
    assert "bad.npy: [0] is 300, expected 0 <= label < 300" in capsys.readouterr().err


@quietly
def test_no_cluster(tmp_path, monkeypatch, capsys):
    pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    np.save("z.npy", np.zeros((3, 2)))
    np.save("y.npy", np.zeros(3, int))
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["score", "z.npy", "y.npy", "--dask-scheduler", "tcp://127.0.0.1:1"]) == 2
    err = capsys.readouterr().err
    assert err.endswith("--dask-scheduler: needs distributed: pip install 'fastloss[dask]'\n")
