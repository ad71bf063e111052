"""Read tables of annotations: CSV, TSV and their relatives, one row per annotation.

Separator, encoding, decimal commas and the usual names of the columns are recognised; what they
mean is listed in ``docs/custom-data.md``.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.records import Content, Picture, Row, Source
from decomcam_bench.datasets.text import decode, read_text

SEPARATORS = (",", ";", "\t", "|")
#: What each column may be called, in lower case with underscores for blanks and hyphens.
ALIASES: dict[str, tuple[str, ...]] = {
    "image": (
        "image", "filename", "file_name", "image_name", "image_path", "image_file", "image_filename", "path", "file",
        "img", "imageid", "image_id",
    ),
    "class": ("class", "label", "label_name", "labelname", "class_name", "category", "category_name", "name", "object"),
    "text": ("text", "phrase", "caption", "expression", "sentence", "prompt", "query"),
    "bbox": ("bbox", "box", "bounding_box"),
    "mask": ("mask", "mask_path", "mask_file", "mask_name", "maskpath"),
    "mask_value": ("mask_value",),
    "crowd": ("crowd", "iscrowd", "isgroupof"),
    "difficult": ("difficult",),
    "image_width": ("image_width", "img_width", "width"),
    "image_height": ("image_height", "img_height", "height"),
}  # fmt: skip
#: Columns of a box in four columns: their names, and what they are.
BOXES: tuple[tuple[tuple[str, str, str, str], str], ...] = (
    (("x0", "y0", "x1", "y1"), "xyxy"),
    (("xmin", "ymin", "xmax", "ymax"), "xyxy"),
    (("x_min", "y_min", "x_max", "y_max"), "xyxy"),
    (("x1", "y1", "x2", "y2"), "xyxy"),
    (("xtl", "ytl", "xbr", "ybr"), "xyxy"),
    (("left", "top", "right", "bottom"), "xyxy"),
    (("bbox_x", "bbox_y", "bbox_width", "bbox_height"), "xywh"),
    (("bbox_x", "bbox_y", "bbox_w", "bbox_h"), "xywh"),
    (("x", "y", "w", "h"), "xywh"),
    (("x", "y", "width", "height"), "xywh"),
    (("left", "top", "width", "height"), "xywh"),
    (("x_center", "y_center", "width", "height"), "cxcywh"),
    (("xcenter", "ycenter", "width", "height"), "cxcywh"),
    (("cx", "cy", "w", "h"), "cxcywh"),
)  # fmt: skip
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+,(\d{1,2}|\d{4,})|0,\d+)")
_UNCLEAR_COMMA = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
TRUE = ("1", "1.0", "true", "yes", "t", "y")
FALSE = ("", "0", "0.0", "-1", "false", "no", "f", "n", "unspecified", "none")


@dataclass(frozen=True)
class _Columns:
    """Where the columns of a table stand.

    Attributes:
        places: column number by our own name.
        box: column numbers of a box in four columns, or empty.
        form: what these four are: ``xyxy``, ``xywh`` or ``cxcywh``.
        width: number of columns.
    """

    places: Mapping[str, int]
    box: tuple[int, ...]
    form: str
    width: int


def is_table(file: Path) -> bool:
    """Return True for a file name of a table."""
    return file.suffix.lower() in (".csv", ".tsv", ".txt", ".tab")


def has_columns(file: Path) -> bool:
    """Return True if the first line of a table names an image and something else that is known."""
    try:
        with file.open("rb") as handle:
            header = decode(handle.read(1 << 16).rpartition(b"\n")[0] or file.read_bytes())[0].partition("\n")[0]
    except (OSError, ValueError):
        return True  # whose reader says what is wrong
    names = max((header.split(separator) for separator in SEPARATORS), key=_recognised)
    return bool({_plain(name) for name in names} & set(ALIASES["image"])) and _recognised(names) >= 3


def read_csv(source: Source) -> Content:
    """Read one table, or the tables of several splits.

    Raises:
        DataError: if a file cannot be read, or lacks a column that is needed.
    """
    content = Content(source.files[0])
    for file in source.files:
        _read_file(file, source, content)
    return content


def _read_file(file: Path, source: Source, content: Content) -> None:
    try:
        text, encoding = read_text(file, source.encoding)
    except ValueError as error:
        raise DataError(str(error)) from error
    if encoding == "cp1252" and not source.encoding:
        content.remarks.append(f"{file}: read as Windows' Western European text; dataset.encoding=NAME if it is not")
    separator, columns, first = _layout(file, text, source.box_format)
    pictures: dict[str, Picture] = {}
    lines = list(_lines(file, text, separator))
    commas = _has_decimal_commas([fields for _, fields in lines], columns)
    for number, fields in lines[first:]:
        name = _field(fields, columns, "image")
        key = name or f"line {number}"
        if key not in pictures:
            flaw = "" if name else f"{file}: line {number} names no image"
            image_id = f"{file.parent.name}/{key}" if len(source.files) > 1 else key
            pictures[key] = Picture(key, image_id, error=flaw, file=str(file), folder=file.parent)
            pictures[key].by_stem = bool(name) and "." not in name.rpartition("/")[2]
            content.pictures.append(pictures[key])
        _add(pictures[key], number, fields, columns, separator, source, commas)


def _lines(file: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of each row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield reader.line_num, [field.strip() for field in fields]
    except csv.Error as error:
        raise DataError(f"{file}: cannot be read (line {reader.line_num}: {error})") from error


def _layout(file: Path, text: str, box_format: str | None) -> tuple[str, _Columns, int]:
    """Return the separator, the columns, and the number of header rows."""
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if lines and (declared := re.fullmatch(r"sep=(.)", lines[start].strip())):  # as Excel writes it
        separators: Sequence[str] = (declared.group(1),)
        header, skip = next((line for line in lines[start + 1 :] if line.strip()), ""), 2
    else:
        separators, skip = SEPARATORS, 1
        header = lines[start] if lines else ""
    found: dict[str, list[str]] = {}
    for separator in separators:
        found[separator] = next(csv.reader([header], delimiter=separator), []) if header else []
    best = max(found, key=lambda separator: _recognised(found[separator]))
    return best, _columns(file, found[best], box_format), skip


def _recognised(header: Sequence[str]) -> int:
    names = {_plain(name) for name in header}
    known = {alias for aliases in ALIASES.values() for alias in aliases} | {name for box, _ in BOXES for name in box}
    return len(names & known)


def _plain(name: str) -> str:
    return re.sub(r"[\s\-.]+", "_", name.strip().lower())


def _columns(file: Path, header: Sequence[str], box_format: str | None) -> _Columns:
    """Find the columns by their names.

    Raises:
        DataError: if one is missing, half there, or there twice.
    """
    names = [_plain(name) for name in header]
    box, form = next(((box, form) for box, form in BOXES if set(box) <= set(names)), ((), ""))
    taken = set(box)
    places: dict[str, int] = {}
    twice: list[str] = []
    for key, aliases in ALIASES.items():
        there = [alias for alias in aliases if alias in names and alias not in taken]
        if there:
            places[key] = names.index(there[0])
            taken.add(there[0])
    used = [name for name in names if name in taken]
    twice = sorted({name for name in used if used.count(name) > 1})
    halves = {name for four, _ in BOXES for name in four} - {"width", "height", "w", "h", "left", "top"}
    half = not box and "bbox" not in places and bool(halves & set(names))
    located = bool(box) or "bbox" in places or "mask" in places or _holds_regions(names)
    if twice or half or not located or "image" not in places or not {"class", "text"} & set(places):
        raise DataError(
            f"{file}: needs the columns image, class or text, x0, y0, x1, y1 (or bbox, or mask), each once, or others "
            f"that docs/custom-data.md lists; it has {', '.join(name or '(empty)' for name in names) or 'none'}"
        )
    if "bbox" in places and not box and box_format is None:
        raise DataError(
            f"{file}: the column {names[places['bbox']]} may hold corners or sizes; set dataset.box_format=xyxy "
            "(x0, y0, x1, y1), xywh (x, y, width, height) or cxcywh (centre, width, height)"
        )
    return _Columns(places, tuple(names.index(name) for name in box), form, len(names))


def _holds_regions(names: Sequence[str]) -> bool:
    """Return True for the table that Label Studio exports: its label column holds JSON."""
    return {"image", "label"} <= set(names) and bool({"annotation_id", "annotator", "lead_time"} & set(names))


def _field(fields: Sequence[str], columns: _Columns, key: str) -> str:
    place = columns.places.get(key, len(fields))
    return fields[place] if place < len(fields) else ""


def _has_decimal_commas(rows: Sequence[Sequence[str]], columns: _Columns) -> bool:
    """Return True if some coordinate can only be read with its comma as the decimal mark."""
    return any(
        place < len(fields) and _DECIMAL_COMMA.fullmatch(fields[place]) for fields in rows for place in columns.box
    )


def _add(
    picture: Picture, number: int, fields: list[str], columns: _Columns, separator: str, source: Source, commas: bool
) -> None:
    label = f"line {number}"
    regions = _regions(_field(fields, columns, "class"))
    if regions is not None:
        from decomcam_bench.datasets.custom.label_studio import region_rows

        picture.rows += region_rows(regions, label, picture)
        return
    text, name = _field(fields, columns, "text"), _field(fields, columns, "class")
    errors = [] if text or name else ["neither a class nor a text"]
    if len(fields) > columns.width:
        errors.append("more fields than columns; a text or number with a comma needs quotes")
    elif len(fields) == 1 < columns.width and any(mark in fields[0] for mark in SEPARATORS):
        errors = [f"not parted by the header's separator {separator!r}"]
    box: tuple[float, ...] | None = None
    try:
        box = _box(fields, columns, source.box_format, commas)
        _note_size(picture, fields, columns)
        mask_value = _whole(_field(fields, columns, "mask_value"), "mask_value")
        crowd, difficult = (_flag(_field(fields, columns, key), key) for key in ("crowd", "difficult"))
    except ValueError as error:
        errors.append(str(error))
        mask_value, crowd, difficult = None, False, False
    mask_file = _field(fields, columns, "mask")
    picture.rows.append(
        Row(label, text or name, bool(text), box, mask_file=mask_file, mask_value=mask_value, crowd=crowd,
            difficult=difficult, error=errors[0] if errors else "")
    )  # fmt: skip


def _regions(text: str) -> list[object] | None:
    """Return the regions that Label Studio writes into a cell as JSON, or None for plain text."""
    if not text.startswith("["):
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, list) else None


def _box(
    fields: Sequence[str], columns: _Columns, box_format: str | None, commas: bool
) -> tuple[float, float, float, float] | None:
    """Return the box of a row, or None where it is left empty.

    Raises:
        ValueError: if it is not four numbers.
    """
    if columns.box:
        written, form = [fields[place] if place < len(fields) else "" for place in columns.box], columns.form
    else:
        cell, form = _field(fields, columns, "bbox"), box_format or ""
        written = re.split(r"[\s,;]+", cell.strip("[](){} \t")) if cell.strip("[](){} \t") else []
    if not any(written):
        return None
    try:
        a, b, c, d = (_number(text, commas) for text in written)
    except _UnclearError:
        raise
    except ValueError:
        raise ValueError(f"the box ({', '.join(written)}) is not four numbers") from None
    return corners((a, b, c, d), form)


def corners(values: tuple[float, float, float, float], form: str) -> tuple[float, float, float, float]:
    """Convert four numbers of the form ``xyxy``, ``xywh`` or ``cxcywh`` to (x0, y0, x1, y1)."""
    a, b, c, d = values
    if form == "xywh":
        return a, b, a + c, b + d
    if form == "cxcywh":
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return a, b, c, d


class _UnclearError(ValueError):
    """A number that can be read in two ways."""


def _number(text: str, commas: bool) -> float:
    """Read a number, with a decimal comma where the file has them.

    Raises:
        ValueError: if it is none, or may be two.
    """
    if "," in text:
        if _UNCLEAR_COMMA.fullmatch(text) and not commas:
            raise _UnclearError(
                f"the number {text} may be {text.replace(',', '.')} or {text.replace(',', '')}; write it plainly"
            )
        text = text.replace(",", ".", 1)
    if "_" in text:  # Python reads 1_000 as a number
        raise ValueError
    return float(text)


def _note_size(picture: Picture, fields: Sequence[str], columns: _Columns) -> None:
    """Take the size of the image from its columns.

    Raises:
        ValueError: if it contradicts another row of the same image.
    """
    written = [_field(fields, columns, key) for key in ("image_width", "image_height")]
    width, height = (_whole(text, "image size") or 0 for text in written)
    if not width or not height:
        return
    if picture.width and (picture.width, picture.height) != (width, height):
        raise ValueError(
            f"the image has {width} x {height} pixels here, and {picture.width} x {picture.height} in a line before"
        )
    picture.width, picture.height = width, height


def _whole(text: str, what: str) -> int | None:
    """Read a whole number; None for an empty field.

    Raises:
        ValueError: if it is none.
    """
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 10**6 or value != int(value):
        raise ValueError(f"the {what} '{text}' is not a whole number")
    return int(value)


def _flag(text: str, what: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise ValueError(f"the flag {what} is '{text}'; write 1 or 0")
