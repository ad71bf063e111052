"""Compare two methods on the pairs that both have: difference, interval, p-value, and Holm's correction.

The p-value of a ``linear`` column (a mean over pairs or classes) swaps the two methods image by image: exact where
the methods are exchangeable. Swapping mixes the maps of two methods, so that where a number is not linear in the
images the mixture is worse than either: of two methods whose best thresholds differ, a mixture has no good one, and
the swapped differences are too small. ``smooth`` and ``threshold`` columns are therefore tested by Student's t with
the variance of the jackknife or of the bootstrap, as their interval is made, so that p is below 0.05 exactly where
the interval leaves 0 out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse, stats

from decomcam_bench.metrics.aggregation import ImageSums, Totals
from decomcam_bench.metrics.base import Metric
from decomcam_bench.stats.intervals import jackknife, percentile, student
from decomcam_bench.stats.resampling import (
    LEVEL,
    RESAMPLES,
    Sums,
    check_resampling,
    coins,
    multinomial,
    resampled,
    rounding_of,
)

#: Permutations of a table where no number is asked for: at least the first, then for every test as many that
#: Holm's correction leaves a smallest p of 0.01, at most the last.
_PERMUTATIONS_LOW, _PERMUTATIONS_A_TEST, _PERMUTATIONS_HIGH = 10_000, 100, 200_000
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Comparison:
    """Compare a method with the reference method on the same pairs.

    Attributes:
        difference: method - reference.
        low: lower end of its interval.
        high: upper end of its interval.
        p: two-sided; NaN where there is nothing to compare.
        images: of which both methods have a record.
        pairs: of which both methods have a value.
        left_out: pairs of which only one of the two has a value.
    """

    difference: float
    low: float
    high: float
    p: float
    images: int
    pairs: int
    left_out: int


@dataclass(frozen=True)
class _Both:
    """Hold the sums of two methods over the same images."""

    first: ImageSums
    second: ImageSums

    @property
    def images(self) -> int:
        return len(self.first.image_ids)

    @property
    def stacked(self) -> Sums:
        a, b = self.first.sums, self.second.sums
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return np.concatenate([a, b], axis=1)
        return sparse.hstack([a, b], format="csr")

    @property
    def gap(self) -> Sums:
        return self.second.sums - self.first.sums

    def difference(self, totals: Totals) -> dict[str, np.ndarray]:
        """Return the differences of each column, from stacked totals."""
        width = self.first.sums.shape[1]
        a, b = self.first.combine(totals[:, :width]), self.second.combine(totals[:, width:])
        return {name: a[name] - b[name] for name in a}

    def swapped(self, totals: Totals) -> dict[str, np.ndarray]:
        """Return the differences after swapping the images that make up these totals of the gap."""
        own = [np.asarray(part.sums.sum(axis=0)).reshape(1, -1) for part in (self.first, self.second)]
        return self.difference(np.concatenate([own[0] + totals, own[1] - totals], axis=1))


def compare(
    metric: Metric,
    records: pd.DataFrame,
    reference: pd.DataFrame,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    permutations: int | None = None,
) -> dict[str, Comparison]:
    """Compare two methods on the pairs of which both have a value.

    Args:
        metric: whose aggregate is compared.
        records: of the method: ``image_id``, ``class_id`` and the metric's values, one row per pair.
        reference: of the reference method.
        resamples: of intervals that need them.
        seed: of resamples and permutations.
        level: probability that an interval is to hold.
        permutations: of the p-value; as many as ``resamples`` by default.

    Returns:
        One comparison per column.
    """
    check_resampling(resamples, seed, level)
    ours, theirs, left_out = _common(records, reference)
    if not len(ours):
        nan = float("nan")
        none = Comparison(nan, nan, nan, nan, images=0, pairs=0, left_out=left_out)
        return {column.name: none for column in metric.columns}
    ours, theirs, shared = _blanked(metric, ours, theirs)
    both = _Both(metric.image_sums(ours), metric.image_sums(theirs))
    found = _tests(both, resamples, seed, level, resamples if permutations is None else permutations)
    value_of = {column.name: column.value for column in metric.columns}
    made = {}
    for name, (difference, low, high, p) in found.items():
        pairs, lost = shared.get(value_of[name], (len(ours), 0))
        made[name] = Comparison(difference, low, high, p, both.images, pairs, left_out + lost)
    return made


def _tests(
    both: _Both, resamples: int, seed: int, level: float, permutations: int
) -> dict[str, tuple[float, float, float, float]]:
    """Return for each column the difference, the ends of its interval, and p."""
    own, base = both.first.aggregate(), both.second.aggregate()
    kinds = {name: both.first.kind(name) for name in own}
    nan = float("nan")
    variances, drawn, swapped = dict.fromkeys(own, nan), {}, {}
    if both.images > 1:
        variances = jackknife(both.stacked, both.difference, seed)
        if {"threshold", "rough"} & set(kinds.values()):
            (drawn,) = resampled([(both.stacked, both.difference)], multinomial, resamples, seed)
    if {"linear", "rough"} & set(kinds.values()):
        (swapped,) = resampled([(both.gap, both.swapped)], coins, permutations, seed)
    rounding = rounding_of(both.gap)
    found = {}
    for name, kind in kinds.items():
        estimate, images = own[name] - base[name], both.images
        if kind == "threshold" and images > 1:
            variances[name] = float(np.nanvar(drawn[name])) * images / (images - 1)
        if kind == "rough":
            ends = percentile(estimate, drawn.get(name, np.zeros(0)), images, level)
            low, high = ends.low, ends.high
        else:
            low, high = student(estimate, variances[name], images, level) if images > 1 else (nan, nan)
        if kind in ("linear", "rough"):
            p = p_of_permutations(estimate, swapped[name], rounding * max(abs(own[name]), abs(base[name])))
        else:
            p = p_of_variance(estimate, variances[name], images)
        found[name] = (estimate, low, high, p)
    return found


def _common(records: pd.DataFrame, reference: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Return both sets of records cut to the pairs that both have, in one order, and how many pairs were left out."""
    keys = ["image_id", "class_id"]
    left, right = (frame.set_index(keys).sort_index() for frame in (records, reference))
    shared = left.index.intersection(right.index).sort_values()
    left_out = len(left) + len(right) - 2 * len(shared)
    return left.loc[shared].reset_index(), right.loc[shared].reset_index(), left_out


