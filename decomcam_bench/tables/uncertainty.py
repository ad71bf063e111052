"""Intervals and paired comparisons of a whole table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from decomcam_bench.core.errors import ConfigError, unknown
from decomcam_bench.metrics.base import Metric
from decomcam_bench.stats.comparison import Comparison, compare, holm, permutations_for, smallest_p
from decomcam_bench.stats.intervals import Interval, intervals_of_many
from decomcam_bench.stats.resampling import check_resampling
from decomcam_bench.store.schema import ColumnInfo
from decomcam_bench.store.store import Cell
from decomcam_bench.tables.cells import Measured
from decomcam_bench.tables.columns import SIGNIFICANT

#: Resamples of the intervals of a table where no number is asked for.
TABLE_RESAMPLES = 2_000
#: Images from which on the simulated coverage is at least 0.93 for every kind of number.
ENOUGH_IMAGES = 12


def interval_columns(
    rows: Sequence[Sequence[Measured]], resamples: int = TABLE_RESAMPLES, seed: int = 0
) -> tuple[list[dict[str, float]], list[str]]:
    """Return for each row ``LABEL_low`` and ``LABEL_high`` of every number, and what a reader should know.

    Args:
        rows: the metrics of each row.
        resamples: of numbers whose interval needs them.
        seed: of these.
    """
    check_resampling(resamples, seed)
    several = {
        (place, one.key): (one.sums, one.bounds()) for place, own in enumerate(rows) for one in own if len(one.good)
    }
    found = intervals_of_many(several, resamples, seed)
    columns: list[dict[str, float]] = []
    few: set[int] = set()
    for place, own in enumerate(rows):
        columns.append({})
        for one in own:
            if (place, one.key) not in found:
                continue
            images = len(several[place, one.key][0].image_ids)
            few |= {images} if images < ENOUGH_IMAGES else set()
            for column in one.content.columns:
                interval = found[place, one.key][column.name]
                low, high = _cut(interval, column.low, column.high)
                columns[-1].update({f"{column.label}_low": low, f"{column.label}_high": high})
    notes = []
    if few:
        notes.append(
            f"--intervals: {min(few)} image{'s' if min(few) > 1 else ''}: intervals of fewer than {ENOUGH_IMAGES} "
            f"images may hold less often than 95 %"
        )
    return columns, notes


def _cut(interval: Interval, lowest: float | None, highest: float | None) -> tuple[float, float]:
    """Return the ends of an interval inside a range; NaN stays NaN, None is no bound."""
    low = interval.low if lowest is None or not interval.low < lowest else lowest
    high = interval.high if highest is None or not interval.high > highest else highest
    return low, high


def _widest(column: ColumnInfo) -> tuple[float | None, float | None]:
    """Return the bounds between which the difference of two such numbers lies."""
    if column.low is None or column.high is None:
        return None, None
    return column.low - column.high, column.high - column.low


def reference_place(place: int, cells: Sequence[Cell], labels: Sequence[str], reference: str) -> int | None:
    """Return the row of the reference method that a row is compared with.

    It has the same data set and model; of several the one at the same layer is taken, then with the same rank.

    Raises:
        ConfigError: when several remain.
    """
    own = cells[place]
    found = [
        other
        for other, cell in enumerate(cells)
        if cell.labels["method"] == reference
        and labels[other] == labels[place]
        and cell.labels["model"] == own.labels["model"]
    ]
    for name in ("layer", "rank"):
        same = [other for other in found if cells[other].labels[name] == own.labels[name]]
        found = same or found
    if len(found) > 1:
        keys = ", ".join(cells[other].key for other in found)
        raise ConfigError(
            f"--reference {reference}: several cells could be meant for {own.key} ({keys}); choose with --where"
        )
    return found[0] if found else None


@dataclass(frozen=True)
class _Planned:
    """Hold one metric of one row that is to be compared with the reference row.

    Attributes:
        place: of the row.
        own: what is compared.
        other: the same metric of the reference.
        columns: described as in the store; those that are tested.
    """

    place: int
    own: Measured
    other: Measured
    columns: Sequence[ColumnInfo]


def _planned(
    cells: Sequence[Cell], labels: Sequence[str], rows: Sequence[Sequence[Measured]], reference: str, hidden: bool
) -> list[_Planned]:
    plans = []
    for place, own in enumerate(rows):
        other = reference_place(place, cells, labels, reference)
        if other is None or other == place:
            continue
        theirs = {one.key: one for one in rows[other]}
        for one in own:
            columns = [
                column
                for column in one.content.columns
                if column.direction != "none" and not column.machine and (hidden or not column.detail)
            ]
            if one.key in theirs and columns and one.metric.tested:
                plans.append(_Planned(place, one, theirs[one.key], columns))
    return plans


def comparison_columns(
    cells: Sequence[Cell],
    labels: Sequence[str],
    rows: Sequence[Sequence[Measured]],
    reference: str,
    resamples: int | None = None,
    seed: int = 0,
    hidden: bool = False,
) -> tuple[list[dict[str, float]], list[str]]:
    """Compare every row with the reference method on the pairs that both have.

    Args:
        cells: of the rows.
        labels: of their data sets; only rows of the same label are compared.
        rows: the metrics of each row.
        reference: a method.
        resamples: of intervals and permutations; None: :data:`TABLE_RESAMPLES` for the intervals, and as many
            permutations as the number of tests asks for.
        seed: of both.
        hidden: also compare the numbers that only details show.

    Returns:
        For each row ``LABEL_diff``, ``LABEL_diff_low``, ``LABEL_diff_high`` and ``LABEL_p`` with Holm's correction
        over all of them; ``LABEL_diff_n``, the pairs, where a comparison of this number leaves some out; and lines
        for the reader: pairs that were left out, a table in which no difference can be significant.

    Raises:
        ConfigError: when no row has the reference method, or several could be meant.
    """
    methods = list(dict.fromkeys(str(cell.labels["method"]) for cell in cells))
    if reference not in methods:
        raise ConfigError(unknown("reference method", reference, methods))
    plans = _planned(cells, labels, rows, reference, hidden)
    tests = sum(len(plan.columns) for plan in plans)
    permutations = permutations_for(tests) if resamples is None else resamples
    columns: list[dict[str, float]] = [{} for _ in cells]
    p_values: list[tuple[int, str, float]] = []
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
    for (place, name, _), adjusted in zip(p_values, holm([p for _, _, p in p_values]), strict=True):
        columns[place][name] = float(adjusted)
    for label, several in compared.items():
        if any(made.left_out for _, made in several):
            for place, made in several:
                columns[place][f"{label}_diff_n"] = made.pairs
    images = max((made.images for several in compared.values() for _, made in several), default=0)
    left_out = [
        (made.left_out, f"{label} of {cells[place].labels['method']}")
        for label, several in compared.items()
        for place, made in several
        if made.left_out
    ]
    known = sum(not np.isnan(p) for _, _, p in p_values)
    return columns, _notes(reference, known, len(p_values), images, permutations, left_out)


def _notes(
    reference: str, tests: int, asked: int, images: int, permutations: int, left_out: Sequence[tuple[int, str]]
) -> list[str]:
    """Return what a reader of comparisons should know.

    Args:
        reference: the method.
        tests: differences that have a p-value.
        asked: differences, those without one included.
        images: of the largest comparison.
        permutations: of each test.
        left_out: pairs that only one of two methods has a value of, and what of which method was compared.
    """
    lines = []
    if tests and tests * smallest_p(images) > SIGNIFICANT:
        need = 1 + math.ceil(math.log2(tests / SIGNIFICANT))
        lines.append(
            f"--reference {reference}: no difference of this table can be significant: {images} images allow no p "
            f"below {smallest_p(images):.2g}, and {tests} tests are corrected for; at least {need} images are needed"
        )
    # The smallest p-value that so many permutations can give is 1 / (permutations + 1).
    elif tests / (permutations + 1) > SIGNIFICANT:
        need = math.ceil(tests / SIGNIFICANT)
        lines.append(
            f"--resamples {permutations}: no difference of this table can be significant after Holm's correction of "
            f"{tests} tests; choose at least {need}, or fewer rows with --where"
        )
    if left_out:
        most, where = max(left_out)
        lines.append(
            f"--reference {reference}: {len(left_out)} of {asked} comparisons leave out pairs that only one "
            f"of the two methods has a value of; most, {most} in {where}"
        )
    return lines


def _compare(plan: _Planned, resamples: int, seed: int, permutations: int) -> dict[str, Comparison]:
    metric: Metric = plan.own.metric
    # A metric without a usable pair may lack the columns.
    both: list[pd.DataFrame] = [
        one.good if len(one.good) else one.good.reindex(columns=["image_id", "class_id"])
        for one in (plan.own, plan.other)
    ]
    return compare(metric, both[0], both[1], resamples, seed, permutations=permutations)
