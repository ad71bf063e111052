"""Write a table to fill in, from a folder of images."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.custom.finder import ENDINGS, NOT_IMAGES
from decomcam_bench.datasets.images import image_size, orientation_of, upright_size

COLUMNS = ("image", "class", "text", "x0", "y0", "x1", "y1", "mask", "width", "height")


def write_template(folder: Path, exif: str = "stored") -> tuple[Path, int, int]:
    """Write ``annotations.csv`` with one row per image of a folder, its class and box left to fill in.

    Args:
        folder: the root folder; images may lie in folders below it.
        exif: whether sizes are those of the photographs as ``stored`` or ``upright``.

    Returns:
        The file, the number of images, and how many of them are stored turned.

    Raises:
        DataError: if the folder has no image, or the file is there already.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the folder of your images")
    file = folder / "annotations.csv"
    rows, turned = [], 0
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name.lower() not in NOT_IMAGES and not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(ENDINGS):
                path = Path(place) / name
                try:
                    size = upright_size(path) if exif == "upright" else image_size(path)
                    turned += orientation_of(path) != 1
                except (OSError, ValueError) as error:
                    raise DataError(str(error)) from error
                rows.append([path.relative_to(folder).as_posix(), "", "", "", "", "", "", "", *size])
    if not rows:
        raise DataError(f"{folder}: no image ({', '.join(ENDINGS)}) in it")
    try:
        with file.open("x", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(COLUMNS)
            writer.writerows(rows)
    except FileExistsError:
        raise DataError(f"{file}: is there already; rename it to get a new one") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error.strerror})") from error
    return file, len(rows), turned
