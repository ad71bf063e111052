"""ImageNet-V2 as it is to be had today: images named by hash, boxes by number."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.cli import main
from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.acquire.verify import verify
from decomcam_bench.datasets.benchmarks.imagenetv2 import ImageNetV2
from tests.datasets import layouts

CLASSES = ("0", "1", "10")


def _picture(seed: int, size: tuple[int, int]) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def _write(root: Path, sizes: tuple[tuple[int, int], ...] = ((80, 64),) * 3, again: bool = False) -> None:
    """An old copy under ``old`` and a new one under ``new``, with the boxes of the old names."""
    rows: dict[str, list[str]] = {name: [] for name in ("image_ids", "class_labels", "image_sizes", "localization")}
    for number, class_name in enumerate(CLASSES):
        for index, size in enumerate(sizes):
            picture = Image.fromarray(_picture(10 * number + index, size))
            name = f"val2/{class_name}/{index}.jpeg"
            old = root / "old" / "val2" / class_name / f"{index}.jpeg"
            old.parent.mkdir(parents=True, exist_ok=True)
            picture.save(old, quality=95)
            digest = hashlib.sha1(f"{class_name}{index}".encode()).hexdigest()
            new = root / "new" / "imagenetv2-threshold0.7-format-val" / class_name / f"{digest}.jpeg"
            new.parent.mkdir(parents=True, exist_ok=True)
            picture.save(new, quality=70 if again else 95)
            rows["image_ids"].append(name)
            rows["class_labels"].append(f"{name},{class_name}")
            rows["image_sizes"].append(f"{name},{size[0]},{size[1]}")
            rows["localization"].append(f"{name},{index},10,{40 + number},40")
    layouts.write_metadata(root / "new" / "wsol_metadata" / "ILSVRC" / "val", rows)


def _boxes(dataset: ImageNetV2) -> dict[str, Any]:
    samples = [dataset.sample(index) for index in range(len(dataset))]
    assert not [s.error or s.problems for s in samples if s.error or s.problems]
    return {s.image_id: s.targets[0].boxes.tolist() for s in samples}


def _expected(root: Path) -> dict[str, Any]:
    found = {}
    for number, class_name in enumerate(CLASSES):
        for index in range(3):
            digest = hashlib.sha1(f"{class_name}{index}".encode()).hexdigest()
            found[f"{class_name}/{digest}.jpeg"] = [[index, 10, 41 + number, 41]]
    return found


def test_without_a_table_classes_work_and_one_line_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path)
    dataset = ImageNetV2(name="imagenetv2", root=str(tmp_path / "new"))
    assert set(_boxes(dataset)) == set(_expected(tmp_path))
    assert not any(_boxes(dataset).values())
    assert dataset.available == frozenset()
    assert [dataset.sample(i).targets[0].class_id for i in range(9)] == [0] * 3 + [1] * 3 + [10] * 3
    assert dataset.load_image(0).shape == (64, 80, 3)
    (line,) = dataset.doubts
    assert "9 of 9 images have no boxes: they are named by hash" in line
    assert "dataset.name_map=CSV" in line
    assert "wsolevaluation/issues/42" in line
    assert verify(dataset).verdict == "not sound: 1 doubts about the files"
    words = [
        "run",
        "dataset=imagenetv2",
        f"dataset.root={tmp_path / 'new'}",
        "model=toyclip",
        "method=center",
        "workers=0",
    ]
    assert main([*words, "limit=2", "metric=efficiency", f"results={tmp_path / 'store'}"]) == 0
    assert main([*words, "metric=pointing", f"results={tmp_path / 'store'}"]) == 2
    assert "box" in capsys.readouterr().err


@pytest.mark.parametrize("head", ["old,new\n", "", "new,old\n"])
def test_boxes_by_a_table_of_names(tmp_path: Path, head: str) -> None:
    _write(tmp_path)
    rows = []
    for new in _expected(tmp_path):
        class_name = new.partition("/")[0]
        index = next(i for i in range(3) if hashlib.sha1(f"{class_name}{i}".encode()).hexdigest() in new)
        pair = [f"val2/{class_name}/{index}.jpeg", new]
        rows.append(",".join(pair[::-1] if head.startswith("new") else pair))
    (tmp_path / "new" / "name_map.csv").write_text(head + "\n".join(rows))
    dataset = ImageNetV2(name="imagenetv2", root=str(tmp_path / "new"))
    assert _boxes(dataset) == _expected(tmp_path)
    assert dataset.doubts == ()
    assert verify(dataset).sound
    (tmp_path / "new" / "name_map.csv").write_text(head + "\n".join(rows[:4]))
    partly = ImageNetV2(name="imagenetv2", root=str(tmp_path / "new"))
    assert "5 of 9 images have no boxes" in partly.doubts[0]
    assert partly.fingerprint != dataset.fingerprint


@pytest.mark.parametrize(
    ("text", "words"),
    [("old,new\n", "no line with an old and a new name"), ("a,b\nx,y\n", "line 2: neither of its names"),
     ("val2/0/0.jpeg,0/a.jpeg\nval2/0/1.jpeg,0/a.jpeg\n", "line 2 names an image for the second time")],
)  # fmt: skip
def test_tables_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    _write(tmp_path)
    (tmp_path / "map.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        ImageNetV2(root=str(tmp_path / "new"), name_map=str(tmp_path / "map.csv"))
    with pytest.raises(DataError, match=r"dataset\.name_map=.*: no such file; `data map imagenetv2` writes one"):
        ImageNetV2(root=str(tmp_path / "new"), name_map=str(tmp_path / "absent.csv"))


def test_class_and_size_are_enough_where_they_are_unique(tmp_path: Path) -> None:
    _write(tmp_path, ((80, 64), (64, 80), (90, 60)))
    assert _boxes(ImageNetV2(name="imagenetv2", root=str(tmp_path / "new"))) == _expected(tmp_path)
    _write(tmp_path / "two", ((80, 64), (80, 64), (90, 60)))
    dataset = ImageNetV2(name="imagenetv2", root=str(tmp_path / "two" / "new"))
    expected = _expected(tmp_path)
    assert {name: box for name, box in _boxes(dataset).items() if box} == {
        name: box for name, box in expected.items() if box[0][0] == 2
    }


@pytest.mark.parametrize("again", [False, True])
def test_the_table_is_made_from_an_old_copy(tmp_path: Path, again: bool, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path, again=again)
    words = ["data", "map", "imagenetv2", "--old", str(tmp_path / "old"), "--new", str(tmp_path / "new")]
    assert main(words) == 0
    assert "9 of 9 images matched" in capsys.readouterr().out
    assert _boxes(ImageNetV2(name="imagenetv2", root=str(tmp_path / "new"))) == _expected(tmp_path)


def test_an_image_that_is_in_one_copy_only_is_not_matched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path, again=True)
    Image.fromarray(_picture(999, (80, 64))).save(tmp_path / "old" / "val2" / "0" / "1.jpeg")
    out = tmp_path / "map.csv"
    words = [
        "data",
        "map",
        "imagenetv2",
        "--old",
        str(tmp_path / "old"),
        "--new",
        str(tmp_path / "new"),
        "--out",
        str(out),
    ]
    assert main(words) == 1
    assert "8 of 9 images matched" in capsys.readouterr().out
    assert "val2/0/1.jpeg" not in out.read_text()
    assert main(["data", "map", "voc", "--old", "a", "--new", "b"]) == 2
    assert main(["data", "map", "imagenetv2", "--old", str(tmp_path / "absent"), "--new", str(tmp_path / "new")]) == 2
    assert "--old" in capsys.readouterr().err


def test_without_the_metadata_metrics_without_boxes_work(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "new" / "wsol_metadata").rename(tmp_path / "elsewhere")
    dataset = ImageNetV2(name="imagenetv2", root=str(tmp_path / "new"))
    assert not any(_boxes(dataset).values())
    assert "no boxes (wsolevaluation's metadata" in dataset.doubts[0]
