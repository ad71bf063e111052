"""``decomcam-bench baseline update``: keep a store's numbers as the baseline of the gate."""

from __future__ import annotations

import argparse

from decomcam_bench.cli import add_command, add_results

_EXAMPLES = """\
  decomcam-bench baseline update --baseline results/baselines/toybox.json --results results/gate
  decomcam-bench baseline update --baseline base.json --key 2c0d2567c8aa3ec5
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "baseline", "write a baseline for the regression gate", _EXAMPLES)
    parser.add_argument("action", choices=("update",))
    parser.add_argument("--baseline", required=True, metavar="FILE", help="the file to write")
    add_results(parser)
    parser.add_argument("--key", action="append", metavar="KEY", help="only this cell; repeatable (default: all)")
    parser.add_argument("--no-images", action="store_true", help="leave the values of single images out")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    from decomcam_bench.gate.baseline import read_baseline, update_baseline

    file = update_baseline(arguments.baseline, arguments.results, arguments.key, images=not arguments.no_images)
    baseline = read_baseline(file)
    numbers = sum(len(metric["columns"]) for cell in baseline["cells"] for metric in cell["metrics"])
    print(f"{arguments.baseline}: {numbers} numbers of {len(baseline['cells'])} cells")
    return 0
