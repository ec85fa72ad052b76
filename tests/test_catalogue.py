"""`fastloss list`, `show`, `choose` and `bench`, by the commands that a person types."""

import subprocess
import sys

import pytest

import fastloss as fl
from fastloss.__main__ import main
from fastloss._catalogue import all_tasks


def test_list_has_every_loss(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == [*fl.losses()]


def test_list_into_a_pipe_that_closes():
    command = f"{sys.executable} -m fastloss list | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("loss", fl.losses().values(), ids=lambda loss: loss.name)
def test_show(loss, capsys):
    assert main(["show", loss.name]) == 0
    out = capsys.readouterr().out
    for part in (loss.formula, str(loss.domain), loss.use_when, *loss.knobs):
        assert part in out
    of_labels = loss.kind == "rows" and loss.domain.labels
    assert ("*" in out.split("source")[1]) >= (loss.kind == "elementwise" or of_labels)


def test_the_curve_is_the_loss(capsys):
    main(["show", "huber_loss"])
    lines = capsys.readouterr().out.splitlines()
    curve = [line.partition("|")[2] for line in lines if "|" in line and "formula" not in line]
    assert curve[0] == "*" + " " * 59 + "*"  # 3.5 at either end
    assert curve[-1].strip() == "*" * len(curve[-1].strip()) and len(curve[-1].strip()) > 5
    assert lines[lines.index("the loss over the prediction, target 0") - 3].startswith(
        "        0 |"
    )


def test_show_draws(tmp_path, capsys):
    image = pytest.importorskip("matplotlib.image")
    assert main(["show", "cross_entropy", "--plot", str(tmp_path / "c.png")]) == 0
    assert image.imread(tmp_path / "c.png").shape[1] > 500
    assert main(["show", "dice_loss", "--plot", str(tmp_path / "d.png")]) == 2
    assert "has no curve" in capsys.readouterr().err


def test_show_names_what_is_near(capsys):
    assert main(["show", "huber"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "fastloss show: huber is no loss; there are modified_huber_loss, huber_loss, "
        "pseudo_huber_loss\n"
    )


@pytest.mark.parametrize("task", all_tasks())
def test_choose_by_task(task, capsys):
    assert main(["choose", task.replace(" ", "-").title()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [loss.name for loss in all_tasks()[task]]
    for line, loss in zip(lines, all_tasks()[task], strict=True):
        assert line.endswith(loss.use_when.partition(": ")[2])


def test_choose_by_any_word_or_say_the_tasks(capsys):
    assert main(["choose", "median"]) == 0
    assert capsys.readouterr().out.startswith("l1_loss ")
    assert main(["choose", "weather"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and all(task in err for task in all_tasks())


def test_the_tasks_of_the_command_are_there():
    assert {"outliers", "counts", "imbalance", "multi-label", "calibration", "embedding"} <= {
        *all_tasks()
    }


def test_bench(capsys):
    assert main(["bench", "--seconds", "0.1", "--scale", "0.001"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith("x")]
    assert len(rows) == 10
    for row in rows:
        assert float(row.split()[-3]) > 0 and float(row.split()[-1][:-1]) > 0
