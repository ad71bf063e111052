"""Read datumaro's own JSON: ``annotations/<subset>.json`` next to ``images/<subset>``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.records import Content, Picture, Row, Source, ellipse, polygon_box
from decomcam_bench.datasets.formats.coco_json import read_box, whole


def read_datumaro(source: Source) -> Content:
    """Read one subset, or several.

    Raises:
        DataError: if a file is not of datumaro's form.
    """
    content = Content(source.files[0])
    for file in source.files:
        try:
            parsed = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{file}: not a JSON file ({error})") from error
        if not looks_like_datumaro(parsed):
            raise DataError(f"{file}: not a file of datumaro: it needs categories and a list of items")
        label = parsed["categories"].get("label")
        labels = label.get("labels") if isinstance(label, dict) else None
        names = [str(one.get("name", "")).strip() if isinstance(one, dict) else "" for one in labels or ()]
        prefix = f"{file.stem}/" if len(source.files) > 1 else ""
        for number, item in enumerate(parsed["items"]):
            content.pictures.append(_picture(file, number, item, names, prefix))
        content.names += [name for name in names if name]
    content.names = list(dict.fromkeys(content.names))
    return content


def looks_like_datumaro(content: Any) -> bool:
    """Return True for parsed JSON of datumaro's form."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("items"), list)
        and isinstance(content.get("categories"), dict)
    )


def _picture(file: Path, number: int, item: Any, names: list[str], prefix: str) -> Picture:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return Picture(f"item {number}", error=f"{file}: item {number} has no id", file=str(file))
    image: dict[str, Any] = item["image"] if isinstance(item.get("image"), dict) else {}
    path, size = image.get("path"), image.get("size")
    picture = Picture(str(path or item["id"]), prefix + item["id"], file=str(file), by_stem=not path)
    picture.folder = file.parent.parent / "images" / file.stem
    if isinstance(size, list) and len(size) == 2:
        height, width = map(whole, size)
        if all(type(side) is int and 0 < side < 10**6 for side in (width, height)):
            picture.width, picture.height = width, height
    rows = item.get("annotations")
    for place, row in enumerate(rows if isinstance(rows, list) else []):
        if isinstance(row, dict) and row.get("type") not in ("label", "caption", "points"):
            picture.rows.append(_row(row, f"annotation {row.get('id', place)}", names))
    return picture


def _row(row: dict[str, Any], label: str, names: list[str]) -> Row:
    number = whole(row.get("label_id"))
    name = names[number] if type(number) is int and 0 <= number < len(names) else ""
    crowd = isinstance(row.get("attributes"), dict) and bool(row["attributes"].get("is_crowd"))
    if not name:
        return Row(label, "", error=f"unknown label {row.get('label_id')!r}")
    try:
        if row.get("type") == "bbox":
            return Row(label, name, box=read_box({**row, "label": label}), units="pixels", crowd=crowd)
        if row.get("type") == "polygon":
            points = np.array(row.get("points"), dtype=np.float64).ravel().tolist()
            return Row(label, name, box=polygon_box([points]), segmentation=[points], units="pixels", crowd=crowd)
        if row.get("type") == "mask":
            return Row(label, name, segmentation=row.get("rle"), units="pixels", crowd=crowd)
        if row.get("type") == "ellipse":
            x0, y0, x1, y1 = np.array(row.get("points"), dtype=np.float64).tolist()
            points = ellipse((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2)
            return Row(label, name, box=polygon_box([points]), segmentation=[points], units="pixels", crowd=crowd)
    except (TypeError, ValueError, OverflowError):
        return Row(label, name, error="coordinates that are no numbers")
    return Row(label, name, error=f"a {row.get('type')} encloses no region")
