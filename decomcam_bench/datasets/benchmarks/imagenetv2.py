"""ImageNet-V2: three variants of 10,000 images; only threshold-0.7 has boxes.

Recht et al., ICML 2019; boxes by Choe et al. (wsolevaluation), whose folder ``val2`` is the
threshold-0.7 variant. Class folders are numbers: 10 comes after 9, not after 1.

The boxes name images ``val2/<class>/<number>.jpeg``, as an early copy did; the archive that is public
today names them by hash. Boxes of such a copy are assigned by a table of names, and otherwise where
class and size identify an image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from decomcam_bench.core.errors import DataError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Sample, Target
from decomcam_bench.datasets.benchmarks.imagenet_labels import LabelledImages
from decomcam_bench.datasets.files import inside
from decomcam_bench.datasets.formats.name_map import match_by_size, read_name_map
from decomcam_bench.datasets.formats.wsol_metadata import WsolMetadata, find_metadata
from decomcam_bench.datasets.images import image_size

#: Where the two namings are discussed.
DISCUSSED = "https://github.com/clovaai/wsolevaluation/issues/42"
VARIANTS = ("threshold0.7", "matched-frequency", "top-images")
_WSOL = ("wsol_metadata/ILSVRC/val", "metadata/ILSVRC/val", "imagenetv2_metadata", "ILSVRC/val", "")


@dataclass
class ImageNetV2(LabelledImages):
    """One target an image: its label; with boxes for ``threshold0.7``, without for the others.

    Attributes:
        variant: ``threshold0.7``, ``matched-frequency`` or ``top-images``.
        name_map: CSV of old and new names for a copy whose images are named by hash; None for
            ``name_map.csv`` under the root, if it is there.
    """

    id = "imagenetv2"

    variant: str = "threshold0.7"
    name_map: str | None = None

    folder: ClassVar[str] = "imagenetv2"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.variant", self.variant, VARIANTS)
        self._boxless: list[str] = []
        stem = f"imagenetv2-{self.variant}"
        names = [f"{stem}-format-val", stem, *(["val2"] if self.has_boxes else [])]
        places = [place / name for place in (self.base, self.base.parent) for name in names]
        own = [self.base] if self.base.name in names or not any(place.is_dir() for place in places) else []
        self._images = next((place for place in (*own, *places) if _has_classes(place)), None)
        if self.has_boxes:
            found = find_metadata([place / name for place in (self.base, self.base.parent) for name in _WSOL])
            listed = _list_numbered(self._images) if self._images is not None else []
            if found is None and not listed:
                raise self.missing("boxes (wsolevaluation's metadata/ILSVRC/val/*.txt)")
            self._metadata = WsolMetadata.read(found) if found is not None else None
            if self._metadata is None:
                self._boxless = listed
                self._enlist(listed, listed)
            elif listed and not any(PurePosixPath(name).stem.isdecimal() for name in listed):
                self._by_hash(listed, self._metadata)
            else:
                self._enlist(self._metadata.ids, [name.removeprefix("val2/") for name in self._metadata.ids])
        elif self._images is None:
            raise self.missing(f"{names[0]}/<class number>/*.jpeg")
        else:
            listed = _list_numbered(self._images)
            self._enlist(listed, listed)

    def _by_hash(self, listed: list[str], metadata: WsolMetadata) -> None:
        """Take the images of a copy that names them by hash, with the boxes that can be assigned."""
        file = Path(self.name_map).expanduser() if self.name_map else self.base / "name_map.csv"
        if self.name_map and not file.is_file():
            raise DataError(f"dataset.name_map={self.name_map}: no such file; `data map imagenetv2` writes one")
        if file.is_file():
            old_of = read_name_map(file, metadata.ids)
        else:
            old_of = match_by_size(self._stated_sizes(metadata), self._found_sizes(listed))
        self._boxless = [name for name in listed if name not in old_of]
        self._enlist([old_of.get(name, name) for name in listed], listed)

    def _stated_sizes(self, metadata: WsolMetadata) -> dict[str, tuple[str, tuple[int, int]]]:
        sizes = {}
        for name in metadata.ids:
            try:
                size = metadata.size(name)
            except ValueError:
                continue
            if size is not None:
                sizes[name] = (metadata.labels.get(name, ""), size)
        return sizes

    def _found_sizes(self, listed: list[str]) -> dict[str, tuple[str, tuple[int, int]]]:
        assert self._images is not None
        sizes = {}
        for name in listed:
            try:
                sizes[name] = (name.partition("/")[0], image_size(self._images / name))
            except (OSError, ValueError):
                continue
        return sizes

    @property
    def doubts(self) -> Sequence[str]:
        """How many boxes have no image, for a copy whose images are named by hash."""
        if not self._boxless:
            return ()
        if self._metadata is None:
            missing = self.missing("boxes (wsolevaluation's metadata/ILSVRC/val/*.txt)")
            return (f"{missing}; metrics without boxes work",)
        return (
            f"{self._images}: {len(self._boxless):,} of {len(self):,} images have no boxes: they are named by hash, "
            "and the boxes name val2/<class>/<number>.jpeg; set dataset.name_map=CSV (old,new), which `decomcam-bench "
            f"data map imagenetv2 --old DIR --new DIR` writes from an old copy (see {DISCUSSED})",
        )

    @property
    def has_boxes(self) -> bool:
        """Whether boxes of this variant exist."""
        return self.variant == "threshold0.7"

    @property
    def available(self) -> frozenset[str]:
        return frozenset({"box"} if self.has_boxes and len(self._boxless) < len(self) else set())

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "variant": self.variant, "classes": self.classes}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the sorted ids (which hold the class) with sizes and boxes as in the files."""
        rows: list[Any] = sorted(self._image_ids)
        if self._metadata is not None and self._listed != self._metadata.ids:
            pairs = zip(self._image_ids, self._listed, strict=True)
            rows = sorted((name, repr(self._metadata.raw(listed))) for name, listed in pairs)
        elif self._metadata is not None:
            rows = sorted((name, repr(self._metadata.raw(name))) for name in self._metadata.ids)
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]

    def image_file(self, index: int) -> Path:
        return inside(self._images or self.base / f"imagenetv2-{self.variant}-format-val", self._shown[index])

    def _misplaced(self, index: int, label: int) -> str:
        folder = self._shown[index].partition("/")[0]
        if not folder.isdecimal() or int(folder) == label:
            return ""
        return f"'{self._listed[index]}' lies in folder {folder}, but its label is {label}"

    def _from_metadata(self, index: int, metadata: WsolMetadata) -> Sample:
        if self._listed[index] in self._unassigned:
            return self._from_files(index)
        return super()._from_metadata(index, metadata)

    @cached_property
    def _unassigned(self) -> frozenset[str]:
        return frozenset(self._boxless)

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
