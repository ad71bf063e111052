"""Tell which image of one copy of a data set is which of another: by a table of names, size or content."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.images import read_image
from decomcam_bench.datasets.text import read_text

#: Side of the thumbnails that are compared, and the largest mean difference (of 255) of the same picture:
#: the copies of ImageNet-V2 are the same JPEG files or re-encoded ones.
THUMBNAIL, MAX_DIFFERENCE = 32, 12.0
#: Another picture has to differ by at least so many times more.
MARGIN = 1.5


def read_name_map(file: Path, old_names: Iterable[str]) -> dict[str, str]:
    """Read a table of old and new names.

    Args:
        file: a CSV with two columns; a header, the order of the columns, and ``val2/`` in front of the
            old names do not matter.
        old_names: names that can stand in the old column.

    Returns:
        Old name by new name.

    Raises:
        DataError: if it cannot be read, names an image twice, or names none of the old ones.
    """
    old = {_bare(name): name for name in old_names}
    try:
        text, _ = read_text(file)
        rows = [[field.strip() for field in row] for row in csv.reader(io.StringIO(text)) if any(row)]
    except (ValueError, csv.Error) as error:
        raise DataError(f"{file}: not a table of old and new names ({error})") from error
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        pair = [_bare(field) for field in row[:2]]
        if len(pair) < 2 or not set(pair) & set(old):
            if number > 1:
                raise DataError(
                    f"{file}: line {number}: neither of its names is one of the boxes' ('{', '.join(row)[:80]}')"
                )
            continue
        first, second = pair if pair[0] in old else pair[::-1]
        if second in found or old[first] in found.values():
            raise DataError(f"{file}: line {number} names an image for the second time")
        found[second] = old[first]
    if not found:
        raise DataError(f"{file}: no line with an old and a new name; `decomcam-bench data map` writes one")
    return found


def match_by_size(
    old: Mapping[str, tuple[str, tuple[int, int]]], new: Mapping[str, tuple[str, tuple[int, int]]]
) -> dict[str, str]:
    """Match images that are the only ones of their class and size in both copies.

    Args:
        old, new: class and (width, height) by name.

    Returns:
        Old name by new name.
    """
    groups: dict[tuple[str, tuple[int, int]], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, names in enumerate((old, new)):
        for name, key in names.items():
            groups[key][side].append(name)
    return {after[0]: before[0] for before, after in groups.values() if len(before) == len(after) == 1}


def match_by_content(old: Sequence[Path], new: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Match the images of one class by what they show.

    Files with the same bytes belong together; of the others, those whose thumbnails differ least,
    as long as they are near each other and no third picture is.

    Returns:
        Pairs (old, new), in the order of ``old``.
    """
    by_hash = {hashlib.sha256(file.read_bytes()).digest(): file for file in new}
    pairs = {file: by_hash.get(hashlib.sha256(file.read_bytes()).digest()) for file in old}
    left_old = [file for file in old if pairs[file] is None]
    taken = {file for file in pairs.values() if file is not None}
    left_new = [file for file in new if file not in taken]
    if left_old and left_new:
        before, after = (np.stack([_thumbnail(file) for file in files]) for files in (left_old, left_new))
        cost = np.abs(before[:, None] - after[None]).mean(axis=(2, 3))
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            rivals = np.concatenate([np.delete(cost[row], column), np.delete(cost[:, column], row), [np.inf]])
            if cost[row, column] <= MAX_DIFFERENCE and MARGIN * cost[row, column] <= rivals.min():
                pairs[left_old[row]] = left_new[column]
    return [(file, other) for file, other in pairs.items() if other is not None]


def write_name_map(file: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write a table of old and new names.

    Raises:
        DataError: if it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["old", "new"])
            writer.writerows(rows)
    except OSError as error:
        raise DataError(f"--out {file}: cannot be written ({error.strerror}); name another file") from error


def _bare(name: str) -> str:
    """Return the last two parts of a path: ``val2/0/7.jpeg`` is ``0/7.jpeg``."""
    return "/".join(name.replace("\\", "/").strip().split("/")[-2:])


def _thumbnail(file: Path) -> np.ndarray:
    """Return a small grey version, float64.

    Raises:
        DataError: if the image cannot be read.
    """
    try:
        picture = Image.fromarray(read_image(file)).convert("L")
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error
    return np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), dtype=np.float64)
