"""``decomcam-bench table``: one row a cell of a results store."""

from __future__ import annotations

import argparse
import sys

from decomcam_bench.cli import add_command

_EXAMPLES = """\
  decomcam-bench table
  decomcam-bench table --results results/voc --format csv > voc.csv
  decomcam-bench table --details            also each metric's own counts and its secondary numbers
  decomcam-bench table --format json        with the reasons of skipped and failed pairs
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "table", "print the table of a results store", _EXAMPLES)
    parser.add_argument("--results", default="results", metavar="DIR", help="root of the store (default: results)")
    parser.add_argument("--format", choices=("md", "csv", "json"), default="md")
    parser.add_argument("--details", action="store_true", help="secondary numbers and each metric's own counts")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    from decomcam_bench.errors import StoreError
    from decomcam_bench.results.store import Store
    from decomcam_bench.results.tables import load_table, render, unfinished

    if not Store(arguments.results).cells():
        raise StoreError(f"--results {arguments.results}: no results there; `decomcam-bench run` makes some")
    table = load_table(arguments.results, details=arguments.details)
    print(render(table, arguments.format, arguments.results), end="")
    for line in unfinished(arguments.results):
        print(line, file=sys.stderr)
    return 0
