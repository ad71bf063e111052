"""The pages under docs/ say what the code does: examples run, tables are complete, files and links exist."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from decomcam_bench.core.reasons import Reason
from decomcam_bench.store.schema import CellInfo, ColumnInfo, MetricInfo, RunInfo
from decomcam_bench.store.store import RECORDS, Store
from decomcam_bench.tables.tables import load_table
from tests.store.stores import pairs, write_cell

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
STORE_PAGE = (ROOT / "docs" / "store-format.md").read_text(encoding="utf-8")
IMAGES = 40


def example(page: str, name: str) -> str:
    """Return the code block after a mark."""
    found = re.search(rf"<!-- example:{name} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert found, f"no example {name}"
    return found[1]


def section(page: str, heading: str) -> str:
    """Return what stands under a heading."""
    _, found, rest = page.partition(f"{heading}\n")
    assert found, f"no heading {heading}"
    return re.split(r"\n#{2,3} ", rest)[0]


def first_words(text: str) -> set[str]:
    """Return the words in backticks in the first cell of each row of a table."""
    return {word for row in re.findall(r"^\| (`[^|]*?) \|", text, re.MULTILINE) for word in re.findall(r"`(\w+)`", row)}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A store of one cell, in which the method failed on one pair, which is a miss, and another is skipped."""
    values = pairs(IMAGES, energy=np.linspace(0.2, 1, IMAGES))
    values.loc[3, ["status", "reason", "energy"]] = ["failed", "zero_map", 0.0]
    values.loc[5, ["status", "reason", "energy"]] = ["skipped", "no_mask", np.nan]
    write_cell(tmp_path / "results", "good", {"energy": values})
    return tmp_path / "results"


def test_pandas_alone_reads_the_number_that_the_table_prints(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(results.parent)
    lines = example(STORE_PAGE, "store-pandas")
    assert len([line for line in lines.splitlines() if not line.startswith("import")]) <= 3
    exec(lines, names := {})
    printed = capsys.readouterr().out
    assert len(names["records"]) == IMAGES
    assert "zero_map" in printed
    shown = float(printed.split()[-1])
    assert shown == pytest.approx(float(load_table(results)["energy"].iloc[0]))


def test_the_store_page_lists_every_reason_code() -> None:
    assert first_words(section(STORE_PAGE, "## Reason codes")) == {reason.value for reason in Reason}


@pytest.mark.parametrize(
    ("heading", "kind", "private"),
    [
        ("### `cell.json`: `CellInfo`", CellInfo, {"schema"}),
        ("### `runs/*.json`: `RunInfo`", RunInfo, set()),
    ],
)
def test_the_store_page_lists_every_field(heading: str, kind: type, private: set[str]) -> None:
    written = {field.name for field in fields(kind)} - private
    assert first_words(section(STORE_PAGE, heading)) == written | ({"key"} if kind is CellInfo else set())


def test_the_store_page_lists_every_field_of_a_metric_and_its_columns() -> None:
    metric, _, column = section(STORE_PAGE, "### `metric.json`: `MetricInfo`").partition("`ColumnInfo`:")
    assert first_words(metric) == {field.name for field in fields(MetricInfo)} - {"earlier"}
    assert first_words(column) == {field.name for field in fields(ColumnInfo)}


def test_files_hold_the_columns_and_keys_that_the_store_page_lists(results: Path) -> None:
    (cell,) = Store(results).cells()
    (key,) = cell.metrics()
    own = first_words(section(STORE_PAGE, "## Parquet columns"))
    schema = pq.read_schema(cell.shard(RECORDS, 0))
    assert set(schema.names) == own - first_words(_after(section(STORE_PAGE, "## Parquet columns"), "| metric `id`"))
    for stream in (RECORDS, key):
        said = json.loads(pq.read_schema(cell.shard(stream, 0)).metadata[b"decomcam_bench"])
        assert set(said) == first_words(section(STORE_PAGE, "### Metadata of a shard"))
    for file in (cell.folder / "cell.json", cell.stream(key) / "metric.json"):
        heading = "### `cell.json`: `CellInfo`" if file.name == "cell.json" else "### `metric.json`: `MetricInfo`"
        content = json.loads(file.read_text())
        assert set(content) - {"schema", "digest"} <= first_words(section(STORE_PAGE, heading))


def _after(text: str, word: str) -> str:
    return text[text.index(word) :]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    anchors = {re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
               for line in text.splitlines() if line.startswith("#")}  # fmt: skip
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in anchors, anchor


def test_every_file_that_the_architecture_page_names_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/.]+\.(?:py|yaml|toml|md|json))`", page))
    assert len(named) > 30
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "decomcam_bench" / name).exists() or "cell.json" in name, name


def test_the_architecture_page_has_the_layers_that_the_linter_keeps() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    contract = re.search(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    assert contract
    layers = [re.findall(r"decomcam_bench\.(\w+)", line) for line in contract[1].splitlines()]
    rows = re.findall(r"^\| (`[^|]+`) \|", section(page, "## Layers"), re.MULTILINE)
    assert [sorted(re.findall(r"`(\w+)`", row)) for row in rows] == [sorted(layer) for layer in layers]
