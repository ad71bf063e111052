"""The same scenes through every format give the same boxes, masks and metric values."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.base import Sample, Target
from decomcam_bench.datasets.custom.dataset import Custom
from decomcam_bench.datasets.toybox.dataset import ToyBox
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES, Scene
from decomcam_bench.metrics.base import PairMap
from decomcam_bench.metrics.energy import Energy
from decomcam_bench.metrics.pointing import PointingGame
from tests.datasets import layouts

SIDE = layouts.SIDE
Drawn = dict[int, Scene]


def _images(folder: Path, drawn: Drawn, ending: str = "jpg") -> None:
    for number, scene in drawn.items():
        layouts.save(folder / f"{number:06d}.{ending}", scene.image)


def _csv(root: Path, drawn: Drawn) -> dict[str, Any]:
    _images(root / "images", drawn)
    with (root / "annotations.csv").open("w", newline="") as handle:
        writer = csv.writer(handle, delimiter=";")
        writer.writerow(["filename", "label", "xmin", "ymin", "xmax", "ymax", "mask"])
        for number, scene in drawn.items():
            for place, instance in enumerate(scene.instances):
                mask = f"masks/{number}_{place}.png"
                layouts.save(root / mask, instance.mask.astype(np.uint8) * 255)
                writer.writerow([f"{number:06d}.jpg", CLASS_NAMES[instance.class_id], *instance.box, mask])
    return {}


def _coco(root: Path, drawn: Drawn) -> dict[str, Any]:
    content = layouts.coco_content(drawn)
    for image in content["images"]:
        image["file_name"] = f"{image['id']:06d}.jpg"
    _images(root / "train", drawn)
    (root / "train" / "_annotations.coco.json").write_text(json.dumps(content))
    return {}


def _voc(root: Path, drawn: Drawn) -> dict[str, Any]:
    _images(root, drawn, "png")
    for number, scene in drawn.items():
        objects = [(CLASS_NAMES[i.class_id], (i.box[0] + 1, i.box[1] + 1, i.box[2], i.box[3])) for i in scene.instances]
        (root / f"{number:06d}.xml").write_text(layouts.voc_xml(objects))
    return {}


def _yolo(root: Path, drawn: Drawn) -> dict[str, Any]:
    _images(root / "images" / "val", drawn)
    (root / "labels" / "val").mkdir(parents=True)
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASS_NAMES))
    (root / "data.yaml").write_text(f"path: .\nval: images/val\nnames:\n{names}")
    for number, scene in drawn.items():
        lines = []
        for instance in scene.instances:
            x0, y0, x1, y1 = (value / SIDE for value in instance.box)
            lines.append(f"{instance.class_id} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}")
        (root / "labels" / "val" / f"{number:06d}.txt").write_text("\n".join(lines))
    return {}


def _semantic(root: Path, drawn: Drawn) -> dict[str, Any]:
    _images(root / "images", drawn)
    for number, scene in drawn.items():
        labels = np.full((SIDE, SIDE), 200, np.uint8)
        for instance in scene.instances:
            labels[instance.mask] = instance.class_id + 10
        layouts.save(root / "labels" / f"{number:06d}.png", labels)
    classes = {number + 10: name for number, name in enumerate(CLASS_NAMES)}
    return {"format": "semantic", "annotations": "labels", "images": "images", "classes": classes, "void": [200]}


WRITERS: dict[str, Callable[[Path, Drawn], dict[str, Any]]] = {
    "csv": _csv, "coco": _coco, "voc": _voc, "yolo": _yolo, "semantic": _semantic,
}  # fmt: skip


def _values(target: Target, sample: Sample, region: str) -> list[Any]:
    rng = np.random.default_rng(7)
    found = []
    for _ in range(3):
        saliency = rng.random((sample.height, sample.width)).astype(np.float32)
        pair = PairMap(saliency, lambda array: array, target, sample.width, sample.height)
        found += [PointingGame(region=region, tolerance=2).evaluate(pair), Energy(region=region).evaluate(pair)]
    return found


@pytest.mark.parametrize("name", WRITERS)
def test_same_boxes_masks_and_values_as_toybox(tmp_path: Path, name: str) -> None:
    drawn = layouts.scenes(4, one_object=True)
    options = WRITERS[name](tmp_path, drawn)
    dataset, toybox = Custom(root=str(tmp_path), **options), ToyBox(size=200)
    assert dataset.kind == name
    assert len(dataset) == len(drawn)
    for index, number in enumerate(drawn):
        sample, expected = dataset.sample(index), toybox.sample(number)
        assert (sample.error, sample.problems) == ("", ())
        assert np.array_equal(dataset.load_image(index), toybox.load_image(number))
        mine, theirs = ({t.class_name: t for t in one.targets} for one in (sample, expected))
        assert mine.keys() == theirs.keys()
        for class_name, target in mine.items():
            reference = theirs[class_name]
            assert target.boxes.tolist() == reference.boxes.tolist()
            if name != "semantic":
                assert _values(target, sample, "box") == _values(reference, expected, "box")
            if name in ("csv", "coco", "semantic"):
                assert np.array_equal(target.object_mask(), reference.object_mask())
            if name in ("csv", "coco"):
                assert _values(target, sample, "mask") == _values(reference, expected, "mask")


def test_texts_are_the_classes_that_a_file_declares_or_else_uses(tmp_path: Path) -> None:
    drawn = layouts.scenes(4, one_object=True)
    used = {CLASS_NAMES[instance.class_id] for scene in drawn.values() for instance in scene.instances}
    assert len(used) < len(CLASS_NAMES)
    for name, write in WRITERS.items():
        dataset = Custom(root=str(tmp_path / name), **_made(tmp_path / name, write, drawn))
        assert set(dataset.class_names) == (used if name in ("csv", "voc") else set(CLASS_NAMES))


def _made(root: Path, write: Callable[[Path, Drawn], dict[str, Any]], drawn: Drawn) -> dict[str, Any]:
    root.mkdir()
    return write(root, drawn)


def test_annotations_of_several_formats_are_not_guessed_at(tmp_path: Path) -> None:
    drawn = layouts.scenes(2)
    _voc(tmp_path, drawn)
    _coco(tmp_path, drawn)
    with pytest.raises(DataError, match=r"several formats .*coco \(train/_annot.*\), voc .*dataset\.format=NAME"):
        Custom(root=str(tmp_path))
    assert Custom(root=str(tmp_path), format="voc").kind == "voc"
    with pytest.raises(DataError, match=r"dataset\.format=yolo: no annotation of this format under"):
        Custom(root=str(tmp_path), format="yolo")


def test_values_of_label_pictures(tmp_path: Path) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[2:6, 3:9], labels[10:12, 3:9], labels[15:, :] = 1, 7, 255
    layouts.save(tmp_path / "labels" / "a.png", labels)
    layouts.save(tmp_path / "images" / "a.jpg", np.zeros((20, 30, 3), np.uint8))
    options: dict[str, Any] = {"root": str(tmp_path), "format": "semantic", "annotations": "labels", "use": "mask"}
    sample = Custom(**options, classes=["cat", "dog"]).sample(0)
    (target,) = sample.targets
    assert target.boxes.tolist() == [[3, 2, 9, 6]]
    assert np.array_equal(target.object_mask(), labels == 1)
    assert np.array_equal(target.ignored[0].decode(), labels == 255)
    assert [p.reason for p in sample.problems] == ["the value 7 has no name; its 12 pixels count as background"]
    (tmp_path / "names.txt").write_text("1: cat\n7: dog\n")
    found = Custom(**options, classes="names.txt").sample(0)
    assert [t.class_name for t in found.targets] == ["cat", "dog"]
    with pytest.raises(DataError, match=r"needs the names of the values: dataset\.classes="):
        Custom(**options)
    Image.fromarray(labels[:, :-1]).save(tmp_path / "labels" / "a.png")
    assert "29 x 20 pixels, its image 30 x 20" in Custom(**options, classes=["cat"]).sample(0).error
