"""The benchmarks run, their contenders agree, table and pictures are complete; no time is asserted.

What imports the rivals runs in a process of its own: JAX objects to every later fork.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl

sys.path.append(str(Path(__file__).parents[1]))  # last: an installed fastloss comes first

from benchmarks import __main__, compare, contest, plot, table
from samples import run_python

ROOT = Path(__file__).parents[1]
TINY = {"rows": [((3, 5), 1), ((300, 11), None)]}
TINY["elementwise"] = TINY["pairs"] = [((7,), 1), ((2001,), None)]
TINY["vectors"] = TINY["set"] = [((150, 8), None)]
EXTRA = [
    ("cross_entropy", (300, 11), None, contest.IN_PLACE),
    ("cross_entropy", (300, 11), None, contest.BFLOAT16),
    ("cross_entropy", (300, 11), None, contest.MIDDLE),
    ("cross_entropy", (300, 11), 1, contest.WEIGHTED),
    ("huber_loss", (2001,), None, contest.HESSIAN),
]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(contest, "SHAPES", TINY)
    monkeypatch.setattr(plot, "SHAPES", TINY)
    monkeypatch.setattr(contest, "EXTRA", EXTRA)
    monkeypatch.setattr(contest, "TURN", 0)
    monkeypatch.setattr(contest, "REST", 0)


def run_tiny(*arguments):
    """Standard output of the command with tiny cases."""
    code = f"""if True:
        import sys
        sys.path.append({str(ROOT)!r})
        from benchmarks import __main__, boosters, contest
        contest.SHAPES, contest.EXTRA, contest.TURN, contest.REST = {TINY}, {EXTRA}, 0, 0
        boosters.SIZE = 100
        sys.exit(__main__.main(sys.argv[1:]))"""
    command = [sys.executable, "-c", code, "--seconds=0", "--threads=2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_table_of_errors_has_what_a_loss_has():
    """A loss of two inputs has no Hessian, and what is rounded once PyTorch has no better."""
    code = f"""if True:
        import sys
        sys.path.append({str(ROOT)!r})
        from benchmarks import accuracy
        for name in ("margin_ranking_loss", "l1_loss"):
            for dtype in ("float32", "float64"):
                print(accuracy.line(name, dtype))"""
    rows = [line.split("|") for line in run_python(code).splitlines()]
    assert [" of 4 " in cell for cell in rows[0][3:6]] == [True, True, False]
    assert all(" of 4 " in cell for row in rows[2:] for cell in row[3:6])
    assert len(rows) == 4 and all("inf" not in cell for row in rows for cell in row[3:6])
    if find_spec("torch"):
        assert [row[6].strip() for row in rows[2:]] == ["0.5 / 0.0"] * 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_table_has_every_loss_and_opponent(dtype, tiny, tmp_path):
    file = tmp_path / "times.json"
    # The compiler's results are those of PyTorch, and take minutes to come.
    rivals = "NumPy|PyTorch|scikit-learn|numexpr|numba|JAX|XGBoost|LightGBM|out of place|"
    rivals += "contiguous|strided"
    text = run_tiny(f"--dtype={dtype}", f"--json={file}", f"--rivals={rivals}")
    written = json.loads(file.read_text())
    assert written.keys() == {"machine", "isa", "dtype", "threads", "cases"}
    assert (written["dtype"], written["threads"], written["isa"]) == (dtype, 2, fl.kernels.isa)
    rows = {row["case"]: row for row in written["cases"]}
    expected = [case.name for case in contest.cases(2, dtype)]
    assert {case.split()[0] for case in expected} == fl.losses().keys()
    assert [name for name in rows if not name.endswith("round")] == expected
    assert re.findall(r"^\| (\w+ \d[^|]*) \|", text, re.M) == list(rows)
    columns = re.search(r"^\| loss \+ gradient \| threads \| (.*) \|", text, re.M)[1].split(" | ")
    for name, row in rows.items():
        who = row["seconds"].keys()
        assert {"fastloss", "limit"} <= who <= set(columns)
        assert row["quartiles"].keys() == who and row["ratios"].keys() == who - {"fastloss"}
        assert len(row["seconds"]["limit"]) >= 5
        assert row["quartiles"]["limit"][1] == np.median(row["seconds"]["limit"])
        assert ("out of place" in who) == name.endswith("in place")
        assert ("contiguous" in who) == name.endswith("axis=1")
        assert ("strided" in who) == name.endswith("weighted")
    for package, column, name in [
        ("sklearn", "scikit-learn", "huber_loss 2001 grad + Hessian"),
        ("numexpr", "numexpr", "huber_loss 2001"),
        ("numba", "numba", "cross_entropy 300 x 11"),
        ("optax", "JAX", "cross_entropy 300 x 11"),
        ("torch", "PyTorch", "cross_entropy 300 x 11"),
    ]:
        assert (column in rows[name]["seconds"]) == bool(find_spec(package))
    for package, booster in [("xgboost", "XGBoost"), ("lightgbm", "LightGBM")]:
        there = any(name.endswith(f"{booster} round") for name in rows)
        assert there == (dtype == "float32" and bool(find_spec(package)))


def test_a_compiler_that_fails_is_said(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    code = f"""if True:
        import sys
        sys.path.append({str(ROOT)!r})
        from benchmarks.contest import Case
        import fastloss as fl
        print(*Case(fl.huber_loss, (2001,), 1).calls("PyTorch|torch"))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "fastloss PyTorch limit\n"
    assert re.search(r"^huber_loss 2001: torch\.compile: \w+: .", done.stderr, re.M)


