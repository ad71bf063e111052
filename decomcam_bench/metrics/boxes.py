"""Box accuracy: does a box drawn round the thresholded map match the annotated one?

Two protocols. **MaxBoxAcc** (Choe et al. 2020, ``wsolevaluation``): map and boxes are brought to
224 x 224 (boxes truncated to whole pixels), the map min-maxed; for every threshold t in 0, 0.01,
..., 0.99 the 8-bit map ``uint8(255 * map)`` is cut above ``int(t * its maximum)`` and boxes are put
round its contours, holes included. V1 takes the contour of largest area; V2 all of them. The best
IoU with any annotated box counts as a hit from 0.5 (V1), or from 0.3, 0.5 and 0.7 (V2, the mean of
the three). The threshold is chosen over the *data set*, for each IoU level: choosing it for each
image is a known mistake.

**Otsu** (gScoreCAM): the map in original pixels, scaled and rounded to 8 bits, cut above Otsu's
threshold; of the outer contours the one with the largest bounding rectangle; a hit if IoU >= 0.5
with any instance; share of pairs.

Both compute IoU with + 1, as if corners were inclusive, although the boxes that they draw end at x
+ w; we follow them, and take annotated corners as the files mean them, from 0 and inside the image:
the last pixel for VOC and ImageNet (:attr:`Target.corners`), x + w for COCO, PartImageNet and CUB.
A constant map draws no contour: the box is then (0, 0, 0, 0) in the first protocol and (0, 0, 1, 1)
in the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import pandas as pd

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.metrics.aggregation import (
    ImageSums,
    Totals,
    class_columns,
    class_mean,
    ratio,
    side_by_side,
    sum_by_image,
)
from decomcam_bench.metrics.base import Column, Fail, MapMetric, Outcome, PairMap, Value, annotated_region

#: The step that the reference takes in training; an 8-bit map has 256 levels, so a finer one tells no more apart.
_FINEST_STEP = 0.001
#: Magnitudes that float32 arithmetic and OpenCV (which takes a range under 2.2e-16 as none) can handle.
_ORDINARY = (1e-6, 1e6)
#: Ways to another size, see :meth:`PairMap.original_via`.
WAYS = ("native", "input")
#: A larger square takes gigabytes a map.
_LARGEST_SIDE = 4096


def min_max(scores: np.ndarray) -> np.ndarray:
    """Scales to [0, 1]; a constant array becomes 0."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def ordinary(scores: np.ndarray) -> np.ndarray:
    """The array times a power of two that brings its largest magnitude near 1, where that is far from it.

    Exact, so that everything which does not depend on the scale keeps its bits; float32 stays float32.
    """
    peak = max(float(scores.max()), -float(scores.min()))
    if peak == 0 or _ORDINARY[0] < peak < _ORDINARY[1]:
        return scores
    return np.ldexp(scores.astype(np.float64), -int(np.frexp(peak)[1])).astype(scores.dtype)


def thresholds(step: float) -> np.ndarray:
    """0, step, 2 step, ... below 1."""
    return np.arange(0, 1, step)


