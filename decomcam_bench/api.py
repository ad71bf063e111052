"""The Python API: what the command line does, as functions.

    import decomcam_bench as bench

    bench.run("method=decomcam,gradcam", "limit=50", results="results/mine")
    table = bench.load_table("results/mine", intervals=True, reference="gradcam")

Importing :mod:`decomcam_bench` imports neither torch nor pandas; the first call does.

Columns of a table: ``dataset``, ``model``, ``layer`` (empty for a method that reads none),
``method``, ``rank`` (missing for a method without one), then one column a number of a metric, each
followed by what was asked for (``_low``, ``_high``: 95 % interval; ``_diff``, ``_diff_low``,
``_diff_high``, ``_p``: against the reference method, p with Holm's correction), then
``n_expected`` = ``n_evaluated`` + ``n_skipped`` + ``n_failed`` pairs, and the cell's ``key``.

Columns of records: ``position`` of the image in the run, ``image_id``, ``class_id``,
``class_name``, ``status`` (``ok``, ``skipped``, ``failed``), ``reason``, and a metric's values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from decomcam_bench.engine import RunResult
    from decomcam_bench.results.experiments import Outcome
    from decomcam_bench.results.housekeeping import CellComparison
    from decomcam_bench.results.regression import Finding


def run(*overrides: str, results: str | Path = "results") -> RunResult:
    """Evaluates what the store does not have yet; ``decomcam-bench run``.

    Args:
        overrides: as on the command line; comma lists sweep.
        results: root of the store.

    Raises:
        UserError: for something that the caller can put right.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> done = run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> done.computed_images
    4
    >>> run("method=center", "metric=energy", "limit=4", "workers=0", results=folder).computed_images
    0
    """
    from decomcam_bench.config import load_config
    from decomcam_bench.engine import run as run_config

    return run_config(load_config([*overrides, f"results='{results}'"]))


def load_table(
    results: str | Path = "results",
    keys: Iterable[str] | None = None,
    details: bool = False,
    intervals: bool = False,
    reference: str | None = None,
    resamples: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame:
    """The table of a store, one row a cell; ``decomcam-bench table``. See the module for its columns.

    Args:
        results: root of the store.
        keys: only these cells, in this order.
        details: also secondary numbers and each metric's own counts.
        intervals: 95 % intervals by resampling images.
        reference: a method that every other is compared with.
        resamples, seed: of intervals and comparisons.

    Raises:
        StoreError: for a damaged part, or one that a newer version wrote.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> done = run("method=center,random", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> table = load_table(folder, intervals=True, resamples=100)
    >>> list(table["method"])
    ['center', 'random']
    >>> list(table.columns)[5:8]
    ['energy', 'energy_low', 'energy_high']
    """
    from decomcam_bench.results.tables import load_table as load

    return load(results, keys, details, intervals, reference, resamples, seed)


def load_records(results: str | Path, key: str, metric: str | None = None) -> pd.DataFrame:
    """Records of one cell, one row a pair. See the module for their columns.

    Args:
        results: root of the store.
        key: of the cell.
        metric: name of a metric; None for whether there was a map.

    Raises:
        StoreError: when there is no such cell or metric, or a part is damaged.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> done = run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> records = load_records(folder, done.keys[0], "energy")
    >>> bool(records["energy"].between(0, 1).all())
    True
    """
    from decomcam_bench.results.tables import load_records as load

    return load(results, key, metric)


def render(table: pd.DataFrame, form: str = "md", results: str | Path | None = None) -> str:
    """A table as ``md``, ``csv``, ``json``, ``latex`` or ``html``.

    >>> import pandas as pd
    >>> print(render(pd.DataFrame({"method": ["a"], "energy": [0.51239]})), end="")
    | method | energy |
    |--------|--------|
    | a      | 0.5124 |
    """
    from decomcam_bench.results.tables import render as render_table

    return render_table(table, form, results)


def reproduce(name: str, *overrides: str, results: str | Path = "results", require_all: bool = False) -> Outcome:
    """Runs a named experiment and writes its table and figure; ``decomcam-bench reproduce``.

    >>> import tempfile
    >>> words = "dataset=toybox", "method=center", "metric=energy", "limit=4", "workers=0"
    >>> outcome = reproduce("localization", *words, results=tempfile.mkdtemp())
    >>> sorted(path.name for path in outcome.files)
    ['figure.png', 'figure.svg', 'table.csv', 'table.html', 'table.md', 'table.tex']
    """
    from decomcam_bench.results.experiments import reproduce as reproduce_experiment

    return reproduce_experiment(name, [*overrides, f"results='{results}'"], require_all)


def write_report(
    results: str | Path = "results", out: str | Path = "report.html", *overrides: str, gallery: bool = True
) -> Path:
    """Writes a self-contained HTML report; ``decomcam-bench report``.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> done = run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> write_report(folder, f"{folder}/report.html", gallery=False).name
    'report.html'
    """
    from decomcam_bench.results.report import write_report as write

    return write(results, out, overrides, gallery)


def check(
    baseline: str | Path,
    results: str | Path = "results",
    tolerances: str = "default",
    overrides: Sequence[str] = (),
    any_code: bool = False,
) -> list[Finding]:
    """Judges a store against a baseline; ``decomcam-bench check``.

    Args:
        baseline: file made by :func:`update_baseline`.
        results: root of the store.
        tolerances: a choice of ``configs/gate``, or a YAML file.
        overrides: ``COLUMN=AMOUNT`` on top.
        any_code: also judge records that other code made than is installed.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> done = run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> file = update_baseline(f"{folder}/base.json", folder)
    >>> [(finding.column, finding.state) for finding in check(file, folder)]
    [('energy', 'pass')]
    """
    from decomcam_bench.results import baseline as baselines
    from decomcam_bench.results import regression

    known = baselines.read_baseline(baseline)
    regression.check_patterns(known, overrides)
    return regression.check(known, results, regression.read_tolerances(tolerances, overrides), any_code)


def update_baseline(baseline: str | Path, results: str | Path = "results", keys: Iterable[str] | None = None) -> Path:
    """Writes a store's numbers as a baseline; ``decomcam-bench baseline update``. See :func:`check`."""
    from decomcam_bench.results.baseline import make_baseline, write_baseline

    write_baseline(baseline, make_baseline(results, keys))
    return Path(baseline)


def compare_cells(
    first: str, second: str, results: str | Path = "results", metric: str | None = None
) -> list[CellComparison]:
    """Compares two cells image by image; ``decomcam-bench results compare``.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> done = run("method=center,random", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> [found] = compare_cells(*done.keys, results=folder)
    >>> found.column, found.paired.images
    ('energy', 4)
    """
    from decomcam_bench.results import housekeeping

    cells = [housekeeping.find_cell(results, key) for key in (first, second)]
    return housekeeping.compare_cells(cells[0], cells[1], metric)


def export(out: str | Path, results: str | Path = "results", keys: Sequence[str] = ()) -> int:
    """Writes all records as one CSV or Parquet file and counts them; ``decomcam-bench results export``.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> done = run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> export(f"{folder}/records.parquet", folder) == len(load_records(folder, done.keys[0], "energy"))
    True
    """
    from decomcam_bench.results.housekeeping import export as export_records

    return export_records(results, out, keys)