def test_figures_and_rivals_name_real_cases():
    of_dtype = {
        dtype: {(case.name, case.threads) for case in contest.cases(2, dtype)}
        for dtype in ("float32", "float64")
    }
    for dtype, figures in contest.FIGURES.items():
        assert figures.keys() <= of_dtype[dtype]
    code = f"""if True:
        import json, sys
        sys.path.append({str(ROOT)!r})
        from benchmarks import compiled, rivals
        print(json.dumps([*rivals.NUMPY, *rivals.TORCH, *compiled.EXPRESSIONS, *compiled.OPTAX]))
        print(json.dumps([*rivals.NUMPY]))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    every, by_numpy = map(json.loads, done.stdout.splitlines())
    assert set(every) <= fl.losses().keys()
    measured = {
        case.loss.name for case in contest.cases(1, "float32") if case.figures.get("NumPy") == 5
    }
    assert measured and measured <= set(by_numpy)


def test_every_elementwise_loss_has_a_figure():
    for loss in fl.losses().values():
        if loss.kind == "elementwise":
            one, two = (contest.Case(loss, contest.LARGE, threads).figures for threads in (1, 2))
            assert one.get("NumPy") == 5 or two["limit"] <= 1.25


@pytest.mark.parametrize("wrong", ["loss", "gradient", "nothing written"])
def test_a_wrong_contender_is_not_timed(wrong):
    out = np.empty(3)

    def right():
        out[:] = 1, 2, 3
        return 4.0, out

    def rival():
        value, grad = (4.0, out) if wrong == "nothing written" else right()
        return value + (wrong == "loss"), grad + 1e-6 * (wrong == "gradient")

    contest.check_equal({"fastloss": right, "rival": right}, out)
    with pytest.raises(ValueError, match=r"^rival: .* is off"):
        contest.check_equal({"fastloss": right, "rival": rival}, out)


def test_ratios_are_within_rounds_and_judged():
    ratio = table.ratios({"fastloss": [1, 10, 2], "limit": [1, 5, 1], "PyTorch": [4, 20, 6]})
    assert (ratio["limit"][1], ratio["PyTorch"][1]) == (2, 3)
    case = contest.Case(fl.huber_loss, (320,), 1)
    assert table.reached(case, ratio) == {"limit 2.5": True, "PyTorch 12": False}
    assert table.cell("PyTorch", {"PyTorch": [0.4, 0.5, 20]}) == "**0.50** (0.40-20)"


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="only Linux holds a process on CPUs"
)
def test_cpus_are_held_and_let_go():
    before = os.sched_getaffinity(0)
    with contest.on_cpus(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_comparison_of_two_packages(tiny, capsys, monkeypatch):
    here = Path(fl.__file__).parents[1]
    wanted = [
        contest.Case(fl.huber_loss, (320,), 1),
        contest.Case(fl.cross_entropy, (32, 10), 1),
        contest.Case(fl.huber_loss, (77,), 1),
    ]
    rows, status = compare.report((here, here), ("old", "new"), wanted, 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| loss + gradient | threads | old | new | new / old |  |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {case.name}" for case in wanted]
    for row in rows[:2]:
        assert row["seconds"].keys() == {"old", "new"}
        assert len(row["seconds"]["old"]) == len(row["seconds"]["new"]) >= 5
    assert rows[2]["error"] == "LookupError: no such case: huber_loss 77"
    assert status == int(any(row["ratio"][0] > compare.TOO_SLOW for row in rows[:2]))


def test_what_is_slower_is_said(capsys, monkeypatch):
    case = contest.Case(fl.huber_loss, (320,), 1)
    for new, said, expected in [
        ([1.0, 1.0, 1.01], "", 0),
        ([1.05, 1.06, 1.07], "", 0),
        ([1.09, 1.09, 1.1], "**slower**", 0),
        ([1.2, 1.3, 1.4], "**slower**", 1),
        ([1.0, 1.3, 1.4], "**slower**", 1),  # the lower quartile is 1.15
        ([0.5, 0.6, 0.7], "faster", 0),
    ]:
        times = [1.0] * 3, new
        monkeypatch.setattr(compare, "contest", lambda *_, times=times: [(case, times)])
        _, status = compare.report((ROOT, ROOT), ("old", "new"), [case], 0)
        assert status == expected
        assert capsys.readouterr().out.splitlines()[-1].split(" | ")[-1] == f"{said} |"


def test_workers_do_not_outlive_the_comparison():
    here = Path(fl.__file__).parents[1]
    with compare.ExitStack() as stack:
        worker = compare.Worker(here, stack)
        assert worker.ask("huber_loss 320", 1, "float32") > 0
    assert worker.process.returncode == -9


def test_a_package_that_does_not_import_ends_the_comparison(tmp_path, capfd):
    (tmp_path / "fastloss.py").write_text("raise ImportError('of this folder')")
    here = Path(fl.__file__).parents[1]
    wanted = [contest.Case(fl.huber_loss, (320,), 1)]
    with pytest.raises(SystemExit, match=re.escape(f"compare: the process that times {tmp_path}")):
        compare.report((here, tmp_path), ("old", "new"), wanted, 0)
    assert "ImportError: of this folder" in capfd.readouterr().err


def test_a_revision_that_is_none_is_refused():
    with pytest.raises(SystemExit, match=r"^compare: "), compare.built("no-such-revision"):
        pass


def test_pictures(tiny, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for name, value in [("LOGITS", 1 << 10), ("CLASSES", 40), ("ELEMENTS", 3000)]:
        monkeypatch.setattr(plot, name, value)
    folder = tmp_path / "pictures"
    assert __main__.main(["plot", "--seconds=0", "--threads=2", f"--output={folder}"]) == 0
    paths = capsys.readouterr().out.split()
    assert paths == [str(folder / f"{name}.svg") for name in plot.PICTURES]
    for path in paths:
        text = Path(path).read_text()
        assert "<svg" in text and len(text) < 200_000


def test_committed_pictures_are_small_and_shown():
    pictures = {path.name: path for path in (ROOT / "docs" / "pictures").iterdir()}
    assert pictures.keys() == {f"{name}.svg" for name in plot.PICTURES}
    assert all(path.stat().st_size < 200_000 for path in pictures.values())
    page = (ROOT / "docs" / "speed.md").read_text()
    assert set(re.findall(r"\(pictures/(\S+)\)", page)) == pictures.keys()


@pytest.mark.parametrize("command", ["", "compare", "plot"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        __main__.main([*command.split(), "--help"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m benchmarks {command}".strip())
