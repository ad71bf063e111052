"""ImageNet (ILSVRC2012) validation: 50,000 images of 1,000 classes with boxes of the labelled class.

Russakovsky et al., IJCV 2015. Images lie flat (as ``ILSVRC2012_img_val.tar`` unpacks) or in synset
folders. Boxes come from the official XML archive (``ILSVRC2012_bbox_val_v3.tgz``; flat, in synset
folders, or next to the images) or from wsolevaluation's metadata, whichever lies under the root; both
are 0-based and inclusive.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from decomcam_bench.core.errors import DataError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Sample, Target
from decomcam_bench.datasets.benchmarks.imagenet_labels import LabelledImages
from decomcam_bench.datasets.benchmarks.imagenet_wnids import WNIDS
from decomcam_bench.datasets.files import Gathering, inside
from decomcam_bench.datasets.formats.voc_xml import read_voc_xml
from decomcam_bench.datasets.formats.wsol_metadata import WsolMetadata, find_metadata
from decomcam_bench.datasets.images import image_size
from decomcam_bench.datasets.text import read_text

SOURCES = ("auto", "xml", "wsol", "solution", "none")
_IMAGES = ("ILSVRC2012_img_val", "val", "images/val", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "ILSVRC/val", "")
_XML = (
    "ILSVRC2012_bbox_val_v3/val", "ILSVRC2012_bbox_val_v3", "Annotations/CLS-LOC/val", "Annotations/val", "bbox/val",
    "bbox", "ILSVRC/Annotations/CLS-LOC/val", "val", "",
)  # fmt: skip
_SOLUTION = ("LOC_val_solution.csv", "ILSVRC/LOC_val_solution.csv")
#: How Hugging Face's copy names images: the official stem and the class.
_NAMED_BY_CLASS = re.compile(r"(ILSVRC2012_val_\d{8})_(n\d{8})")
_WSOL = ("wsol_metadata/ILSVRC/test", "metadata/ILSVRC/test", "ILSVRC/test", "")
_INDEX = {wnid: number for number, wnid in enumerate(WNIDS)}
_SUFFIXES = (".JPEG", ".jpeg", ".jpg", ".JPG", ".png")


@dataclass
class ImageNet(LabelledImages):
    """One target an image: its label, with the boxes of that class.

    Attributes:
        boxes: ``xml``, ``wsol``, ``solution`` (Kaggle's ``LOC_val_solution.csv``), ``none`` (the label is the
            synset folder, or in the name), or ``auto`` for whichever lies under the root, in this order.
    """

    id = "imagenet"

    boxes: str = "auto"

    folder: ClassVar[str] = "imagenet"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.boxes", self.boxes, SOURCES)
        roots = [self.base, *([self.base.parent] if self.base.name in _IMAGES else [])]
        self._files, self._label_of = _scan_images([self.base / place for place in _IMAGES])
        places = [root / place for root in roots for place in dict.fromkeys((*_XML, *_IMAGES))]
        wanted = SOURCES if self.boxes == "auto" else (self.boxes,)
        self._xml, self._xml_files = _find_xml(places) if "xml" in wanted else (None, {})
        if self._xml is None and "wsol" in wanted:
            found = find_metadata([root / place for root in roots for place in _WSOL])
            self._metadata = WsolMetadata.read(found) if found else None
        self._solution: dict[str, str] = {}
        if self._xml is None and self._metadata is None and "solution" in wanted:
            self._solution_file, self._solution = _read_solution([root / name for root in roots for name in _SOLUTION])
        if not self._files:
            raise self.missing("images (flat .JPEG files or synset folders, in ILSVRC2012_img_val or val)")
        labelled = "none" in wanted and len(self._label_of) == len(self._files)
        if self._xml is None and self._metadata is None and not self._solution and not labelled:
            raise self.missing(
                "boxes (ILSVRC2012_bbox_val_v3/val/*.xml, wsol_metadata/ILSVRC/test/*.txt, or LOC_val_solution.csv)"
            )
        listed = self._list()
        self._enlist(listed, [_stem(name) for name in listed])

    def _list(self) -> list[str]:
        """Images of the metadata in their order; with XML, every name that has an image or a file."""
        if self._metadata is not None:
            return self._metadata.ids
        return sorted({*self._xml_files, *self._solution, *self._files})

    @property
    def _source(self) -> str:
        if self._metadata is not None:
            return "wsol"
        return "xml" if self._xml is not None else "solution" if self._solution else "none"

    @property
    def available(self) -> frozenset[str]:
        """``box``, but where labels are all that there is."""
        return frozenset() if self._source == "none" else frozenset({"box"})

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "boxes": self._source, "classes": self.classes}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the sorted ids with their annotation as it stands in the files, unparsed."""
        rows = []
        for image_id, stem, listed in zip(self._image_ids, self._shown, self._listed, strict=True):
            rows.append((image_id, self._label_of.get(stem, ""), self._raw(listed)))
        return hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()[:16]

    def _raw(self, listed: str) -> Any:
        if self._metadata is not None:
            return self._metadata.raw(listed)
        if self._source == "solution":
            return self._solution.get(listed)
        try:
            with open(self._xml_files[listed], "rb") as handle:
                return hashlib.sha256(handle.read()).hexdigest()
        except (KeyError, OSError):
            return None

    def image_file(self, index: int) -> Path:
        stem = self._shown[index]
        return Path(self._files[stem]) if stem in self._files else inside(self.base, f"{stem}.JPEG")

    def _misplaced(self, index: int, label: int) -> str:
        folder = self._label_of.get(self._shown[index])
        if folder is None or folder == WNIDS[label]:
            return ""
        return f"the image lies in the folder of {folder}, but its label is {label} ({WNIDS[label]})"

    def _from_files(self, index: int) -> Sample:
        stem = self._listed[index]
        if self._source == "none":
            return self._label_alone(index, stem)
        if self._source == "solution":
            return self._from_solution(index, stem)
        found = self._xml_files.get(stem)
        file = Path(found) if found else inside(self._xml or self.base, f"{stem}.xml")
        annotation = read_voc_xml(file)
        stated = (annotation.width, annotation.height)
        width, height = stated if annotation.width else image_size(self.image_file(index))
        gathering = Gathering(str(file), self._image_ids[index], width, height, inclusive=True)
        folder = self._label_of.get(stem)
        for item in annotation.objects:
            label = _INDEX.get(item.name, -1)
            label = label if label < len(self._class_names) else -1
            name = self.class_names[label] if label >= 0 else item.name
            if label < 0:
                gathering.refuse(f"unknown class '{item.name}', which is no WordNet id of ILSVRC2012", class_name=name)
            elif folder is not None and folder != item.name:
                gathering.refuse(f"a box of {item.name}, but the image lies in the folder of {folder}", label, name)
            elif not item.boxes:
                gathering.refuse("an object without a box of four numbers", label, name)
            for x0, y0, x1, y1 in item.boxes if label >= 0 and folder in (None, item.name) else ():
                gathering.add(label, name, (x0, y0, x1 + 1, y1 + 1))
        return gathering.sample("" if annotation.objects else f"{file}: the annotation holds no object")

    def _label_alone(self, index: int, stem: str) -> Sample:
        """The label of an image by its folder or name, without boxes."""
        label = _INDEX[self._label_of[stem]]
        if label >= len(self._class_names):
            raise ValueError(f"{stem}: there is no class {label}")
        width, height = image_size(self.image_file(index))
        return Sample(self._image_ids[index], width, height, (Target.of(label, self.class_names[label], []),))

    def _from_solution(self, index: int, stem: str) -> Sample:
        """Boxes of Kaggle's table: ``n02110063 x0 y0 x1 y1`` again and again, inclusive as in the XML."""
        width, height = image_size(self.image_file(index))
        gathering = Gathering(str(self._solution_file), self._image_ids[index], width, height, inclusive=True)
        words = self._solution.get(stem, "").split()
        folder = self._label_of.get(stem)
        for start in range(0, len(words), 5):
            wnid, box = words[start], words[start + 1 : start + 5]
            label = _INDEX.get(wnid, -1)
            name = self.class_names[label] if 0 <= label < len(self._class_names) else wnid
            try:
                x0, y0, x1, y1 = map(float, box)
            except ValueError:
                gathering.refuse(f"{stem}: the box '{' '.join(box)[:60]}' is not four numbers", label, name)
                continue
            if not 0 <= label < len(self._class_names) or folder not in (None, wnid):
                gathering.refuse(f"{stem}: a box of {wnid}, which is not the class of the image", -1, name)
            else:
                gathering.add(label, name, (x0, y0, x1 + 1, y1 + 1), label=stem)
        return gathering.sample("" if words else f"{self._solution_file}: no line of {stem}")


