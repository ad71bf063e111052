"""``decomcam-bench report``: one HTML file to look through."""

from __future__ import annotations

import argparse

from decomcam_bench.cli import add_command, add_overrides, add_results
from decomcam_bench.core.console import log

_EXAMPLES = """\
  decomcam-bench report
  decomcam-bench report --results results/voc --out voc.html dataset.root=/data/VOCdevkit device=cuda
  decomcam-bench report --no-gallery                 numbers and curves alone; needs no data set
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "report", "write a self-contained HTML report of a results store", _EXAMPLES)
    add_overrides(parser, "for the pictures: where data lie, which device")
    add_results(parser)
    parser.add_argument("--out", metavar="FILE", help="the file (default: RESULTS/report.html)")
    parser.add_argument("--no-gallery", action="store_true", help="no pictures")
    parser.add_argument("--resamples", type=int, default=2_000, metavar="N", help="of the intervals")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from decomcam_bench.reports.report import write_report

    out = arguments.out or Path(arguments.results) / "report.html"
    path = write_report(
        arguments.results, out, *arguments.overrides, gallery=not arguments.no_gallery, resamples=arguments.resamples
    )
    log.info("wrote %s (%.1f MiB)", path, path.stat().st_size / 2**20)
    return 0
