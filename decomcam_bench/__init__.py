"""decomcam-bench: a benchmark of saliency maps for CLIP-like models.

    import decomcam_bench as bench

    bench.run("method=decomcam,gradcam", "limit=50", results="results/mine")
    table = bench.load_table("results/mine", intervals=True, reference="gradcam")
    bench.explain("photo.jpg", ["a cat", "a dog"], model="rn50")

What the command line does, as functions: each is imported when it is first used, so that ``import
decomcam_bench`` imports neither torch nor pandas. :mod:`decomcam_bench.api` lists them with their commands.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from decomcam_bench.core.version import __version__ as __version__

if TYPE_CHECKING:
    from decomcam_bench.api import dry_run as dry_run
    from decomcam_bench.api import estimate as estimate
    from decomcam_bench.api import export_maps as export_maps
    from decomcam_bench.api import export_pairs as export_pairs
    from decomcam_bench.api import run as run
    from decomcam_bench.api import show as show
    from decomcam_bench.api import verify_data as verify_data
    from decomcam_bench.config.registry import names as names
    from decomcam_bench.explainer.explain import explain as explain
    from decomcam_bench.explainer.session import Session as Session
    from decomcam_bench.gate.baseline import update_baseline as update_baseline
    from decomcam_bench.gate.regression import check as check
    from decomcam_bench.interop.objects import evaluate as evaluate
    from decomcam_bench.reports.experiments import reproduce as reproduce
    from decomcam_bench.reports.report import write_report as write_report
    from decomcam_bench.tables.tables import load_records as load_records
    from decomcam_bench.tables.tables import load_table as load_table
    from decomcam_bench.tables.tables import render as render
    from decomcam_bench.tables.upkeep import collect_garbage as collect_garbage
    from decomcam_bench.tables.upkeep import compare_cells as compare_cells
    from decomcam_bench.tables.upkeep import describe_cell as describe_cell
    from decomcam_bench.tables.upkeep import export as export
    from decomcam_bench.tables.upkeep import list_results as list_results

#: Where each function lives, below this package.
_HOMES = {
    "Session": "explainer.session",
    "check": "gate.regression",
    "collect_garbage": "tables.upkeep",
    "compare_cells": "tables.upkeep",
    "describe_cell": "tables.upkeep",
    "dry_run": "api",
    "estimate": "api",
    "evaluate": "interop.objects",
    "explain": "explainer.explain",
    "export": "tables.upkeep",
    "export_maps": "api",
    "export_pairs": "api",
    "list_results": "tables.upkeep",
    "load_records": "tables.tables",
    "load_table": "tables.tables",
    "names": "config.registry",
    "render": "tables.tables",
    "reproduce": "reports.experiments",
    "run": "api",
    "show": "api",
    "update_baseline": "gate.baseline",
    "verify_data": "api",
    "write_report": "reports.report",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"decomcam_bench.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'decomcam_bench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
