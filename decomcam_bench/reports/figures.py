"""Figures of tables and records; every function returns a matplotlib figure and draws on no screen."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Okabe and Ito's palette, told apart by the colour-blind, then darker shades of it.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31",
    "#5254A3", "#8C2D04", "#31A354", "#756BB1", "#636363",
)  # fmt: skip
MARKERS = "osD^vP*X<>hpd"
#: Letters of a legend that stand side by side in an inch.
LETTERS_AN_INCH = 12
_ARROWS = {"higher": " ↑", "lower": " ↓"}
_STYLE: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",
    "svg.hashsalt": "decomcam-bench",
}


def drawing_style() -> Any:
    """The context that figures are made and saved in."""
    return rc_context(_STYLE)


def _plain(text: Any) -> str:
    """A text that matplotlib does not read as mathematics."""
    return str(text).replace("$", r"\$")


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each name, in order of first appearance."""
    return {
        name: {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
        for i, name in enumerate(dict.fromkeys(names))
    }


def _panels(count: int, width: float, height: float, columns: int = 3) -> tuple[Figure, list[Axes]]:
    # Two by two looks better than three and a lonely one.
    across = 2 if count == 4 and columns == 3 else min(columns, max(1, count))
    down = -(-count // across)
    with drawing_style():
        figure = Figure(figsize=(width * across, height * down), layout="constrained")
        FigureCanvasAgg(figure)
        axes = [figure.add_subplot(down, across, i + 1) for i in range(count)]
    return figure, axes


def _title(name: str, directions: Mapping[str, str]) -> str:
    return _plain(name) + _ARROWS.get(directions.get(name, "none"), "")


def _legend(figure: Figure, axis: Axes, most: int = 5) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if len(labels) > 1:
        columns = _legend_columns(labels, most, float(figure.get_figwidth()))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _legend_columns(labels: Sequence[str], most: int, inches: float) -> int:
    """As many columns, at most ``most``, as a figure of that width has room for; at least one.

    A column is as wide as its longest label and the line in front of it, about nine letters more.
    """
    for columns in range(min(most, len(labels)), 1, -1):
        rows = -(-len(labels) // columns)
        widths = [max(map(len, labels[start : start + rows])) + 9 for start in range(0, len(labels), rows)]
        if sum(widths) <= LETTERS_AN_INCH * inches:
            return columns
    return 1


def bars(table: pd.DataFrame, names: Sequence[str], directions: Mapping[str, str], series: str = "dataset") -> Figure:
    """One panel a number: methods along the axis, best first, one bar a ``series``, with intervals."""
    shown = [name for name in names if table[name].notna().any()]
    labels = list(dict.fromkeys(table["label"]))
    groups = list(dict.fromkeys(table[series]))
    figure, axes = _panels(len(shown), 3.6, 1.0 + 0.24 * len(labels) * max(1, len(groups) * 0.6))
    colours = styles(groups)
    # A series of few methods, as of an untrained model, does not move them.
    counts = table[series].value_counts()
    common = table[table[series].isin(counts.index[2 * counts >= counts.max()])]
    for axis, name in zip(axes, shown, strict=True):
        means = common.groupby("label", sort=False)[name].mean().reindex(labels)
        order = means.sort_values(ascending=directions.get(name) != "lower", na_position="first").index
        thick = 0.8 / len(groups)
        for place, group in enumerate(groups):
            rows = table[table[series] == group].set_index("label").reindex(order)
            y = np.arange(len(order)) + (place - (len(groups) - 1) / 2) * thick
            axis.barh(
                y,
                rows[name],
                thick * 0.9,
                color=colours[group]["color"],
                label=_plain(group),
                xerr=_errors(rows, name),
                error_kw={"elinewidth": 0.9, "ecolor": "#333333"},
            )
        axis.set_yticks(np.arange(len(order)), [_plain(label) for label in order])
        axis.grid(axis="y", visible=False)
        axis.set_title(_title(name, directions))
    if axes:
        _legend(figure, axes[0])
    return figure


def _errors(rows: pd.DataFrame, name: str) -> Any:
    if f"{name}_low" not in rows:
        return None
    low, high = rows[name] - rows[f"{name}_low"], rows[f"{name}_high"] - rows[name]
    return np.nan_to_num(np.clip(np.stack([low, high]).astype(float), 0, None))


def lines(
    table: pd.DataFrame,
    x: str,
    names: Sequence[str],
    directions: Mapping[str, str],
    axis_label: str,
    series: str,
    levels: pd.DataFrame | None = None,
) -> Figure:
    """One panel a number: the number along ``x``, one line a ``series``, shaded intervals.

    Args:
        levels: rows that ``x`` does not change; a dotted line right across, named at its end.
    """
    shown = [name for name in names if table[name].notna().any()]
    figure, axes = _panels(len(shown), 4.0, 3.2)
    look = styles(list(table[series]))
    numeric = pd.api.types.is_numeric_dtype(table[x])
    ticks = sorted(table[x].dropna().unique(), key=None if numeric else _natural)
    for axis, name in zip(axes, shown, strict=True):
        for key, rows in table.groupby(series, sort=False):
            rows = rows.sort_values(x, key=None if numeric else lambda values: values.map(ticks.index))
            at = rows[x].astype(float) if numeric else rows[x].map(ticks.index)
            axis.plot(at, rows[name], label=_plain(key), markersize=4, linewidth=1.4, **look[str(key)])
            if f"{name}_low" in rows:
                ends = (rows[f"{name}_low"].astype(float), rows[f"{name}_high"].astype(float))
                axis.fill_between(at.astype(float), *ends, color=look[str(key)]["color"], alpha=0.12, linewidth=0)
        for row in [] if levels is None else levels.to_dict("records"):
            if not math.isnan(row[name]):
                axis.axhline(row[name], color="#555555", linestyle=":", linewidth=1.2)
                axis.annotate(
                    _plain(row[series]), (1, row[name]), xycoords=("axes fraction", "data"), xytext=(-2, 2),
                    textcoords="offset points", ha="right", va="bottom", fontsize=7, color="#555555",
                )  # fmt: skip
        if numeric and len(ticks) > 1 and min(ticks) > 0 and max(ticks) / min(ticks) >= 8:
            axis.set_xscale("log")
            axis.minorticks_off()
        axis.set_xticks(ticks if numeric else range(len(ticks)), [f"{t:g}" if numeric else _plain(t) for t in ticks])
        axis.set_xlabel(axis_label)
        axis.set_title(_title(name, directions))
    if axes:
        _legend(figure, axes[0])
    return figure


def _natural(text: str) -> list[tuple[int, str]]:
    """What sorts ``block10`` behind ``block2``."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d+)", str(text))]


def scatter(table: pd.DataFrame, xs: Sequence[str], ys: Sequence[str], directions: Mapping[str, str]) -> Figure:
    """Quality (one panel each of ``ys``) against cost (each of ``xs``, logarithmic)."""
    xs = [x for x in xs if x in table and table[x].notna().any()]
    ys = [y for y in ys if y in table and table[y].notna().any()]
    figure, axes = _panels(len(xs) * len(ys), 4.0, 3.4, columns=len(xs) if len(xs) > 1 else 3)
    look = styles(list(table["label"]))
    for axis, (y, x) in zip(axes, [(y, x) for y in ys for x in xs], strict=True):
        for row in table.to_dict("records"):
            if not (math.isnan(row[x]) or math.isnan(row[y])):
                axis.plot(
                    row[x],
                    row[y],
                    linestyle="none",
                    markersize=7,
                    label=_plain(row["label"]),
                    **look[str(row["label"])],
                )
        if (table[x].dropna() > 0).all():
            axis.set_xscale("log")
        axis.set_xlabel(_title(x, directions))
        axis.set_ylabel(_title(y, directions))
    if axes:
        _legend(figure, axes[0], 4)
    return figure


def bins(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Insertion, deletion and overall by class accuracy, one line a method.

    Args:
        tables: of each method, from :func:`decomcam_bench.metrics.bins.bin_table`.
    """
    figure, axes = _panels(3, 3.8, 3.4)
    look = styles(list(tables))
    directions = {"insertion": "higher", "deletion": "lower", "overall": "higher"}
    for axis, curve in zip(axes, directions, strict=True):
        for name, table in tables.items():
            known = table[table[curve].notna()]
            axis.plot(known["centre"], known[curve], label=_plain(name), markersize=4, linewidth=1.4, **look[name])
        axis.set_xlim(0, 1)
        axis.set_xticks(np.arange(0.05, 1, 0.1), [f"{x:.2f}" for x in np.arange(0.05, 1, 0.1)], rotation=45)
        axis.set_xlabel("class accuracy")
        axis.set_title(_title(curve, directions))
    _legend(figure, axes[0])
    return figure


def floors(table: pd.DataFrame, names: Sequence[str], series: str, axis_label: str) -> Figure:
    """Numbers beside their ``*_floor``: one panel a number, bars by ``series``."""
    shown = [name for name in names if f"{name}_floor" in table]
    figure, axes = _panels(len(shown), 2.6, 3.0, columns=4)
    ticks = [_plain(value) for value in table[series]]
    for axis, name in zip(axes, shown, strict=True):
        at = np.arange(len(table))
        for place, (column, label, colour) in enumerate(
            ((name, "components", PALETTE[0]), (f"{name}_floor", "displaced components", "#BBBBBB"))
        ):
            errors = _errors(table.set_index(series), column)
            axis.bar(
                at + (place - 0.5) * 0.38,
                table[column],
                0.36,
                color=colour,
                label=label,
                yerr=errors,
                error_kw={"elinewidth": 0.9, "ecolor": "#333333"},
            )
        axis.set_xticks(at, ticks)
        if max(map(len, ticks), default=0) > 6:
            axis.tick_params(axis="x", rotation=90)
        axis.grid(axis="x", visible=False)
        axis.set_xlabel(axis_label)
        axis.set_title(f"{name} ↑")
    if axes:
        _legend(figure, axes[0])
    return figure


def curves(means: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Mean deletion and insertion curves.

    Args:
        means: curve name -> method -> mean score at evenly spaced steps.
    """
    figure, axes = _panels(len(means), 4.4, 3.2)
    look = styles([method for by_method in means.values() for method in by_method])
    words = {"deletion": "share of pixels removed", "insertion": "share of pixels put in"}
    for axis, (curve, by_method) in zip(axes, means.items(), strict=True):
        for method, mean in by_method.items():
            axis.plot(
                np.linspace(0, 1, len(mean)), mean, label=_plain(method), linewidth=1.5, color=look[method]["color"]
            )
        axis.set_xlabel(words.get(curve, "share of pixels"))
        axis.set_ylabel("score")
        axis.set_title(_title(curve, {"deletion": "lower", "insertion": "higher"}))
    if axes:
        _legend(figure, axes[0], 4)
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes ``STEM.png`` and ``STEM.svg``."""
    written = []
    with drawing_style():
        for suffix, extra in ((".png", {"dpi": 150}), (".svg", {"metadata": {"Date": None}})):
            path = stem.with_suffix(suffix)
            figure.savefig(path, **extra)
            written.append(path)
    return written
