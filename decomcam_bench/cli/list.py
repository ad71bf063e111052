"""``decomcam-bench list``: what can be named."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from decomcam_bench.cli import add_command, add_json
from decomcam_bench.core.errors import UserError

KINDS = {
    "datasets": "dataset",
    "methods": "method",
    "models": "model",
    "metrics": "metric",
    "experiments": "experiment",
}
_EXAMPLES = """\
  decomcam-bench list methods
  decomcam-bench list metrics pointing energy  what each number means: unit, direction, range, protocol, source
  decomcam-bench list models --format names
  decomcam-bench list layers model=rn50        name, channels and grid of every layer
  decomcam-bench list models --all             what else model= takes: architectures of open_clip, their weights
                                               (model=ARCH:TAG), towers, default layers, and names from elsewhere
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "list data sets, methods, models, metrics, experiments or layers"
    parser = add_command(subparsers, "list", summary, _EXAMPLES)
    parser.add_argument("what", choices=(*KINDS, "layers", "architectures"))
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="NAME",
        help="only these, in full; for layers: model=NAME",
    )
    parser.add_argument(
        "--all", action="store_true", help="for models: all architectures of open_clip, with tags, towers and aliases"
    )
    parser.add_argument("--format", choices=("table", "names"), default="table")
    add_json(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    what, words = arguments.what, arguments.overrides
    if what == "layers":
        return _print(arguments, _layers(words))
    if arguments.all and what != "models":
        raise UserError(f"list {what}: --all goes with models alone")
    if arguments.all and arguments.format == "names":
        from decomcam_bench.config import models

        print("\n".join(models.names()))
        return 0
    if what == "architectures" or arguments.all:
        return _print(arguments, _architectures(words))
    if not words:
        return _print(arguments, _choices(KINDS[what]))
    described = [_describe(KINDS[what], word) for word in words]
    if arguments.json:
        print(json.dumps(described, indent=2))
    else:
        print("\n".join(_text(one) for one in described), end="")
    return 0


def _print(arguments: argparse.Namespace, rows: Sequence[dict[str, str]]) -> int:
    """Print rows of the same columns; the first column holds the names."""
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    if arguments.format == "names":
        print("\n".join(next(iter(row.values())) for row in rows))
        return 0
    header = list(rows[0]) if rows else []
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in header}
    lines = [{name: name for name in header}, {name: "-" * widths[name] for name in header}, *rows]
    for row in lines:
        print("  ".join(row[name].ljust(widths[name]) for name in header).rstrip())
    if arguments.what == "layers" and any(row["layer"].startswith("block") for row in rows):
        from decomcam_bench.models.towers.openai import ViTTower

        points = ", ".join(f"block0.{point}" for point in ViTTower.points[1:])
        print(f"\na block is read at its ln_1; other places: {points}")
    return 0


def _choices(group: str) -> list[dict[str, str]]:
    from decomcam_bench.config import registry

    return [
        {"name": name, "description": str(registry.read(group, name).get("description", ""))}
        for name in registry.names(group)
    ]


def _describe(group: str, word: str) -> dict[str, Any]:
    """Return everything that is known of a choice before it is used."""
    from decomcam_bench.config import registry
    from decomcam_bench.config.chosen import choose

    config = registry.read(group, word)
    found: dict[str, Any] = {"name": word, "description": config.get("description", "")}
    if group == "experiment":
        return {**found, **{key: config[key] for key in ("datasets", "overrides", "columns") if key in config}}
    chosen = choose(group, word)
    found["class"] = chosen.config["impl"]
    if group == "metric":
        from dataclasses import asdict

        metric = registry.build(group, chosen.config)
        found["needs"] = sorted(metric.annotation)
        found["version"] = getattr(metric, "version", 1)
        found["columns"] = [asdict(column) for column in metric.columns]
    found["options"] = {name: chosen.config.get(name) for name in chosen.options()}
    if chosen.config["impl"] != "???":
        cls = registry.implementation(group, str(chosen.config["impl"]))
        found["documentation"] = _documentation(cls)
    return found


