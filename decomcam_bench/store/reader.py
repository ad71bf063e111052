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


#: Columns of records that say which pair they are of and what became of it; the others are values.
PAIR_COLUMNS = frozenset({"position", "image_id", "class_id", "class_name", "status", "reason", "detail", "source"})


def evaluated(records: pd.DataFrame, metric: Metric | None = None, failure: str | None = None) -> pd.DataFrame:
    """Return the records that a metric's numbers follow from.

    Args:
        records: of all pairs.
        metric: whose they are; None: only pairs with a value of their own count.
        failure: the policy for pairs whose method failed, see :attr:`Metric.failure`; None: the metric's own.
            ``common`` is the same as ``drop`` here, since one cell does not know the pairs of the others.

    Returns:
        Evaluated pairs; with ``worst`` also failed pairs that have values; of a metric with a ``census`` all pairs
        of which that is known, their other values empty where they do not count.
    """
    if not len(records):
        return records
    good = records["status"] == "ok"
    if metric is None:
        return records[good]
    counted = good.copy()
    if (failure or metric.failure) == "worst":
        values = [name for name in records if name not in PAIR_COLUMNS and name != metric.census]
        counted |= (records["status"] == "failed") & records[values].notna().any(axis=1)
    if metric.census not in records:
        return records[counted]
    others = [name for name in records if name not in PAIR_COLUMNS and name != metric.census]
    known = records.copy()
    known[others] = known[others].where(counted)
    return known[counted | records[metric.census].notna()]


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
