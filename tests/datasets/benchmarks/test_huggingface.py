"""Parquet files and ``save_to_disk`` folders in the forms of Hugging Face's ``datasets``."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.datasets.acquire.verify import verify
from decomcam_bench.datasets.benchmarks.huggingface import HuggingFaceFiles


def _bytes(seed: int) -> tuple[np.ndarray, bytes]:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return pixels, buffer.getvalue()


def _table(columns: dict[str, list[Any]], features: dict[str, Any]) -> pa.Table:
    images = [{"bytes": _bytes(seed)[1], "path": None} for seed in range(len(next(iter(columns.values()))))]
    table = pa.table({"image": images, **columns})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


LABELS = {"label": {"names": ["tench, Tinca tinca", "goldfish"], "_type": "ClassLabel"}}
OBJECTS = {"objects": {"feature": {"category": {"names": ["cat", "dog"], "_type": "ClassLabel"}}, "_type": "Sequence"}}
BOXES = [
    {"bbox": [[5.0, 6.0, 20.0, 10.0], [1.0, 1.0, 9.0, 9.0]], "category": [1, 0]},
    {"bbox": [[0.0, 0.0, 50.0, 30.0], [1.0, 1.0, 5.0, 5.0]], "category": [0, 7]},
]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_labels(tmp_path: Path, form: str, bench: Any) -> None:
    for split, values in (("train", [0, 0]), ("validation", [1, 0, 1])):
        table = _table({"label": values}, LABELS)
        if form == "parquet":
            (tmp_path / "data").mkdir(exist_ok=True)
            pq.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet", row_group_size=2)
        else:
            (tmp_path / split).mkdir()
            file = str(tmp_path / split / "data-00000-of-00001.arrow")
            with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
    dataset = HuggingFaceFiles(name="huggingface", root=str(tmp_path), split="validation")
    assert list(dataset.class_names) == ["tench", "goldfish"]
    assert [dataset.sample(i).targets[0].class_id for i in range(3)] == [1, 0, 1]
    for index in range(3):
        assert np.array_equal(dataset.load_image(index), _bytes(index)[0])
    assert dataset.available == frozenset()
    assert verify(dataset).sound
    assert len(HuggingFaceFiles(root=str(tmp_path))) == 5
    words = ["dataset=huggingface", f"dataset.root={tmp_path}", "dataset.split=validation", "method=center"]
    _, run = bench(tmp_path / "store", *words, "model=toyclip", "metric=efficiency")
    assert run["n_evaluated"].iloc[0] == 3


@pytest.mark.parametrize("form", ["xywh", "xyxy"])
def test_boxes(tmp_path: Path, form: str) -> None:
    pq.write_table(_table({"image_id": [7, 8], "objects": BOXES}, OBJECTS), tmp_path / "val-0.parquet")
    dataset = HuggingFaceFiles(name="huggingface", root=str(tmp_path), box_format=form)
    first, second = dataset.sample(0), dataset.sample(1)
    assert (first.image_id, second.image_id) == ("7", "8")
    corner = [5, 6, 25, 16] if form == "xywh" else [5, 6, 20, 10]
    assert {t.class_name: t.boxes.tolist() for t in first.targets}["dog"] == [corner]
    assert "row 1, object 1: category 7" in second.problems[0].reason
    assert dataset.available == {"box"}
    with pytest.raises(ConfigError, match=r"dataset\.box_format: the files hold boxes; set xywh"):
        HuggingFaceFiles(root=str(tmp_path))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*\.parquet and no data-\*\.arrow"):
        HuggingFaceFiles(root=str(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        HuggingFaceFiles(root=str(tmp_path))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column image; it has text"):
        HuggingFaceFiles(root=str(tmp_path))
    table = pa.table({"image": [{"bytes": b"no picture", "path": None}], "label": [0]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"names no classes; set dataset\.classes="):
        HuggingFaceFiles(root=str(tmp_path))
    assert "holds no image" in HuggingFaceFiles(root=str(tmp_path), classes=["cat"]).sample(0).error
