"""Experiments: a named evaluation, from one YAML of ``configs/experiment`` to its table and figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from decomcam_bench.config import registry, sources
from decomcam_bench.config.settings import load_config, with_results
from decomcam_bench.core.console import log
from decomcam_bench.core.errors import ConfigError, DataError, unknown
from decomcam_bench.engine.engine import execute
from decomcam_bench.engine.estimate import Estimate, estimate, warn_if_long
from decomcam_bench.engine.plan import Plan, make_plan
from decomcam_bench.metrics.bins import AccuracyBins, bin_table
from decomcam_bench.reports import figures
from decomcam_bench.stats.resampling import check_resampling
from decomcam_bench.store.reader import evaluated, metric_of, metric_records, metrics_of
from decomcam_bench.store.store import Store
from decomcam_bench.tables import layout
from decomcam_bench.tables.cells import directions
from decomcam_bench.tables.tables import load_table, render

#: Kinds of figures, and what each needs.
KINDS: Mapping[str, tuple[str, ...]] = {
    "bars": (),
    "lines": ("x", "label"),
    "scatter": ("x", "y"),
    "bins": (),
    "floors": ("x", "label"),
}


@dataclass(frozen=True)
class Experiment:
    """One YAML of ``configs/experiment``.

    Attributes:
        datasets: that it is about, in the order in which they are run.
        overrides: of the run.
        toybox: in their place when the data set is toybox.
        columns: numbers of the table, those that the run has.
        figure: ``kind``, and what that kind needs.
        published: values of papers: ``dataset``, ``model``, ``method``, ``column``, ``value``, ``citation``.
    """

    name: str
    description: str
    datasets: tuple[str, ...]
    overrides: tuple[str, ...]
    toybox: tuple[str, ...]
    columns: tuple[str, ...]
    figure: Mapping[str, Any]
    published: tuple[Mapping[str, Any], ...] = ()


@dataclass
class Outcome:
    """What came out of an experiment.

    Attributes:
        table: one row a cell, with intervals and the column ``published``.
        files: table and figure, as written.
        skipped: data sets that are not there, and why.
        computed_images: evaluated now; 0 when the store had everything.
    """

    table: pd.DataFrame
    files: list[Path] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    computed_images: int = 0


def read_experiment(name: str) -> Experiment:
    """Return an experiment by its name, or from a YAML of one's own.

    Args:
        name: a choice of ``configs/experiment`` or of an included folder, or a file that ends in ``.yaml``.

    Raises:
        ConfigError: for a name or a file that does not exist, or content that is no experiment.
    """
    if name.endswith((".yaml", ".yml")):
        content = sources.read_yaml(name)
        content.setdefault("name", Path(name).stem)
    else:
        content = registry.read("experiment", name)
    unknown_keys = [key for key in content if key not in Experiment.__dataclass_fields__]
    if unknown_keys:
        raise ConfigError(f"experiment {name}: " + unknown("key", unknown_keys[0], Experiment.__dataclass_fields__))
    figure = content.get("figure") or {"kind": "bars"}
    if not isinstance(figure, Mapping) or figure.get("kind") not in KINDS:
        raise ConfigError(f"experiment {name}: figure needs a kind; valid: {', '.join(KINDS)}")
    missing = [key for key in KINDS[figure["kind"]] if key not in figure]
    if missing:
        raise ConfigError(f"experiment {name}: a figure of kind {figure['kind']} needs {', '.join(missing)}")
    for key in ("datasets", "overrides", "toybox", "columns", "published"):
        if not isinstance(content.get(key) or [], list):
            raise ConfigError(f"experiment {name}: {key} has to be a list")
    for value in content.get("published") or []:
        if not value.get("citation"):
            raise ConfigError(f"experiment {name}: a published value needs a citation")
    lists = {key: tuple(content.get(key) or ()) for key in ("datasets", "overrides", "columns", "published")}
    toybox = tuple(content.get("toybox") or lists["overrides"])
    return Experiment(str(content["name"]), str(content.get("description", "")), figure=figure, toybox=toybox, **lists)


def reproduce(
    name: str,
    *overrides: str,
    results: str | Path | None = None,
    require_all: bool = False,
    out: str | Path | None = None,
    resamples: int = 2_000,
) -> Outcome:
    """Run an experiment on the data sets that are present and write its table and figure.

    Args:
        name: of the experiment.
        overrides: on top of the experiment's own; ``dataset=A,B`` chooses data sets.
        results: root of the store; ``results`` by default.
        require_all: raise when a data set is missing.
        out: folder of table and figure; ``RESULTS/experiments/NAME`` by default.
        resamples: of the intervals.

    Raises:
        DataError: when no data set is present, or one is missing and ``require_all`` is set.

    >>> import tempfile
    >>> words = "dataset=toybox", "method=center", "metric=energy", "limit=4", "workers=0"
    >>> outcome = reproduce("localization", *words, results=tempfile.mkdtemp())
    >>> sorted(path.name for path in outcome.files)
    ['figure.png', 'figure.svg', 'table.csv', 'table.html', 'table.md', 'table.tex']
    """
    overrides = with_results(overrides, results)
    experiment = read_experiment(name)
    check_resampling(resamples)
    skipped: dict[str, str] = {}
    keys: list[str] = []
    computed = 0
    for plan in _plans(experiment, overrides, require_all, skipped):
        warn_if_long(plan)
        result = execute(plan)
        keys += result.keys
        computed += result.computed_images
    results = load_config([word for word in overrides if word.startswith("results=")]).keys.results
    table = _table(experiment, results, keys, resamples)
    outcome = Outcome(table, skipped=skipped, computed_images=computed)
    folder = Path(out) if out else Path(results) / "experiments" / experiment.name
    outcome.files = _write(experiment, results, keys, table, folder)
    return outcome


def dry_run_experiment(
    name: str, *overrides: str, results: str | Path | None = None, require_all: bool = False
) -> tuple[dict[str, Estimate], dict[str, str]]:
    """Return what each data set of an experiment would take, and why others are skipped; nothing is computed.

    Raises:
        DataError: as :func:`reproduce`.
    """
    skipped: dict[str, str] = {}
    plans = _plans(read_experiment(name), with_results(overrides, results), require_all, skipped)
    return {plan.groups[0].dataset.name: estimate(plan) for plan in plans if plan.groups}, skipped


def _plans(
    experiment: Experiment, overrides: Sequence[str], require_all: bool, skipped: dict[str, str]
) -> Iterator[Plan]:
    """Yield the plan of each data set that is present; those that are missing are added to ``skipped``.

    Raises:
        DataError: when no data set is present, or one is missing and ``require_all`` is set.
    """
    chosen, rest = _datasets(experiment, overrides)
    if require_all:
        for dataset in chosen:
            for setting in load_config([f"dataset={dataset}", *(w for w in rest if w.startswith("dataset."))]).settings:
                registry.build("dataset", setting.dataset)
    for dataset in chosen:
        own = experiment.toybox if dataset == "toybox" else experiment.overrides
        try:
            plan = make_plan(load_config([*own, f"dataset={dataset}", *rest]))
        except DataError as error:
            if require_all:
                raise
            skipped[dataset] = str(error).removeprefix(f"{dataset}: ")
            continue
        yield plan
    if len(skipped) == len(chosen):
        raise DataError(
            f"{experiment.name}: none of its data sets is present ({', '.join(chosen)}); `decomcam-bench doctor` says "
            f"where they are looked for, `decomcam-bench reproduce {experiment.name} dataset=toybox` needs none"
        )


def _datasets(experiment: Experiment, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    named = [word for word in overrides if word.startswith("dataset=")]
    rest = [word for word in overrides if not word.startswith("dataset=")]
    names = named[-1].partition("=")[2].split(",") if named else list(experiment.datasets)
    if not names:
        raise ConfigError(f"experiment {experiment.name}: names no data set; add datasets: [toybox], or dataset=NAME")
    return list(dict.fromkeys(names)), rest


def _table(experiment: Experiment, results: str, keys: Sequence[str], resamples: int) -> pd.DataFrame:
    table = load_table(results, keys, details=True, intervals=True, resamples=resamples, note=log.warning)
    wanted = chosen_numbers(table, experiment.columns)
    if wanted:
        kept = [name for number in wanted for name in (number, f"{number}_low", f"{number}_high") if name in table]
    else:
        plain = load_table(results, keys, note=log.warning)
        kept = [name for own in layout.numbers(plain) for name in (own, f"{own}_low", f"{own}_high")]
    table = table[["dataset", "model", "layer", "method", "rank", *kept, "n_expected", "n_failed", "key"]].copy()
    table.insert(len(table.columns) - 3, "published", [_published(experiment, row) for row in table.to_dict("records")])
    return table


def chosen_numbers(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The numbers of a table that have one of the names, with or without ``[options]``."""
    own = layout.numbers(table)
    return [label for name in names for label in own if layout.bare(label) == name]


