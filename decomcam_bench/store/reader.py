"""Read a store back: which values the installed code can vouch for, as objects and as numbers.

Nothing that a store names is imported: classes come from the installed configurations, or from what the user of
this process has named (see :func:`decomcam_bench.config.registry.installed`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError, StoreError
from decomcam_bench.core.fingerprint import code_digest
from decomcam_bench.metrics.aggregation import ImageSums
from decomcam_bench.metrics.base import Metric
from decomcam_bench.store.schema import MetricInfo
from decomcam_bench.store.store import RECORDS, Cell

#: Rows of a sparse matrix that are made dense at a time.
_ROWS = 1024
#: What to do about values that were made by another definition.
_AGAIN = "run again"


def metric_of(info: MetricInfo) -> Metric:
    """Return the metric that a description means, as the installed code defines it.

    Raises:
        StoreError: when the installed code has another version of it, or none; the message is one line.
    """
    metric, why = _resolved(info)
    if metric is None:
        raise StoreError(why)
    return metric


def metrics_of(cell: Cell) -> dict[str, MetricInfo]:
    """Return the metrics whose values the installed code can vouch for, by key, in the order of their run.

    Of several definitions with the same id and options (another version, an edited source) only the installed one
    counts; without one the newest stands, and :func:`stale` says why it is not shown.
    """
    return {key: info for key, info in _chosen(cell).items() if not _why_not(cell, info)}


def stale(cell: Cell) -> dict[str, str]:
    """Return one line for each metric of a cell whose values are not shown, by key."""
    return {key: why for key, info in _chosen(cell).items() if (why := _why_not(cell, info))}


def shown_metrics(cell: Cell) -> dict[str, MetricInfo]:
    """Return the metrics that a table has columns for, by key: the current ones and, left empty, the stale ones."""
    return _chosen(cell)


def _chosen(cell: Cell) -> dict[str, MetricInfo]:
    """Return one description for each definition: the installed one, or else the newest."""
    best: dict[str, tuple[tuple[bool, str, int], str]] = {}
    found = cell.metrics()
    for key, info in found.items():
        rank = (_resolved(info)[0] is not None, info.created, info.version)
        if info.definition not in best or rank > best[info.definition][0]:
            best[info.definition] = (rank, key)
    keys = {key for _, key in best.values()}
    return {key: info for key, info in found.items() if key in keys}


def _why_not(cell: Cell, info: MetricInfo) -> str:
    """Return why the values of a metric of a cell are not shown, or an empty string."""
    metric, why = _resolved(info)
    if metric is None:
        return why
    lacking = _lacking_value(cell, info, metric)
    if lacking:
        return f"{info.label}: made by {info.id} {info.version} without the value {lacking}, which this reads: {_AGAIN}"
    return ""


#: The value that a shard lacks, by its file and time.
_looked: dict[tuple[str, int], str] = {}


def _lacking_value(cell: Cell, info: MetricInfo, metric: Metric) -> str:
    """Return a value that the metric reads and its records do not have, or an empty string."""
    for number in sorted(cell.present(info.key))[:1]:
        path = cell.shard(info.key, number)
        place = (str(path), path.stat().st_mtime_ns)
        if place not in _looked:
            _looked[place] = ""
            records = evaluated(cell.read_shard(info.key, number, without_curves), metric)
            plain = type(metric).image_sums is Metric.image_sums
            means = [column.value or column.name for column in metric.columns] if plain and len(records) else []
            _looked[place] = next((name for name in means if name not in records), "")
            try:
                if len(records):
                    metric.image_sums(records)
            except KeyError as error:
                _looked[place] = str(error.args[0]) if error.args else "?"
        return _looked[place]
    return ""


def _resolved(info: MetricInfo) -> tuple[Metric | None, str]:
    """Return the metric of a description, or None and why."""
    made = f"{info.label}: made by {info.id} {info.version}"
    found = registry.installed("metric", info.id, info.name)
    if found is None:
        return None, f"{made}, which is not installed here: name its folder with --include, or {_AGAIN}"
    identity = registry.code_identity(found)
    if identity["version"] != info.version:
        return None, f"{made}, this is {identity['version']}: {_AGAIN}"
    if str(identity.get("source", "")) != info.source:
        return None, f"{made} of another source than is installed: {_AGAIN}"
    names = {field.name for field in fields(found)}
    unknown = sorted(set(info.options) - names)
    if unknown:
        return None, f"{made} with the option {unknown[0]}, which this {info.id} does not have: {_AGAIN}"
    try:
        metric: Metric = found(**{**info.options, **({"name": info.name} if "name" in names else {})})
        columns = {column.name: column.detail for column in metric.columns}
    except (ConfigError, TypeError, ValueError) as error:
        return None, f"{made} with options that this one refuses ({error}): {_AGAIN}"
    had = [column.name for column in info.columns]
    lacked = [name for name, detail in columns.items() if name not in had and not detail]
    if lacked or set(had) - set(columns):
        return None, f"{made} with other columns than this one has ({', '.join(columns)}): {_AGAIN}"
    return metric, ""


def outdated(cell: Cell) -> list[str]:
    """Return one line for the maps of a cell, and for each of its metrics, if other code than is installed made them.

    Only code of this package is looked at: code from elsewhere has its source in the key.
    """
    lines = []
    expected = cell_code(cell.info.choices, cell.identity)
    made = {digest for digest in cell.code(RECORDS) if digest != expected} if expected else set()
    if made:
        lines.append(f"cell {cell.key} ({cell.labels['method']}): its maps were made by other code than is installed")
    for key, info in metrics_of(cell).items():
        now = metric_code(info.name) if not info.source else ""
        if now and cell.code(key) - {now}:
            lines.append(
                f"cell {cell.key} ({cell.labels['method']}): its {info.label} was made by other code than is installed"
            )
    return [f"{line}; run --fresh computes it again" for line in lines]


def cell_code(choices: Mapping[str, str], identity: Mapping[str, Any]) -> str:
    """Return the digest of the package's code that decides the maps of a cell: data set, model and method.

    Args:
        choices: by group, the name of the YAML.
        identity: of the cell; a method from elsewhere has its source there.
    """
    digests = [choice_code(group, choices.get(group, "")) for group in ("dataset", "model", "method")]
    if "source" in identity.get("method", {}):
        digests.pop()
    return "-".join(digests) if all(digests) else ""


def metric_code(name: str) -> str:
    """Return the digest of the package's code that a metric's values come from; empty for another's."""
    return choice_code("metric", name)


