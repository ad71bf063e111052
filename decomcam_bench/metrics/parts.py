"""Component maps (OSSMs) against the annotated parts of the object.

The claim that the components of a decomposition match the components of objects, made measurable.
Of the visible parts of a target (masks; a point, as in CUB, stands for a disc round it) and the
component maps of positive mass, each component is assigned to at most one part so that the total
overlap is largest (optimal assignment). Overlap is the soft IoU ``sum(min(m, part)) /
sum(max(m, part))`` of the component scaled to maximum 1, which, unlike energy, does not favour
large parts. Then, for each pair, over its assigned couples:

* pointing: share whose component has its maximum inside the part;
* energy: mean share of the component's mass on the part;
* IoU at each threshold k/20 of the component's maximum; the threshold is chosen over the data set;

and, over all components and parts: *covered*, the share of visible parts on which at least one
component has its maximum, and *diversity*, 1 - mean cosine between component maps (undefined for
one component alone). Each is the mean over pairs.

The floor repeats the first four with every component map flipped and shifted (cyclically) at
random, which keeps its values and smoothness and takes away its place. Equal seeds give equal
floors on every machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.reasons import Failure, Reason
from decomcam_bench.core.validation import check_choice
from decomcam_bench.metrics.aggregation import ImageSums, Totals, mean_sums, ratio, sum_by_image
from decomcam_bench.metrics.base import Column, Fail, MapMetric, Outcome, PairMap, Skip, Value, decoded
from decomcam_bench.metrics.boxes import ordinary, stacked
from decomcam_bench.metrics.pointing import hits_region

LEVELS = 20
_SCALARS = ("pointing", "energy", "covered")


def overlaps(components: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Soft IoU and energy of every component with every part.

    Args:
        components: float32 (q, height, width), non-negative, each of positive mass.
        parts: bool (p, height, width), none empty.

    Returns:
        soft IoU and energy, float64 (q, p), in [0, 1].
    """
    flat = components.reshape(len(components), -1)
    inside = np.stack([flat[:, np.flatnonzero(part)].sum(axis=1, dtype=np.float64) for part in parts], axis=1)
    mass, peak = flat.sum(axis=1, dtype=np.float64)[:, None], flat.max(axis=1).astype(np.float64)[:, None]
    pixels = parts.reshape(len(parts), -1).sum(axis=1)[None, :]
    scaled = inside / peak
    return scaled / (mass / peak + pixels - scaled), inside / mass


def iou_at_levels(component: np.ndarray, part: np.ndarray) -> np.ndarray:
    """IoU of a part with the component above k/20 of its maximum, k = 1..19: float64 (19,)."""
    component = ordinary(component)
    level = np.minimum(component * np.float32(LEVELS / component.max()), LEVELS).astype(np.uint8)
    every = np.bincount(level.ravel(), minlength=LEVELS + 1)[::-1].cumsum()[::-1]
    hit = np.bincount(level[part], minlength=LEVELS + 1)[::-1].cumsum()[::-1]
    found: np.ndarray = (hit / (every + int(part.sum()) - hit))[1:LEVELS]
    return found


def diversity(components: np.ndarray) -> float:
    """1 - mean cosine between different maps (q, height, width); NaN for fewer than two."""
    count = len(components)
    if count < 2:
        return float("nan")
    flat = components.reshape(count, -1).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    gram = flat @ flat.T
    return float(1 - (gram.sum() - np.trace(gram)) / (count * (count - 1)))


def displaced(components: np.ndarray, seed: int) -> np.ndarray:
    """Each map flipped and cyclically shifted at random: the floor of the comparison."""
    random = np.random.default_rng(seed)
    height, width = components.shape[1:]
    moved = np.empty_like(components)
    for place, component in enumerate(components):
        down, across, upside, mirror = (int(random.integers(n)) for n in (height, width, 2, 2))
        flipped = component[:: -1 if upside else 1, :: -1 if mirror else 1]
        moved[place] = np.roll(flipped, (down, across), axis=(0, 1))
    return moved


