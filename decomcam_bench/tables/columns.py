"""Name the columns of a table, and say which belong together."""

from __future__ import annotations

import pandas as pd
from pandas.api.types import is_numeric_dtype

from decomcam_bench.store.schema import IDENTITY as IDENTITY

#: Columns after the metrics: pairs for which a map was asked for and made, and the cell key.
COUNTS = ("n_expected", "n_evaluated", "n_skipped", "n_failed", "key")
#: What a column that belongs to a number adds to its name: ends of its interval, the pairs that it is over, pairs
#: whose method failed, and the comparison with the reference, whose last part counts pairs.
SUFFIXES = ("_low", "_high", "_n", "_failed", "_diff", "_diff_low", "_diff_high", "_p", "_diff_n")
#: Those that are columns of their own in tables to read; the others are marks and intervals unless asked for.
SHOWN_SUFFIXES = ("_n", "_failed")
_COUNTING = ("_n", "_failed", "_diff_n")
#: Adjusted p below which a difference from the reference is marked.
SIGNIFICANT = 0.05


def numbers(table: pd.DataFrame) -> list[str]:
    """Return the columns that are numbers of metrics, without those that belong to one."""
    own = [str(name) for name in table.columns if name not in (*IDENTITY, *COUNTS) and is_numeric_dtype(table[name])]
    return [name for name in own if owner(name, own) is None]


def owner(name: str, columns: list[str]) -> str | None:
    """Return the column among these that a column belongs to, or None."""
    return next((other for other in columns for suffix in SUFFIXES if name == f"{other}{suffix}"), None)


def belongs(table: pd.DataFrame) -> list[str]:
    """Return the columns that belong to a number of the table."""
    return [f"{name}{suffix}" for name in numbers(table) for suffix in SUFFIXES if f"{name}{suffix}" in table.columns]


def is_count(name: str) -> bool:
    """Return whether a column counts pairs: of the maps, of one metric (``energy.n_failed``, ``energy_n``), of a
    comparison (``energy_diff_n``), or of one head of a pivot."""
    counted = any(name == count or name.endswith((f".{count}", f": {count}")) for count in COUNTS[:-1])
    return counted or name.endswith(_COUNTING)


def whole_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with counts as whole numbers, which may be absent."""
    return table.astype({name: "Int64" for name in table.columns if is_count(str(name))})
