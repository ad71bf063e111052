"""Small judgements on the annotations of a user's own image: copies, messages, places and boxes of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decomcam_bench.datasets.base import Mask
from decomcam_bench.datasets.custom.records import Row
from decomcam_bench.datasets.files import Gathering, inside
from decomcam_bench.datasets.formats.coco_masks import CocoMask, segmentation_box
from decomcam_bench.datasets.masks import bounding_box


def distinct(rows: Sequence[Row], gathering: Gathering) -> list[Row]:
    """Leave out annotations that copy one before, and note them."""
    seen: dict[Any, Row] = {}
    kept = []
    for row in rows:
        first = seen.setdefault(row.content, row)
        if first is row or row.error:
            kept.append(row)
        else:
            gathering.note(f"{row.label} is a copy of {first.label} and was left out", class_name=row.name)
    return kept


def labelled(label: str, reason: str) -> str:
    return reason if reason.startswith(label) else f"{label}: {reason}"


def inside_one(folders: Mapping[Path, None], name: str) -> Path:
    """Return a mask file, looked for in several folders.

    Raises:
        ValueError: for a name that leads out of them.
    """
    clean = name.replace("\\", "/")
    places = [inside(folder, clean) for folder in folders]
    return next((place for place in places if place.is_file()), places[0])


def box_of(mask: Mask | None) -> tuple[float, ...]:
    """Return the smallest half-open box round a mask.

    Raises:
        ValueError: without a mask, or for one without pixels.
    """
    if mask is None:
        raise ValueError("neither a box nor a mask")
    box = segmentation_box(mask) if isinstance(mask, CocoMask) else bounding_box(mask.decode())
    if box is None:
        raise ValueError("a mask without a pixel, and no box")
    return box
