"""Decide which pairs belong to the subsets that the pointing game and the energy pointing game define."""

from __future__ import annotations

from collections.abc import Iterable

from decomcam_bench.datasets.base import Target


def is_difficult(covered: int, pixels: int, classes: Iterable[int]) -> bool:
    """Return whether a pair is of the *difficult* subset (Zhang et al. 2018, section 5.1).

    The object covers less than a quarter of the image, and the image shows another class too. TorchRay reads the
    authors' lists for VOC07 and COCO14, which follow this definition.

    Args:
        covered: pixels of the annotated region.
        pixels: of the image.
        classes: class ids that the image shows.
    """
    return len(set(classes)) > 1 and 4 * covered < pixels


def no_single_object(target: Target, width: int, height: int) -> str:
    """Return why a pair is none of a single object, or an empty string.

    A single object has one box, which covers less than half of the image (Wang et al. 2020, Score-CAM, section
    4.3); a crowd is no single object.

    Args:
        target: the annotated class.
        width: of the image, in pixels.
        height: of the image, in pixels.

    Returns:
        ``several_objects``, ``large_object`` or an empty string.
    """
    if len(target.boxes) != 1 or bool(target.crowd.any()):
        return "several_objects"
    x0, y0, x1, y1 = target.boxes[0]
    return "" if 2 * (x1 - x0) * (y1 - y0) < width * height else "large_object"
