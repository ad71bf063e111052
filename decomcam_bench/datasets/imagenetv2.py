"""ImageNet-V2: three variants of 10,000 images; only threshold-0.7 has boxes.

Recht et al., ICML 2019; boxes by Choe et al. (wsolevaluation), whose folder ``val2`` is the
threshold-0.7 variant. Class folders are numbers: 10 comes after 9, not after 1.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from decomcam_bench.datasets.base import Sample, Target
from decomcam_bench.datasets.files import FileDataset, Gathering, check_classes, inside, unique_ids
from decomcam_bench.datasets.imagenet import add_boxes
from decomcam_bench.datasets.imagenet_wnids import WNIDS
from decomcam_bench.datasets.images import image_size
from decomcam_bench.datasets.prompts import imagenet_names
from decomcam_bench.datasets.wsol_metadata import WsolMetadata, find_metadata
from decomcam_bench.options import check_choice

VARIANTS = ("threshold0.7", "matched-frequency", "top-images")
_WSOL = ("wsol_metadata/ILSVRC/val", "metadata/ILSVRC/val", "imagenetv2_metadata", "ILSVRC/val", "")


@dataclass
class ImageNetV2(FileDataset):
    """One target an image: its label; with boxes for ``threshold0.7``, without for the others.

    Attributes:
        variant: ``threshold0.7``, ``matched-frequency`` or ``top-images``.
        classes: names of the first classes, for another set in this layout; None for ImageNet's.
    """

    names: str = "clip"
    variant: str = "threshold0.7"
    classes: list[str] | None = None

    folder: ClassVar[str] = "imagenetv2"
    name_choices: ClassVar[tuple[str, ...]] = ("clip", "wnid")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._class_names = check_classes(self.classes) or imagenet_names()
        check_choice("dataset.variant", self.variant, VARIANTS)
        stem = f"imagenetv2-{self.variant}"
        names = [f"{stem}-format-val", stem, *(["val2"] if self.has_boxes else [])]
        places = [place / name for place in (self.base, self.base.parent) for name in names]
        own = [self.base] if self.base.name in names or not any(place.is_dir() for place in places) else []
        self._images = next((place for place in (*own, *places) if _has_classes(place)), None)
        self._metadata: WsolMetadata | None = None
        if self.has_boxes:
            found = find_metadata([place / name for place in (self.base, self.base.parent) for name in _WSOL])
            if found is None:
                raise self.missing("boxes (wsolevaluation's metadata/ILSVRC/val/*.txt)")
            self._metadata = WsolMetadata.read(found)
            self._listed = [name.removeprefix("val2/") for name in self._metadata.ids]
        elif self._images is None:
            raise self.missing(f"{names[0]}/<class number>/*.jpeg")
        else:
            self._listed = _list_numbered(self._images)
        self._image_ids, self._repeated = unique_ids(self._listed)

    @property
    def has_boxes(self) -> bool:
        """Whether boxes of this variant exist."""
        return self.variant == "threshold0.7"

    @property
    def available(self) -> frozenset[str]:
        return frozenset({"box"} if self.has_boxes else set())

    @property
    def class_names(self) -> Sequence[str]:
        return self._class_names

    def worded(self, names: str) -> Sequence[str]:
        return WNIDS[: len(self._class_names)] if names == "wnid" else self._class_names

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "variant": self.variant, "classes": self.classes}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the sorted ids (which hold the class) with sizes and boxes as in the files."""
        rows: list[Any] = sorted(self._image_ids)
        if self._metadata is not None:
            known = self._metadata
            rows = sorted(
                (name, repr((known.labels.get(name), known.sizes.get(name), known.boxes.get(name))))
                for name in known.ids
            )
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._listed)

    def image_id(self, index: int) -> str:
        return self._image_ids[index]

    def image_file(self, index: int) -> Path:
        return inside(self._images or self.base / f"imagenetv2-{self.variant}-format-val", self._listed[index])

    def _read(self, index: int) -> Sample:
        image_id = self._image_ids[index]
        if self._repeated[index]:
            return Sample(image_id, 0, 0, (), f"{self._listed[index]}: listed more than once")
        try:
            if self._metadata is not None:
                return self._boxed(index, self._metadata)
            label = int(self._listed[index].partition("/")[0])
            if label >= len(self._class_names):
                raise ValueError(f"{self._listed[index]}: there is no class {label}")
            width, height = image_size(self.image_file(index))
        except (ValueError, OSError) as error:
            return Sample(image_id, 0, 0, (), str(error))
        return Sample(image_id, width, height, (Target.of(label, self.class_names[label], []),))

    def _boxed(self, index: int, metadata: WsolMetadata) -> Sample:
        listed = metadata.ids[index]
        label = metadata.label(listed, len(self._class_names))
        width, height = metadata.size(listed) or image_size(self.image_file(index))
        gathering = Gathering(str(metadata.folder / "localization.txt"), self._image_ids[index], width, height)
        folder = self._listed[index].partition("/")[0]
        if folder.isdecimal() and int(folder) != label:
            reason = f"'{listed}' lies in folder {folder}, but its label is {label}"
            gathering.refuse(reason, label, self.class_names[label])
        else:
            add_boxes(gathering, label, self.class_names[label], metadata.boxes.get(listed, []))
        return gathering.sample()


def _has_classes(place: Path) -> bool:
    return place.is_dir() and any(entry.name.isdecimal() and entry.is_dir() for entry in os.scandir(place))


def _list_numbered(place: Path) -> list[str]:
    """``<class>/<file>`` of all images, classes in numerical order, files by number where they have one."""

    def order(name: str) -> tuple[int, str]:
        stem = name.rpartition(".")[0]
        return (int(stem), "") if stem.isdecimal() else (-1, name)

    numbers = [entry.name for entry in os.scandir(place) if entry.name.isdecimal() and int(entry.name) < len(WNIDS)]
    return [
        f"{folder}/{name}"
        for folder in sorted(numbers, key=int)
        for name in sorted(os.listdir(place / folder), key=order)
        if name.lower().endswith((".jpeg", ".jpg", ".png"))
    ]