def inclusive_iou(boxes: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """IoU of boxes (n, 4) with boxes (g, 4), rows (x0, y0, x1, y1), corners inclusive: (n, g).

    A box whose corners are out of order has IoU 0.
    """
    low = np.maximum(boxes[:, None, :2], annotated[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], annotated[None, :, 2:])
    sides = np.maximum(high - low + 1, 0)
    common = sides[..., 0] * sides[..., 1]
    areas = [np.prod(np.maximum(b[:, 2:] - b[:, :2] + 1, 0), axis=1) for b in (boxes, annotated)]
    union = areas[0][:, None] + areas[1][None, :] - common
    found: np.ndarray = np.divide(common, union, out=np.zeros(common.shape), where=union > 0)
    return found


#: What stands for the contour of a map of zeros.
_FIRST_PIXEL = np.zeros((1, 1, 2), dtype=np.int32)


@dataclass(frozen=True)
class ThresholdBoxes:
    """Boxes round the contours at each threshold.

    Attributes:
        boxes: int64 (n, 4), those of one threshold after the other.
        starts: int64 (thresholds,), where each threshold's boxes begin; each has at least one.
        largest: int64 (thresholds,), the box of the contour of largest area.
    """

    boxes: np.ndarray
    starts: np.ndarray
    largest: np.ndarray


def boxes_at_thresholds(scores: np.ndarray, cuts: np.ndarray) -> ThresholdBoxes:
    """Draw boxes round the contours of a map at every threshold, as ``wsolevaluation`` does.

    Args:
        scores: (height, width) in [0, 1].
        cuts: thresholds in [0, 1), shares of the 8-bit map's maximum.
    """
    image = (scores * 255).astype(np.uint8)
    contours: list[np.ndarray] = []
    starts: list[int] = []
    largest: list[int] = []
    for level in (cuts * image.max()).astype(np.uint8).tolist():
        above = cv2.threshold(image, level, 255, cv2.THRESH_BINARY)[1]
        found = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0] or (_FIRST_PIXEL,)
        areas = [cv2.contourArea(contour) for contour in found] if len(found) > 1 else [0.0]
        starts.append(len(contours))
        largest.append(len(contours) + areas.index(max(areas)))
        contours += found
    points = np.concatenate(contours)[:, 0].T.astype(np.int64, order="C")
    lengths = np.fromiter(map(len, contours), dtype=np.int64, count=len(contours))
    first = lengths.cumsum() - lengths
    low, high = np.minimum.reduceat(points, first, axis=1), np.maximum.reduceat(points, first, axis=1)
    # A box ends one pixel after its last, inside the image; (0, 0, 0, 0) where there is no contour.
    end = np.minimum(high + np.array([bool(image.any())]), np.array(scores.shape[::-1])[:, None] - 1)
    drawn = np.concatenate([low, end]).T
    return ThresholdBoxes(drawn, np.array(starts), np.array(largest))


