"""Tell which format a file or folder is of, and read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.coco_file import looks_like_coco, read_coco
from decomcam_bench.datasets.custom.csv_file import has_columns, read_csv
from decomcam_bench.datasets.custom.cvat_xml import read_cvat
from decomcam_bench.datasets.custom.datumaro_json import looks_like_datumaro, read_datumaro
from decomcam_bench.datasets.custom.label_studio import looks_like_label_studio, read_label_studio
from decomcam_bench.datasets.custom.labelme import looks_like_labelme, read_labelme
from decomcam_bench.datasets.custom.records import Content, Source, folders_of
from decomcam_bench.datasets.custom.semantic import read_semantic
from decomcam_bench.datasets.custom.voc_folder import read_voc_folder
from decomcam_bench.datasets.custom.yolo import label_files, read_yolo

READERS: dict[str, Callable[[Source], Content]] = {
    "csv": read_csv,
    "coco": read_coco,
    "voc": read_voc_folder,
    "yolo": read_yolo,
    "semantic": read_semantic,
    "labelme": read_labelme,
    "labelstudio": read_label_studio,
    "cvat": read_cvat,
    "datumaro": read_datumaro,
}
#: Formats of which one file describes one image.
PER_IMAGE = ("voc", "yolo", "labelme", "semantic")
_SPLITS = ("train", "valid", "val", "validation", "test")
_MARKS: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("coco", looks_like_coco),
    ("labelme", looks_like_labelme),
    ("datumaro", looks_like_datumaro),
    ("labelstudio", looks_like_label_studio),
)


def find(base: Path, wanted: str, annotations: Path | None) -> tuple[str, list[Path]]:
    """Find annotation files and their format.

    Args:
        base: the root folder.
        wanted: a key of :data:`READERS`, or ``auto``.
        annotations: the file or folder that the user names, or None.

    Returns:
        The format, and its files (at least one).

    Raises:
        DataError: if nothing is found, or files of several formats.
    """
    if annotations is not None and annotations.is_file():
        return (wanted if wanted != "auto" else _format_of(annotations)), [annotations]
    folder = annotations or base
    for name in ("annotations.json", "annotations.csv"):
        if wanted == "auto" and (folder / name).is_file():
            return _format_of(folder / name), [folder / name]
    found = _candidates(folder)
    if wanted != "auto":
        files = [folder] if wanted == "semantic" else found.get(wanted, [])
        if not files:
            raise DataError(f"dataset.format={wanted}: no annotation of this format under {folder}")
        return wanted, files
    if not found:
        raise DataError(
            f"custom: no annotations.json or annotations.csv under {folder}, and no export of an annotation tool; "
            "set dataset.root=DIR, or dataset.annotations=FILE and dataset.images=DIR ('decomcam-bench data new DIR' "
            "writes a file to fill in)"
        )
    if len(found) > 1:
        shown = ", ".join(f"{name} ({_shown(files[0], folder)})" for name, files in found.items())
        raise DataError(f"custom: annotations of several formats under {folder}: {shown}; set dataset.format=NAME")
    return next(iter(found.items()))


def _shown(file: Path, base: Path) -> str:
    return file.relative_to(base).as_posix() if file != base and file.is_relative_to(base) else str(file)


def _format_of(file: Path) -> str:
    """Return the format of one file by its content.

    Raises:
        DataError: if it is none that can be read.
    """
    suffix = file.suffix.lower()
    if suffix == ".json":
        found = _json_format(file)
        return found or "coco"  # whose reader says what is missing
    if suffix == ".xml":
        return "cvat" if _xml_root(file) == "annotations" else "voc"
    return "csv"


def _json_format(file: Path) -> str:
    """Return the format of a JSON file, or an empty string."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    return next((name for name, fits in _MARKS if fits(content)), "")


def _xml_root(file: Path) -> str:
    """Return the name of the root element, from the first bytes."""
    import re

    try:
        with file.open("rb") as handle:
            head = handle.read(4096).replace(b"\0", b"")
    except OSError:
        return ""
    found = re.search(rb"<(?:\w+:)?([A-Za-z_]\w*)[\s>/]", head)
    return found.group(1).decode("ascii") if found else ""


def _candidates(base: Path) -> dict[str, list[Path]]:
    """Return what lies under a folder, by format, in the order of the formats."""
    found: dict[str, list[Path]] = {}
    for file in _shallow(base, ".json"):
        kind = "labelme" if "labelme" in found else _json_format(file)
        if kind:
            found.setdefault(kind, []).append(file)
    named = [file for file in found.get("coco", []) if file.stem.startswith("instances")]
    if named:  # next to key points, captions and panoptic segments of the same images
        found["coco"] = named
    if "labelme" in found:
        found["labelme"] = [file for file in sorted(base.rglob("*.json")) if _json_format(file) == "labelme"]
    xml = sorted(base.rglob("*.xml"))
    roots = {file: _xml_root(file) for file in xml}
    cvat = [file for file in xml if roots[file] == "annotations"]
    voc = [file for file in xml if roots[file] in ("annotation", "")]
    tables = [file for file in _shallow(base, ".csv", ".tsv") if file.name != "_classes.csv"]
    tables = [file for file in tables if has_columns(file)] or tables
    labels = label_files(base)
    kinds = (
        ("csv", tables),
        ("cvat", cvat),
        ("voc", voc if any(roots[one] for one in voc) else []),
        ("yolo", labels),
    )
    found.update({kind: files for kind, files in kinds if files})
    return found


def _shallow(base: Path, *suffixes: str) -> Sequence[Path]:
    """Return files of a folder, of its splits and of its folder ``annotations``, sorted."""
    folders = [base, base / "annotations", *(base / name for name in _SPLITS)]
    return [
        file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())
        if file.suffix.lower() in suffixes and file.is_file()
    ]  # fmt: skip


def of_split(files: Sequence[Path], base: Path, split: str) -> list[Path]:
    """Return the files of a split: those in a folder of its name, or with it in their own name.

    Raises:
        DataError: if there is none; names those that there are.
    """
    chosen = [file for file in files if split in _names(file, base)]
    if not chosen:
        shown = ", ".join(_shown(file, base) for file in files[:8])
        raise DataError(f"dataset.split={split}: no annotation file of this split; there: {shown}")
    return chosen


def _names(file: Path, base: Path) -> set[str]:
    return {*folders_of(file, base), file.stem, file.stem.rpartition("_")[2]}
