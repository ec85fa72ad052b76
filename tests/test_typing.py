"""tests/typing under mypy --strict: right calls have exact types, wrong ones are errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastloss

pytest.importorskip("mypy")
FILES = sorted((Path(__file__).parent / "typing").glob("*.py"))


def test_the_package_says_it_is_typed():
    assert (Path(fastloss.__file__).parent / "py.typed").exists()


def test_types_under_mypy_strict(tmp_path):
    root = Path(fastloss.__file__).parents[1]
    # mypy cannot follow an editable install's import hook, and refuses site-packages as a path
    path = {} if root.name == "site-packages" else {"MYPYPATH": str(root)}
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "--config-file="]
    done = subprocess.run(
        [*command, f"--cache-dir={os.environ.get('MYPY_CACHE_DIR', tmp_path)}", *map(str, FILES)],
        env=os.environ | path,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert len(FILES) >= 2
    assert done.returncode == 0, done.stdout + done.stderr
