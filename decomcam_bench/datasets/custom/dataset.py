"""A user's own data, in the formats that annotation tools write.

``docs/custom-data.md`` describes every format, column and field, with examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Mask, Problem, Sample
from decomcam_bench.datasets.custom.classes import read_classes
from decomcam_bench.datasets.custom.coco_file import image_folders
from decomcam_bench.datasets.custom.finder import ImageFinder
from decomcam_bench.datasets.custom.formats import PER_IMAGE, READERS, find, of_split
from decomcam_bench.datasets.custom.judging import box_of, distinct, inside_one, labelled
from decomcam_bench.datasets.custom.records import (
    UNITS,
    Picture,
    Row,
    Source,
    in_pixels,
    polygons_in_pixels,
)
from decomcam_bench.datasets.custom.units import (
    PERCENT_LIMIT,
    check_units,
    is_relative_among_pixels,
    largest,
    percent_doubts,
)
from decomcam_bench.datasets.files import FileDataset, Gathering, unique_ids
from decomcam_bench.datasets.formats.coco_masks import coco_mask, pixels_mask
from decomcam_bench.datasets.images import image_size, read_image, upright, upright_size
from decomcam_bench.datasets.masks import ImageMask, ValueMask, bounding_box, mask_size, read_labels
from decomcam_bench.datasets.text import check_encoding

FORMATS = ("auto", *READERS)
BOX_FORMATS = ("xyxy", "xywh", "cxcywh")


@dataclass
class Custom(FileDataset):
    """Any set of (image, text, box, mask) without code.

    Attributes:
        format: one of :data:`FORMATS`; ``auto`` looks at the files.
        annotations: the annotation file or folder, taken from the root if it is not there as
            written; None to look for it under the root.
        images: the folder of the images, taken from the root if it is not there as written; None to
            look under the root and next to the annotations.
        split: which part of an export (``train``, ``valid``, a list of ``ImageSets/Main``); None for all.
        use: localise in the ``box`` or in the ``mask``.
        classes: names of the competing texts: a list, a mapping from the file's numbers, or a text file
            with a name per line; None for those that the annotations name.
        aggregate: ``class`` for the mean over classes, ``pair`` for the mean over pairs, where a metric
            knows both; ``auto``: ``pair`` if there is a free text, else ``class``.
        box_format: how a column ``bbox`` is to be read: ``xyxy``, ``xywh`` or ``cxcywh``.
        box_units: ``pixels``, ``relative`` (0..1) or ``percent`` of the image's sides; None for pixels,
            with files refused that cannot mean them.
        origin: number of the first pixel in VOC's XML: 1 (with inclusive far edges) or 0; None to tell
            by what wrote the file.
        exif: whether annotations refer to photographs as ``stored``, or turned ``upright`` as their
            EXIF orientation says.
        mask_value: value of the object in mask files; None to find it.
        void: value or values of label pictures that count neither as object nor as background.
        encoding: of text files; None to find it out.
    """

    format: str = "auto"
    annotations: str | None = None
    images: str | None = None
    split: str | None = None
    use: str = "box"
    classes: Any = None
    aggregate: str = "auto"
    box_format: str | None = None
    box_units: str | None = None
    origin: int | None = None
    exif: str = "stored"
    mask_value: int | None = None
    void: Any = 255
    encoding: str | None = None

    id: ClassVar[str] = "custom"
    folder: ClassVar[str] = "custom"
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_options()
        wanted = read_classes(self.classes, self.base)
        self.kind, source = self._find(wanted)
        content = READERS[self.kind](source)
        if not content.pictures:
            raise DataError(f"{content.file}: no image in it")
        self._content, self._file = content, content.file
        self._pictures = content.pictures
        self._image_ids, self._repeated = unique_ids(one.image_id or one.name for one in self._pictures)
        self._remarks = list(content.remarks)
        self._classes = self._make_classes(list(wanted.values()) if isinstance(wanted, Mapping) else wanted)
        self._class_of = {key: number for number, key in enumerate(self._classes)}
        self._finder = ImageFinder(self._image_folders(source))
        check_units(self._file, self._pictures, self.box_units)

    def _check_options(self) -> None:
        check_choice("dataset.use", self.use, ("box", "mask"))
        check_choice("dataset.format", self.format, FORMATS)
        check_choice("dataset.aggregate", self.aggregate, ("auto", "class", "pair"))
        check_choice("dataset.box_format", self.box_format, (None, *BOX_FORMATS))
        check_choice("dataset.box_units", self.box_units, (None, *UNITS))
        check_choice("dataset.origin", self.origin, (None, 0, 1))
        check_choice("dataset.exif", self.exif, ("stored", "upright"))
        check_encoding(self.encoding)
        void = self.void if isinstance(self.void, (list, tuple)) else [] if self.void is None else [self.void]
        if not all(type(value) is int for value in void):
            raise ConfigError(f"dataset.void={self.void}: give a whole number, a list of them, or null")
        self._void = tuple(void)

    def _find(self, classes: Any) -> tuple[str, Source]:
        """Find the annotation files and where their images lie."""
        annotations = self._place("annotations", self.annotations)
        if annotations is not None and not annotations.exists():
            raise DataError(
                f"dataset.annotations={self.annotations}: no such file; give a COCO-style JSON, a CSV, or a folder"
            )
        kind, files = find(self.base, self.format, annotations)
        base = annotations.parent if annotations is not None and not self.root else self.base
        if annotations is not None and annotations.is_dir():
            base = annotations if not self.root else self.base
        if self.split is not None and kind not in PER_IMAGE:
            files = of_split(files, base, self.split)
        images = self._place("images", self.images)
        if images is not None and not images.is_dir():
            raise DataError(f"dataset.images={self.images}: no such folder; name the folder of the images")
        source = Source(
            base, files, images, self.split, self.box_format, self.encoding, self.origin, classes, self._void
        )
        return kind, source

    def _place(self, what: str, named: str | None) -> Path | None:
        """Return a path that the user names, under the root if it is not there as written."""
        if not named:
            return None
        path = Path(named).expanduser()
        return self.base / path if not path.exists() and self.root and (self.base / path).exists() else path

    def _image_folders(self, source: Source) -> list[Path]:
        if source.images is not None:
            return [source.images]
        file = source.files[0]
        beside = file.parent if file.is_file() else file
        folders = [source.base, source.base / "images", beside, beside / "images"]
        return [*folders, *(folder for one in source.files for folder in image_folders(one))]

    def _make_classes(self, wanted: Sequence[str] | None) -> list[tuple[str, bool]]:
        """Return (name, whether it is a free text) of all competing texts.

        Raises:
            DataError: if there is none.
        """
        used = {(row.name, row.free) for one in self._pictures for row in one.rows if row.name and not row.error}
        free = {name for name, is_free in used if is_free}
        self._refuse_both(free & (set(wanted or ()) | {name for name, is_free in used if not is_free}))
        if wanted is not None:
            left_out = sorted({name for name, is_free in used if not is_free} - set(wanted))
            if left_out:
                shown = ", ".join(left_out[:8])
                self._remarks.append(
                    f"{self._file}: dataset.classes leaves out {len(left_out)} of its classes: {shown}"
                )
            return [*((name, False) for name in wanted), *sorted(key for key in used if key[1])]
        found = used | {(name, False) for name in self._content.names if name}
        if not found:
            error = next((f"{row.label}: {row.error}" for one in self._pictures for row in one.rows if row.error), "")
            raise DataError(f"{self._file}: no class and no text in it" + (f" ({error})" if error else ""))
        unused = sorted({name for name, free in found - used if not free})
        if unused and used and not self._content.values:
            self._remarks.append(
                f"{self._file}: {len(unused)} of {len(found)} classes have no annotation and compete as texts all the "
                f"same: {', '.join(unused[:8])}; dataset.classes=[...] names the texts otherwise"
            )
        return sorted(found)

    def _refuse_both(self, names: set[str]) -> None:
        """Refuse texts that are a class as well: maps in files are named by the text."""
        if names:
            raise DataError(
                f"{self._file}: '{min(names)}' is a class in one row and a free text in another; write it as one"
            )

    @property
    def region(self) -> str:  # type: ignore[override]
        """``use``."""
        return self.use

    @property
    def aggregation(self) -> str:
        """``class_mean`` or ``pair_mean``, for metrics that know both."""
        if self.aggregate == "auto":
            return "pair_mean" if self.free_texts else "class_mean"
        return f"{self.aggregate}_mean"

    @cached_property
    def available(self) -> frozenset[str]:
        """``box``, and ``mask`` if an annotation has one."""
        masked = self._content.values or any(
            row.mask_file or row.segmentation is not None for one in self._pictures for row in one.rows
        )
        return frozenset({"box", "mask"} if masked else {"box"})

    @property
    def class_names(self) -> Sequence[str]:
        """Names and free texts, by class id."""
        return tuple(name for name, _ in self._classes)

    @property
    def free_texts(self) -> frozenset[int]:
        """Class ids of free texts."""
        return frozenset(number for number, (_, free) in enumerate(self._classes) if free)

    @property
    def problems(self) -> Sequence[Problem]:
        """Annotations that belong to no image."""
        return self._content.problems

    @property
    def remarks(self) -> Sequence[str]:
        """What is worth knowing without anything being wrong."""
        return self._remarks

    @property
    def identity(self) -> dict[str, Any]:
        """Options that decide what the data set holds."""
        more = {"exif": self.exif} if self.exif != "stored" else {}
        return {**super().identity, "use": self.use, **more}

    def __len__(self) -> int:
        return len(self._pictures)

    def image_id(self, index: int) -> str:
        """The name of the image as the annotations give it."""
        return self._image_ids[index]

    def image_file(self, index: int) -> Path:
        """Path of the image, looked for as :class:`ImageFinder` says."""
        picture = self._pictures[index]
        return self._finder.find(picture.name, None if self.images else picture.folder, picture.by_stem)

    def load_image(self, index: int) -> np.ndarray:
        """Decode an image, turned upright where ``exif`` says so."""
        sample = self.sample(index)
        file = self.image_file(index)
        stated = (sample.width, sample.height) if sample.width else None
        if self.exif == "stored":
            try:
                return read_image(file, stated)
            except ValueError as error:
                if stated and upright_size(file) == stated != image_size(file):
                    raise ValueError(
                        f"{error}; its annotation means the photograph upright: dataset.exif=upright"
                    ) from None
                raise
        pixels = upright(file)
        if stated and pixels.shape[1::-1] != stated:
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise ValueError(f"{file}: {size} pixels upright, but its annotation says {stated[0]} x {stated[1]}")
        return pixels

    def size_of(self, file: Path) -> tuple[int, int]:
        """(width, height) of an image as annotations see it."""
        return upright_size(file) if self.exif == "upright" else image_size(file)

    def _read(self, index: int) -> Sample:
        picture, image_id = self._pictures[index], self._image_ids[index]
        if picture.error or self._repeated[index]:
            error = (
                picture.error
                or f"{picture.file or self._file}: '{picture.image_id or picture.name}' is listed more than once"
            )
            return Sample(image_id, 0, 0, (), error)
        width, height = picture.width, picture.height
        try:
            if not width:
                width, height = self.size_of(self.image_file(index))
        except (ValueError, OSError) as unreadable:
            return Sample(image_id, 0, 0, (), str(unreadable))
        gathering = Gathering(picture.file or str(self._file), image_id, width, height)
        if picture.labels is not None:
            return self._label_picture(gathering, picture.labels)
        for row in distinct(picture.rows, gathering):
            self._add(gathering, row, picture, index)
        self._note_missing_masks(gathering)
        return gathering.sample()

    def _add(self, gathering: Gathering, row: Row, picture: Picture, index: int) -> None:
        """Add one annotation, or note what is wrong with it."""
        class_id = self._class_of.get((row.name, row.free), -1)
        if class_id < 0 and row.name and not row.error and self.classes is not None:
            return
        for note in row.notes:
            gathering.note(note, class_id, row.name)
        try:
            if row.error:
                raise ValueError(row.error)
            box, mask = self._located(gathering, row, class_id, index)
        except (ValueError, OSError) as unusable:
            gathering.refuse(labelled(row.label, str(unusable)), class_id, row.name)
            return
        text = row.name if row.free else ""
        gathering.add(
            class_id, row.name, box, row.difficult, row.crowd, mask, text=text, label=row.label
        )  # fmt: skip

    def _located(
        self, gathering: Gathering, row: Row, class_id: int, index: int
    ) -> tuple[tuple[float, ...], Mask | None]:
        """Return box and mask of an annotation; with ``use=box`` a bad mask does not cost a good box.

        Raises:
            ValueError, OSError: if there is neither, or what ``use`` names cannot be used.
        """
        units = row.units or self.box_units or "pixels"
        box = None if row.box is None else in_pixels(row.box, units, gathering.width, gathering.height)
        if self.box_units is None and is_relative_among_pixels(row, self._reach):
            raise ValueError("its box lies in 0..1, and other boxes of the file are in pixels; write one kind of units")
        try:
            mask = self._mask(row, units, gathering.width, gathering.height, index)
        except (ValueError, OSError) as error:
            if box is None or self.use == "mask":
                raise
            gathering.note(labelled(row.label, f"{error}; its box is used without the mask"), class_id, row.name)
            return box, None
        if box is None:
            box = box_of(mask)
        return box, mask

    def _mask(self, row: Row, units: str, width: int, height: int, index: int) -> Mask | None:
        """Return the mask of an annotation, or None where it has none.

        Raises:
            ValueError, OSError: if it cannot be read or is not of the image's size.
        """
        if row.mask_file:
            return self._mask_of_file(row, width, height, index)
        if row.segmentation is None:
            return None
        if isinstance(row.segmentation, dict) and "crop" in row.segmentation:
            return pixels_mask(row.segmentation["crop"], row.segmentation["corner"], height, width)
        return coco_mask(polygons_in_pixels(row.segmentation, units, width, height), height, width)

    def _mask_of_file(self, row: Row, width: int, height: int, index: int) -> ImageMask:
        folders = dict.fromkeys((self._file.parent, *self._finder.folders))
        file = inside_one(folders, row.mask_file)
        try:
            same = file.samefile(self.image_file(index))
        except (OSError, ValueError):
            same = False
        if same:
            raise ValueError(f"the mask {file} is the photograph itself")
        size = mask_size(file)
        if size != (width, height):
            raise ValueError(f"the mask {file} has {size[0]} x {size[1]} pixels, its image {width} x {height}")
        return ImageMask(file, self.mask_value if row.mask_value is None else row.mask_value)

    def _label_picture(self, gathering: Gathering, file: Path) -> Sample:
        """Read the classes that a label picture shows, one instance per class."""
        size = (gathering.width, gathering.height)
        try:
            labels = read_labels(file, size)
        except ValueError as error:
            return Sample(gathering.image_id, 0, 0, (), str(error))
        names, ignored = self._content.values, self._content.ignored
        values, counts = np.unique(labels, return_counts=True)
        void = tuple(ValueMask(file, value, size) for value in ignored if value in values)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if value in names:
                class_id = self._class_of[names[value], False]
                box = bounding_box(labels == value)
                gathering.add(class_id, names[value], box, mask=ValueMask(file, value, size), ignored=void)
            elif value and value not in ignored:
                gathering.note(f"the value {value} has no name; its {count:,} pixels count as background")
        return gathering.sample()

    def _note_missing_masks(self, gathering: Gathering) -> None:
        if self.use == "mask":
            for class_id, name, missing, count in gathering.without_mask():
                gathering.note(
                    f"{missing} of {count} annotations of '{name}' have no mask; the region is that of the others",
                    class_id, name,
                )  # fmt: skip

    @cached_property
    def _reach(self) -> float:
        return largest(self._pictures, ("", "pixels"))

    @cached_property
    def doubts(self) -> Sequence[str]:
        """Units that may be others than pixels, without anybody having said so."""
        if self.box_units is not None or self.kind not in ("csv", "coco"):
            return ()
        least = PERCENT_LIMIT if self.kind == "csv" else 2 * PERCENT_LIMIT  # COCO's form defines pixels
        return percent_doubts(self._file, self._pictures, self.sample, least)
