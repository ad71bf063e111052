"""Writes toybox scenes as small trees in the official layouts of the six benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from decomcam_bench.datasets.benchmarks.imagenet_wnids import WNIDS
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES, OBJECTS, Scene, draw_scene

SIDE = 160


def scenes(count: int, one_class: bool = False, one_object: bool = False) -> dict[int, Scene]:
    """The first test scenes, by number; with one class only, or without a class shown twice."""
    found: dict[int, Scene] = {}
    number = 0
    while len(found) < count:
        scene = draw_scene("test", number)
        classes = [instance.class_id for instance in scene.instances]
        if (not one_class or len(set(classes)) == 1) and (not one_object or len(set(classes)) == len(classes)):
            found[number] = scene
        number += 1
    return found


def save(file: Path, image: np.ndarray) -> None:
    """Writes a picture without loss, whatever the name's ending says: readers go by content."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file, format="PNG")


def rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length code, as JSON holds it."""
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """COCO's list of run lengths, counted down the columns from a run of zeros."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def xywh(box: tuple[int, int, int, int]) -> list[float]:
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def voc_xml(
    objects: list[tuple[str, tuple[float, ...]]], size: tuple[int, int] = (SIDE, SIDE), difficult: int = 0
) -> str:
    """An annotation; boxes as the file states them (1-based, inclusive)."""
    items = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in objects
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>x.jpg</filename>{sides}{items}</annotation>"


def write_voc(root: Path, drawn: dict[int, Scene], year: int = 2012, split: str = "val") -> Path:
    """``VOCdevkit`` with objects numbered as in the annotation in ``SegmentationObject``."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in ("Annotations", "ImageSets/Main", "SegmentationObject"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, scene in drawn.items():
        save(folder / "JPEGImages" / f"{number:06d}.jpg", scene.image)
        objects = [(CLASS_NAMES[i.class_id], (i.box[0] + 1, i.box[1] + 1, i.box[2], i.box[3])) for i in scene.instances]
        (folder / "Annotations" / f"{number:06d}.xml").write_text(voc_xml(objects))
        labels = np.zeros((SIDE, SIDE), np.uint8)
        for position, instance in enumerate(scene.instances, start=1):
            labels[instance.mask] = position
        picture = Image.fromarray(labels, mode="L").convert("P")
        picture.putdata(labels.ravel().tolist())
        picture.save(folder / "SegmentationObject" / f"{number:06d}.png")
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{number:06d}\n" for number in drawn))
    return folder.parent


def coco_content(drawn: dict[int, Scene]) -> dict[str, Any]:
    """Category ids with gaps; masks as compressed and uncompressed codes in turn."""
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": SIDE, "height": SIDE} for n in drawn]
    annotations = []
    for number, scene in drawn.items():
        for instance in scene.instances:
            code = rle if len(annotations) % 2 else uncompressed
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 3 * instance.class_id + 1,
                    "bbox": xywh(instance.box),
                    "segmentation": code(instance.mask),
                    "area": int(instance.mask.sum()),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 3 * number + 1, "name": name} for number, name in enumerate(CLASS_NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, drawn: dict[int, Scene]) -> Path:
    for number, scene in drawn.items():
        save(root / "val2017" / f"{number:012d}.jpg", scene.image)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(coco_content(drawn)))
    return root


def write_imagenet(root: Path, drawn: dict[int, Scene], xml: bool = False, folders: bool = False) -> Path:
    """One class an image; label k stands for the k-th WordNet id. Boxes are 0-based, inclusive."""
    rows: dict[str, list[str]] = {name: [] for name in ("image_ids", "class_labels", "image_sizes", "localization")}
    for number, scene in drawn.items():
        name = f"ILSVRC2012_val_{number:08d}"
        label = scene.instances[0].class_id
        place = root / "ILSVRC2012_img_val"
        save((place / WNIDS[label] if folders else place) / f"{name}.JPEG", scene.image)
        inclusive = [(i.box[0], i.box[1], i.box[2] - 1, i.box[3] - 1) for i in scene.instances]
        if xml:
            file = root / "ILSVRC2012_bbox_val_v3" / "val" / f"{name}.xml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(voc_xml([(WNIDS[label], box) for box in inclusive]))
        rows["image_ids"].append(f"val/{name}.JPEG")
        rows["class_labels"].append(f"val/{name}.JPEG,{label}")
        rows["image_sizes"].append(f"val/{name}.JPEG,{SIDE},{SIDE}")
        rows["localization"] += [f"val/{name}.JPEG,{','.join(map(str, box))}" for box in inclusive]
    if not xml:
        write_metadata(root / "wsol_metadata" / "ILSVRC" / "test", rows)
    return root


def write_metadata(folder: Path, rows: dict[str, list[str]]) -> None:
    """wsolevaluation's files; like the real ones, without a line end after the last line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in rows.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))


