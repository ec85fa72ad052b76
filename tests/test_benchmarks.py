"""The benchmarks run, their contenders agree, the table is complete; no time is asserted."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl

sys.path.append(str(Path(__file__).parents[1]))  # last: an installed fastloss comes first

from benchmarks import __main__, contest, rivals

TINY = {"rows": [((3, 5), 1), ((300, 11), None)]}
TINY["elementwise"] = TINY["pairs"] = [((7,), 1), ((2001,), None)]
TINY["vectors"] = TINY["set"] = [((150, 8), None)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_table_has_every_loss_and_opponent(dtype, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(contest, "SHAPES", TINY)
    monkeypatch.setattr(contest, "TURN", 0)
    monkeypatch.setattr(contest, "REST", 0)
    file = tmp_path / "times.json"
    __main__.main(["--seconds=0", "--threads=2", f"--dtype={dtype}", f"--json={file}"])
    expected = [
        f"{name} {' x '.join(map(str, shape))}"
        for name, loss in fl.losses().items()
        for shape, _ in TINY.get(loss.kind, [])
    ]
    assert re.findall(r"^\| (\w+ [\dx ]+) \|", capsys.readouterr().out, re.M) == expected
    rows = json.loads(file.read_text())["cases"]
    assert [row["case"] for row in rows] == expected
    for row in rows:
        assert {"fastloss", "limit"} <= row["seconds"].keys() <= {"fastloss", *__main__.COLUMNS}
        assert ("NumPy" in row["seconds"]) == bool(rivals.NUMPY.get(row["case"].split()[0]))


def test_figures_and_rivals_name_real_cases():
    shapes = {(case.loss.name, case.shape) for case in contest.cases(2, "float32")}
    assert {key[:2] for key in contest.FIGURES} <= shapes
    assert rivals.NUMPY.keys() | rivals.TORCH.keys() <= fl.losses().keys()


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
    ratio = __main__.ratios({"fastloss": [1, 10, 2], "limit": [1, 5, 1], "PyTorch": [4, 20, 6]})
    assert (ratio["limit"][1], ratio["PyTorch"][1]) == (2, 3)
    case = contest.Case(fl.huber_loss, (320,), 1)
    assert __main__.reached(case, ratio) == {"limit 4": True, "PyTorch 12": False}
    assert __main__.cell("PyTorch", {"PyTorch": [0.4, 0.5, 20]}) == "**0.50** (0.40-20)"
