"""python -m benchmarks: every loss beside its rivals and the machine's limit, as one table.

python -m benchmarks ...               the table (see table.py)
python -m benchmarks compare REV ...   another revision, built here, in turns with this one
python -m benchmarks plot ...          roofline, cost over classes, cost over size
python -m benchmarks accuracy ...      errors in ulp, beside the other libraries'
python -m benchmarks score ...         fields of fl.score beside one reading of the logits
"""

import sys

from . import accuracy, compare, plot, score, table

COMMANDS = {
    "accuracy": accuracy.main,
    "compare": compare.main,
    "plot": plot.main,
    "score": score.main,
}


def main(argv: list[str]) -> int:
    """Run a command, without a name the table; return the exit status."""
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    return table.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
