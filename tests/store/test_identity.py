"""Identity without code layout: what a store vouches for after code was moved, edited or raised to a new version."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import decomcam_bench as bench
from decomcam_bench.cli import main
from decomcam_bench.config import registry
from decomcam_bench.core.fingerprint import ROOT, normalised, source_digest
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES
from decomcam_bench.metrics.energy import Energy
from decomcam_bench.store.reader import outdated
from decomcam_bench.store.schema import MetricInfo
from decomcam_bench.store.store import Cell, Shard, Store, seal, write_json
from decomcam_bench.tables.tables import load_table
from tests.datasets.layouts import scenes, write_voc
from tests.store.stores import pairs, write_cell

IMAGES = 20
FAST = ("limit=3", "workers=0", "device=cpu", "metric=energy")


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    energy = pairs(IMAGES, energy=np.linspace(0, 1, IMAGES))
    return write_cell(
        tmp_path / "store", "good", {"energy": energy, "pointing": pairs(IMAGES, hit=1.0, difficult=False)}
    )


def redescribe(cell: Cell, name: str, change: Callable[[MetricInfo], MetricInfo]) -> None:
    """Describes the values of a metric as another definition's."""
    key, info = next((key, info) for key, info in cell.metrics().items() if info.name == name)
    new = change(info)
    if new.key == key:
        (cell.stream(key) / "metric.json").unlink()
    Store(cell.folder.parents[1]).describe_metric(cell, new)
    if new.key == key:
        return
    seal([Shard(cell, new.key, number, cell.read_shard(key, number)) for number in range(cell.shards)])
    shutil.rmtree(cell.stream(key))


def table_of(cell: Cell, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, str], list[str]]:
    """The row and the notes that the command line prints."""
    capsys.readouterr()
    assert main(["table", "--results", str(cell.folder.parents[1]), "--format", "csv"]) == 0
    printed = capsys.readouterr()
    head, row = printed.out.splitlines()
    return dict(zip(head.split(","), row.split(","), strict=True)), printed.err.splitlines()


@pytest.mark.parametrize("group", ["dataset", "model", "method", "metric"])
def test_every_choice_has_an_id_of_its_own(group: str) -> None:
    found: dict[str, type] = {}
    for name in registry.shipped(group):
        path = str(registry.read(group, name)["impl"])
        if ":" in path:
            made = registry.implementation(group, path)
            assert made.__dict__.get("id"), f"{path} declares no id"
            assert found.setdefault(made.__dict__["id"], made) is made