def choice_code(group: str, name: str) -> str:
    """Return the digest of the code of a choice, nothing of which is imported; empty if there is no such YAML."""
    if name not in registry.names(group):
        return ""
    impl = str(registry.read(group, name).get("impl", ""))
    return code_digest(impl) if ":" in impl else ""


def find_metrics(infos: Mapping[str, MetricInfo], word: str) -> list[str]:
    """Return the keys of the metrics that a word means: by key or label, else all of that name."""
    exact = [key for key, info in infos.items() if word in (key, info.label)]
    return exact or [key for key, info in infos.items() if info.name == word]


def without_curves(name: str) -> bool:
    """Return True for a value that is no curve; aggregates read no other."""
    return not name.endswith("_curve")


def metric_records(cell: Cell, metric_key: str) -> pd.DataFrame:
    """Return all records of a metric of a cell, curves left out."""
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
    later = [column.value or column.name for column in metric.columns if column.detail]
    records = records.assign(**{name: np.nan for name in later if name not in records})
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


def image_values(sums: ImageSums) -> pd.DataFrame:
    """Return each column of a metric on every image alone.

    For a mean over pairs this is the mean over the image's pairs; for the best of several
    thresholds it is the image's own best.

    Returns:
        One row per image (index ``image_id``), one column per number; NaN where the image has none.
    """
    blocks = [sums.combine(block) for block in _dense_blocks(sums.sums)]
    names = list(blocks[0]) if blocks else []
    values = {name: np.concatenate([block[name] for block in blocks]) for name in names}
    return pd.DataFrame(values, index=pd.Index(sums.image_ids, name="image_id"))


def _dense_blocks(matrix: np.ndarray | sparse.csr_matrix) -> Iterator[np.ndarray]:
    for start in range(0, matrix.shape[0], _ROWS):
        block = matrix[start : start + _ROWS]
        yield np.asarray(block.todense() if sparse.issparse(block) else block)  # type: ignore[union-attr]
