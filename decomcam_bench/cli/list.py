"""``decomcam-bench list``: what can be named."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from decomcam_bench.cli import add_command, add_json

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
  decomcam-bench list architectures            what else model= takes: architectures of open_clip
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
    parser.add_argument("--all", action="store_true", help="models: also open_clip's architectures and other names")
    parser.add_argument("--format", choices=("table", "names"), default="table")
    add_json(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    what, words = arguments.what, arguments.overrides
    if what == "layers":
        return _print(arguments, _layers(words))
    if what == "architectures":
        return _print(arguments, _architectures(words))
    if not words:
        rows = _choices(KINDS[what])
        return _print(arguments, [*rows, *_other_models()] if arguments.all and what == "models" else rows)
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


def _other_models() -> list[dict[str, str]]:
    """Return the names that ``model=`` takes without a YAML."""
    from decomcam_bench.config import models

    return [
        *({"name": name, "description": "architecture of open_clip"} for name in models.architectures()),
        *({"name": name, "description": f"the same as {target}"} for name, target in models.aliases().items()),
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
    import open_clip

    from decomcam_bench.core.errors import ConfigError, unknown

    names = open_clip.list_models()
    for word in words:
        if word not in names:
            raise ConfigError(unknown("architecture", word, names))
    return [
        {"architecture": name, "pretrained": " ".join(open_clip.list_pretrained_tags_by_model(name)) or "(none)"}
        for name in words or names
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
        model = source.load("cpu", "fp32")
        default = model.tower.canonical(source.layer or model.tower.default_layer)
        for layer, (channels, height, width) in model.layer_shapes().items():
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
