"""Damaged files: no reader breaks, hangs, or changes a number that the damage did not touch."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.core.errors import UserError
from decomcam_bench.datasets.base import Dataset
from decomcam_bench.datasets.benchmarks.coco import COCO
from decomcam_bench.datasets.benchmarks.cub import CUB
from decomcam_bench.datasets.benchmarks.imagenetv2 import ImageNetV2
from decomcam_bench.datasets.benchmarks.partimagenet import PartImageNet
from decomcam_bench.datasets.benchmarks.voc import VOC
from decomcam_bench.datasets.custom.dataset import Custom
from tests.datasets import layouts

WIDTH, HEIGHT = 300, 200
BOXES = {"a.png": ("cat", (10, 20, 150, 90)), "b.png": ("dog", (30, 5, 290, 120)), "c.png": ("cat", (7, 8, 201, 190))}
TOKENS = (
    b"NaN", b"1e999", b"-1", b"\0", b'"', b"{", b"]", b"<", b"</", b";", b",", b"null", b"9" * 30, b"9" * 400,
    b"\xff\xfe",
    b"\n", b"\t", b"true", b"[]", b"0.5", b"1_0", b"..", b"/", b"\\", b"&", b"\xc3\x28", b"Infinity", b"-0", b"''",
)  # fmt: skip
#: Longest time that opening and reading a damaged copy of a few hundred bytes may take.
SECONDS = 5.0

Made = tuple[Path, Callable[[], Dataset]]


def _images(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(BOXES):
        pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)


def _custom(root: Path, **options: Any) -> Callable[[], Dataset]:
    return lambda: Custom(name="custom", root=str(root), **options)


def _csv(root: Path) -> Made:
    _images(root)
    rows = "".join(f"{name},{label},{','.join(map(str, box))}\n" for name, (label, box) in BOXES.items())
    (root / "annotations.csv").write_text("image,class,x0,y0,x1,y1\n" + rows)
    return root / "annotations.csv", _custom(root)


def _json_content() -> dict[str, Any]:
    names = sorted({label for label, _ in BOXES.values()})
    rows = []
    for number, (label, (x0, y0, x1, y1)) in enumerate(BOXES.values(), start=1):
        polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
        rows.append({"id": number, "image_id": number, "category_id": names.index(label) + 1, "iscrowd": 0,
                     "bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": [polygon]})  # fmt: skip
    images = [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(BOXES, start=1)]
    return {
        "images": images,
        "annotations": rows,
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(names)],
    }


def _coco_json(root: Path) -> Made:
    _images(root)
    (root / "annotations.json").write_text(json.dumps(_json_content()))
    return root / "annotations.json", _custom(root, use="mask")


def _coco(root: Path) -> Made:
    _images(root / "val2017")
    (root / "annotations").mkdir()
    file = root / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(_json_content()))
    return file, lambda: COCO(name="coco", root=str(root))


def _xml(name: str, label: str, box: tuple[int, ...]) -> str:
    return layouts.voc_xml([(label, (box[0] + 1, box[1] + 1, box[2], box[3]))], (WIDTH, HEIGHT)).replace("x.jpg", name)


def _voc_xml(root: Path) -> Made:
    _images(root)
    for name, (label, box) in BOXES.items():
        (root / name).with_suffix(".xml").write_text(_xml(name, label, box))
    return root / "a.xml", _custom(root)


def _voc(root: Path) -> Made:
    folder = root / "VOC2012"
    _images(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "val.txt").write_text("a\nb\nc\n")
    for name, (label, box) in BOXES.items():
        (folder / "Annotations" / name).with_suffix(".xml").write_text(_xml(name, label, box))
    return folder / "Annotations" / "a.xml", lambda: VOC(name="voc", root=str(root), year=2012, split="val")


def _yolo_lines(root: Path) -> None:
    _images(root / "images")
    (root / "labels").mkdir()
    for name, (label, (x0, y0, x1, y1)) in BOXES.items():
        values = ((x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT, (x1 - x0) / WIDTH, (y1 - y0) / HEIGHT)
        line = f"{int(label == 'dog')} {' '.join(f'{value:.6f}' for value in values)}\n"
        (root / "labels" / name).with_suffix(".txt").write_text(line)
    (root / "data.yaml").write_text("names: {0: cat, 1: dog}\nval: images\n")


def _yolo(root: Path) -> Made:
    _yolo_lines(root)
    return root / "labels" / "a.txt", _custom(root, format="yolo")


def _yolo_names(root: Path) -> Made:
    _yolo_lines(root)
    return root / "data.yaml", _custom(root, format="yolo")


def _semantic(root: Path) -> Made:
    _images(root / "images")
    for number, (name, (_, (x0, y0, x1, y1))) in enumerate(BOXES.items(), start=1):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[y0:y1, x0:x1] = number
        layouts.save(root / "labels" / name, labels)
    options = {"format": "semantic", "annotations": "labels", "images": "images", "classes": ["cat", "dog", "hen"]}
    return root / "labels" / "a.png", _custom(root, use="mask", **options)


def _mask(root: Path) -> Made:
    _images(root)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:90, 10:150] = 255
    layouts.save(root / "m.png", mask)
    (root / "annotations.csv").write_text("image,class,mask\na.png,cat,m.png\n")
    return root / "m.png", _custom(root, use="mask")


def _labelme(root: Path) -> Made:
    _images(root)
    for name, (label, (x0, y0, x1, y1)) in BOXES.items():
        shape = {"label": label, "points": [[x0, y0], [x1, y1]], "group_id": None, "shape_type": "rectangle"}
        head = {"imagePath": name, "imageHeight": HEIGHT, "imageWidth": WIDTH, "imageData": None}
        (root / name).with_suffix(".json").write_text(json.dumps({**head, "shapes": [shape]}))
    return root / "a.json", _custom(root, format="labelme")


def _label_studio(root: Path) -> Made:
    _images(root)
    tasks = []
    for name, (label, (x0, y0, x1, y1)) in BOXES.items():
        value = {"x": x0 / 3, "y": y0 / 2, "width": (x1 - x0) / 3, "height": (y1 - y0) / 2, "rotation": 0}
        region = {"type": "rectanglelabels", "original_width": WIDTH, "original_height": HEIGHT}
        result = [{**region, "value": {**value, "rectanglelabels": [label]}}]
        tasks.append({"data": {"image": f"/data/upload/1/{name}"}, "annotations": [{"result": result}]})
    (root / "export.json").write_text(json.dumps(tasks))
    return root / "export.json", _custom(root, format="labelstudio")


def _cvat(root: Path) -> Made:
    _images(root)
    images = "".join(
        f'<image name="{name}" width="{WIDTH}" height="{HEIGHT}"><box label="{label}" xtl="{box[0]}" ytl="{box[1]}" '
        f'xbr="{box[2]}" ybr="{box[3]}"/></image>\n'
        for name, (label, box) in BOXES.items()
    )
    (root / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    return root / "annotations.xml", _custom(root, format="cvat")


def _datumaro(root: Path) -> Made:
    _images(root / "images" / "train")
    items = []
    for name, (label, (x0, y0, x1, y1)) in BOXES.items():
        row = {"id": 1, "type": "bbox", "label_id": int(label == "dog"), "bbox": [x0, y0, x1 - x0, y1 - y0]}
        items.append({"id": name[0], "annotations": [row], "image": {"path": name, "size": [HEIGHT, WIDTH]}})
    labels = {"label": {"labels": [{"name": "cat"}, {"name": "dog"}]}}
    (root / "annotations").mkdir()
    file = root / "annotations" / "train.json"
    file.write_text(json.dumps({"categories": labels, "items": items}))
    return file, _custom(root, format="datumaro")


def _metadata(root: Path) -> Made:
    layouts.write_imagenetv2(root, layouts.scenes(3, one_class=True))
    return root / "wsol_metadata/ILSVRC/val/localization.txt", lambda: ImageNetV2(name="imagenetv2", root=str(root))


def _cub(root: Path) -> Made:
    layouts.write_cub(root, layouts.scenes(3, one_class=True, one_object=True))
    return root / "CUB_200_2011" / "bounding_boxes.txt", lambda: CUB(name="cub", root=str(root))


def _parts(root: Path) -> Made:
    layouts.write_partimagenet(root, layouts.scenes(3, one_object=True))
    return root / "test.json", lambda: PartImageNet(name="partimagenet", root=str(root))


READERS: dict[str, Callable[[Path], Made]] = {
    "csv": _csv, "coco_json": _coco_json, "coco": _coco, "voc_xml": _voc_xml, "voc": _voc, "yolo": _yolo,
    "yolo_names": _yolo_names, "semantic": _semantic, "mask": _mask, "labelme": _labelme, "label_studio": _label_studio,
    "cvat": _cvat, "datumaro": _datumaro, "metadata": _metadata, "cub": _cub, "partimagenet": _parts,
}  # fmt: skip


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Damaged copies: pieces cut out, doubled, swapped or replaced, bytes and tokens put in, ends cut off."""
    rng = random.Random(seed)
    for _ in range(count):
        body = data
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            start = rng.randrange(len(body) + 1)
            end = min(len(body), start + rng.choice((1, 2, 5, 20, 200)))
            kind = rng.randrange(7)
            if kind == 0:
                body = body[:start] + body[end:]
            elif kind == 1:
                body = body[:end] + body[start:end] + body[end:]
            elif kind == 2:
                body = body[:start] + rng.randbytes(end - start) + body[end:]
            elif kind == 3:
                body = body[:start] + rng.choice(TOKENS) + body[start:]
            elif kind == 4:
                body = body[:start] + rng.choice(TOKENS) + body[end:]
            elif kind == 5:
                body = body[:start]
            else:
                lines = body.split(b"\n")
                rng.shuffle(lines)
                body = b"\n".join(lines)
            if not body:
                break
        yield body


