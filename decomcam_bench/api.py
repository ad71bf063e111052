"""The Python API: what the command line does, as functions.

    import decomcam_bench as bench

    bench.run("method=decomcam,gradcam", "limit=50", results="results/mine")
    table = bench.load_table("results/mine", intervals=True, reference="gradcam")

Each command is a function here: ``run`` (``--dry-run``: :func:`dry_run`), ``table`` (:func:`load_table`,
:func:`render`), ``list`` (:func:`names`), ``show``, ``reproduce``, ``report`` (:func:`write_report`), ``check``,
``baseline update`` (:func:`update_baseline`), ``results list | show | compare | gc | export``
(:func:`list_results`, :func:`describe_cell`, :func:`compare_cells`, :func:`collect_garbage`, :func:`export`),
``data verify | export-pairs | export-maps`` (:func:`verify_data`, :func:`export_pairs`, :func:`export_maps`).
``explain`` is :func:`decomcam_bench.explainer.explain`, ``data prepare`` is
:class:`decomcam_bench.datasets.acquire.prepare.Preparation`.

Importing :mod:`decomcam_bench` imports neither torch nor pandas; the first call does.

Columns of a table: ``dataset``, ``model``, ``layer`` (empty for a method that reads none),
``method``, ``rank`` (missing for a method without one), then one column a number of a metric, each
followed by what was asked for (``_low``, ``_high``: 95 % interval; ``_diff``, ``_diff_low``,
``_diff_high``, ``_p``: against the reference method, p with Holm's correction; ``_diff_n``: the pairs
that both have, where others had to be left out), then
``n_expected`` = ``n_evaluated`` + ``n_skipped`` + ``n_failed`` pairs, and the cell's ``key``.

Columns of records: ``position`` of the image in the run, ``image_id``, ``class_id``,
``class_name``, ``status`` (``ok``, ``skipped``, ``failed``), ``reason``, and a metric's values.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from decomcam_bench.datasets.acquire.verify import Report
    from decomcam_bench.engine.engine import RunResult
    from decomcam_bench.gate.regression import Finding
    from decomcam_bench.reports.experiments import Outcome
    from decomcam_bench.tables.upkeep import CellComparison


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
    from decomcam_bench.config.settings import load_config
    from decomcam_bench.engine.engine import run as run_config

    return run_config(load_config([*overrides, f"results='{results}'"]))


def load_table(
    results: str | Path = "results",
    keys: Iterable[str] | None = None,
    details: bool = False,
    intervals: bool = False,
    reference: str | None = None,
    resamples: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """The table of a store, one row a cell; ``decomcam-bench table``. See the module for its columns.

    Args:
        results: root of the store.
        keys: only these cells, in this order.
        details: also secondary numbers and each metric's own counts.
        intervals: 95 % intervals by resampling images.
        reference: a method that every other is compared with.
        resamples: of intervals and comparisons; None: 2,000 for intervals, and as many permutations
            as the number of tests asks for, at least 10,000.
        seed: of both.

    Warns:
        UserWarning: for pairs that a comparison leaves out, and for a table in which no difference can
            be significant.

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
    from decomcam_bench.tables.tables import load_table as load

    def note(line: str) -> None:
        warnings.warn(line, stacklevel=3)

    return load(results, keys, details, intervals, reference, resamples, seed, note)


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
    from decomcam_bench.tables.tables import load_records as load

    return load(results, key, metric)


def render(table: pd.DataFrame, form: str = "md", results: str | Path | None = None) -> str:
    """A table as ``md``, ``csv``, ``json``, ``latex`` or ``html``.

    >>> import pandas as pd
    >>> print(render(pd.DataFrame({"method": ["a"], "energy": [0.51239]})), end="")
    | method | energy |
    |--------|--------|
    | a      | 0.5124 |
    """
    from decomcam_bench.tables.tables import render as render_table

    return render_table(table, form, results)


def names(group: str) -> list[str]:
    """What can be named: of ``dataset``, ``model``, ``method``, ``metric``, ``experiment`` or ``gate``;
    ``decomcam-bench list``.

    >>> "decomcam" in names("method")
    True
    """
    from decomcam_bench.config import registry

    return registry.names(group)


def show(*overrides: str) -> str:
    """The resolved configuration as YAML; ``decomcam-bench show``.

    >>> "channels: 100" in show("method=decomcam")
    True
    """
    from decomcam_bench.config.settings import load_config, resolved

    return resolved(load_config(overrides))


def dry_run(*overrides: str, results: str | Path = "results") -> str:
    """What a run would compute, and how long that takes; ``decomcam-bench run --dry-run``.

    >>> "center" in dry_run("method=center", "metric=energy", "limit=4")
    True
    """
    from decomcam_bench.config.settings import load_config
    from decomcam_bench.engine.estimate import describe
    from decomcam_bench.engine.plan import make_plan

    return describe(make_plan(load_config([*overrides, f"results='{results}'"])))


