"""``decomcam-bench list``: what can be named."""

from __future__ import annotations

import argparse
from typing import Any

from decomcam_bench.cli import add_command

KINDS = {"datasets": "dataset", "methods": "method", "models": "model", "metrics": "metric"}
_EXAMPLES = """\
  decomcam-bench list methods
  decomcam-bench list models --format names
  decomcam-bench list layers model=rn50        name, channels and grid of every layer
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "list", "list data sets, methods, models, metrics or layers", _EXAMPLES)
    parser.add_argument("what", choices=(*KINDS, "layers"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for layers: the model")
    parser.add_argument("--format", choices=("table", "names"), default="table")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    rows = _layers(arguments.overrides) if arguments.what == "layers" else _choices(KINDS[arguments.what])
    if arguments.format == "names":
        print("\n".join(row[0] for row in rows))
        return 0
    header = ("layer", "channels", "grid", "model")[: len(rows[0])]
    header = header if arguments.what == "layers" else ("name", "description")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, tuple("-" * width for width in widths), *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if arguments.what == "layers" and any(row[0].startswith("block") for row in rows):
        from decomcam_bench.models.towers.openai import ViTTower

        points = ", ".join(f"block0.{point}" for point in ViTTower.points[1:])
        print(f"\na block is read at its ln_1; other places: {points}")
    return 0


def _choices(group: str) -> list[tuple[str, ...]]:
    from decomcam_bench.config import registry

    return [(name, str(registry.read(group, name).get("description", ""))) for name in registry.names(group)]


def _layers(overrides: list[str]) -> list[tuple[str, ...]]:
    from decomcam_bench.config import registry
    from decomcam_bench.config.settings import load_config, untrained_twin
    from decomcam_bench.engine.plan import label

    # Layers belong to the architecture: no weights are needed, nor fetched.
    models: dict[str, dict[str, Any]] = {}
    for setting in load_config(overrides).settings:
        changed = dict(setting.changed["model"])
        models[label(setting.model["name"], changed)], _ = untrained_twin((dict(setting.model), changed))
    rows: list[tuple[str, ...]] = []
    for name, config in models.items():
        shapes = registry.build("model", config).load("cpu", "fp32").layer_shapes()
        more = (name,) if len(models) > 1 else ()
        rows += [
            (layer, str(channels), f"{height} x {width}", *more) for layer, (channels, height, width) in shapes.items()
        ]
    return rows
