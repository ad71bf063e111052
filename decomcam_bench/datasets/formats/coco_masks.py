"""Masks in COCO's notations (polygons, uncompressed and compressed RLE), decoded by pycocotools.

pycocotools trusts its input: a run-length code that is too short decodes to whatever lies in
memory, and a coordinate that is no number ends the process. So everything is checked first, when
the annotation is read, and what passes decodes exactly as ``COCO.annToMask`` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Coordinates beyond this are taken for damage; rasterising them would take unbounded memory.
MAX_COORDINATE = 1e5


@dataclass(frozen=True, eq=False)
class CocoMask:
    """A checked segmentation of an image of (height, width) pixels; make it with :func:`coco_mask`.

    Attributes:
        height, width: of the image.
        polygons: float64 arrays x0, y0, x1, y1, …; empty for a run-length code.
        counts: COCO's compressed run-length code; empty for polygons.
    """

    height: int
    width: int
    polygons: tuple[np.ndarray, ...] = ()
    counts: bytes = b""

    def rle(self) -> dict[str, Any]:
        """The mask as pycocotools' compressed run-length code."""
        if self.counts:
            return {"size": [self.height, self.width], "counts": self.counts}
        from pycocotools import mask as coco

        codes = coco.frPyObjects([polygon.tolist() for polygon in self.polygons], self.height, self.width)
        return dict(coco.merge(codes))

    def decode(self) -> np.ndarray:
        from pycocotools import mask as coco

        return np.asarray(coco.decode(self.rle()), dtype=bool)

    @property
    def digest(self) -> bytes:
        """Content, for the fingerprint."""
        return self.counts or b"".join(len(points).to_bytes(4, "little") + points.tobytes() for points in self.polygons)


@dataclass(frozen=True, eq=False)
class UnionMask:
    """The pixels that lie in any of several masks."""

    masks: tuple[CocoMask, ...]

    def decode(self) -> np.ndarray:
        from pycocotools import mask as coco

        return np.asarray(coco.decode(coco.merge([mask.rle() for mask in self.masks])), dtype=bool)

    @property
    def digest(self) -> bytes:
        return b"|".join(mask.digest for mask in self.masks)


def coco_mask(segmentation: Any, height: int, width: int) -> CocoMask:
    """Check and wrap a ``segmentation`` entry of a COCO file, without decoding it.

    Args:
        segmentation: a list of polygons (flat lists of coordinates), or a dictionary with ``size``
            and ``counts`` (a list, or COCO's compressed string).
        height, width: of the image.

    Raises:
        ValueError: for anything that ``annToMask`` refuses or turns into nonsense.
    """
    if isinstance(segmentation, dict):
        return CocoMask(height, width, counts=_checked_counts(segmentation, height, width))
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("the segmentation is neither a list of polygons nor a run-length code")
    polygons = tuple(_checked_polygon(polygon) for polygon in segmentation)
    if len(polygons[0]) < 6:
        raise ValueError(f"a polygon of {len(polygons[0])} coordinates, which annToMask cannot read")
    return CocoMask(height, width, polygons=tuple(polygon for polygon in polygons if len(polygon) >= 2))


def _checked_polygon(polygon: Any) -> np.ndarray:
    try:
        values = np.asarray(polygon)
        if values.size and values.dtype.kind not in "iuf":
            raise ValueError  # texts, booleans, or numbers beyond 64 bits
        values = values.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a polygon that is no list of numbers in range") from None
    if values.ndim != 1 or isinstance(polygon, (str, dict)):
        raise ValueError("a polygon that is no flat list of coordinates")
    if not (np.abs(values) <= MAX_COORDINATE).all():
        raise ValueError("a polygon with a coordinate that is not finite or far outside any image")
    return values


def _checked_counts(rle: dict[str, Any], height: int, width: int) -> bytes:
    size = rle.get("size")
    if not isinstance(size, Sequence) or list(size) != [height, width]:
        raise ValueError(f"a run-length code of size {size}, but the image has [{height}, {width}] (height, width)")
    counts = rle.get("counts")
    if isinstance(counts, (str, bytes)):
        code = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        runs: Iterable[Any] = decode_counts(code)
    elif isinstance(counts, list):
        code, runs = b"", counts
    else:
        raise ValueError("a run-length code without counts")
    runs = list(runs)
    if not all(isinstance(run, int) and 0 <= run <= height * width for run in runs) or sum(runs) != height * width:
        raise ValueError(f"a run-length code whose runs do not add up to {height} x {width} pixels")
    if not code:
        from pycocotools import mask as coco

        code = coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]
    return code


def decode_counts(code: bytes) -> list[int]:
    """The runs of COCO's compressed string: five bits a character, from the lowest up, the sixth
    bit marking continuation; from the fourth run on, differences to the run two places before.

    Raises:
        ValueError: for a character out of range, or a string that ends within a number.
    """
    runs: list[int] = []
    value = shift = 0
    for character in code:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("a compressed run-length code with a character out of range")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("a compressed run-length code that ends within a number")
    return runs


def mask_box(masks: Sequence[CocoMask]) -> tuple[float, float, float, float] | None:
    """Smallest half-open box round the union of masks, or None where they have no pixel."""
    from pycocotools import mask as coco

    x, y, width, height = coco.toBbox(coco.merge([mask.rle() for mask in masks])).tolist()
    return (x, y, x + width, y + height) if width > 0 and height > 0 and math.isfinite(x) else None


def segmentation_box(mask: CocoMask) -> tuple[float, float, float, float] | None:
    """Return the box of a segmentation: round the points of its polygons, or round its pixels.

    Points that lie outside the image do not count, as they have no pixels.
    """
    if not mask.polygons:
        return mask_box([mask])
    points = np.concatenate([polygon[: len(polygon) // 2 * 2].reshape(-1, 2) for polygon in mask.polygons])
    low = np.clip(points.min(axis=0), 0, (mask.width, mask.height))
    high = np.clip(points.max(axis=0), 0, (mask.width, mask.height))
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1])) if (low < high).all() else None


def pixels_mask(crop: np.ndarray, corner: tuple[int, int], height: int, width: int) -> CocoMask:
    """Return a mask of pixels that were annotated as a crop of the image.

    Args:
        crop: bool (h, w).
        corner: (x, y) of its upper left pixel; what lies outside the image is cut off.
        height, width: of the image.

    Raises:
        ValueError: if no pixel is left.
    """
    from pycocotools import mask as coco

    x, y = corner
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + crop.shape[0], height), min(x + crop.shape[1], width)
    pixels = np.zeros((height, width), dtype=np.uint8, order="F")
    if top < bottom and left < right:
        pixels[top:bottom, left:right] = crop[top - y : bottom - y, left - x : right - x]
    if not pixels.any():
        raise ValueError("a mask without a pixel in the image")
    return CocoMask(height, width, counts=coco.encode(pixels)["counts"])
