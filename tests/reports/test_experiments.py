"""Experiments: every YAML is sound, one runs to its table and figure, missing data are named."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from decomcam_bench.cli import main
from decomcam_bench.config import registry
from decomcam_bench.config.settings import load_config
from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.reports import experiments
from decomcam_bench.reports.experiments import KINDS, read_experiment, reproduce

NAMES = {
    "localization", "faithfulness", "accuracy_bins", "efficiency",
    "ablation_rank", "ablation_channels", "ablation_layer", "ossm_parts",
}  # fmt: skip


def test_all_experiments_are_there() -> None:
    assert set(registry.names("experiment")) >= NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_experiment_composes_and_shows_numbers_that_its_metrics_have(name: str) -> None:
    experiment = read_experiment(name)
    assert experiment.name == name
    assert experiment.figure["kind"] in KINDS
    assert set(experiment.datasets) <= set(registry.names("dataset"))
    assert experiment.published == ()
    config = load_config([*experiment.toybox, "dataset=toybox"])
    columns = {c.name for choice in config.metrics[0] for c in registry.build("metric", choice.config).columns}
    real = next(o for o in experiment.overrides if o.startswith("metric=")).partition("=")[2].split(",")
    columns |= {c.name for metric in real for c in registry.build("metric", registry.read("metric", metric)).columns}
    assert set(experiment.columns) <= columns
    for metric in real:
        assert metric in registry.names("metric")


@pytest.mark.parametrize("name", registry.names("experiment"))
def test_localisation_is_never_shown_without_its_controls(name: str) -> None:
    experiment = read_experiment(name)
    for overrides in (experiment.overrides, experiment.toybox):
        (metrics,) = (word.partition("=")[2].split(",") for word in overrides if word.startswith("metric="))
        if any(metric.startswith(("pointing", "energy")) for metric in metrics):
            assert "controls=true" in overrides


def test_reproduce_ends_with_table_and_figure_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "ablation_rank", "dataset=toybox", "rank=1,3", "limit=4", "workers=0", f"results={tmp_path}"]
    assert main([*words, "--resamples", "50"]) == 0
    table = capsys.readouterr().out
    assert "published" in table
    folder = tmp_path / "experiments" / "ablation_rank"
    read = pd.read_csv(folder / "table.csv")
    assert list(read.loc[(read["method"] == "decomcam") & (read["model"] == "toyclip"), "rank"]) == [1, 3]
    assert {"random", "center", "oracle"} <= set(read["method"])
    assert list(read.loc[read["model"] == "toyclip[weights=untrained]", "rank"]) == [1, 3]
    assert read["published"].isna().all()
    assert {"energy", "energy_low", "pointing_exact"} <= set(read.columns)
    assert Image.open(folder / "figure.png").size[0] > 500
    assert (folder / "figure.svg").read_text().startswith("<?xml")
    assert main([*words, "--resamples", "50", "--out", str(tmp_path / "out")]) == 0
    assert "nothing to compute" in capsys.readouterr().err
    assert (tmp_path / "out" / "table.csv").read_text() == (folder / "table.csv").read_text()


def test_missing_data_sets_are_named_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DECOMCAM_BENCH_DATA", str(tmp_path / "no"))
    words = ["ablation_rank", "dataset=toybox,voc", "method=center", "limit=2", "workers=0", f"results={tmp_path}"]
    assert main(["reproduce", *words, "--resamples", "20"]) == 0
    assert "skipped voc: " in capsys.readouterr().err
    assert main(["reproduce", *words, "--require-all"]) == 2
    with pytest.raises(DataError, match="dataset=toybox"):
        reproduce("localization", f"results={tmp_path}")


def test_what_is_wrong_is_said_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DECOMCAM_BENCH_DATA", str(tmp_path / "no"))
    words = ["reproduce", "ablation_rank", "method=center", "limit=2", "workers=0", f"results={tmp_path / 's'}"]
    for wrong, says in (
        (["dataset=toybox,voc", "--require-all"], "voc"),
        (["dataset=toybox", "--resamples", "0"], "resamples=0"),
    ):
        assert main([*words, *wrong]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
        assert not (tmp_path / "s" / "cells").exists()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'localization'"):
        reproduce("localisation")


def test_published_values_need_a_citation_and_stand_in_their_row(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"dataset": "d", "model": "m", "method": "a", "column": "energy", "value": 0.5}
    content = {"name": "x", "description": "", "figure": {"kind": "bars"}, "published": [value]}
    monkeypatch.setattr(registry, "read", lambda group, name: content)
    with pytest.raises(ConfigError, match="needs a citation"):
        read_experiment("x")
    value["citation"] = "Doe 2024, table 1"
    found = read_experiment("x")
    row = {"dataset": "d[limit=3]", "model": "m", "method": "a"}
    assert experiments._published(found, row) == "energy 0.5 (Doe 2024, table 1)"
    assert experiments._published(found, {**row, "method": "b"}) == ""
