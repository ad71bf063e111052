"""A user's own data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.dataset import Custom
from decomcam_bench.datasets.toybox.dataset import ToyBox
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES
from tests.datasets import layouts


def _write_csv(root: Path, text: str, sides: tuple[int, int] = (40, 30)) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", sides, (9, 8, 7)).save(root / name)
    (root / "annotations.csv").write_text(text)
    return root


def _mask(file: Path, rows: slice, columns: slice, sides: tuple[int, int] = (40, 30)) -> np.ndarray:
    mask = np.zeros((sides[1], sides[0]), np.uint8)
    mask[rows, columns] = 255
    Image.fromarray(mask).save(file)
    return mask > 0


def test_csv_of_classes_and_free_texts(tmp_path: Path) -> None:
    root = _write_csv(
        tmp_path,
        "image,class,text,x0,y0,x1,y1,mask\n"
        "a.png,dog,,1,2,11,12,\n"
        "a.png,dog,,20,2,30,12,\n"
        'a.png,,"the dog, on the left",1,2,11,12,\n'
        "b.png,cat,,,,,,b_mask.png\n",
    )
    expected = _mask(root / "b_mask.png", slice(5, 9), slice(10, 20))
    dataset = Custom(root=str(root))
    assert [dataset.image_id(index) for index in range(len(dataset))] == ["a.png", "b.png"]
    assert list(dataset.class_names) == ["cat", "dog", "the dog, on the left"]
    assert dataset.prompts.texts(dataset) == [["a photo of a cat."], ["a photo of a dog."], ["the dog, on the left"]]
    first, second = dataset.sample(0), dataset.sample(1)
    assert (first.width, first.height) == (40, 30)
    assert [t.class_name for t in first.targets] == ["dog", "the dog, on the left"]
    assert first.targets[0].boxes.tolist() == [[1, 2, 11, 12], [20, 2, 30, 12]]
    assert [t.text for t in first.targets] == ["", "the dog, on the left"]
    assert second.targets[0].boxes.tolist() == [[10, 5, 20, 9]]
    assert np.array_equal(second.targets[0].object_mask(), expected)
    assert dataset.load_image(0).shape == (30, 40, 3)
    assert not any(dataset.sample(index).problems for index in range(2))


def test_csv_problems(tmp_path: Path) -> None:
    root = _write_csv(
        tmp_path,
        "image,text,x0,y0,x1,y1,mask\n"
        "a.png,sound,1,2,11,12,\n"
        "a.png,no area,5,5,5,9,\n"
        "a.png,outside,500,5,600,9,\n"
        "a.png,letters,a,5,6,9,\n"
        "a.png,three,1,5,6,,\n"
        "a.png,,1,5,6,9,\n"
        "a.png,nothing,,,,,\n"
        "a.png,wrong size,1,2,3,4,small.png\n"
        "a.png,no mask,1,2,3,4,absent.png\n"
        "a.png,a secret,1,2,3,4,../secret.png\n"
        "a.png,too,many,fields,1,2,3,4,5,6\n"
        "absent.png,x,1,2,3,4,\n"
        "../a.png,x,1,2,3,4,\n"
        ",x,1,2,3,4,\n",
    )
    _mask(root / "small.png", slice(0, 1), slice(0, 1), (10, 10))
    dataset = Custom(root=str(root))
    assert len(dataset) == 4
    sample = dataset.sample(0)
    assert [t.class_name for t in sample.targets] == ["a secret", "no mask", "sound", "wrong size"]
    reasons = {problem.class_name: problem.reason for problem in sample.problems}
    assert {problem.class_name for problem in sample.problems} - {problem.class_name for problem in sample.lost} == {
        "a secret",
        "no mask",
        "wrong size",
    }
    assert len(sample.lost) == 7
    for name, word in (
        ("no area", "line 3: box (5, 5, 5, 9) has no area"),
        ("outside", "outside the image"),
        ("letters", "line 5: the box (a, 5, 6, 9) is not four numbers"),
        ("three", "not four numbers"),
        ("", "neither a class nor a text"),
        ("nothing", "neither a box nor a mask"),
        ("wrong size", "has 10 x 10 pixels, its image 40 x 30"),
        ("no mask", "absent.png"),
        ("a secret", "leads out of"),
        ("too", "more fields than columns"),
    ):
        assert word in reasons[name]
    assert "no such image" in dataset.sample(1).error
    assert "leads out of" in dataset.sample(2).error
    assert "line 15 names no image" in dataset.sample(3).error


def test_csv_may_lie_elsewhere(tmp_path: Path) -> None:
    root = _write_csv(tmp_path / "pictures", "image,class,x0,y0,x1,y1\na.png,dog,1,2,11,12\n")
    file = root / "annotations.csv"
    file.rename(tmp_path / "my.csv")
    dataset = Custom(annotations=str(tmp_path / "my.csv"), images=str(root))
    assert dataset.load_image(0).shape == (30, 40, 3)
    (root / "images").mkdir()
    for name in ("a.png", "b.png"):
        (root / name).rename(root / "images" / name)
    (tmp_path / "my.csv").rename(file)
    assert Custom(root=str(root)).load_image(0).shape == (30, 40, 3)
    assert Custom(root=str(root), images="images").load_image(0).shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("picture,class\na,b\n", "needs the columns image"),
        ("image,x0\n", "needs the columns"),
        ("", "needs the columns"),
        ("image,class\na.png,dog\n", "needs the columns .*it has image, class$"),
        ("image,class,xmin,ymin,xmax\na.png,dog,1,2,3\n", "needs the columns .*it has image, class, xmin"),
        (
            "image,class,bbox\na.png,dog,1 2 3 4\n",
            "the column bbox may hold corners or sizes; set dataset.box_format=xyxy",
        ),
        ("image,class,x0,y0,x1\na.png,dog,1,2,3\n", "needs the columns"),
        ("image,class,class,x0,y0,x1,y1\na.png,dog,cat,1,2,3,4\n", "each once"),
        ("image/class/x0/y0/x1/y1\na.png/dog/1/2/3/4\n", "needs the columns"),
        ("image,class,x0,y0,x1,y1\na.png,dog,big,1,2,3,4\n", r"\(line 2: more fields than columns"),
        ("image,class,x0,y0,x1,y1\na.png,,1,2,3,4\n", "no class and no text in it"),
    ],
)
def test_csv_without_its_columns(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(DataError, match=word):
        Custom(root=str(_write_csv(tmp_path, text)))


def test_files_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotations.json or annotations.csv under"):
        Custom(root=str(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        Custom(annotations=str(tmp_path / "x.csv"))
    _write_csv(tmp_path, "image,class,x0,y0,x1,y1\na.png,dog,1,2,11,12\n")
    with pytest.raises(DataError, match="no such folder"):
        Custom(root=str(tmp_path), images=str(tmp_path / "absent"))
    with pytest.raises(DataError, match="no image"):
        Custom(root=str(_write_csv(tmp_path / "empty", "image,class,x0,y0,x1,y1\n")))


def _json(tmp_path: Path, change: Any = None) -> Custom:
    drawn = layouts.scenes(4)
    layouts.write_coco(tmp_path, drawn)
    content = layouts.coco_content(drawn)
    if change:
        change(content)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return Custom(root=str(tmp_path), images=str(tmp_path / "val2017"), use="mask")


def test_coco_style_json_equals_toybox(tmp_path: Path) -> None:
    dataset = _json(tmp_path)
    toybox = ToyBox(size=200)
    assert dataset.region == "mask"
    assert sorted(dataset.class_names) == list(dataset.class_names) == sorted(CLASS_NAMES)
    for index, number in enumerate(layouts.scenes(4)):
        expected = {t.class_name: t for t in toybox.sample(number).targets}
        found = {t.class_name: t for t in dataset.sample(index).targets}
        assert found.keys() == expected.keys()
        for name, target in found.items():
            assert np.array_equal(target.boxes, expected[name].boxes)
            assert np.array_equal(target.object_mask(), expected[name].object_mask())
        assert np.array_equal(dataset.load_image(index), toybox.load_image(number))


def test_json_with_phrases_and_without_masks(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            del row["segmentation"]
        content["annotations"][0]["text"] = "what stands there"
        content["annotations"][1]["category_id"] = 2

    dataset = _json(tmp_path, change)
    assert dataset.available == {"box"}
    samples = [dataset.sample(index) for index in range(4)]
    phrase = next(t for s in samples for t in s.targets if t.text)
    assert dataset.prompts.texts(dataset)[phrase.class_id] == ["what stands there"]
    problems = [problem for sample in samples for problem in sample.problems]
    assert len(problems) == 1
    assert "unknown category 2" in problems[0].reason
