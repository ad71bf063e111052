"""Every kind of damage becomes a record with file and reason, and the rest of the set goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.datasets.base import Dataset, Sample
from decomcam_bench.datasets.benchmarks.coco import COCO
from decomcam_bench.datasets.benchmarks.cub import CUB
from decomcam_bench.datasets.benchmarks.imagenet import ImageNet
from decomcam_bench.datasets.benchmarks.imagenetv2 import ImageNetV2
from decomcam_bench.datasets.benchmarks.partimagenet import PartImageNet
from decomcam_bench.datasets.benchmarks.voc import VOC
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES
from tests.datasets import layouts

NAMES = list(CLASS_NAMES)


def _others_survive(dataset: Dataset, spoilt: int) -> None:
    for index in range(len(dataset)):
        if index != spoilt:
            sample = dataset.sample(index)
            assert not sample.error
            assert not sample.problems
            assert sample.targets
            assert dataset.load_image(index).shape == (160, 160, 3)


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    return layouts.write_voc(tmp_path, layouts.scenes(3))


def _voc(root: Path) -> VOC:
    return VOC(root=str(root), year=2012, split="val", classes=NAMES)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation><object><name>&c;</name></object></annotation>'
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><folder>&x;</folder></annotation>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<annotation><object>", "malformed"),
        ("", "malformed"),
        ("not xml at all", "malformed"),
        (BOMB, "entities are refused"),
        (OUTSIDE, "entities are refused"),
        ("<html></html>", "not an annotation file"),
        ("<annotation>" + " " * 4_000_001 + "</annotation>", "too many for an annotation"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "malformed"),
        ("\x00\x01", "malformed"),
        (None, "the annotation is missing"),
    ],
)
def test_voc_xml_that_cannot_be_read(voc_root: Path, content: str | None, reason: str) -> None:
    file = sorted((voc_root / "VOC2012" / "Annotations").iterdir())[0]
    file.unlink() if content is None else file.write_text(content)
    dataset = _voc(voc_root)
    sample = dataset.sample(0)
    assert str(file) in sample.error
    assert reason in sample.error
    assert sample.targets == ()
    assert "\n" not in sample.error
    _others_survive(dataset, 0)


def test_voc_xml_of_deep_nesting(voc_root: Path) -> None:
    file = sorted((voc_root / "VOC2012" / "Annotations").iterdir())[0]
    file.write_text("<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>")
    dataset = _voc(voc_root)
    assert dataset.sample(0).targets == ()
    _others_survive(dataset, 0)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((30, 30, 20, 50), "no area"),
        ((30, 30, 29, 50), "no area"),
        ((300, 300, 320, 320), "outside the image"),
        ((-50, -50, -10, -10), "outside the image"),
        (("x", 1, 2, 3), "without a box"),
        (("nan", 1, 20, 30), "without a box"),
        (("inf", 1, 20, 30), "without a box"),
    ],
)
def test_voc_box_that_cannot_be_used_loses_its_pair(voc_root: Path, box: Any, reason: str) -> None:
    file = sorted((voc_root / "VOC2012" / "Annotations").iterdir())[0]
    file.write_text(layouts.voc_xml([("house", box), ("tree", (1, 1, 50, 50))]))
    dataset = _voc(voc_root)
    sample = dataset.sample(0)
    assert [t.class_name for t in sample.targets] == ["tree"]
    (problem,) = sample.lost
    assert (problem.class_name, problem.class_id, problem.file) == ("house", 0, str(file))
    assert problem.image_id == sample.image_id
    assert reason in problem.reason
    _others_survive(dataset, 0)


def test_voc_pair_goes_on_with_its_other_objects(voc_root: Path) -> None:
    file = sorted((voc_root / "VOC2012" / "Annotations").iterdir())[0]
    file.write_text(layouts.voc_xml([("house", (30, 30, 20, 50)), ("house", (1, 1, 50, 50))]))
    sample = _voc(voc_root).sample(0)
    assert sample.targets[0].boxes.tolist() == [[0, 0, 50, 50]]
    assert len(sample.problems) == 1
    assert sample.lost == ()


def test_voc_box_over_the_border_is_clipped_and_noted(voc_root: Path) -> None:
    file = sorted((voc_root / "VOC2012" / "Annotations").iterdir())[0]
    file.write_text(layouts.voc_xml([("house", (-5, 10, 200, 160))]))
    sample = _voc(voc_root).sample(0)
    assert sample.targets[0].boxes.tolist() == [[0, 9, 160, 160]]
    assert "was clipped" in sample.problems[0].reason
    assert sample.lost == ()


def test_voc_fractional_boxes_stay(voc_root: Path) -> None:
    file = sorted((voc_root / "VOC2012" / "Annotations").iterdir())[0]
    file.write_text(layouts.voc_xml([("house", (45.700000762939, 10.5, 60.25, 70))]))
    sample = _voc(voc_root).sample(0)
    assert sample.targets[0].boxes.tolist() == [[44.700000762939, 9.5, 60.25, 70]]
    assert sample.problems == ()


def test_voc_unknown_class(voc_root: Path) -> None:
    file = sorted((voc_root / "VOC2012" / "Annotations").iterdir())[0]
    file.write_text(layouts.voc_xml([("hose", (1, 1, 5, 5)), ("tree", (1, 1, 50, 50))]))
    sample = _voc(voc_root).sample(0)
    (problem,) = sample.lost
    assert problem.class_id == -1
    assert problem.class_name == "hose"
    assert "did you mean 'house'" in problem.reason


def test_voc_ids(voc_root: Path) -> None:
    file = voc_root / "VOC2012" / "ImageSets" / "Main" / "val.txt"
    first = file.read_text().split()[0]
    file.write_text(f"{file.read_text()}{first}\n../../../../etc/passwd\n")
    dataset = _voc(voc_root)
    assert len(dataset) == 5
    assert dataset.image_id(3) == f"{first}#2"
    assert "more than once" in dataset.sample(3).error
    assert "leads out of" in dataset.sample(4).error
    assert not dataset.sample(0).error


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "size"])
def test_images(voc_root: Path, damage: str) -> None:
    dataset = _voc(voc_root)
    file = dataset.image_file(1)
    if damage == "missing":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        layouts.save(file, np.zeros((10, 20, 3), np.uint8))
    assert not dataset.sample(1).error
    with pytest.raises((ValueError, OSError)) as caught:
        dataset.load_image(1)
    assert str(file) in str(caught.value)
    _others_survive(dataset, 1)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_leaves_boxes_where_they_are(tmp_path: Path, orientation: int) -> None:
    """The annotated object is white: its box covers the white pixels of the stored picture only."""
    root = layouts.write_voc(tmp_path, {})
    folder = root / "VOC2012"
    stored = np.zeros((60, 100, 3), np.uint8)
    stored[8:24, 16:48] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (folder / "JPEGImages").mkdir()
    Image.fromarray(stored).save(folder / "JPEGImages" / "1.jpg", exif=exif, quality=98)
    (folder / "Annotations" / "1.xml").write_text(layouts.voc_xml([("house", (17, 9, 48, 24))], (100, 60)))
    (folder / "ImageSets" / "Main" / "val.txt").write_text("1\n")
    dataset = _voc(root)
    image, sample = dataset.load_image(0), dataset.sample(0)
    inside = sample.targets[0].box_mask(sample.height, sample.width)
    assert image.shape == (60, 100, 3)
    assert image[inside].min() > 200
    assert image[~inside].mean() < 5


def test_split_file_that_is_no_text(voc_root: Path) -> None:
    (voc_root / "VOC2012" / "ImageSets" / "Main" / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"val\.txt: cannot be read"):
        _voc(voc_root)


def test_voc_without_stated_size_asks_the_image(voc_root: Path) -> None:
    file = sorted((voc_root / "VOC2012" / "Annotations").iterdir())[0]
    file.write_text(file.read_text().replace("<width>160</width>", "<width>0</width>"))
    sample = _voc(voc_root).sample(0)
    assert (sample.width, sample.height, sample.error) == (160, 160, "")


Change = Callable[[dict[str, Any]], None]


def _coco(tmp_path: Path, change: Change, **options: Any) -> COCO:
    drawn = layouts.scenes(3)
    root = layouts.write_coco(tmp_path, drawn)
    content = layouts.coco_content(drawn)
    change(content)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return COCO(root=str(root), **options)


def _set(**changes: Any) -> Change:
    return lambda content: content["annotations"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set(bbox=[10, 10, 0, 20]), "no area"),
        (_set(bbox=[10, 10, -5, 20]), "no area"),
        (_set(bbox=[500, 500, 5, 20]), "outside the image"),
        (_set(bbox=[1, 2, 3]), "not four numbers"),
        (_set(bbox=[1, 2, 3, None]), "not four numbers"),
        (_set(segmentation={"size": [10, 10], "counts": [100]}), "run-length code of size"),
        (_set(segmentation={"size": [160, 160], "counts": [100]}), "do not add up"),
        (_set(segmentation={"size": [160, 160], "counts": "~~~"}), "run-length code"),
        (_set(segmentation=[]), "neither a list of polygons"),
        (_set(segmentation=[[1, 2, 3, 4]]), "annToMask"),
        (_set(category_id=2), "unknown category 2"),
        (_set(category_id=[1]), "unknown category"),
    ],
)
def test_coco_annotation_that_cannot_be_used(tmp_path: Path, change: Change, reason: str) -> None:
    sound = COCO(root=str(layouts.write_coco(tmp_path / "sound", layouts.scenes(3))))
    dataset = _coco(tmp_path / "bad", change)
    sample = dataset.sample(0)
    lost = sound.sample(0).targets[0] if len(sound.sample(0).targets[0].boxes) == 1 else None
    (problem,) = sample.problems
    assert problem.file.endswith("instances_val2017.json")
    assert reason in problem.reason
    assert "annotation 1" in problem.reason
    assert problem.pair_lost == (lost is not None)
    assert sum(len(t.boxes) for t in sample.targets) == sum(len(t.boxes) for t in sound.sample(0).targets) - 1
    _others_survive(dataset, 0)
    assert dataset.fingerprint != sound.fingerprint


def test_coco_key_points_alone_are_ignored(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        entry = {"id": 999, "image_id": content["images"][0]["id"], "category_id": 1, "keypoints": [1, 2, 2]}
        content["annotations"].append(entry)
        content["annotations"][0]["keypoints"] = [3, 4, 2]

    sound = COCO(root=str(layouts.write_coco(tmp_path / "sound", layouts.scenes(3))))
    dataset = _coco(tmp_path / "more", change)
    assert dataset.sample(0).problems == ()
    assert dataset.fingerprint == sound.fingerprint


def test_coco_crowds(tmp_path: Path) -> None:
    kept = _coco(tmp_path / "keep", _set(iscrowd=1))
    flagged = [flag for target in kept.sample(0).targets for flag in target.crowd]
    assert sum(flagged) == 1
    dropped = _coco(tmp_path / "drop", _set(iscrowd=1), crowds="drop")
    assert sum(len(t.boxes) for t in dropped.sample(0).targets) == len(flagged) - 1
    assert dropped.identity != kept.identity


def test_coco_ids(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"].append(dict(content["images"][0]))
        content["images"].append({"id": 10**6, "file_name": "../../secret.jpg", "width": 10, "height": 10})
        content["images"].append({"id": 10**6 + 1, "width": 10, "height": 10})
        content["images"].append({"id": 10**6 + 2, "file_name": "x.jpg", "width": -3, "height": 10})
        content["annotations"].append({**content["annotations"][0]})
        content["annotations"].append({**content["annotations"][0], "id": 5000, "image_id": 777777})

    dataset = _coco(tmp_path, change)
    assert len(dataset) == 7
    assert "occurs more than once" in dataset.sample(3).error
    assert "leads out of" in dataset.sample(4).error
    assert "no file_name" in dataset.sample(5).error
    assert "width -3" in dataset.sample(6).error
    assert "the id occurs more than once" in dataset.sample(0).problems[0].reason
    (orphan,) = dataset.problems
    assert "777777" in orphan.reason
    with pytest.raises(ValueError, match="leads out of"):
        dataset.load_image(4)
    assert dataset.load_image(0).shape == (160, 160, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not a JSON file"),
        ("[]", "not a COCO-style file"),
        ('{"images": []}', "not a COCO-style file"),
        ('{"images": [{}], "annotations": [], "categories": []}', "has no id"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "more than once",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": "1"}]}', "category without"),
        ("[" * 100_000, "not a JSON file"),
    ],
)
def test_coco_file_that_is_none(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(content)
    with pytest.raises(DataError, match=reason) as caught:
        COCO(root=str(tmp_path))
    assert "instances_val2017.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_partimagenet_polygon_that_breaks(tmp_path: Path) -> None:
    drawn = layouts.scenes(3, one_object=True)
    root = layouts.write_partimagenet(tmp_path, drawn)
    content = json.loads((root / "test.json").read_text())
    content["annotations"][0]["segmentation"] = [[5.0, 5.0, 9.0, 9.0]]
    (root / "test.json").write_text(json.dumps(content))
    part = content["categories"][content["annotations"][0]["category_id"]]["name"]
    whole = PartImageNet(root=str(root))
    (problem,) = whole.sample(0).problems
    assert "annToMask" in problem.reason
    assert not problem.pair_lost
    scene = next(iter(drawn.values()))
    instance = min(scene.instances, key=lambda i: list(scene.instances).index(i))
    broken = part.removeprefix(CLASS_NAMES[instance.class_id]).strip()
    rest = np.logical_or.reduce([mask for name, mask in instance.parts.items() if name != broken])
    target = next(t for t in whole.sample(0).targets if t.class_id == instance.class_id)
    assert np.array_equal(target.object_mask(), rest)
    _others_survive(whole, 0)
    parts = PartImageNet(root=str(root), unit="part")
    (lost,) = parts.sample(0).lost
    assert lost.class_name == part


def test_imagenet_damage(tmp_path: Path) -> None:
    drawn = layouts.scenes(4, one_class=True)
    root = layouts.write_imagenet(tmp_path, drawn)
    folder = root / "wsol_metadata" / "ILSVRC" / "test"
    names = (folder / "image_ids.txt").read_text().split()
    labels = (folder / "class_labels.txt").read_text().split()
    (folder / "class_labels.txt").write_text("\n".join([f"{names[0]},1000", *labels[1:]]))
    boxes = [line for line in (folder / "localization.txt").read_text().split() if not line.startswith(names[1])]
    (folder / "localization.txt").write_text("\n".join([*boxes, f"{names[2]},a,b,c,d"]))
    (folder / "image_ids.txt").write_text("\n".join([*names, names[3], "val/absent.JPEG"]))
    dataset = ImageNet(root=str(root))
    assert "the class '1000'" in dataset.sample(0).error
    assert "no box" in dataset.sample(1).lost[0].reason
    assert "not four numbers" in dataset.sample(2).problems[0].reason
    assert dataset.sample(2).targets
    assert "more than once" in dataset.sample(4).error
    assert "'val/absent.JPEG' has the class ''" in dataset.sample(5).error
    assert not dataset.sample(3).error


def test_imagenet_metadata_that_contradict_themselves(tmp_path: Path) -> None:
    root = layouts.write_imagenet(tmp_path, layouts.scenes(3, one_class=True))
    folder = root / "wsol_metadata" / "ILSVRC" / "test"
    names = (folder / "image_ids.txt").read_text().split()
    label = (folder / "class_labels.txt").read_text().split()[1].rpartition(",")[2]
    with (folder / "class_labels.txt").open("a") as handle:
        handle.write(f"\n{names[0]},999\n{names[1]},{label}\n")
    with (folder / "localization.txt").open("a") as handle:
        handle.write(f"\nval/strange.JPEG,1,2,3,4\n{names[1]},900,900,950,950\n")
    dataset = ImageNet(root=str(root))
    assert " and 999'" in dataset.sample(0).error
    assert not dataset.sample(1).error
    assert dataset.sample(1).problems[0].reason.startswith(f"{dataset.image_id(1)}: box ")
    assert not dataset.sample(2).problems
    (orphan,) = dataset.problems
    assert orphan.reason.startswith("1 of its boxes")
    assert "val/strange.JPEG" in orphan.reason


def test_imagenet_xml_damage(tmp_path: Path) -> None:
    drawn = layouts.scenes(4, one_class=True)
    root = layouts.write_imagenet(tmp_path, drawn, xml=True, folders=True)
    files = sorted((root / "ILSVRC2012_bbox_val_v3" / "val").iterdir())
    files[0].write_text(BOMB)
    files[1].unlink()
    files[2].write_text(layouts.voc_xml([("n99999999", (1, 1, 5, 5))]))
    images = sorted((root / "ILSVRC2012_img_val").rglob("*.JPEG"), key=lambda file: file.name)
    images[3].unlink()
    dataset = ImageNet(root=str(root))
    assert len(dataset) == 4
    assert "refused" in dataset.sample(0).error
    assert "missing" in dataset.sample(1).error
    assert "unknown class 'n99999999'" in dataset.sample(2).lost[0].reason
    assert not dataset.sample(3).error
    with pytest.raises(OSError, match="no such image"):
        dataset.load_image(3)


def test_imagenet_label_against_folder(tmp_path: Path) -> None:
    drawn = layouts.scenes(2, one_class=True)
    root = layouts.write_imagenet(tmp_path, drawn, folders=True)
    file = next((root / "ILSVRC2012_img_val").rglob("*.JPEG"))
    (root / "ILSVRC2012_img_val" / "n15075141").mkdir()
    file.rename(root / "ILSVRC2012_img_val" / "n15075141" / file.name)
    dataset = ImageNet(root=str(root))
    lost = [problem for index in range(2) for problem in dataset.sample(index).lost]
    assert len(lost) == 1
    assert "lies in the folder of n15075141" in lost[0].reason


def test_imagenetv2_folder_against_label(tmp_path: Path) -> None:
    drawn = layouts.scenes(2, one_class=True)
    root = layouts.write_imagenetv2(tmp_path, drawn)
    file = root / "wsol_metadata" / "ILSVRC" / "val" / "class_labels.txt"
    lines = file.read_text().split()
    file.write_text("\n".join([lines[0].rpartition(",")[0] + ",999", *lines[1:]]))
    dataset = ImageNetV2(root=str(root))
    assert "its label is 999" in dataset.sample(0).lost[0].reason
    assert dataset.sample(1).targets


def test_imagenetv2_folder_of_no_class(tmp_path: Path) -> None:
    drawn = layouts.scenes(2, one_class=True)
    folder = layouts.write_imagenetv2(tmp_path, drawn, "top-images") / "imagenetv2-top-images-format-val"
    (folder / "1000").mkdir()
    next(folder.rglob("*.jpeg")).rename(folder / "1000" / "7.jpeg")
    (folder / "5").write_text("")
    dataset = ImageNetV2(root=str(tmp_path), variant="top-images")
    assert [bool(dataset.sample(index).error) for index in range(len(dataset))] == [False, True]
    assert "1000/7.jpeg: there is no class 1000" in dataset.sample(1).error


def test_cub_damage(tmp_path: Path) -> None:
    drawn = {n: s for n, s in layouts.scenes(14, one_class=True).items() if len(s.instances) == 1}
    folder = layouts.write_cub(tmp_path, drawn) / "CUB_200_2011"

    def edit(name: str, number: int, line: str | None) -> None:
        lines = (folder / name).read_text().splitlines()
        lines[number : number + 1] = [] if line is None else [line]
        (folder / name).write_text("\n".join(lines))

    edit("bounding_boxes.txt", 0, "1 10 10 0 5")
    edit("bounding_boxes.txt", 1, "2 a b c d")
    edit("image_class_labels.txt", 2, "3 777")
    edit("bounding_boxes.txt", 3, None)
    edit("parts/part_locs.txt", 0, "1 999 1 1 1")
    with (folder / "bounding_boxes.txt").open("a") as handle:
        handle.write("\n4711 1 1 1 1\n")
    dataset = CUB(root=str(tmp_path))
    assert "no area" in dataset.sample(0).lost[0].reason
    assert "999" in dataset.sample(0).problems[0].reason
    assert "no box of four numbers" in dataset.sample(1).lost[0].reason
    assert "unknown class '777'" in dataset.sample(2).error
    assert "no box" in dataset.sample(3).lost[0].reason
    assert "4711" in dataset.problems[0].reason
    dataset.image_file(4).unlink()
    assert "no such image" in dataset.sample(4).error
    assert all(not dataset.sample(index).error for index in range(5, len(dataset)))


def test_cub_lines_that_are_cut_or_contradict_each_other(tmp_path: Path) -> None:
    drawn = {n: s for n, s in layouts.scenes(14, one_class=True).items() if len(s.instances) == 1}
    folder = layouts.write_cub(tmp_path, drawn) / "CUB_200_2011"
    sound = CUB(root=str(tmp_path)).fingerprint
    with (folder / "bounding_boxes.txt").open("a") as handle:
        handle.write("\n1 1 1 2 2\n")
    dataset = CUB(root=str(tmp_path))
    assert dataset.fingerprint != sound
    assert "bounding_boxes.txt: two lines of image 1 contradict" in dataset.sample(0).error
    labels = (folder / "image_class_labels.txt").read_text().splitlines()
    (folder / "image_class_labels.txt").write_text("\n".join([labels[0], "2", *labels[2:]]))
    dataset = CUB(root=str(tmp_path))
    assert "image 2 has the unknown class ''" in dataset.sample(1).error
    assert not dataset.sample(2).error
    with (folder / "classes.txt").open("a") as handle:
        handle.write("\n201\n")
    with pytest.raises(DataError, match=r"classes.txt: a class without a name"):
        CUB(root=str(tmp_path))


@pytest.mark.parametrize(
    "build",
    [
        lambda root: VOC(root=root),
        lambda root: COCO(root=root),
        lambda root: ImageNet(root=root),
        lambda root: ImageNetV2(root=root),
        lambda root: ImageNetV2(root=root, variant="top-images"),
        lambda root: PartImageNet(root=root),
        lambda root: CUB(root=root),
    ],
)
def test_missing_root_names_path_and_remedy(tmp_path: Path, build: Callable[[str], Dataset]) -> None:
    with pytest.raises(DataError) as caught:
        build(str(tmp_path / "nowhere" / "deep"))
    message = str(caught.value)
    assert str(tmp_path / "nowhere" / "deep") in message
    assert "decomcam-bench data prepare" in message
    assert "dataset.root=DIR" in message
    assert "\n" not in message


def test_a_root_that_is_misspelt_is_not_the_folder_above(tmp_path: Path) -> None:
    root = layouts.write_coco(tmp_path, layouts.scenes(2))
    assert len(COCO(root=str(root / "val2017"))) == 2
    with pytest.raises(DataError, match="val2071"):
        COCO(root=str(root / "val2071"))


def test_missing_split_names_the_others(voc_root: Path) -> None:
    with pytest.raises(DataError, match=r"did you mean 'val'.*there: val"):
        VOC(root=str(voc_root), year=2012, split="vall")


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: VOC(year=1999), "2012"),
        (lambda: VOC(classes=[]), "at least one"),
        (lambda: COCO(year=2012), "2017"),
        (lambda: COCO(split="test"), "val"),
        (lambda: COCO(crowds="maybe"), "keep"),
        (lambda: ImageNet(boxes="nothing"), "wsol"),
        (lambda: ImageNetV2(variant="top-image"), "did you mean 'top-images'"),
        (lambda: PartImageNet(unit="parts"), "did you mean 'part'"),
        (lambda: PartImageNet(split="x"), "test"),
        (lambda: CUB(split="val"), "test"),
        (lambda: CUB(names="latin"), "own"),
    ],
)
def test_options_out_of_range(build: Callable[[], Dataset], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        build()


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_a_changed_annotation_changes_the_fingerprint(tmp_path: Path) -> None:
    drawn = layouts.scenes(3, one_class=True)
    single = {n: s for n, s in layouts.scenes(8, one_class=True).items() if len(s.instances) == 1}
    voc = layouts.write_voc(tmp_path / "voc", drawn)
    xml = layouts.write_imagenet(tmp_path / "xml", drawn, xml=True)
    wsol = layouts.write_imagenet(tmp_path / "wsol", drawn)
    second = layouts.write_imagenetv2(tmp_path / "v2", drawn)
    coco = layouts.write_coco(tmp_path / "coco", drawn)
    part = layouts.write_partimagenet(tmp_path / "part", drawn)
    cub = layouts.write_cub(tmp_path / "cub", single)
    cases: list[tuple[Callable[[], Dataset], Path, str, str]] = [
        (lambda: _voc(voc), sorted((voc / "VOC2012/Annotations").iterdir())[0], "<difficult>0", "<difficult>1"),
        (
            lambda: ImageNet(root=str(xml)),
            sorted((xml / "ILSVRC2012_bbox_val_v3/val").iterdir())[1],
            "<ymin>",
            "<ymin>1",
        ),
        (lambda: ImageNet(root=str(wsol)), wsol / "wsol_metadata/ILSVRC/test/localization.txt", "JPEG,", "JPEG,1"),
        (lambda: ImageNetV2(root=str(second)), second / "wsol_metadata/ILSVRC/val/localization.txt", "jpeg,", "jpeg,1"),
        (lambda: COCO(root=str(coco)), coco / "annotations/instances_val2017.json", '"bbox": [', '"bbox": [1'),
        (lambda: COCO(root=str(coco)), coco / "annotations/instances_val2017.json", '"counts": "', '"counts": "0'),
        (lambda: PartImageNet(root=str(part)), part / "test.json", '"bbox": [', '"bbox": [1'),
        (lambda: CUB(root=str(cub)), cub / "CUB_200_2011/bounding_boxes.txt", "1 ", "1 1"),
        (lambda: CUB(root=str(cub)), cub / "CUB_200_2011/parts/part_locs.txt", "0 1\n", "5 1\n"),
    ]
    for build, file, old, new in cases:
        before = build().fingerprint
        assert build().fingerprint == before
        _replace(file, old, new)
        assert build().fingerprint != before, file


def test_the_fingerprint_does_not_depend_on_place_or_order(tmp_path: Path) -> None:
    drawn = layouts.scenes(3)
    places = [
        layouts.write_voc(tmp_path / "a", drawn),
        layouts.write_voc(tmp_path / "b", dict(reversed(drawn.items()))),
    ]
    first, backwards = map(_voc, places)
    assert first.image_id(0) == backwards.image_id(2)
    assert first.fingerprint == backwards.fingerprint
    for place in places:
        sorted((place / "VOC2012" / "Annotations").iterdir())[0].write_text("<annotation>")
    spoilt = [_voc(place).fingerprint for place in places]
    assert spoilt[0] == spoilt[1] != first.fingerprint


def test_a_lost_pair_is_part_of_the_fingerprint(voc_root: Path) -> None:
    sound = _voc(voc_root).fingerprint
    file = sorted((voc_root / "VOC2012" / "Annotations").iterdir())[0]
    _replace(file, "</annotation>", "<object><name>unicorn</name></object></annotation>")
    assert _voc(voc_root).fingerprint != sound


def test_sample_is_read_once(voc_root: Path) -> None:
    dataset = _voc(voc_root)
    first: Sample = dataset.sample(0)
    assert dataset.sample(0) is first
    with pytest.raises(IndexError):
        dataset.sample(3)


@pytest.mark.parametrize(
    ("write", "make"),
    [
        (layouts.write_voc, lambda root: _voc(root)),
        (layouts.write_cub, lambda root: CUB(root=str(root))),
        (layouts.write_imagenet, lambda root: ImageNet(root=str(root), classes=NAMES)),
        (layouts.write_imagenetv2, lambda root: ImageNetV2(root=str(root), classes=NAMES)),
    ],
)
def test_a_byte_order_mark_is_no_part_of_a_text_file(
    tmp_path: Path, write: Callable[..., Path], make: Callable[[Path], Dataset]
) -> None:
    root = write(tmp_path, layouts.scenes(3, one_class=True, one_object=True))
    before = make(root)
    for file in tmp_path.rglob("*.txt"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    after = make(root)
    assert after.fingerprint == before.fingerprint
    assert [after.image_id(index) for index in range(3)] == [before.image_id(index) for index in range(3)]
    _others_survive(after, -1)
