"""Doubt coordinates that cannot be, or may not be, what they are taken for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.base import Sample
from decomcam_bench.datasets.custom.records import Picture, Row

#: Files without a coordinate beyond these are suspected of relative and of percent coordinates.
RELATIVE_LIMIT, PERCENT_LIMIT = 1.0, 100.0


def largest(pictures: Sequence[Picture], units: Sequence[str]) -> float:
    """Return the largest coordinate of all boxes in one of ``units``, or minus infinity without any."""
    return max(
        (abs(value) for one in pictures for row in one.rows if _counts(row, units) for value in row.box or ()),
        default=float("-inf"),
    )


def _counts(row: Row, units: Sequence[str]) -> bool:
    return row.box is not None and not row.error and row.units in units


def check_units(file: Path, pictures: Sequence[Picture], box_units: str | None) -> None:
    """Refuse a file whose boxes cannot be in the units that are stated or assumed.

    Args:
        file: for the message.
        pictures: as read.
        box_units: as the user states them, or None.

    Raises:
        DataError: if they cannot.
    """
    reach = largest(pictures, ("", "pixels"))
    if box_units is None and 0 <= reach <= RELATIVE_LIMIT:
        raise DataError(
            f"{file}: all boxes lie in 0..1, so they are no pixels; set dataset.box_units=relative (or pixels)"
        )
    most = {"percent": PERCENT_LIMIT, "relative": RELATIVE_LIMIT}.get(box_units or "", float("inf"))
    stated = largest(pictures, ("",))
    if stated > 1.5 * most:
        raise DataError(
            f"{file}: dataset.box_units={box_units}, but a box reaches {stated:g}; name the file's own units"
        )


def is_relative_among_pixels(row: Row, reach: float) -> bool:
    """Return True for a box in 0..1 in a file whose other boxes reach further."""
    if row.box is None or row.units or reach <= RELATIVE_LIMIT:
        return False
    return max(row.box) <= RELATIVE_LIMIT and any(value % 1 for value in row.box)


def percent_doubts(
    file: Path, pictures: Sequence[Picture], sample: Callable[[int], Sample], least: float = PERCENT_LIMIT
) -> Sequence[str]:
    """Say so if no box reaches beyond 100 though all images are larger, as with boxes in per cent.

    Args:
        file: for the message.
        pictures: as read.
        sample: gives the sizes of the images.
        least: size from which an image counts as larger.
    """
    if not RELATIVE_LIMIT < largest(pictures, ("", "pixels")) <= PERCENT_LIMIT:
        return ()
    boxed = [index for index, one in enumerate(pictures) if any(_counts(row, ("", "pixels")) for row in one.rows)]
    sizes = [max(one.width, one.height) for one in map(sample, boxed) if one.width]
    if not sizes or min(sizes) <= least:
        return ()
    return (
        f"{file}: no box reaches beyond 100 though the images are larger, as with boxes in per cent; set "
        "dataset.box_units=percent, or pixels if they are",
    )