@dataclass
class PartAgreement(MapMetric):
    """How components agree with parts, beside the same for displaced components.

    Attributes:
        assign_by: what the assignment makes largest: ``overlap`` (soft IoU) or ``energy``.
        tolerance: of pointing, in pixels of the original image.
        point_radius: radius of the disc that stands for an annotated point, as a share of the
            larger side of the target's largest box.
        seed: of the floor.
    """

    id = "parts"
    version: ClassVar[int] = 2

    assign_by: str = "overlap"
    tolerance: float = 0.0
    point_radius: float = 0.1
    seed: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({"components", "parts"})
    undefined: ClassVar[frozenset[str]] = frozenset({"diversity"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric.assign_by", self.assign_by, ("overlap", "energy"))
        if not 0 <= self.tolerance <= 10_000:
            raise ConfigError(f"metric.tolerance={self.tolerance}: must lie in 0..10000 pixels")
        if not 0 < self.point_radius <= 1:
            raise ConfigError(f"metric.point_radius={self.point_radius}: must lie in (0, 1]")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"metric.seed={self.seed}: must lie in 0..2**63 - 1")

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "parts"
        return (
            *(Column(f"{name}_{kind}", value=kind) for kind in _SCALARS),
            Column(f"{name}_iou"),
            Column(f"{name}_diversity", value="diversity"),
            *(Column(f"{name}_{kind}_floor", "none", value=f"{kind}_floor") for kind in _SCALARS),
            Column(f"{name}_iou_floor", "none"),
            Column(f"{name}_iou_threshold", "none", detail=True),
        )

    def evaluate(self, pair: PairMap) -> Outcome:
        """Return the values of the module's list, ``iou`` float64 (19,), each with its ``*_floor``, and counts.

        The counts are ``n_components`` (of positive mass; others take no part), ``n_parts`` (visible) and
        ``n_couples``. Skipped: ``no_parts``, ``no_visible_part``, ``no_components`` (the method has none). Failed:
        ``bad_part_mask``; ``non_finite_components`` and ``zero_components``, with 0 everywhere, floors
        included: nothing hits nothing, displaced or not.
        """
        if not pair.target.parts:
            return Skip(Reason.NO_PARTS)
        if pair.components is None or not len(pair.components):
            return Skip(Reason.NO_COMPONENTS)
        try:
            parts = self.part_masks(pair)
        except ValueError as error:
            return Fail(Failure(Reason.BAD_PART_MASK, str(error)))
        if not len(parts):
            return Skip(Reason.NO_VISIBLE_PART)
        if not np.isfinite(pair.components).all():
            return Fail(Reason.NON_FINITE_COMPONENTS, self._missed(len(parts)))
        original = np.stack([pair.lifted(component, pair.component_mode) for component in pair.components])
        components = original[original.reshape(len(original), -1).max(axis=1) > 0]
        if not len(components):
            return Fail(Reason.ZERO_COMPONENTS, self._missed(len(parts)))
        identity = np.array([pair.target.class_id, pair.width, pair.height, self.seed], dtype=np.int64).tobytes()
        seed = zlib.crc32(identity + np.ascontiguousarray(pair.target.boxes).tobytes())
        floor = self._agreement(displaced(components, seed), parts)
        return {
            **self._agreement(components, parts),
            **{f"{key}_floor": value for key, value in floor.items()},
            "diversity": diversity(components),
            "n_components": len(components),
            "n_parts": len(parts),
            "n_couples": min(len(components), len(parts)),
        }

    def missed(self, values: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return zeros where the map failed, whatever the components were."""
        return self._missed(int(np.asarray(values["n_parts"])))

    def _missed(self, parts: int) -> dict[str, Value]:
        keys = (*_SCALARS, "diversity", *(f"{kind}_floor" for kind in _SCALARS))
        nothing = np.zeros(LEVELS - 1)
        return {**dict.fromkeys(keys, 0.0), "iou": nothing, "iou_floor": nothing, "n_components": 0, "n_parts": parts,
                "n_couples": 0}  # fmt: skip

    def part_masks(self, pair: PairMap) -> np.ndarray:
        """Visible parts, bool (p, height, width) of the original image; empty ones left out.

        Raises:
            ValueError: for a mask that cannot be decoded or is not of the image's size.
        """
        sides = pair.target.boxes[:, 2:] - pair.target.boxes[:, :2]
        reach = self.point_radius * float(sides.max() if len(sides) else max(pair.height, pair.width))
        rows, columns = np.arange(pair.height)[:, None], np.arange(pair.width)[None, :]
        masks = []
        for part in pair.target.parts:
            if part.mask is not None:
                masks.append(decoded(part.mask, pair.height, pair.width))
            elif part.point is not None:
                x, y = part.point
                # The pixel i covers [i, i + 1): its centre is at i + 0.5.
                masks.append((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= reach**2)
        seen = [mask for mask in masks if mask.any()]
        return np.stack(seen) if seen else np.zeros((0, pair.height, pair.width), dtype=bool)

    def _agreement(self, components: np.ndarray, parts: np.ndarray) -> dict[str, Value]:
        overlap, energy = overlaps(components, parts)
        couples = linear_sum_assignment(overlap if self.assign_by == "overlap" else energy, maximize=True)
        width = components.shape[2]
        peaks = [divmod(int(component.argmax()), width)[::-1] for component in components]
        hits = np.array([[hits_region(peak, part, self.tolerance) for part in parts] for peak in peaks])
        return {
            "pointing": float(hits[couples].mean()),
            "energy": float(energy[couples].mean()),
            "covered": float(hits.any(axis=0).mean()),
            "iou": np.mean([iou_at_levels(components[c], parts[p]) for c, p in zip(*couples, strict=True)], axis=0),
        }

    def image_sums(self, records: pd.DataFrame) -> ImageSums:
        """Sums of the values, and of the IoU at each level."""
        plain = mean_sums(records, {column.name: column.value for column in self.columns if column.value})
        name, levels = self.name or "parts", LEVELS - 1
        ious = np.concatenate(
            [stacked(records, "iou"), stacked(records, "iou_floor"), np.ones((len(records), 1))], axis=1
        )
        curves = sum_by_image(records, ious, lambda totals: {})

        width = plain.sums.shape[1]
        everything = np.concatenate([plain.sums, curves.sums], axis=1)

        def shares(totals: Totals) -> tuple[np.ndarray, np.ndarray]:
            rest = totals[:, width:]
            return ratio(rest[:, :levels], rest[:, -1:]), ratio(rest[:, levels:-1], rest[:, -1:])

        def columns(totals: Totals, places: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
            values = plain.combine(totals[:, :width])
            rows = np.arange(len(totals))
            for kind, share, place in zip(("iou", "iou_floor"), shares(totals), places, strict=True):
                values[f"{name}_{kind}"] = share[rows, place]
            values[f"{name}_iou_threshold"] = (places[0] + 1) / LEVELS
            return {column.name: values[column.name] for column in self.columns}

        def combine(totals: Totals) -> dict[str, np.ndarray]:
            return columns(totals, [share.argmax(axis=1) for share in shares(totals)])

        best = [share.argmax(axis=1) for share in shares(everything.sum(axis=0, keepdims=True))]

        def held(totals: Totals) -> dict[str, np.ndarray]:
            return columns(totals, [place.repeat(len(totals)) for place in best])

        kinds = {**plain.kinds, f"{name}_iou": "threshold", f"{name}_iou_floor": "threshold"}
        return ImageSums(plain.image_ids, everything, combine, kinds, held, plain.counted)
