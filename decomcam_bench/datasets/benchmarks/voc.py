"""PASCAL VOC 2007 and 2012 in their official layout, ``VOCdevkit/VOC<year>``.

Everingham et al., The PASCAL Visual Object Classes Challenge. Boxes are 1-based and inclusive in
the files; here they are half-open pixels: (xmin - 1, ymin - 1, xmax, ymax). A few boxes of VOC
2012 are no whole numbers and stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from decomcam_bench.core.errors import DataError, did_you_mean
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Sample
from decomcam_bench.datasets.files import FileDataset, Gathering, check_classes, inside, unique_ids
from decomcam_bench.datasets.formats.voc_xml import read_voc_xml
from decomcam_bench.datasets.images import image_size

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_CLEANED = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
YEARS = tuple(range(2007, 2013))
_VOID = 255


@dataclass(frozen=True)
class ObjectMask:
    """One object of a ``SegmentationObject`` picture: the pixels of palette index ``number``."""

    file: Path
    number: int
    size: tuple[int, int]

    def decode(self) -> np.ndarray:
        try:
            with Image.open(self.file) as image:
                if image.mode != "P" or image.size != self.size:
                    raise ValueError(f"mode {image.mode}, {image.size}; expected a palette picture of {self.size}")
                return np.asarray(image) == self.number
        except Exception as error:  # whatever a damaged file makes Pillow raise
            raise ValueError(f"{self.file}: {error}") from error

    @property
    def digest(self) -> bytes:
        return f"{self.number}:".encode() + (self.file.read_bytes() if self.file.is_file() else b"")


@dataclass
class VOC(FileDataset):
    """VOC detection: one target for each class present, difficult flags kept.

    Attributes:
        year: of the challenge, 2007 to 2012.
        split: a file of ``ImageSets/Main``: ``test`` (2007), ``val``, ``train``, ``trainval``.
        classes: names of the classes of another set in VOC's layout; None for VOC's 20.
        masks: read object masks from ``SegmentationObject`` where an image has them.
    """

    id = "voc"

    year: int = 2007
    split: str = "test"
    classes: list[str] | None = None
    masks: bool = False

    folder: ClassVar[str] = "voc"
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.year", self.year, YEARS)
        self._classes = check_classes(self.classes) or CLASSES
        self._class_of = {name: class_id for class_id, name in enumerate(self._classes)}
        self._folder = self._find()
        try:
            lines = self._split_file().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeError) as error:
            raise DataError(f"{self._split_file()}: cannot be read ({error})") from error
        self._listed = [line.split()[0] for line in lines if line.strip()]
        self._image_ids, self._repeated = unique_ids(self._listed)

    def _find(self) -> Path:
        year = f"VOC{self.year}"
        places = (self.base / year, self.base / "VOCdevkit" / year, self.base)
        for place in places:
            if (place / "ImageSets" / "Main").is_dir() and (place != self.base or self.base.name == year):
                return place
        raise self.missing(f"{year}/ImageSets/Main")

    def _split_file(self) -> Path:
        lists = self._folder / "ImageSets" / "Main"
        known = sorted(file.stem for file in lists.glob("*.txt") if "_" not in file.stem)
        if self.split not in known:
            hint = did_you_mean(self.split, known)
            raise DataError(
                f"dataset.split={self.split}: not in {lists}{hint}; there: {', '.join(known) or 'no split'}; "
                f"VOC {self.year}'s other splits come with 'decomcam-bench data prepare voc --root DIR'"
            )
        return lists / f"{self.split}.txt"

    @property
    def class_names(self) -> Sequence[str]:
        return self._classes

    @property
    def clip_names(self) -> Sequence[str]:
        """The names with their words apart: 'dining table', 'potted plant', 'tv monitor'."""
        return tuple(_CLEANED.get(name, name) for name in self._classes)

    @property
    def available(self) -> frozenset[str]:
        return frozenset({"box", "mask"} if self.masks else {"box"})

    @property
    def identity(self) -> dict[str, Any]:
        return {
            **super().identity,
            "year": self.year,
            "split": self.split,
            "classes": self.classes,
            "masks": self.masks,
        }

    def __len__(self) -> int:
        return len(self._image_ids)

    def image_id(self, index: int) -> str:
        return self._image_ids[index]

    def image_file(self, index: int) -> Path:
        return inside(self._folder / "JPEGImages", f"{self._listed[index]}.jpg")

    def _read(self, index: int) -> Sample:
        image_id = self._image_ids[index]
        if self._repeated[index]:
            return Sample(image_id, 0, 0, (), f"{self._split_file()}: '{self._listed[index]}' is listed more than once")
        try:
            file = inside(self._folder / "Annotations", f"{self._listed[index]}.xml")
            annotation = read_voc_xml(file)
            size = (annotation.width, annotation.height)
            width, height = size if annotation.width else image_size(self.image_file(index))
        except (ValueError, OSError) as error:
            return Sample(image_id, 0, 0, (), str(error))
        gathering = Gathering(str(file), image_id, width, height, inclusive=True)
        picture = self._folder / "SegmentationObject" / f"{self._listed[index]}.png"
        masked = self.masks and picture.is_file()
        for number, item in enumerate(annotation.objects, start=1):
            class_id = self._class_of.get(item.name, -1)
            if class_id < 0:
                hint = did_you_mean(item.name, self._classes)
                gathering.refuse(f"unknown class '{item.name}'{hint}", class_name=item.name)
            elif item.box is None:
                gathering.refuse("an object without a box of four numbers", class_id, item.name)
            else:
                x0, y0, x1, y1 = item.box
                mask = ObjectMask(picture, number, (width, height)) if masked and number < _VOID else None
                gathering.add(class_id, item.name, (x0 - 1, y0 - 1, x1, y1), difficult=item.difficult, mask=mask)
        return gathering.sample()
