"""Read the numbers of cells: which pairs they are over, how many failed, what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from decomcam_bench.core.validation import check_choice
from decomcam_bench.metrics.aggregation import ImageSums
from decomcam_bench.metrics.base import FAILURES, Metric
from decomcam_bench.store.reader import evaluated, metric_of, metric_records, metrics_of, outdated, stale
from decomcam_bench.store.schema import MetricInfo
from decomcam_bench.store.store import RECORDS, Cell, Store
from decomcam_bench.tables.columns import IDENTITY
from decomcam_bench.tables.labels import dataset_labels, distinct_labels


def order(cell: Cell) -> tuple[str, str, str, str, int, str]:
    """Return what cells are sorted by: their labels, then their key."""
    display = cell.labels
    return (
        str(display["dataset"]),
        str(display["model"]),
        str(display["layer"]),
        str(display["method"]),
        int(display["rank"] or 0),
        cell.key,
    )


def is_complete(cell: Cell, stream: str = RECORDS) -> bool:
    """Return True if all shards of a stream and of the maps' records are there; reading a damaged one raises."""
    return cell.complete(stream)


def counts(records: pd.DataFrame) -> dict[str, int]:
    """Return n_expected, n_evaluated, n_skipped and n_failed of records; they add up."""
    status = records["status"].value_counts() if len(records) else {}
    found = {
        name: int(status.get(kind, 0))
        for name, kind in (("n_evaluated", "ok"), ("n_skipped", "skipped"), ("n_failed", "failed"))
    }
    return {"n_expected": len(records), **found}


def reasons(records: pd.DataFrame) -> dict[str, int]:
    """Return how many pairs were skipped or failed, by reason."""
    if not len(records):
        return {}
    bad = records.loc[records["status"] != "ok", "reason"]
    return {str(reason): int(count) for reason, count in bad.value_counts().sort_index().items()}


@dataclass
class Measured:
    """Hold one metric of one complete cell.

    Attributes:
        cell: that was measured.
        key: of the metric.
        content: its description.
        metric: as an object.
        failure: the policy for failed pairs in use.
        counts: of all pairs, see :func:`counts`.
        reasons: see :func:`reasons`.
        good: the records that its numbers follow from; emptied where only :attr:`values` are needed.
        values: its numbers by the label of their column; empty without a record.
        pairs: by the label of a column, how many pairs it is over.
    """

    cell: Cell
    key: str
    content: MetricInfo
    metric: Metric
    failure: str
    counts: dict[str, int]
    reasons: dict[str, int]
    good: pd.DataFrame
    values: dict[str, float] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)

    @property
    def sums(self) -> ImageSums:
        """The sums over images; of at least one record."""
        return self.metric.image_sums(self.good)

    def bounds(self) -> dict[str, tuple[float | None, float | None]]:
        """Return the lowest and highest possible value of each column."""
        return {column.name: (column.low, column.high) for column in self.content.columns}

    def work_out(self) -> None:
        """Fill :attr:`values` and :attr:`pairs` from the records."""
        if not len(self.good):
            return
        found = self.metric.aggregate(self.good)
        for column in self.content.columns:
            self.values[column.label] = found[column.name]
            value = column.value or column.name
            partial = value in self.metric.undefined and value in self.good
            self.pairs[column.label] = int(self.good[value].notna().sum()) if partial else len(self.good)


def measured(cells: Sequence[Cell], failure: str | None = None, keep: bool = False) -> list[list[Measured]]:
    """Return the complete metrics of each cell.

    Args:
        cells: of a table.
        failure: policy for failed pairs, instead of each metric's own. ``common`` keeps the pairs that every cell of
            the same data set and model has a value of, for this metric.
        keep: keep the records too, not only the numbers.

    Raises:
        ConfigError: for another policy.
        StoreError: for a shard that is damaged.
    """
    if failure is not None:
        check_choice("--failure", failure, FAILURES)
    made: list[list[Measured]] = [[] for _ in cells]
    groups: dict[tuple[str, ...], list[Measured]] = {}
    for own, cell, label in zip(made, cells, dataset_labels(cells), strict=True):
        for key, content in metrics_of(cell).items():
            if not is_complete(cell, key):
                continue
            metric, records = metric_of(content), metric_records(cell, key)
            policy = failure or metric.failure
            good = evaluated(records, metric, policy)
            own.append(Measured(cell, key, content, metric, policy, counts(records), reasons(records), good))
            if policy == "common":
                groups.setdefault((label, str(cell.labels["model"]), key), []).append(own[-1])
                continue
            own[-1].work_out()
            if not keep:
                own[-1].good = good.iloc[:0]
    for group in groups.values():
        _keep_common(group)
    return made


def _keep_common(group: Sequence[Measured]) -> None:
    """Cut records of the same metric to the pairs that all have a value of."""
    usable = [set(_pairs_of(one.good[one.good["status"] == "ok"])) if len(one.good) else set() for one in group]
    shared = set.intersection(*usable)
    for one in group:
        if len(one.good):
            one.good = one.good[[pair in shared for pair in _pairs_of(one.good)]]
        one.work_out()


def _pairs_of(records: pd.DataFrame) -> list[tuple[str, int]]:
    return list(zip(records["image_id"], records["class_id"], strict=True))


def notes(results: str | Path, keys: Iterable[str] | None = None) -> list[str]:
    """Return what a reader of a table should know of its store, one line each.

    Cells that are unfinished, values that another definition or other code made, and (where no keys are named)
    folders whose description is gone.
    """
    store = Store(results)
    cells = store.cells() if keys is None else [c for key in keys if (c := store.cell(key))]
    lines = list(dict.fromkeys(line for cell in cells for line in stale(cell).values()))
    carried = [info for cell in cells for info in metrics_of(cell).values() if info.carried_over]
    lines += dict.fromkeys(f"{info.label}: from a store of schema 1, made with {info.carried_over}" for info in carried)
    lines += [line for cell in cells for line in outdated(cell)]
    return [*lines, *unfinished(results, keys)]


def unfinished(results: str | Path, keys: Iterable[str] | None = None) -> list[str]:
    """Return one line per cell that is not finished, or (where no keys are named) whose description is gone."""
    store = Store(results)
    cells = store.cells() if keys is None else [c for key in keys if (c := store.cell(key))]
    lines = []
    for cell in cells:
        streams = [RECORDS, *metrics_of(cell)]
        missing = [name for name in streams if not is_complete(cell, name)]
        if missing:
            have = min(len(cell.present(name)) for name in streams)
            lines.append(
                f"cell {cell.key} ({cell.labels['method']} on {cell.labels['dataset']}) is unfinished: "
                f"{have} of {cell.shards} shards; run its command again to finish it"
            )
    if keys is None:
        lines += [
            f"{folder}: has records but no description, and is left out; run its command again to restore it"
            for folder in store.orphans()
        ]
    return lines


def directions(results: str | Path) -> dict[str, str]:
    """Return which way each number of a store is better, by its label: ``higher``, ``lower`` or ``none``."""
    return {
        column.label: column.direction
        for cell in Store(results).cells()
        for content in metrics_of(cell).values()
        for column in content.columns
    }


def labels_of(results: str | Path) -> pd.DataFrame:
    """Return the labels and keys of a store's cells, in the order of its table; no records are read."""
    cells = sorted(Store(results).cells(), key=order)
    rows = [{**own, "key": cell.key} for cell, own in zip(cells, distinct_labels(cells), strict=True)]
    return pd.DataFrame(rows, columns=[*IDENTITY, "key"]).astype({"rank": "Int64"})