def test_a_raised_version_leaves_its_place_empty_and_the_rest_stands(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Energy, "version", Energy.version + 1)
    row, notes = table_of(cell, capsys)
    assert row["energy"] == ""
    assert float(row["pointing"]) == 1
    assert notes == [f"energy: made by energy {Energy.version - 1}, this is {Energy.version}: run again"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda i: dataclasses.replace(i, options={**i.options, "tolerance_px": 3}), "the option tolerance_px, which"),
        (lambda i: dataclasses.replace(i, options={**i.options, "objects": "some"}), "options that this one refuses"),
        (lambda i: dataclasses.replace(i, columns=(dataclasses.replace(i.columns[0], name="mass"),)), "other columns"),
        (lambda i: dataclasses.replace(i, id="gone"), "made by gone 2, which is not installed here"),
    ],
)
def test_what_the_installed_code_does_not_know_is_left_empty(
    cell: Cell, change: Callable[[MetricInfo], MetricInfo], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    redescribe(cell, "energy", change)
    row, notes = table_of(cell, capsys)
    assert float(row["pointing"]) == 1
    assert not any(value == "0.5" for value in row.values())
    (line,) = notes
    assert says in line
    assert line.endswith("run again")
    assert main(["report", "--results", str(cell.folder.parents[1]), "--out", str(cell.folder / "r.html")]) == 0
    assert main(["results", "show", cell.key, "--results", str(cell.folder.parents[1])]) == 0
    assert says in capsys.readouterr().out


def test_a_value_that_was_renamed_is_left_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = write_cell(tmp_path, "good", {"energy": pairs(IMAGES, mass=0.5), "pointing": pairs(IMAGES, hit=1.0)})
    row, notes = table_of(cell, capsys)
    assert (row["energy"], row["pointing"]) == ("", "")
    assert "energy: made by energy 2 without the value energy, which this reads: run again" in notes


EVIL = "import pathlib\npathlib.Path({mark!r}).write_text('imported')\nclass Evil: pass\n"


def test_reading_a_store_imports_nothing_that_it_names(cell: Cell, tmp_path: Path) -> None:
    mark, folder = tmp_path / "mark", cell.folder.parents[1]
    (tmp_path / "evil.py").write_text(EVIL.format(mark=str(mark)))
    redescribe(
        cell, "energy", lambda info: dataclasses.replace(info, id="evil:Evil", name="evil:Evil", source="0" * 16)
    )
    # And in the words of schema 1, where a metric was named by its import path.
    old = tmp_path / "store" / "cells" / cell.key / "metrics"
    earlier = {"impl": "evil:Evil", "version": 1}
    content = {"schema": 1, "identity": earlier, "name": "evil", "config": {"name": "evil", "impl": "evil:Evil"}}
    columns = [{"name": "evil", "label": "evil", "direction": "higher"}]
    info = MetricInfo.from_json({**content, "columns": columns})
    write_json(old / info.key / "metric.json", {**content, "columns": columns, "position": 0})
    described = json.loads((cell.folder / "cell.json").read_text())
    del described["digest"]
    described["overrides"] = ["method=evil:Evil", "method.impl=evil:Evil", "dataset=toybox", "limit=2"]
    write_json(cell.folder / "cell.json", described)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    for words in (["table"], ["report", "--out", str(tmp_path / "r.html")], ["results", "show", cell.key], ["check"]):
        more = ["--baseline", str(ROOT / "results/baselines/toybox.json")] if words == ["check"] else []
        command = [sys.executable, "-m", "decomcam_bench", *words, *more, "--results", str(folder)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert not mark.exists(), words


def test_comments_docstrings_and_places_do_not_count(tmp_path: Path) -> None:
    for name, comment in (("a", "# one"), ("b", "# two\n\n")):
        (tmp_path / name).mkdir()
        body = f'def f(x):\n    """Do {name}."""\n    return x + 1  {comment}\n'
        text = f'"""Docs {name}."""\nimport {name}{name}\n{comment}\n{body}'
        (tmp_path / name / "mod.py").write_text(text)
    assert source_digest(tmp_path / "a" / "mod.py", "mod") == source_digest(tmp_path / "b" / "mod.py", "mod")
    assert normalised(b"x = '# no comment'  # a comment\n") == b"x = '# no comment'"


HELPER = "POWER = {power}\n"
OWN = """
from dataclasses import dataclass
import helper
from decomcam_bench.methods.base import Cost, Explanation, MapMethod

@dataclass
class Mine(MapMethod):
    def map(self, evidence):
        return Explanation(evidence.activations.relu().sum(1) ** helper.POWER)
    def cost(self, rank, channels):
        return Cost()
"""
OWN_METRIC = """
from dataclasses import dataclass
from decomcam_bench.metrics.base import Column, MapMetric

@dataclass
class Share(MapMetric):
    @property
    def columns(self):
        return (Column("mine", value="mine"),)
    def evaluate(self, pair):
        return {{"mine": {value}}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_cam.py").write_text(OWN)
    (tmp_path / "helper.py").write_text(HELPER.format(power=1))
    (tmp_path / "own_metric.py").write_text(OWN_METRIC.format(value=0.1))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("own_cam", "helper", "own_metric"):
        sys.modules.pop(name, None)


def test_a_method_of_ones_own_is_identified_by_all_code_that_it_reaches(folder: Path) -> None:
    words = (*FAST, "method.impl=own_cam:Mine")
    first = bench.run(*words, results=folder / "store")
    (folder / "helper.py").write_text(HELPER.format(power=3) + "# louder\n")
    second = bench.run(*words, results=folder / "store")
    assert second.computed_images == 3
    assert first.keys != second.keys
    table = load_table(folder / "store")
    assert table["energy"].nunique() == 2
    assert table["method"].nunique() == 2
    assert table["method"].str.contains(r"Mine\[source=[0-9a-f]{6}\]").all()
    (folder / "helper.py").write_text("# a comment is no change\n" + HELPER.format(power=3))
    assert bench.run(*words, results=folder / "store").computed_images == 0


def test_of_an_edited_metric_the_values_of_the_installed_code_count(folder: Path) -> None:
    words = ("limit=3", "workers=0", "device=cpu", "method=center", "metric.impl=own_metric:Share")
    words = (*words[:-1], "metric=own_metric:Share")
    for value in (0.5, 0.1, 0.9, 0.3):
        (folder / "own_metric.py").write_text(OWN_METRIC.format(value=value))
        done = bench.run(*words, results=folder / "store")
        (shown,) = load_table(folder / "store", done.keys)["mine"]
        assert shown == pytest.approx(value)


def test_code_of_the_package_that_was_edited_is_told_and_computed_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from decomcam_bench.store import reader

    bench.run(*FAST, "method=center", results=tmp_path)
    (cell,) = Store(tmp_path).cells()
    assert outdated(cell) == []
    known = reader.choice_code
    monkeypatch.setattr(reader, "choice_code", lambda group, name: known(group, name) + "edited" * (group == "method"))
    (line,) = outdated(cell)
    assert line == f"cell {cell.key} (center): its maps were made by other code than is installed; run --fresh " + (
        "computes it again"
    )
    assert main(["table", "--results", str(tmp_path)]) == 0
    assert line in capsys.readouterr().err
    assert bench.run(*FAST, "method=center", results=tmp_path).computed_images == 0
    assert bench.run(*FAST, "method=center", results=tmp_path, fresh=True).computed_images == 3
    assert outdated(cell) == []


@pytest.mark.slow
def test_moving_modules_changes_no_table_and_computes_nothing(tmp_path: Path) -> None:
    for name in ("decomcam_bench", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "decomcam_bench", *words, "--results"[: 0 if words[0] == "run" else None]]
        line = [word for word in line if word] + ([] if words[0] == "run" else ["store"])
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)

    run = ("run", *FAST, "method=eigencam,layercam", "results=store")
    before = command(*run).stdout
    package = tmp_path / "decomcam_bench"
    (package / "methods" / "families").mkdir()
    (package / "methods" / "families" / "__init__.py").touch()
    shutil.move(package / "methods" / "spectral.py", package / "methods" / "families" / "eigen.py")
    shutil.move(package / "metrics" / "energy.py", package / "metrics" / "mass.py")
    for file in [*tmp_path.glob("configs/*/*.yaml"), *package.rglob("*.py")]:
        text = file.read_text().replace("decomcam_bench.methods.spectral", "decomcam_bench.methods.families.eigen")
        file.write_text(text.replace("decomcam_bench.metrics.energy", "decomcam_bench.metrics.mass"))
    after = command(*run)
    assert "nothing to compute" in after.stderr
    assert "other code" not in after.stderr
    assert after.stdout == before


def test_cells_are_removed_by_the_short_key(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--results", str(cell.folder.parents[1])]
    assert main(["results", "rm", "zzz", *root]) == 2
    assert main(["results", "rm", *root]) == 2
    assert main(["results", "rm", cell.key[:5], "--dry-run", *root]) == 0
    assert cell.folder.is_dir()
    assert main(["results", "rm", cell.key[:5], *root]) == 0
    assert f"removed cell {cell.key}" in capsys.readouterr().out
    assert not cell.folder.exists()


def test_pairs_whose_image_was_away_are_tried_again_when_it_is_back(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", scenes(3))
    classes = f"dataset.classes=[{','.join(CLASS_NAMES)}]"
    words = ("dataset=voc", "dataset.year=2012", "dataset.split=val", f"dataset.root={tmp_path / 'data'}", classes)
    words = (*words, "model=toyclip", "method=center", "metric=energy", "workers=0", "device=cpu")
    for file in (tmp_path / "data").rglob("*.xml"):  # the size is known without the image
        size = "<size><width>160</width><height>160</height></size>"
        text = file.read_text()
        file.write_text(text if "<size>" in text else text.replace("<filename>", f"{size}<filename>", 1))
    image = sorted((tmp_path / "data").rglob("*.jpg"))[0]
    away = image.rename(tmp_path / "away.jpg")
    first = bench.run(*words, results=tmp_path / "store")
    (row,) = load_table(tmp_path / "store", first.keys).to_dict("records")
    assert row["n_failed"] > 0
    (cell,) = Store(tmp_path / "store").cells()
    records = cell.read("records")
    assert set(records.loc[records["status"] == "failed", "reason"]) == {"missing_image"}
    assert not records["reason"].str.contains("/").any()
    assert bench.run(*words, results=tmp_path / "store").computed_images == 0
    assert bench.run(*words, results=tmp_path / "store", retry_failed=True).computed_images == 3
    away.rename(image)
    again = bench.run(*words, results=tmp_path / "store")
    assert (again.computed_images, again.keys) == (3, first.keys)
    (row,) = load_table(tmp_path / "store", again.keys).to_dict("records")
    assert row["n_failed"] == 0
    assert bench.run(*words, results=tmp_path / "store").computed_images == 0


def test_a_table_says_how_much_of_a_benchmark_it_stands_on(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", scenes(3))
    words = ("dataset=voc", "dataset.year=2012", "dataset.split=val", f"dataset.root={tmp_path / 'data'}")
    words = (*words, "model=toyclip", "method=center", "metric=energy", "workers=0", "device=cpu")
    bench.run(*words, results=tmp_path / "store")
    (label,) = load_table(tmp_path / "store")["dataset"]
    assert label == "voc[images=3/5823,split=val,year=2012]"
