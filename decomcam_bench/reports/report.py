"""The report: one HTML file with everything inside, readable without a network."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from decomcam_bench.config import registry
from decomcam_bench.core.console import log
from decomcam_bench.core.errors import ConfigError, StoreError, UserError
from decomcam_bench.core.version import __version__
from decomcam_bench.metrics.bins import AccuracyBins, bin_table
from decomcam_bench.reports import figures
from decomcam_bench.reports.experiments import chosen_numbers, with_labels
from decomcam_bench.reports.gallery import Gallery, make_gallery
from decomcam_bench.store.reader import evaluated, metric_of, metric_records, metrics_of
from decomcam_bench.store.store import RECORDS, Cell, Store
from decomcam_bench.tables import formats, layout
from decomcam_bench.tables.cells import directions, notes, reasons
from decomcam_bench.tables.tables import load_table
from decomcam_bench.tables.upkeep import commands

#: Numbers that a curve is drawn of, at most.
_MOST_PANELS = 4
#: Secondary numbers that the leaderboard shows where there are no others, at most.
_MOST_DETAILS = 6


@dataclass
class Drawing:
    """A figure of the report with its heading and the words under it."""

    title: str
    svg: Markup
    text: str = ""


@dataclass
class Entry:
    """An entry of the leaderboard: what is shown, and the value that a click on the heading sorts by."""

    shown: formats.Shown
    value: str


@dataclass
class Section:
    """Everything about one data set and model.

    Attributes:
        header: (label, direction) of the leaderboard's columns.
        rows: of the leaderboard.
        problems: (method, reason, pairs) of maps that could not be made.
    """

    title: str
    anchor: str
    header: list[tuple[str, str]]
    rows: list[list[Entry]]
    drawings: list[Drawing] = field(default_factory=list)
    gallery: Gallery | None = None
    problems: list[tuple[str, str, int]] = field(default_factory=list)


def write_report(
    results: str | Path = "results",
    out: str | Path = "report.html",
    *overrides: str,
    gallery: bool = True,
    resamples: int = 2_000,
) -> Path:
    """Write a self-contained HTML report of a store.

    Args:
        results: root of the store.
        out: the HTML file.
        overrides: for the pictures, e.g. ``dataset.root=DIR`` or ``device=cuda``.
        gallery: recompute pictures from the data sets.
        resamples: of the intervals.

    Raises:
        StoreError: when there are no results.
        ConfigError: when the file cannot be written.

    >>> import tempfile, decomcam_bench as bench
    >>> folder = tempfile.mkdtemp()
    >>> done = bench.run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> bench.write_report(folder, f"{folder}/report.html", gallery=False).name
    'report.html'
    """
    store = Store(results)
    cells = {cell.key: cell for cell in store.cells()}
    if not cells:
        raise StoreError(f"{results}: no results there; `decomcam-bench run` makes some")
    table = load_table(results, details=True, intervals=True, resamples=resamples, note=log.warning)
    better = directions(results)
    detail = {
        column.label
        for cell in cells.values()
        for content in metrics_of(cell).values()
        for column in content.columns
        if column.detail
    }
    sections = []
    for number, ((dataset, model), own) in enumerate(table.groupby(["dataset", "model"], sort=False)):
        own = own.reset_index(drop=True)
        block = [cells[key] for key in own["key"]]
        section = Section(f"{dataset} · {model}", f"section{number}", *_leaderboard(own, better, detail))
        section.drawings = _drawings(own, block, better, detail)
        section.problems = _problems(block)
        if gallery:
            section.gallery = _gallery(block, overrides)
        sections.append(section)
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            sections=sections,
            cells=[_provenance(cell) for cell in cells.values()],
            runs=store.runs()[-50:][::-1],
            unfinished=notes(results),
            version=__version__,
            pairs=int(table["n_expected"].sum()),
        )
    )
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror})") from error
    return Path(out)


def _environment() -> jinja2.Environment:
    folder = files("decomcam_bench.reports") / "templates"
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _leaderboard(
    table: pd.DataFrame, better: Mapping[str, str], detail: set[str]
) -> tuple[list[tuple[str, str]], list[list[Entry]]]:
    """Return the header (label, direction) and the rows of the leaderboard."""
    known = [name for name in layout.numbers(table) if name in better and table[name].notna().any()]
    own = [name for name in known if name not in detail] or known[:_MOST_DETAILS]
    ends = [f"{name}_{end}" for name in own for end in ("low", "high") if f"{name}_{end}" in table]
    names = ["method", "layer", "rank", *own, "n_expected", "n_failed", "key"]
    header, rows = formats.shown(table[[*names, *ends]], better)
    values = table[names].to_dict("records")
    return header, [
        [
            Entry(entry, "" if pd.isna(row[name]) else str(row[name]))
            for (name, _), entry in zip(header, shown, strict=True)
        ]
        for row, shown in zip(values, rows, strict=True)
    ]


def _drawings(table: pd.DataFrame, cells: Sequence[Cell], better: Mapping[str, str], detail: set[str]) -> list[Drawing]:
    plain = [
        name for name in layout.numbers(table) if name in better and name not in detail and table[name].notna().any()
    ]
    quality = [name for name in plain if better[name] != "none" and not name.startswith("efficiency")]
    identities = {cell.key: cell.identity for cell in cells}
    made: list[Drawing] = []
    known = chosen_numbers(table, ["efficiency_forward", "efficiency_pairs_per_second"])
    costs = [name for name in known if table[name].notna().any()]
    if costs and quality:
        data = with_labels(table, identities)
        made.append(_drawing("Quality against cost", figures.scatter(data, costs, quality[:2], better)))
    for x, label in (("rank", "rank"), ("method.channels", "channels"), ("layer", "layer")):
        data = with_labels(table, identities, x)
        along = data[x].notna() & (data[x].astype(str) != "")
        levels, data = (
            data[~along & data["method"].isin(registry.controls("blind"))].assign(series=lambda t: t["label"]),
            data[along],
        )
        data, shown = _along(data, x, quality)
        if shown:
            if "." not in x and x != "rank":
                data = data.sort_values("layer", kind="stable")
            made.append(_drawing(f"By {label}", figures.lines(data, x, shown, better, label, "series", levels)))
    labels = dict(zip(table["key"], with_labels(table, identities)["label"], strict=True))
    means = _mean_curves(cells, labels)
    if means:
        text = "Mean score over pairs as the pixels that the map ranks first are taken away, or put in."
        made.append(_drawing("Deletion and insertion", figures.curves(means), text))
    bins = _bins(cells, labels)
    if bins:
        text = "Pairs that the model classifies correctly, by the accuracy of their class in this run."
        made.append(_drawing("By class accuracy", figures.bins(bins), text))
    return made


def _along(data: pd.DataFrame, x: str, names: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The rows and the numbers that make a curve along ``x``: those of a series with several values of it.

    Cells of other experiments have other numbers; what has one point, or none, is no curve.
    """
    data = data.assign(series=data["label"])
    if not len(data):
        return data, []

    def several(rows: pd.DataFrame) -> bool:
        return bool((rows.groupby("series")[x].nunique() > 1).any())

    shown = [name for name in names if several(data[data[name].notna()])][:_MOST_PANELS]
    drawn = data[data[shown].notna().any(axis=1)]
    return drawn[drawn.groupby("series")[x].transform("nunique") > 1], shown


