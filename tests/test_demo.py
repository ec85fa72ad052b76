"""The command line, by the commands that a person types."""

import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

import fastloss as fl
from fastloss import demo
from fastloss.__main__ import main


def test_demo(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fastloss", "demo", "--output", "new/folder"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    accuracy = re.search(r"^Held-out accuracy ([\d.]+)%$", done.stdout, re.M)
    assert float(accuracy[1]) > 95
    suspicious = re.findall(
        r"^  image +\d+: labelled (\d), looks like (\d), loss ([\d.]+)$", done.stdout, re.M
    )
    assert len(suspicious) == 12
    assert all(label != guess for label, guess, _ in suspicious)
    assert [float(row[2]) for row in suspicious] == sorted(
        (float(row[2]) for row in suspicious), reverse=True
    )
    for rival in demo.rivals():
        assert re.search(rf"^{rival} +[\d.]+ ms +[\d.]+ +[\d.]+ ms +[\d.]+$", done.stdout, re.M)
    assert "All reach the same objective" in done.stdout

    picture = imread(tmp_path / "new" / "folder" / "fastloss-demo.png")
    assert min(picture.shape[:2]) > 500
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 100


def test_rivals_agree():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 10)), rng.integers(10, size=50)
    loss, grad = fl.cross_entropy.value_and_grad(logits, labels)
    for rival in demo.rivals().values():
        rival_loss, rival_grad = rival(logits.copy(), labels)
        assert rival_loss == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(rival_grad, grad, atol=1e-12)


WITHOUT = """
import sys
from fastloss.__main__ import main
class Absent:
    def find_spec(name, path, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Absent)
main(["demo"])
"""


@pytest.mark.parametrize("extra", ["scipy", "sklearn", "matplotlib"])
def test_demo_without_its_extras(extra):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(name=extra)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"fastloss demo needs {extra}: pip install 'fastloss[demo]'\n"


def test_demo_output_is_no_folder(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--output", str(file)])
    assert stopped.value.code == 2
    assert "--output" in capsys.readouterr().err


def test_info(capsys):
    assert main(["info"]) == 0
    info = capsys.readouterr().out
    fl.show_config()
    assert info == capsys.readouterr().out != ""


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train"])
    assert stopped.value.code == 2
    assert "demo" in capsys.readouterr().err
