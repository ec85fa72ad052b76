"""`fastloss score` by the files and options that a person gives it, and all that may go wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastloss as fl
from fastloss import _files, _report, _score_command
from fastloss.__main__ import main

ROWS, CLASSES = 500, 30
KEYS = ["count", "mean", "stderr", "perplexity", "accuracy", "quantiles", "worst"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to be in, with logits and labels as .npy."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    z = 3 * rng.standard_normal((ROWS, CLASSES)).astype(np.float32)
    y = rng.integers(CLASSES, size=ROWS)
    y[::2] = z[::2].argmax(-1)
    np.save("z.npy", z)
    np.save("y.npy", y)
    return tmp_path


def arrays():
    return np.load("z.npy"), np.load("y.npy")


def score(*args):
    """The exit status of the command."""
    return main(["score", *map(str, args)])


def fails(capsys, *args):
    """The one line on stderr that it fails with; nothing is left under the output's name."""
    assert score(*args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastloss score: ") and err.count("\n") == 1
    assert not any(
        path.name.startswith("out.") for path in Path().iterdir() if "partial" not in path.name
    )
    return err.removeprefix("fastloss score: ").rstrip("\n")


def figures(capsys, *args):
    assert score(*args, "--format", "json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert list(found) == KEYS
    return found


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_figures_are_numpys(folder, capsys, monkeypatch, chunk_rows):
    z, y = arrays()
    monkeypatch.setattr(_files.Records, "BLOCK", 33)
    monkeypatch.setattr(_score_command, "_rows", lambda opened, size: chunk_rows)
    found = figures(capsys, "z.npy", "y.npy", "-o", "out.npy", "--worst", 5)
    losses = fl.cross_entropy(z, y, reduction="none")
    exact = losses.astype(np.float64)
    assert found["count"] == ROWS
    assert found["mean"] == pytest.approx(exact.mean(), rel=1e-14)
    assert found["stderr"] == pytest.approx(exact.std(ddof=1) / ROWS**0.5, rel=1e-12)
    assert found["perplexity"] == pytest.approx(np.exp(exact.mean()), rel=1e-12)
    assert found["accuracy"] == np.mean(z.argmax(-1) == y)
    for q, x in found["quantiles"].items():
        assert x == np.quantile(losses, float(q), method="inverted_cdf")
    worst = np.argsort(-losses, kind="stable")[:5]
    assert found["worst"] == [
        {"row": i, "loss": losses[i], "target": y[i], "argmax": z[i].argmax()} for i in worst
    ]
    records = np.load("out.npy", allow_pickle=False)
    assert_array_equal(records["loss"], losses)
    assert_array_equal(records["argmax"], z.argmax(-1))
    assert_array_equal(records["correct"], z.argmax(-1) == y)
    assert sorted(os.listdir()) == ["out.npy", "y.npy", "z.npy"]


def test_text(folder, capsys):
    assert score("z.npy", "y.npy", "--worst", 2) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[0] for line in out.splitlines()] == [*KEYS[:-1], "worst", "worst"]
    assert "label" in out.splitlines()[-1]


def test_topk_fields_weights_and_rows_left_out(folder, capsys):
    z, y = arrays()
    weight = np.random.default_rng(1).uniform(size=ROWS).astype(np.float32)
    weight[:50] = 0
    y[:60] = -100
    np.save("y.npy", y)
    np.save("w.npy", weight)
    found = figures(
        capsys, "z.npy", "y.npy", "--weight", "w.npy", "--ignore-index", "-100", "--topk", 3,
        "--fields", "entropy,rank,loss", "-o", "out.npy", "--threads", 1,
    )  # fmt: skip
    losses = fl.cross_entropy(z[60:], y[60:], reduction="none").astype(np.float64)
    assert found["count"] == ROWS - 60
    assert found["mean"] == pytest.approx(np.average(losses, weights=weight[60:]), rel=1e-12)
    records = np.load("out.npy")
    want = fl.score(z, y, fields=("entropy", "rank"), topk=3, ignore_index=-100)
    names = ("loss", "argmax", "correct", "entropy", "rank", "topk", "topk_logprob")
    assert records.dtype.names == names
    for name, a in want.items():
        assert_array_equal(records[name], a)
    assert np.isnan(records["loss"][:60]).all()


def test_other_losses_and_knobs(folder, capsys):
    z, y = arrays()
    found = figures(capsys, "z.npy", "y.npy", "--loss", "poly_loss", "--set", "epsilon=0.5")
    assert found["mean"] == pytest.approx(fl.poly_loss(z, y, epsilon=0.5), rel=1e-6)
    assert found["perplexity"] is None and found["accuracy"] is not None
    np.save("p.npy", z[:, 0])
    np.save("t.npy", z[:, 1])
    found = figures(
        capsys, "p.npy", "t.npy", "--loss", "huber_loss", "--set", "delta=2", "-o", "out.npy"
    )
    each = fl.huber_loss(z[:, 0], z[:, 1], delta=2.0, reduction="none")
    assert found["accuracy"] is None and found["perplexity"] is None
    assert found["worst"][0] == {"row": each.argmax(), "loss": each.max()}
    assert_array_equal(np.load("out.npy")["loss"], each)
    np.save("soft.npy", fl.softmax(z + 1e-3 * z**2))
    np.save("w.npy", np.arange(ROWS))
    found = figures(capsys, "z.npy", "soft.npy", "--loss", "kl_div_with_logits")
    assert found["mean"] == pytest.approx(
        fl.kl_div_with_logits(z, np.load("soft.npy"), reduction="batchmean"), rel=1e-6
    )
    weighted = figures(capsys, "z.npy", "soft.npy", "--loss", "mse_loss", "--weight", "w.npy")
    assert weighted["count"] == (ROWS - 1) * CLASSES
    want = fl.mse_loss(z, np.load("soft.npy"), sample_weight=np.arange(ROWS))
    assert weighted["mean"] == pytest.approx(want, rel=1e-6)


def test_sequences(folder, capsys):
    z, y = arrays()
    np.save("zz.npy", z.reshape(50, 10, CLASSES))
    np.save("yy.npy", y.reshape(50, 10))
    for weight in ((50,), (50, 10)):
        np.save("ww.npy", np.ones(weight))
        found = figures(capsys, "zz.npy", "yy.npy", "-o", "out.npy", "--weight", "ww.npy")
        assert found == figures(capsys, "z.npy", "y.npy")
        assert len(np.load("out.npy")) == ROWS


def forms(z, y):
    """The files that hold the same, and how they are called."""
    np.savez("plain.npz", logits=z, targets=y)
    np.savez_compressed("packed.npz", a=z, b=y)
    yield "plain.npz", "plain.npz"
    yield "packed.npz::a", "packed.npz::b"
    np.save("swapped.npy", z.astype(">f4"))
    np.save("small.npy", y.astype(np.uint8))
    yield "swapped.npy", "small.npy"
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"logits": z, "labels": y}, "a.safetensors")
    yield "a.safetensors", "a.safetensors"
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group("a.zarr", mode="w")
    for name, a in (("logits", z), ("labels", y)):
        group.create_array(name, shape=a.shape, dtype=a.dtype, chunks=(64, *a.shape[1:]))[:] = a
    yield "a.zarr", "a.zarr"
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    flat = arrow.array(z.reshape(-1))
    for i, lists in enumerate(
        (
            arrow.FixedSizeListArray.from_arrays(flat, CLASSES),
            arrow.ListArray.from_arrays(np.arange(0, z.size + 1, CLASSES, dtype=np.int32), flat),
        )
    ):
        table = arrow.table({"id": np.arange(len(y)), "logits": lists, "label": arrow.array(y)})
        parquet.write_table(table, f"{i}.parquet", row_group_size=77)
        yield f"{i}.parquet", f"{i}.parquet::label"
        with (
            arrow.OSFile(f"{i}.arrow", "wb") as sink,
            arrow.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table, max_chunksize=77)
        yield f"{i}.arrow", f"{i}.arrow"


