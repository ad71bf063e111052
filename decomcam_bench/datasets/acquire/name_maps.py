"""Make the table of names between an old and a new copy of ImageNet-V2."""

from __future__ import annotations

import os
from pathlib import Path

from tqdm import tqdm

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.formats.name_map import match_by_content, write_name_map

_ENDINGS = (".jpeg", ".jpg", ".png")


def map_imagenetv2(old: Path, new: Path, out: Path) -> tuple[int, int]:
    """Match two copies class by class and write the table.

    Args:
        old: the copy whose images are named ``<class>/<number>.jpeg``, or a folder that holds it.
        new: the copy whose images are named by hash, or a folder that holds it.
        out: the CSV to write.

    Returns:
        How many images were matched, and how many the new copy has.

    Raises:
        DataError: if a copy is not there, an image cannot be read, or nothing matches.
    """
    before, after = _classes("--old", old), _classes("--new", new)
    rows: list[tuple[str, str]] = []
    for name in tqdm(sorted(after, key=int), desc="match", unit="class", leave=False):
        for first, second in match_by_content(before.get(name, []), after[name]):
            rows.append((f"val2/{name}/{first.name}", f"{name}/{second.name}"))
    total = sum(map(len, after.values()))
    if not rows:
        raise DataError(
            f"--old {old}: none of its images is one of the {total:,} under {new}; are they the same variant?"
        )
    write_name_map(out, rows)
    return len(rows), total


def _classes(option: str, folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class folder, which are named by class numbers."""
    if not folder.is_dir():
        raise DataError(f"{option} {folder}: no such folder")
    places = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.isdecimal())]
    for place in places:
        numbers = [entry for entry in os.scandir(place) if entry.name.isdecimal() and entry.is_dir()]
        if numbers:
            return {
                entry.name: sorted(file for file in Path(entry.path).iterdir() if file.name.lower().endswith(_ENDINGS))
                for entry in numbers
            }
    raise DataError(f"{option} {folder}: no folders 0, 1, 2, ... of classes in it")
