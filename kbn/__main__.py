"""The `kbn` command, also `python -m kbn`."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import kbn
from kbn.common.lazy import MissingBackendError

DEMO_STEPS = 4000
MIN_DEMO_STEPS = 50

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand. Return 0, or print one line that says what is wrong and return 2."""
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

    from kbn.dashboard import report
    from kbn.dashboard.board import Dashboard
    from kbn.dashboard.folder import open_folder

    with _progress() as track:
        log = open_folder(options.log_dir, track)
        board = Dashboard(log, options.runs, log.unreadable)
        if not options.json:
            report.write(board, options.log_dir, options.output, track)
    if options.json:
        print(json.dumps(report.numbers(board), indent=2, ensure_ascii=False))
        return
    for sentence in (*board.verdict(), *board.skipped):
        print(sentence)
    print(f"Report: {options.output}")


@contextmanager
def _progress() -> Iterator[Callable[..., Iterable[Any]]]:
    """Yield a function that shows progress over a sequence: on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda items, description: items  # noqa: ARG005 - named as in rich
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield lambda items, description: progress.track(items, description=description)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "kbn", description="Show the effect of batch normalization on training."
    )
    parser.add_argument("--version", action="version", version=f"kbn {kbn.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_demo(commands)
    _add_report(commands)
    return parser


def _add_demo(commands: Commands) -> None:
    from kbn.demo.datasets import DATA_SETS

    demo = commands.add_parser(
        "demo",
        help="train the paper's network with and without normalization, and compare",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--data", choices=DATA_SETS, default="digits", help="data set to train on")
    demo.add_argument(
        "--steps",
        type=_steps,
        default=DEMO_STEPS,
        help="training steps of each network, rounded up to a multiple of 10",
    )
    demo.add_argument(
        "--log-dir", default="runs/demo", help="folder for the event files and the report"
    )
    demo.add_argument(
        "--seed", type=_seed, default=0, help="seed of the data split, the weights and the batches"
    )
    demo.set_defaults(run=_demo)


def _add_report(commands: Commands) -> None:
    report = commands.add_parser(
        "report",
        help="write a report on recorded runs to one HTML file",
        description="Write the findings and figures of all runs below LOG_DIR to one HTML file.",
    )
    report.add_argument(
        "log_dir",
        metavar="LOG_DIR",
        help="log_dir of the callbacks, or a folder above it; a path, or a URL such as gs://…",
    )
    report.add_argument(
        "-o", "--output", default="report.html", help="file to write (default: report.html)"
    )
    report.add_argument(
        "--runs",
        nargs="+",
        metavar="PATTERN",
        help="include only runs that match a glob pattern; give this option after LOG_DIR",
    )
    report.add_argument(
        "--json", action="store_true", help="print the numbers as JSON and write no file"
    )
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
