"""Exports as annotation tools write them: their layouts, paths, units and oddities."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.dataset import Custom
from decomcam_bench.datasets.custom.label_studio import decode_brush

WIDTH, HEIGHT = 120, 90


def _save(*files: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (7, 8, 9)).save(file)


def _found(dataset: Custom) -> dict[str, dict[str, Any]]:
    """Boxes and mask pixels by image and class; nothing may be wrong."""
    samples = [dataset.sample(index) for index in range(len(dataset))]
    assert not [s.error for s in samples if s.error]
    for index in range(len(dataset)):
        dataset.load_image(index)
    return {
        s.image_id: {
            t.class_name: (t.boxes.tolist(), None if t.object_mask() is None else int(t.object_mask().sum()))
            for t in s.targets
        }
        for s in samples
    }


def _rectangle(x: float, y: float, w: float, h: float, name: str, turn: float = 0) -> dict[str, Any]:
    value = {"x": x / 1.2, "y": y / 0.9, "width": w / 1.2, "height": h / 0.9, "rotation": turn}
    sides = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": name, "type": "rectanglelabels", **sides, "value": {**value, "rectanglelabels": [name]}}


def _polygon(points: list[tuple[float, float]], name: str) -> dict[str, Any]:
    value = {"points": [[x / 1.2, y / 0.9] for x, y in points], "closed": True, "polygonlabels": [name]}
    return {"id": name, "type": "polygonlabels", "original_width": WIDTH, "original_height": HEIGHT, "value": value}


SQUARE = [(60.0, 40.0), (90.0, 40.0), (90.0, 70.0), (60.0, 70.0)]


def test_label_studio_json(tmp_path: Path) -> None:
    _save(tmp_path / "images" / "1a2b3c4d-a.jpg", tmp_path / "b.jpg")
    regions = [
        _rectangle(10, 20, 30, 25, "cat"),
        _polygon(SQUARE, "cat"),
        {"type": "choices", "value": {"choices": ["x"]}},
    ]
    phrase = {**_rectangle(1, 2, 30, 40, "x"), "type": "rectangle", "id": "r"}
    del phrase["value"]["rectanglelabels"]
    text = {"id": "r", "type": "textarea", "value": {"text": ["the left one"]}}
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/3/1a2b3c4d-a.jpg"}, "annotations": [{"result": regions}]},
        {"id": 2, "data": {"img": "/data/upload/3/9f8e7d6c-b.jpg"}, "annotations": [
            {"result": [_rectangle(0, 0, 9, 9, "hen")], "was_cancelled": True}, {"result": [phrase, text]}]},
    ]  # fmt: skip
    (tmp_path / "project-1-at-2024.json").write_text(json.dumps(tasks))
    dataset = Custom(root=str(tmp_path), use="mask")
    assert _found(dataset) == {
        "1a2b3c4d-a.jpg": {"cat": ([[10, 20, 40, 45], [60, 40, 90, 70]], 900)},
        "9f8e7d6c-b.jpg": {"the left one": ([[1, 2, 31, 42]], None)},
    }
    assert dataset.free_texts == {1}
    assert "1 of 2 annotations of 'cat' have no mask" in dataset.sample(0).problems[0].reason


def test_label_studio_json_min_and_csv(tmp_path: Path) -> None:
    values = [
        {**one["value"], "original_width": WIDTH, "original_height": HEIGHT}
        for one in (_rectangle(10, 20, 30, 25, "cat"),)
    ]
    expected = {"cat": ([[10, 20, 40, 45]], None)}
    for name in ("min", "csv"):
        _save(tmp_path / name / "a.jpg")
    (tmp_path / "min" / "result.json").write_text(
        json.dumps([{"image": "/data/upload/3/1a2b3c4d-a.jpg", "id": 1, "label": values, "annotator": 1}])
    )
    assert _found(Custom(root=str(tmp_path / "min"))) == {"1a2b3c4d-a.jpg": expected}
    cell = json.dumps(values).replace('"', '""')
    (tmp_path / "csv" / "x.csv").write_text(f'image,id,label,annotator\n/data/upload/3/1a2b3c4d-a.jpg,1,"{cell}",1\n')
    assert _found(Custom(root=str(tmp_path / "csv"))) == {"/data/upload/3/1a2b3c4d-a.jpg": expected}


def test_label_studio_turned_rectangle_and_ellipse(tmp_path: Path) -> None:
    _save(tmp_path / "a.jpg")
    ellipse = {**_rectangle(0, 0, 1, 1, "dog"), "type": "ellipselabels"}
    ellipse["value"] = {
        "x": 50,
        "y": 50,
        "radiusX": 10 / 1.2,
        "radiusY": 20 / 0.9,
        "rotation": 0,
        "ellipselabels": ["dog"],
    }
    regions = [_rectangle(50, 20, 30, 20, "cat", 90), ellipse]
    (tmp_path / "x.json").write_text(json.dumps([{"data": {"image": "a.jpg"}, "annotations": [{"result": regions}]}]))
    found = _found(Custom(root=str(tmp_path)))["a.jpg"]
    assert np.allclose(found["cat"][0], [[30, 20, 50, 50]])
    assert found["cat"][1] == 600
    assert np.allclose(found["dog"][0], [[50, 25, 70, 65]], atol=0.02)
    assert found["dog"][1] == pytest.approx(np.pi * 200, rel=0.02)


def _encoded(mask: np.ndarray) -> list[int]:
    """Encode as the format is defined, without runs: one literal block."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    bits = f"{len(values):032b}{7:05b}" + f"{15:04b}" * 4
    for start in range(0, len(values), 1000):
        block = values[start : start + 1000]
        bits += f"0{0:02b}{len(block) - 1:016b}" + "".join(f"{value:08b}" for value in block)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def test_label_studio_brush(tmp_path: Path) -> None:
    _save(tmp_path / "a.jpg")
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:20, 30:70] = True
    region = {**_rectangle(0, 0, 1, 1, "cat"), "type": "brushlabels"}
    region["value"] = {"format": "rle", "rle": _encoded(mask), "brushlabels": ["cat"]}
    (tmp_path / "x.json").write_text(json.dumps([{"data": {"image": "a.jpg"}, "annotations": [{"result": [region]}]}]))
    dataset = Custom(root=str(tmp_path), use="mask")
    assert np.array_equal(dataset.sample(0).targets[0].object_mask(), mask)
    assert dataset.sample(0).targets[0].boxes.tolist() == [[30, 10, 70, 20]]
    with pytest.raises(ValueError, match="code is cut"):
        decode_brush(_encoded(mask)[:-9], HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="values for 12 x 9 pixels"):
        decode_brush(_encoded(mask), 9, 12)


