"""The real photographs and metadata beside the repository, against counts made another way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import coco as reference

from decomcam_bench.datasets.benchmarks.coco import COCO
from decomcam_bench.datasets.benchmarks.imagenet import ImageNet
from decomcam_bench.datasets.benchmarks.imagenetv2 import ImageNetV2
from decomcam_bench.datasets.benchmarks.voc import VOC

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples"
#: What each test covers that no test of the project's own data does, for the report of a run without the samples.
pytestmark = pytest.mark.skipif(
    not SAMPLES.is_dir(),
    reason="real files are not tested: 60 VOC 2012 and 16 ImageNet photographs, 4 of COCO with pycocotools as the "
    "reference, and the metadata of all 10,000 ImageNet-V2 images; put them into ../shared/samples next to the "
    "repository (its README says what they are)",
)


def test_voc_counts_equal_a_count_of_the_xml_text() -> None:
    dataset = VOC(root=str(SAMPLES / "VOCdevkit"), year=2012, split="val")
    pairs: set[tuple[str, str]] = set()
    easy: set[tuple[str, str]] = set()
    objects = 0
    for file in (SAMPLES / "VOCdevkit/VOC2012/Annotations").glob("*.xml"):
        for item in re.findall(r"<object>.*?</object>", file.read_text(), re.DOTALL):
            name = re.findall(r"<name>(.*?)</name>", item)[0]
            pairs.add((file.stem, name))
            objects += 1
            if "<difficult>1</difficult>" not in item:
                easy.add((file.stem, name))
    samples = [dataset.sample(index) for index in range(len(dataset))]
    found = {(s.image_id, t.class_name) for s in samples for t in s.targets}
    assert found == pairs
    assert sum(len(t.boxes) for s in samples for t in s.targets) == objects
    only_difficult = {(s.image_id, t.class_name) for s in samples for t in s.targets if t.difficult.all()}
    assert only_difficult == pairs - easy
    assert (len(dataset), len(pairs), len(only_difficult)) == (60, 98, 9)
    assert not any(s.error or s.problems for s in samples)


def test_voc_box_is_half_open() -> None:
    dataset = VOC(root=str(SAMPLES), year=2012, split="val")
    target = next(dataset.sample(i) for i in range(60) if dataset.image_id(i) == "2007_000027").targets[0]
    assert target.boxes.tolist() == [[173, 100, 349, 351]]


def test_coco_equals_pycocotools() -> None:
    dataset = COCO(root=str(SAMPLES / "coco"))
    file = SAMPLES / "coco/annotations/instances_val2017.json"
    official = reference.COCO(str(file))
    assert len(dataset) == 4
    assert sum(len(t.boxes) for i in range(4) for t in dataset.sample(i).targets) == len(
        json.loads(file.read_text())["annotations"]
    )
    assert len(dataset.class_names) == 80
    for index in range(4):
        sample = dataset.sample(index)
        rows = official.loadAnns(official.getAnnIds([int(sample.image_id)]))
        (target,) = sample.targets
        for row, box, mask in zip(rows, target.boxes, target.masks, strict=True):
            x, y, w, h = row["bbox"]
            assert np.allclose(box, [x, y, x + w, y + h])
            assert np.array_equal(mask.decode(), official.annToMask(row).astype(bool))
        assert dataset.load_image(index).shape == (sample.height, sample.width, 3)


def test_imagenet() -> None:
    dataset = ImageNet(root=str(SAMPLES / "imagenet"))
    lines = (SAMPLES / "imagenet/wsol_metadata/ILSVRC/test/localization.txt").read_text().split()
    assert len(dataset) == len(list((SAMPLES / "imagenet/ILSVRC2012_img_val").iterdir())) == 16
    samples = [dataset.sample(index) for index in range(16)]
    assert sum(len(t.boxes) for s in samples for t in s.targets) == len(lines) == 19
    assert all(len(s.targets) == 1 and not s.error and not s.problems for s in samples)
    first = next(s for s in samples if s.image_id == "ILSVRC2012_val_00047918")
    assert first.targets[0].boxes.tolist() == [[134, 32, 500, 357]]
    assert first.targets[0].class_name == "Keeshond"
    for index, sample in enumerate(samples):
        assert dataset.load_image(index).shape == (sample.height, sample.width, 3)


def test_imagenetv2_metadata() -> None:
    dataset = ImageNetV2(root=str(SAMPLES / "imagenetv2_metadata"))
    boxes: dict[str, list[list[float]]] = {}
    for line in (SAMPLES / "imagenetv2_metadata/localization.txt").read_text().split():
        name, *values = line.split(",")
        boxes.setdefault(name, []).append([float(value) for value in values])
    found = 0
    for index in range(len(dataset)):
        sample = dataset.sample(index)
        assert not sample.error
        assert not sample.problems
        (target,) = sample.targets
        expected = np.array(boxes[f"val2/{sample.image_id}"])
        assert np.array_equal(target.boxes, expected + np.array([0, 0, 1, 1]))
        assert target.class_id == int(sample.image_id.split("/")[0])
        found += len(target.boxes)
    assert (len(dataset), found) == (10_000, 18_532)


def test_annotations_refer_to_stored_pixels() -> None:
    """The sizes that the annotations state are those of the files as stored, whatever EXIF says."""
    dataset = VOC(root=str(SAMPLES), year=2012, split="val")
    for index in range(len(dataset)):
        sample = dataset.sample(index)
        with Image.open(dataset.image_file(index)) as image:
            assert image.size == (sample.width, sample.height)
