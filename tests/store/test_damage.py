"""Stores broken in every way a user would: a clear line or a recomputation, never a wrong table."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from decomcam_bench.cli import main
from decomcam_bench.config.settings import load_config
from decomcam_bench.core.errors import StoreError
from decomcam_bench.engine.engine import run
from decomcam_bench.store.reader import metrics_of
from decomcam_bench.store.store import RECORDS, Cell, Shard, Store, seal, write_json
from decomcam_bench.tables.cells import unfinished
from decomcam_bench.tables.tables import load_records, load_table
from decomcam_bench.tables.upkeep import _compare_cells, collect_garbage, describe_cell, export, find_cell
from tests.store.stores import pairs, write_cell

IMAGES = 40


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return write_cell(tmp_path, "good", {"energy": pairs(IMAGES, energy=np.linspace(0, 1, IMAGES))})


def add_metric(cell: Cell, **change: Any) -> str:
    """Copies the values of the cell's first metric under a changed description; returns its key."""
    (old, info), *_ = cell.metrics().items()
    new = dataclasses.replace(info, **change)
    shutil.copytree(cell.stream(old), cell.stream(new.key))
    (cell.stream(new.key) / "metric.json").unlink()
    for number in range(cell.shards):
        seal([Shard(cell, new.key, number, cell.read_shard(old, number))])
    Store(cell.folder.parents[1]).describe_metric(cell, new)
    return new.key


def test_of_two_versions_of_a_metric_the_installed_one_counts(cell: Cell) -> None:
    (old,) = cell.metrics()
    new = add_metric(cell, version=cell.metrics()[old].version + 1)
    assert set(cell.metrics()) == {old, new}
    assert list(metrics_of(cell)) == [old]
    # Another option is another metric.
    other = add_metric(cell, options={**cell.metrics()[old].options, "region": "mask"})
    assert set(metrics_of(cell)) == {old, other}


def metric_part(cell: Cell, number: int = 1) -> Path:
    return cell.shard(next(iter(cell.metrics())), number)


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("which", ["records", "metric"])
def test_a_deleted_part_is_no_number_but_unfinished(cell: Cell, tmp_path: Path, which: str) -> None:
    (cell.shard(RECORDS, 1) if which == "records" else metric_part(cell)).unlink()
    table = load_table(tmp_path)
    if which == "metric":
        assert table["energy"].isna().all()
    else:
        assert table["n_expected"].tolist() == [24]
        # 0.5 over 40 pairs beside a count of 24 would be two truths in one row.
        assert table["energy"].isna().all()
    assert "2 of 3 shards" in unfinished(tmp_path)[0]


