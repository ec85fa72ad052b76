"""The command line: ``fastloss COMMAND --help`` says what each takes."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import fastloss
from fastloss import _bench, _catalogue, _score_command


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
    commands.add_parser("list", help="every loss, by family")
    show = commands.add_parser("show", help="a loss's formula, domain, knobs, source and curve")
    show.add_argument("loss", metavar="LOSS")
    show.add_argument("--plot", type=Path, metavar="PNG", help="draw the curve")
    choose = commands.add_parser("choose", help="the losses for a task, and when each is the one")
    choose.add_argument("task", metavar="TASK", help=f"such as {', '.join(_catalogue.all_tasks())}")
    bench = commands.add_parser("bench", help="how fast this machine is, in a minute")
    _bench.add_arguments(bench)
    commands.add_parser("info", help="show instruction sets, threads, compiler and flags")
    args = parser.parse_args(argv)

    run = {
        "score": _score_command.run,
        "bench": _bench.run,
        "list": _catalogue.list_losses,
        "show": _catalogue.show,
        "choose": _catalogue.choose,
    }.get(args.command)
    if run is not None:
        try:
            status = run(args)
            sys.stdout.flush()
        except BrokenPipeError:  # who reads has seen enough; nothing more is to be flushed at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        return status
    if args.command == "info":
        fastloss.show_config()
        return 0
    try:
        from fastloss.demo import run as run_demo
    except ModuleNotFoundError as missing:
        parser.exit(1, f"fastloss demo needs {missing.name}: pip install 'fastloss[demo]'\n")
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        demo.error(f"--output: {error}")
    run_demo(args.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