def _blanked(
    metric: Metric, ours: pd.DataFrame, theirs: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, tuple[int, int]]]:
    """Empty on both sides a value that one side lacks.

    Returns:
        Both, and for each value that may be lacking the pairs of which both have it, and of which one has it.
    """
    shared = {}
    for value in sorted(metric.undefined):
        known = [
            frame[value].notna().to_numpy() if value in frame else np.zeros(len(frame), dtype=bool)
            for frame in (ours, theirs)
        ]
        both = known[0] & known[1]
        shared[value] = int(both.sum()), int((known[0] ^ known[1]).sum())
        ours, theirs = (
            frame.assign(**{value: frame[value].where(both)}) if value in frame else frame for frame in (ours, theirs)
        )
    return ours, theirs, shared


def p_of_permutations(estimate: float, permuted: np.ndarray, rounding: float) -> float:
    """Return the two-sided p of a difference among its permutations; NaN where it is undefined.

    Args:
        estimate: the difference.
        permuted: (n,), the same after random swaps.
        rounding: differences that are equal in exact arithmetic may be so far apart, and count as equal.
    """
    if np.isnan(estimate):
        return float("nan")
    sizes = np.abs(permuted[~np.isnan(permuted)])
    # Where positive and negative values cancel, the differences are larger than what they are the difference of.
    slack = max(rounding, _ROUNDING * float(sizes.max(initial=0.0)))
    return (1 + int((sizes >= abs(estimate) - slack).sum())) / (1 + len(sizes))


def p_of_variance(estimate: float, variance: float, images: int) -> float:
    """Return the two-sided p of a difference by Student's t, at least the smallest that so many swaps can give."""
    if images < 2 or np.isnan(estimate) or np.isnan(variance):
        return float("nan")
    if variance <= 0:
        return 1.0 if estimate == 0 else smallest_p(images)
    return max(float(2 * stats.t.sf(abs(estimate) / np.sqrt(variance), images - 1)), smallest_p(images))


def smallest_p(images: int) -> float:
    """Return the smallest two-sided p that any test by swaps of so many images can give."""
    return min(1.0, 2.0 ** (1 - images))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return Holm's (1979) step-down correction of the p-values of one table.

    Args:
        p_values: NaN stands for a comparison that could not be made; it is not counted.

    Returns:
        Adjusted p-values in the same order, at most 1; NaN stays NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted


def permutations_for(tests: int) -> int:
    """Return the permutations that let a table of so many differences be significant after Holm's correction."""
    return min(max(_PERMUTATIONS_LOW, _PERMUTATIONS_A_TEST * tests), _PERMUTATIONS_HIGH)
