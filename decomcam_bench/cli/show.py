"""``decomcam-bench show``: the resolved configuration."""

from __future__ import annotations

import argparse

from decomcam_bench.cli import add_command, add_overrides

_EXAMPLES = """\
  decomcam-bench show
  decomcam-bench show dataset=voc method=decomcam,gradcam > week.yaml
  decomcam-bench run @week.yaml limit=20      what was printed, as overrides
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "show", "print the resolved configuration as YAML", _EXAMPLES)
    add_overrides(parser, "as of `run`")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    from decomcam_bench.api import show

    print(show(*arguments.overrides), end="")
    return 0