def _published(experiment: Experiment, row: Mapping[str, Any]) -> str:
    found = [
        f"{value['column']} {value['value']} ({value['citation']})"
        for value in experiment.published
        if all(str(row[name]).partition("[")[0] == value[name] for name in ("dataset", "model", "method"))
    ]
    return "; ".join(found)


def _write(experiment: Experiment, results: str, keys: Sequence[str], table: pd.DataFrame, folder: Path) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for form, suffix in (("md", "md"), ("csv", "csv"), ("latex", "tex"), ("html", "html")):
            path = folder / f"table.{suffix}"
            path.write_text(render(table, form, results), encoding="utf-8")
            files.append(path)
        figure = draw(experiment, results, keys, table)
        if figure is not None:
            files += figures.save(figure, folder / "figure")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from error
    return files


def with_labels(table: pd.DataFrame, identities: Mapping[str, Mapping[str, Any]], x: str = "") -> pd.DataFrame:
    """Adds what figures need: ``label`` (what tells the rows of a data set apart), and ``x`` from
    the identity, e.g. ``method.channels``."""
    table = table.copy()
    varying = [name for name in ("layer", "rank") if x != name and _varies(table, name)]
    names = table["method"].astype(str).str.partition("[")[0] if "." in x else table["method"].astype(str)
    table["label"] = [
        " ".join(
            [
                name,
                *(f"{v} {row[v]}" if v == "rank" else str(row[v]) for v in varying if row[v] and not pd.isna(row[v])),
            ]
        )
        for name, row in zip(names, table.to_dict("records"), strict=True)
    ]
    if "." in x:
        group, option = x.split(".")
        table[x] = [_option(identities[key], group, option) for key in table["key"]]
    return table