def test_every_kind_of_file_says_the_same(folder, capsys, monkeypatch):
    monkeypatch.setattr(_files.Records, "BLOCK", 90)
    want = figures(capsys, "z.npy", "y.npy")
    kinds = list(forms(*arrays()))
    assert len(kinds) == 9
    monkeypatch.setattr(_score_command, "_rows", lambda opened, size: 90)
    for logits, targets in kinds:
        assert figures(capsys, logits, targets) == want, logits
        again = figures(capsys, logits, targets, "-o", "out.npy")
        assert again == want


def test_bfloat16_of_safetensors(folder, capsys):
    safetensors = pytest.importorskip("safetensors.numpy")
    z, y = arrays()
    z = z.astype(ml_dtypes.bfloat16)
    safetensors.save_file({"z": z}, "z.safetensors")
    found = figures(capsys, "z.safetensors", "y.npy")
    assert found["mean"] == pytest.approx(fl.cross_entropy(z, y), rel=1e-6)


def test_parquet_out(folder, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    z, y = arrays()
    figures(capsys, "z.npy", "y.npy", "-o", "out.parquet", "--topk", 2)
    table = parquet.read_table("out.parquet")
    want = fl.score(z, y, topk=2)
    assert table.column_names == ["loss", "argmax", "correct", "topk", "topk_logprob"]
    assert_array_equal(table["argmax"], want["argmax"])
    assert_allclose(table["loss"], -want["logprob"])
    assert table["topk"].to_pylist() == want["topk"].tolist()
    assert sorted(os.listdir()) == ["out.parquet", "y.npy", "z.npy"]


@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_plot(folder, capsys, kind):
    image = pytest.importorskip("matplotlib.image")
    if kind == "labels":
        figures(capsys, "z.npy", "y.npy", "--plot", "p.png")
    else:
        figures(capsys, "z.npy", "z.npy", "--loss", "mse_loss", "--plot", "p.png")
    picture = image.imread("p.png")
    assert picture.shape[1] > (1500 if kind == "labels" else 500)
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20


def test_quantiles_of_any_floats(rng):
    odd = [np.inf, -np.inf, 0.0, -0.0, np.nan, 1e-310, -5.0]
    for dtype in (np.float32, np.float64):
        for losses in (rng.normal(size=999), np.zeros(3), np.array(odd), np.array([])):
            records = np.zeros(len(losses), [("loss", dtype)])
            records["loss"] = losses
            block = _report.Block(0, records, None, np.ones(len(losses)))
            got = _report.quantiles(lambda block=block: iter([block]))
            kept = records["loss"][~np.isnan(losses)]
            if not len(kept):
                assert np.isnan(got).all()
                continue
            want = np.sort(kept)[
                [max(0, int(np.ceil(q * len(kept))) - 1) for q in _report.QUANTILES]
            ]
            assert_array_equal(got, want)


def test_losses_that_are_no_numbers(folder, capsys):
    z, _ = arrays()
    z[3] = np.nan
    np.save("z.npy", z)
    assert score("z.npy", "y.npy", "--format", "json") == 0
    out, err = capsys.readouterr()
    assert err == "fastloss score: 1 samples have no number as loss: nan\n"
    found = json.loads(out)
    assert found["mean"] is None and found["quantiles"]["0.5"] > 0


def test_nothing_to_score(folder, capsys):
    np.save("z.npy", np.zeros((0, 5), np.float32))
    np.save("y.npy", np.zeros(0, int))
    found = figures(capsys, "z.npy", "y.npy", "-o", "out.npy")
    assert found["count"] == 0 and found["mean"] is None and found["worst"] == []
    assert len(np.load("out.npy")) == 0


# ---- what goes wrong ----


def test_wrong_files_are_one_line(folder, capsys):
    z, y = arrays()
    np.save("short.npy", y[:-1])
    np.save("soft.npy", z[:, 1:])
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    np.save("fortran.npy", np.asfortranarray(z))
    np.savez("two.npz", a=z, b=z)
    Path("text.npy").write_text("no")
    Path("text.csv").write_text("1,2")
    Path("cut.npy").write_bytes(Path("z.npy").read_bytes()[:-100])
    Path("cut.npz").write_bytes(Path("two.npz").read_bytes()[:-100])
    np.save("number.npy", 3.0)
    for args, message in (
        (["no.npy", "y.npy"], "no.npy: no such file"),
        (["z.npy", "short.npy"], "short.npy: has 499 targets for the 500 rows of z.npy"),
        (["z.npy", "soft.npy"], "soft.npy: expected integer labels of shape (500,), or an array"),
        (["objects.npy", "y.npy"], "objects.npy: has Python objects, which are not loaded"),
        (["fortran.npy", "y.npy"], "fortran.npy: is in Fortran order"),
        (["two.npz", "y.npy"], "two.npz: has a, b; choose one by two.npz::NAME"),
        (["two.npz::c", "y.npy"], "two.npz: has no c, but a, b"),
        (["text.npy", "y.npy"], "text.npy: EOF: reading magic string, expected 8 bytes"),
        (["text.csv", "y.npy"], "text.csv: expected one of .npy, .npz, .safetensors, .parquet"),
        (["cut.npy", "y.npy"], "cut.npy: is truncated: 60028 bytes of 60128"),
        (["cut.npz", "y.npy"], "cut.npz: File is not a zip file"),
        (["number.npy", "y.npy"], "number.npy: expected an array, got a single number"),
        (["z.npy", "y.npy", "--weight", "short.npy"], "short.npy: has 499 weight for the 500"),
        (["z.npy", "y.npy", "--loss", "nll"], "--loss: nll is none of "),
        (["z.npy", "y.npy", "--loss", "dice_loss"], "--loss: dice_loss is none of "),
        (["z.npy", "y.npy", "--loss", "mse_loss"], "mse_loss: is a loss of elements, and y.npy"),
        (["z.npy", "y.npy", "--set", "delta=2"], "--set: cross_entropy: bind() got an unexpected"),
        (["z.npy", "y.npy", "--set", "temperature=-1"], "--set: cross_entropy: temperature: exp"),
        (["z.npy", "z.npy", "--loss", "mse_loss", "--topk", "2"], "--topk: needs labels"),
        (["z.npy", "y.npy", "--resume"], "--resume: needs an output, by -o"),
        (["z.npy", "y.npy", "-o", "out.csv"], "out.csv: expected .npy or .parquet"),
        (["z.npy", "y.npy", "-o", "no/out.npy"], "no/out.npy.partial.json: No such file"),
        (["z.npy", "y.npy", "--topk", "31"], "rows 0 to 499: score: topk: expected 0 to the 30"),
    ):
        assert message in fails(capsys, *args), args
    assert not [name for name in os.listdir() if "partial" in name]


def test_wrong_labels_are_named_by_their_row_in_the_file(folder, capsys, monkeypatch):
    _, y = arrays()
    y[321] = 30
    np.save("y.npy", y)
    monkeypatch.setattr(_score_command, "_rows", lambda opened, size: 100)
    message = fails(capsys, "z.npy", "y.npy", "-o", "out.npy")
    assert message == (
        "y.npy: [321] is 30, expected 0 <= label < 30 (to skip such rows: --ignore-index 30)"
    )
    weight = np.ones(ROWS)
    weight[321] = 0
    np.save("w.npy", weight)
    assert figures(capsys, "z.npy", "y.npy", "--weight", "w.npy")["count"] == ROWS - 1
    assert figures(capsys, "z.npy", "y.npy", "--ignore-index", 30)["count"] == ROWS - 1
    np.save("p.npy", np.ones(ROWS))
    np.save("t.npy", np.where(np.arange(ROWS) == 321, -1, 1.0))
    message = fails(capsys, "p.npy", "t.npy", "--loss", "poisson_nll_loss")
    assert message.startswith("rows 300 to 399: score: target[21] = -1.0 is not in [0, inf]")


def test_what_was_there_stays_until_all_is_complete(folder, capsys):
    Path("out.npy").write_text("before")
    np.save("bad.npy", np.full(ROWS, 99))
    assert score("z.npy", "bad.npy", "-o", "out.npy") == 2
    assert Path("out.npy").read_text() == "before"
    assert score("z.npy", "y.npy", "-o", "out.npy") == 0
    assert len(np.load("out.npy")) == ROWS


def test_disk_full_and_resume(folder, capsys, monkeypatch):
    figures(capsys, "z.npy", "y.npy", "-o", "whole.npy")
    monkeypatch.setattr(_score_command, "_rows", lambda opened, size: 64)
    append = _files.Records.append

    def full(self, records):
        if self.file.tell() > 3000:
            self.file.write(records.tobytes()[:100])  # part of a chunk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, records)

    monkeypatch.setattr(_files.Records, "append", full)
    args = ["z.npy", "y.npy", "-o", "out.npy"]
    assert fails(capsys, *args) == "out.npy: No space left on device; --resume goes on"
    assert Path("out.npy.partial").stat().st_size > 3000
    monkeypatch.setattr(_files.Records, "append", append)
    seen = []
    of_rows = _score_command.Opened.score
    monkeypatch.setattr(
        _score_command.Opened, "score", lambda s, a, b: seen.append(a) or of_rows(s, a, b)
    )
    assert figures(capsys, *args, "--resume") == figures(capsys, "z.npy", "y.npy")
    assert 0 < seen[0] < ROWS and seen[0] % 64 == 0
    assert Path("out.npy").read_bytes() == Path("whole.npy").read_bytes()
    assert sorted(os.listdir()) == ["out.npy", "whole.npy", "y.npy", "z.npy"]


def test_resume_refuses_another_run(folder, capsys, monkeypatch):
    of_rows = _score_command.Opened.score

    def stopped(self, start, stop):
        raise KeyboardInterrupt

    args = ["z.npy", "y.npy", "-o", "out.npy"]
    monkeypatch.setattr(_score_command.Opened, "score", stopped)
    assert score(*args) == 130
    assert capsys.readouterr().err == "fastloss score: interrupted; --resume goes on\n"
    monkeypatch.setattr(_score_command.Opened, "score", of_rows)
    message = fails(capsys, *args, "--resume", "--topk", 2)
    assert message.startswith("out.npy.partial: is of another run, where topk was 0, not 2")
    os.utime("z.npy", ns=(1, 1))
    assert "where files was" in fails(capsys, *args, "--resume")
    assert score(*args) == 0  # anew
    assert score(*args, "--resume") == 0  # nothing to resume: the same


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
from fastloss.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_file_too_large_for_the_system(folder):
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "score", "z.npy", "y.npy", "-o", "out.npy"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "fastloss score: out.npy: File too large; --resume goes on\n"
    assert not Path("out.npy").exists()


def test_killed_and_resumed_is_bit_for_bit_the_same(folder, capsys):
    rng = np.random.default_rng(3)
    z = rng.standard_normal((3000, 4000), np.float32).astype(np.float16)
    np.save("z.npy", z)
    np.save("y.npy", rng.integers(4000, size=3000))
    args = ["z.npy", "y.npy", "--topk", "3", "--chunk", "1", "--format", "json"]
    command = [sys.executable, "-m", "fastloss", "score", *args]
    whole = subprocess.run([*command, "-o", "whole.npy"], check=True, capture_output=True).stdout
    partial = Path("out.npy.partial")
    with subprocess.Popen([*command, "-o", "out.npy"], stdout=subprocess.DEVNULL) as running:
        end = time.monotonic() + 30
        while running.poll() is None and time.monotonic() < end:
            if partial.exists() and partial.stat().st_size > 20000:
                running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert not Path("out.npy").exists()
    assert partial.stat().st_size < Path("whole.npy").stat().st_size
    resumed = [*command, "-o", "out.npy", "--resume"]
    done = subprocess.run(resumed, check=True, capture_output=True)
    assert done.stdout == whole and done.stderr == b""
    assert Path("out.npy").read_bytes() == Path("whole.npy").read_bytes()


@pytest.mark.parametrize("shape", [(3000, 50000), (10_000_000, 2)], ids=str)
def test_memory_is_that_of_a_chunk(folder, shape):
    resource = pytest.importorskip("resource")
    np.lib.format.open_memmap("z.npy", "w+", np.float16, shape)  # sparse
    np.save("y.npy", np.zeros(shape[0], int))
    code = (
        "import resource; from fastloss.__main__ import main; main(['info']);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "main(['score', 'z.npy', 'y.npy', '--chunk', '16', '-o', 'out.npy']);"
        "print('MB', (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert resource and float(done.stdout.split()[-1]) < 64


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
from fastloss.__main__ import main
sys.exit(main(["score", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("module", ["safetensors", "pyarrow", "zarr", "matplotlib"])
def test_without_an_extra(folder, module):
    args = {
        "safetensors": ["a.safetensors", "y.npy"],
        "pyarrow": ["a.parquet", "y.npy"],
        "zarr": ["a.zarr", "y.npy"],
        "matplotlib": ["z.npy", "y.npy", "--plot", "p.png"],
    }[module]
    if not Path(args[0]).exists():
        Path(args[0]).touch()
    command = [sys.executable, "-c", WITHOUT, module, *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    name = "p.png" if module == "matplotlib" else args[0]
    expected = f"fastloss score: {name}: needs {module}: pip install 'fastloss[cli]'\n"
    assert done.stderr == expected
