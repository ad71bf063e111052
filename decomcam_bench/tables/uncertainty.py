"""Intervals and paired comparisons of a whole table."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from scipy import sparse

from decomcam_bench.core.errors import ConfigError, unknown
from decomcam_bench.metrics.aggregation import ImageSums, Totals
from decomcam_bench.stats.statistics import (
    RESAMPLES,
    Comparison,
    Interval,
    bootstrap,
    compare,
    holm,
    permutations_for,
)
from decomcam_bench.store.reader import evaluated, metric_of, metric_records, metrics_of
from decomcam_bench.store.schema import ColumnInfo, MetricInfo
from decomcam_bench.store.store import Cell
from decomcam_bench.tables.formats import SIGNIFICANT
from decomcam_bench.tables.tables import SumsOf, is_complete

#: Resamples of the intervals of a table where no number is asked for.
TABLE_RESAMPLES = 2_000
#: Columns of sums that are resampled with the same draw. Fractions in more than these would be
#: rounded to float32; whole numbers are exact in it.
_TOGETHER = 64
_TOGETHER_WHOLE = 2048
#: Sparse sums with up to so many columns are faster as dense ones.
_NARROW = 256

K = TypeVar("K", bound=Hashable)


def bootstrap_many(
    sums: Mapping[K, ImageSums], resamples: int = RESAMPLES, seed: int = 0
) -> dict[K, dict[str, Interval]]:
    """As :func:`~decomcam_bench.stats.statistics.bootstrap` for each, drawing once for equal images."""
    found: dict[K, dict[str, Interval]] = {}
    for batch in _batches(sums):
        together = _beside([sums[key] for key in batch])
        intervals = bootstrap(together, resamples, seed)
        for place, key in enumerate(batch):
            prefix = f"{place}\0"
            found[key] = {
                name.removeprefix(prefix): interval for name, interval in intervals.items() if name.startswith(prefix)
            }
    return found


def _batches(sums: Mapping[K, ImageSums]) -> list[list[K]]:
    """Keys with the same images together, whole numbers and fractions apart; wide sparse sums alone."""
    open_batches: dict[tuple[str, bool], tuple[list[K], int]] = {}
    batches: list[list[K]] = []
    for key, own in sums.items():
        width = own.sums.shape[1]
        if sparse.issparse(own.sums) and width > _NARROW:
            batches.append([key])
            continue
        values = own.sums.data if sparse.issparse(own.sums) else own.sums
        whole = bool(np.equal(np.mod(np.asarray(values), 1), 0).all())
        kind = ("\0".join(map(str, own.image_ids)), whole)
        batch, used = open_batches.get(kind, ([], 0))
        if not batch or used + width > (_TOGETHER_WHOLE if whole else _TOGETHER):
            batch, used = [], 0
            batches.append(batch)
        batch.append(key)
        open_batches[kind] = (batch, used + width)
    return batches


def _dense(sums: Any) -> np.ndarray:
    return sums.toarray() if sparse.issparse(sums) else np.asarray(sums)


def _beside(several: Sequence[ImageSums]) -> ImageSums:
    """Several sums over the same images as one; the columns of number i begin with ``i\\0``."""
    ends = np.cumsum([own.sums.shape[1] for own in several])

    def combine(totals: Totals) -> dict[str, np.ndarray]:
        values = {}
        for place, (own, end) in enumerate(zip(several, ends, strict=True)):
            block = totals[:, end - own.sums.shape[1] : end]
            values.update({f"{place}\0{name}": value for name, value in own.combine(block).items()})
        return values

    if len(several) == 1 and several[0].sums.shape[1] > _NARROW:
        matrix = several[0].sums
    else:
        matrix = np.concatenate([_dense(own.sums) for own in several], axis=1)
    return ImageSums(several[0].image_ids, matrix, combine)


def interval_columns(
    cells: Sequence[Cell], sums: SumsOf, resamples: int = RESAMPLES, seed: int = 0
) -> list[dict[str, float]]:
    """For each cell ``LABEL_low`` and ``LABEL_high`` of every number: 95 % by resampling images.

    An interval is cut to the range of its number, where the true value lies in any case: what is cut
    off holds nothing, so the coverage is the same.
    """
    found = bootstrap_many(sums, resamples, seed)
    columns: list[dict[str, float]] = []
    for cell in cells:
        own: dict[str, float] = {}
        for key, content in metrics_of(cell).items():
            for column in content.columns if (cell.key, key) in found else ():
                interval = found[cell.key, key][column.name]
                low, high = _cut(interval, column.low, column.high)
                own.update({f"{column.label}_low": low, f"{column.label}_high": high})
        columns.append(own)
    return columns


def _cut(interval: Interval, lowest: float | None, highest: float | None) -> tuple[float, float]:
    """The ends of an interval inside a range; NaN stays NaN, None is no bound."""
    low = interval.low if lowest is None or not interval.low < lowest else lowest
    high = interval.high if highest is None or not interval.high > highest else highest
    return low, high


def _widest(column: ColumnInfo) -> tuple[float | None, float | None]:
    """Between which bounds the difference of two such numbers lies."""
    if column.low is None or column.high is None:
        return None, None
    return column.low - column.high, column.high - column.low


def reference_cell(cell: Cell, cells: Sequence[Cell], reference: str) -> Cell | None:
    """The cell of the reference method that a cell is compared with: same data set and model, and
    of several the one at the same layer, then with the same rank.

    Raises:
        ConfigError: when several remain.
    """
    found = [
        other
        for other in cells
        if other.labels["method"] == reference
        and all(other.labels[name] == cell.labels[name] for name in ("dataset", "model"))
    ]
    for name in ("layer", "rank"):
        same = [other for other in found if other.labels[name] == cell.labels[name]]
        found = same or found
    if len(found) > 1:
        keys = ", ".join(other.key for other in found)
        raise ConfigError(
            f"--reference {reference}: several cells could be meant for {cell.key} ({keys}); choose with --where"
        )
    return found[0] if found else None


@dataclass(frozen=True)
class _Planned:
    """One metric of one cell that is to be compared with the reference cell.

    Attributes:
        place: of the cell among the rows.
        columns: described as in the store; those that are tested.
    """

    place: int
    cell: Cell
    other: Cell
    key: str
    content: MetricInfo
    columns: Sequence[ColumnInfo]


def _planned(cells: Sequence[Cell], reference: str, hidden: bool) -> list[_Planned]:
    plans = []
    for place, cell in enumerate(cells):
        other = reference_cell(cell, cells, reference)
        if other is None or other.key == cell.key:
            continue
        shared = metrics_of(other)
        for key, content in metrics_of(cell).items():
            if key not in shared or not (is_complete(cell, key) and is_complete(other, key)):
                continue
            columns = [
                column
                for column in content.columns
                if column.direction != "none" and not column.machine and (hidden or not column.detail)
            ]
            if columns and metric_of(content).tested:
                plans.append(_Planned(place, cell, other, key, content, columns))
    return plans


def comparison_columns(
    cells: Sequence[Cell],
    reference: str,
    resamples: int | None = None,
    seed: int = 0,
    hidden: bool = False,
    note: Callable[[str], None] | None = None,
) -> list[dict[str, float]]:
    """For each cell ``LABEL_diff``, ``LABEL_diff_low``, ``LABEL_diff_high`` and ``LABEL_p`` against the
    reference on the pairs that both have; p with Holm's correction over all of them. And ``LABEL_diff_n``,
    these pairs, where a comparison of this number leaves some out.

    Args:
        resamples: of intervals and permutations; None: :data:`TABLE_RESAMPLES` for the intervals, and
            as many permutations as the number of tests asks for.
        hidden: also compare the numbers that only details show.
        note: called with a line each for pairs that were left out, and for a table in which no
            difference can be significant.

    Raises:
        ConfigError: when no cell has the reference method, or several could be meant.
    """
    methods = list(dict.fromkeys(str(cell.labels["method"]) for cell in cells))
    if reference not in methods:
        raise ConfigError(unknown("reference method", reference, methods))
    plans = _planned(cells, reference, hidden)
    tests = sum(len(plan.columns) for plan in plans)
    permutations = permutations_for(tests) if resamples is None else resamples
    columns: list[dict[str, float]] = [{} for _ in cells]
    p_values: list[tuple[int, str, float]] = []
    left_out: list[tuple[int, str]] = []
    compared: dict[str, list[tuple[int, Comparison]]] = {}
    for plan in plans:
        found = _compare(plan, TABLE_RESAMPLES if resamples is None else resamples, seed, permutations)
        for column in plan.columns:
            made, label = found[column.name], column.label
            low, high = _cut(Interval(made.difference, made.low, made.high), *_widest(column))
            columns[plan.place].update(
                {f"{label}_diff": made.difference, f"{label}_diff_low": low, f"{label}_diff_high": high}
            )
            p_values.append((plan.place, f"{label}_p", made.p))
            compared.setdefault(label, []).append((plan.place, made))
            if made.left_out:
                left_out.append((made.left_out, f"{label} of {plan.cell.labels['method']}"))
    for (place, name, _), adjusted in zip(p_values, holm([p for _, _, p in p_values]), strict=True):
        columns[place][name] = float(adjusted)
    for label, several in compared.items():
        if any(made.left_out for _, made in several):
            for place, made in several:
                columns[place][f"{label}_diff_n"] = made.pairs
    if note is not None:
        for line in _notes(reference, p_values, permutations, left_out):
            note(line)
    return columns


def _notes(
    reference: str, p_values: Sequence[tuple[int, str, float]], permutations: int, left_out: Sequence[tuple[int, str]]
) -> list[str]:
    """What a reader of comparisons should know.

    Args:
        left_out: pairs that only one of two methods has a value of, and what of which method was compared.
    """
    tests = sum(not np.isnan(p) for _, _, p in p_values)
    lines = []
    # The smallest p-value that so many permutations can give is 1 / (permutations + 1).
    if tests / (permutations + 1) > SIGNIFICANT:
        need = math.ceil(tests / SIGNIFICANT)
        lines.append(
            f"--resamples {permutations}: no difference of this table can be significant after Holm's correction of "
            f"{tests} tests; choose at least {need}, or fewer rows with --where"
        )
    if left_out:
        most, where = max(left_out)
        lines.append(
            f"--reference {reference}: {len(left_out)} of {len(p_values)} comparisons leave out pairs that only one "
            f"of the two methods has a value of; most, {most} in {where}"
        )
    return lines


def _compare(plan: _Planned, resamples: int, seed: int, permutations: int) -> dict[str, Comparison]:
    metric = metric_of(plan.content)
    both: list[pd.DataFrame] = [evaluated(metric_records(one, plan.key), metric) for one in (plan.cell, plan.other)]
    # A stream without a usable pair may lack the columns.
    both = [frame if len(frame) else frame.reindex(columns=["image_id", "class_id"]) for frame in both]
    return compare(metric, both[0], both[1], resamples, seed, permutations=permutations)
