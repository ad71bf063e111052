"""Baselines: a store's numbers as one JSON file for git, with the values of every image.

    {"schema": 1, "version": ..., "cells": [{
        "key", "identity", "display", "n_expected", "n_failed",
        "metrics": [{"key", "name", "identity", "n_failed", "n_skipped",
                     "columns": [{"name", "label", "direction", "value"}],
                     "images": [...], "image_values": {name: [...]}}]}]}

``value`` is exact. Values of images have seven significant digits, which is what differs between
machines anyway. A baseline holds complete metrics of complete cells alone.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from decomcam_bench.core.errors import ConfigError, StoreError
from decomcam_bench.core.version import __version__
from decomcam_bench.store.reader import evaluated, image_values, metric_of, metric_records, metrics_of
from decomcam_bench.store.schema import MetricInfo, key_of
from decomcam_bench.store.store import RECORDS, Cell, Store
from decomcam_bench.tables.cells import counts, is_complete, order

SCHEMA = 1


def update_baseline(
    baseline: str | Path, results: str | Path = "results", keys: Iterable[str] | None = None, images: bool = True
) -> Path:
    """Write a store's numbers as a baseline for :func:`~decomcam_bench.gate.regression.check`.

    Args:
        baseline: the file to write.
        results: root of the store.
        keys: only these cells; None for all.
        images: keep the values of every image.

    Raises:
        StoreError: as :func:`make_baseline`.
        ConfigError: when the file cannot be written.
    """
    write_baseline(baseline, make_baseline(results, keys, images))
    return Path(baseline)


def make_baseline(results: str | Path, keys: Iterable[str] | None = None, images: bool = True) -> dict[str, Any]:
    """The baseline of a store.

    Args:
        results: root of the store.
        keys: only these cells; None for all.
        images: keep the values of every image.

    Raises:
        StoreError: when the store is empty, a cell is not finished, or a key is not there.
    """
    store = Store(results)
    if keys is None:
        cells = sorted(store.cells(), key=order)
    else:
        cells = []
        for key in keys:
            cell = store.cell(key)
            if cell is None:
                raise StoreError(f"{results}: has no cell {key}; `decomcam-bench results list` names the keys")
            cells.append(cell)
    if not cells:
        raise StoreError(f"{results}: no results there; `decomcam-bench run` makes some")
    return {"schema": SCHEMA, "version": __version__, "cells": [_cell(cell, images) for cell in cells]}


def _cell(cell: Cell, images: bool) -> dict[str, Any]:
    if not is_complete(cell):
        raise StoreError(f"cell {cell.key} is unfinished and cannot be a baseline; run its command again first")
    found = counts(cell.read(RECORDS, lambda name: name == "status"))
    metrics = []
    for key, content in metrics_of(cell).items():
        if not is_complete(cell, key):
            raise StoreError(
                f"cell {cell.key}: metric {content.name} is unfinished and cannot be in a baseline; "
                f"run its command again first"
            )
        metrics.append(_metric(cell, key, content, images))
    return {
        "key": cell.key,
        "identity": dict(cell.identity),
        "display": dict(cell.labels),
        "n_expected": found["n_expected"],
        "n_failed": found["n_failed"],
        "metrics": metrics,
    }


def _metric(cell: Cell, key: str, content: MetricInfo, images: bool) -> dict[str, Any]:
    records = metric_records(cell, key)
    metric = metric_of(content)
    good = evaluated(records, metric)
    values = metric.aggregate(good)
    judged = [c for c in content.columns if c.direction != "none" and not c.machine]
    made: dict[str, Any] = {
        "key": key,
        "name": content.name,
        "identity": content.identity,
        "n_failed": counts(records)["n_failed"],
        "n_skipped": counts(records)["n_skipped"],
        "columns": [
            {
                "name": column.name,
                "label": column.label,
                "direction": column.direction,
                "value": _number(values[column.name]),
            }
            for column in judged
        ],
    }
    if images and len(good):
        each = image_values(metric.image_sums(good))
        made["images"] = [str(name) for name in each.index]
        made["image_values"] = {
            column.name: [_number(float(f"{value:.7g}")) for value in each[column.name]] for column in judged
        }
    return made


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def write_baseline(path: str | Path, baseline: Mapping[str, Any]) -> None:
    """Writes a baseline so that a change of one number is a change of few lines in git."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(_pretty(baseline) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"--baseline {path}: cannot be written ({error.strerror})") from error


