"""The command line: ``fastloss COMMAND --help`` says what each takes."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import fastloss
from fastloss import _score_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the process's exit status."""
    parser = argparse.ArgumentParser(prog="fastloss", description="Fused losses on NumPy arrays.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="train on handwritten digits, find suspicious labels, time the rivals"
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where the picture goes (default: the current folder)",
    )
    score = commands.add_parser(
        "score", help="score the samples of a file: losses, totals, the samples worth a look"
    )
    _score_command.add_arguments(score)
    commands.add_parser("info", help="show instruction sets, threads, compiler and flags")
    args = parser.parse_args(argv)

    if args.command == "score":
        return _score_command.run(args)
    if args.command == "info":
        fastloss.show_config()
        return 0
    try:
        from fastloss.demo import run
    except ModuleNotFoundError as missing:
        parser.exit(1, f"fastloss demo needs {missing.name}: pip install 'fastloss[demo]'\n")
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        demo.error(f"--output: {error}")
    run(args.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
