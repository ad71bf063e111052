"""Read CVAT's own XML ("CVAT for images 1.1"): one file for all images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.records import Content, Picture, Row, Source, ellipse, polygon_box, turned_rectangle
from decomcam_bench.datasets.formats.coco_json import whole
from decomcam_bench.datasets.formats.voc_xml import parse_xml


def read_cvat(source: Source) -> Content:
    """Read an export.

    Raises:
        DataError: if it cannot be read, or is the form for videos.
    """
    content = Content(source.files[0])
    for file in source.files:
        try:
            root = parse_xml(file, source.encoding, most=1 << 30)
        except ValueError as error:
            raise DataError(str(error)) from error
        if root.tag != "annotations" or root.find("track") is not None:
            raise DataError(f"{file}: not an export of 'CVAT for images 1.1' (that for videos has no images)")
        content.names += [
            text.strip() for text in (one.text for one in root.findall("meta//labels/label/name")) if text
        ]
        for number, image in enumerate(root.findall("image")):
            content.pictures.append(_picture(str(file), number, image))
            content.pictures[-1].folder = file.parent
    content.names = list(dict.fromkeys(content.names))
    return content


def _picture(file: str, number: int, image: Any) -> Picture:
    name = image.get("name") or ""
    width, height = (whole(image.get(side)) for side in ("width", "height"))
    sized = all(type(side) is int and 0 < side < 10**6 for side in (width, height))
    error = "" if name else f"{file}: image number {number} has no name"
    picture = Picture(name or f"image {number}", "", width if sized else 0, height if sized else 0, error, file=file)
    for place, shape in enumerate(one for one in image if one.tag in _SHAPES):
        label = f"{shape.tag} {place}"
        name = (shape.get("label") or "").strip()
        try:
            if not name:
                raise ValueError("no label")
            picture.rows.append(_SHAPES[shape.tag](shape, label, name))
        except (TypeError, ValueError, OverflowError) as bad:
            reason = str(bad) if isinstance(bad, _ShapeError) else "coordinates that are no numbers"
            picture.rows.append(Row(label, name, error="no label" if not name else reason))
    return picture


class _ShapeError(ValueError):
    """A shape that encloses no region."""


def _numbers(shape: Any, *keys: str) -> list[float]:
    values = [float(shape.get(key)) for key in keys]
    if not all(map(math.isfinite, values)):
        raise ValueError
    return values


def _box(shape: Any, label: str, name: str) -> Row:
    x0, y0, x1, y1 = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    degrees = float(shape.get("rotation") or 0)
    if degrees % 360:
        polygon = turned_rectangle((x0, y0, x1, y1), degrees, ((x0 + x1) / 2, (y0 + y1) / 2))
        return Row(label, name, box=polygon_box([polygon]), segmentation=[polygon], units="pixels")
    return Row(label, name, box=(x0, y0, x1, y1), units="pixels")


def _polygon(shape: Any, label: str, name: str) -> Row:
    points = [[float(value) for value in pair.split(",")] for pair in (shape.get("points") or "").split(";")]
    flat = np.array(points, dtype=np.float64).reshape(-1, 2).ravel().tolist()
    if len(flat) < 6:
        raise _ShapeError(f"a polygon of {len(flat) // 2} points encloses no region")
    return Row(label, name, box=polygon_box([flat]), segmentation=[flat], units="pixels")


def _ellipse(shape: Any, label: str, name: str) -> Row:
    cx, cy, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    flat = ellipse(cx, cy, rx, ry, float(shape.get("rotation") or 0))
    return Row(label, name, box=polygon_box([flat]), segmentation=[flat], units="pixels")


def _mask(shape: Any, label: str, name: str) -> Row:
    """Read a mask: run lengths along the rows of a crop, from a run of background."""
    left, top, width, height = (int(value) for value in _numbers(shape, "left", "top", "width", "height"))
    runs = [int(run) for run in (shape.get("rle") or "").split(",")]
    if width < 1 or height < 1 or width * height > 10**8 or sum(runs) != width * height or min(runs) < 0:
        raise _ShapeError(f"a mask whose runs do not add up to {width} x {height} pixels")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return Row(label, name, segmentation={"crop": pixels, "corner": (left, top)}, units="pixels")


def _no_region(shape: Any, label: str, name: str) -> Row:
    raise _ShapeError(f"a {shape.tag} encloses no region")


_SHAPES = {
    "box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask, "polyline": _no_region, "points": _no_region,
    "cuboid": _no_region, "skeleton": _no_region,
}  # fmt: skip
