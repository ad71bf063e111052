"""What of a table is shown, and in which shape: filter, sort, choose, pivot."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

from decomcam_bench.core.errors import ConfigError, unknown
from decomcam_bench.tables.columns import COUNTS, IDENTITY, SUFFIXES, belongs, whole_counts
from decomcam_bench.tables.columns import numbers as numbers


def where(table: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Rows for which every ``COLUMN=VALUE[,VALUE...]`` holds; wildcards allowed, ``rank=`` is no rank.

    A value matches a label with or without its options: ``toybox`` is also ``toybox[limit=24]``, and
    ``toybox[]`` the one without.

    Raises:
        ConfigError: for another column, or when nothing is left.
    """
    for condition in conditions:
        name, equals, values = condition.partition("=")
        if not equals or name not in (*IDENTITY, "key"):
            raise ConfigError(
                f"--where {condition}: write it as COLUMN=VALUE with COLUMN of {', '.join(IDENTITY)}, key"
            )
        wanted = _split(values)
        keep = [any(_matches(_text(value), word) for word in wanted) for value in table[name]]
        missing = [word for word in wanted if not any(_matches(_text(value), word) for value in table[name])]
        if len(table) and missing:
            present = sorted({_text(value) or "(none)" for value in table[name]})
            what = f"{name}={missing[0]}" if len(wanted) > 1 else "that"
            raise ConfigError(f"--where {condition}: no row has {what}; there are: {', '.join(present)}")
        table = table[keep]
    return table.reset_index(drop=True)


def _split(values: str) -> list[str]:
    """At commas outside of brackets: ``a[x=1,y=2], b`` has two; blanks around a word are nobody's."""
    words, depth = [""], 0
    for sign in values:
        depth += (sign == "[") - (sign == "]")
        if sign == "," and depth == 0:
            words.append("")
        else:
            words[-1] += sign
    return [word.strip() for word in words]


def bare(label: str) -> str:
    """A label without its options: ``toybox`` of ``toybox[limit=24]``."""
    return label.partition("[")[0] if label.endswith("]") else label


def _matches(text: str, word: str) -> bool:
    if word.endswith("[]"):
        return fnmatchcase(text, word.removesuffix("[]"))
    literal = word.replace("[", "[[]")
    return any(fnmatchcase(candidate, literal) for candidate in (text, bare(text)))


def _text(value: Any) -> str:
    return "" if value is None or value is pd.NA or value != value else str(value)


def sort(table: pd.DataFrame, names: str) -> pd.DataFrame:
    """Sorted by columns, comma-separated; ``-name`` descending; empty values last."""
    keys = [name.strip() for name in names.split(",")]
    columns = [name.removeprefix("-") for name in keys]
    for name in columns:
        if name not in table.columns:
            raise ConfigError(unknown("--sort column", name, [str(column) for column in table.columns]))
    ascending = [not name.startswith("-") for name in keys]
    return table.sort_values(columns, ascending=ascending, kind="stable", na_position="last", ignore_index=True)


def choose(table: pd.DataFrame, rows: str | None, columns: str | None) -> pd.DataFrame:
    """Keep the identity columns named in ``rows`` and the numbers (patterns) named in ``columns``.

    Numbers keep their intervals and comparisons, as marks; those named in full (``energy_diff``, ``energy_p``) become
    columns of their own in every format. Counts stay unless columns are chosen, the key unless rows are chosen too.
    """
    own, more = numbers(table), belongs(table)
    labels = _known("--rows", _split(rows), [*IDENTITY, "key"]) if rows else list(IDENTITY)
    labels += _telling_apart(table, labels)
    if columns:
        patterns = _split(columns)
        extra = [*COUNTS, *own]
        for pattern in patterns:
            if pattern not in more and not any(_matches(name, pattern) or name == pattern for name in extra):
                raise ConfigError(unknown("--columns name", pattern, [*extra, *more]))
        more = [name for name in more if name in patterns]
        own = [
            name
            for pattern in patterns
            for name in [pattern, *extra]
            if (name in more and name == pattern) or (name in extra and (_matches(name, pattern) or name == pattern))
        ]
    else:
        more = []
    wanted = [*labels]
    for column in own:
        wanted += [column, *(f"{column}{suffix}" for suffix in SUFFIXES if f"{column}{suffix}" in table.columns)]
    if not columns:
        wanted += COUNTS[:-1] if rows else COUNTS
    chosen = table[list(dict.fromkeys(wanted))]
    blocks = [tuple(row) for row in table[["dataset", "model"]].astype(str).itertuples(index=False)]
    chosen.attrs = {**table.attrs, "shown": more, "blocks": blocks}
    return chosen


def _telling_apart(table: pd.DataFrame, labels: Sequence[str]) -> list[str]:
    """Return the labels that have to be shown too, so that no two rows look alike."""
    shown = [*labels]
    for name in [name for name in (*IDENTITY, "key") if name not in labels and name in table]:
        texts = table[shown].map(_text)
        alike = texts.duplicated(keep=False)
        if alike.any() and table[alike].assign(**texts).groupby(shown)[name].nunique(dropna=False).gt(1).any():
            shown.append(name)
    return shown[len(labels) :]


def _known(option: str, names: Sequence[str], valid: Sequence[str]) -> list[str]:
    for name in names:
        if name not in valid:
            raise ConfigError(unknown(f"{option} column", name, valid))
    return list(names)


def pivot(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Spreads the values of one identity column over columns ``VALUE: NUMBER``, counts of pairs included.

    The key names one cell and is left out.

    Raises:
        ConfigError: for a column that is not shown, or when two rows would fall together.
    """
    index = [column for column in IDENTITY if column in table.columns and column != name]
    if name not in table.columns or name not in IDENTITY:
        hint = "; add it to --rows" if name in IDENTITY else ""
        raise ConfigError(unknown("--pivot column", name, [c for c in IDENTITY if c in table.columns]) + hint)
    values = [column for column in table.columns if column not in (*IDENTITY, "key")]
    keys = table[[*index, name]].astype(object).where(table[[*index, name]].notna(), "")
    double = keys[keys.duplicated(keep=False)]
    if len(double):
        shown = ", ".join(f"{column}={double.iloc[0][column]}" for column in keys.columns)
        raise ConfigError(
            f"--pivot {name}: several rows have {shown}; choose among them with --where or show more --rows"
        )
    heads = list(dict.fromkeys(keys[name]))
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for place in range(len(table)):
        row = rows.setdefault(tuple(keys.iloc[place][index]), {column: table.iloc[place][column] for column in index})
        row.update({f"{_head(name, keys.iloc[place][name])}: {value}": table.iloc[place][value] for value in values})
    columns = [*index, *(f"{_head(name, head)}: {value}" for value in values for head in heads)]
    wide = whole_counts(pd.DataFrame(list(rows.values()), columns=columns))
    asked = [f"{_head(name, head)}: {value}" for value in table.attrs.get("shown", []) for head in heads]
    wide.attrs = {**table.attrs, "shown": asked, "blocks": None}
    return wide


def _head(name: str, value: Any) -> str:
    return _text(value) or f"no {name}"
