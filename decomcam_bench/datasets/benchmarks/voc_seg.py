"""PASCAL VOC 2012 segmentation: class and instance masks of 1,449 val images, void pixels ignored.

Everingham et al., IJCV 2010. ``SegmentationClass`` holds class ids 1 to 20 and ``SegmentationObject``
instance numbers, both 255 on borders and on what is neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decomcam_bench.core.errors import DataError, did_you_mean
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Sample
from decomcam_bench.datasets.benchmarks.voc import CLASSES, CLEANED, YEARS
from decomcam_bench.datasets.files import FileDataset, Gathering, check_classes, inside, unique_ids
from decomcam_bench.datasets.formats.voc_masks import VOID, read_numbers
from decomcam_bench.datasets.images import image_size
from decomcam_bench.datasets.masks import ValueMask, bounding_box
from decomcam_bench.datasets.text import read_text


@dataclass(frozen=True)
class InstanceMask:
    """The pixels of one class that belong to one instance.

    Attributes:
        classes, objects: the two pictures.
        value, number: class id and instance number in them.
        size: (width, height).
    """

    classes: Path
    objects: Path
    value: int
    number: int
    size: tuple[int, int]

    def decode(self) -> np.ndarray:
        """Return the mask, bool (height, width).

        Raises:
            ValueError: if a picture cannot be read or is of another size.
        """
        inside = read_numbers(self.classes, self.size) == self.value
        return np.asarray(inside & (read_numbers(self.objects, self.size) == self.number))

    @property
    def digest(self) -> bytes:
        """Content, for the fingerprint."""
        content = [file.read_bytes() if file.is_file() else b"" for file in (self.classes, self.objects)]
        return f"{self.value},{self.number}:".encode() + b"".join(content)


@dataclass
class VOCSegmentation(FileDataset):
    """One target per class present, with a mask and a box per instance.

    Attributes:
        year: of the challenge, 2007 to 2012.
        split: a file of ``ImageSets/Segmentation``: ``val`` (1,449 images in 2012), ``train``, ``trainval``.
        instances: one mask per instance; False for one mask per class.
        classes: names of the classes 1, 2, ... of another set in this layout; None for VOC's 20.
    """

    year: int = 2012
    split: str = "val"
    instances: bool = True
    classes: list[str] | None = None

    id: ClassVar[str] = "voc_seg"
    region: ClassVar[str] = "mask"
    folder: ClassVar[str] = "voc"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.year", self.year, YEARS)
        self._classes = check_classes(self.classes) or CLASSES
        year = f"VOC{self.year}"
        self._folder = self.find(f"{year}/ImageSets/Segmentation", f"VOCdevkit/{year}/ImageSets/Segmentation",
                                 "ImageSets/Segmentation").parents[1]  # fmt: skip
        lists = self._folder / "ImageSets" / "Segmentation"
        known = sorted(file.stem for file in lists.glob("*.txt"))
        if self.split not in known:
            hint = did_you_mean(self.split, known)
            raise DataError(
                f"dataset.split={self.split}: not in {lists}{hint}; there: {', '.join(known) or 'no split'}"
            )
        try:
            text, _ = read_text(lists / f"{self.split}.txt")
        except ValueError as error:
            raise DataError(str(error)) from error
        self._listed = [line.split()[0] for line in text.splitlines() if line.strip()]
        self._image_ids, self._repeated = unique_ids(self._listed)

    @property
    def class_names(self) -> Sequence[str]:
        """VOC's own names."""
        return self._classes

    @property
    def clip_names(self) -> Sequence[str]:
        """The names with their words apart."""
        return tuple(CLEANED.get(name, name) for name in self._classes)

    @property
    def identity(self) -> dict[str, Any]:
        """Options that decide what the data set holds."""
        more = {"year": self.year, "split": self.split, "instances": self.instances, "classes": self.classes}
        return {**super().identity, **more}

    def __len__(self) -> int:
        return len(self._image_ids)

    def image_id(self, index: int) -> str:
        """The name in the list."""
        return self._image_ids[index]

    def image_file(self, index: int) -> Path:
        """The JPEG."""
        return inside(self._folder / "JPEGImages", f"{self._listed[index]}.jpg")

    def _read(self, index: int) -> Sample:
        image_id, name = self._image_ids[index], self._listed[index]
        if self._repeated[index]:
            return Sample(image_id, 0, 0, (), f"{self.split}: '{name}' is listed more than once")
        try:
            classes = inside(self._folder / "SegmentationClass", f"{name}.png")
            size = image_size(classes)
            labels = read_numbers(classes, size)
            objects = self._folder / "SegmentationObject" / f"{name}.png"
            numbers = read_numbers(objects, size) if self.instances else None
        except (OSError, ValueError) as error:
            return Sample(image_id, 0, 0, (), str(error))
        gathering = Gathering(str(classes), image_id, *size)
        void = (ValueMask(classes, VOID, size),) if (labels == VOID).any() else ()
        for value in np.unique(labels).tolist():
            if value in (0, VOID):
                continue
            if value > len(self._classes):
                gathering.refuse(f"the class id {value} has no name; there are {len(self._classes)} classes")
                continue
            where, class_name = labels == value, self._classes[value - 1]
            if numbers is None:
                box = bounding_box(where)
                gathering.add(value - 1, class_name, box, mask=ValueMask(classes, value, size), ignored=void)
                continue
            for number in np.unique(numbers[where]).tolist():
                mask = InstanceMask(classes, objects, value, number, size)
                box = bounding_box(where & (numbers == number))
                gathering.add(value - 1, class_name, box, mask=mask, ignored=void)
        return gathering.sample()
