"""Read COCO-style JSON as annotation tools write it: Roboflow, CVAT, Label Studio, datumaro and others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from decomcam_bench.datasets.custom.records import Content, Picture, Row, Source
from decomcam_bench.datasets.formats.coco_json import CocoIndex, has_box, is_set, read_box


def read_coco(source: Source) -> Content:
    """Read one file, or the files of several splits.

    Raises:
        DataError: if a file is not of COCO's form.
    """
    content = Content(source.files[0])
    several = len(source.files) > 1
    for file in source.files:
        index = CocoIndex.read(file, keep=("text", "caption"))
        names = {number: name.strip() for number, name in index.categories}
        prefix = f"{file.parent.name if file.name.startswith('_') else file.stem}/" if several else ""
        for image, rows in zip(index.images, index.annotations, strict=True):
            content.pictures.append(
                Picture(
                    image.file_name, f"{prefix}{image.image_id}", image.width, image.height, image.error,
                    [_row(row, names) for row in rows], str(file), file.parent,
                )
            )  # fmt: skip
        content.problems += index.problems
        content.remarks += index.remarks
        placeholders = placeholder_categories(index)
        if placeholders:
            named = ", ".join(f"'{names[number]}'" for number in placeholders)
            content.remarks.append(
                f"{file}: {named} {'is' if len(placeholders) == 1 else 'are'} no text: a project's name or a "
                "super-category without an annotation; dataset.classes=[...] names the texts otherwise"
            )
        content.names += [name for number, name in names.items() if number not in placeholders]
    return content


def placeholder_categories(index: CocoIndex) -> list[int]:
    """Return the category ids that only group others, or stand for the project, as Roboflow's id 0 does.

    Such a category has no annotation, and either other categories name it as their super-category,
    or it has the id 0 in a file that states no super-categories and has annotations of every other
    category. Label Studio counts its real classes from 0 and is recognised by its ``info``.
    """
    used = Counter(row.get("category_id") for rows in index.annotations for row in rows)
    names = dict(index.categories)
    groups = {name for number, name in index.super_names.items() if name != names.get(number)}
    found = [number for number, name in names.items() if not used[number] and name in groups and len(names) > 1]
    stated = any(name not in ("", "none") for name in index.super_names.values())
    if not found and not stated and 0 in names and not used[0] and len(names) > 1:
        others = all(used[number] for number in names if number)
        if others and "label studio" not in str(index.info.get("contributor", "")).lower():
            return [0]
    return found


def _row(row: dict[str, Any], names: dict[int, str]) -> Row:
    text = next((row[key].strip() for key in ("text", "caption") if isinstance(row.get(key), str) and row[key]), "")
    name = text or names.get(row.get("category_id"), "")  # type: ignore[arg-type]
    error = row.get("error", "")
    if not error and not name:
        error = f"unknown category {row.get('category_id')!r}, and no text"
    segmentation = row.get("segmentation") or None
    box, notes = None, ()
    if not error and has_box(row):
        try:
            box = read_box(row)
        except ValueError as unreadable:
            if segmentation is None:
                error = str(unreadable)
            else:
                notes = (f"{unreadable}; the box round its segmentation is taken",)  # type: ignore[assignment]
    crowd = is_set(row.get("iscrowd"))
    return Row(row["label"], name, bool(text), box, segmentation, "pixels", crowd=crowd, error=error, notes=notes)


def looks_like_coco(content: Any) -> bool:
    """Return True for parsed JSON of COCO's form."""
    return isinstance(content, dict) and "images" in content and "annotations" in content


def image_folders(file: Path) -> list[Path]:
    """Return the folders in which tools leave the images of a JSON file."""
    above = file.parent.parent
    split = file.stem.removeprefix("instances_")
    return [above / "images" / split, above / "images", above / split] if file.parent.name == "annotations" else []
