"""Make the table of a store: one row per cell, every number recomputed from its records."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from decomcam_bench.core.errors import ConfigError, StoreError, unknown
from decomcam_bench.store.reader import find_metrics, metric_records, metrics_of, shown_metrics
from decomcam_bench.store.store import RECORDS, Cell, Store
from decomcam_bench.tables import formats
from decomcam_bench.tables.cells import Measured, counts, directions, measured, order, reasons
from decomcam_bench.tables.cells import is_complete as is_complete
from decomcam_bench.tables.columns import COUNTS, IDENTITY, SUFFIXES, belongs, whole_counts
from decomcam_bench.tables.labels import distinct_labels
from decomcam_bench.tables.uncertainty import TABLE_RESAMPLES, comparison_columns, interval_columns

FORMATS = ("md", "csv", "json", "latex", "html")


def load_records(results: str | Path, key: str, metric: str | None = None) -> pd.DataFrame:
    """Return the records of one cell, one row per pair.

    Args:
        results: root of the store.
        key: of the cell.
        metric: name (or key) of a metric, with its options where there are several of that name:
            ``pointing[tolerance=0]``; None for the records of the maps themselves.

    Returns:
        Columns ``position`` (of the image in the run), ``image_id``, ``class_id``, ``class_name``,
        ``status`` (``ok``, ``skipped`` or ``failed``), ``reason``, and the metric's values.

    Raises:
        StoreError: when there is no such cell or metric, several are meant, or a shard is damaged.

    >>> import tempfile, decomcam_bench as bench
    >>> folder = tempfile.mkdtemp()
    >>> done = bench.run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> records = bench.load_records(folder, done.keys[0], "energy")
    >>> bool(records["energy"].between(0, 1).all())
    True
    """
    cell = Store(results).cell(key)
    if cell is None:
        raise StoreError(f"{results}: has no cell {key}; `decomcam-bench table` lists the keys")
    if metric is None:
        return cell.read(RECORDS)
    metrics = metrics_of(cell)
    found = find_metrics(metrics, metric)
    if len(found) == 1:
        return cell.read(found[0])
    names = [content.label for content in metrics.values()]
    if found:
        raise StoreError(f"cell {key}: several metrics are {metric}; name one of {', '.join(names)}")
    raise StoreError(f"cell {key}: " + unknown("metric", metric, names))


def load_table(
    results: str | Path = "results",
    keys: Iterable[str] | None = None,
    details: bool = False,
    intervals: bool = False,
    reference: str | None = None,
    resamples: int | None = None,
    seed: int = 0,
    note: Callable[[str], None] | None = None,
    failure: str | None = None,
) -> pd.DataFrame:
    """Return the table of a store, one row per cell.

    Args:
        results: root of the store.
        keys: only these cells, in this order; all cells in the order of their labels by default.
        details: also the columns that metrics show on request, and each metric's own counts.
        intervals: next to each number ``NAME_low`` and ``NAME_high``, 95 % over images.
        reference: a method; next to each number ``NAME_diff``, ``NAME_diff_low``, ``NAME_diff_high`` against it,
            ``NAME_p`` with Holm's correction over the table and, where pairs had to be left out, ``NAME_diff_n``,
            the pairs that both have.
        resamples: of intervals and comparisons. None: 2,000 for intervals; of the p-values as many
            permutations as the number of tests asks for, at least 10,000.
        seed: of both.
        note: called with one line each for what a reader should know: metrics without a value, pairs that were left
            out, a table in which no difference can be significant. None: issue a UserWarning.
        failure: what pairs without a usable map count as, instead of each metric's own policy: ``worst``, ``drop`` or
            ``common``. Nothing is computed again.

    Returns:
        One row per cell: :data:`IDENTITY`, one column per number of a metric, :data:`COUNTS`. After a number follow
        ``NAME_n``, the pairs that it is over, where these are not as many as have a map, and ``NAME_failed``, those
        whose method failed, where there are any. A cell that is not finished has empty numbers and counts what it
        has so far.

    Raises:
        StoreError: when there are no results, or a shard is damaged or was written by a newer version.
        ConfigError: for a reference method that is not there.

    >>> import tempfile, decomcam_bench as bench
    >>> folder = tempfile.mkdtemp()
    >>> done = bench.run("method=center,random", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> table = bench.load_table(folder, intervals=True, resamples=100)
    >>> list(table["method"])
    ['center', 'random']
    >>> list(table.columns)[5:8]
    ['energy', 'energy_low', 'energy_high']
    """
    store, tell = Store(results), note or _warn
    if keys is None:
        cells = sorted(store.cells(), key=order)
        if not cells:
            raise StoreError(f"{results}: no results there; `decomcam-bench run` makes some")
    else:
        cells = [cell for key in dict.fromkeys(keys) if (cell := store.cell(key)) is not None]
    names, found = distinct_labels(cells), measured(cells, failure, bool(intervals or reference))
    labels = [str(own["dataset"]) for own in names]
    rows = [_row(*given, details) for given in zip(cells, names, found, strict=True)]
    columns = list(dict.fromkeys(column for row in rows for column in row if column not in (*IDENTITY, *COUNTS)))
    notes = [line for own in found for one in own for line in _why_empty(one)]
    extra: list[dict[str, Any]] = [_over(own, row) for own, row in zip(found, rows, strict=True)]
    _drop_plain(extra, rows)
    if intervals:
        made, lines = interval_columns(found, TABLE_RESAMPLES if resamples is None else resamples, seed)
        extra, notes = _joined(extra, made), notes + lines
    if reference:
        made, lines = comparison_columns(cells, labels, found, reference, resamples, seed, details)
        extra, notes = _joined(extra, made), notes + lines
    present = {name for own in extra for name in own}
    ordered = [
        name
        for column in columns
        for name in (column, *(f"{column}{suffix}" for suffix in SUFFIXES if f"{column}{suffix}" in present))
    ]
    table = pd.DataFrame(_joined(rows, extra), columns=[*IDENTITY, *ordered, *COUNTS])
    table = whole_counts(table).astype({"rank": "Int64"})
    policies = {c.label: one.failure for own in found for one in own for c in one.content.columns}
    table.attrs.update(failure=policies, reference=reference or "", shown=[])
    for line in notes:
        tell(line)
    return table


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)


def _joined(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**own, **more} for own, more in zip(first, second, strict=True)]


def _row(cell: Cell, names: dict[str, Any], found: Sequence[Measured], details: bool) -> dict[str, Any]:
    row: dict[str, Any] = dict(names)
    by_key = {one.key: one for one in found}
    for key, content in shown_metrics(cell).items():
        one = by_key.get(key)
        shown = [c.label for c in content.columns if details or not c.detail]
        row.update({name: one.values.get(name, math.nan) if one else math.nan for name in shown})
        if details:
            own = one.counts if one else counts(metric_records(cell, key))
            row.update({f"{content.columns[0].label}.{name}": count for name, count in own.items()})
    row.update(counts(cell.read(RECORDS, lambda name: name == "status")))
    row["key"] = cell.key
    return row


def _over(found: Sequence[Measured], row: dict[str, Any]) -> dict[str, Any]:
    """Return the pairs that each number of a row is over, and how many of its metric failed."""
    made: dict[str, Any] = {}
    for one in found:
        for column in one.content.columns:
            if column.label in row:
                made[f"{column.label}_n"] = one.pairs.get(column.label, 0)
                made[f"{column.label}_failed"] = one.counts["n_failed"]
    return made


def _drop_plain(extra: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """Remove the columns that say no more than the counts of the maps: no failure, all pairs with a map."""
    for label in {name.removesuffix("_n") for own in extra for name in own if name.endswith("_n")}:
        failed = any(own.get(f"{label}_failed", 0) for own in extra)
        fewer = any(own.get(f"{label}_n", row["n_evaluated"]) != row["n_evaluated"]
                    for own, row in zip(extra, rows, strict=True))  # fmt: skip
        for own in extra:
            if not failed:
                own.pop(f"{label}_failed", None)
            if not failed and not fewer:
                own.pop(f"{label}_n", None)


def _why_empty(one: Measured) -> list[str]:
    """Return a line for a metric of which no pair has a value, with the reasons."""
    if one.values or not one.counts["n_expected"]:
        return []
    why = ", ".join(f"{count} {reason}{_EXPLAINED.get(reason, '')}" for reason, count in one.reasons.items())
    label = one.content.columns[0].label
    return [f"{label} of {one.cell.labels['method']} is empty: {why}"]


#: What a reason means, where a reader can do something about it.
_EXPLAINED = {
    "no_remap": " (maps from files or at random cannot be made again for the masked image)",
    "work_not_recorded": " (maps saved by an older version hold no passes)",
}


def render(table: pd.DataFrame, form: str = "md", results: str | Path | None = None) -> str:
    """Write a table as text.

    Args:
        form: ``md`` (four significant digits; with intervals a fixed number of decimals), ``csv``
            or ``json`` (every digit; ``json`` adds each metric's own counts with their reasons),
            ``latex`` (booktabs) or ``html``.
        results: the store, for ``json``, and for the directions of ``latex`` and ``html``.

    Raises:
        ConfigError: for another form.

    >>> print(render(pd.DataFrame({"method": ["a"], "energy": [0.51239]})), end="")
    | method | energy |
    |--------|--------|
    | a      | 0.5124 |
    """
    if form == "csv":
        return formats.csv_text(table)
    if form == "json":
        return json.dumps(_rows_for_json(table, results), indent=2) + "\n"
    if form not in FORMATS:
        raise ConfigError(unknown("format", form, FORMATS))
    better = directions(results) if results is not None else {}
    if form != "md":
        return (formats.latex if form == "latex" else formats.html_table)(table, better)
    return formats.rich_markdown(table, better) if belongs(table) else formats.plain_markdown(table)


def _rows_for_json(table: pd.DataFrame, results: str | Path | None) -> list[dict[str, Any]]:
    rows = []
    store = Store(results) if results is not None else None
    for record in table.to_dict("records"):
        row: dict[str, Any] = {str(k): None if pd.isna(v) else v for k, v in record.items()}
        cell = store.cell(str(row["key"])) if store and "key" in row else None
        if cell is not None:
            maps = cell.read(RECORDS)
            row["complete"] = is_complete(cell)
            row["reasons"] = reasons(maps)
            row["metrics"] = _metrics_for_json(cell, table.attrs.get("failure", {}))
        rows.append(row)
    return rows


def _metrics_for_json(cell: Cell, policies: dict[str, str]) -> dict[str, Any]:
    made = {}
    complete = {one.key: one for one in measured([cell])[0]}
    for key, content in metrics_of(cell).items():
        label, one = content.columns[0].label, complete.get(key)
        records = metric_records(cell, key)
        made[label] = {
            "key": key,
            "name": content.name,
            "complete": one is not None,
            "failure": policies.get(label, one.failure if one else "worst"),
            "values": {n: None if math.isnan(v) else v for n, v in one.values.items()} if one else {},
            **counts(records),
            "reasons": reasons(records),
        }
    return made
