"""PxAP: area under the pixel-wise precision-recall curve of the data set (Choe et al. 2020).

Protocol (``wsolevaluation``'s ``MaskEvaluator``): map and mask at 224 x 224, the mask by nearest
neighbour, the map min-maxed; histograms of the scores of object and of background pixels over the
bins [0, 0.01), ..., [0.99, 1), {1}, summed over the *data set*; precision and recall at each bin's
left edge, from the highest down; the sum of precision times the rise of recall. The reference reports per
cent, we a share. Its ignore region (OpenImages) corresponds to ``ignore: crowd`` here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import pandas as pd

from decomcam_bench.core.reasons import Reason
from decomcam_bench.core.validation import check_choice
from decomcam_bench.metrics.aggregation import ImageSums, Totals, sum_by_image
from decomcam_bench.metrics.base import Column, Fail, Outcome, PairMap, RegionMetric, Skip, Value, annotated_region
from decomcam_bench.metrics.boxes import WAYS, check_grid, min_max_at, stacked, thresholds

_NEAR_AN_EDGE = 1e-9


def bin_of(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Index of the last edge that is not above each score.

    Args:
        scores: float64, at least ``edges[0]``, at most 1.
        edges: float64, at least two, evenly spaced from 0 up to rounding; only the last may be nearer.
    """
    scaled = scores * (1 / edges[1])
    place = np.minimum(scaled.astype(np.int64), len(edges) - 1)
    # Rounding can matter near an edge alone; searching for every pixel would take ten times as long.
    unsure = np.abs(scaled - np.rint(scaled)) < _NEAR_AN_EDGE
    unsure |= scores >= edges[-2]
    unsure &= scores > 0
    place[unsure] = np.searchsorted(edges, scores[unsure], side="right") - 1
    found: np.ndarray = place
    return found


def average_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve from histograms, as the reference sums it.

    Args:
        positive, negative: (r, bins), object and background pixels by ascending score.

    Returns:
        (r,) in [0, 1]; NaN where there is no object pixel.
    """
    hits = positive[:, ::-1].cumsum(axis=1)
    false = negative[:, ::-1].cumsum(axis=1)
    drawn = hits + false
    precision = np.divide(hits, drawn, out=np.zeros(hits.shape), where=drawn != 0)
    pixels = hits[:, -1:]
    recall = np.divide(hits, pixels, out=np.full(hits.shape, np.nan), where=pixels > 0)
    found: np.ndarray = (precision * np.diff(recall, axis=1, prepend=0.0)).sum(axis=1)
    return found


@dataclass
class PxAP(RegionMetric):
    """Pixel-wise average precision over the data set.

    Attributes:
        size: side of the square that map and mask are brought to; None: original pixels.
        threshold_step: width of the bins.
        ignore: ``none``; or ``crowd``: pixels of crowd regions alone count neither way.
        via: the map is resized from the model's ``input``, as the reference does, or from the ``native`` grid.
    """

    id = "pxap"

    size: int | None = 224
    threshold_step: float = 0.01
    ignore: str = "none"
    via: str = "input"

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric.via", self.via, WAYS)
        check_choice("metric.ignore", self.ignore, ("none", "crowd"))
        check_grid(self.size, self.threshold_step)

    @property
    def columns(self) -> Sequence[Column]:
        return (Column(self.name or "pxap"),)

    def evaluate(self, pair: PairMap) -> Outcome:
        """Return the histograms ``object`` and ``background``, int64 (bins,).

        Skipped: ``no_mask``, ``empty_region``, ``only_ignored`` (every object pixel is ignored). Failed:
        ``bad_mask``; ``non_finite_map`` and ``zero_map``, with all pixels in the lowest bin, as the reference
        has it.
        """
        size = (pair.height, pair.width) if self.size is None else (self.size, self.size)
        found = labelled(pair, self.kind, self.ignore, size)
        if isinstance(found, Skip | Fail):
            return found
        inside, counted = found
        edges = np.append(thresholds(self.threshold_step), 1.0)
        seen = pair.blank if pair.flaw else pair
        bins = seen.shared(
            ("bins", size, self.via, self.threshold_step), lambda: bin_of(min_max_at(seen, size, self.via), edges)
        )
        both = bins + len(edges) * inside
        counts = np.bincount((both if counted is None else both[counted]).ravel(), minlength=2 * len(edges))
        values: dict[str, Value] = {"object": counts[len(edges) :], "background": counts[: len(edges)]}
        return Fail(pair.flaw, values) if pair.flaw else values

    def image_sums(self, records: pd.DataFrame) -> ImageSums:
        """Both histograms."""
        values = np.concatenate([stacked(records, "object"), stacked(records, "background")], axis=1)

        def combine(totals: Totals) -> dict[str, np.ndarray]:
            positive, negative = np.split(totals, 2, axis=1)
            return {self.columns[0].name: average_precision(positive, negative)}

        return sum_by_image(records, values, combine, {self.columns[0].name: "smooth"})


def labelled(
    pair: PairMap, kind: str, ignore: str, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None] | Skip | Fail:
    """Return the object's pixels and those that count, at a size, by nearest neighbour.

    Args:
        pair: whose target is looked at.
        kind: ``box`` or ``mask``.
        ignore: ``none``; or ``crowd``: pixels of crowd regions alone do not count. Void pixels never do.
        size: (height, width).

    Returns:
        bool (height, width) each, the second None if all count; or why there is no object pixel.
    """
    region = annotated_region(pair, kind)
    if not isinstance(region, np.ndarray):
        return region
    counted = None
    if ignore == "crowd" and pair.target.crowd.any():
        plain = _instances(pair, kind, ~pair.target.crowd)
        counted, region = ~(region & ~plain), plain
        if not region.any():
            return Skip(Reason.ONLY_IGNORED)
    if pair.ignored is not None:
        counted = ~pair.ignored if counted is None else counted & ~pair.ignored
        if not (region & counted).any():
            return Skip(Reason.ONLY_IGNORED)
    return _nearest(region, size), None if counted is None else _nearest(counted, size)


def _instances(pair: PairMap, kind: str, chosen: np.ndarray) -> np.ndarray:
    """Union of some instances, bool (height, width) of the original image."""
    places = np.flatnonzero(chosen)
    masks = tuple(pair.target.masks[place] for place in places) if pair.target.masks else ()
    some = dataclasses.replace(pair.target, boxes=pair.target.boxes[places], masks=masks)
    if kind == "box":
        return some.box_mask(pair.height, pair.width)
    union = some.object_mask()
    return np.zeros((pair.height, pair.width), dtype=bool) if union is None else union


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if mask.shape == size:
        return mask
    return cv2.resize(mask.view(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
