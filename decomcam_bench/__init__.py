"""decomcam-bench: a benchmark of saliency maps for CLIP-like models.

The functions of :mod:`decomcam_bench.api` are here too, imported when first used.
"""

from typing import Any

from decomcam_bench.core.version import __version__ as __version__

_API = (
    "check",
    "collect_garbage",
    "compare_cells",
    "describe_cell",
    "dry_run",
    "export",
    "export_maps",
    "export_pairs",
    "list_results",
    "load_records",
    "load_table",
    "names",
    "render",
    "reproduce",
    "run",
    "show",
    "update_baseline",
    "verify_data",
    "write_report",
)


def __getattr__(name: str) -> Any:
    if name in _API:
        from decomcam_bench import api

        return getattr(api, name)
    raise AttributeError(f"module 'decomcam_bench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