def test_label_studio_coco_yolo_and_voc(tmp_path: Path) -> None:
    """As its converter writes them: sums that are not whole, upload paths, class numbers from 0, coordinates from 0."""
    for name in ("coco", "yolo", "voc"):
        _save(tmp_path / name / "images" / "1a2b3c4d-a.jpg")
    content = {
        "images": [{"width": WIDTH, "height": HEIGHT, "id": 0, "file_name": "/data/upload/3/1a2b3c4d-a.jpg"}],
        "categories": [{"id": 0, "name": "bee"}, {"id": 1, "name": "cat"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "segmentation": [], "ignore": 0, "iscrowd": 0,
                         "bbox": [10.000000000000002, 20.0, 30.0, 29.999999999999986], "area": 900.0}],
        "info": {"contributor": "Label Studio"},
    }  # fmt: skip
    (tmp_path / "coco" / "result.json").write_text(json.dumps(content))
    dataset = Custom(root=str(tmp_path / "coco"))
    assert _found(dataset) == {"0": {"cat": ([[10, 20, 40, 50]], None)}}
    assert list(dataset.class_names) == ["bee", "cat"]
    (tmp_path / "yolo" / "labels").mkdir()
    (tmp_path / "yolo" / "labels" / "1a2b3c4d-a.txt").write_text(
        "1 0.20833333333333337 0.38888888888888884 0.25 0.3333333333333333\n"
    )
    (tmp_path / "yolo" / "classes.txt").write_text("bee\ncat")
    (tmp_path / "yolo" / "notes.json").write_text('{"categories": [], "info": {}}')
    assert _found(Custom(root=str(tmp_path / "yolo"))) == {"1a2b3c4d-a": {"cat": ([[10, 20, 40, 50]], None)}}
    (tmp_path / "voc" / "Annotations").mkdir()
    (tmp_path / "voc" / "Annotations" / "1a2b3c4d-a.xml").write_text(
        "<annotation><folder>images</folder><filename>1a2b3c4d-a.jpg</filename><source><database>MyDatabase</database>"
        "</source><owner><name>Label Studio</name></owner><size><width>120</width><height>90</height></size><object>"
        "<name>cat</name><pose>Unspecified</pose><difficult>Unspecified</difficult><bndbox><xmin>10</xmin><ymin>20</ymin>"
        "<xmax>40</xmax><ymax>50</ymax></bndbox></object></annotation>"
    )
    assert _found(Custom(root=str(tmp_path / "voc"))) == {"1a2b3c4d-a": {"cat": ([[10, 20, 40, 50]], None)}}


