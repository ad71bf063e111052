"""A user's own data: a COCO-style JSON, or a CSV beside a folder of images.

A CSV has the columns ``image`` (path under the image folder), ``class`` or ``text`` (a class name,
which the templates are put round, or a free text, which is used as it stands), ``x0, y0, x1, y1``
(half-open pixels of the image), and ``mask`` (optional: an image file whose non-zero pixels are
the object; then the box may be left empty). Rows of one image with the same class or text are
instances of one pair. In a JSON, an annotation may carry a ``text`` beside or instead of its
category, and masks are optional.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from decomcam_bench.core.errors import DataError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Mask, Problem, Sample
from decomcam_bench.datasets.files import FileDataset, Gathering, inside
from decomcam_bench.datasets.formats.coco_json import CocoIndex, read_box
from decomcam_bench.datasets.formats.coco_masks import coco_mask
from decomcam_bench.datasets.images import image_size

_BOX = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class ImageMask:
    """A mask in an image file: the pixels that are not zero in any channel but alpha."""

    file: Path

    def decode(self) -> np.ndarray:
        try:
            with Image.open(self.file) as image:
                values = np.asarray(image if image.mode in ("1", "L", "P", "I", "I;16") else image.convert("RGB"))
        except Exception as error:  # whatever a damaged file makes Pillow raise
            raise ValueError(f"{self.file}: not a readable mask ({error})") from error
        return np.asarray(values.any(axis=2) if values.ndim == 3 else values, dtype=bool)

    @property
    def digest(self) -> bytes:
        return self.file.read_bytes() if self.file.is_file() else b""


@dataclass(frozen=True)
class _Row:
    """One annotation, from either kind of file; ``box`` as written, None where it is left out."""

    label: str
    name: str
    free: bool
    box: tuple[float, ...] | None = None
    segmentation: Any = None
    mask_file: str = ""
    crowd: bool = False
    error: str = ""


@dataclass
class Custom(FileDataset):
    """Any set of (image, text, box, mask) without code.

    Attributes:
        annotations: the JSON or CSV file; null for ``annotations.json`` or ``annotations.csv``
            under the root.
        images: the folder of the images, taken from the root if it is not there as written; null for
            the root, or its sub-folder ``images``.
        use: localise in the ``box`` or in the ``mask``.
    """

    id = "custom"

    annotations: str | None = None
    images: str | None = None
    use: str = "box"

    folder: ClassVar[str] = "custom"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.use", self.use, ("box", "mask"))
        self._file = self._annotation_file()
        self._problems: Sequence[Problem] = ()
        self._json_names: list[str] = []
        self._images: list[tuple[str, str, int, int, str]] = []
        self._rows: list[list[_Row]] = []
        if self._file.suffix.lower() == ".csv":
            self._read_csv()
        else:
            self._read_json()
        if not self._images:
            raise DataError(f"{self._file}: no image in it")
        found: set[tuple[str, bool]] = {(row.name, row.free) for rows in self._rows for row in rows if not row.error}
        found.update((name, False) for name in self._json_names)
        if not found:
            raise DataError(f"{self._file}: no class and no text in it")
        self._classes = sorted(found)
        self._class_of = {key: number for number, key in enumerate(self._classes)}
        self._image_folder = self._find_images()

    def _annotation_file(self) -> Path:
        if self.annotations:
            file = Path(self.annotations).expanduser()
            if not file.is_file() and self.root and (self.base / file).is_file():
                file = self.base / file
            if not file.is_file():
                raise DataError(
                    f"dataset.annotations={self.annotations}: no such file; give a COCO-style JSON or a CSV"
                )
            return file
        for name in ("annotations.json", "annotations.csv"):
            if (self.base / name).is_file():
                return self.base / name
        raise DataError(
            f"custom: no annotations.json or annotations.csv under {self.base}; "
            "set dataset.root=DIR, or dataset.annotations=FILE and dataset.images=DIR"
        )

    def _find_images(self) -> Path:
        if self.images:
            folder = Path(self.images).expanduser()
            if not folder.is_dir() and self.root:
                folder = self.base / folder
        elif self.root:
            folder = self.base
        else:
            folder = self._file.parent
        if not folder.is_dir():
            raise DataError(f"dataset.images={self.images or folder}: no such folder; name the folder of the images")
        first = next((image[1] for image in self._images if not image[4]), "")
        nested = folder / "images"
        return nested if not self.images and not (folder / first).is_file() and nested.is_dir() else folder

    def _read_json(self) -> None:
        index = CocoIndex.read(self._file, keep=("text", "caption"))
        self._problems = index.problems
        names = dict(index.categories)
        self._json_names = [*names.values()]
        self._images = [(one.image_id, one.file_name, one.width, one.height, one.error) for one in index.images]
        self._rows = [[_json_row(row, names) for row in rows] for rows in index.annotations]

    def _read_csv(self) -> None:
        try:
            with self._file.open(newline="", encoding="utf-8-sig") as handle:
                reader = csv.DictReader(handle)
                columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
                reader.fieldnames = columns
                _check_columns(self._file, columns)
                lines = [(reader.line_num, row) for row in reader]
        except (OSError, UnicodeError, csv.Error) as unreadable:
            raise DataError(f"{self._file}: cannot be read ({unreadable})") from unreadable
        position: dict[str, int] = {}
        for number, line in lines:
            image = (line.get("image") or "").strip()
            if image not in position:
                position[image] = len(self._images)
                error = "" if image else f"{self._file}: line {number} names no image"
                self._images.append((image or f"line {number}", image, 0, 0, error))
                self._rows.append([])
            self._rows[position[image]].append(_csv_row(number, line))

    @property
    def region(self) -> str:  # type: ignore[override]
        return self.use

    @property
    def available(self) -> frozenset[str]:
        masked = any(row.mask_file or row.segmentation is not None for rows in self._rows for row in rows)
        return frozenset({"box", "mask"} if masked else {"box"})

    @property
    def class_names(self) -> Sequence[str]:
        return tuple(name for name, _ in self._classes)

    @property
    def free_texts(self) -> frozenset[int]:
        return frozenset(number for number, (_, free) in enumerate(self._classes) if free)

    @property
    def problems(self) -> Sequence[Problem]:
        return self._problems

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "use": self.use}

    def __len__(self) -> int:
        return len(self._images)

    def image_id(self, index: int) -> str:
        return self._images[index][0]

    def image_file(self, index: int) -> Path:
        return inside(self._image_folder, self._images[index][1])

    def _read(self, index: int) -> Sample:
        image_id, _, width, height, error = self._images[index]
        if error:
            return Sample(image_id, 0, 0, (), error)
        try:
            file = self.image_file(index)
            width, height = (width, height) if width else image_size(file)
        except (ValueError, OSError) as unreadable:
            return Sample(image_id, 0, 0, (), str(unreadable))
        gathering = Gathering(str(self._file), image_id, width, height)
        for row in self._rows[index]:
            class_id = self._class_of.get((row.name, row.free), -1)
            try:
                if row.error:
                    raise ValueError(row.error)
                mask = self._mask(row, width, height)
                box = row.box if row.box is not None else _box_of(mask)
            except (ValueError, OSError) as unusable:
                reason = str(unusable)
                named = reason.startswith(row.label)
                gathering.refuse(reason if named else f"{row.label}: {reason}", class_id, row.name)
                continue
            text = row.name if row.free else ""
            gathering.add(class_id, row.name, box, crowd=row.crowd, mask=mask, text=text, label=row.label)
        return gathering.sample()

    def _mask(self, row: _Row, width: int, height: int) -> Mask | None:
        """The mask of an annotation, or None where it has none.

        Raises:
            ValueError, OSError: when it cannot be read or is not of the image's size.
        """
        if row.mask_file:
            file = inside(self._image_folder, row.mask_file)
            if not file.is_file():
                file = inside(self._file.parent, row.mask_file)
            size = image_size(file)
            if size != (width, height):
                raise ValueError(f"the mask {file} has {size[0]} x {size[1]} pixels, its image {width} x {height}")
            return ImageMask(file)
        return coco_mask(row.segmentation, height, width) if row.segmentation is not None else None


def _box_of(mask: Mask | None) -> tuple[float, float, float, float]:
    """Smallest half-open box round a mask.

    Raises:
        ValueError: without a mask, or for one without pixels.
    """
    if mask is None:
        raise ValueError("neither a box nor a mask")
    array = mask.decode()
    rows, columns = np.flatnonzero(array.any(axis=1)), np.flatnonzero(array.any(axis=0))
    if not len(rows):
        raise ValueError("a mask without a pixel, and no box")
    return float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1


def _json_row(row: dict[str, Any], names: dict[int, str]) -> _Row:
    text = row.get("text") or row.get("caption") or ""
    name = text if isinstance(text, str) and text else names.get(row.get("category_id"), "")  # type: ignore[arg-type]
    error = row.get("error", "")
    if not error and not name:
        error = f"unknown category {row.get('category_id')!r}, and no text"
    segmentation = row.get("segmentation")
    empty = isinstance(segmentation, list) and not segmentation
    box = None
    if not error and "bbox" in row:
        try:
            box = read_box(row)
        except ValueError as unreadable:
            error = str(unreadable)
    crowd = row.get("iscrowd") in (1, True)
    return _Row(row["label"], name, bool(text), box, None if empty else segmentation, "", crowd, error)


def _check_columns(file: Path, columns: list[str]) -> None:
    """Refuses a CSV that lacks a column, has half a box, or a column twice; others are ignored."""
    boxed = [key for key in _BOX if key in columns]
    located = len(boxed) == len(_BOX) or ("mask" in columns and not boxed)
    used = [name for name in columns if name in ("image", "class", "text", "mask", *_BOX)]
    complete = "image" in columns and bool({"class", "text"} & set(columns)) and located
    if not complete or len(set(used)) < len(used):
        raise DataError(
            f"{file}: needs the columns image, class or text, x0, y0, x1, y1 (or mask, or both), each once and "
            f"parted by commas; it has {', '.join(columns) or 'none'}"
        )


def _csv_row(number: int, line: dict[str, Any]) -> _Row:
    label = f"line {number}"
    text, name = ((line.get(key) or "").strip() for key in ("text", "class"))
    error = "" if text or name else "neither a class nor a text"
    if None in line:
        error = "more fields than columns; a text with a comma needs quotes"
    written = [(line.get(key) or "").strip() for key in _BOX]
    box = None
    if any(written):
        try:
            box = tuple(float(value) for value in written)
        except ValueError:
            error = error or f"the box ({', '.join(written)}) is not four numbers"
    return _Row(label, text or name, bool(text), box, mask_file=(line.get("mask") or "").strip(), error=error)
