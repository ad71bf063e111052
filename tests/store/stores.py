"""Small stores written shard by shard, without a model: what the results code is tested with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from decomcam_bench.config import registry
from decomcam_bench.engine.records import PAIR
from decomcam_bench.store.schema import CellInfo, MetricInfo, shard_size
from decomcam_bench.store.store import RECORDS, Cell, Shard, Store, seal


def metric_info(name: str, position: int = 0, **options: Any) -> MetricInfo:
    """The description of a metric with options."""
    metric = registry.build("metric", {**registry.read("metric", name), **options})
    return MetricInfo.of(metric, name, position=position)


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
            "detail": "",
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
        "method": {"id": method, "version": 1, "options": {}},
        "rank": rank,
        **identity,
    }
    labels = {"dataset": dataset, "model": "m", "layer": layer, "method": method, "rank": rank}
    store = Store(root)
    size = shard_size(images)
    cell = store.create(CellInfo(whole, labels, (), {}, images, shard_images=size))
    streams = {RECORDS: records[list(PAIR)]}
    for position, (name, frame) in enumerate(metrics.items()):
        info = metric_info(name, position, **(options or {}).get(name, {}))
        store.describe_metric(cell, info)
        streams[info.key] = frame
    seal(
        [
            Shard(cell, stream, number, frame[(frame["position"] // size) == number].reset_index(drop=True))
            for stream, frame in streams.items()
            for number in range(cell.shards)
        ]
    )
    return cell
