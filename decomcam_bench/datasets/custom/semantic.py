"""Read label pictures: one PNG per image whose values are class ids (ADE20K, COCO-Stuff, Pascal Context)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.records import Content, Picture, Source, folders_of
from decomcam_bench.datasets.text import read_text

ENDINGS = (".png", ".tif", ".tiff", ".bmp")
#: What tools append to the stem of the image.
SUFFIXES = ("_mask", "_labelTrainIds", "_labelIds", "_gtFine_labelIds", "_label", "_seg", "")


def read_semantic(source: Source) -> Content:
    """List the label pictures of a folder; they are decoded when a sample is read.

    Raises:
        DataError: if there is none, or the class names are missing.
    """
    folder = source.files[0]
    names = class_names(source, folder)
    content = Content(folder, names=list(names.values()), values=names)
    content.ignored = tuple(value for value in source.ignored if value not in names)
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in ENDINGS]
    masked = [file for file in files if file.stem.endswith("_mask")]
    files = masked or files  # Roboflow leaves images and masks in one folder
    if source.split:
        files = [file for file in files if source.split in folders_of(file, source.base)]
    if not files:
        raise DataError(f"{folder}: no label picture ({', '.join(ENDINGS)}) in it")
    for file in files:
        stem = next(file.stem.removesuffix(suffix) for suffix in SUFFIXES if file.stem.endswith(suffix))
        relative = file.relative_to(folder).parent
        image_id = stem if relative == Path() else f"{relative.as_posix()}/{stem}"
        near = (source.images or source.base) / relative
        picture = Picture(stem, image_id, file=str(file), folder=near if near.is_dir() else file.parent, by_stem=True)
        picture.labels = file
        content.pictures.append(picture)
    return content


def class_names(source: Source, folder: Path) -> dict[int, str]:
    """Return the class names by value: ``dataset.classes``, or Roboflow's ``_classes.csv``.

    Raises:
        DataError: if neither is there.
    """
    if source.classes is not None:
        named = source.classes
        pairs = named.items() if isinstance(named, Mapping) else enumerate(named, start=1)
        return {int(value): str(name) for value, name in pairs}
    file = next(iter(sorted({*folder.glob("_classes.csv"), *source.base.glob("**/_classes.csv")})), None)
    if file is None:
        raise DataError(
            "dataset.format=semantic needs the names of the values: dataset.classes={1: name, 2: name} or a text file "
            "with a line 'value name' each (a list or plain lines count from 1)"
        )
    try:
        text, _ = read_text(file, source.encoding)
        rows = [[field.strip() for field in row] for row in csv.reader(io.StringIO(text)) if len(row) >= 2]
        found = {int(value): name for value, name, *_ in rows[1:]}
    except (ValueError, csv.Error) as error:
        raise DataError(f"{file}: not a table of pixel values and class names ({error})") from error
    return {value: name for value, name in found.items() if value or name.lower() != "background"}