def test_a_truncated_part_is_refused_by_name(cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cell.shard(RECORDS, 1)
    path.write_bytes(path.read_bytes()[:-20])
    assert str(path) in error_of(["table", "--results", str(tmp_path)], capsys)
    assert cell.sealed(RECORDS) == {0, 2}


def test_flipped_bytes_never_make_another_number(cell: Cell, tmp_path: Path) -> None:
    path, whole = metric_part(cell), metric_part(cell).read_bytes()
    for position in range(4, len(whole), len(whole) // 12):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            number = load_table(tmp_path)["energy"].iloc[0]
        except StoreError:
            continue
        # A footer that cannot be read makes the part absent; elsewhere nothing was stored.
        assert np.isnan(number) or number == pytest.approx(0.5), position


def test_a_part_of_another_cell_is_refused(cell: Cell, tmp_path: Path) -> None:
    other = write_cell(tmp_path, "other", {"energy": pairs(IMAGES, energy=0.9)})
    metric_part(cell).write_bytes(metric_part(other).read_bytes())
    with pytest.raises(StoreError, match="belongs to another cell"):
        load_table(tmp_path)
    assert cell.sealed(next(iter(cell.metrics()))) == {0, 2}


def make_newer(path: Path) -> None:
    """A part as a later version would write it."""
    table = pq.read_table(path)
    said = {**json.loads(table.schema.metadata[b"decomcam_bench"]), "schema": 99}
    newer = {**table.schema.metadata, b"decomcam_bench": json.dumps(said).encode()}
    pq.write_table(table.replace_schema_metadata(newer), path)


def test_a_part_of_a_newer_version_is_refused_and_never_replaced(tmp_path: Path) -> None:
    words = ["method=center", "metric=energy", "limit=20", "workers=0", "device=cpu", f"results={tmp_path}"]
    run(load_config(words))
    (cell,) = Store(tmp_path).cells()
    path = metric_part(cell, 0)
    make_newer(path)
    before = path.read_bytes()
    for act in (lambda: load_table(tmp_path), lambda: run(load_config(words))):
        with pytest.raises(StoreError, match="pip install -U decomcam-bench"):
            act()
    (line,) = collect_garbage(tmp_path)
    assert line.startswith(f"kept {cell.key}: {path}: written by a newer")
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["empty", "newer"])
def test_gc_goes_on_behind_a_description_that_cannot_be_read(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [write_cell(tmp_path, name, {"energy": pairs(IMAGES, energy=0.5)}) for name in ("a", "b", "c")]
    for cell in cells:
        (cell.folder / ".x.tmp").write_bytes(b"x")
    bad = sorted(cells, key=lambda cell: cell.key)[1]
    (file,) = bad.folder.rglob("metric.json")
    file.write_text("" if damage == "empty" else json.dumps({**json.loads(file.read_text()), "schema": 99}))
    assert main(["results", "gc", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["removed", "kept", "removed"]
    assert str(file) in lines[1]


def test_newer_files_are_refused_with_the_remedy(
    cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = cell.folder / "cell.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))
    assert "pip install -U decomcam-bench" in error_of(["table", "--results", str(tmp_path)], capsys)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "{}", '{"schema": 1}', '{"schema": "1"}'])
def test_a_damaged_description_is_refused(
    cell: Cell, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell.folder / "cell.json").write_text(text)
    assert "cell.json" in error_of(["table", "--results", str(tmp_path)], capsys)


@pytest.mark.parametrize("name", ["cell.json", "metric.json"])
def test_an_edited_description_is_refused(cell: Cell, tmp_path: Path, name: str) -> None:
    (file,) = cell.folder.rglob(name)
    edits = {"cell.json": ('"method": "good"', '"method": "best"'), "metric.json": ('"higher"', '"lower"')}
    assert edits[name][0] in file.read_text()
    file.write_text(file.read_text().replace(*edits[name]))
    with pytest.raises(StoreError, match="was changed after it was written; delete the file"):
        load_table(tmp_path)


def rewrite(file: Path, **change: object) -> None:
    """Changes a description and signs it anew, as nobody does by chance."""
    content = {**json.loads(file.read_text()), **change}
    del content["digest"]
    write_json(file, content)


def test_a_description_without_its_digest_is_refused(cell: Cell, tmp_path: Path) -> None:
    file = cell.folder / "cell.json"
    content = {**json.loads(file.read_text()), "images": 20}
    del content["digest"]
    file.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"cell.json: has no digest.*; delete the file and run"):
        load_table(tmp_path)


def test_fewer_images_than_there_are_parts_of_are_refused(cell: Cell, tmp_path: Path) -> None:
    rewrite(cell.folder / "cell.json", images=20)
    with pytest.raises(StoreError, match=r"shard-00002.parquet: a cell of 20 images has 2 shards"):
        load_table(tmp_path)


def test_a_part_behind_the_last_is_refused_and_collected(cell: Cell, tmp_path: Path) -> None:
    extra = cell.shard(RECORDS, 9)
    extra.write_bytes(cell.shard(RECORDS, 0).read_bytes())
    with pytest.raises(StoreError, match=r"shard-00009.parquet: a cell of 40 images has 3 shards; delete the file"):
        load_table(tmp_path)
    assert collect_garbage(tmp_path) == [f"removed {extra}"]
    assert load_table(tmp_path)["n_expected"].tolist() == [IMAGES]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cell.json", {"images": "40"}),
        ("cell.json", {"shard_images": 20}),
        ("cell.json", {"shard_images": 0}),
        ("cell.json", {"labels": {}}),
        ("metric.json", {"columns": [{"name": "energy"}]}),
        ("metric.json", {"columns": []}),
        ("metric.json", {"options": None}),
        ("metric.json", {"version": "1"}),
    ],
)
def test_a_description_that_lacks_something_is_one_line(
    cell: Cell, tmp_path: Path, name: str, change: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = cell.folder.rglob(name)
    rewrite(file, **change)
    assert name in error_of(["table", "--results", str(tmp_path)], capsys)


def test_a_part_without_a_column_is_refused(cell: Cell, tmp_path: Path) -> None:
    table = pq.read_table(metric_part(cell))
    pq.write_table(table.drop_columns(["status"]).replace_schema_metadata(table.schema.metadata), metric_part(cell))
    with pytest.raises(StoreError, match="a column is missing"):
        load_table(tmp_path)


def test_a_part_without_all_its_rows_is_refused(cell: Cell, tmp_path: Path) -> None:
    table = pq.read_table(metric_part(cell))
    pq.write_table(table.slice(0, 3), metric_part(cell))
    with pytest.raises(StoreError, match="rows are missing"):
        load_table(tmp_path)


def test_a_description_that_is_gone_is_named_kept_and_restored(tmp_path: Path) -> None:
    words = ["method=center", "metric=energy", "limit=20", "workers=0", "device=cpu", f"results={tmp_path}"]
    run(load_config(words))
    before = load_table(tmp_path)
    (cell,) = Store(tmp_path).cells()
    part = metric_part(cell, 0)
    for name in ("metric.json", "cell.json"):
        (file,) = cell.folder.rglob(name)
        file.unlink()
        (line,) = unfinished(tmp_path)
        assert str(file.parent) in line
        collect_garbage(tmp_path)
        assert part.is_file()
        assert run(load_config(words)).computed_images == 0
        pd.testing.assert_frame_equal(load_table(tmp_path), before)


def test_a_disk_that_takes_no_more_is_one_line(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    records = cell.read_shard(RECORDS, 0)
    metric_part(cell, 0).unlink()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=r"shard-00000.parquet: cannot be written \(No space left"):
        seal([Shard(cell, next(iter(cell.metrics())), 0, records)])
    assert not list(cell.folder.rglob(".*.tmp"))
    assert 0 not in cell.sealed(next(iter(cell.metrics())))


def test_gc_of_a_folder_that_cannot_be_written_says_so(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("decomcam_bench.tables.upkeep.FileLock.acquire", refused)
    assert collect_garbage(tmp_path) == [f"kept {cell.key}: cannot be written (Permission denied)"]


def test_a_renamed_cell_is_refused(cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell.folder.rename(cell.folder.with_name("0123456789abcdef"))
    assert cell.key in error_of(["table", "--results", str(tmp_path)], capsys)


def test_a_cell_in_use_cannot_be_written_by_another(cell: Cell, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), cell.key, ready, done))
    holder.start()
    try:
        assert ready.wait(60)
        with pytest.raises(StoreError, match=f"process {holder.pid}"), Store(tmp_path).locked([cell]):
            pass
        assert collect_garbage(tmp_path) == [f"kept {cell.key}: it is being written"]
        assert load_table(tmp_path)["energy"].notna().all()
    finally:
        done.set()
        holder.join(60)
    with Store(tmp_path).locked([cell]):
        pass


def _hold(root: str, key: str, ready: object, done: object) -> None:
    store = Store(root)
    held = store.cell(key)
    assert held is not None
    with store.locked([held]):
        ready.set()  # type: ignore[attr-defined]
        done.wait(60)  # type: ignore[attr-defined]


def test_a_run_heals_what_was_broken(tmp_path: Path) -> None:
    words = ["method=center", "metric=energy", "limit=40", "workers=0", "device=cpu", f"results={tmp_path}"]
    run(load_config(words))
    before = load_table(tmp_path)
    (cell,) = Store(tmp_path).cells()
    metric_part(cell, 0).unlink()
    path = cell.shard(RECORDS, 1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = run(load_config(words))
    assert again.computed_images == 32
    pd.testing.assert_frame_equal(load_table(tmp_path), before)


def test_gc_removes_leftovers_alone(cell: Cell, tmp_path: Path) -> None:
    before = load_table(tmp_path)
    (cell.folder / "records" / ".shard-00000.parquet.1.tmp").write_bytes(b"x")
    empty = write_cell(tmp_path, "empty", {"energy": pairs(IMAGES, energy=0.5)})
    for part in range(empty.shards):
        empty.shard(RECORDS, part).unlink()
        metric_part(empty, part).unlink()
    partial = write_cell(tmp_path, "partial", {"energy": pairs(IMAGES, energy=0.5)})
    partial.shard(RECORDS, 2).write_bytes(b"cut")
    (tmp_path / "cells" / "0000000000000000").mkdir()
    planned = collect_garbage(tmp_path, dry_run=True)
    assert len(planned) == 4
    assert empty.folder.is_dir()
    assert collect_garbage(tmp_path) == planned
    assert not empty.folder.exists()
    assert not (tmp_path / "cells" / "0000000000000000").exists()
    assert partial.sealed(RECORDS) == {0, 1}
    assert not partial.shard(RECORDS, 2).exists()
    assert collect_garbage(tmp_path) == []
    pd.testing.assert_frame_equal(load_table(tmp_path, [cell.key]), before)


def test_gc_leaves_newer_cells_alone(cell: Cell, tmp_path: Path) -> None:
    file = cell.folder / "cell.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))
    (line,) = collect_garbage(tmp_path)
    assert line.startswith(f"kept {cell.key}")
    assert file.exists()


def test_two_cells_are_compared_image_by_image(cell: Cell, tmp_path: Path) -> None:
    values = np.linspace(0, 1, IMAGES)
    values[7] -= 0.9
    values[3] += 0.2
    other = write_cell(tmp_path, "other", {"energy": pairs(IMAGES, energy=values)})
    (found,) = _compare_cells(cell, other, None)
    assert list(found.images.index[:2]) == ["image00007", "image00003"]
    assert found.images["change"].iloc[0] == pytest.approx(-0.9)
    assert found.paired.difference == pytest.approx(-0.7 / IMAGES)
    assert found.images["change"].mean() == pytest.approx(found.paired.difference)


def test_cells_without_a_common_metric_are_refused(cell: Cell, tmp_path: Path) -> None:
    other = write_cell(tmp_path, "other", {"deletion": pairs(IMAGES, deletion=0.5)})
    with pytest.raises(StoreError, match="no complete metric in common"):
        _compare_cells(cell, other, None)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_export_has_every_record(tmp_path: Path, suffix: str) -> None:
    curves = [np.array([1.0, 0.5], dtype=np.float32)] * IMAGES
    frame = pairs(IMAGES, deletion=np.linspace(0, 1, IMAGES)).assign(deletion_curve=curves)
    write_cell(tmp_path / "s", "good", {"energy": pairs(IMAGES, energy=0.25), "deletion": frame}, rank=3)
    out = tmp_path / f"out{suffix}"
    assert export(out, tmp_path / "s") == 2 * IMAGES
    read = pd.read_csv(out) if suffix == ".csv" else pq.read_table(out).to_pandas()
    assert len(read) == 2 * IMAGES
    assert set(read["metric"]) == {"energy", "deletion"}
    assert (read["rank"] == 3).all()
    own = read[read["metric"] == "deletion"]
    assert own["deletion"].tolist() == pytest.approx(np.linspace(0, 1, IMAGES).tolist())
    curve = own["deletion_curve"].iloc[0]
    assert list(json.loads(curve) if isinstance(curve, str) else curve) == [1.0, 0.5]


def test_metrics_of_one_name_are_told_apart_everywhere(tmp_path: Path) -> None:
    words = ["method=center,random", "metric=pointing", "metric.tolerance=0,15", "limit=6", "workers=0"]
    keys = run(load_config([*words, "device=cpu", f"results={tmp_path / 's'}"])).keys
    cells = [find_cell(tmp_path / "s", key) for key in keys]
    both = {"pointing", "pointing[tolerance=0]"}
    assert set(describe_cell(cells[0].key, tmp_path / "s")["metrics"]) == both
    assert {found.column for found in _compare_cells(*cells, None)} == both
    assert [found.column for found in _compare_cells(*cells, "pointing[tolerance=0]")] == ["pointing[tolerance=0]"]
    export(tmp_path / "all.csv", tmp_path / "s")
    assert set(pd.read_csv(tmp_path / "all.csv")["metric"]) == both
    exact = load_records(tmp_path / "s", keys[0], "pointing[tolerance=0]")
    assert exact["hit"].mean() <= load_records(tmp_path / "s", keys[0], "pointing")["hit"].mean()
    with pytest.raises(StoreError, match=r"unknown metric 'pionting'.*pointing\[tolerance=0\]"):
        load_records(tmp_path / "s", keys[0], "pionting")


def test_a_name_that_several_metrics_have_is_refused_where_one_is_needed(tmp_path: Path) -> None:
    words = ["method=center", "metric=pointing", "metric.tolerance=0,5", "limit=4", "workers=0", "device=cpu"]
    (key,) = run(load_config([*words, f"results={tmp_path}"])).keys
    with pytest.raises(StoreError, match=r"several metrics are pointing; name one of pointing\[tolerance=0\]"):
        load_records(tmp_path, key, "pointing")


def test_a_key_named_twice_is_exported_once(cell: Cell, tmp_path: Path) -> None:
    assert export(tmp_path / "out.csv", tmp_path, [cell.key, cell.key[:6]]) == IMAGES


def test_command_line(cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--results", str(tmp_path)]
    assert main(["results", "list", *root]) == 0
    assert cell.key in capsys.readouterr().out
    assert main(["results", "show", cell.key[:5], *root]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["energy"]["values"]["energy"] == pytest.approx(0.5)
    for words, says in (
        (["show"], "takes 1 KEY"),
        (["show", "zzzz"], "has no cell zzzz"),
        (["compare", cell.key], "takes 2 KEYs"),
        (["export", "--out", "x.json"], "must end in .csv or .parquet"),
        (["export"], "needs --out"),
        (["export", "--out", "x.csv", "--metric", "enrgy"], "did you mean 'energy'"),
    ):
        assert says in error_of(["results", *root, *words], capsys)
    assert "no results there" in error_of(["results", "gc", "--results", str(tmp_path / "nowhere")], capsys)
    assert find_cell(tmp_path, cell.key[:3]).key == cell.key


def test_keys_may_stand_behind_options(cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_cell(tmp_path, "other", {"energy": pairs(IMAGES, energy=0.5)})
    assert main(["results", "show", "--results", str(tmp_path), cell.key]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == cell.key
    assert main(["results", "compare", "--results", str(tmp_path), cell.key, other.key, "--metric", "energy"]) == 0
    assert main(["results", "compare", cell.key, "--results", str(tmp_path), other.key]) == 0
    assert "takes no KEY" in error_of(["results", "list", "--results", str(tmp_path), cell.key], capsys)
    assert "unrecognized arguments: --what" in error_of(["results", "list", "--what"], capsys)
