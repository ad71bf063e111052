"""The Python API: what the command line does, as functions of :mod:`decomcam_bench`.

================================ ==============================================
``run``                          :func:`run`
``run`` with objects             :func:`~decomcam_bench.interop.objects.evaluate`
``run --dry-run``                :func:`dry_run`, as numbers :func:`estimate`
``show``                         :func:`show`
``table``                        :func:`~decomcam_bench.tables.tables.load_table`,
                                 :func:`~decomcam_bench.tables.tables.render`
``explain``                      :func:`~decomcam_bench.explainer.explain.explain`; to keep the model,
                                 :class:`~decomcam_bench.explainer.session.Session`
``reproduce``                    :func:`~decomcam_bench.reports.experiments.reproduce`
``report``                       :func:`~decomcam_bench.reports.report.write_report`
``list``                         :func:`~decomcam_bench.config.registry.names`
``check``                        :func:`~decomcam_bench.gate.regression.check`
``baseline update``              :func:`~decomcam_bench.gate.baseline.update_baseline`
``results list``                 :func:`~decomcam_bench.tables.upkeep.list_results`
``results show``                 :func:`~decomcam_bench.tables.upkeep.describe_cell`
``results compare``              :func:`~decomcam_bench.tables.upkeep.compare_cells`
``results gc``                   :func:`~decomcam_bench.tables.upkeep.collect_garbage`
``results export``               :func:`~decomcam_bench.tables.upkeep.export`
``data verify``                  :func:`verify_data`
``data export-pairs``            :func:`export_pairs`
``data export-maps``             :func:`export_maps`
================================ ==============================================

Records of single pairs are read by :func:`~decomcam_bench.tables.tables.load_records`. ``data prepare`` is
:class:`~decomcam_bench.datasets.acquire.prepare.Preparation`.

This module holds the functions that take overrides, and those that put two calls together; the others live
where their work is done.

Columns of a table: ``dataset``, ``model``, ``layer`` (empty for a method that reads none), ``method``,
``rank`` (missing for a method without one), then one column per number of a metric, each followed by what was
asked for (``_low``, ``_high``: 95 % interval; ``_diff``, ``_diff_low``, ``_diff_high``, ``_p``: against the
reference method, p with Holm's correction; ``_diff_n``: the pairs that both have, where others had to be left
out), then ``n_expected`` = ``n_evaluated`` + ``n_skipped`` + ``n_failed`` pairs, and the cell's ``key``.

Columns of records: ``position`` of the image in the run, ``image_id``, ``class_id``, ``class_name``,
``status`` (``ok``, ``skipped``, ``failed``), ``reason`` (a code, by which counts are made), ``detail``, and a
metric's values.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from decomcam_bench.config.settings import load_config, resolved, with_results

if TYPE_CHECKING:
    from decomcam_bench.datasets.acquire.verify import Report
    from decomcam_bench.engine.engine import RunResult
    from decomcam_bench.engine.estimate import Estimate


def run(
    *overrides: str, results: str | Path | None = None, fresh: bool = False, retry_failed: bool = False
) -> RunResult:
    """Evaluate what the store does not have yet.

    Args:
        overrides: as on the command line; comma lists sweep.
        results: root of the store; ``results`` by default.
        fresh: compute the cells again, whatever the store has of them.
        retry_failed: compute shards again in which a pair failed; without it only those whose cause has gone.

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
    from decomcam_bench.config.overrides import check_repeated
    from decomcam_bench.engine.engine import run as run_config

    check_repeated(overrides)
    return run_config(load_config(with_results(overrides, results)), fresh, retry_failed)


def dry_run(*overrides: str, results: str | Path | None = None) -> str:
    """Return what a run would compute, and how long that takes, as text.

    >>> "center" in dry_run("method=center", "metric=energy", "limit=4")
    True
    """
    return estimate(*overrides, results=results).text()


def estimate(*overrides: str, results: str | Path | None = None) -> Estimate:
    """Return what a run would compute, and how long that takes, as numbers.

    >>> estimate("method=center", "metric=energy", "limit=4").groups[0]["images"]
    4
    """
    from decomcam_bench.engine.estimate import estimate as estimate_plan
    from decomcam_bench.engine.plan import make_plan

    return estimate_plan(make_plan(load_config(with_results(overrides, results))))


def show(*overrides: str) -> str:
    """Return the resolved configuration as YAML.

    >>> "channels: 100" in show("method=decomcam")
    True
    """
    return resolved(load_config(overrides))


def verify_data(name: str, fast: bool = False, **options: Any) -> Report:
    """Check every sample and image of a data set.

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
    """Write the pairs of a run as a CSV and return their number.

    >>> import tempfile
    >>> export_pairs(f"{tempfile.mkdtemp()}/pairs.csv", "dataset=toybox", "limit=4") > 0
    True
    """
    from decomcam_bench.interop.pairs import write_pairs

    return write_pairs(load_config(overrides), Path(out).expanduser())


def export_maps(out: str | Path, key: str, results: str | Path = "results") -> int:
    """Write the saved maps of a cell as files and return their number.

    Args:
        out: the folder.
        key: of the cell, or its first letters.
        results: root of the store.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> words = "method=center", "metric=energy", "limit=4", "workers=0", "save_maps=true"
    >>> export_maps(f"{folder}/maps", run(*words, results=folder).keys[0], folder) > 0
    True
    """
    from decomcam_bench.store.maps import export
    from decomcam_bench.tables.upkeep import find_cell

    return export(find_cell(results, key), Path(out).expanduser())
