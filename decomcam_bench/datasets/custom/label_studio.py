"""Read Label Studio's own exports: JSON, JSON-MIN, and the regions in the cells of its CSV.

Coordinates are per cent of the image's sides. A rectangle turns about its upper left corner.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.records import Content, Picture, Row, Source, ellipse, polygon_box, turned_rectangle
from decomcam_bench.datasets.formats.coco_json import whole

_KINDS = (
    "rectanglelabels",
    "polygonlabels",
    "brushlabels",
    "ellipselabels",
    "labels",
    "hypertextlabels",
    "keypointlabels",
)
_IMAGE = re.compile(r"\.(jpe?g|png|bmp|gif|webp|tiff?)(\?.*)?$", re.IGNORECASE)


def read_label_studio(source: Source) -> Content:
    """Read an export.

    Raises:
        DataError: if it is not a list of tasks with images.
    """
    content = Content(source.files[0])
    for file in source.files:
        try:
            tasks = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{file}: not a JSON file ({error})") from error
        if not looks_like_label_studio(tasks):
            raise DataError(f"{file}: not an export of Label Studio: a list of tasks with an image each")
        for number, task in enumerate(tasks):
            content.pictures.append(_picture(file, number, task, content.remarks))
    return content


def looks_like_label_studio(content: Any) -> bool:
    """Return True for parsed JSON of Label Studio's form."""
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and _image_of(content[0]) != ""


def _image_of(task: dict[str, Any]) -> str:
    """Return the image that a task shows, wherever it stands, or an empty string."""
    data = task.get("data", task)
    if not isinstance(data, dict):
        return ""
    values = [data.get("image"), *(value for key, value in data.items() if key not in ("image", "file_upload"))]
    return next((value for value in values if isinstance(value, str) and _IMAGE.search(value)), "")


def _picture(file: Path, number: int, task: Any, remarks: list[str]) -> Picture:
    name = _image_of(task) if isinstance(task, dict) else ""
    if not name:
        return Picture(f"task {number}", error=f"{file}: task {number} names no image", file=str(file))
    picture = Picture(name, short_name(name), file=str(file), folder=file.parent)
    label = f"task {task.get('id', number)}"
    finished = [
        one for one in task.get("annotations") or task.get("completions") or ()
        if isinstance(one, dict) and not one.get("was_cancelled")
    ]  # fmt: skip
    if len(finished) > 1:
        remarks.append(f"{file}: {label} has {len(finished)} annotations; the first is used")
    if "annotations" in task or "completions" in task:
        regions = finished[0].get("result") if finished else []
    else:
        lists = [value for value in task.values() if isinstance(value, list)]
        regions = [one for value in lists for one in value if isinstance(one, dict)]
    picture.rows = region_rows(regions if isinstance(regions, list) else [], label, picture)
    return picture


def short_name(path: str) -> str:
    """Return the file name in an upload path or address, without the query.

    >>> short_name("/data/upload/3/1a2b3c4d-cat.jpg"), short_name("/data/local-files/?d=set/cat.jpg")
    ('1a2b3c4d-cat.jpg', 'set/cat.jpg')
    """
    found = re.search(r"[?&]d=([^&]+)", path)
    if found:
        return found.group(1).replace("\\", "/").lstrip("/")
    return re.split(r"[?#]", path)[0].replace("\\", "/").rpartition("/")[2]


def region_rows(regions: Sequence[Any], label: str, picture: Picture) -> list[Row]:
    """Read the regions of one image; results without a region (choices, ratings) are left out.

    Args:
        regions: entries of ``result``, or the bare values of JSON-MIN and CSV.
        label: names the task in messages.
        picture: takes the size that the regions state.
    """
    texts = {
        one.get("id"): " ".join(map(str, one["value"]["text"]))
        if isinstance(one["value"]["text"], list)
        else str(one["value"]["text"])
        for one in regions
        if isinstance(one, dict)
        and one.get("type") == "textarea"
        and isinstance(one.get("value"), dict)
        and one["value"].get("text")
    }
    rows = []
    labelled = {one.get("id") for one in regions if isinstance(one, dict) and _labels(one)}
    for number, region in enumerate(regions):
        if not isinstance(region, dict):
            continue
        value = region.get("value", region)
        names = _labels(region)
        text = texts.get(region.get("id"), "") if not names and region.get("id") not in labelled else ""
        if (
            not isinstance(value, dict)
            or region.get("type") in ("textarea", "choices", "relation")
            or not (names or text)
        ):
            continue
        _take_size(picture, region)
        for name in names or [text]:
            rows.append(_row(value, f"{label}, region {number}", name, not names, _size_of(region, picture)))
    return rows


def _labels(region: dict[str, Any]) -> list[str]:
    value = region.get("value", region)
    if not isinstance(value, dict):
        return []
    found: list[Any] = next((value[kind] for kind in _KINDS if isinstance(value.get(kind), list)), [])
    return [str(name).strip() for name in found if str(name).strip()]