def _read_all(make: Callable[[], Dataset]) -> dict[str, Any] | None:
    """Everything that a run reads, by image; None for a data set that is refused with one line."""
    try:
        dataset = make()
    except UserError as error:
        return None if "\n" not in str(error) else {"several lines": str(error)}
    found: dict[str, Any] = {}
    for index in range(len(dataset)):
        sample = dataset.sample(index)
        assert "\n" not in sample.error
        for target in sample.targets:
            assert np.isfinite(target.boxes).all()
            assert (target.boxes >= 0).all()
            assert (target.boxes[:, [0, 2]] <= sample.width).all()
            assert (target.boxes[:, [1, 3]] <= sample.height).all()
            for mask in target.masks:
                try:
                    assert mask.decode().shape == (sample.height, sample.width)
                except ValueError:
                    continue
        try:
            dataset.load_image(index)
        except (OSError, ValueError):
            found[sample.image_id] = "refused"
            continue
        noted = bool(sample.error or sample.problems)
        boxes = {target.class_name: target.boxes.tolist() for target in sample.targets}
        found[sample.image_id] = "noted" if noted else boxes
    dataset.fingerprint  # noqa: B018
    return found


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.long)])
def test_damaged_files_are_read_or_refused(tmp_path: Path, name: str, count: int) -> None:
    file, make = READERS[name](tmp_path)
    assert _read_all(make)
    data = file.read_bytes()
    for number, body in enumerate(mutations(data, count, seed=len(name))):
        file.write_bytes(body)
        began = time.monotonic()
        try:
            assert "several lines" not in (_read_all(make) or {})
        except BaseException:
            print(f"{name}: mutation {number}: {body[:2000]!r}")
            raise
        assert time.monotonic() - began < SECONDS


TEXTS = [name for name in READERS if name not in ("semantic", "mask", "yolo_names", "partimagenet")]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("count", [25, pytest.param(2000, marks=pytest.mark.long)])
def test_a_changed_digit_changes_the_numbers_of_its_own_image_alone(tmp_path: Path, name: str, count: int) -> None:
    """An id that is changed may move an annotation: from one image to another."""
    file, make = READERS[name](tmp_path)
    before = _read_all(make)
    assert before is not None
    data, rng = file.read_bytes(), random.Random(len(name))
    digits = [match.start() for match in re.finditer(rb"(?<![A-Za-z_])\d", data)]
    for _ in range(count):
        place = rng.choice(digits)
        file.write_bytes(data[:place] + str(rng.randrange(10)).encode() + data[place + 1 :])
        after = _read_all(make)
        if after is None:
            continue
        changed = [key for key in before if after.get(key) not in (before[key], "refused", "noted")]
        assert len(changed) <= 2, (name, file.read_bytes())