def _option(identity: Mapping[str, Any], group: str, option: str) -> Any:
    """Return an option of a choice from the identity of a cell, as any schema writes it."""
    choice = identity[group]
    return choice.get("options", choice).get(option)


def _varies(table: pd.DataFrame, name: str) -> bool:
    """Whether a label tells cells of the same method and data set apart."""
    groups = table.groupby(["dataset", "model", "method"], dropna=False)[name]
    return bool((groups.nunique(dropna=False) > 1).any())


def draw(experiment: Experiment, results: str, keys: Sequence[str], table: pd.DataFrame) -> Any:
    """The experiment's figure, or None when the run has none of its numbers."""
    store = Store(results)
    cells = {key: cell for key in keys if (cell := store.cell(key))}
    spec, better = experiment.figure, directions(results)
    x = str(spec.get("x", "")) if isinstance(spec.get("x"), str) else ""
    data = with_labels(table, {key: cell.identity for key, cell in cells.items()}, x)
    data["series"] = _series(data)
    numbers = layout.numbers(table.drop(columns=["published", "n_expected", "n_failed", "key"]))
    if spec["kind"] == "bars":
        data["place"] = [", ".join(str(row[n]) for n in ("dataset", "model")) for row in data.to_dict("records")]
        return figures.bars(data, numbers, better, "place")
    if spec["kind"] == "lines":
        along = data[x].notna() & (data[x].astype(str) != "")
        blind = data[~along & data["method"].isin(registry.controls("blind"))]
        shown = figures.lines(data[along], x, numbers, better, str(spec["label"]), "series", blind)
        return shown if along.any() else None
    if spec["kind"] == "scatter":
        data["label"] = data["series"]
        return figures.scatter(data, chosen_numbers(table, spec["x"]), chosen_numbers(table, spec["y"]), better)
    if spec["kind"] == "floors":
        many = _several(data, ("method", "dataset", "model"))
        data["setting"] = [" ".join([*(str(r[n]) for n in many), str(r[x])]) for r in data.to_dict("records")]
        return figures.floors(data, numbers, "setting", str(spec["label"]))
    return _bins_figure(data, cells)


def _series(data: pd.DataFrame) -> list[str]:
    """A label for each row that tells it from those of other data sets and models.

    Of models that differ in their options alone, as the untrained twin does, only these are named.
    """
    many = _several(data, ("dataset", "model"))
    alike = data["model"].map(layout.bare).nunique() == 1
    labels = []
    for row in data.to_dict("records"):
        names = [str(row[name]) for name in many]
        if alike and "model" in many:
            names[-1] = names[-1].removeprefix(layout.bare(names[-1]))
        labels.append(" ".join(filter(None, [str(row["label"]), *names])))
    return labels


def _several(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    return [name for name in names if table[name].nunique() > 1]


def _bins_figure(data: pd.DataFrame, cells: Mapping[str, Any]) -> Any:
    tables = {}
    for key, label in zip(data["key"], data["series"], strict=True):
        for metric_key, content in metrics_of(cells[key]).items():
            metric = metric_of(content)
            if isinstance(metric, AccuracyBins):
                records = evaluated(metric_records(cells[key], metric_key), metric)
                if len(records):
                    tables[label] = bin_table(records)
    return figures.bins(tables) if tables else None