def resized_boxes(boxes: np.ndarray, original: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) at another image size, truncated to whole pixels; sizes are (height, width)."""
    scale = np.array([original[1], original[0], original[1], original[0]], dtype=np.float64)
    found: np.ndarray = np.trunc(boxes * np.array([size[1], size[0], size[1], size[0]]) / scale)
    return found


def check_grid(size: int | None, threshold_step: float) -> None:
    """Refuses a side or a distance of thresholds out of range.

    Raises:
        ConfigError: naming the key, the value and the bounds.
    """
    if size is not None and not 1 <= size <= _LARGEST_SIDE:
        raise ConfigError(f"metric.size={size}: must lie in 1..{_LARGEST_SIDE} pixels, or null for original pixels")
    if not _FINEST_STEP <= threshold_step < 1:
        raise ConfigError(f"metric.threshold_step={threshold_step}: must be at least {_FINEST_STEP} and below 1")


@dataclass
class ThresholdedBoxes(MapMetric):
    """What the metrics over thresholds have in common: the best IoU at each threshold.

    Attributes:
        contours: the ``largest`` contour, or ``all``.
        size: side of the square that map and boxes are brought to; None: original pixels.
        threshold_step: distance of the thresholds (0.01 in the reference's evaluation, 0.001 in
            its training).
        via: the map is resized from the model's ``input``, as the reference does, or from the ``native`` grid.
    """

    contours: str = "all"
    size: int | None = 224
    threshold_step: float = 0.01
    via: str = "input"

    needs: ClassVar[frozenset[str]] = frozenset({"box"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric.contours", self.contours, ("largest", "all"))
        check_choice("metric.via", self.via, WAYS)
        check_grid(self.size, self.threshold_step)

    def evaluate(self, pair: PairMap) -> Outcome:
        """Return ``best_iou``, float64 (thresholds,): the best of any drawn and any annotated box.

        Skipped: ``empty_region``, no box or all of them outside the image. Failed: ``non_finite_map``,
        ``zero_map``, with the value of a map of zeros, as the reference has it: a box of the first pixel.
        """
        region = annotated_region(pair, "box")
        if not isinstance(region, np.ndarray):
            return region
        if pair.flaw:
            return Fail(pair.flaw, {"best_iou": self._best(pair.blank)})
        return {"best_iou": self._best(pair)}

    def _best(self, pair: PairMap) -> np.ndarray:
        size = (pair.height, pair.width) if self.size is None else (self.size, self.size)
        view = (size, self.via, self.threshold_step)
        drawn = pair.shared(
            ("threshold_boxes", *view),
            lambda: boxes_at_thresholds(min_max_at(pair, size, self.via), thresholds(self.threshold_step)),
        )
        annotated = resized_boxes(pair.target.corners, (pair.height, pair.width), size)
        best = pair.shared(("best_iou", *view), lambda: inclusive_iou(drawn.boxes, annotated).max(axis=1))
        return best[drawn.largest] if self.contours == "largest" else np.maximum.reduceat(best, drawn.starts)


def min_max_at(pair: PairMap, size: tuple[int, int], via: str) -> np.ndarray:
    """Return the map at a size (height, width), min-maxed, float64; computed once per map, size and way."""
    return pair.shared(("min_max", size, via), lambda: min_max(pair.at_size(*size, via)))


def stacked(records: pd.DataFrame, key: str) -> np.ndarray:
    """A value that is an array of one length in every record, float64 (records, length)."""
    return np.stack([np.asarray(value, dtype=np.float64) for value in records[key]])


@dataclass
class MaxBoxAcc(ThresholdedBoxes):
    """MaxBoxAcc: share of pairs whose box is right, at the data set's best threshold.

    The best of many thresholds is too high in a small sample; intervals allow for that (``docs/statistics.md``).

    Attributes:
        iou_levels: a hit from these IoUs on, each once; the mean over levels is reported.
    """

    id = "maxboxacc"
    version: ClassVar[int] = 2

    iou_levels: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.iou_levels = tuple(self.iou_levels)
        if not self.iou_levels or not all(0 < level <= 1 for level in self.iou_levels):
            raise ConfigError(f"metric.iou_levels={list(self.iou_levels)}: one or more values in (0, 1]")
        names = self._level_names()
        if len(set(names)) < len(names):
            raise ConfigError(f"metric.iou_levels={list(self.iou_levels)}: each level once")

    def _level_names(self) -> list[str]:
        name = self.name or "maxboxacc"
        return [f"{name}_{100 * level:g}" for level in self.iou_levels]

    @property
    def columns(self) -> Sequence[Column]:
        levels = [Column(name, detail=True) for name in self._level_names()]
        cuts = [Column(f"{name}_threshold", "none", detail=True) for name in self._level_names()]
        return (Column(self.name or "maxboxacc"), *levels, *cuts)

    def image_sums(self, records: pd.DataFrame) -> ImageSums:
        """Hits at each level and threshold, and pairs."""
        best = stacked(records, "best_iou")
        hits = np.concatenate([best >= level for level in self.iou_levels], axis=1)
        cuts = thresholds(self.threshold_step)

        def shares(totals: Totals) -> np.ndarray:
            share = ratio(totals[:, :-1], totals[:, -1:])
            return share.reshape(len(totals), len(self.iou_levels), len(cuts))

        def columns(share: np.ndarray, places: np.ndarray) -> dict[str, np.ndarray]:
            top = np.take_along_axis(share, places[:, :, None], axis=2)[:, :, 0]
            levels = dict(zip(self._level_names(), top.T, strict=True))
            chosen = {f"{name}_threshold": cuts[place] for name, place in zip(levels, places.T, strict=True)}
            return {self.name or "maxboxacc": top.mean(axis=1), **levels, **chosen}

        def combine(totals: Totals) -> dict[str, np.ndarray]:
            share = shares(totals)
            return columns(share, share.argmax(axis=2))

        values = np.concatenate([hits, np.ones((len(best), 1))], axis=1)
        best_places = shares(values.sum(axis=0, keepdims=True)).argmax(axis=2)

        def held(totals: Totals) -> dict[str, np.ndarray]:
            return columns(shares(totals), best_places.repeat(len(totals), axis=0))

        kinds = dict.fromkeys((self.name or "maxboxacc", *self._level_names()), "threshold")
        return sum_by_image(records, values, combine, kinds, held)


@dataclass
class MeanBestIoU(ThresholdedBoxes):
    """Mean over pairs of the best IoU, at the threshold that is best for the data set."""

    id = "mean_best_iou"
    version: ClassVar[int] = 2

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "mean_best_iou"
        return (Column(name), Column(f"{name}_threshold", "none", detail=True))

    def image_sums(self, records: pd.DataFrame) -> ImageSums:
        """Sum of the best IoU at each threshold, and pairs."""
        best = stacked(records, "best_iou")
        cuts = thresholds(self.threshold_step)

        names = [column.name for column in self.columns]
        values = np.concatenate([best, np.ones((len(best), 1))], axis=1)
        place = int(values[:, :-1].sum(axis=0).argmax()) if len(best) else 0

        def combine(totals: Totals) -> dict[str, np.ndarray]:
            mean = ratio(totals[:, :-1], totals[:, -1:])
            return dict(zip(names, (mean.max(axis=1), cuts[mean.argmax(axis=1)]), strict=True))

        def held(totals: Totals) -> dict[str, np.ndarray]:
            mean = ratio(totals[:, place], totals[:, -1])
            return dict(zip(names, (mean, np.full(len(totals), cuts[place])), strict=True))

        return sum_by_image(records, values, combine, {names[0]: "threshold"}, held)


def otsu_box(scores: np.ndarray) -> tuple[np.ndarray, int]:
    """gScoreCAM's box: the largest bounding rectangle of what is above Otsu's threshold.

    Args:
        scores: (height, width), any finite values.

    Returns:
        (x0, y0, x1, y1), int64, ending at x + w; (0, 0, 1, 1) where nothing is above. And the
        threshold, 0..255.
    """
    image = cv2.normalize(ordinary(scores), None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)  # type: ignore[call-overload]
    threshold, above = cv2.threshold(image, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    contours = cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not len(contours):
        return np.array([0, 0, 1, 1]), int(threshold)
    x, y, w, h = max((cv2.boundingRect(contour) for contour in contours), key=lambda box: box[2] * box[3])
    return np.array([x, y, x + w, y + h]), int(threshold)


@dataclass
class OtsuBoxAccuracy(MapMetric):
    """gScoreCAM's box accuracy.

    Attributes:
        iou_level: a hit from this IoU on.
        via: see :meth:`PairMap.original_via`.
    """

    id = "otsu_box"

    iou_level: float = 0.5
    via: str = "native"

    version: ClassVar[int] = 2

    needs: ClassVar[frozenset[str]] = frozenset({"box"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.iou_level <= 1:
            raise ConfigError(f"metric.iou_level={self.iou_level}: must lie in (0, 1]")
        check_choice("metric.via", self.via, WAYS)

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "otsu_box"
        return (Column(name), Column(f"{name}_class_mean", detail=True))

    def evaluate(self, pair: PairMap) -> Outcome:
        """Return ``iou``, the best with any instance, ``hit``, the ``threshold`` and the ``box``.

        Skipped: ``empty_region``. Failed: ``non_finite_map``, ``zero_map``, with the values of a map of zeros,
        whose box the reference puts on the first pixel.
        """
        region = annotated_region(pair, "box")
        if not isinstance(region, np.ndarray):
            return region
        box, threshold = otsu_box((pair.blank if pair.flaw else pair).original_via(self.via))
        iou = float(inclusive_iou(box[None], pair.target.corners).max())
        values: dict[str, Value] = {"iou": iou, "hit": iou >= self.iou_level, "threshold": threshold, "box": box}
        return Fail(pair.flaw, values) if pair.flaw else values

    def image_sums(self, records: pd.DataFrame) -> ImageSums:
        """Hits and pairs of each class."""
        hit = records["hit"].to_numpy(dtype=np.float64)
        counts, classes = class_columns(records, np.ones(len(hit)))
        hits, _ = class_columns(records, hit)

        def combine(totals: Totals) -> dict[str, np.ndarray]:
            by_class = totals[:, :classes], totals[:, classes:]
            values = (ratio(by_class[0].sum(axis=1), by_class[1].sum(axis=1)), class_mean(*by_class, None))
            return dict(zip((column.name for column in self.columns), values, strict=True))

        kinds = {column.name: "linear" for column in self.columns}
        return sum_by_image(records, side_by_side([hits, counts]), combine, kinds)
