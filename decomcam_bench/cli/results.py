"""``decomcam-bench results``: look after a results store."""

from __future__ import annotations

import argparse

from decomcam_bench.cli import add_command, add_json, add_results
from decomcam_bench.core.console import log

_EXAMPLES = """\
  decomcam-bench results list
  decomcam-bench results show 2c0d25                  a key may be cut short
  decomcam-bench results compare 2c0d25 07edae --metric energy
  decomcam-bench results rm 2c0d25                    remove a cell
  decomcam-bench results gc --dry-run                 what an interrupted run left behind
  decomcam-bench results export --out records.parquet
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "results", "find, inspect, compare, clean and export results", _EXAMPLES)
    parser.add_argument("action", choices=("list", "show", "compare", "rm", "gc", "export"))
    parser.add_argument(
        "keys", nargs="*", default=[], metavar="KEY", help="cells: one to show, two to compare, any to rm"
    )
    add_results(parser)
    parser.add_argument("--metric", metavar="NAME", help="compare, export: only this metric")
    parser.add_argument("--images", type=int, default=10, metavar="N", help="compare: images to show (default: 10)")
    parser.add_argument("--dry-run", action="store_true", help="gc, rm: remove nothing")
    parser.add_argument("--out", metavar="FILE", help="export: a .csv or .parquet file")
    add_json(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    from decomcam_bench.core.errors import ConfigError, StoreError
    from decomcam_bench.store.store import Store
    from decomcam_bench.tables import upkeep as housekeeping

    wanted = {"list": 0, "show": 1, "compare": 2, "gc": 0}.get(arguments.action)
    if wanted is not None and len(arguments.keys) != wanted:
        raise ConfigError(f"results {arguments.action} takes {wanted or 'no'} KEY{'s' if wanted == 2 else ''}")
    if arguments.action == "gc" and (Store(arguments.results).root / "cells").is_dir():
        lines = housekeeping.collect_garbage(arguments.results, arguments.dry_run)
        print("\n".join(lines) if lines else "nothing to remove")
        return 0
    if arguments.action == "rm":
        if not arguments.keys:
            raise ConfigError("results rm takes the KEYs of the cells to remove")
        print("\n".join(housekeeping.remove_cells(arguments.results, arguments.keys, arguments.dry_run)))
        return 0
    if not Store(arguments.results).cells():
        raise StoreError(f"--results {arguments.results}: no results there; `decomcam-bench run` makes some")
    if arguments.action == "list":
        from decomcam_bench.tables.tables import render

        table = housekeeping.list_results(arguments.results)
        print(table.to_json(orient="records", indent=2) + "\n" if arguments.json else render(table, "md"), end="")
        _warn(arguments)
    elif arguments.action == "show":
        import json

        print(json.dumps(housekeeping.describe_cell(arguments.keys[0], arguments.results), indent=2))
    elif arguments.action == "export":
        if not arguments.out:
            raise ConfigError("results export needs --out FILE, ending in .csv or .parquet")
        rows = housekeeping.export(arguments.out, arguments.results, arguments.keys, arguments.metric)
        print(f"{arguments.out}: {rows} records")
        _warn(arguments)
    else:
        _compare(arguments)
    return 0


def _warn(arguments: argparse.Namespace) -> None:
    """Says which of the cells are not finished."""
    from decomcam_bench.tables.cells import notes
    from decomcam_bench.tables.upkeep import find_cell

    keys = [find_cell(arguments.results, key).key for key in arguments.keys] or None
    for line in notes(arguments.results, keys):
        log.warning(line)


def _compare(arguments: argparse.Namespace) -> None:
    from decomcam_bench.core.errors import ConfigError
    from decomcam_bench.gate.regression import differences
    from decomcam_bench.tables import upkeep as housekeeping
    from decomcam_bench.tables.formats import markdown

    if arguments.images < 0:
        raise ConfigError(f"--images {arguments.images}: must be at least 0")
    one, other = arguments.keys
    first, second = (housekeeping.find_cell(arguments.results, key) for key in (one, other))
    for line in differences(first.identity, second.identity):
        print(line)
    for found in housekeeping.compare_cells(one, other, arguments.results, arguments.metric):
        paired = found.paired
        print(
            f"\n{found.column}: second - first = {paired.difference:+.4g} [{paired.low:+.4g}, {paired.high:+.4g}], "
            f"p = {paired.p:.2g}, {paired.pairs} pairs of {paired.images} images, {paired.left_out} left out"
        )
        rows = [
            [str(image), *(f"{row[name]:.4g}" for name in ("first", "second", "change"))]
            for image, row in found.images.head(arguments.images).iterrows()
        ]
        if rows:
            print(markdown(("image", "first", "second", "change"), rows), end="")
