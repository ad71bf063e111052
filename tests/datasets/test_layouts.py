"""The same scenes through toybox and through each adapter: same boxes, masks, parts, pixels, pointing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.base import Dataset, Sample
from decomcam_bench.datasets.benchmarks.coco import COCO
from decomcam_bench.datasets.benchmarks.cub import CUB
from decomcam_bench.datasets.benchmarks.imagenet import ImageNet
from decomcam_bench.datasets.benchmarks.imagenetv2 import ImageNetV2
from decomcam_bench.datasets.benchmarks.partimagenet import PartImageNet
from decomcam_bench.datasets.benchmarks.voc import VOC
from decomcam_bench.datasets.prompts import imagenet_names
from decomcam_bench.datasets.toybox.dataset import ToyBox
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES
from decomcam_bench.metrics.base import PairMap
from decomcam_bench.metrics.pointing import PointingGame
from tests.datasets import layouts

COUNT = 6
NAMES = list(CLASS_NAMES)


@pytest.fixture(scope="module")
def toybox() -> ToyBox:
    return ToyBox(name="toybox", size=200)


def _reference(toybox: ToyBox, numbers: list[int]) -> list[Sample]:
    return [toybox.sample(number) for number in numbers]


def _same_boxes(dataset: Dataset, toybox: ToyBox, numbers: list[int], inclusive: bool = False) -> None:
    assert len(dataset) == len(numbers)
    for index, number in enumerate(numbers):
        sample, expected = dataset.sample(index), toybox.sample(number)
        assert sample.error == ""
        assert sample.problems == ()
        assert (sample.width, sample.height) == (expected.width, expected.height)
        assert np.array_equal(dataset.load_image(index), toybox.load_image(number))
        assert [t.class_id for t in sample.targets] == [t.class_id for t in expected.targets]
        assert [dataset.class_names[t.class_id] for t in sample.targets] == [t.class_name for t in expected.targets]
        for mine, theirs in zip(sample.targets, expected.targets, strict=True):
            assert mine.class_name == theirs.class_name
            assert np.array_equal(mine.boxes, theirs.boxes)
            assert mine.inclusive == inclusive
            assert not mine.difficult.any()
            assert not mine.crowd.any()
            assert _pointing(mine, sample, "box") == _pointing(theirs, expected, "box")


def _pointing(target, sample, region):
    """Hits of a map that is random but the same for the same scene."""
    rng = np.random.default_rng(sample.width * 7 + target.class_id)
    game = PointingGame(region=region)
    hits = []
    for _ in range(4):
        saliency = rng.random((sample.height, sample.width)).astype(np.float32)
        pair = PairMap(saliency, lambda array: array, target, sample.width, sample.height)
        hits.append(game.evaluate(pair))
    return str(hits)


def _same_masks(dataset: Dataset, toybox: ToyBox, numbers: list[int]) -> None:
    for index, number in enumerate(numbers):
        sample, reference = dataset.sample(index), toybox.sample(number)
        for mine, theirs in zip(sample.targets, reference.targets, strict=True):
            assert len(mine.masks) == len(mine.boxes)
            for a, b in zip(mine.masks, theirs.masks, strict=True):
                assert np.array_equal(a.decode(), b.decode())
            assert _pointing(mine, sample, "mask") == _pointing(theirs, reference, "mask")


def test_voc(tmp_path: Path, toybox: ToyBox) -> None:
    drawn = layouts.scenes(COUNT)
    root = layouts.write_voc(tmp_path, drawn)
    dataset = VOC(root=str(root), year=2012, split="val", classes=NAMES, masks=True)
    _same_boxes(dataset, toybox, list(drawn), inclusive=True)
    _same_masks(dataset, toybox, list(drawn))
    for other in (root / "VOC2012", tmp_path):
        assert (
            VOC(root=str(other), year=2012, split="val", classes=NAMES, masks=True).fingerprint == dataset.fingerprint
        )


def test_coco(tmp_path: Path, toybox: ToyBox) -> None:
    drawn = layouts.scenes(COUNT)
    root = layouts.write_coco(tmp_path / "coco", drawn)
    dataset = COCO(root=str(root))
    _same_boxes(dataset, toybox, list(drawn))
    _same_masks(dataset, toybox, list(drawn))
    assert COCO(root=str(tmp_path)).fingerprint == dataset.fingerprint
    assert COCO(root=str(root / "annotations")).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("xml", [True, False])
@pytest.mark.parametrize("folders", [True, False])
def test_imagenet(tmp_path: Path, toybox: ToyBox, xml: bool, folders: bool) -> None:
    drawn = layouts.scenes(COUNT, one_class=True)
    root = layouts.write_imagenet(tmp_path, drawn, xml=xml, folders=folders)
    dataset = ImageNet(root=str(root), classes=NAMES)
    _same_boxes(dataset, toybox, list(drawn), inclusive=True)
    assert dataset.identity["boxes"] == ("xml" if xml else "wsol")


@pytest.mark.parametrize("place", ["beside", "bbox", "bbox_folders"])
def test_imagenet_annotations_elsewhere(tmp_path: Path, place: str) -> None:
    drawn = layouts.scenes(3, one_class=True)
    root = layouts.write_imagenet(tmp_path, drawn, xml=True, folders=True)
    expected = ImageNet(root=str(root), classes=NAMES)
    boxes, fingerprint = [expected.sample(i).targets[0].boxes.tolist() for i in range(3)], expected.fingerprint
    official = root / "ILSVRC2012_bbox_val_v3"
    for image in sorted((root / "ILSVRC2012_img_val").rglob("*.JPEG")):
        folder = {"beside": image.parent, "bbox": root / "bbox", "bbox_folders": root / "bbox" / image.parent.name}
        folder[place].mkdir(parents=True, exist_ok=True)
        (official / "val" / f"{image.stem}.xml").rename(folder[place] / f"{image.stem}.xml")
    (official / "val").rmdir()
    found = ImageNet(root=str(root), classes=NAMES)
    assert [found.sample(index).targets[0].boxes.tolist() for index in range(3)] == boxes
    assert found.fingerprint == fingerprint


def test_imagenet_root_may_be_the_image_folder(tmp_path: Path) -> None:
    drawn = layouts.scenes(2, one_class=True)
    root = layouts.write_imagenet(tmp_path, drawn)
    inner = ImageNet(root=str(root / "ILSVRC2012_img_val"), classes=NAMES)
    assert inner.fingerprint == ImageNet(root=str(root), classes=NAMES).fingerprint
    assert inner.load_image(0).shape == (160, 160, 3)


def test_imagenetv2(tmp_path: Path, toybox: ToyBox) -> None:
    drawn = layouts.scenes(COUNT, one_class=True)
    dataset = ImageNetV2(root=str(layouts.write_imagenetv2(tmp_path, drawn)), classes=NAMES)
    _same_boxes(dataset, toybox, list(drawn), inclusive=True)
    (tmp_path / "imagenetv2-threshold0.7-format-val").rename(tmp_path / "val2")
    renamed = ImageNetV2(root=str(tmp_path), classes=NAMES)
    assert np.array_equal(renamed.load_image(0), toybox.load_image(next(iter(drawn))))
    assert renamed.fingerprint == dataset.fingerprint


def test_imagenetv2_without_boxes(tmp_path: Path) -> None:
    drawn = layouts.scenes(COUNT, one_class=True)
    root = layouts.write_imagenetv2(tmp_path, drawn, "matched-frequency")
    dataset = ImageNetV2(root=str(root), variant="matched-frequency", classes=NAMES)
    assert not dataset.has_boxes
    assert dataset.available == frozenset()
    assert len(dataset) == COUNT
    by_name = {f"{scene.instances[0].class_id}/{n}.jpeg": scene for n, scene in drawn.items()}
    for index in range(COUNT):
        sample = dataset.sample(index)
        scene = by_name[sample.image_id]
        assert [target.class_id for target in sample.targets] == [scene.instances[0].class_id]
        assert len(sample.targets[0].boxes) == 0
        assert np.array_equal(dataset.load_image(index), scene.image)


def test_imagenetv2_folders_are_numbers(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    for name in ("10/2", "2/10", "2/9", "0/0", "not_a_class/1"):
        layouts.save(tmp_path / "imagenetv2-top-images-format-val" / f"{name}.jpeg", image)
    dataset = ImageNetV2(root=str(tmp_path), variant="top-images")
    ids = [dataset.image_id(index) for index in range(len(dataset))]
    assert ids == ["0/0.jpeg", "2/9.jpeg", "2/10.jpeg", "10/2.jpeg"]
    assert [dataset.sample(index).targets[0].class_id for index in range(4)] == [0, 2, 2, 10]


@pytest.mark.parametrize("in_folders", [True, False])
def test_partimagenet_objects(tmp_path: Path, toybox: ToyBox, in_folders: bool) -> None:
    drawn = layouts.scenes(COUNT, one_object=True)
    dataset = PartImageNet(root=str(layouts.write_partimagenet(tmp_path, drawn, in_folders)))
    _same_boxes(dataset, toybox, list(drawn))
    _same_masks(dataset, toybox, list(drawn))
    for index, number in enumerate(drawn):
        for mine, theirs in zip(dataset.sample(index).targets, toybox.sample(number).targets, strict=True):
            expected = {part.name: part.mask.decode() for part in theirs.parts if part.mask}
            found = {part.name: part.mask.decode() for part in mine.parts if part.mask}
            assert found.keys() == expected.keys()
            for name, mask in expected.items():
                assert np.array_equal(found[name], mask)


def test_partimagenet_parts_as_targets(tmp_path: Path) -> None:
    drawn = layouts.scenes(COUNT, one_object=True)
    dataset = PartImageNet(root=str(layouts.write_partimagenet(tmp_path, drawn)), unit="part")
    for index, scene in enumerate(drawn.values()):
        expected = {
            f"{CLASS_NAMES[i.class_id]} {part}": mask for i in scene.instances for part, mask in i.parts.items()
        }
        found = {target.class_name: target.object_mask() for target in dataset.sample(index).targets}
        assert found.keys() == expected.keys()
        for name, mask in expected.items():
            assert np.array_equal(found[name], mask)


def test_partimagenet_names_with_the_imagenet_label(tmp_path: Path) -> None:
    drawn = layouts.scenes(COUNT, one_class=True, one_object=True)
    root = str(layouts.write_partimagenet(tmp_path, drawn))
    labels = [imagenet_names()[scene.instances[0].class_id] for scene in drawn.values()]
    whole = PartImageNet(root=root, names="label")
    assert [whole.sample(index).targets[0].class_name for index in range(COUNT)] == labels
    assert set(whole.class_names) == set(labels)
    assert whole.identity != PartImageNet(root=root).identity
    parts = PartImageNet(root=root, names="label", unit="part")
    for index, scene in enumerate(drawn.values()):
        expected = {f"{labels[index]} {part}" for part in scene.instances[0].parts}
        targets = parts.sample(index).targets
        assert {target.class_name for target in targets} == expected
        assert {parts.prompts.texts(parts)[t.class_id][0] for t in targets} == {f"a photo of a {n}." for n in expected}


def test_partimagenet_official_categories(tmp_path: Path) -> None:
    names = ["Quadruped Head", "Quadruped Body", "Bird Wing", "Car Body", "Car Tier", "Car Side Mirror", "Bicycle Tier"]
    categories = [{"id": k, "name": name, "supercategory": name.split()[0]} for k, name in enumerate(names)]
    image = {"id": 1, "file_name": "n02100583_1.JPEG", "width": 10, "height": 10}
    (tmp_path / "annotations" / "test").mkdir(parents=True)
    content = {"images": [image], "annotations": [], "categories": categories}
    (tmp_path / "annotations" / "test" / "test.json").write_text(json.dumps(content))
    assert list(PartImageNet(root=str(tmp_path)).class_names) == ["Quadruped", "Bird", "Car", "Bicycle"]
    parts = PartImageNet(root=str(tmp_path), unit="part", names="clip")
    assert list(parts.class_names) == names
    assert parts.prompts.texts(parts)[4] == ["a photo of a car tire."]
    assert parts.prompts.texts(parts)[5] == ["a photo of a car side mirror."]
    with pytest.raises(DataError, match="names=label needs"):
        PartImageNet(root=str(tmp_path), names="label")


def test_cub(tmp_path: Path, toybox: ToyBox) -> None:
    drawn = {n: s for n, s in layouts.scenes(20, one_class=True).items() if len(s.instances) == 1}
    dataset = CUB(root=str(layouts.write_cub(tmp_path, drawn)))
    _same_boxes(dataset, toybox, list(drawn))
    for index, scene in enumerate(drawn.values()):
        parts = {part.name: part.point for part in dataset.sample(index).targets[0].parts}
        assert parts.keys() == scene.instances[0].parts.keys()
        for name, (x, y) in parts.items():
            assert scene.instances[0].parts[name][int(y), int(x)]