def reproduce(name: str, *overrides: str, results: str | Path = "results", require_all: bool = False) -> Outcome:
    """Runs a named experiment and writes its table and figure; ``decomcam-bench reproduce``.

    >>> import tempfile
    >>> words = "dataset=toybox", "method=center", "metric=energy", "limit=4", "workers=0"
    >>> outcome = reproduce("localization", *words, results=tempfile.mkdtemp())
    >>> sorted(path.name for path in outcome.files)
    ['figure.png', 'figure.svg', 'table.csv', 'table.html', 'table.md', 'table.tex']
    """
    from decomcam_bench.reports.experiments import reproduce as reproduce_experiment

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
    from decomcam_bench.reports.report import write_report as write

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
    from decomcam_bench.gate import baseline as baselines
    from decomcam_bench.gate import regression

    known = baselines.read_baseline(baseline)
    regression.check_patterns(known, overrides)
    return regression.check(known, results, regression.read_tolerances(tolerances, overrides), any_code)


def update_baseline(baseline: str | Path, results: str | Path = "results", keys: Iterable[str] | None = None) -> Path:
    """Writes a store's numbers as a baseline; ``decomcam-bench baseline update``. See :func:`check`."""
    from decomcam_bench.gate.baseline import make_baseline, write_baseline

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
    from decomcam_bench.tables import upkeep as housekeeping

    cells = [housekeeping.find_cell(results, key) for key in (first, second)]
    return housekeeping.compare_cells(cells[0], cells[1], metric)


def list_results(results: str | Path = "results") -> pd.DataFrame:
    """One row a cell: labels, metrics, images, parts that are there, bytes, key; ``decomcam-bench results list``.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> done = run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> list_results(folder)[["method", "metrics", "parts"]].values.tolist()
    [['center', 'energy', '1/1']]
    """
    from decomcam_bench.tables.upkeep import listing

    return listing(results)


def describe_cell(key: str, results: str | Path = "results") -> dict[str, Any]:
    """Everything that the store knows of a cell; ``decomcam-bench results show``.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> done = run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> describe_cell(done.keys[0], folder)["repeat"]
    ['decomcam-bench run dataset=toybox model=toyclip method=center limit=4 metric=energy']
    """
    from decomcam_bench.tables.upkeep import describe, find_cell

    return describe(find_cell(results, key))


def collect_garbage(results: str | Path = "results", dry_run: bool = False) -> list[str]:
    """Removes what interrupted runs left and says what; ``decomcam-bench results gc``.

    >>> import tempfile
    >>> collect_garbage(tempfile.mkdtemp(), dry_run=True)
    []
    """
    from decomcam_bench.tables.upkeep import collect_garbage as collect

    return collect(results, dry_run)


def export(
    out: str | Path, results: str | Path = "results", keys: Sequence[str] = (), metric: str | None = None
) -> int:
    """Writes all records as one CSV or Parquet file and counts them; ``decomcam-bench results export``.

    Args:
        keys: only these cells.
        metric: only this one.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> done = run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> export(f"{folder}/records.parquet", folder) == len(load_records(folder, done.keys[0], "energy"))
    True
    """
    from decomcam_bench.tables.upkeep import export as export_records

    return export_records(results, out, keys, metric)


def verify_data(name: str, fast: bool = False, **options: Any) -> Report:
    """Looks at every sample and image of a data set; ``decomcam-bench data verify``.

    Args:
        name: of a choice of ``dataset``.
        fast: read the headers of images only.
        options: of the data set, e.g. ``root="data/voc"``.

    >>> verify_data("toybox", fast=True, size=4).sound
    True
    """
    from decomcam_bench.config import registry
    from decomcam_bench.datasets.acquire.catalogue import variant_of
    from decomcam_bench.datasets.acquire.verify import verify

    dataset = registry.build("dataset", {**registry.read("dataset", name), **options})
    return verify(dataset, variant_of(dataset), fast)


def export_pairs(out: str | Path, *overrides: str) -> int:
    """Writes the pairs of a run as a CSV and counts them; ``decomcam-bench data export-pairs``.

    >>> import tempfile
    >>> export_pairs(f"{tempfile.mkdtemp()}/pairs.csv", "dataset=toybox", "limit=4") > 0
    True
    """
    from decomcam_bench.config.settings import load_config
    from decomcam_bench.interop.pairs import write_pairs

    return write_pairs(load_config(overrides), Path(out))


def export_maps(out: str | Path, key: str, results: str | Path = "results") -> int:
    """Writes the kept maps of a cell as files and counts them; ``decomcam-bench data export-maps``.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> words = "method=center", "metric=energy", "limit=4", "workers=0", "save_maps=true"
    >>> export_maps(f"{folder}/maps", run(*words, results=folder).keys[0], folder) > 0
    True
    """
    from decomcam_bench.store.maps import export as export_kept
    from decomcam_bench.tables.upkeep import find_cell

    return export_kept(find_cell(results, key), Path(out))
