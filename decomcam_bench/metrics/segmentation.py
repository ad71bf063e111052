"""Segmentation: the map as a mask of its object.

Protocol (Chefer et al. 2021, ``baselines/ViT/imagenet_seg_eval.py``; also LeGrad, Grad-ECLIP and TextSpan): map and
mask at 224 x 224, the map scaled to [0, 1]; what is above its mean is object, the rest background.

* *pixel accuracy*: right pixels over all pixels of the data set;
* *mIoU*: mean over object and background of the data set's intersection over union;
* *average precision* of each pair (``average_precision: true``): of the scores ``map`` for the object and ``1 - map``
  for the background, taken together; the mean over pairs. Every pixel is sorted twice, so that it is off by default.

And without a fixed threshold:

* *soft IoU*: ``sum(min(map, mask)) / sum(max(map, mask))``, mean over pairs;
* *best IoU*: intersection over union of the object's pixels over the data set, at the data set's best threshold.

A map that is constant or not finite is background everywhere, as in the reference, and its average precision is 0.5:
all scores are equal. So is a pair without a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from decomcam_bench.core.validation import check_choice
from decomcam_bench.metrics.aggregation import ImageSums, Totals, ratio, sum_by_image
from decomcam_bench.metrics.base import Column, Fail, Outcome, PairMap, RegionMetric, Skip, Value
from decomcam_bench.metrics.boxes import WAYS, check_grid, min_max_at, stacked, thresholds
from decomcam_bench.metrics.pxap import bin_of, labelled

_COUNTS = ("both", "drawn", "region", "pixels")


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the average precision of scores, as scikit-learn's ``average_precision_score`` defines it.

    Args:
        scores: float64 (n,).
        positive: bool (n,), at least one.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], positive[order].cumsum()
    last = np.append(ordered[1:] != ordered[:-1], True)
    found = hits[last]
    return float((found / (np.flatnonzero(last) + 1) * np.diff(found, prepend=0)).sum() / hits[-1])


@dataclass
class Segmentation(RegionMetric):
    """Measure the map as a segmentation of its object.

    Attributes:
        size: side of the square that map and mask are brought to; None: original pixels.
        threshold_step: distance of the thresholds of the best IoU.
        ignore: ``none``; or ``crowd``: pixels of crowd regions alone count neither way.
        average_precision: compute it too.
        via: the map is resized from the model's ``input``, or from the ``native`` grid.
    """

    id = "segmentation"

    size: int | None = 224
    threshold_step: float = 0.01
    ignore: str = "none"
    average_precision: bool = False
    via: str = "input"

    undefined: ClassVar[frozenset[str]] = frozenset({"ap"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric.ignore", self.ignore, ("none", "crowd"))
        check_choice("metric.via", self.via, WAYS)
        check_grid(self.size, self.threshold_step)

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "segmentation"
        precision = [Column(f"{name}_ap", value="ap")] if self.average_precision else []
        return (
            Column(f"{name}_miou"),
            Column(f"{name}_pixel_accuracy"),
            *precision,
            Column(f"{name}_soft_iou", value="soft_iou"),
            Column(f"{name}_best_iou"),
            Column(f"{name}_threshold", "none", detail=True),
        )

    def evaluate(self, pair: PairMap) -> Outcome:
        """Return pixel counts, ``soft_iou``, ``ap``, and object pixels above each threshold.

        The counts are ``both`` (drawn and of the object), ``drawn``, ``region`` and ``pixels``; ``above`` and
        ``above_object``, int64 (thresholds,), are the drawn pixels at each threshold. Skipped: ``no_mask``,
        ``empty_region``, ``only_ignored``. Failed: ``bad_mask``; ``map_not_finite`` and ``map_zero_mass``, with the
        values of a map of zeros: background everywhere.
        """
        size = (pair.height, pair.width) if self.size is None else (self.size, self.size)
        found = labelled(pair, self.kind, self.ignore, size)
        if isinstance(found, Skip | Fail):
            return found
        values = self._values(pair.blank if pair.flaw else pair, size, *found)
        return Fail(pair.flaw, values) if pair.flaw else values

    def _values(
        self, pair: PairMap, size: tuple[int, int], inside: np.ndarray, counted: np.ndarray | None
    ) -> dict[str, Value]:
        scores = min_max_at(pair, size, self.via)
        edges = np.append(thresholds(self.threshold_step), 1.0)
        bins = pair.shared(("bins", size, self.via, self.threshold_step), lambda: bin_of(scores, edges))
        drawn = scores > scores.mean()
        if counted is not None:
            scores, bins, drawn, inside = scores[counted], bins[counted], drawn[counted], inside[counted]
        both = np.bincount((bins + len(edges) * inside).ravel(), minlength=2 * len(edges)).reshape(2, -1)
        above = both[:, ::-1].cumsum(axis=1)[:, ::-1]
        on, mass = float(scores[inside].sum()), float(scores.sum())
        pixels = int(inside.sum())
        return {
            "both": int((drawn & inside).sum()),
            "drawn": int(drawn.sum()),
            "region": pixels,
            "pixels": int(inside.size),
            "soft_iou": on / (pixels + mass - on),
            "ap": self._precision(scores, inside),
            "above": above.sum(axis=0)[:-1],
            "above_object": above[1, :-1],
        }

    def _precision(self, scores: np.ndarray, inside: np.ndarray) -> float:
        if not self.average_precision:
            return float("nan")
        if not scores.any():
            return 0.5
        flat, own = scores.ravel(), inside.ravel()
        return average_precision(np.concatenate([1 - flat, flat]), np.concatenate([~own, own]))

    def image_sums(self, records: pd.DataFrame) -> ImageSums:
        """Sum pixel counts, soft IoU, average precision, and the pixels above each threshold."""
        precision = records["ap"].to_numpy(dtype=np.float64)
        known = ~np.isnan(precision)
        scalars = [records[name].to_numpy(dtype=np.float64) for name in (*_COUNTS, "soft_iou")]
        scalars += [np.ones(len(records)), np.where(known, precision, 0.0), known.astype(np.float64)]
        values = np.concatenate(
            [np.stack(scalars, axis=1), stacked(records, "above"), stacked(records, "above_object")], axis=1
        )
        cuts, names = thresholds(self.threshold_step), [column.name for column in self.columns]

        def ious(totals: Totals) -> np.ndarray:
            above, hit = np.split(totals[:, len(scalars) :], 2, axis=1)
            return ratio(hit, above + totals[:, 2:3] - hit)

        def columns(totals: Totals, share: np.ndarray, place: np.ndarray) -> dict[str, np.ndarray]:
            both, drawn, own, pixels, soft, pairs, ap, with_ap = totals[:, : len(scalars)].T
            miss = drawn + own - 2 * both
            background = pixels - drawn - own + both
            miou = (ratio(both, both + miss) + ratio(background, background + miss)) / 2
            found = [miou, ratio(pixels - miss, pixels), ratio(ap, with_ap), ratio(soft, pairs)]
            found += [share[np.arange(len(totals)), place], cuts[place]]
            if not self.average_precision:
                del found[2]
            return dict(zip(names, found, strict=True))

        def combine(totals: Totals) -> dict[str, np.ndarray]:
            share = ious(totals)
            return columns(totals, share, np.nan_to_num(share, nan=-1).argmax(axis=1))

        best = int(np.nan_to_num(ious(values.sum(axis=0, keepdims=True)), nan=-1).argmax())

        def held(totals: Totals) -> dict[str, np.ndarray]:
            return columns(totals, ious(totals), np.full(len(totals), best))

        linear = {column.name: "linear" for column in self.columns if column.value}
        kinds = {names[0]: "smooth", names[1]: "smooth", **linear, names[-2]: "threshold"}
        return sum_by_image(records, values, combine, kinds, held)
