"""CUB-200-2011: 200 kinds of birds, one box an image, and up to 15 part locations.

Wah et al., Caltech-UCSD Birds-200-2011. Boxes are x, y, width, height; part locations are points,
of which only the visible ones are kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from decomcam_bench.core.errors import DataError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Part, Problem, Sample
from decomcam_bench.datasets.files import FileDataset, Gathering, inside, unique_ids
from decomcam_bench.datasets.images import image_size

SPLITS = ("test", "train", "all")


@dataclass
class CUB(FileDataset):
    """One target an image, with its box and its visible parts as points.

    Attributes:
        split: ``test`` (5,794 images), ``train`` (5,994) or ``all``.
    """

    id = "cub"

    split: str = "test"

    has_parts: ClassVar[bool] = True
    folder: ClassVar[str] = "cub"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.split", self.split, SPLITS)
        self._contradicted: dict[str, Path] = {}
        self._folder = self.find("CUB_200_2011/images.txt", "images.txt").parent
        names = self._table("classes.txt")
        if self._contradicted or not all(names.values()):
            raise DataError(f"{self._folder / 'classes.txt'}: a class without a name, or with two; is the file whole?")
        numbers = sorted(names, key=lambda number: int(number) if number.isdecimal() else 0)
        self._class_of = {number: class_id for class_id, number in enumerate(numbers)}
        self._class_names = tuple(clean_name(names[number][0]) for number in numbers)
        split = self._table("train_test_split.txt")
        wanted = {"test": "0", "train": "1"}.get(self.split)
        rows = _rows(self._folder / "images.txt")
        chosen = [row for row in rows if wanted is None or _first(split.get(row[0])) in (wanted, "")]
        self._listed = [row[0] for row in chosen]
        self._paths = {row[0]: " ".join(row[1:]) for row in reversed(chosen)}
        self._image_ids, self._repeated = unique_ids(self._listed)
        self._split = split
        self._labels = self._table("image_class_labels.txt")
        self._boxes = self._table("bounding_boxes.txt")
        self._parts, self._locations = self._read_parts()
        known = {row[0] for row in rows}
        self._problems = [
            Problem(str(self._folder / "bounding_boxes.txt"), number, f"a box of image {number}, not in images.txt")
            for number in self._boxes
            if number not in known
        ]

    def _table(self, name: str) -> dict[str, tuple[str, ...]]:
        """The lines of a file by their first word; remembers images that have two unlike ones."""
        table: dict[str, tuple[str, ...]] = {}
        for first, *rest in _rows(self._folder / name):
            if table.setdefault(first, tuple(rest)) != tuple(rest):
                self._contradicted.setdefault(first, self._folder / name)
        return table

    def _read_parts(self) -> tuple[dict[str, str], dict[str, list[tuple[str, ...]]]]:
        """Part names, and part lines by image; both empty where the folder ``parts`` is missing."""
        if not (self._folder / "parts" / "part_locs.txt").is_file():
            return {}, {}
        locations: dict[str, list[tuple[str, ...]]] = {}
        for row in _rows(self._folder / "parts" / "part_locs.txt"):
            locations.setdefault(row[0], []).append(tuple(row[1:]))
        return {row[0]: " ".join(row[1:]) for row in _rows(self._folder / "parts" / "parts.txt")}, locations

    @property
    def class_names(self) -> Sequence[str]:
        return self._class_names

    @property
    def available(self) -> frozenset[str]:
        return frozenset({"box", "parts"} if self._locations else {"box"})

    @property
    def problems(self) -> Sequence[Problem]:
        return self._problems

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "split": self.split}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids, classes, boxes and parts as they stand in the files; opens no image."""
        tables = (self._paths, self._labels, self._boxes, self._locations)
        rows = [(number, *(table.get(number) for table in tables)) for number in sorted(self._listed)]
        bad = [sorted(self._contradicted)] if self._contradicted else []
        return hashlib.sha256(repr((rows, self._class_names, self._parts, *bad)).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._listed)

    def image_id(self, index: int) -> str:
        return self._image_ids[index]

    def image_file(self, index: int) -> Path:
        return inside(self._folder / "images", self._paths[self._listed[index]])

    def _read(self, index: int) -> Sample:
        image_id, number = self._image_ids[index], self._listed[index]
        file = self._folder / "bounding_boxes.txt"
        error = ""
        if self._repeated[index]:
            error = f"{self._folder / 'images.txt'}: image {number} is listed more than once"
        elif number in self._contradicted:
            error = f"{self._contradicted[number]}: two lines of image {number} contradict each other"
        elif self.split != "all" and not self._split.get(number):
            error = f"{self._folder / 'train_test_split.txt'}: image {number} is in neither split"
        label = _first(self._labels.get(number))
        if not error and label not in self._class_of:
            error = f"{self._folder / 'image_class_labels.txt'}: image {number} has the unknown class '{label}'"
        try:
            width, height = (0, 0) if error else image_size(self.image_file(index))
        except (ValueError, OSError) as unreadable:
            error = str(unreadable)
        if error:
            return Sample(image_id, 0, 0, (), error)
        gathering = Gathering(str(file), image_id, width, height)
        class_id = self._class_of[label]
        name = self._class_names[class_id]
        try:
            x, y, w, h = (float(value) for value in self._boxes.get(number, ()))
        except ValueError:
            gathering.refuse(f"image {number} has no box of four numbers", class_id, name)
        else:
            parts = self._visible(number, gathering)
            gathering.add(class_id, name, (x, y, x + w, y + h), parts=parts, label=f"image {number}")
        return gathering.sample()

    def _visible(self, number: str, gathering: Gathering) -> list[Part]:
        parts, file = [], str(self._folder / "parts" / "part_locs.txt")
        for row in self._locations.get(number, []):
            try:
                part, x, y, visible = row[0], float(row[1]), float(row[2]), row[3] == "1"
                name = self._parts[part]
            except (ValueError, IndexError, KeyError):
                gathering.note(f"the line '{number} {' '.join(row)}' cannot be read", file=file)
                continue
            if visible and 0 <= x < gathering.width and 0 <= y < gathering.height:
                parts.append(Part(name, point=(x, y)))
            elif visible:
                gathering.note(f"image {number}: {name} at ({x:g}, {y:g}) lies outside the image", file=file)
        return parts


def clean_name(name: str) -> str:
    """'001.Black_footed_Albatross' as words: 'Black footed Albatross'.

    >>> clean_name("001.Black_footed_Albatross")
    'Black footed Albatross'
    """
    return re.sub(r"^\d+\.", "", name).replace("_", " ").strip()


def _first(row: tuple[str, ...] | None) -> str:
    return row[0] if row else ""


def _rows(file: Path) -> list[list[str]]:
    try:
        return [line.split() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
