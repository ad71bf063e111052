"""Read labelme's annotations: one JSON file per image, next to it."""

from __future__ import annotations

import base64
import binascii
import io
import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.records import Content, Picture, Row, Source, ellipse, polygon_box
from decomcam_bench.datasets.formats.coco_json import whole


def read_labelme(source: Source) -> Content:
    """Read all JSON files of a folder.

    Raises:
        DataError: if none of them is labelme's.
    """
    content = Content(source.base)
    for file in source.files:
        try:
            parsed = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            content.pictures.append(Picture(file.stem, error=f"{file}: not a JSON file ({error})", file=str(file)))
            continue
        if not looks_like_labelme(parsed):
            content.pictures.append(Picture(file.stem, error=f"{file}: not an annotation of labelme", file=str(file)))
            continue
        content.pictures.append(_picture(file, parsed, source.base))
    if not content.pictures:
        raise DataError(f"{source.base}: no JSON file of labelme in it")
    return content


def looks_like_labelme(content: Any) -> bool:
    """Return True for parsed JSON of labelme's form."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def _picture(file: Path, content: dict[str, Any], base: Path) -> Picture:
    path = content.get("imagePath")
    name = PurePosixPath(str(path).replace("\\", "/")).name if isinstance(path, str) and path else file.stem
    width, height = (whole(content.get(key)) for key in ("imageWidth", "imageHeight"))
    sized = all(type(side) is int and 0 < side < 10**6 for side in (width, height))
    relative = file.parent.relative_to(base).as_posix() if file.is_relative_to(base) else "."
    image_id = name if relative == "." else f"{relative}/{name}"
    picture = Picture(name, image_id, width if sized else 0, height if sized else 0, file=str(file), folder=file.parent)
    picture.by_stem = not path
    picture.rows = _rows(content["shapes"])
    return picture


def _rows(shapes: list[Any]) -> list[Row]:
    """Return one row per instance: shapes of one label and group are one instance."""
    rows: list[Row] = []
    grouped: dict[tuple[str, Any], list[Row]] = {}
    for number, shape in enumerate(shapes):
        row = _row(shape, f"shape {number}")
        group = whole(shape.get("group_id")) if isinstance(shape, dict) else None
        if group is None or row.error:
            rows.append(row)
        else:
            grouped.setdefault((row.name, group), []).append(row)
    return rows + [_united(members) for members in grouped.values()]


def _united(members: list[Row]) -> Row:
    """Join the shapes of one instance: its polygons together, and the box round all of them."""
    boxes = np.array([member.box for member in members if member.box is not None])
    box = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()) if len(boxes) else None
    lists = [member.segmentation for member in members]
    if len(members) == 1 or not all(isinstance(one, list) for one in lists):
        segmentation = lists[0] if len(members) == 1 else None
    else:
        segmentation = [polygon for one in lists for polygon in one]
    return Row(members[0].label, members[0].name, box=box, segmentation=segmentation, units="pixels")


def _row(shape: Any, label: str) -> Row:
    name = str(shape.get("label") or "").strip() if isinstance(shape, dict) else ""
    if not name:
        return Row(label, name, error="no label")
    try:
        points = np.array(shape.get("points"), dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        return Row(label, name, error="its points are not pairs of numbers")
    if not np.isfinite(points).all() or not len(points):
        return Row(label, name, error="its points are not finite numbers")
    kind = shape.get("shape_type") or "polygon"
    low, high = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    if kind == "rectangle":
        return Row(label, name, box=(*low, *high), units="pixels")
    if kind == "mask" and len(points) == 2:
        return _mask_row(label, name, shape.get("mask"), (round(low[0]), round(low[1])))
    if kind == "circle" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        polygon = ellipse(float(points[0, 0]), float(points[0, 1]), radius, radius)
    elif kind in ("polygon", "oriented_rectangle") and len(points) >= 3:
        polygon = points.ravel().tolist()
    else:
        return Row(label, name, error=f"a {kind} of {len(points)} points encloses no region")
    return Row(label, name, box=polygon_box([polygon]), segmentation=[polygon], units="pixels")


def _mask_row(label: str, name: str, encoded: Any, corner: tuple[int, int]) -> Row:
    """Read a mask that is embedded as a PNG with its upper left corner at ``corner``."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=("PNG",)) as picture:
            pixels = np.asarray(picture).astype(bool)
    except (TypeError, ValueError, binascii.Error, OSError, Image.DecompressionBombError) as error:
        return Row(label, name, error=f"its mask cannot be decoded ({type(error).__name__})")
    if pixels.ndim != 2 or not pixels.any():
        return Row(label, name, error="its mask has no pixel")
    return Row(label, name, segmentation={"crop": pixels, "corner": corner}, units="pixels")
