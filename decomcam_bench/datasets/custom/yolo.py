"""Read YOLO's labels: one text file per image, boxes or polygons in shares of the image's sides."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.csv_file import corners
from decomcam_bench.datasets.custom.records import Content, Picture, Row, Source, polygon_box
from decomcam_bench.datasets.text import read_text

#: Files that lie next to labels and are none.
NO_LABELS = (
    "classes.txt",
    "obj.names",
    "train.txt",
    "valid.txt",
    "val.txt",
    "test.txt",
    "notes.txt",
    "predefined_classes.txt",
)
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


def read_yolo(source: Source) -> Content:
    """Read all label files under a folder, and images without labels as empty ones.

    Raises:
        DataError: if the class names are missing or cannot be read.
    """
    base = source.base
    names, keypoints = class_names(source)
    content = Content(base, names=[names[number] for number in sorted(names)])
    seen = set()
    for file in label_files(base, source.split):
        picture = _picture(file, base, names, keypoints, source.encoding)
        seen.add(picture.image_id)
        content.pictures.append(picture)
    if not content.pictures:
        raise DataError(f"{base}: no YOLO label (labels/*.txt) in it")
    for image in _images(base, source.split):
        image_id = _id_of(image.relative_to(base))
        if image_id not in seen:
            content.pictures.append(Picture(image.name, image_id, file=str(base), folder=image.parent))
    content.pictures.sort(key=lambda picture: picture.image_id)
    return content


def label_files(base: Path, split: str | None = None) -> list[Path]:
    """Return the label files under a folder."""
    found = [
        file for file in sorted(base.rglob("*.txt")) if file.name.lower() not in NO_LABELS and _may_hold_labels(file)
    ]
    return [file for file in found if split is None or _is_of(file.relative_to(base), split)]


def _may_hold_labels(file: Path) -> bool:
    """Return True for a text file in a folder of labels, or next to its image."""
    if any(part == "labels" or (part.startswith("obj_") and part.endswith("_data")) for part in file.parts[:-1]):
        return True
    return any(
        file.with_suffix(ending).is_file() or file.with_suffix(ending.upper()).is_file() for ending in IMAGE_ENDINGS
    )


def _is_of(relative: Path, split: str) -> bool:
    parts = relative.parts[:-1]
    return (
        split in parts
        or (split in ("val", "valid") and bool({"val", "valid"} & set(parts)))
        or f"obj_{split}_data" in parts
    )


def _images(base: Path, split: str | None) -> list[Path]:
    found = [file for file in sorted(base.rglob("*")) if file.suffix.lower() in IMAGE_ENDINGS]
    return [file for file in found if split is None or _is_of(file.relative_to(base), split)]


def _id_of(relative: Path) -> str:
    """Return the path without its ending and without the folder ``images`` or ``labels``."""
    return "/".join(part for part in relative.with_suffix("").parts if part not in ("images", "labels"))


def class_names(source: Source) -> tuple[dict[int, str], bool]:
    """Return the class names by number, and whether the labels hold key points after the boxes.

    Raises:
        DataError: if no file names them, or it cannot be read.
    """
    if source.classes is not None:
        named = source.classes
        return (
            {int(key): str(name) for key, name in named.items()}
            if isinstance(named, Mapping)
            else dict(enumerate(named))
        ), False
    for file in sorted({*source.base.glob("*.yaml"), *source.base.glob("*.yml")}):
        found = _from_yaml(file)
        if found is not None:
            return found
    for pattern in (
        "classes.txt",
        "obj.names",
        "*.names",
        "labels/classes.txt",
        "*/classes.txt",
        "predefined_classes.txt",
    ):
        for file in sorted(source.base.glob(pattern)):
            try:
                text, _ = read_text(file, source.encoding)
            except ValueError as error:
                raise DataError(str(error)) from error
            return dict(enumerate(line.strip() for line in text.splitlines() if line.strip())), False
    raise DataError(
        f"{source.base}: YOLO labels number their classes, and no data.yaml, classes.txt or obj.names gives the names; "
        "set dataset.classes=[name,name,...]"
    )


def _from_yaml(file: Path) -> tuple[dict[int, str], bool] | None:
    try:
        content = yaml.safe_load(read_text(file)[0])
    except ValueError as error:
        raise DataError(str(error)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file}: not a YAML file ({' '.join(str(error).split())})") from error
    names = content.get("names") if isinstance(content, dict) else None
    if names is None:
        return None
    try:
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        found = {int(key): str(name).strip() for key, name in pairs}
    except (TypeError, ValueError, OverflowError):
        found = {}
    if not found or not all(found.values()):
        raise DataError(f"{file}: its names are neither a list nor number: name")
    return found, "kpt_shape" in content


def _picture(file: Path, base: Path, names: Mapping[int, str], keypoints: bool, encoding: str | None) -> Picture:
    relative = file.relative_to(base)
    swapped = Path(*("images" if part == "labels" else part for part in relative.parent.parts))
    picture = Picture(file.stem, _id_of(relative), file=str(file), folder=base / swapped, by_stem=True)
    try:
        text, _ = read_text(file, encoding)
    except ValueError as error:
        picture.error = str(error)
        return picture
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            picture.rows.append(_row(f"line {number}", re.split(r"[\s,]+", line.strip()), names, keypoints))
    return picture


def _row(label: str, fields: Sequence[str], names: Mapping[int, str], keypoints: bool) -> Row:
    try:
        values: list[Any] = [float(text) for text in fields[1:] if "_" not in text]
        number = float(fields[0])
        if number != int(number) or not all(map(math.isfinite, values)) or len(values) != len(fields) - 1:
            raise ValueError
    except (ValueError, OverflowError):
        return Row(label, "", error=f"'{' '.join(fields)[:60]}' is not a class number and shares of the image")
    name = names.get(int(number), "")
    if not name:
        return Row(label, "", error=f"class {int(number)} has no name; the names end at {max(names, default=-1)}")
    if keypoints:
        values = values[:4]
    if len(values) == 4:
        return Row(label, name, box=corners((values[0], values[1], values[2], values[3]), "cxcywh"), units="relative")
    if len(values) >= 6 and len(values) % 2 == 0:
        return Row(label, name, box=polygon_box([values]), segmentation=[values], units="relative")
    return Row(label, name, error=f"{len(values)} numbers are neither a box (4) nor a polygon (6 or more, in pairs)")
