"""Stores of each schema stay readable: their tables come out as the code of their time printed them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from decomcam_bench.cli import main
from decomcam_bench.store.maps import read_maps
from decomcam_bench.store.store import MAPS, RECORDS, Store
from decomcam_bench.tables.tables import load_table

STORES = Path(__file__).resolve().parents[1] / "data" / "stores"


@pytest.fixture(params=[folder.name for folder in sorted(STORES.glob("schema*")) if folder.is_dir()])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORES / request.param, tmp_path / request.param))


def test_the_table_of_a_schema_comes_out_as_it_was(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = pd.read_csv(STORES / f"{store.name}.csv").set_index("key")
    assert main(["table", "--results", str(store), "--format", "csv"]) == 0
    notes = capsys.readouterr().err
    found = load_table(store, note=lambda _: None).set_index("key")
    assert list(found.index) == list(expected.index)
    for column in expected:
        metrics = ["parts"] if column.startswith("parts_") else [column, column.rpartition("_")[0]]
        if any(f"{metric}: made by" in notes for metric in filter(None, metrics)):
            assert found[column].isna().all()  # another version's values: left empty, and the notes say so
        elif not pd.api.types.is_numeric_dtype(expected[column]):
            assert list(found[column].astype(object).fillna("")) == list(expected[column].astype(object).fillna(""))
        else:
            values = found[column].astype(float).to_numpy()
            assert values == pytest.approx(expected[column].astype(float).to_numpy(), abs=1e-12, nan_ok=True)


def test_records_and_maps_of_a_schema_are_read(store: Path) -> None:
    for cell in Store(store).cells():
        records = cell.read(RECORDS)
        assert {"position", "class_name", "status", "reason", "detail"} <= set(records.columns)
        assert cell.complete()
        for shard in cell.sealed(MAPS):
            saved = read_maps(cell, shard)
            assert saved.at_input([0]).shape == (1, *saved.size)


def test_what_schema_1_left_unsaid_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = shutil.copytree(STORES / "schema1", tmp_path / "store")
    assert main(["table", "--results", str(store)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "energy: from a store of schema 1, made with via=input, failure=drop" in lines
    assert any(line.startswith("parts: made by parts 1, this is") for line in lines)
