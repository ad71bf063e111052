"""``decomcam-bench table``: one row a cell of a results store."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from decomcam_bench.cli import add_command, add_results
from decomcam_bench.core.console import log

if TYPE_CHECKING:
    import pandas as pd

_EXAMPLES = """\
  decomcam-bench table
  decomcam-bench table --results results/voc --format csv > voc.csv
  decomcam-bench table --details            also each metric's own counts and its secondary numbers
  decomcam-bench table --intervals --reference decomcam --columns "pointing*,energy" --sort=-energy
  decomcam-bench table --where dataset=voc,coco --rows method --columns energy --pivot dataset --format latex
  decomcam-bench table --format json        with the reasons of skipped and failed pairs
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "table", "print the table of a results store", _EXAMPLES)
    add_results(parser)
    parser.add_argument("--format", choices=("md", "csv", "json", "latex", "html"), default="md")
    parser.add_argument("--details", action="store_true", help="secondary numbers and each metric's own counts")
    add_shape(parser)
    parser.set_defaults(execute=execute)


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Options that say what of a table is shown."""
    shape = parser.add_argument_group("what is shown")
    shape.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUES",
        help="filter rows; repeatable; wildcards allowed; NAME[] is NAME without options",
    )
    shape.add_argument("--rows", metavar="NAMES", help="labels to show, of dataset,model,layer,method,rank")
    shape.add_argument("--columns", metavar="NAMES", help="numbers to show, in this order; wildcards allowed")
    shape.add_argument("--pivot", metavar="NAME", help="spread a label over columns, e.g. dataset")
    shape.add_argument("--sort", metavar="NAMES", help="sort by columns; --sort=-NAME for descending")
    sure = parser.add_argument_group("how sure the numbers are")
    sure.add_argument(
        "--failure",
        choices=("worst", "drop", "common"),
        help="what pairs without a usable map count as, instead of each metric's own choice (a miss): left out (drop), "
        "or left out for every method (common)",
    )
    sure.add_argument("--intervals", action="store_true", help="95 %% intervals over images")
    sure.add_argument(
        "--reference",
        metavar="METHOD",
        help="compare every method with this one, pair by pair; p-values are corrected over all numbers of the rows",
    )
    sure.add_argument(
        "--resamples",
        type=int,
        metavar="N",
        help="of intervals and comparisons (default: 2000 for intervals; 10000 for comparisons, 100 a test if more)",
    )
    sure.add_argument("--seed", type=int, default=0, metavar="N", help="of the resamples")


def execute(arguments: argparse.Namespace) -> int:
    from decomcam_bench.core.errors import StoreError
    from decomcam_bench.store.store import Store
    from decomcam_bench.tables.cells import notes
    from decomcam_bench.tables.tables import render

    if not Store(arguments.results).cells():
        raise StoreError(f"--results {arguments.results}: no results there; `decomcam-bench run` makes some")
    table = shaped(arguments)
    print(render(table, arguments.format, arguments.results), end="")
    for line in notes(arguments.results):
        log.warning(line)
    return 0


def shaped(arguments: argparse.Namespace) -> pd.DataFrame:
    """The table that the options of :func:`add_shape` ask for."""
    from decomcam_bench.tables import layout
    from decomcam_bench.tables.cells import labels_of
    from decomcam_bench.tables.tables import load_table

    keys = None
    if arguments.where:
        keys = [str(key) for key in layout.where(labels_of(arguments.results), arguments.where)["key"]]
    table = load_table(
        arguments.results,
        keys,
        arguments.details,
        arguments.intervals,
        arguments.reference,
        arguments.resamples,
        arguments.seed,
        log.warning,
        arguments.failure,
    )
    if arguments.sort:
        table = layout.sort(table, arguments.sort)
    table = layout.choose(table, arguments.rows, arguments.columns)
    return layout.pivot(table, arguments.pivot) if arguments.pivot else table
