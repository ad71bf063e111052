"""VOC's layout as other programs write it: several boxes, flags, endings, encodings, masks in another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.datasets.benchmarks.voc import VOC
from decomcam_bench.datasets.formats.voc_masks import match_objects

BOX = "<bndbox><xmin>11</xmin><ymin>11</ymin><xmax>30</xmax><ymax>30</ymax></bndbox>"
SECOND = "<bndbox><xmin>51</xmin><ymin>41</ymin><xmax>80</xmax><ymax>70</ymax></bndbox>"


def _open(
    root: Path, xml: str | bytes, ending: str = ".jpg", listed: str = "a", split: str = "val", **options: object
) -> VOC:
    folder = root / "VOC2012"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages", "SegmentationObject"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (120, 90)).save(folder / "JPEGImages" / f"a{ending}", format="PNG")
    (folder / "Annotations" / "a.xml").write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{listed}\n")
    return VOC(root=str(root), year=2012, split=split, **options)  # type: ignore[arg-type]


def _xml(*objects: str) -> str:
    return f"<annotation>{''.join(f'<object>{item}</object>' for item in objects)}</annotation>"


def test_several_boxes_of_one_object_are_instances(tmp_path: Path) -> None:
    (target,) = _open(tmp_path, _xml(f"<name>car</name>{BOX}{SECOND}")).sample(0).targets
    assert target.boxes.tolist() == [[10, 10, 30, 30], [50, 40, 80, 70]]


@pytest.mark.parametrize(
    ("flag", "difficult"),
    [("1", True), ("True", True), ("yes", True), ("0", False), ("False", False), ("Unspecified", False), ("", False)],
)
def test_flags(tmp_path: Path, flag: str, difficult: bool) -> None:
    sample = _open(tmp_path, _xml(f"<name>car</name><difficult>{flag}</difficult>{BOX}")).sample(0)
    assert sample.targets[0].difficult.tolist() == [difficult]
    assert sample.problems == ()


def test_a_flag_that_means_nothing_is_noted(tmp_path: Path) -> None:
    sample = _open(tmp_path, _xml(f"<name>car</name><difficult>2</difficult>{BOX}")).sample(0)
    assert sample.problems[0].reason == "'car': difficult is '2'"
    assert not sample.targets[0].difficult.any()


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".png", ".JPG", ".PNG"])
@pytest.mark.parametrize("listed", ["a", "a.jpg"])
def test_images_and_lists_with_any_ending(tmp_path: Path, ending: str, listed: str) -> None:
    dataset = _open(tmp_path, _xml(f"<name>car</name>{BOX}"), ending, listed)
    assert dataset.image_id(0) == "a"
    assert not dataset.sample(0).error
    assert dataset.load_image(0).shape == (90, 120, 3)


def test_splits_of_ones_own_but_not_lists_of_one_class(tmp_path: Path) -> None:
    assert len(_open(tmp_path, _xml(f"<name>car</name>{BOX}"), split="my_val")) == 1
    with pytest.raises(DataError, match=r"dataset\.split=car_val: not in .*; there: my_val"):
        _open(tmp_path, _xml(), split="car_val")


@pytest.mark.parametrize(
    "data",
    [
        _xml(f"<name>car</name>{BOX}").encode("utf-8-sig"),
        ('<?xml version="1.0" encoding="utf-16"?>' + _xml(f"<name>car</name>{BOX}")).encode("utf-16"),
        b'<?xml version="1.0" encoding="GBK"?>' + _xml(f"<folder>汽车</folder><name>car</name>{BOX}").encode("gbk"),
        _xml(f"<path>图\\汽车</path><name>car</name>{BOX}").encode("gbk"),
        _xml(f"<path>C:\\a & b</path><name>car</name>{BOX}").encode(),
        _xml(f"<name>car</name>{BOX}").replace("<annotation>", '<annotation xmlns="http://x" verified="yes">').encode(),
    ],
)
def test_encodings_and_namespaces(tmp_path: Path, data: bytes) -> None:
    sample = _open(tmp_path, data).sample(0)
    assert sample.error == ""
    assert sample.targets[0].boxes.tolist() == [[10, 10, 30, 30]]


def test_an_encoding_of_names_has_to_be_named(tmp_path: Path) -> None:
    data = _xml(f"<name>汽车</name>{BOX}").encode("gbk")
    error = _open(tmp_path, data, classes=["汽车"]).sample(0).error
    assert "a.xml: malformed XML (not UTF-8; set dataset.encoding=NAME (it could be gbk" in error
    sample = _open(tmp_path, data, classes=["汽车"], encoding="gbk").sample(0)
    assert sample.targets[0].class_name == "汽车"
    with pytest.raises(ConfigError, match="no such encoding"):
        _open(tmp_path, data, encoding="gb")


def test_other_classes_are_refused_with_the_option_that_names_them(tmp_path: Path) -> None:
    sample = _open(tmp_path, _xml(f"<name>zebra crossing</name>{BOX}")).sample(0)
    assert sample.lost[0].reason.endswith("for another set in this layout set dataset.classes=[name,name,...]")
    assert _open(tmp_path, _xml(f"<name>zebra</name>{BOX}"), classes=["zebra"]).sample(0).targets


def test_a_rotated_box_is_taken_upright_and_noted(tmp_path: Path) -> None:
    turned = "<robndbox><cx>51</cx><cy>41</cy><w>20</w><h>10</h><angle>1.5707963267948966</angle></robndbox>"
    sample = _open(tmp_path, _xml(f"<name>car</name>{turned}")).sample(0)
    assert np.allclose(sample.targets[0].boxes, [[45, 30, 56, 51]])
    assert "a rotated box" in sample.problems[0].reason


def _picture(root: Path, masks: dict[int, tuple[slice, slice]]) -> np.ndarray:
    numbers = np.zeros((90, 120), np.uint8)
    for number, (rows, columns) in masks.items():
        numbers[rows, columns] = number
    picture = Image.fromarray(numbers, mode="L").convert("P")
    picture.putdata(numbers.ravel().tolist())
    (root / "VOC2012" / "SegmentationObject").mkdir(parents=True, exist_ok=True)
    picture.save(root / "VOC2012" / "SegmentationObject" / "a.png")
    return numbers


CAR, DOG = (slice(10, 30), slice(10, 30)), (slice(42, 68), slice(55, 80))


@pytest.mark.parametrize("order", [(1, 2), (2, 1), (7, 3)])
def test_masks_belong_to_the_objects_whose_boxes_they_fit(tmp_path: Path, order: tuple[int, int]) -> None:
    numbers = _picture(tmp_path, {order[0]: CAR, order[1]: DOG, 255: (slice(80, 84), slice(0, 50))})
    sample = _open(tmp_path, _xml(f"<name>car</name>{BOX}", f"<name>dog</name>{SECOND}"), masks=True).sample(0)
    for target, number in zip(sample.targets, order, strict=True):
        assert np.array_equal(target.object_mask(), numbers == number)
        assert np.array_equal(target.ignored[0].decode(), numbers == 255)
    assert sample.problems == ()


@pytest.mark.parametrize("masks", [{1: CAR}, {2: CAR}, {1: CAR, 2: (slice(0, 5), slice(90, 120))}])
def test_an_object_without_a_fitting_mask_has_none(tmp_path: Path, masks: dict[int, tuple[slice, slice]]) -> None:
    _picture(tmp_path, masks)
    sample = _open(tmp_path, _xml(f"<name>car</name>{BOX}", f"<name>dog</name>{SECOND}"), masks=True).sample(0)
    car, dog = sample.targets
    assert int(car.object_mask().sum()) == 400
    assert dog.masks == ()
    assert dog.boxes.tolist() == [[50, 40, 80, 70]]
    assert "no mask fits object 2 ('dog')" in sample.problems[0].reason


def test_official_masks_of_occluded_and_small_objects_keep_their_order() -> None:
    numbers = np.zeros((90, 120), np.uint8)
    numbers[10:14, 10:12], numbers[40:60, 40:100] = 1, 2
    numbers[45:50, 50:60] = 3
    assert match_objects(numbers, [(9, 9, 30, 30), (38, 40, 101, 80), (48, 44, 62, 52)]) == [1, 2, 3]