def _take_size(picture: Picture, region: dict[str, Any]) -> None:
    width, height = (whole(region.get(key)) for key in ("original_width", "original_height"))
    if not picture.width and all(type(side) is int and 0 < side < 10**6 for side in (width, height)):
        picture.width, picture.height = width, height


def _size_of(region: dict[str, Any], picture: Picture) -> tuple[int, int]:
    width, height = (whole(region.get(key)) for key in ("original_width", "original_height"))
    fit = all(type(side) is int and 0 < side < 10**6 for side in (width, height))
    return (width, height) if fit else (picture.width, picture.height)


def _row(value: dict[str, Any], label: str, name: str, free: bool, size: tuple[int, int]) -> Row:
    """Read one region; rotations need the image's proportions, which per cent hide."""
    try:
        if isinstance(value.get("rle"), list):
            width, height = size
            if not width:
                raise ValueError("a brush region without original_width and original_height")
            pixels = decode_brush(value["rle"], height, width)
            return Row(label, name, free, segmentation={"crop": pixels, "corner": (0, 0)}, units="pixels")
        if isinstance(value.get("points"), list):
            polygon = np.array(value["points"], dtype=np.float64).reshape(-1, 2)
            if len(polygon) < 3:
                raise ValueError(f"a polygon of {len(polygon)} points encloses no region")
            flat = polygon.ravel().tolist()
            return Row(label, name, free, polygon_box([flat]), [flat], "percent")
        if "radiusX" in value:
            return _turned(value, label, name, free, size)
        x, y, across, down = (float(value[key]) for key in ("x", "y", "width", "height"))
        if float(value.get("rotation") or 0) % 360:
            return _turned(value, label, name, free, size)
        return Row(label, name, free, (x, y, x + across, y + down), units="percent")
    except KeyError as error:
        return Row(label, name, free, error=f"a region without {error.args[0]}")
    except (TypeError, OverflowError):
        return Row(label, name, free, error="coordinates that are no numbers")
    except ValueError as error:
        return Row(label, name, free, error=str(error))


def _turned(value: dict[str, Any], label: str, name: str, free: bool, size: tuple[int, int]) -> Row:
    """Read an ellipse or a turned rectangle as a polygon in pixels."""
    if not size[0]:
        raise ValueError("a turned region without original_width and original_height")
    sides = (size[0] / 100.0, size[1] / 100.0)
    degrees = float(value.get("rotation") or 0)
    x, y = float(value["x"]) * sides[0], float(value["y"]) * sides[1]
    if "radiusX" in value:
        polygon = ellipse(x, y, float(value["radiusX"]) * sides[0], float(value["radiusY"]) * sides[1], degrees)
    else:
        right, bottom = x + float(value["width"]) * sides[0], y + float(value["height"]) * sides[1]
        polygon = turned_rectangle((x, y, right, bottom), degrees, (x, y))
    return Row(label, name, free, polygon_box([polygon]), [polygon], "pixels")


def decode_brush(code: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Decode a brush region: run-length coded RGBA bytes, of which the opaque ones are the object.

    The code is that of thi.ng's ``rle-pack``: 32 bits for the number of values, 5 bits for their
    size less one, four sizes of run lengths (4 bits each, less one), then runs: one bit for a
    repeated value, 2 bits for which size the length has, the length less one, and the values.

    Returns:
        bool (height, width).

    Raises:
        ValueError: if the code is cut, or not of the image's size.
    """
    try:
        bits = np.unpackbits(np.array(code, dtype=np.uint8))
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a brush region whose code is not a list of bytes") from None
    reader = _Bits(bits)
    count, word = reader.read(32), 0
    if count != 4 * height * width:
        raise ValueError(f"a brush region of {count} values for {width} x {height} pixels of 4")
    word = reader.read(5) + 1
    sizes = [reader.read(4) + 1 for _ in range(4)]
    out = np.zeros(count, dtype=np.int64)
    place = 0
    while place < count:
        repeated = reader.read(1)
        end = min(place + 1 + reader.read(sizes[reader.read(2)]), count)
        if repeated:
            out[place:end] = reader.read(word)
        else:
            out[place:end] = [reader.read(word) for _ in range(end - place)]
        place = end
    return out.reshape(height, width, 4)[:, :, 3] > 127


class _Bits:
    """Reads whole numbers of any number of bits, the highest bit first."""

    def __init__(self, bits: np.ndarray) -> None:
        self.bits, self.place = bits, 0

    def read(self, count: int) -> int:
        chunk = self.bits[self.place : self.place + count]
        if len(chunk) < count:
            raise ValueError("a brush region whose code is cut")
        self.place += count
        return int("".join(map(str, chunk.tolist())), 2)
