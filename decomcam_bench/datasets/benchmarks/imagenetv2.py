"""ImageNet-V2: three variants of 10,000 images; only threshold-0.7 has boxes.

Recht et al., ICML 2019; boxes by Choe et al. (wsolevaluation), whose folder ``val2`` is the
threshold-0.7 variant. Class folders are numbers: 10 comes after 9, not after 1.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Sample, Target
from decomcam_bench.datasets.benchmarks.imagenet_labels import LabelledImages
from decomcam_bench.datasets.files import inside
from decomcam_bench.datasets.formats.wsol_metadata import WsolMetadata, find_metadata
from decomcam_bench.datasets.images import image_size

VARIANTS = ("threshold0.7", "matched-frequency", "top-images")
_WSOL = ("wsol_metadata/ILSVRC/val", "metadata/ILSVRC/val", "imagenetv2_metadata", "ILSVRC/val", "")


@dataclass
class ImageNetV2(LabelledImages):
    """One target an image: its label; with boxes for ``threshold0.7``, without for the others.

    Attributes:
        variant: ``threshold0.7``, ``matched-frequency`` or ``top-images``.
    """

    id = "imagenetv2"

    variant: str = "threshold0.7"

    folder: ClassVar[str] = "imagenetv2"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.variant", self.variant, VARIANTS)
        stem = f"imagenetv2-{self.variant}"
        names = [f"{stem}-format-val", stem, *(["val2"] if self.has_boxes else [])]
        places = [place / name for place in (self.base, self.base.parent) for name in names]
        own = [self.base] if self.base.name in names or not any(place.is_dir() for place in places) else []
        self._images = next((place for place in (*own, *places) if _has_classes(place)), None)
        if self.has_boxes:
            found = find_metadata([place / name for place in (self.base, self.base.parent) for name in _WSOL])
            if found is None:
                raise self.missing("boxes (wsolevaluation's metadata/ILSVRC/val/*.txt)")
            self._metadata = WsolMetadata.read(found)
            self._enlist(self._metadata.ids, [name.removeprefix("val2/") for name in self._metadata.ids])
        elif self._images is None:
            raise self.missing(f"{names[0]}/<class number>/*.jpeg")
        else:
            listed = _list_numbered(self._images)
            self._enlist(listed, listed)

    @property
    def has_boxes(self) -> bool:
        """Whether boxes of this variant exist."""
        return self.variant == "threshold0.7"

    @property
    def available(self) -> frozenset[str]:
        return frozenset({"box"} if self.has_boxes else set())

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "variant": self.variant, "classes": self.classes}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the sorted ids (which hold the class) with sizes and boxes as in the files."""
        rows: list[Any] = sorted(self._image_ids)
        if self._metadata is not None:
            rows = sorted((name, repr(self._metadata.raw(name))) for name in self._metadata.ids)
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]

    def image_file(self, index: int) -> Path:
        return inside(self._images or self.base / f"imagenetv2-{self.variant}-format-val", self._shown[index])

    def _misplaced(self, index: int, label: int) -> str:
        folder = self._shown[index].partition("/")[0]
        if not folder.isdecimal() or int(folder) == label:
            return ""
        return f"'{self._listed[index]}' lies in folder {folder}, but its label is {label}"

    def _from_files(self, index: int) -> Sample:
        label = int(self._shown[index].partition("/")[0])
        if label >= len(self._class_names):
            raise ValueError(f"{self._shown[index]}: there is no class {label}")
        width, height = image_size(self.image_file(index))
        return Sample(self._image_ids[index], width, height, (Target.of(label, self.class_names[label], []),))


def _has_classes(place: Path) -> bool:
    return place.is_dir() and any(entry.name.isdecimal() and entry.is_dir() for entry in os.scandir(place))


def _list_numbered(place: Path) -> list[str]:
    """``<class>/<file>`` of all images, classes in numerical order, files by number where they have one."""

    def order(name: str) -> tuple[int, str]:
        stem = name.rpartition(".")[0]
        return (int(stem), "") if stem.isdecimal() else (-1, name)

    numbers = [entry.name for entry in os.scandir(place) if entry.name.isdecimal() and entry.is_dir()]
    return [
        f"{folder}/{name}"
        for folder in sorted(numbers, key=int)
        for name in sorted(os.listdir(place / folder), key=order)
        if name.lower().endswith((".jpeg", ".jpg", ".png"))
    ]
