"""Tables from a store: one row a cell, every number recomputed from its records."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from decomcam_bench.core.errors import ConfigError, StoreError, unknown
from decomcam_bench.metrics.aggregation import ImageSums
from decomcam_bench.store.reader import (
    evaluated,
    find_metrics,
    metric_of,
    metric_records,
    metrics_of,
    outdated,
    shown_metrics,
    stale,
)
from decomcam_bench.store.schema import IDENTITY, MetricInfo
from decomcam_bench.store.store import RECORDS, Cell, Store

#: Columns behind the metrics: pairs for which a map was asked for and made, and the cell key.
COUNTS = ("n_expected", "n_evaluated", "n_skipped", "n_failed", "key")
#: What a column that belongs to a number adds to its name; the last counts pairs.
SUFFIXES = ("_low", "_high", "_diff", "_diff_low", "_diff_high", "_p", "_diff_n")
#: What the numbers of a complete metric follow from, by keys of cell and metric.
SumsOf: TypeAlias = dict[tuple[str, str], ImageSums]
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
        StoreError: when there is no such cell or metric, several are meant, or a part is damaged.

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
) -> pd.DataFrame:
    """Return the table of a store, one row per cell.

    Args:
        results: root of the store.
        keys: only these cells, in this order; all cells in the order of their labels by default.
        details: also the columns that metrics show on request, and each metric's own counts.
        intervals: beside each number ``NAME_low`` and ``NAME_high``, 95 % by resampling images.
        reference: a method; beside each number ``NAME_diff``, ``NAME_diff_low``, ``NAME_diff_high``
            against it, ``NAME_p`` with Holm's correction over the table and, where pairs had to be
            left out, ``NAME_diff_n``, the pairs that both have.
        resamples: of intervals and comparisons. None: 2,000 for intervals; of the p-values as many
            permutations as the number of tests asks for, at least 10,000.
        seed: of both.
        note: called with one line each for what a reader of comparisons should know: pairs that were
            left out, a table in which no difference can be significant. None: issue a UserWarning.

    Returns:
        One row a cell: :data:`IDENTITY`, one column a number of a metric, :data:`COUNTS`. A cell
        that is not finished has empty numbers and counts what it has so far.

    Raises:
        StoreError: when there are no results, or a part is damaged or was written by a newer version.
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
    store = Store(results)
    if keys is None:
        cells = sorted(store.cells(), key=order)
        if not cells:
            raise StoreError(f"{results}: no results there; `decomcam-bench run` makes some")
    else:
        cells = [cell for key in dict.fromkeys(keys) if (cell := store.cell(key)) is not None]
    sums: SumsOf = {}
    rows = [_row(cell, details, sums) for cell in cells]
    columns = list(dict.fromkeys(column for row in rows for column in row if column not in (*IDENTITY, *COUNTS)))
    if intervals or reference:
        columns = _add_uncertainty(rows, columns, cells, sums, details, intervals, reference, resamples, seed, note)
    table = pd.DataFrame(rows, columns=[*IDENTITY, *columns, *COUNTS])
    return whole_counts(table).astype({"rank": "Int64"})


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=4)


def is_count(name: str) -> bool:
    """Whether a column counts pairs: of the maps, of one metric (``energy.n_failed``), of a comparison
    (``energy_diff_n``), or of one head of a pivot."""
    counted = any(name == count or name.endswith((f".{count}", f": {count}")) for count in COUNTS[:-1])
    return counted or name.endswith(SUFFIXES[-1])


def whole_counts(table: pd.DataFrame) -> pd.DataFrame:
    """The table with counts as whole numbers, which may be absent."""
    return table.astype({name: "Int64" for name in table.columns if is_count(str(name))})


def _add_uncertainty(
    rows: list[dict[str, Any]],
    columns: list[str],
    cells: Sequence[Cell],
    sums: SumsOf,
    details: bool,
    intervals: bool,
    reference: str | None,
    resamples: int | None,
    seed: int,
    note: Callable[[str], None] | None,
) -> list[str]:
    """Fills the rows with intervals and comparisons; the columns in their new order."""
    from decomcam_bench.tables.uncertainty import TABLE_RESAMPLES, comparison_columns, interval_columns

    extra: list[dict[str, float]] = [{} for _ in cells]
    if intervals:
        count = TABLE_RESAMPLES if resamples is None else resamples
        for own, found in zip(extra, interval_columns(cells, sums, count, seed), strict=True):
            own.update(found)
    if reference:
        compared = comparison_columns(cells, reference, resamples, seed, details, note or _warn)
        for own, found in zip(extra, compared, strict=True):
            own.update(found)
    names = {name for own in extra for name in own}
    for row, own in zip(rows, extra, strict=True):
        row.update(own)
    return [
        name for column in columns for name in (column, *(f"{column}{s}" for s in SUFFIXES if f"{column}{s}" in names))
    ]


