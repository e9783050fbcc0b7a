"""The `kbn` command, also `python -m kbn`."""

import argparse
import os
import sys
from typing import Any

import kbn
from kbn.common.lazy import MissingBackendError

DEMO_STEPS = 4000
MIN_DEMO_STEPS = 50


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; return 0, or 2 after one line saying what is wrong."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from kbn.demo.datasets import DataError

    try:
        options.run(options)
    except (DataError, MissingBackendError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        print(f"kbn {options.command}: {reason}", file=sys.stderr)
        return 2
    return 0


def _demo(options: argparse.Namespace) -> None:
    from kbn.common import lazy

    demo = lazy.load("kbn.demo.demonstration")
    from rich.console import Console

    demo.run(options.data, options.steps, options.log_dir, options.seed, Console())


def _report(options: argparse.Namespace) -> None:
    import json

    from kbn.dashboard import load, report

    board = load(options.log_dir, runs=options.runs)
    if options.json:
        print(json.dumps(report.numbers(board), indent=2, ensure_ascii=False))
        return
    report.write(board, options.log_dir, options.output)
    for sentence in (*board.verdict(), *board.skipped):
        print(sentence)
    print(f"Report: {options.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("kbn", description="Batch normalization, and what it does.")
    parser.add_argument("--version", action="version", version=f"kbn {kbn.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_demo(commands)
    _add_report(commands)
    return parser


def _add_demo(commands: Any) -> None:
    from kbn.demo.datasets import DATA_SETS

    demo = commands.add_parser(
        "demo",
        help="train the paper's network with and without normalization, and watch it",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--data", choices=DATA_SETS, default="digits", help="what to train on")
    demo.add_argument(
        "--steps", type=_steps, default=DEMO_STEPS, help="steps of each network, rounded up to tens"
    )
    demo.add_argument("--log-dir", default="runs/demo", help="folder for TensorBoard")
    demo.add_argument("--seed", type=_seed, default=0, help="seed of data, weights and batches")
    demo.set_defaults(run=_demo)


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="write what callbacks recorded into one HTML file",
        description="Write the figures and the verdict on all runs below LOG_DIR into one file.",
    )
    report.add_argument("log_dir", metavar="LOG_DIR", help="what the callbacks were given")
    report.add_argument("-o", "--output", default="report.html", help="the file (report.html)")
    report.add_argument(
        "--runs", nargs="+", metavar="PATTERN", help="only these, as glob patterns; behind LOG_DIR"
    )
    report.add_argument("--json", action="store_true", help="print the numbers, and write no file")
    report.set_defaults(run=_report)


def _steps(text: str) -> int:
    return _at_least(text, MIN_DEMO_STEPS)


def _seed(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, low: int) -> int:
    if not text.isdecimal() or int(text) < low:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {low}, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
