"""Index a COCO-style JSON file; base class of data sets that are annotated by one.

The index does not judge boxes and masks: that happens image by image, when a sample is read. What
concerns the file as a whole (ids that occur twice, annotations of images that do not exist) is
found while indexing.
"""

from __future__ import annotations

import abc
import gc
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.base import Problem, Sample, printable
from decomcam_bench.datasets.files import FileDataset, Gathering, unique_ids
from decomcam_bench.datasets.images import image_size

#: How JSON escapes half of a character.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class CocoImage:
    """An ``images`` entry; width and height are 0 where they are not stated."""

    image_id: str
    file_name: str
    width: int
    height: int
    error: str = ""


@dataclass
class CocoIndex:
    """A COCO-style file by image.

    Attributes:
        file: the JSON file.
        images: in the order of the file; a repeated id stays as an entry with an error.
        categories: (id, name), by ascending id.
        super_names: the super-category of each category id that states one.
        annotations: by image position: dictionaries with the keys that the file gives, polygons as
            float64 arrays, a ``label`` for messages, and an ``error`` where it is unusable.
        problems: annotations that belong to no image.
        remarks: what is odd about the file without costing anything.
        info: the ``info`` entry, where there is one.
    """

    file: Path
    images: list[CocoImage]
    categories: list[tuple[int, str]]
    super_names: dict[int, str]
    annotations: list[list[dict[str, Any]]]
    problems: list[Problem]
    remarks: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def read(file: Path, keep: tuple[str, ...] = ()) -> CocoIndex:
        """Read and index a file.

        Args:
            file: the JSON file.
            keep: keys of annotations to keep besides the standard ones.

        Raises:
            DataError: when the file cannot be read or is not of COCO's form.
        """
        with _no_collection():
            return CocoIndex._index(file, _load(file), keep)

    @staticmethod
    def _index(file: Path, content: dict[str, Any], keep: tuple[str, ...]) -> CocoIndex:
        images, position = _images(file, content["images"])
        keys = ("id", "category_id", "bbox", "segmentation", "iscrowd", *keep)
        annotations: list[list[dict[str, Any]]] = [[] for _ in images]
        problems: list[Problem] = []
        seen: dict[Any, list[dict[str, Any]]] = {}
        reused = 0
        for number, entry in enumerate(content["annotations"]):
            row = {key: entry[key] for key in keys if key in entry} if isinstance(entry, dict) else {}
            image_id = entry.get("image_id") if isinstance(entry, dict) else None
            place = position.get(_id_key(image_id))
            label = f"annotation {row.get('id', f'number {number}')}"
            if place is None:
                reason = f"{label} belongs to image {_shown(image_id)}, which the file does not list"
                problems.append(Problem(str(file), str(image_id or ""), reason))
                continue
            row["label"] = label
            if "bbox" not in row and "segmentation" not in row:
                if "keypoints" in entry:
                    continue
                row["error"] = f"{label} has neither a box nor a segmentation"
            elif "id" in row:
                others = seen.setdefault(_hashable(row["id"]), [])
                raw = {**row, "image_id": place, "label": ""}
                if raw in others:
                    row["error"] = f"{label}: the id occurs more than once, and this is a copy of the first; left out"
                    row["copy"] = True
                reused += bool(others) and raw not in others
                others.append(raw)
            row["category_id"] = whole(row.get("category_id"))
            row["segmentation"] = _compact(row.get("segmentation"))
            annotations[place].append(row)
        remarks = [f"{file}: {reused:,} annotations reuse the id of another one; all are kept"] if reused else []
        categories, super_names = _categories(file, content["categories"])
        info = content.get("info")
        return CocoIndex(
            file,
            images,
            categories,
            super_names,
            annotations,
            problems,
            remarks,
            info if isinstance(info, dict) else {},
        )


@dataclass
class CocoDataset(FileDataset):
    """A data set whose annotations are one COCO-style JSON; a subclass opens it by :meth:`_open`."""

    def _open(self, file: Path) -> None:
        """Indexes the file; raises as :meth:`CocoIndex.read`."""
        self._index = CocoIndex.read(file)

    @property
    def problems(self) -> Sequence[Problem]:
        return self._index.problems

    def __len__(self) -> int:
        return len(self._index.images)

    def image_id(self, index: int) -> str:
        return self._index.images[index].image_id

    def _read(self, index: int) -> Sample:
        image = self._index.images[index]
        if image.error:
            return Sample(image.image_id, 0, 0, (), image.error)
        try:
            file = self.image_file(index)
            width, height = (image.width, image.height) if image.width else image_size(file)
        except (ValueError, OSError) as error:
            return Sample(image.image_id, 0, 0, (), f"{self._index.file}: image {image.image_id}: {error}")
        gathering = Gathering(str(self._index.file), image.image_id, width, height)
        return gathering.sample(self._gather(gathering, image, self._index.annotations[index]))

    @abc.abstractmethod
    def _gather(self, gathering: Gathering, image: CocoImage, rows: Sequence[dict[str, Any]]) -> str:
        """Adds the annotations of an image, or notes what is wrong with them.

        Args:
            rows: see :attr:`CocoIndex.annotations`.

        Returns:
            Why the image cannot be used, or an empty string.
        """


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps the garbage collector from walking millions of small lists again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _load(file: Path) -> dict[str, Any]:
    try:
        text = file.read_bytes()
        content = json.loads(text)
        if _HALF.search(text):
            content = _printable(content)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not a JSON file ({error})") from error
    if isinstance(content, dict):
        content.setdefault("categories", [])
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise DataError(f"{file}: not a COCO-style file: it needs the lists {', '.join(lists)}")
    return content


