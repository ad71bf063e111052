"""Imagenette: ten easily told classes of ImageNet, of which 500 photographs have boxes drawn by people.

Howard, https://github.com/fastai/imagenette. The 500 are those of ImageNet's validation set, which Imagenette spreads
over both of its splits. Their boxes come from wsolevaluation's metadata (Choe et al., CVPR 2020; MIT) and ship in
``imagenette_boxes.csv``, 0-based and inclusive, in pixels of ImageNet's own file. They are scaled to the file at
hand, so that resized copies (160 or 320 pixels on the shorter side) and squashed ones work alike.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Sample, Target
from decomcam_bench.datasets.benchmarks.imagenet_wnids import WNIDS
from decomcam_bench.datasets.files import FileDataset, Gathering, inside
from decomcam_bench.datasets.images import image_size
from decomcam_bench.datasets.prompts import imagenet_names

#: WordNet ids of the ten classes, with Imagenette's names.
CLASSES: Mapping[str, str] = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
#: Official folders by size.
FOLDERS = {"160px": "imagenette2-160", "320px": "imagenette2-320", "full": "imagenette2"}
SPLITS = ("boxed", "val", "train")
_TABLE = Path(__file__).parent / "imagenette_boxes.csv"
_NUMBER = {wnid: number for number, wnid in enumerate(CLASSES)}
_SUFFIXES = (".jpeg", ".jpg", ".png")


@dataclass(frozen=True)
class Boxed:
    """A line of the table: the class, the size of ImageNet's own file, and the boxes in its pixels, half-open."""

    wnid: str
    width: int
    height: int
    boxes: tuple[tuple[float, float, float, float], ...]

    def scaled(self, width: int, height: int) -> list[tuple[float, float, float, float]]:
        """Return the boxes in the pixels of a copy, each axis by its own factor."""
        x, y = width / self.width, height / self.height
        return [(x0 * x, y0 * y, x1 * x, y1 * y) for x0, y0, x1, y1 in self.boxes]


@lru_cache(maxsize=1)
def boxed() -> Mapping[str, Boxed]:
    """Return the 500 photographs that have boxes, by the stem of their file name, sorted."""
    found = {}
    with _TABLE.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            corners = (tuple(map(int, box.split())) for box in row["boxes"].split(";"))
            boxes = tuple((float(x0), float(y0), float(x1 + 1), float(y1 + 1)) for x0, y0, x1, y1 in corners)
            found[row["image"]] = Boxed(row["wnid"], int(row["width"]), int(row["height"]), boxes)
    return found


@dataclass
class Imagenette(FileDataset):
    """One target per image: its class. With boxes for ``split=boxed``, without for the other splits.

    Under the root lies one of the official folders, or the root is one, or it holds the photographs flat or in
    folders of their WordNet ids (then ``boxed`` takes those that are there).

    Attributes:
        split: ``boxed`` (the 500 of ImageNet's validation set), or the official ``val`` or ``train``.
        size: ``160px``, ``320px`` or ``full``; None for the first of these that lies under the root.
    """

    id = "imagenette"

    names: str = "clip"
    split: str = "boxed"
    size: str | None = None

    version: ClassVar[int] = 1
    folder: ClassVar[str] = "imagenette"
    name_choices: ClassVar[tuple[str, ...]] = ("clip", "own", "wnid")

    def __post_init__(self) -> None:
        if self.subset in SPLITS:
            raise ConfigError(f"dataset.subset={self.subset}: this is a split, dataset.split={self.subset}")
        super().__post_init__()
        check_choice("dataset.split", self.split, SPLITS)
        if self.size is not None:
            check_choice("dataset.size", self.size, FOLDERS)
        self._home = self._find_home()
        self._files = self._scan()
        official = self._home is not None
        stems = [stem for stem in boxed() if official or stem in self._files] if self.split == "boxed" else self._files
        if not self._files or not stems:
            raise self.missing("photographs (imagenette2-160/train and val, with a folder per WordNet id)")
        self._stems = list(stems)

    def _find_home(self) -> Path | None:
        """Return the folder of ``train`` and ``val``, and set :attr:`size` by its name."""
        for size, name in FOLDERS.items():
            if self.size in (None, size):
                for place in (self.base / name, *([self.base] if self.base.name == name else [])):
                    if (place / "train").is_dir() or (place / "val").is_dir():
                        self.size = size
                        return place
        plain = self.size is None and (self.base / "train").is_dir() and (self.base / "val").is_dir()
        return self.base if plain else None

    def _scan(self) -> dict[str, tuple[Path, str]]:
        """Return the photographs with their WordNet id by stem: of the split, or all that may have boxes."""
        found: dict[str, tuple[Path, str]] = {}
        if self._home is not None:
            for split in ("train", "val") if self.split == "boxed" else (self.split,):
                _add_folders(self._home / split, found)
        elif self.split == "boxed" and self.size is None:
            for place in (self.base, self.base / "ILSVRC2012_img_val", self.base / "val"):
                _add_folders(place, found)
                for name in _pictures(place):
                    stem = name.rpartition(".")[0]
                    if stem in boxed():
                        found.setdefault(stem, (place / name, boxed()[stem].wnid))
        return dict(sorted(found.items(), key=lambda item: (item[1][1], item[0])))

    @property
    def class_names(self) -> Sequence[str]:
        return tuple(CLASSES.values())

    @property
    def clip_names(self) -> Sequence[str]:
        return tuple(imagenet_names()[WNIDS.index(wnid)] for wnid in CLASSES)

    def worded(self, names: str) -> Sequence[str]:
        return tuple(CLASSES) if names == "wnid" else super().worded(names)

    @property
    def available(self) -> frozenset[str]:
        return frozenset({"box"} if self.split == "boxed" else set())

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "split": self.split, "size": self.size}

    def __len__(self) -> int:
        return len(self._stems)

    def image_id(self, index: int) -> str:
        return self._stems[index]

    def image_file(self, index: int) -> Path:
        stem = self._stems[index]
        if stem in self._files:
            return self._files[stem][0]
        return inside(self._home or self.base, f"train/{boxed()[stem].wnid}/{stem}.JPEG")

    def _read(self, index: int) -> Sample:
        stem = self._stems[index]
        if stem not in self._files:
            return Sample(stem, 0, 0, (), f"{stem}: no such photograph in train or val under {self._home}")
        file, wnid = self._files[stem]
        try:
            width, height = image_size(file)
        except (OSError, ValueError) as error:
            return Sample(stem, 0, 0, (), str(error))
        number, name = _NUMBER[wnid], CLASSES[wnid]
        if self.split != "boxed":
            return Sample(stem, width, height, (Target.of(number, name, []),))
        gathering = Gathering(str(_TABLE), stem, width, height, inclusive=True)
        line = boxed()[stem]
        if line.wnid != wnid:
            gathering.refuse(f"the image lies in the folder of {wnid}, but is a {line.wnid}", number, name)
        else:
            for box in line.scaled(width, height):
                gathering.add(number, name, box)
        return gathering.sample()


def _pictures(place: Path) -> list[str]:
    if not place.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(place) if entry.name.lower().endswith(_SUFFIXES))


def _add_folders(place: Path, found: dict[str, tuple[Path, str]]) -> None:
    """Add the photographs in folders of the ten WordNet ids."""
    for wnid in CLASSES:
        for name in _pictures(place / wnid):
            found.setdefault(name.rpartition(".")[0], (place / wnid / name, wnid))
