"""The docs say what the declarations say, and a loss's name stands only where it is made."""

import ast
import re
from importlib import import_module
from pathlib import Path

import fastloss as fl
from fastloss._catalogue import all_tasks

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "differences.md"
CHOOSING = ROOT / "docs" / "choosing.md"
HEAD = "| | PyTorch | scikit-learn | knobs |"


def elsewhere() -> str:
    """The table of docs/differences.md that says what each loss is called elsewhere."""
    lines = [HEAD, "|---|---|---|---|"]
    for name, loss in fl.losses().items():
        cells, knobs = [], []
        for library, theirs in (("nn.functional", loss.torch), ("_loss", loss.sklearn)):
            if theirs is None:
                cells.append("no")
                continue
            times = "" if theirs.factor == 1 else f", {theirs.factor:g} times ours"
            cells.append(f"`{theirs.name}`{times}")
            for ours, other in theirs.knobs.items():
                knobs.append(f"`{library}`: {f'`{other}` for' if other else 'no'} `{ours}`")
        if loss.torch or loss.sklearn:
            lines.append(f"| `{name}` | {' | '.join(cells)} | {'; '.join(knobs) or 'the same'} |")
    return "\n".join(lines) + "\n"


def families() -> str:
    """The README's table of the losses: those of a module, which begins with what it is of."""
    found: dict[str, list[str]] = {}
    for name, loss in fl.losses().items():
        about = (import_module(loss.__module__).__doc__ or "").split("\n")[0].rstrip(".")
        found.setdefault(about, []).append(f"`{name}`")
    lines = [f"| {about} | {', '.join(names)} |" for about, names in found.items()]
    return "\n".join(["| family | losses |", "|---|---|", *lines]) + "\n"


def choosing() -> str:
    """The tables of docs/choosing.md: of each task the losses, and when each is the one."""
    parts = []
    for task, losses in all_tasks().items():
        lines = [f"| `{loss.name}` | {loss.use_when.partition(': ')[2]} |" for loss in losses]
        parts.append("\n".join([f"## {task}", "", "| loss | when |", "|---|---|", *lines, ""]))
    return "\n".join(parts)


def test_the_page_of_choosing_is_fresh():
    assert CHOOSING.read_text().endswith(choosing()), "run: python tests/test_docs.py"


def test_every_loss_says_when_to_use_it():
    said = [loss.use_when for loss in fl.losses().values()]
    assert len(set(said)) == len(said)
    for line in said:
        assert re.fullmatch(r"[a-z-]+( [a-z]+)?(, [a-z-]+( [a-z]+)?)*: \S.*[^.]", line), line


def test_the_readme_lists_every_loss():
    assert families() in README.read_text(), "run: python tests/test_docs.py"


def test_the_table_of_names_is_fresh():
    assert elsewhere() in PAGE.read_text(), "run: python tests/test_docs.py"


def test_a_loss_is_named_only_where_it_is_made():
    """In its declaration, its kernel and the re-export; a module built upon a loss imports it.

    What else knows a loss by its name is one place more to mend for the next.
    """
    names = fl.losses()
    for path in sorted((ROOT / "fastloss").rglob("*.py")):
        made_here = {name for name, loss in names.items() if loss.__module__.endswith(path.stem)}
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = {
            a.name for node in nodes if isinstance(node, ast.ImportFrom) for a in node.names
        }
        known = {node.id for node in nodes if isinstance(node, ast.Name)} - imported
        if path.name != "__init__.py":
            known |= {node.value for node in nodes if isinstance(node, ast.Constant)}
        assert not known & names.keys() - made_here, path
    for path in [*(ROOT / "fastloss").rglob("*.px?"), *(ROOT / "src").iterdir()]:
        words = set(re.findall(r"\w+", re.sub(r"#.*", "", path.read_text())))
        made_here = {name for name, loss in names.items() if loss.__module__.endswith(path.stem)}
        assert not words & names.keys() - made_here, path


if __name__ == "__main__":
    text = CHOOSING.read_text()
    CHOOSING.write_text(text[: text.index("## ")] + choosing())
    text = PAGE.read_text()
    begin = text.index(HEAD)
    end = text.index("\n\n", begin) + 1
    PAGE.write_text(text[:begin] + elsewhere() + text[end:])
    text = README.read_text()
    begin = text.index("<!-- losses: begin -->\n") + len("<!-- losses: begin -->\n")
    README.write_text(text[:begin] + families() + text[text.index("<!-- losses: end -->") :])
