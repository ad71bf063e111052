"""Small stores written part by part, without a model: what the results code is tested with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from decomcam_bench.config import registry
from decomcam_bench.store.store import RECORDS, Cell, Store, key_of, part_size, seal


def metric_content(name: str, position: int = 0, **options: Any) -> tuple[str, dict[str, Any]]:
    """The key and ``metric.json`` of a metric with options."""
    config = {**registry.read("metric", name), **options}
    metric = registry.build("metric", config)
    identity = {"impl": config["impl"], "version": metric.version, **options, "name": name}
    columns = [{**vars(column), "label": column.name} for column in metric.columns]
    return key_of(identity), {
        "identity": identity,
        "name": name,
        "config": config,
        "position": position,
        "columns": columns,
    }


def pairs(images: int, **values: Any) -> pd.DataFrame:
    """One pair an image, classes in turn."""
    rows = pd.DataFrame(
        {
            "position": np.arange(images),
            "image_id": [f"image{i:05d}" for i in range(images)],
            "class_id": np.arange(images) % 4,
            "class_name": [f"class{i % 4}" for i in range(images)],
            "status": "ok",
            "reason": "",
        }
    )
    return rows.assign(**values)


def write_cell(
    root: Path,
    method: str,
    metrics: dict[str, pd.DataFrame],
    *,
    rank: int | None = None,
    layer: str = "layer4",
    dataset: str = "drawn",
    options: dict[str, dict[str, Any]] | None = None,
    **identity: Any,
) -> Cell:
    """A complete cell whose metrics have these records."""
    records = next(iter(metrics.values()))
    images = int(records["position"].max()) + 1
    whole = {
        "dataset": {"name": dataset, "images": images},
        "model": "m",
        "layer": layer,
        "method": {"name": method, "impl": "decomcam_bench.methods.gradient:GradCAM"},
        "rank": rank,
        **identity,
    }
    display = {"dataset": dataset, "model": "m", "layer": layer, "method": method, "rank": rank, "overrides": []}
    store = Store(root)
    cell = store.create(whole, display, images)
    streams = {RECORDS: records[["position", "image_id", "class_id", "class_name", "status", "reason"]]}
    for position, (name, frame) in enumerate(metrics.items()):
        key, content = metric_content(name, position, **(options or {}).get(name, {}))
        store.describe_metric(cell, key, content)
        streams[key] = frame
    size = part_size(images)
    seal(
        [
            (cell, stream, part, frame[(frame["position"] // size) == part].reset_index(drop=True))
            for stream, frame in streams.items()
            for part in range(cell.parts)
        ]
    )
    return cell