def test_roboflow_coco_csv_voc_and_yolo(tmp_path: Path) -> None:
    image = "a_jpg.rf.0123abcd.jpg"
    for name in ("coco", "csv", "voc", "yolo"):
        for split in ("train", "valid"):
            _save(tmp_path / name / split / ("images" if name == "yolo" else "") / image)
        (tmp_path / name / "README.dataset.txt").write_text("made by Roboflow\n")
    for split, shift in (("train", 0), ("valid", 5)):
        box = [10 + shift, 20, 30, 25]
        content = {
            "images": [{"id": 0, "file_name": image, "height": HEIGHT, "width": WIDTH}],
            "categories": [
                {"id": 0, "name": "pets", "supercategory": "none"},
                {"id": 1, "name": "cat", "supercategory": "pets"},
            ],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": box, "segmentation": [], "iscrowd": 0}],
        }
        (tmp_path / "coco" / split / "_annotations.coco.json").write_text(json.dumps(content))
        corners = (box[0], 20, box[0] + 30, 45)
        row = ",".join(map(str, (image, WIDTH, HEIGHT, "cat", *corners)))
        (tmp_path / "csv" / split / "_annotations.csv").write_text(
            f"filename,width,height,class,xmin,ymin,xmax,ymax\n{row}\n"
        )
        tags = "".join(
            f"<{k}>{v}</{k}>"
            for k, v in zip(("xmin", "xmax", "ymin", "ymax"), (corners[0], corners[2], 20, 45), strict=True)
        )
        (tmp_path / "voc" / split / "a_jpg.rf.0123abcd.xml").write_text(
            f"<annotation><filename>{image}</filename><source><database>roboflow.com</database></source>"
            f"<object><name>cat</name><bndbox>{tags}</bndbox></object></annotation>"
        )
        (tmp_path / "yolo" / split / "labels").mkdir(parents=True)
        (tmp_path / "yolo" / split / "labels" / "a_jpg.rf.0123abcd.txt").write_text(
            f"0 {(box[0] + 15) / WIDTH} {32.5 / HEIGHT} {30 / WIDTH} {25 / HEIGHT}"
        )
    (tmp_path / "yolo" / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n"
    )
    for name in ("coco", "csv", "voc", "yolo"):
        both, one = Custom(root=str(tmp_path / name)), Custom(root=str(tmp_path / name), split="valid")
        assert list(both.class_names) == ["cat"]
        assert [value["cat"][0] for value in _found(both).values()] == [[[10, 20, 40, 45]], [[15, 20, 45, 45]]], name
        assert [value["cat"][0] for value in _found(one).values()] == [[[15, 20, 45, 45]]], name


def test_cvat_xml(tmp_path: Path) -> None:
    _save(tmp_path / "images" / "a.jpg", tmp_path / "images" / "sub" / "b.jpg")
    (tmp_path / "annotations.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels>'
        "<label><name>cat</name></label><label><name>dog</name></label><label><name>emu</name></label></labels></task></meta>"
        f'<image id="0" name="a.jpg" width="{WIDTH}" height="{HEIGHT}">'
        '<box label="cat" source="manual" xtl="10.00" ytl="20.00" xbr="40.00" ybr="45.00" z_order="0"></box>'
        '<polygon label="cat" points="60.00,40.00;90.00,40.00;90.00,70.00;60.00,70.00" z_order="0"></polygon>'
        '<mask label="dog" rle="1, 3, 2" left="5" top="7" width="3" height="2"></mask>'
        '<points label="dog" points="1,2"></points></image>'
        f'<image id="1" name="sub/b.jpg" width="{WIDTH}" height="{HEIGHT}">'
        '<ellipse label="dog" cx="50" cy="40" rx="20" ry="10"/>'
        '<box label="cat" xtl="10" ytl="20" xbr="30" ybr="30" rotation="90.00"/></image></annotations>'
    )
    dataset = Custom(root=str(tmp_path))
    found = _found(dataset)
    assert list(dataset.class_names) == ["cat", "dog", "emu"]
    assert found["a.jpg"]["cat"] == ([[10, 20, 40, 45], [60, 40, 90, 70]], 900)
    assert found["a.jpg"]["dog"] == ([[5, 7, 8, 9]], 3)
    assert [p.reason for p in dataset.sample(0).problems] == ["points 3: a points encloses no region"]
    assert np.allclose(found["sub/b.jpg"]["dog"][0], [[30, 30, 70, 50]], atol=0.02)
    assert np.allclose(found["sub/b.jpg"]["cat"][0], [[15, 15, 25, 35]])


