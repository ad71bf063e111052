"""``decomcam-bench table``: print one row per cell of a results store."""

from __future__ import annotations

import argparse
import sys
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
  decomcam-bench table --paper --format latex --rename decomcam=DecomCAM --percent --decimals 1
  decomcam-bench table --legend             what each number means
  decomcam-bench table --format json        with the reasons of skipped and failed pairs
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "table", "print the table of a results store", _EXAMPLES)
    add_results(parser)
    parser.add_argument("--format", choices=("md", "csv", "json", "latex", "html"), default="md")
    parser.add_argument("--details", action="store_true", help="secondary numbers and each metric's own counts")
    parser.add_argument("--legend", action="store_true", help="say below the table what each number means")
    add_shape(parser)
    add_paper(parser)
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
    shape.add_argument(
        "--exclude", action="append", default=[], metavar="COLUMN=VALUES", help="leave rows out; repeatable"
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


def add_paper(parser: argparse.ArgumentParser) -> None:
    """Options of tables that go into a paper."""
    paper = parser.add_argument_group("for a paper")
    paper.add_argument(
        "--paper",
        action="store_true",
        help="constant columns in the caption, controls below a rule; md, latex, html or csv",
    )
    paper.add_argument("--names", metavar="FILE", help="YAML of other names, such as decomcam: DecomCAM")
    paper.add_argument("--rename", action="append", default=[], metavar="OLD=NEW", help="another name; repeatable")
    paper.add_argument("--decimals", type=int, metavar="N", help="of all numbers")
    paper.add_argument("--percent", action="store_true", help="shares in percent")


def _printed(table: pd.DataFrame, arguments: argparse.Namespace) -> str:
    from decomcam_bench.core.errors import ConfigError
    from decomcam_bench.tables import paper
    from decomcam_bench.tables.cells import directions
    from decomcam_bench.tables.tables import render

    if arguments.paper:
        names = paper.read_names(arguments.names, arguments.rename)
        paper.check_names(table, names, arguments.rename)
        style = paper.Style(names, arguments.decimals, arguments.percent)
        return paper.paper(table, directions(arguments.results), arguments.format, style)
    given = {"--names": arguments.names, "--rename": arguments.rename, "--percent": arguments.percent}
    for option in [name for name, value in given.items() if value] + ["--decimals"] * (arguments.decimals is not None):
        raise ConfigError(f"{option} shapes tables for a paper; add --paper")
    return (
        terminal(table, arguments.results)
        if arguments.format == "md"
        else render(table, arguments.format, arguments.results)
    )


def terminal(table: pd.DataFrame, results: str) -> str:
    """Write a table as Markdown; on a terminal a wide one in blocks, in a file never."""
    import shutil

    from decomcam_bench.tables.paper import fitted, same
    from decomcam_bench.tables.tables import render

    parts = fitted(table, shutil.get_terminal_size().columns) if sys.stdout.isatty() else [table]
    if len(parts) == 1 and parts[0] is table:
        return render(table, "md", results)
    above = same(table)
    return (f"{above}\n\n" if above else "") + "\n".join(render(part, "md", results) for part in parts)


def _legend(table: pd.DataFrame, results: str) -> str:
    """Return what each number of a table means: unit, direction, range, protocol."""
    from dataclasses import asdict

    from decomcam_bench.cli.list import column_words
    from decomcam_bench.config import registry
    from decomcam_bench.store.store import Store

    lines: dict[str, str] = {}
    for cell in Store(results).cells():
        for info in cell.metrics().values():
            protocol = ""
            if info.name in registry.names("metric"):
                protocol = str(registry.read("metric", info.name).get("description", ""))
            for column in info.columns:
                if column.label in table.columns:
                    lines.setdefault(column.label, f"{column_words(asdict(column))}; {info.label}: {protocol}")
    width = max(map(len, lines), default=0)
    counts = "n_expected = n_evaluated + n_skipped + n_failed: pairs for which a map was asked for"
    return "\n" + "".join(f"{label:<{width}}  {words}\n" for label, words in lines.items()) + counts + "\n"


def execute(arguments: argparse.Namespace) -> int:
    from decomcam_bench.core.errors import StoreError
    from decomcam_bench.store.store import Store
    from decomcam_bench.tables.cells import notes

    if not Store(arguments.results).cells():
        raise StoreError(f"--results {arguments.results}: no results there; `decomcam-bench run` makes some")
    table = shaped(arguments)
    print(_printed(table, arguments), end="")
    if arguments.legend:
        print(_legend(table, arguments.results), end="")
    for line in notes(arguments.results):
        log.warning(line)
    return 0


def shaped(arguments: argparse.Namespace) -> pd.DataFrame:
    """The table that the options of :func:`add_shape` ask for."""
    from decomcam_bench.tables import layout
    from decomcam_bench.tables.cells import labels_of
    from decomcam_bench.tables.paper import exclude
    from decomcam_bench.tables.tables import load_table

    keys = None
    if arguments.where or arguments.exclude:
        labels = layout.where(labels_of(arguments.results), arguments.where)
        keys = exclude(labels, arguments.exclude)
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
