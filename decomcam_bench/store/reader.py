"""Reading a metric's records back: what a store describes, as objects and as numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from decomcam_bench.config import registry
from decomcam_bench.metrics.aggregation import ImageSums
from decomcam_bench.metrics.base import Metric
from decomcam_bench.store.store import Cell

#: Rows of sums that are made dense at a time.
_ROWS = 1024


def metric_of(content: Mapping[str, Any]) -> Metric:
    """The metric that a ``metric.json`` describes."""
    return registry.build("metric", content["config"])


def metric_label(content: Mapping[str, Any]) -> str:
    """The name of a metric with the options that tell it from others of that name: ``pointing[tolerance=0]``."""
    column = content["columns"][0]
    return str(content["name"]) + str(column["label"]).removeprefix(str(column["name"]))


def find_metrics(contents: Mapping[str, Mapping[str, Any]], word: str) -> list[str]:
    """Keys of the metrics that a word means: by key or label, else all of that name."""
    exact = [key for key, content in contents.items() if word in (key, metric_label(content))]
    return exact or [key for key, content in contents.items() if content["name"] == word]


def without_curves(name: str) -> bool:
    """Whether a value is no curve; what aggregates read."""
    return not name.endswith("_curve")


def metric_records(cell: Cell, metric_key: str) -> pd.DataFrame:
    """All records of a metric of a cell, curves left out."""
    return cell.read(metric_key, without_curves)


def evaluated(records: pd.DataFrame, metric: Metric | None = None) -> pd.DataFrame:
    """The records that numbers follow from: those of evaluated pairs, and of a metric with a ``census``
    those where that is known."""
    if not len(records):
        return records
    good = records["status"] == "ok"
    if metric is not None and metric.census in records:
        good |= records[metric.census].notna()
    return records[good]


def labels(content: Mapping[str, Any]) -> dict[str, str]:
    """From a metric's column names to the labels that tables show."""
    return {column["name"]: column["label"] for column in content["columns"]}


def image_values(sums: ImageSums) -> pd.DataFrame:
    """Each column of a metric on every image alone.

    For a mean over pairs this is the mean over the image's pairs; for the best of several
    thresholds it is the image's own best.

    Returns:
        One row an image (index ``image_id``), one column a number; NaN where the image has none.
    """
    blocks = [sums.combine(block) for block in _dense_blocks(sums.sums)]
    names = list(blocks[0]) if blocks else []
    values = {name: np.concatenate([block[name] for block in blocks]) for name in names}
    return pd.DataFrame(values, index=pd.Index(sums.image_ids, name="image_id"))


def _dense_blocks(matrix: np.ndarray | sparse.csr_matrix) -> Iterator[np.ndarray]:
    for start in range(0, matrix.shape[0], _ROWS):
        block = matrix[start : start + _ROWS]
        yield np.asarray(block.todense() if sparse.issparse(block) else block)  # type: ignore[union-attr]
