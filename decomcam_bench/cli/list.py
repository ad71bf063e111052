"""``decomcam-bench list``: what can be named."""

from __future__ import annotations

import argparse

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
    header = ("layer", "channels", "grid") if arguments.what == "layers" else ("name", "description")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, tuple("-" * width for width in widths), *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _choices(group: str) -> list[tuple[str, ...]]:
    from decomcam_bench import registry

    return [(name, str(registry.read(group, name).get("description", ""))) for name in registry.names(group)]


def _layers(overrides: list[str]) -> list[tuple[str, ...]]:
    from decomcam_bench import registry
    from decomcam_bench.config import load_config

    rows: list[tuple[str, ...]] = []
    for setting in {s.model["name"]: s for s in load_config(overrides).settings}.values():
        model = registry.build("model", setting.model).load("cpu", "fp32")
        shapes = model.layer_shapes()
        rows += [(name, str(channels), f"{height} x {width}") for name, (channels, height, width) in shapes.items()]
    return rows
