"""``decomcam-bench reproduce``: a named experiment, its table and its figure."""

from __future__ import annotations

import argparse

from decomcam_bench.cli import add_command, add_overrides
from decomcam_bench.core.console import log

_EXAMPLES = """\
  decomcam-bench reproduce                                  the names of the experiments
  decomcam-bench reproduce localization --dry-run           what it takes, by data set
  decomcam-bench reproduce ./mine.yaml                      an experiment of your own
  decomcam-bench reproduce localization                     on every data set that is there
  decomcam-bench reproduce ablation_rank dataset=toybox     offline, in minutes
  decomcam-bench reproduce faithfulness dataset=voc dataset.root=/data/VOCdevkit device=cuda --out paper/

Data sets that are missing are named and skipped; with --require-all that is an error. A run that
was stopped continues. Overrides come last and win.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "reproduce", "run a named experiment and write its table and figure", _EXAMPLES)
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="an experiment, or FILE.yaml; without it they are listed"
    )
    add_overrides(parser, "as of `decomcam-bench run`")
    parser.add_argument("--dry-run", action="store_true", help="print what it would take and compute nothing")
    parser.add_argument("--require-all", action="store_true", help="a missing data set is an error")
    parser.add_argument("--out", metavar="DIR", help="folder of table and figure (default: RESULTS/experiments/NAME)")
    parser.add_argument("--resamples", type=int, default=2_000, metavar="N", help="of the intervals")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    if arguments.name is None:
        from decomcam_bench.config import registry

        for name in registry.names("experiment"):
            print(f"{name:18} {registry.read('experiment', name)['description']}")
        return 0
    if arguments.dry_run:
        return _dry_run(arguments)
    from decomcam_bench.reports.experiments import reproduce
    from decomcam_bench.tables.tables import render

    outcome = reproduce(
        arguments.name,
        *arguments.overrides,
        require_all=arguments.require_all,
        out=arguments.out,
        resamples=arguments.resamples,
    )
    for dataset, why in outcome.skipped.items():
        log.warning("skipped %s: %s", dataset, why)
    if not outcome.computed_images:
        log.info("nothing to compute: the store has every record of this experiment")
    print(render(outcome.table, "md"), end="")
    for file in outcome.files:
        log.info("wrote %s", file)
    return 0


def _dry_run(arguments: argparse.Namespace) -> int:
    from decomcam_bench.engine.estimate import duration
    from decomcam_bench.reports.experiments import dry_run_experiment

    found, skipped = dry_run_experiment(arguments.name, *arguments.overrides, require_all=arguments.require_all)
    for one in found.values():
        print(one.text())
    for dataset, why in skipped.items():
        print(f"skipped {dataset}: {why}")
    print(f"in all: {duration(sum(one.seconds for one in found.values()))}")
    return 0