def _read_solution(places: list[Path]) -> tuple[Path, dict[str, str]]:
    """Return the first ``LOC_val_solution.csv`` that is there, and its rows by image.

    Raises:
        DataError: if it cannot be read.
    """
    file = next((place for place in places if place.is_file()), places[0])
    if not file.is_file():
        return file, {}
    try:
        text, _ = read_text(file)
        rows = list(csv.reader(io.StringIO(text)))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    if not rows or [name.strip() for name in rows[0][:2]] != ["ImageId", "PredictionString"]:
        raise DataError(f"{file}: needs the columns ImageId and PredictionString, as Kaggle's CLS-LOC writes them")
    return file, {row[0].strip(): row[1] for row in rows[1:] if len(row) >= 2}


def _scan_images(places: list[Path]) -> tuple[dict[str, str], dict[str, str]]:
    """Images by stem in the first place that has any, and the synset of those in synset folders."""
    for place in places:
        files: dict[str, str] = {}
        labels: dict[str, str] = {}
        for entry in os.scandir(place) if place.is_dir() else ():
            if entry.name in _INDEX and entry.is_dir():
                for inner in os.scandir(entry.path):
                    if inner.name.endswith(_SUFFIXES):
                        stem, _ = _official(_stem(inner.name))
                        files[stem], labels[stem] = inner.path, entry.name
            elif entry.name.endswith(_SUFFIXES):
                stem, wnid = _official(_stem(entry.name))
                files[stem] = entry.path
                if wnid in _INDEX:
                    labels[stem] = wnid
        if files:
            return files, labels
    return {}, {}


def _official(stem: str) -> tuple[str, str]:
    """Split Hugging Face's ``ILSVRC2012_val_00047918_n02110063`` into the official stem and the class, or ''.

    >>> _official("ILSVRC2012_val_00047918_n02110063")
    ('ILSVRC2012_val_00047918', 'n02110063')
    """
    found = _NAMED_BY_CLASS.fullmatch(stem)
    return (found.group(1), found.group(2)) if found else (stem, "")


def _stem(name: str) -> str:
    """'val/ILSVRC2012_val_00000001.JPEG' without its folder and ending."""
    stem = name.rpartition("/")[2]
    return stem.rpartition(".")[0] or stem


def _find_xml(places: list[Path]) -> tuple[Path | None, dict[str, str]]:
    """The first place that holds annotations, flat or in synset folders, and these by stem."""
    for place in places:
        files: dict[str, str] = {}
        for entry in os.scandir(place) if place.is_dir() else ():
            inner = os.scandir(entry.path) if entry.name in _INDEX and entry.is_dir() else [entry]
            files.update((found.name[:-4], found.path) for found in inner if found.name.endswith(".xml"))
        if files:
            return place, files
    return None, {}
