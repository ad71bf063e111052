"""Read annotation files in PASCAL VOC's XML, as VOC, ImageNet and annotation tools write it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from decomcam_bench.datasets.text import decode

#: Largest annotation file that is read; official ones stay under 100 KB.
MAX_BYTES = 4_000_000
#: Encodings that the XML parser knows by itself.
_NATIVE = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "utf-16")
_DECLARATION = re.compile(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._\-]+)[\"'][^>]*\?>")
_BARE_AMPERSAND = re.compile(r"&(?!(#\d+|#x[0-9a-fA-F]+|amp|lt|gt|quot|apos);)")
_KEYS = ("xmin", "ymin", "xmax", "ymax")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class XmlObject:
    """One ``object`` element.

    Attributes:
        name: class name as written.
        boxes: (xmin, ymin, xmax, ymax) of each ``bndbox`` as written; empty where one is missing or
            is not four numbers.
        difficult: the annotators' flag.
        polygon: flat (x1, y1, x2, y2, ...) as written, or None.
        note: what was odd about the object, or empty.
        from_zero: its coordinates are written as tools write them that count from 0: with a decimal
            point, or as LabelMe's points.
    """

    name: str
    boxes: tuple[Box, ...]
    difficult: bool
    polygon: tuple[float, ...] | None = None
    note: str = ""
    from_zero: bool = False

    @property
    def box(self) -> Box | None:
        """The first box, or None."""
        return self.boxes[0] if self.boxes else None


@dataclass(frozen=True)
class XmlAnnotation:
    """An annotation file.

    Attributes:
        width, height: of the image; (0, 0) where they are not stated.
        objects: in the order of the file.
        file_name: the image as the file names it, or empty.
        source: what the file says of the program that wrote it, or empty.
    """

    width: int
    height: int
    objects: tuple[XmlObject, ...]
    file_name: str = ""
    source: str = ""


def read_voc_xml(file: Path, encoding: str | None = None) -> XmlAnnotation:
    """Parse an annotation file; entities and document types are refused.

    Args:
        file: the annotation.
        encoding: as the user states it, or None for what the file declares.

    Raises:
        ValueError: if the file is missing, huge, malformed, or holds entities; names the file.
    """
    root = parse_xml(file, encoding)
    if root.tag != "annotation":
        raise ValueError(f"{file}: not an annotation file, its root is '{str(root.tag)[:40]}'")
    objects = tuple(_object(item) for item in root.findall("object"))
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    name, database, owner = (
        (root.findtext(key) or "").strip() for key in ("filename", "source/database", "owner/name")
    )
    if width is None or height is None or min(width, height) < 1 or width % 1 or height % 1:
        width = height = 0
    return XmlAnnotation(int(width), int(height), objects, name, f"{database} {owner}".strip())


def parse_xml(file: Path, encoding: str | None = None, most: int = MAX_BYTES) -> Any:
    """Return the root element of an XML file, its tags without namespaces.

    Encodings that are declared, or named by the user, are decoded even where the parser does not
    know them. Bytes of an undeclared encoding are tolerated where they touch no name.

    Raises:
        ValueError: as :func:`read_voc_xml`.
    """
    try:
        if file.stat().st_size > most:
            raise ValueError(f"{file}: {file.stat().st_size:,} bytes are too many for an annotation")
        data = file.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{file}: the annotation is missing") from None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    try:
        root = _parsed(data, encoding)
    except DefusedXmlException as error:
        raise ValueError(f"{file}: document types and entities are refused ({type(error).__name__})") from error
    except (ElementTree.ParseError, LookupError, RecursionError, UnicodeError) as error:
        raise ValueError(f"{file}: malformed XML ({error})") from error
    except ValueError as error:
        raise ValueError(f"{file}: malformed XML ({error})") from None
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    return root


def _parsed(data: bytes, encoding: str | None) -> Any:
    declared = _DECLARATION.match(data)
    named = encoding or (declared.group(1).decode("ascii") if declared else "")
    if named and named.lower() not in _NATIVE:
        return _from_text(data.decode(named))
    if encoding:
        return _from_text(decode(data, encoding)[0])
    try:
        return ElementTree.fromstring(data, forbid_dtd=True)
    except ElementTree.ParseError:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]:
            raise
    try:
        return _from_text(data.decode("utf-8"))
    except UnicodeError:
        pass
    root = _from_text(data.decode("latin-1"))
    names = [
        element.text or "" for element in root.iter() if str(element.tag).rpartition("}")[2] in ("name", "filename")
    ]
    if not all(name.isascii() for name in names):
        decode(data)  # names the encodings that it could be
    return root


def _from_text(text: str) -> Any:
    """Parse decoded XML; ampersands that begin no entity are taken literally."""
    text = re.sub(r"^\ufeff?\s*<\?xml[^>]*\?>", "", text, count=1)
    return ElementTree.fromstring(_BARE_AMPERSAND.sub("&amp;", text).encode("utf-8"), forbid_dtd=True)


def _object(item: Any) -> XmlObject:
    name, flag = (item.findtext("name") or "").strip(), (item.findtext("difficult") or "").strip().lower()
    written = [[box.findtext(key) for key in _KEYS] for box in item.findall("bndbox")]
    boxes = [tuple(_number(text) for text in texts) for texts in written]
    from_zero = any("." in (text or "") for texts in written for text in texts) or item.find("polygon/pt") is not None
    note = "" if flag in ("", "0", "1", "true", "false", "yes", "no", "unspecified") else f"difficult is '{flag[:20]}'"
    polygon = _polygon(item.find("polygon"))
    turned = item.find("robndbox")
    if not boxes and turned is not None:
        polygon = _turned(turned)
        note = "a rotated box; the upright box round it is taken"
        boxes = [_round(polygon)] if polygon else []
    usable = bool(boxes) and not any(None in box for box in boxes)
    difficult = flag in ("1", "true", "yes")
    return XmlObject(name, tuple(boxes) if usable else (), difficult, polygon, note, from_zero)  # type: ignore[arg-type]


def _polygon(element: Any) -> tuple[float, ...] | None:
    """Return the points ``x1, y1, x2, y2, ...`` of a polygon element, or None."""
    if element is None:
        return None
    values: list[float] = []
    while (x := _number(element.findtext(f"x{len(values) // 2 + 1}"))) is not None:
        y = _number(element.findtext(f"y{len(values) // 2 + 1}"))
        if y is None:
            return None
        values += [x, y]
    if not values:
        points = [
            [_number(point.findtext(key)) for key in ("x", "y")]
            for point in element.findall("pt") + element.findall("point")
        ]
        if any(None in point for point in points):
            return None
        values = [value for point in points for value in point if value is not None]
    return tuple(values) if len(values) >= 6 else None


def _turned(element: Any) -> tuple[float, ...] | None:
    """Return the corners of a rotated box (centre, size, angle in radians, as roLabelImg writes it)."""
    numbers = [_number(element.findtext(key)) for key in ("cx", "cy", "w", "h", "angle")]
    if None in numbers:
        return None
    cx, cy, width, height, angle = (float(value or 0) for value in numbers)
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [(-width / 2, -height / 2), (width / 2, -height / 2), (width / 2, height / 2), (-width / 2, height / 2)]
    return tuple(value for x, y in corners for value in (cx + x * cos - y * sin, cy + x * sin + y * cos))


def _round(polygon: tuple[float, ...]) -> Box:
    return min(polygon[0::2]), min(polygon[1::2]), max(polygon[0::2]), max(polygon[1::2])


def _number(text: str | None) -> float | None:
    """Return a finite number, or None."""
    try:
        value = float(text) if text is not None and "_" not in text else float("nan")
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None