def _printable(value: Any) -> Any:
    """The same JSON value with every text printable, see :func:`~decomcam_bench.datasets.base.printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(one) for one in value]
    return {printable(key): _printable(one) for key, one in value.items()} if isinstance(value, dict) else value


def whole(value: Any) -> Any:
    """Return an id or a size as the integer that it stands for, or as it is.

    Tools write ``120.0`` and ``"120"`` for 120.

    >>> whole(120.0), whole("007"), whole("a7")
    (120, 7, 'a7')
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 18:
        return int(value)
    return _hashable(value)


def is_set(flag: Any) -> bool:
    """Return True for the ways in which tools write a flag that is set."""
    return flag is True or whole(flag) == 1 or str(flag).lower() == "true"


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (int, str, float, type(None))) else repr(value)


def _id_key(value: Any) -> Any:
    """Return what ids are compared by; None for what is no id."""
    return whole(value) if isinstance(value, (int, str, float)) and value == value else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _images(file: Path, entries: list[Any]) -> tuple[list[CocoImage], dict[Any, int]]:
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or _id_key(entry.get("id")) is None or isinstance(entry.get("id"), bool):
            raise DataError(f"{file}: entry {number} of images has no id")
    exact = len({str(entry["id"]) for entry in entries}) == len({str(_id_key(entry["id"])) for entry in entries})
    names, repeated = unique_ids(
        str(entry["id"]) if isinstance(entry["id"], str) else str(_id_key(entry["id"])) for entry in entries
    )
    images: list[CocoImage] = []
    position: dict[Any, int] = {}
    for number, entry in enumerate(entries):
        file_name = entry.get("file_name")
        width, height = (whole(entry.get(side, 0)) or 0 for side in ("width", "height"))
        key = _id_key(entry["id"])
        error = ""
        if repeated[number] or (not exact and key in position):
            error = f"{file}: image id {entry['id']} occurs more than once"
        elif not isinstance(file_name, str) or not file_name.strip():
            error = f"{file}: image {entry['id']} has no file_name"
        elif not _sides_fit(width, height):
            error = f"{file}: image {entry['id']} has width {_shown(width)} and height {_shown(height)}"
        else:
            position[key] = number
        sides = (0, 0) if error or not (width and height) else (width, height)
        images.append(CocoImage(names[number], str(file_name or ""), sides[0], sides[1], error))
        position.setdefault(key, number)
    return images, position


def _sides_fit(width: Any, height: Any) -> bool:
    """Return True if both are whole numbers of pixels, 0 where they are not stated."""
    return all(type(side) is int and 0 <= side < 10**6 for side in (width, height))


def _categories(file: Path, entries: list[Any]) -> tuple[list[tuple[int, str]], dict[int, str]]:
    """Return (id, name) by ascending id, and the super-category of each id that states one."""
    found: dict[int, str] = {}
    super_names: dict[int, str] = {}
    for entry in entries:
        number = whole(entry.get("id")) if isinstance(entry, dict) else None
        if type(number) is not int or not isinstance(entry.get("name"), str):
            raise DataError(f"{file}: a category without a whole number as id and a name: {str(entry)[:80]}")
        if number in found:
            raise DataError(f"{file}: category id {number} occurs more than once")
        if not entry["name"].strip():
            raise DataError(f"{file}: category {number} has an empty name; each category is a text for the model")
        found[number] = entry["name"]
        if isinstance(entry.get("supercategory"), str):
            super_names[number] = entry["supercategory"]
    return sorted(found.items()), super_names


def _compact(segmentation: Any) -> Any:
    """Polygons as arrays, a quarter of the memory of lists; anything odd stays for the check."""
    if not isinstance(segmentation, list):
        return segmentation
    return [_array(polygon) for polygon in segmentation]


def _array(polygon: Any) -> Any:
    try:
        values = np.array(polygon)
    except (ValueError, OverflowError):
        return polygon
    flat = isinstance(polygon, list) and values.ndim == 1 and values.dtype.kind in "iuf"
    return values.astype(np.float64, copy=False) if flat else polygon


def read_box(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return the half-open box (x0, y0, x1, y1) of an annotation's ``bbox``, which is x, y, width, height.

    Raises:
        ValueError: if it is missing or not four numbers.
    """
    box = row.get("bbox")
    label = row.get("label", "annotation")
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"{label}: the bbox is not four numbers")
    try:
        x, y, width, height = (_coordinate(value) for value in box)
    except OverflowError:
        raise ValueError(f"{label}: the bbox is not four finite numbers") from None
    except ValueError:
        raise ValueError(f"{label}: the bbox is not four numbers") from None
    return x, y, x + width, y + height


def has_box(row: Mapping[str, Any]) -> bool:
    """Return False if the ``bbox`` is missing, null, empty, or four zeros, as tools write where they have none."""
    return row.get("bbox") not in (None, [], [0, 0, 0, 0])


def _coordinate(value: Any) -> float:
    if type(value) in (int, float) or (isinstance(value, str) and "_" not in value):
        return float(value)
    raise ValueError
