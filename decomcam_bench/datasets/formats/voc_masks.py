"""Object masks in PASCAL VOC's ``SegmentationObject`` pictures, matched to the boxes of the annotation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from decomcam_bench.datasets.masks import bounding_box

#: Palette index of pixels that count neither as object nor as background.
VOID = 255
#: A mask belongs to a box if the box round its pixels overlaps it by at least this (intersection over
#: union), or lies in it by at least this share: occluded and small objects show only part of themselves.
MIN_OVERLAP, MIN_INSIDE = 0.5, 0.8

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ObjectMask:
    """One object of a ``SegmentationObject`` picture: the pixels of palette index ``number``."""

    file: Path
    number: int
    size: tuple[int, int]

    def decode(self) -> np.ndarray:
        """Return the mask, bool (height, width).

        Raises:
            ValueError: if the picture cannot be read or is of another size.
        """
        return np.asarray(read_numbers(self.file, self.size) == self.number)

    @property
    def digest(self) -> bytes:
        """Content, for the fingerprint."""
        return f"{self.number}:".encode() + (self.file.read_bytes() if self.file.is_file() else b"")


def read_numbers(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Return the palette indices of a picture, uint8 (height, width).

    Raises:
        ValueError: if it cannot be read, has no palette, or is not of ``size`` (width, height).
    """
    try:
        with Image.open(file) as image:
            if image.mode != "P" or image.size != size:
                raise ValueError(f"mode {image.mode}, {image.size}; expected a palette picture of {size}")
            return np.asarray(image)
    except Exception as error:  # whatever a damaged file makes Pillow raise
        raise ValueError(f"{file}: {error}") from error


def match_objects(numbers: np.ndarray, boxes: Sequence[Box | None]) -> list[int]:
    """Return the palette index of each object's mask, or 0 for an object without one.

    VOC numbers masks by the order of the objects, which is kept wherever it fits; tools that export
    in VOC's layout may number them otherwise, or leave objects out.

    Args:
        numbers: palette indices, (height, width).
        boxes: half-open box round each object in the order of the annotation, None where it has none.
    """
    found = {int(value): bounding_box(numbers == value) for value in np.unique(numbers) if value not in (0, VOID)}
    order = [number if number in found else 0 for number in range(1, len(boxes) + 1)]
    if set(found) <= set(order) and all(_fits(found[k], boxes[k - 1]) for k in order if k):
        return order
    masks = sorted(found)
    overlaps = np.zeros((len(boxes), len(masks)))
    for row, box in enumerate(boxes):
        for column, number in enumerate(masks):
            # The order decides between masks that fit equally well.
            overlaps[row, column] = _overlap(found[number], box) + (1e-6 if number == row + 1 else 0)
    matched = [0] * len(boxes)
    for row, column in zip(*linear_sum_assignment(-overlaps), strict=True):
        if boxes[row] is not None and _fits(found[masks[column]], boxes[row]):
            matched[row] = masks[column]
    return matched


def _fits(mask: Box | None, box: Box | None) -> bool:
    if mask is None or box is None:
        return box is None
    both = _common(mask, box)
    return both >= MIN_INSIDE * _area(mask) or _overlap(mask, box) >= MIN_OVERLAP


def _overlap(a: Box | None, b: Box | None) -> float:
    """Return the intersection over union of two boxes; 0 if one is missing."""
    if a is None or b is None:
        return 0.0
    both = _common(a, b)
    return both / (_area(a) + _area(b) - both) if both else 0.0


def _common(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
