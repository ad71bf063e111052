"""``decomcam-bench check``: the regression gate."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from decomcam_bench.cli import add_command, add_json, add_results

if TYPE_CHECKING:
    from decomcam_bench.gate.regression import Finding

_EXAMPLES = """\
  decomcam-bench check --baseline results/baselines/toybox.json --results results/gate
  decomcam-bench check --baseline base.json --summary "$GITHUB_STEP_SUMMARY"
  decomcam-bench check --baseline base.json --tolerance energy=0.002 --tolerance "pointing*=0.1"

exit status: 0 nothing is worse; 1 a number regressed or failed; 2 a number is missing or
incomparable (other code than is installed made its records, too), or something is for you to
mend. Tolerances: configs/gate/default.yaml.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "check", "compare a results store with a baseline", _EXAMPLES)
    parser.add_argument("--baseline", required=True, metavar="FILE", help="made by `decomcam-bench baseline update`")
    add_results(parser)
    parser.add_argument(
        "--tolerances", default="default", metavar="NAME|FILE", help="a choice of configs/gate, or a YAML file"
    )
    parser.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="COLUMN=AMOUNT",
        help="absolute; wildcards allowed; repeatable",
    )
    parser.add_argument(
        "--any-code", action="store_true", help="also judge records that other code made than is installed"
    )
    parser.add_argument("--summary", metavar="FILE", help="append a Markdown summary to this file")
    add_json(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    from decomcam_bench.gate.findings import as_markdown, as_text
    from decomcam_bench.gate.regression import check, exit_status

    findings = check(
        arguments.baseline, arguments.results, arguments.tolerances, arguments.tolerance, arguments.any_code
    )
    status = exit_status(findings)
    print(_as_json(findings, status) if arguments.json else as_text(findings), end="")
    if arguments.summary:
        _append(arguments.summary, as_markdown(findings, status))
    return status


def _as_json(findings: Sequence[Finding], status: int) -> str:
    import json
    from dataclasses import asdict

    return json.dumps({"exit_status": status, "findings": [asdict(found) for found in findings]}, indent=2) + "\n"


def _append(path: str, text: str) -> None:
    from decomcam_bench.core.errors import ConfigError

    try:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(f"--summary {path}: cannot be written ({error.strerror})") from error
