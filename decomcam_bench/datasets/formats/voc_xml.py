"""Reads annotation files in PASCAL VOC's XML, as VOC and ImageNet use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defusedxml import ElementTree  # type: ignore[import-untyped]
from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]

#: Largest annotation file that is read; official ones stay under 100 KB.
MAX_BYTES = 4_000_000


@dataclass(frozen=True)
class XmlObject:
    """One ``object`` element.

    Attributes:
        name: class name as written.
        box: (xmin, ymin, xmax, ymax) as written, or None where it is missing or no number.
        difficult: the annotators' flag.
    """

    name: str
    box: tuple[float, float, float, float] | None
    difficult: bool


@dataclass(frozen=True)
class XmlAnnotation:
    """An annotation file: size of the image ((0, 0) where it is not stated), and its objects."""

    width: int
    height: int
    objects: tuple[XmlObject, ...]


def read_voc_xml(file: Path) -> XmlAnnotation:
    """Parses an annotation file; entities and document types are refused.

    Raises:
        ValueError: when the file is missing, huge, malformed, or holds entities; names the file.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"{file}: {file.stat().st_size:,} bytes are too many for an annotation")
        root = ElementTree.fromstring(file.read_bytes(), forbid_dtd=True)
    except FileNotFoundError:
        raise ValueError(f"{file}: the annotation is missing") from None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    except DefusedXmlException as error:
        raise ValueError(f"{file}: document types and entities are refused ({type(error).__name__})") from error
    except (ElementTree.ParseError, LookupError, RecursionError, UnicodeError) as error:
        raise ValueError(f"{file}: malformed XML ({error})") from error
    if root.tag != "annotation":
        raise ValueError(f"{file}: not an annotation file, its root is '{str(root.tag)[:40]}'")
    objects = tuple(
        XmlObject((item.findtext("name") or "").strip(), _box(item), (item.findtext("difficult") or "").strip() == "1")
        for item in root.findall("object")
    )
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    whole = all(value is not None and value >= 1 and value == int(value) for value in (width, height))
    return XmlAnnotation(int(width), int(height), objects) if whole else XmlAnnotation(0, 0, objects)  # type: ignore[arg-type]


def _box(item: Any) -> tuple[float, float, float, float] | None:
    values = [_number(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
    return None if None in values else tuple(values)  # type: ignore[return-value]


def _number(text: str | None) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text) if text is not None else float("nan")
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None
