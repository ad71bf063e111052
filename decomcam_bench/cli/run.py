"""``decomcam-bench run``: evaluate a configuration and print its table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence

from decomcam_bench.cli import add_command, add_overrides

#: Reasons of failure that are printed; a damaged data set may have thousands.
REASONS_SHOWN = 10

_EXAMPLES = """\
  decomcam-bench run
      the embedded benchmark: toybox, toyclip, DecomCAM
  decomcam-bench run method=decomcam,gradcam,random layer=layer3,layer4 rank=1,5,10
      every combination; a method without a rank is not repeated per rank
  decomcam-bench run dataset=voc dataset.root=/data/VOCdevkit model=rn50 limit=200 device=cuda
  decomcam-bench run dataset=voc model=ViT-B-16 model.pretrained=openai
  decomcam-bench run method.impl=my_pkg.my_module:MyCAM method.alpha=2
  decomcam-bench run metric=pointing metric.tolerance=0,15
  decomcam-bench run method=scorecam --dry-run

groups: dataset, model, method, metric; `decomcam-bench list methods` names the choices, and an
option of a choice is set as method.OPTION=VALUE (`decomcam-bench show method=NAME` lists them).
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
    parser.add_argument("--format", choices=("md", "csv", "json"), default="md", help="format of the table")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    from decomcam_bench import api
    from decomcam_bench.tables.tables import load_table, render

    if arguments.dry_run:
        print(api.dry_run(*arguments.overrides), end="")
        return 0
    result = api.run(*arguments.overrides)
    if result.computed_images:
        counts = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in result.passes.items())
        print(f"{result.computed_images} images in {result.seconds:.1f} s; passes: {counts}", file=sys.stderr)
    else:
        print("nothing to compute: the store has every record of this run", file=sys.stderr)
    for line in _failures(result.new_failures):
        print(line, file=sys.stderr)
    if result.unusable:
        count = len(result.unusable)
        print(
            f"{count} unusable {'annotation' if count == 1 else 'annotations'} left out (data verify lists them), "
            f"first: {result.unusable[0]}",
            file=sys.stderr,
        )
    table = load_table(result.results, result.keys)
    print(render(table, arguments.format, result.results), end="")
    if _lacks_controls(result.results, result.keys):
        print("no row shows what chance or the annotation itself scores here; controls=true adds some", file=sys.stderr)
    hopeless = (table["n_expected"] > 0) & (table["n_evaluated"] == 0)
    return 1 if bool(hopeless.any()) else 0


def _lacks_controls(results: str, keys: Sequence[str]) -> bool:
    """Whether a number of these cells depends on annotations and no control stands beside the methods."""
    from decomcam_bench.config.settings import CONTROLS
    from decomcam_bench.store.reader import metric_of
    from decomcam_bench.store.store import Store
    from decomcam_bench.tables.layout import bare

    store = Store(results)
    cells = [cell for key in keys if (cell := store.cell(key))]
    if any(bare(str(cell.display["method"])) in CONTROLS for cell in cells):
        return False
    return any(metric_of(content).annotation for cell in cells for content in cell.metrics().values())


def _failures(reasons: Mapping[str, int]) -> Iterator[str]:
    """One line a reason, the most frequent first; beyond :data:`REASONS_SHOWN` their number."""
    shown = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    for reason, count in shown[:REASONS_SHOWN]:
        yield f"{count} {'pair' if count == 1 else 'pairs'} failed: {reason}"
    rest = [count for _, count in shown[REASONS_SHOWN:]]
    if rest:
        yield f"{sum(rest)} more failed, for {len(rest)} other reasons; `table --format json` gives them all"
