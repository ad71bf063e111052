"""Read folders of PASCAL VOC's XML with or without ``ImageSets``: LabelImg, Roboflow, CVAT, datumaro."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.records import Content, Picture, Row, Source, folders_of
from decomcam_bench.datasets.formats.voc_xml import XmlAnnotation, XmlObject, read_voc_xml
from decomcam_bench.datasets.text import read_text

#: Where images lie next to a folder of annotations.
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs")


def read_voc_folder(source: Source) -> Content:
    """Read the XML files of a folder, or those that a list of ``ImageSets/Main`` names.

    Raises:
        DataError: if the list cannot be read or no file is left.
    """
    content = Content(source.base)
    files = _of_split(source) if source.split else list(source.files)
    if not files:
        raise DataError(f"{source.base}: no XML annotation for dataset.split={source.split}")
    common = Path(_common(files))
    for file in files:
        content.pictures.append(_picture(file, common, source))
    return content


def _common(files: list[Path]) -> str:
    return os.path.commonpath([str(file.parent) for file in files])


def _of_split(source: Source) -> list[Path]:
    """Return the annotations of a split: those in a folder of its name, or those that a list names."""
    split = source.split or ""
    inside = [file for file in source.files if split in folders_of(file, source.base)]
    if inside:
        return inside
    lists = sorted(source.base.glob(f"**/ImageSets/*/{split}.txt"))
    main = [one for one in lists if one.parent.name == "Main"] or lists
    if not main:
        raise DataError(f"dataset.split={split}: no folder and no ImageSets/Main/{split}.txt under {source.base}")
    try:
        text, _ = read_text(main[0], source.encoding)
    except ValueError as error:
        raise DataError(str(error)) from error
    by_stem = {file.stem: file for file in source.files}
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    folder = source.files[0].parent
    return [
        by_stem.get(name) or by_stem.get(PurePosixPath(name).stem) or folder / f"{Path(name).name}.xml"
        for name in names
    ]


def _picture(file: Path, common: Path, source: Source) -> Picture:
    relative = file.relative_to(common).with_suffix("").as_posix() if file.is_relative_to(common) else file.stem
    picture = Picture(file.stem, relative, file=str(file), folder=_images_of(file), by_stem=True)
    try:
        annotation = read_voc_xml(file, source.encoding)
    except ValueError as error:
        picture.error = str(error)
        return picture
    stated = PurePosixPath(annotation.file_name.replace("\\", "/")).name
    if stated and PurePosixPath(stated).stem == file.stem and "." in stated:
        picture.name = stated
    picture.width, picture.height = annotation.width, annotation.height
    for number, item in enumerate(annotation.objects, start=1):
        picture.rows += _rows(item, number, first_pixel(annotation, source.origin))
    return picture


def _images_of(file: Path) -> Path:
    """Return the folder of the images that belong to an annotation."""
    parents = file.parents
    named = parents[0].name.lower() in ("annotations", "xml", "xmls", "labels")
    above = [*(parents[1:2] if named else []), *parents[2:3]]
    places = [folder / name for folder in above for name in IMAGE_FOLDERS]
    return next((place for place in places if place.is_dir()), file.parent)


def first_pixel(annotation: XmlAnnotation, origin: int | None) -> int:
    """Return the number of the first pixel: 1 with inclusive far edges as VOC counts, or 0 with half-open boxes.

    Roboflow and Label Studio say who wrote the file; CVAT, datumaro and labelme write coordinates with
    a decimal point. All of them count from 0.
    """
    if origin is not None:
        return origin
    written = any(item.from_zero for item in annotation.objects)
    source = annotation.source.lower()
    return 0 if written or "roboflow" in source or "label studio" in source else 1


def _rows(item: XmlObject, number: int, origin: int) -> list[Row]:
    label = f"object {number}"
    if not item.name:
        return [Row(label, "", error="an object without a name")]
    if not item.boxes and item.polygon is None:
        return [Row(label, item.name, error="an object without a box of four numbers")]
    notes = (f"{label}: {item.note}",) if item.note else ()
    polygon = [[value - origin for value in item.polygon]] if item.polygon else None
    if not item.boxes:
        return [Row(label, item.name, segmentation=polygon, units="pixels", difficult=item.difficult, notes=notes)]
    rows = []
    for x0, y0, x1, y1 in item.boxes:
        box = (x0 - origin, y0 - origin, x1, y1)
        rows.append(Row(label, item.name, False, box, polygon, "pixels", difficult=item.difficult, notes=notes))
    return rows