def _documentation(found: type) -> str:
    """Return the docstring of a class; that of a dataclass without one is its signature, which says nothing."""
    import inspect

    text = inspect.getdoc(found) or ""
    return "" if text.startswith(f"{found.__name__}(") else text


def _text(described: dict[str, Any]) -> str:
    lines = [f"{described['name']}: {described['description']}"]
    for column in described.get("columns", []):
        if isinstance(column, str):
            continue
        lines.append(f"  {column['name']:<24} {column_words(column)}")
    if described.get("needs"):
        lines.append(f"  needs a {' or a '.join(described['needs'])} for each target")
    for name in ("datasets", "overrides"):
        if name in described:
            lines.append(f"  {name}: {' '.join(map(str, described[name]))}")
    if described.get("options"):
        shown = ", ".join(f"{name}={'null' if v is None else v}" for name, v in described["options"].items())
        lines.append(f"  options: {shown}")
    if described.get("documentation"):
        lines += ["", *(f"  {line}".rstrip() for line in described["documentation"].splitlines())]
    return "\n".join(lines) + "\n"


def column_words(column: dict[str, Any]) -> str:
    """Return what is known of a column on one line: meaning, unit, direction, range."""
    better = {"higher": "higher is better", "lower": "lower is better"}.get(column["direction"], "descriptive")
    low, high = ("" if column[end] is None else f"{column[end]:g}" for end in ("low", "high"))
    ends = [f"at least {low}"] * bool(low) + [f"at most {high}"] * bool(high)
    spread = f"from {low} to {high}" if len(ends) == 2 else "".join(ends)
    kind = "on request (--details)" if column["detail"] else ""
    return "; ".join(filter(None, [str(column.get("meaning", "")), column["unit"], better, spread, kind]))


def _architectures(words: Sequence[str]) -> list[dict[str, str]]:
    """Return a row for each architecture of open_clip, or for those that are named."""
    from decomcam_bench.core.errors import ConfigError, unknown
    from decomcam_bench.models.catalogue import entries

    found = {entry.name: entry for entry in entries()}
    for word in words:
        if word not in found:
            raise ConfigError(unknown("architecture", word, found))
    return [
        {
            "architecture": entry.name,
            "input": str(entry.input_size),
            "image tower": f"{entry.image} {entry.trunk}".strip() if entry.image else f"unsupported: {entry.trunk}",
            "text tower": entry.text,
            "layer": entry.layer,
            "pretrained": " ".join(entry.tags) or "(none)",
            "also": " ".join(entry.aliases),
        }
        for entry in (found[word] for word in words or found)
    ]


def _layers(overrides: Sequence[str]) -> list[dict[str, str]]:
    from decomcam_bench.config import registry
    from decomcam_bench.config.settings import load_config, untrained_twin
    from decomcam_bench.core.errors import ConfigError
    from decomcam_bench.engine.plan import label

    words = [word if "=" in word else f"model={word}" for word in overrides]
    for word in words:
        if word.lstrip("+").partition("=")[0].partition(".")[0] not in ("model", "dataset"):
            raise ConfigError(f"list layers takes no '{word}'; write model=NAME, and options of the model")
    # Layers belong to the architecture: no weights are needed, nor fetched.
    models: dict[str, dict[str, Any]] = {}
    for setting in load_config(words).settings:
        changed = dict(setting.changed["model"])
        models[label(setting.model["name"], changed)], _ = untrained_twin((dict(setting.model), changed))
    rows: list[dict[str, str]] = []
    for name, config in models.items():
        source = registry.build("model", config)
        outline = source.outline()
        default = outline.tower.canonical(source.layer or outline.tower.default_layer)
        for layer, (channels, height, width) in outline.layer_shapes().items():
            rows.append(
                {
                    "layer": layer,
                    "channels": str(channels),
                    "grid": f"{height} x {width}",
                    "default": "default" if layer == default else "",
                    **({"model": name} if len(models) > 1 else {}),
                }
            )
    return rows
