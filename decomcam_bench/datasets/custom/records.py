"""What every annotation format is read into before boxes and masks are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from decomcam_bench.datasets.base import Problem

#: Units of box and polygon coordinates: pixels, shares of the image's sides, or per cent of them.
UNITS = ("pixels", "relative", "percent")
#: Coordinates in shares of a side count as whole pixels if they are nearer than this (in pixels):
#: files state them with six decimals or so.
SNAP = 0.02
#: The same for coordinates in pixels, which tools compute from shares: 10.000000000000002 is pixel 10.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Row:
    """One annotation as the file states it.

    Attributes:
        label: names it in messages: ``line 3``, ``annotation 17``.
        name: class name or free text; empty where the file has none.
        free: the name is a free text, used as it stands.
        box: half-open (x0, y0, x1, y1), or None.
        segmentation: COCO's notation (polygons or a run-length code), or ``{"crop": array, "corner": (x, y)}`` for
            bool pixels whose upper left corner lies at (x, y) of the image, or None.
        units: of box and polygons, one of :data:`UNITS`; empty for the data set's ``box_units``.
        mask_file: picture that holds the mask, or empty.
        mask_value: value of the object in that picture, or None.
        crowd, difficult: flags.
        error: why the annotation cannot be used, or empty.
        notes: what was odd about it without making it useless.
    """

    label: str
    name: str
    free: bool = False
    box: tuple[float, ...] | None = None
    segmentation: Any = None
    units: str = ""
    mask_file: str = ""
    mask_value: int | None = None
    crowd: bool = False
    difficult: bool = False
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def content(self) -> tuple[Any, ...]:
        """What makes two annotations of an image copies of each other."""
        return (
            self.name, self.free, self.box, repr(_plain(self.segmentation)), self.mask_file, self.mask_value,
            self.crowd, self.difficult, self.error,
        )  # fmt: skip


@dataclass
class Picture:
    """One image as the file states it.

    Attributes:
        name: its file, as written.
        image_id: unique in the data set; the name unless given.
        width, height: as stated; 0 where they are not.
        error: why the image cannot be used, or empty.
        rows: its annotations.
        file: the annotation file, for messages; the content's file unless given.
        folder: where the image is looked for first, or None.
        by_stem: any image with the name's stem will do, whatever its ending.
        labels: label picture of the whole image, or None.
    """

    name: str
    image_id: str = ""
    width: int = 0
    height: int = 0
    error: str = ""
    rows: list[Row] = field(default_factory=list)
    file: str = ""
    folder: Path | None = None
    by_stem: bool = False
    labels: Path | None = None


@dataclass
class Content:
    """What an annotation file, or a folder of them, holds.

    Attributes:
        file: the file or folder.
        pictures: in the order of the file.
        names: class names that compete as texts even if no image shows them.
        problems: annotations that belong to no image.
        remarks: what a user may want to know, without anything being wrong.
        values: class name by value of label pictures.
        ignored: values of label pictures that count neither as object nor as background.
    """

    file: Path
    pictures: list[Picture] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    values: dict[int, str] = field(default_factory=dict)
    ignored: tuple[int, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where to read from, and what the user said about it.

    Attributes:
        base: the root folder.
        files: the annotation files or folders of one format, at least one.
        images: folder of the images, or None.
        split: which part of an export, or None for all.
        box_format: ``xywh``, ``xyxy`` or ``cxcywh``, or None.
        encoding: of text files, or None.
        origin: number of the first pixel in VOC's XML, 0 or 1, or None.
        classes: names by id or in order, or None.
        ignored: values of label pictures to leave out.
    """

    base: Path
    files: Sequence[Path]
    images: Path | None = None
    split: str | None = None
    box_format: str | None = None
    encoding: str | None = None
    origin: int | None = None
    classes: Mapping[int, str] | Sequence[str] | None = None
    ignored: tuple[int, ...] = ()


def folders_of(file: Path, base: Path) -> tuple[str, ...]:
    """Return the names of the folders between a root and a file, none if it lies elsewhere."""
    return file.relative_to(base).parts[:-1] if file.is_relative_to(base) else ()


def in_pixels(box: Sequence[float], units: str, width: int, height: int) -> tuple[float, ...]:
    """Convert a box (x0, y0, x1, y1) to pixels.

    >>> in_pixels((0.1, 0.2, 0.5, 0.9), "relative", 640, 480)
    (64.0, 96.0, 320.0, 432.0)
    """
    if units == "pixels":
        return tuple(_snapped(value, ROUNDING) for value in box)
    share = 100.0 if units == "percent" else 1.0
    return tuple(_snapped(value * side / share) for value, side in zip(box, (width, height) * 2, strict=True))


def polygons_in_pixels(segmentation: Any, units: str, width: int, height: int) -> Any:
    """Convert the polygons of a segmentation to pixels; a run-length code stays as it is."""
    if units == "pixels" or not isinstance(segmentation, list):
        return segmentation
    share = 100.0 if units == "percent" else 1.0
    scaled = []
    for polygon in segmentation:
        points = np.array(polygon, dtype=np.float64).reshape(-1, 2) * (width / share, height / share)
        whole = np.rint(points)
        scaled.append(np.where(np.abs(points - whole) < SNAP, whole, points).ravel())
    return scaled


def polygon_box(polygons: Any) -> tuple[float, ...] | None:
    """Return the box round all points of a list of polygons, or None where there are none."""
    try:
        points = np.concatenate([np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons])
    except (TypeError, ValueError, OverflowError):
        return None
    if not len(points) or not np.isfinite(points).all():
        return None
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0, points: int = 128) -> list[float]:
    """Return an ellipse as a polygon, flat (x0, y0, x1, y1, ...), its axes turned clockwise in the picture."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    along = np.stack([rx * np.cos(angles), ry * np.sin(angles)])
    return [float(value) for value in (_rotation(degrees) @ along + np.array([[cx], [cy]])).T.ravel()]


def turned_rectangle(box: Sequence[float], degrees: float, pivot: tuple[float, float]) -> list[float]:
    """Return the corners of a box turned clockwise round a point, flat (x0, y0, ..., x3, y3)."""
    x0, y0, x1, y1 = box
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64) - pivot
    return [float(value) for value in (corners @ _rotation(degrees).T + pivot).ravel()]


def _rotation(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _snapped(value: float, distance: float = SNAP) -> float:
    whole = float(np.rint(value))
    return whole if abs(value - whole) < distance else value


def _plain(segmentation: Any) -> Any:
    if isinstance(segmentation, dict) and "crop" in segmentation:
        return segmentation["crop"].tobytes(), segmentation["crop"].shape, segmentation["corner"]
    if isinstance(segmentation, list):
        return [part.tolist() if isinstance(part, np.ndarray) else part for part in segmentation]
    return segmentation