def test_labelme(tmp_path: Path) -> None:
    _save(tmp_path / "a.jpg", tmp_path / "sub" / "b.png")
    pixels = np.zeros((4, 5), np.uint8)
    pixels[1:3, 2:4] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    shapes = [
        {"label": "cat", "points": [[40, 45], [10, 20]], "group_id": None, "shape_type": "rectangle", "flags": {}},
        {"label": "dog", "points": [[60, 40], [90, 40], [90, 70], [60, 70]], "group_id": 1, "shape_type": "polygon"},
        {"label": "dog", "points": [[10, 70], [20, 70], [20, 80], [10, 80]], "group_id": 1, "shape_type": "polygon"},
        {"label": "hen", "points": [[50, 50], [50, 60]], "shape_type": "circle"},
        {
            "label": "owl",
            "points": [[20, 30], [24, 33]],
            "shape_type": "mask",
            "mask": base64.b64encode(buffer.getvalue()).decode(),
        },
        {"label": "owl", "points": [[1, 2]], "shape_type": "point"},
    ]
    head = {"version": "5.4.1", "flags": {}, "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    (tmp_path / "a.json").write_text(json.dumps({**head, "imagePath": "..\\pictures\\a.jpg", "shapes": shapes}))
    (tmp_path / "sub" / "b.json").write_text(json.dumps({**head, "imagePath": "b.png", "shapes": shapes[:1]}))
    dataset = Custom(root=str(tmp_path))
    found = _found(dataset)
    assert dataset.kind == "labelme"
    assert found["a.jpg"]["cat"] == ([[10, 20, 40, 45]], None)
    assert found["a.jpg"]["dog"] == ([[10, 40, 90, 80]], 1000)
    assert found["a.jpg"]["hen"][1] == pytest.approx(np.pi * 100, rel=0.03)
    assert found["a.jpg"]["owl"] == ([[22, 31, 24, 33]], 4)
    assert found["sub/b.png"] == {"cat": ([[10, 20, 40, 45]], None)}
    assert [p.reason for p in dataset.sample(0).problems] == ["shape 5: a point of 1 points encloses no region"]


def test_datumaro_json(tmp_path: Path) -> None:
    _save(tmp_path / "images" / "train" / "a.jpg")
    rows = [
        {"id": 1, "type": "bbox", "attributes": {}, "group": 1, "label_id": 0, "z_order": 0, "bbox": [10, 20, 30, 25]},
        {"id": 2, "type": "polygon", "label_id": 1, "points": [60, 40, 90, 40, 90, 70, 60, 70]},
        {"id": 3, "type": "mask", "label_id": 2, "rle": {"counts": [10, 5, 10785], "size": [HEIGHT, WIDTH]}},
    ]
    labels = [{"name": name, "parent": "", "attributes": []} for name in ("cat", "dog", "hen", "emu")]
    content = {
        "info": {}, "categories": {"label": {"labels": labels, "attributes": []}, "points": {"items": []}},
        "items": [{"id": "a", "annotations": rows, "image": {"path": "a.jpg", "size": [HEIGHT, WIDTH]}}],
    }  # fmt: skip
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(content))
    found = _found(Custom(root=str(tmp_path)))["a"]
    assert found == {
        "cat": ([[10, 20, 40, 45]], None),
        "dog": ([[60, 40, 90, 70]], 900),
        "hen": ([[0, 10, 1, 15]], 5),
    }


def test_datumaro_and_cvat_voc_yolo_and_coco_layouts(tmp_path: Path) -> None:
    voc, yolo, coco = (tmp_path / name for name in ("voc", "yolo", "coco"))
    _save(voc / "JPEGImages" / "a.jpg", yolo / "obj_train_data" / "a.jpg", coco / "images" / "train" / "a.jpg")
    (voc / "Annotations").mkdir()
    (voc / "Annotations" / "a.xml").write_text(
        "<annotation><filename>a.jpg</filename><object><name>cat</name><difficult>0</difficult><bndbox><xmin>10.0</xmin>"
        "<ymin>20.0</ymin><xmax>40.0</xmax><ymax>45.0</ymax></bndbox></object></annotation>"
    )
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    (voc / "ImageSets" / "Main" / "mine.txt").write_text("a\n")
    (yolo / "obj.names").write_text("cat\ndog\n")
    (yolo / "obj.data").write_text("classes = 2\nnames = data/obj.names\n")
    (yolo / "train.txt").write_text("data/obj_train_data/a.jpg\n")
    (yolo / "obj_train_data" / "a.txt").write_text("0 0.208333 0.361111 0.250000 0.277778\n")
    (coco / "annotations").mkdir()
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "cat", "supercategory": ""}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10.0, 20.0, 30.0, 25.0], "segmentation": []}
        ],
    }
    (coco / "annotations" / "instances_train.json").write_text(json.dumps(content))
    (coco / "annotations" / "captions_train.json").write_text(json.dumps({**content, "annotations": []}))
    for root in (voc, yolo, coco):
        (value,) = _found(Custom(root=str(root))).values()
        assert value == {"cat": ([[10, 20, 40, 45]], None)}
    assert len(Custom(root=str(voc), split="mine")) == 1
    with pytest.raises(DataError, match=r"dataset\.split=other: no folder and no ImageSets/Main/other\.txt"):
        Custom(root=str(voc), split="other")
