"""``decomcam-bench run``: evaluate a configuration and print its table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from decomcam_bench.cli import add_command, add_json, add_overrides
from decomcam_bench.cli.table import terminal
from decomcam_bench.core.console import log

if TYPE_CHECKING:
    import pandas as pd

    from decomcam_bench.engine.engine import RunResult

#: Reasons of failure that are printed; a damaged data set may have thousands.
REASONS_SHOWN = 10

_EXAMPLES = """\
  decomcam-bench run limit=20
      a first look: 20 scenes of the embedded benchmark with DecomCAM; without limit=20 all of them
  decomcam-bench run method=decomcam,gradcam,random layer=layer3,layer4 rank=1,5,10 limit=20
      every combination; a method without a rank is not repeated per rank
  decomcam-bench run dataset=voc dataset.root=/data/VOCdevkit model=rn50 limit=200 device=cuda
  decomcam-bench run dataset=voc model=ViT-B-16 model.pretrained=openai limit=20
  decomcam-bench run method=decomcam,my_cam:MyCAM my_cam.alpha=2 limit=20
      a class of your own, from my_cam.py in this folder, next to DecomCAM
  decomcam-bench run metric=pointing metric.tolerance=0,15 method.decomcam.channels=50 limit=20
  decomcam-bench run @week.yaml limit=20
      overrides from a file: one per line, a YAML mapping, or what `decomcam-bench show` printed
  decomcam-bench run method=scorecam --dry-run

groups: dataset, model, method, metric; `decomcam-bench list methods` names the choices, and an
option of a choice is set as method.OPTION=VALUE (`decomcam-bench show method=NAME` lists them),
or for one of several as method.NAME.OPTION=VALUE.
plain keys: layer, rank, limit (first N images), seed, precision (fp32, fp16, bf16),
  device (auto, cpu, cuda, cuda:N), batch_size, workers, results (store), strict, save_maps,
  controls (add random, center, oracle, and the first method on the untrained model).
Comma lists sweep. A run that was stopped continues where it ended; a finished one computes nothing.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "run", "evaluate methods on a data set and print the table", _EXAMPLES)
    add_overrides(parser, "Hydra overrides, or @FILE that lists some; comma lists sweep")
    parser.add_argument("-m", "--multirun", action="store_true", help="accepted for Hydra's sake; sweeps need no flag")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and compute nothing")
    parser.add_argument(
        "--fresh", action="store_true", help="compute the cells again, for instance after their code was edited"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="compute again where a pair failed, whatever the reason"
    )
    parser.add_argument("--format", choices=("md", "csv", "json"), default="md", help="format of the table")
    add_json(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    from decomcam_bench import api
    from decomcam_bench.config.overrides import check_repeated
    from decomcam_bench.tables import layout
    from decomcam_bench.tables.cells import notes
    from decomcam_bench.tables.coverage import fewer_pairs
    from decomcam_bench.tables.tables import load_table, render

    check_repeated(arguments.overrides)
    if arguments.dry_run:
        estimate = api.estimate(*arguments.overrides)
        print(json.dumps(estimate.as_dict(), indent=2) + "\n" if arguments.json else estimate.text(), end="")
        return 0
    result = api.run(*arguments.overrides, fresh=arguments.fresh, retry_failed=arguments.retry_failed)
    _tell(result)
    table = load_table(result.results, result.keys, note=log.warning)
    shown = table.drop(columns=[name for name in layout.numbers(table) if name not in result.numbers])
    if arguments.json:
        print(json.dumps(_as_json(result, shown), indent=2))
    else:
        text = terminal(shown, result.results) if arguments.format == "md" else None
        print(text or render(shown, arguments.format, result.results), end="")
    for line in notes(result.results, result.keys):
        log.warning(line)
    fewer = fewer_pairs(result.results, result.keys)
    if fewer:
        log.info("some numbers are over fewer pairs than there are maps: %s", "; ".join(fewer))
    if _lacks_controls(result.results, result.keys):
        log.info("no row shows what chance or the annotation itself scores here; controls=true adds some")
    hopeless = (table["n_expected"] > 0) & (table["n_evaluated"] == 0)
    return 1 if bool(hopeless.any()) else 0


def _tell(result: RunResult) -> None:
    """Say what was done and what went wrong."""
    if result.computed_images:
        counts = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in result.passes.items())
        log.info("%d images in %.1f s; passes: %s", result.computed_images, result.seconds, counts)
    else:
        log.info("nothing to compute: the store has every record of this run")
    for line in _failures(result.new_failures):
        log.warning(line)
    if result.unusable:
        count = len(result.unusable)
        words = "annotation" if count == 1 else "annotations"
        log.warning("%d unusable %s left out (data verify lists them), first: %s", count, words, result.unusable[0])

    if result.findings:
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.findings.items())
        total = sum(result.findings.values())
        words = "finding" if total == 1 else "findings"
        log.warning("data: %d %s that `data verify` lists with what to set: %s", total, words, kinds)
    for line in result.remarks[:REASONS_SHOWN]:
        log.info("data: %s", line)


def _as_json(result: RunResult, table: pd.DataFrame) -> dict[str, Any]:
    from decomcam_bench.tables.tables import render

    return {**asdict(result), "table": json.loads(render(table, "json", result.results))}


def _lacks_controls(results: str, keys: Sequence[str]) -> bool:
    """True if a number of these cells depends on annotations and no control stands next to the methods."""
    from decomcam_bench.config import registry
    from decomcam_bench.store.reader import metric_of, metrics_of
    from decomcam_bench.store.store import Store
    from decomcam_bench.tables.layout import bare

    store = Store(results)
    cells = [cell for key in keys if (cell := store.cell(key))]
    if any(bare(str(cell.labels["method"])) in registry.controls("blind", "annotation") for cell in cells):
        return False
    return any(metric_of(content).annotation for cell in cells for content in metrics_of(cell).values())


def _failures(reasons: Mapping[str, int]) -> Iterator[str]:
    """One line per reason, the most frequent first; beyond :data:`REASONS_SHOWN` their number."""
    shown = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    for reason, count in shown[:REASONS_SHOWN]:
        yield f"{count} {'pair' if count == 1 else 'pairs'} failed: {reason}"
    rest = [count for _, count in shown[REASONS_SHOWN:]]
    if rest:
        yield f"{sum(rest)} more failed, for {len(rest)} other reasons; `table --format json` gives them all"