def _drawing(title: str, figure: Figure, text: str = "") -> Drawing:
    buffer = io.StringIO()
    with figures.drawing_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    # Made by matplotlib, which escapes every text in it.
    return Drawing(title, Markup(svg[svg.index("<svg") :]), text)


def _mean_curves(cells: Sequence[Cell], labels: Mapping[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """Curve -> method -> mean over pairs, of the first metric of each cell that draws curves."""
    means: dict[str, dict[str, np.ndarray]] = {}
    for cell in cells:
        for key in metrics_of(cell):
            records = cell.read(key, lambda name: name == "status" or name.endswith("_curve"))
            names = [name for name in records if name.endswith("_curve")]
            if not names:
                continue
            good = evaluated(records)
            for name in names:
                drawn = [curve for curve in good[name] if curve is not None]
                if drawn and len({len(curve) for curve in drawn}) == 1:
                    mean = np.nanmean(np.stack(drawn).astype(np.float64), axis=0)
                    means.setdefault(name.removesuffix("_curve"), {})[labels[cell.key]] = mean
            break
    return means


def _bins(cells: Sequence[Cell], labels: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    tables = {}
    for cell in cells:
        for key, content in metrics_of(cell).items():
            metric = metric_of(content)
            if isinstance(metric, AccuracyBins):
                records = evaluated(metric_records(cell, key), metric)
                if len(records):
                    tables[labels[cell.key]] = bin_table(records)
    return tables


def _problems(cells: Sequence[Cell]) -> list[tuple[str, str, int]]:
    """(method, reason, pairs) of maps that could not be made."""
    found = []
    for cell in cells:
        counted = reasons(cell.read(RECORDS, lambda name: name in ("status", "reason")))
        rank = f" rank {cell.labels['rank']}" if cell.labels["rank"] else ""
        layer = f" {cell.labels['layer']}" if cell.labels["layer"] else ""
        found += [(f"{cell.labels['method']}{layer}{rank}", reason, count) for reason, count in counted.items()]
    return found


def _gallery(cells: Sequence[Cell], overrides: Sequence[str]) -> Gallery:
    """Pictures are an extra: what stands in their way is said in their place."""
    try:
        return make_gallery(cells, overrides)
    except UserError as error:
        return Gallery(note=" ".join(str(error).split()))


def _provenance(cell: Cell) -> dict[str, Any]:
    return {
        "key": cell.key,
        "label": " ".join(
            str(cell.labels[n]) for n in ("method", "layer", "rank", "dataset", "model") if cell.labels[n]
        ),
        "repeat": "\n".join(commands(cell)),
        "identity": json.dumps(cell.identity, indent=2, sort_keys=True),
    }
