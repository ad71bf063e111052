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

from decomcam_bench.core.errors import DataError, did_you_mean
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Mask, Sample
from decomcam_bench.datasets.files import FileDataset, Gathering, check_classes, inside, unique_ids
from decomcam_bench.datasets.formats.voc_masks import VOID, ObjectMask, match_objects, read_numbers
from decomcam_bench.datasets.formats.voc_xml import XmlAnnotation, XmlObject, read_voc_xml
from decomcam_bench.datasets.images import image_size
from decomcam_bench.datasets.text import check_encoding, read_text

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CLEANED = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
YEARS = tuple(range(2007, 2013))
_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".webp", ".tif", ".tiff")


@dataclass
class VOC(FileDataset):
    """VOC detection: one target for each class present, difficult flags kept.

    Attributes:
        year: of the challenge, 2007 to 2012.
        split: a file of ``ImageSets/Main``: ``test`` (2007), ``val``, ``train``, ``trainval``, or one's own.
        classes: names of the classes of another set in VOC's layout; None for VOC's 20.
        masks: read object masks from ``SegmentationObject`` where an image has them; each belongs to the
            object whose box it fits, and void pixels are left out of metrics that count pixels.
        encoding: of annotations that declare none and are no UTF-8.
    """

    id = "voc"

    year: int = 2007
    split: str = "test"
    classes: list[str] | None = None
    masks: bool = False
    encoding: str | None = None

    folder: ClassVar[str] = "voc"
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.year", self.year, YEARS)
        check_encoding(self.encoding)
        self._classes = check_classes(self.classes) or CLASSES
        self._class_of = {name: class_id for class_id, name in enumerate(self._classes)}
        self._folder = self._find()
        self._listed = self._names()
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
        own = {f"{name}_{split}" for name in CLASSES for split in ("train", "val", "trainval", "test")}
        known = sorted(file.stem for file in lists.glob("*.txt") if file.stem not in own)
        if self.split not in known:
            hint = did_you_mean(self.split, known)
            raise DataError(
                f"dataset.split={self.split}: not in {lists}{hint}; there: {', '.join(known) or 'no split'}; "
                f"VOC {self.year}'s other splits come with 'decomcam-bench data prepare voc --root DIR'"
            )
        return lists / f"{self.split}.txt"

    def _names(self) -> list[str]:
        """Return the images of the split, without the endings that some tools write.

        Raises:
            DataError: if the list cannot be read.
        """
        try:
            text, _ = read_text(self._split_file(), self.encoding)
        except ValueError as error:
            raise DataError(str(error)) from error
        names = [line.split()[0] for line in text.splitlines() if line.strip()]
        annotations = self._folder / "Annotations"
        return [
            Path(name).stem if name.endswith(_ENDINGS) and not (annotations / f"{name}.xml").is_file() else name
            for name in names
        ]

    @property
    def class_names(self) -> Sequence[str]:
        return self._classes

    @property
    def clip_names(self) -> Sequence[str]:
        """The names with their words apart: 'dining table', 'potted plant', 'tv monitor'."""
        return tuple(CLEANED.get(name, name) for name in self._classes)

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
        """The image: a JPEG, or whatever ending it has."""
        places = [inside(self._folder / "JPEGImages", f"{self._listed[index]}{ending}") for ending in _ENDINGS]
        return next((place for place in places if place.is_file()), places[0])

    def _read(self, index: int) -> Sample:
        image_id = self._image_ids[index]
        if self._repeated[index]:
            return Sample(image_id, 0, 0, (), f"{self._split_file()}: '{self._listed[index]}' is listed more than once")
        try:
            file = inside(self._folder / "Annotations", f"{self._listed[index]}.xml")
            annotation = read_voc_xml(file, self.encoding)
            size = (annotation.width, annotation.height)
            width, height = size if annotation.width else image_size(self.image_file(index))
        except (ValueError, OSError) as error:
            return Sample(image_id, 0, 0, (), str(error))
        gathering = Gathering(str(file), image_id, width, height, inclusive=True)
        picture = self._folder / "SegmentationObject" / f"{self._listed[index]}.png"
        masks, void = self._masks(gathering, picture, annotation) if self.masks and picture.is_file() else ({}, ())
        for number, item in enumerate(annotation.objects, start=1):
            self._add(gathering, item, masks.get(number), void)
        return gathering.sample()

    def _add(self, gathering: Gathering, item: XmlObject, mask: Mask | None, void: tuple[Mask, ...]) -> None:
        """Add the boxes of one object, or note what is wrong with it."""
        class_id = self._class_of.get(item.name, -1)
        if class_id < 0:
            hint = did_you_mean(item.name, self._classes)
            own = "" if hint or self.classes else "; for another set in this layout set dataset.classes=[name,name,...]"
            gathering.refuse(f"unknown class '{item.name}'{hint}{own}", class_name=item.name)
            return
        if not item.boxes:
            gathering.refuse("an object without a box of four numbers", class_id, item.name)
        elif item.note:
            gathering.note(f"'{item.name}': {item.note}", class_id, item.name)
        for x0, y0, x1, y1 in item.boxes:
            box = (x0 - 1, y0 - 1, x1, y1)
            gathering.add(class_id, item.name, box, difficult=item.difficult, mask=mask, ignored=void)

    @staticmethod
    def _masks(
        gathering: Gathering, picture: Path, annotation: XmlAnnotation
    ) -> tuple[dict[int, Mask], tuple[Mask, ...]]:
        """Return the mask of each object by its number, and the void pixels."""
        size = (gathering.width, gathering.height)
        try:
            numbers = read_numbers(picture, size)
        except ValueError:
            # As the order of the objects has it: whoever decodes a mask says what is wrong.
            return {k: ObjectMask(picture, k, size) for k in range(1, len(annotation.objects) + 1) if k < VOID}, ()
        boxes = [_round(item.boxes) for item in annotation.objects]
        masks: dict[int, Mask] = {}
        for number, value in enumerate(match_objects(numbers, boxes), start=1):
            name = annotation.objects[number - 1].name
            if value:
                masks[number] = ObjectMask(picture, value, size)
            elif boxes[number - 1] is not None:
                gathering.note(f"{picture}: no mask fits object {number} ('{name}'); it has none", -1, name)
        void = (ObjectMask(picture, VOID, size),) if (numbers == VOID).any() else ()
        return masks, void


def _round(boxes: Sequence[Sequence[float]]) -> tuple[float, float, float, float] | None:
    """Return the half-open box round boxes as the file states them, or None without any."""
    if not boxes:
        return None
    array = np.array(boxes, dtype=np.float64)
    x0, y0 = (array[:, :2].min(axis=0) - 1).tolist()
    x1, y1 = array[:, 2:].max(axis=0).tolist()
    return x0, y0, x1, y1