def order(cell: Cell) -> tuple[str, str, str, str, int, str]:
    """What cells are sorted by: their labels, then their key."""
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
    """n_expected, n_evaluated, n_skipped and n_failed of records; they add up."""
    status = records["status"].value_counts() if len(records) else {}
    found = {
        name: int(status.get(kind, 0))
        for name, kind in (("n_evaluated", "ok"), ("n_skipped", "skipped"), ("n_failed", "failed"))
    }
    return {"n_expected": len(records), **found}


def reasons(records: pd.DataFrame) -> dict[str, int]:
    """How many pairs were skipped or failed, by reason."""
    if not len(records):
        return {}
    bad = records.loc[records["status"] != "ok", "reason"]
    return {str(reason): int(count) for reason, count in bad.value_counts().sort_index().items()}


def metric_values(cell: Cell, metric_key: str, content: MetricInfo) -> dict[str, float]:
    """The numbers of one metric of a complete cell, by column label."""
    metric = metric_of(content)
    found = metric.aggregate(evaluated(metric_records(cell, metric_key), metric))
    return {column.label: found[column.name] for column in content.columns}


def _row(cell: Cell, details: bool, sums: SumsOf) -> dict[str, Any]:
    """Return the row of a cell; what its numbers follow from is added to ``sums``."""
    row: dict[str, Any] = {name: cell.labels[name] for name in IDENTITY}
    current = metrics_of(cell)
    for metric_key, info in shown_metrics(cell).items():
        shown = [c.label for c in info.columns if details or not c.detail]
        whole = metric_key in current and cell.complete(metric_key)
        records = metric_records(cell, metric_key) if whole or details else pd.DataFrame()
        values: dict[str, float] = {}
        if whole:
            metric = metric_of(info)
            good = evaluated(records, metric)
            if len(good):
                sums[cell.key, metric_key] = metric.image_sums(good)
                found = sums[cell.key, metric_key].aggregate()
                values = {column.label: found[column.name] for column in info.columns}
        row.update({name: values.get(name, math.nan) for name in shown})
        if details:
            prefix = info.columns[0].label
            row.update({f"{prefix}.{name}": count for name, count in counts(records).items()})
    row.update(counts(cell.read(RECORDS, lambda name: name == "status")))
    row["key"] = cell.key
    return row


def notes(results: str | Path, keys: Iterable[str] | None = None) -> list[str]:
    """Return what a reader of a table should know of its store, one line each.

    Cells that are unfinished, values that another definition or other code made, and (where no keys are named)
    folders whose description is gone.
    """
    store = Store(results)
    cells = store.cells() if keys is None else [c for key in keys if (c := store.cell(key))]
    lines = list(dict.fromkeys(line for cell in cells for line in stale(cell).values()))
    lines += [line for cell in cells for line in outdated(cell)]
    return [*lines, *unfinished(results, keys)]


def unfinished(results: str | Path, keys: Iterable[str] | None = None) -> list[str]:
    """One line for each cell that is not finished, or (where no keys are named) whose description is gone."""
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
    """Which way each number of a store is better, by its label: ``higher``, ``lower`` or ``none``."""
    return {
        column.label: column.direction
        for cell in Store(results).cells()
        for content in metrics_of(cell).values()
        for column in content.columns
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
        return str(table.to_csv(index=False, lineterminator="\n"))
    if form == "json":
        return json.dumps(_rows_for_json(table, results), indent=2) + "\n"
    if form not in FORMATS:
        raise ConfigError(unknown("format", form, FORMATS))
    from decomcam_bench.tables import formats, layout

    better = directions(results) if results is not None else {}
    if form != "md":
        return (formats.latex if form == "latex" else formats.html_table)(table, better)
    if layout.belongs(table):
        return formats.rich_markdown(table, better)
    return markdown(
        [str(c) for c in table.columns], [[_cell_text(v) for v in row] for row in table.itertuples(index=False)]
    )


def _cell_text(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    escaped = [[text.replace("|", "\\|") for text in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in escaped) for i in range(len(header))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in escaped
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


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
            row["metrics"] = {}
            for key, content in metrics_of(cell).items():
                records = metric_records(cell, key)
                row["metrics"][content.columns[0].label] = {
                    "key": key,
                    "name": content.name,
                    "complete": is_complete(cell, key),
                    "values": metric_values(cell, key, content) if is_complete(cell, key) else {},
                    **counts(records),
                    "reasons": reasons(records),
                }
                values = row["metrics"][content.columns[0].label]["values"]
                for name, value in values.items():
                    values[name] = None if math.isnan(value) else value
        rows.append(row)
    return rows
