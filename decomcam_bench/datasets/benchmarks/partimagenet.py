"""PartImageNet: part masks of ImageNet images, as COCO-style JSON.

He et al., ECCV 2022. 158 ImageNet classes in 11 super-categories with 40 parts; the official OOD
test split has 30 classes. Objects are not annotated as such: an object is the union of the parts
of its super-category in the image. As published, one part is misspelt "Tier"; CLIP's wording
mends that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decomcam_bench.core.errors import DataError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Part
from decomcam_bench.datasets.benchmarks.imagenet_wnids import WNIDS
from decomcam_bench.datasets.files import Gathering, fit_box, inside
from decomcam_bench.datasets.formats.coco_json import CocoDataset, CocoImage, read_box
from decomcam_bench.datasets.formats.coco_masks import CocoMask, UnionMask, coco_mask
from decomcam_bench.datasets.prompts import imagenet_names

SPLITS = ("test", "val", "train")
UNITS = ("object", "part")
_FOLDERS = ("", "PartImageNet", "PartImageNet_OOD", "PartImageNet_Seg")
_SUPERS = (
    "Quadruped", "Biped", "Fish", "Bird", "Snake", "Reptile", "Car", "Bicycle", "Boat", "Aeroplane", "Bottle",
)  # fmt: skip


@dataclass(frozen=True)
class _PartRow:
    """A usable part annotation: name of its part and super-category, box and mask."""

    part: str
    super_name: str
    box: tuple[float, float, float, float]
    mask: CocoMask


@dataclass
class PartImageNet(CocoDataset):
    """Whole objects with their parts, or each kind of part as a target of its own.

    Attributes:
        split: ``test``, ``val`` or ``train``.
        unit: ``object`` for one target an object, which carries its parts; ``part`` for one target
            a kind of part, as gScoreCAM evaluates.
        names: ``own`` ('Quadruped', 'Quadruped Head'), ``clip`` ('quadruped', 'quadruped head'),
            or ``label``, which puts the image's ImageNet label in place of the super-category
            ('Tibetan Mastiff', 'Tibetan Mastiff Head') and so makes finer classes.
    """

    id = "partimagenet"

    split: str = "test"
    unit: str = "object"

    region: ClassVar[str] = "mask"
    folder: ClassVar[str] = "partimagenet"
    name_choices: ClassVar[tuple[str, ...]] = ("own", "clip", "label")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.split", self.split, SPLITS)
        check_choice("dataset.unit", self.unit, UNITS)
        s = self.split
        files = (f"{s}.json", f"annotations/{s}.json", f"annotations/{s}/{s}.json", f"{s}/{s}.json")
        file = self.find(*(f"{place}/{name}".lstrip("/") for place in _FOLDERS for name in files))
        self._open(file)
        relative = next(name for name in sorted(files, key=len, reverse=True) if file.as_posix().endswith(f"/{name}"))
        self._folder = file.parents[relative.count("/")]
        self._part_names = dict(self._index.categories)
        self._super_of = {
            name: super_category(name, self._index.super_names.get(number, ""))
            for number, name in self._index.categories
        }
        self._classes = self._make_classes(file)
        self._class_of = {key: number for number, key in enumerate(self._classes)}
        self._own_names = self.worded("label" if self.names == "label" else "own")

    def _make_classes(self, file: Path) -> list[tuple[str, str]]:
        """The classes as (wnid, or super-category without labels; part, or empty for objects)."""
        if self.names != "label":
            supers = list(dict.fromkeys(self._super_of.values()))
            known = [name for name in _SUPERS if name in supers]
            order = known if len(known) == len(supers) else supers
            if self.unit == "object":
                return [(name, "") for name in order]
            return [(self._super_of[name], name) for name in self._part_names.values()]
        keys = set()
        for image, rows in zip(self._index.images, self._index.annotations, strict=True):
            wnid = wnid_of(image.file_name)
            for row in rows:
                part = self._part_names.get(row.get("category_id"))  # type: ignore[arg-type]
                if wnid and part:
                    keys.add((wnid, part if self.unit == "part" else ""))
        if not keys:
            raise DataError(
                f"{file}: no image is named by a WordNet id (n01440764_1.JPEG), which dataset.names=label needs"
            )
        return sorted(keys)

    @property
    def available(self) -> frozenset[str]:
        return frozenset({"box", "mask", "parts"} if self.unit == "object" else {"box", "mask"})

    @property
    def class_names(self) -> Sequence[str]:
        return self._own_names

    def worded(self, names: str) -> Sequence[str]:
        worded = []
        for kind, part in self._classes:
            if names == "label":
                label = imagenet_names()[WNIDS.index(kind)] if kind in WNIDS else kind
                worded.append(f"{label} {self._short(part)}" if part else label)
            else:
                worded.append(part or kind)
        if names == "clip":
            return tuple(re.sub(r"\btier\b", "tire", name.lower()) for name in worded)
        return tuple(" ".join(name.split()) for name in worded)

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "split": self.split, "unit": self.unit, "labels": self.names == "label"}

    def image_file(self, index: int) -> Path:
        """The image, which lies in the split's folder or in one of its synset folders."""
        name = self._index.images[index].file_name
        wnid = wnid_of(name)
        folders = (self.split, f"images/{self.split}", "images", "JPEGImages", "")
        places = [inside(self._folder / folder, name) for folder in folders]
        if wnid:
            places += [inside(self._folder / folder / wnid, Path(name).name) for folder in folders]
        return next((place for place in places if place.is_file()), places[0])

    def _gather(self, gathering: Gathering, image: CocoImage, rows: Sequence[dict[str, Any]]) -> str:
        wnid = wnid_of(image.file_name)
        if self.names == "label" and wnid not in WNIDS:
            return f"{self._index.file}: image {image.image_id}: '{image.file_name}' names no ImageNet class"
        usable = [row for row in (self._check(row, gathering, wnid) for row in rows) if row]
        if self.unit == "part":
            for row in usable:
                class_id, name = self._named(row.super_name, row.part, wnid)
                gathering.add(class_id, name, row.box, mask=row.mask)
        else:
            for super_name in dict.fromkeys(row.super_name for row in usable):
                self._add_object(gathering, [row for row in usable if row.super_name == super_name], wnid)
        return ""

    def _short(self, part: str) -> str:
        """The part without its super-category: 'Side Mirror'."""
        return part.removeprefix(self._super_of[part]).strip() or part

    def _named(self, super_name: str, part: str, wnid: str) -> tuple[int, str]:
        """Class id and name of what an annotation belongs to; -1 where it belongs to no class."""
        key = (wnid if self.names == "label" else super_name, part if self.unit == "part" else "")
        class_id = self._class_of.get(key, -1)
        return class_id, self._own_names[class_id] if class_id >= 0 else part

    def _check(self, row: dict[str, Any], gathering: Gathering, wnid: str) -> _PartRow | None:
        """A part that can be used, or None after noting why not."""
        part = self._part_names.get(row.get("category_id"))  # type: ignore[arg-type]
        if part is None:
            gathering.refuse(f"{row['label']}: unknown category {row.get('category_id')!r}")
            return None
        class_id, name = self._named(self._super_of[part], part, wnid)
        try:
            if "error" in row:
                raise ValueError(row["error"])
            box, clipped = fit_box(read_box(row), gathering.width, gathering.height)
            mask = coco_mask(row.get("segmentation"), gathering.height, gathering.width)
        except ValueError as error:
            reason = str(error)
            gathering.refuse(reason if reason.startswith(row["label"]) else f"{row['label']}: {reason}", class_id, name)
            return None
        if clipped:
            gathering.note(f"{row['label']}: {clipped}", class_id, name)
        return _PartRow(part, self._super_of[part], box, mask)

    def _add_object(self, gathering: Gathering, rows: list[_PartRow], wnid: str) -> None:
        """One object: the union of its parts, with one part mask for each kind of part."""
        boxes = np.array([row.box for row in rows])
        whole: list[float] = [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]
        parts = [
            Part(self._short(name), UnionMask(tuple(row.mask for row in rows if row.part == name)))
            for name in dict.fromkeys(row.part for row in rows)
        ]
        class_id, name = self._named(rows[0].super_name, "", wnid)
        mask = UnionMask(tuple(row.mask for row in rows))
        gathering.add(class_id, name, whole, mask=mask, parts=parts)


def super_category(part: str, stated: str = "") -> str:
    """The super-category of a part: as stated if the part's name begins with it, or its first word.

    >>> super_category("Car Side Mirror")
    'Car'
    """
    return stated if stated and part.startswith(f"{stated} ") else part.split(" ", 1)[0]


def wnid_of(file_name: str) -> str:
    """The WordNet id that an ImageNet file name begins with, or an empty string.

    >>> wnid_of("n01440764/n01440764_10026.JPEG")
    'n01440764'
    """
    found = re.match(r"(n\d{8})_", Path(file_name).name)
    return found.group(1) if found else ""
