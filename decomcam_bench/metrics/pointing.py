"""Pointing game: does the maximum of the map hit the object?

Protocol (Zhang et al. 2018, as TorchRay's ``benchmark/pointing_game.py`` implements it): the map is brought to the
pixels (w, h) of the original image by one bilinear interpolation; its maximum (px, py) is a hit if any pixel of the
annotated region satisfies ``(x - px)**2 + (y - py)**2 < tolerance**2``, strictly. All instances of the class make
one region. A pair all of whose objects are flagged difficult is skipped; otherwise the difficult objects stay in
the region. The number of the data set is the mean over classes of hits / (hits + misses).

Where several pixels share the maximum, the hit is the share of them that hit: the first in raster order, which
TorchRay takes (``ties: first``), favours objects at the top left. A pair without a usable map is a miss. TorchRay
takes the pixel (0, 0) there, a miss unless the object reaches within the tolerance of that corner.

Known disagreements: gScoreCAM reports the share of pairs (our ``_pair_mean``), passes the point as (row, column)
where (x, y) is read, and halves the box's size instead of taking its centre; Quantus has no tolerance, counts a hit
if *any* of several tied maxima hits, and turns an undefined hit into a true one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import cv2
import numpy as np
import pandas as pd

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.reasons import Reason
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.subset_rules import is_difficult
from decomcam_bench.metrics.aggregation import (
    ImageSums,
    Totals,
    class_columns,
    class_mean,
    ratio,
    side_by_side,
    sum_by_image,
)
from decomcam_bench.metrics.base import Column, Fail, Outcome, PairMap, RegionMetric, Skip, annotated_region
from decomcam_bench.metrics.boxes import WAYS


@lru_cache(maxsize=8)
def _disc(tolerance: float) -> np.ndarray:
    """Offsets strictly nearer than ``tolerance``, bool (2r + 1, 2r + 1); 0 holds the centre alone."""
    radius = int(np.ceil(tolerance))
    offsets = np.arange(-radius, radius + 1)
    disc = (offsets[:, None] ** 2 + offsets[None, :] ** 2) < tolerance**2
    disc[radius, radius] = True
    return disc


def hits_region(point: tuple[int, int], region: np.ndarray, tolerance: float) -> bool:
    """Whether any pixel of the region is strictly nearer to the point than ``tolerance``.

    Args:
        point: (x, y), inside the image.
        region: bool (height, width).
        tolerance: in pixels; 0 asks whether the point itself lies in the region.
    """
    x, y = point
    disc = _disc(float(tolerance))
    radius = disc.shape[0] // 2
    top, left = max(y - radius, 0), max(x - radius, 0)
    window = region[top : y + radius + 1, left : x + radius + 1]
    row, column = top - (y - radius), left - (x - radius)
    return bool((window & disc[row : row + window.shape[0], column : column + window.shape[1]]).any())


def maxima(scores: np.ndarray) -> np.ndarray:
    """Return the places of the maximum in raster order: int64 (n, 2), rows (y, x)."""
    return np.stack(np.unravel_index(np.flatnonzero(scores == scores.max()), scores.shape), axis=1)


def share_of_hits(peaks: np.ndarray, region: np.ndarray, tolerance: float) -> float:
    """Return the share of peaks that hit the region.

    Args:
        peaks: int (n, 2), rows (y, x), inside the image.
        region: bool (height, width), not empty.
        tolerance: see :func:`hits_region`.
    """
    if len(peaks) == 1:
        return float(hits_region((int(peaks[0, 1]), int(peaks[0, 0])), region, tolerance))
    if tolerance == 0:
        return float(region[peaks[:, 0], peaks[:, 1]].mean())
    distance = cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances between pixels are whole numbers.
    squared = np.rint(distance[peaks[:, 0], peaks[:, 1]].astype(np.float64) ** 2)
    return float(((squared < tolerance**2) | (squared == 0)).mean())


@dataclass
class PointingGame(RegionMetric):
    """Share of pairs whose maximum hits the object.

    Attributes:
        tolerance: in pixels of the original image; 0: the maximum lies inside the region.
        aggregate_by: what the main column is: ``class_mean`` (TorchRay) or ``pair_mean``; None for what the
            data set says (``pair_mean`` for one's own free texts, ``class_mean`` otherwise).
        absent_classes: a class without an evaluated pair: ``ignore`` leaves it out of the class
            mean; ``zero`` counts it as 0, as TorchRay does. On a whole benchmark the two agree; on
            a subset the second measures the subset, so the first is the default.
        skip_difficult_only: leave out pairs whose objects are all flagged difficult.
        n_classes: classes of the data set; filled in by :meth:`resolve` for ``zero``.
        ties: of several equal maxima, the ``share`` that hits, or the ``first`` in raster order.
        via: see :meth:`PairMap.original_via`.
    """

    id = "pointing"

    tolerance: float = 15.0
    aggregate_by: str | None = None
    absent_classes: str = "ignore"
    skip_difficult_only: bool = True
    n_classes: int | None = None
    ties: str = "share"
    via: str = "native"

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.tolerance <= 10_000:
            raise ConfigError(f"metric.tolerance={self.tolerance}: must lie in 0..10000 pixels")
        check_choice("metric.aggregate_by", self.aggregate_by, (None, "class_mean", "pair_mean"))
        check_choice("metric.absent_classes", self.absent_classes, ("ignore", "zero"))
        check_choice("metric.ties", self.ties, ("share", "first"))
        check_choice("metric.via", self.via, WAYS)

    def resolve(self, dataset: Any) -> PointingGame:
        n_classes = len(dataset.class_names) if self.absent_classes == "zero" else None
        by = self.aggregate_by or getattr(dataset, "aggregation", "class_mean")
        return dataclasses.replace(super().resolve(dataset), n_classes=n_classes, aggregate_by=by)

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "pointing"
        other = "class_mean" if self.aggregate_by == "pair_mean" else "pair_mean"
        return (Column(name), Column(f"{name}_{other}", detail=True), Column(f"{name}_difficult", detail=True))

    def evaluate(self, pair: PairMap) -> Outcome:
        """Return ``hit`` (0..1), whether the pair is of the ``difficult`` subset, and its maximum.

        ``x`` and ``y`` are those of the first maximum in raster order, ``tied`` is the number of equal maxima.
        Skipped: ``difficult_only``, ``no_mask``, ``empty_region``. Failed: ``bad_mask``; ``non_finite_map`` and
        ``zero_map``, as misses.
        """
        if self.skip_difficult_only and len(pair.target.difficult) and pair.target.difficult.all():
            return Skip(Reason.DIFFICULT_ONLY)
        region = annotated_region(pair, self.kind)
        if not isinstance(region, np.ndarray):
            return region
        classes = {pair.target.class_id, *pair.image_classes}
        pixels = region.size if pair.ignored is None else int(np.count_nonzero(~pair.ignored))
        difficult = is_difficult(int(np.count_nonzero(region)), pixels, classes)
        if pair.flaw:
            return Fail(pair.flaw, {"hit": 0.0, "difficult": difficult})
        peaks = pair.shared(("peaks", self.via), lambda: maxima(pair.original_via(self.via)))
        chosen = peaks if self.ties == "share" else peaks[:1]
        hit = share_of_hits(chosen, region, self.tolerance)
        return {
            "hit": hit,
            "difficult": difficult,
            "x": int(peaks[0, 1]),
            "y": int(peaks[0, 0]),
            "tied": len(peaks),
        }

    def image_sums(self, records: pd.DataFrame) -> ImageSums:
        """Hits and counts of each class, of all pairs and of the difficult ones."""
        hit, difficult = (records[key].to_numpy(dtype=np.float64) for key in ("hit", "difficult"))
        blocks = [class_columns(records, values) for values in (hit, np.ones(len(hit)), hit * difficult, difficult)]
        classes = blocks[0][1]

        def combine(totals: Totals) -> dict[str, np.ndarray]:
            hits, counts, hard_hits, hard_counts = np.split(totals, [classes, 2 * classes, 3 * classes], axis=1)
            zero = self.n_classes or classes if self.absent_classes == "zero" else None
            by_class = class_mean(hits, counts, zero), class_mean(hard_hits, hard_counts, zero)
            by_pair = ratio(hits.sum(axis=1), counts.sum(axis=1)), ratio(hard_hits.sum(axis=1), hard_counts.sum(axis=1))
            main, other = (by_pair, by_class) if self.aggregate_by == "pair_mean" else (by_class, by_pair)
            return dict(zip((column.name for column in self.columns), (main[0], other[0], main[1]), strict=True))

        names = [column.name for column in self.columns]
        return sum_by_image(
            records,
            side_by_side([block for block, _ in blocks]),
            combine,
            dict.fromkeys(names, "linear"),
            counted={names[-1]: difficult > 0},
        )
