"""Looking after a store: inspect, compare two cells image by image, remove leftovers, hand over."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from decomcam_bench.core.errors import ConfigError, StoreError, unknown
from decomcam_bench.metrics.base import Metric
from decomcam_bench.stats.comparison import Comparison, compare
from decomcam_bench.store.reader import (
    evaluated,
    find_metrics,
    image_values,
    metric_of,
    metric_records,
    metrics_of,
    shown_metrics,
    stale,
)
from decomcam_bench.store.store import RECORDS, Cell, Store
from decomcam_bench.tables.cells import counts, is_complete, measured, order, reasons
from decomcam_bench.tables.columns import IDENTITY
from decomcam_bench.tables.formats import defused

EXPORTS = (".csv", ".parquet")


def find_cell(results: str | Path, key: str) -> Cell:
    """The cell whose key begins with ``key``.

    Raises:
        StoreError: when none or several do.
    """
    cell = Store(results).cell(_find_key(results, key))
    if cell is None:
        raise StoreError(f"{results}: has no cell {key}; `decomcam-bench results list` names the keys")
    return cell


def _find_key(results: str | Path, key: str) -> str:
    """Return the whole key of the folder of a cell that begins with ``key``."""
    folder = Store(results).root / "cells"
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    found = [name for name in names if key and name.startswith(key)]
    if len(found) > 1:
        raise StoreError(f"{results}: {key} begins several keys: {', '.join(found)}")
    if not found:
        raise StoreError(f"{results}: has no cell {key}; `decomcam-bench results list` names the keys")
    return found[0]


def list_results(results: str | Path = "results") -> pd.DataFrame:
    """Return one row per cell: labels, metrics, images, shards present, bytes, key.

    >>> import tempfile, decomcam_bench as bench
    >>> folder = tempfile.mkdtemp()
    >>> done = bench.run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> bench.list_results(folder)[["method", "metrics", "shards"]].values.tolist()
    [['center', 'energy', '1/1']]
    """
    rows = []
    for cell in sorted(Store(results).cells(), key=order):
        metrics = cell.metrics()
        have = min(len(cell.sealed(stream)) for stream in (RECORDS, *metrics))
        size = sum(file.stat().st_size for file in cell.folder.rglob("*") if file.is_file())
        rows.append(
            {
                **{name: cell.labels[name] for name in IDENTITY},
                "metrics": ", ".join(content.label for content in metrics.values()),
                "images": cell.images,
                "shards": f"{have}/{cell.shards}",
                "bytes": size,
                "key": cell.key,
            }
        )
    return pd.DataFrame(rows, columns=[*IDENTITY, "metrics", "images", "shards", "bytes", "key"]).astype(
        {"rank": "Int64"}
    )


def commands(cell: Cell) -> list[str]:
    """The commands that compute a cell again, for a shell: one, and one more for each metric with options."""
    described = list(cell.metrics().values())
    plain = [content.name for content in described if not content.overrides]
    metrics = [[f"metric={','.join(plain)}"]] if plain or not described else []
    for info in described:
        named = any(word.startswith("metric.impl=") for word in info.overrides)  # a class without a YAML
        if info.overrides:
            metrics.append([*([] if named else [f"metric={info.name}"]), *info.overrides])
    return [shlex.join(["decomcam-bench", "run", *map(str, cell.info.overrides), *own]) for own in metrics]


def describe_cell(key: str, results: str | Path = "results") -> dict[str, Any]:
    """Return everything that the store knows of a cell, ready for JSON.

    Args:
        key: of the cell, or its first letters.
        results: root of the store.

    Raises:
        StoreError: when there is no such cell, or several.

    >>> import tempfile, decomcam_bench as bench
    >>> folder = tempfile.mkdtemp()
    >>> done = bench.run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> bench.describe_cell(done.keys[0], folder)["repeat"]
    ['decomcam-bench run dataset=toybox model=toyclip method=center limit=4 metric=energy']
    """
    cell = find_cell(results, key)
    records = cell.read(RECORDS, lambda name: name in ("status", "reason"))
    metrics = {}
    old = stale(cell)
    numbers = {one.key: one.values for one in measured([cell])[0]}
    for own_key, info in shown_metrics(cell).items():
        whole = is_complete(cell, own_key)
        own = metric_records(cell, own_key)
        values = numbers.get(own_key, {})
        metrics[info.label] = {
            "key": own_key,
            "complete": whole,
            **({"stale": old[own_key]} if own_key in old else {}),
            **counts(own),
            "reasons": reasons(own),
            "identity": info.identity,
            "values": {name: None if value != value else value for name, value in values.items()},
        }
    return {
        "key": cell.key,
        "folder": str(cell.folder),
        "labels": {name: cell.labels[name] for name in IDENTITY},
        "repeat": commands(cell),
        "images": cell.images,
        "complete": is_complete(cell),
        **counts(records),
        "reasons": reasons(records),
        "identity": dict(cell.identity),
        "metrics": metrics,
    }


@dataclass
class CellComparison:
    """One number of two cells.

    Attributes:
        column: its label.
        paired: second - first over the pairs that both have.
        images: ``first``, ``second``, ``change`` by image, largest change first.
    """

    column: str
    paired: Comparison
    images: pd.DataFrame


def compare_cells(
    first: str, second: str, results: str | Path = "results", metric: str | None = None
) -> list[CellComparison]:
    """Compare the metrics that two complete cells have in common, image by image.

    Args:
        first, second: keys, or their first letters.
        results: root of the store.
        metric: only this one.

    Raises:
        StoreError: when there is no such cell, or they have no metric in common.
        ConfigError: for a metric that they do not have in common.

    >>> import tempfile, decomcam_bench as bench
    >>> folder = tempfile.mkdtemp()
    >>> done = bench.run("method=center,random", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> [found] = bench.compare_cells(*done.keys, results=folder)
    >>> found.column, found.paired.images
    ('energy', 4)
    """
    return _compare_cells(find_cell(results, first), find_cell(results, second), metric)


def _compare_cells(first: Cell, second: Cell, metric: str | None) -> list[CellComparison]:
    theirs = metrics_of(second)
    shared = {
        key: content
        for key, content in metrics_of(first).items()
        if key in theirs and is_complete(first, key) and is_complete(second, key)
    }
    if not shared:
        raise StoreError(f"cells {first.key} and {second.key} have no complete metric in common")
    chosen = list(shared) if metric is None else find_metrics(shared, metric)
    if metric is not None and not chosen:
        raise ConfigError(unknown("metric of both cells", metric, [c.label for c in shared.values()]))
    made = []
    for key in chosen:
        own = metric_of(shared[key])
        both = [evaluated(metric_records(cell, key), own) for cell in (first, second)]
        made += _compare(own, shared[key], both[0], both[1])
    return made


def _compare(metric: Metric, content: Any, before: pd.DataFrame, after: pd.DataFrame) -> list[CellComparison]:
    if not len(before) or not len(after):
        return []
    paired = compare(metric, after, before)
    each = [image_values(metric.image_sums(records)) for records in (before, after)]
    made = []
    for column in content.columns:
        if column.detail or column.machine or column.direction == "none":
            continue
        both = pd.DataFrame({"first": each[0][column.name], "second": each[1][column.name]}).dropna()
        both["change"] = both["second"] - both["first"]
        largest = both["change"].abs().sort_values(ascending=False, kind="stable").index
        made.append(CellComparison(column.label, paired[column.name], both.loc[largest]))
    return made


def collect_garbage(results: str | Path = "results", dry_run: bool = False) -> list[str]:
    """Remove what an interrupted run left behind: cells without a finished shard, damaged shards, temporary files.

    Unfinished cells with finished shards stay, because the next run continues them. A cell is left alone
    while it is being written, when its description is missing or unreadable, and when a newer version has
    written to it.

    Returns:
        One line for each thing removed (or, with ``dry_run``, that would be).

    >>> import tempfile
    >>> collect_garbage(tempfile.mkdtemp(), dry_run=True)
    []
    """
    store = Store(results)
    folder = store.root / "cells"
    lines: list[str] = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not entry.is_dir():
            continue
        lock = FileLock(str(entry / "lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            lines.append(f"kept {entry.name}: it is being written")
            continue
        except OSError as error:
            lines.append(f"kept {entry.name}: cannot be written ({error.strerror})")
            continue
        try:
            lines += _clean(store, entry, dry_run)
        except StoreError as error:
            # Written by a newer version, or damaged: for the user to decide.
            lines.append(f"kept {entry.name}: {error}")
        except OSError as error:
            lines.append(f"kept {entry.name}: {error.filename} cannot be removed ({error.strerror})")
        finally:
            lock.release()
            # The lock itself may have made the folder again.
            if not dry_run and not any(file.name != "lock" for file in entry.glob("*")):
                shutil.rmtree(entry, ignore_errors=True)
    return lines


def remove_cells(results: str | Path, keys: Sequence[str], dry_run: bool = False) -> list[str]:
    """Remove cells, whatever state they are in.

    Args:
        results: root of the store.
        keys: of the cells, or their first letters.
        dry_run: only say what would be removed.

    Returns:
        One line per cell.

    Raises:
        StoreError: when there is no such cell, several are meant, or one is being written.
    """
    folder = Store(results).root / "cells"
    names = [_find_key(results, key) for key in dict.fromkeys(keys)]
    for name in names:
        lock = FileLock(str(folder / name / "lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(f"cell {name} is being written; wait for it, then remove it") from None
        try:
            if not dry_run:
                shutil.rmtree(folder / name)
        except OSError as error:
            raise StoreError(f"{folder / name}: cannot be removed ({error.strerror or error})") from error
        finally:
            lock.release()
    return [f"{'would remove' if dry_run else 'removed'} cell {name}" for name in names]


def _clean(store: Store, entry: Path, dry_run: bool) -> list[str]:
    cell = store.cell(entry.name)
    if cell is None and entry in store.orphans():
        return [f"kept {entry.name}: has records but no cell.json; run its command again to restore it"]
    if cell is None or not any(cell.sealed(stream) for stream in (RECORDS, *cell.metrics())):
        if not dry_run:
            shutil.rmtree(entry)
        return [f"removed cell {entry.name}: no finished shard"]
    doomed = sorted(entry.rglob(".*.tmp"))
    for stream in (RECORDS, "maps", *cell.metrics()):
        whole = {cell.shard(stream, number) for number in cell.sealed(stream)}
        doomed += [file for file in sorted(cell.stream(stream).glob("[a-z]*-[0-9]*")) if file not in whole]
    if not dry_run:
        for file in doomed:
            file.unlink(missing_ok=True)
    return [f"removed {file}" for file in doomed]


def export(
    out: str | Path, results: str | Path = "results", keys: Sequence[str] = (), metric: str | None = None
) -> int:
    """Write the records of cells as one long table: CSV or Parquet by the suffix of the file.

    One row per pair and metric: the cell's labels and key, ``metric`` with its options, then the records' own
    columns; values that a metric does not have are empty. Curves are JSON lists in CSV.

    Args:
        out: the file.
        results: root of the store.
        keys: only these cells; all by default.
        metric: only this one.

    Returns:
        Rows written.

    Raises:
        ConfigError: for another ending, or a metric that no cell has.
        StoreError: when there is nothing to write.

    >>> import tempfile, decomcam_bench as bench
    >>> folder = tempfile.mkdtemp()
    >>> done = bench.run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> bench.export(f"{folder}/records.parquet", folder) == len(bench.load_records(folder, done.keys[0], "energy"))
    True
    """
    out = Path(out)
    if out.suffix not in EXPORTS:
        raise ConfigError(f"--out {out}: must end in {' or '.join(EXPORTS)}")
    found = [find_cell(results, key) for key in keys] if keys else sorted(Store(results).cells(), key=order)
    frames, names = [], []
    for cell in {cell.key: cell for cell in found}.values():
        metrics = cell.metrics()
        names += [content.label for content in metrics.values()]
        for key in metrics if metric is None else find_metrics(metrics, metric):
            records = cell.read(key)
            records.insert(0, "metric", metrics[key].label)
            for name in reversed(IDENTITY):
                records.insert(0, name, cell.labels[name])
            records.insert(0, "key", cell.key)
            frames.append(records)
    if metric is not None and names and not frames:
        raise ConfigError(unknown("metric", metric, list(dict.fromkeys(names))))
    if not frames:
        raise StoreError(f"{results}: has no records to export")
    table = pd.concat([frame.astype({"rank": "Int64"}) for frame in frames], ignore_index=True)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".parquet":
            table.to_parquet(out, index=False)
        else:
            for name in table.columns:
                if table[name].dtype == object:
                    table[name] = table[name].map(lambda v: json.dumps(v.tolist()) if hasattr(v, "tolist") else v)
            defused(table).to_csv(out, index=False, lineterminator="\n")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror})") from error
    return len(table)
