"""Data sets in Hugging Face's files: parquet shards, or folders that ``save_to_disk`` wrote.

A row holds an ``image`` (its bytes) and either a ``label`` (ImageNet-1k) or ``objects`` with lists of ``bbox``
and ``category`` (COCO). Class names come from the features that the files carry.
"""

from __future__ import annotations

import hashlib
import io
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Sample, Target
from decomcam_bench.datasets.files import FileDataset, Gathering, check_classes
from decomcam_bench.datasets.images import MAX_PIXELS, rgb
from decomcam_bench.datasets.prompts import imagenet_names

BOX_FORMATS = ("xywh", "xyxy")


@dataclass
class HuggingFaceFiles(FileDataset):
    """One target per image (its label, without boxes), or one per category with its boxes.

    Attributes:
        split: begins the names of the files (``validation-00000-of-00014.parquet``), or names their folder;
            None for all files under the root.
        box_format: of ``objects.bbox``: ``xywh`` as COCO has it, or ``xyxy``; has to be named where there are
            boxes, since copies of one set differ.
        classes: names of the classes; None for those in the files.
        names: ``own`` (the first of several synonyms), or ``clip``: CLIP's names, for the 1,000 classes of ImageNet.
    """

    split: str | None = None
    box_format: str | None = None
    classes: list[str] | None = None

    id: ClassVar[str] = "huggingface"
    folder: ClassVar[str] = "huggingface"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.box_format", self.box_format, (None, *BOX_FORMATS))
        self._files = self._find()
        self._tables: list[pa.Table] = []
        for file in self._files:
            self._tables.append(_annotations(file))
        self._ends = np.cumsum([len(table) for table in self._tables]).tolist()
        columns = set(self._tables[0].column_names)
        self._boxed = "objects" in columns
        if not self._boxed and "label" not in columns:
            raise DataError(f"{self._files[0]}: needs a column label or objects; it has {', '.join(sorted(columns))}")
        if self._boxed and self.box_format is None:
            raise ConfigError(
                "dataset.box_format: the files hold boxes; set xywh (x, y, width, height) or xyxy (corners)"
            )
        self._names = list(check_classes(self.classes) or _class_names(_schema(self._files[0]), self._boxed))
        if not self._names:
            raise DataError(f"{self._files[0]}: names no classes; set dataset.classes=[name,name,...]")
        self._open: tuple[tuple[int, int], pa.Table] | None = None

    def _find(self) -> list[Path]:
        found = sorted({*self.base.rglob("*.parquet"), *self.base.rglob("data-*.arrow")})
        if self.split is not None:
            found = [
                file for file in found if file.name.startswith(f"{self.split}-") or self.split in file.parent.parts[-2:]
            ]
        if not found:
            what = f" of dataset.split={self.split}" if self.split else ""
            raise DataError(f"{self.base}: no *.parquet and no data-*.arrow{what}; set dataset.root=DIR")
        return found

    @property
    def class_names(self) -> Sequence[str]:
        """The names in the files, the first of several synonyms."""
        return tuple(name.partition(",")[0].strip() for name in self._names)

    @property
    def clip_names(self) -> Sequence[str]:
        """CLIP's names for ImageNet's 1,000 classes, the own names otherwise."""
        return imagenet_names() if len(self._names) == len(imagenet_names()) else self.class_names

    @property
    def available(self) -> frozenset[str]:
        """``box`` where the files hold boxes."""
        return frozenset({"box"} if self._boxed else set())

    @property
    def identity(self) -> dict[str, Any]:
        """Options that decide what the data set holds."""
        more = {"split": self.split, "box_format": self.box_format, "classes": self.classes}
        return {**super().identity, **more}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all labels and boxes."""
        digest = hashlib.sha256(json.dumps(self._names).encode())
        for table in self._tables:
            digest.update(json.dumps(table.to_pylist(), default=str).encode())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, index: int) -> tuple[int, int]:
        file = bisect_right(self._ends, index)
        return file, index - (self._ends[file - 1] if file else 0)

    def image_id(self, index: int) -> str:
        """The row's ``image_id``, or the file and the row."""
        file, row = self._place(index)
        table = self._tables[file]
        if "image_id" in table.column_names:
            return str(table["image_id"][row].as_py())
        return f"{self._files[file].stem}/{row}"

    def image_file(self, index: int) -> Path:
        """The file that holds the image's row."""
        return self._files[self._place(index)[0]]

    def load_image(self, index: int) -> np.ndarray:
        """Decode the bytes of an image, RGB uint8 (height, width, 3), as stored.

        Raises:
            ValueError: if they cannot be decoded.
        """
        with self._picture(index) as picture:
            try:
                return rgb(picture)
            except Exception as error:  # whatever damaged bytes make Pillow raise
                raise ValueError(
                    f"{self.image_file(index)}: {self.image_id(index)} cannot be decoded ({error})"
                ) from error

    def _picture(self, index: int) -> Image.Image:
        file, row = self._place(index)
        content = self._image_bytes(file, row)
        try:
            picture = Image.open(io.BytesIO(content))
        except Exception as error:  # whatever damaged bytes make Pillow raise
            raise ValueError(f"{self._files[file]}: row {row} holds no image ({error})") from error
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{self._files[file]}: row {row}: more than {MAX_PIXELS:,} pixels")
        return picture

    def _image_bytes(self, file: int, row: int) -> bytes:
        """Return the bytes of an image; the row group of the last one is kept."""
        path = self._files[file]
        try:
            group, first = _group_of(path, row)
            if self._open is None or self._open[0] != (file, group):
                self._open = ((file, group), _images(path, group))
            cell = self._open[1]["image"][row - first].as_py()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ValueError(f"{path}: row {row} cannot be read ({error})") from error
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise ValueError(f"{path}: row {row} holds no image bytes")
        return content

    def _read(self, index: int) -> Sample:
        file, row = self._place(index)
        entry = self._tables[file].slice(row, 1).to_pylist()[0]
        image_id = self.image_id(index)
        try:
            with self._picture(index) as picture:
                width, height = picture.size
        except ValueError as error:
            return Sample(image_id, 0, 0, (), str(error))
        names = self.class_names
        if not self._boxed:
            label = entry["label"]
            if not isinstance(label, int) or not 0 <= label < len(names):
                return Sample(image_id, 0, 0, (), f"{self._files[file]}: row {row} has the label {label!r}")
            return Sample(image_id, width, height, (Target.of(label, names[label], []),))
        gathering = Gathering(str(self._files[file]), image_id, width, height)
        objects = entry["objects"] or {}
        boxes, labels = (objects.get(key) or [] for key in ("bbox", "category"))
        for number, (box, label) in enumerate(zip(boxes, labels, strict=False)):
            if not isinstance(label, int) or not 0 <= label < len(names) or len(box or ()) != 4:
                gathering.refuse(f"row {row}, object {number}: category {label!r} with the box {box!r}")
                continue
            x0, y0, a, b = map(float, box)
            corners = (x0, y0, a, b) if self.box_format == "xyxy" else (x0, y0, x0 + a, y0 + b)
            gathering.add(label, names[label], corners, label=f"row {row}, object {number}")
        return gathering.sample()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_open": None}


