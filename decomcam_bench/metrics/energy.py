"""Energy-based pointing game: how much of the map's mass lies on the object?

Protocol (Wang et al. 2020, Score-CAM, section 4.3): sum of the map inside the annotated region over
the sum of the map, in the pixels of the original image; mean over pairs. Difficult objects are
part of the region and no pair is skipped for them.

Known disagreements: the authors' ``utils/energyPointGame.py`` takes one box an image and indexes
rows by x (``empty[x1:x2, y1:y2]``), which forks mend and so do we; 0 / 0 gives NaN there and a
named reason here. Their paper keeps images with one box under half of the image: ``objects:
single``. Quantus calls the mask version ``RelevanceMassAccuracy``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.subset_rules import no_single_object
from decomcam_bench.metrics.base import Column, Fail, Outcome, PairMap, RegionMetric, Skip, annotated_region
from decomcam_bench.metrics.boxes import WAYS


@dataclass
class Energy(RegionMetric):
    """Share of the map's mass on the object.

    Attributes:
        objects: ``all`` pairs; or ``single``: only pairs of one box that covers less than half of
            the image.
        via: see :meth:`PairMap.original_via`.
    """

    id = "energy"

    objects: str = "all"
    via: str = "native"

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric.objects", self.objects, ("all", "single"))
        check_choice("metric.via", self.via, WAYS)

    @property
    def columns(self) -> Sequence[Column]:
        return (Column(self.name or "energy", value="energy"),)

    def evaluate(self, pair: PairMap) -> Outcome:
        """Return ``energy`` in 0..1.

        Skipped: ``several_objects``, ``large_object`` (``single`` only), ``no_mask``, ``empty_region``. Failed:
        ``bad_mask``; ``non_finite_map`` and ``zero_map``, with an energy of 0: nothing lies on the object.
        """
        region = annotated_region(pair, self.kind)
        if not isinstance(region, np.ndarray):
            return region
        if self.objects == "single":
            reason = no_single_object(pair.target, pair.width, pair.height)
            if reason:
                return Skip(reason)
        if pair.flaw:
            return Fail(pair.flaw, {"energy": 0.0})
        mask, seen = region.view(np.uint8), pair.original_via(self.via)
        total = pair.total if seen is pair.original else float(seen.astype(np.float64).sum())
        inside = cv2.mean(seen, mask=mask)[0] * cv2.countNonZero(mask)
        # The two sums round differently: all of the mass may be a last bit more than all of it.
        return {"energy": min(inside / total, 1.0)}