def write_imagenetv2(root: Path, drawn: dict[int, Scene], variant: str = "threshold0.7") -> Path:
    rows: dict[str, list[str]] = {name: [] for name in ("image_ids", "class_labels", "image_sizes", "localization")}
    for number, scene in drawn.items():
        label = scene.instances[0].class_id
        save(root / f"imagenetv2-{variant}-format-val" / str(label) / f"{number}.jpeg", scene.image)
        name = f"val2/{label}/{number}.jpeg"
        rows["image_ids"].append(name)
        rows["class_labels"].append(f"{name},{label}")
        rows["image_sizes"].append(f"{name},{SIDE},{SIDE}")
        rows["localization"] += [f"{name},{i.box[0]},{i.box[1]},{i.box[2] - 1},{i.box[3] - 1}" for i in scene.instances]
    if variant == "threshold0.7":
        write_metadata(root / "wsol_metadata" / "ILSVRC" / "val", rows)
    return root


def write_partimagenet(root: Path, drawn: dict[int, Scene], in_folders: bool = False) -> Path:
    """One annotation a part of an object; the k-th class stands for the k-th WordNet id."""
    kinds = [(drawing.name, part.name) for drawing in OBJECTS for part in drawing.parts]
    images, annotations = [], []
    for number, scene in drawn.items():
        wnid = WNIDS[scene.instances[0].class_id]
        file_name = f"{wnid}_{number}.JPEG"
        save((root / "test" / wnid if in_folders else root / "test") / file_name, scene.image)
        images.append({"id": number, "file_name": file_name, "width": SIDE, "height": SIDE})
        for instance in scene.instances:
            for part, mask in instance.parts.items():
                code = rle(mask)
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": number,
                        "category_id": kinds.index((CLASS_NAMES[instance.class_id], part)),
                        "bbox": coco.toBbox(coco.encode(np.asfortranarray(mask.astype(np.uint8)))).tolist(),
                        "segmentation": code,
                        "iscrowd": 0,
                    }
                )
    categories = [{"id": k, "name": f"{n} {part}", "supercategory": n} for k, (n, part) in enumerate(kinds)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "test.json").write_text(json.dumps(content))
    return root


def write_cub(root: Path, drawn: dict[int, Scene]) -> Path:
    """All images in the test split; the centre of each part's box stands for its location."""
    folder = root / "CUB_200_2011"
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    part_names = sorted({part.name for drawing in OBJECTS for part in drawing.parts})
    lines: dict[str, list[str]] = {
        name: [] for name in ("images", "bounding_boxes", "train_test_split", "image_class_labels", "parts/part_locs")
    }
    for number, (scene_number, scene) in enumerate(drawn.items(), start=1):
        instance = scene.instances[0]
        name = f"{instance.class_id + 1:03d}.{CLASS_NAMES[instance.class_id].replace(' ', '_')}"
        file_name = f"{name}/{scene_number}.jpg"
        save(folder / "images" / file_name, scene.image)
        lines["images"].append(f"{number} {file_name}")
        lines["bounding_boxes"].append(f"{number} {' '.join(str(value) for value in xywh(instance.box))}")
        lines["train_test_split"].append(f"{number} 0")
        lines["image_class_labels"].append(f"{number} {instance.class_id + 1}")
        for part_number, part in enumerate(part_names, start=1):
            if part in instance.parts:
                y, x = np.argwhere(instance.parts[part])[0].tolist()
                lines["parts/part_locs"].append(f"{number} {part_number} {float(x)} {float(y)} 1")
            else:
                lines["parts/part_locs"].append(f"{number} {part_number} 0.0 0.0 0")
    lines["classes"] = [f"{k} {k:03d}.{name.replace(' ', '_')}" for k, name in enumerate(CLASS_NAMES, start=1)]
    lines["parts/parts"] = [f"{k} {name}" for k, name in enumerate(part_names, start=1)]
    for file, content in lines.items():
        (folder / f"{file}.txt").write_text("\n".join(content) + "\n")
    return root