def _pretty(value: Any, indent: str = "") -> str:
    """JSON with lists of plain values on one line."""
    inner = indent + " "
    if isinstance(value, Mapping) and value:
        items = [f"{inner}{json.dumps(str(key))}: {_pretty(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return "[\n" + ",\n".join(inner + _pretty(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value)


def read_baseline(path: str | Path) -> dict[str, Any]:
    """A baseline from its file.

    Raises:
        ConfigError: when the file is missing, is no baseline, or is too new.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"--baseline {path}: no such file; `decomcam-bench baseline update` writes one") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--baseline {path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise ConfigError(f"--baseline {path}: is no baseline; `decomcam-bench baseline update` writes one")
    if content["schema"] > SCHEMA:
        raise ConfigError(
            f"--baseline {path}: written by a newer decomcam-bench (schema {content['schema']}, this one reads "
            f"{SCHEMA}); upgrade with pip install -U decomcam-bench"
        )
    _check_shape(path, content)
    return content


def _check_shape(path: str | Path, content: Mapping[str, Any]) -> None:
    try:
        if not any(metric["columns"] for cell in content["cells"] for metric in cell["metrics"]):
            what = "numbers" if content["cells"] else "cells"
            raise ConfigError(f"--baseline {path}: has no {what}, so nothing would be checked")
        _once("cell", [cell["key"] for cell in content["cells"]])
        for cell in content["cells"]:
            _check_key("cell", cell)
            _known(cell["n_expected"], cell["n_failed"])
            for name in ("dataset", "model", "layer", "method"):
                _word(cell["display"][name])
            _known(cell["display"]["rank"] or 0)
            if not cell["metrics"]:
                raise ValueError(f"cell {cell['key']} has no metrics")
            _once(f"metric of cell {cell['key']}", [metric["key"] for metric in cell["metrics"]])
            for metric in cell["metrics"]:
                _check_metric(metric)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"--baseline {path}: is damaged ({reason}); make it again with `baseline update`") from error


def _check_metric(metric: Mapping[str, Any]) -> None:
    _check_key("metric", metric)
    _word(metric["name"])
    _known(metric["n_failed"], metric.get("n_skipped", 0))
    for column in metric["columns"]:
        _word(column["name"], column["label"])
        if column["direction"] not in ("higher", "lower"):
            raise ValueError(f"direction {column['direction']!r} is neither higher nor lower")
        _known(*([] if column["value"] is None else [column["value"]]))
    _once(f"number of metric {metric['key']}", [column["name"] for column in metric["columns"]])
    images = metric.get("images", [])
    _word(*images)
    _once(f"image of metric {metric['key']}", images)
    for name, values in metric.get("image_values", {}).items():
        _known(*(value for value in values if value is not None))
        if len(values) != len(images):
            raise ValueError(f"{len(values)} values of {name} for {len(images)} images")


def _check_key(kind: str, described: Mapping[str, Any]) -> None:
    """Refuses an identity that was changed: it would be compared as what it was."""
    found = key_of(dict(described["identity"]))
    if found != described["key"]:
        raise ValueError(f"{kind} {described['key']} has the identity of {found}")


def _once(kind: str, names: Sequence[Any]) -> None:
    double = [name for name, count in Counter(map(str, names)).items() if count > 1]
    if double:
        raise ValueError(f"{kind} {double[0]} is there more than once")


def _word(*values: Any) -> None:
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is no name")


def _known(*values: Any) -> None:
    """Refuses what is no finite number: nothing is worse than NaN."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{value!r} is no number")