def _schema(file: Path) -> pa.Schema:
    if file.suffix == ".parquet":
        return pq.read_schema(file)
    with pa.OSFile(str(file)) as handle:
        return pa.ipc.open_stream(handle).schema


def _annotations(file: Path) -> pa.Table:
    """Return all columns but the images.

    Raises:
        DataError: if the file cannot be read or has no column ``image``.
    """
    try:
        names = _schema(file).names
        wanted = [name for name in ("image_id", "label", "objects") if name in names]
        if "image" not in names:
            raise DataError(f"{file}: no column image; it has {', '.join(names)}")
        if file.suffix == ".parquet":
            return pq.read_table(file, columns=wanted)
        with pa.memory_map(str(file)) as handle:
            return pa.ipc.open_stream(handle).read_all().select(wanted)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read ({' '.join(str(error).split())[:200]})") from error


def _group_of(file: Path, row: int) -> tuple[int, int]:
    """Return the row group that holds a row, and its first row; 0 for a file without groups."""
    if file.suffix != ".parquet":
        return 0, 0
    metadata = pq.read_metadata(file)
    first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if row < first + rows:
            return group, first
        first += rows
    raise KeyError(row)


def _images(file: Path, group: int) -> pa.Table:
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as content:
            return content.read_row_group(group, columns=["image"])
    return pa.ipc.open_stream(pa.memory_map(str(file))).read_all().select(["image"])


def _class_names(schema: pa.Schema, boxed: bool) -> list[str]:
    """Return the names that the features of Hugging Face's ``datasets`` state, or an empty list."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        if not boxed:
            return [str(name) for name in features["label"]["names"]]
        objects = features["objects"]
        inner = objects.get("feature", objects)
        category = inner["category"] if "category" in inner else inner[0]["category"]
        category = category.get("feature", category)
        return [str(name) for name in category["names"]]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return []
