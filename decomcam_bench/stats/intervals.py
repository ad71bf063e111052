"""How sure a number is: intervals over images that hold as often as they say.

What is done depends on how a column follows from sums over images (:attr:`ImageSums.kinds`):

* ``linear`` and ``smooth`` columns (means over pairs, means over classes, an area under a curve): the variance is
  that of the jackknife over images, which also sees what a class with a single image adds, and which the bootstrap
  halves: it never draws 37 % of the classes. Columns of a bounded range get Wilson's ends with the effective number
  of images ``range * (1 - range) / variance`` (Korn and Graubard 1998), so that an interval near 0 or 1 has a
  width and stays inside; others get Student's.
* ``threshold`` columns (MaxBoxAcc: the best of many thresholds, chosen over the data set): the same at the chosen
  thresholds; the lower end is moved down by the bootstrap's estimate of the optimism of the choice.
* ``rough`` columns (all else): expanded percentiles of the bootstrap (Hesterberg 2015, section 4).

``docs/statistics.md`` holds the simulated coverage of each.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import sparse, stats

from decomcam_bench.metrics.aggregation import Combine, ImageSums
from decomcam_bench.stats.resampling import LEVEL, RESAMPLES, Sums, check_resampling, multinomial, resampled

#: Groups of the jackknife; with fewer images each is a group.
_GROUPS = 2000
#: Numbers of a block of leave-one-out totals.
_BLOCK = 4_000_000
#: Variances, as shares of the squared range, that are rounding.
_NOTHING = 1e-24

Bounds = Mapping[str, tuple[float | None, float | None]]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """Hold an estimate, and the ends between which its true value lies with a given probability.

    Attributes:
        estimate: the number.
        low: NaN where nothing is known.
        high: NaN where nothing is known.
    """

    estimate: float
    low: float
    high: float


def jackknife(sums: Sums, combine: Combine, seed: int = 0) -> dict[str, float]:
    """Return the variance of each column by leaving out one image (or one of 2,000 random groups) at a time.

    NaN for a column that some group alone decides.
    """
    images = sums.shape[0]
    if images > _GROUPS:
        group = np.random.default_rng(seed).permutation(images) % _GROUPS
        places = (np.ones(images), (group, np.arange(images)))
        grouped = sparse.csr_matrix(places, shape=(_GROUPS, images)) @ sums
        sums = sparse.csr_matrix(grouped) if sparse.issparse(grouped) else np.asarray(grouped)
    total = np.asarray(sums.sum(axis=0), dtype=np.float64).reshape(1, -1)
    groups, step = sums.shape[0], max(1, _BLOCK // max(1, sums.shape[1]))
    blocks = []
    for start in range(0, groups, step):
        part = sums[start : start + step]
        dense = part.toarray() if isinstance(part, sparse.csr_matrix) else np.asarray(part)
        blocks.append(combine(total - dense))
    found = {}
    for name in blocks[0]:
        values = np.concatenate([block[name] for block in blocks])
        found[name] = float((groups - 1) * values.var())
    return found


def wilson(share: float, variance: float, images: int, level: float) -> tuple[float, float]:
    """Return Wilson's ends of a share in [0, 1].

    Args:
        share: the estimate.
        variance: of the estimate; the number of images of a plain proportion with this variance takes the place of
            Wilson's n. Where it is 0 at an end of the range, every image agrees and ``images`` is that number.
        images: that the estimate follows from, at least 2.
        level: probability that the interval is to hold.
    """
    quantile = float(stats.t.ppf((1 + level) / 2, images - 1))
    spread = share * (1 - share)
    if variance <= _NOTHING:
        if spread > _NOTHING:
            return share, share
        effective = float(images)
    else:
        # Of few skewed values the variance is low where the mean is: two images of 0 or 1 are added to it.
        added = (images * share + 1) / (images + 2)
        variance = (images * variance + 2 * added * (1 - added) / images) / (images + 2)
        effective = spread / variance
    square = quantile**2 / effective
    middle = (share + square / 2) / (1 + square)
    half = quantile / (1 + square) * np.sqrt(spread / effective + square / (4 * effective))
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))


def student(estimate: float, variance: float, images: int, level: float) -> tuple[float, float]:
    """Return the ends of Student's interval."""
    half = float(stats.t.ppf((1 + level) / 2, images - 1)) * float(np.sqrt(variance))
    return estimate - half, estimate + half


def _ends(
    estimate: float, variance: float, images: int, level: float, bounds: tuple[float | None, float | None]
) -> tuple[float, float]:
    low, high = bounds
    if images < 2 or np.isnan(estimate) or np.isnan(variance):
        return float("nan"), float("nan")
    if low is None or high is None or not low < high:
        return student(estimate, variance, images, level)
    width = high - low
    share = min(max((estimate - low) / width, 0.0), 1.0)
    ends = wilson(share, variance / width**2, images, level)
    # Where nothing varies the ends are the estimate itself, without rounding.
    return (estimate, estimate) if ends == (share, share) else (low + width * ends[0], low + width * ends[1])


def percentile(estimate: float, values: np.ndarray, images: int, level: float) -> Interval:
    """Return the expanded percentile interval of a bootstrap.

    The percentiles are moved out by sqrt(n / (n - 1)) and Student's t, since resampling n images varies too little,
    and by the bootstrap's bias. Resamples in which the number is undefined are left out.
    """
    known = values[~np.isnan(values)]
    if images < 2 or not len(known) or np.isnan(estimate):
        return Interval(estimate, float("nan"), float("nan"))
    tail = stats.norm.cdf(np.sqrt(images / (images - 1)) * stats.t.ppf((1 - level) / 2, images - 1))
    bias = float(known.mean()) - estimate
    low, high = np.quantile(known, [tail, 1 - tail]) - bias
    return Interval(estimate, min(float(low) - max(bias, 0.0), estimate), max(float(high) - min(bias, 0.0), estimate))


def needs_resamples(sums: ImageSums) -> bool:
    """Return whether some column cannot do without resamples."""
    return any(sums.kind(name) in ("threshold", "rough") for name in sums.aggregate())


def intervals(
    sums: ImageSums,
    bounds: Bounds | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Return the interval of each column of a metric.

    Args:
        sums: of the metric, from :meth:`Metric.image_sums`.
        bounds: lowest and highest possible value of a column, where there are any.
        resamples: of columns that need them.
        seed: equal seeds give equal intervals.
        level: probability that the interval is to hold.

    Returns:
        One interval per column; its ends are NaN for fewer than two images.

    Raises:
        ConfigError: for a number of resamples below 1, a negative seed, or a level outside (0, 1).
    """
    return intervals_of_many({0: (sums, bounds or {})}, resamples, seed, level)[0]


def intervals_of_many(
    several: Mapping[K, tuple[ImageSums, Bounds]], resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> dict[K, dict[str, Interval]]:
    """As :func:`intervals` for each; images are weighed once for all that have the same."""
    check_resampling(resamples, seed, level)
    together: dict[bytes, list[K]] = {}
    for key, (sums, _) in several.items():
        if len(sums.image_ids) > 1 and needs_resamples(sums):
            together.setdefault("\0".join(map(str, sums.image_ids)).encode("utf-8", "replace"), []).append(key)
    drawn: dict[K, dict[str, np.ndarray]] = {}
    for keys in together.values():
        parts = [(several[key][0].sums, several[key][0].combine) for key in keys]
        drawn.update(zip(keys, resampled(parts, multinomial, resamples, seed), strict=True))
    return {key: _intervals(sums, bounds, drawn.get(key, {}), seed, level) for key, (sums, bounds) in several.items()}


def _intervals(
    sums: ImageSums, bounds: Bounds, drawn: Mapping[str, np.ndarray], seed: int, level: float
) -> dict[str, Interval]:
    estimates, images = sums.aggregate(), len(sums.image_ids)
    variances = jackknife(sums.sums, sums.held or sums.combine, seed) if images > 1 else {}
    made = {}
    for name, estimate in estimates.items():
        kind, counted = sums.kind(name), sums.counted.get(name, images)
        if kind == "rough":
            made[name] = percentile(estimate, drawn.get(name, np.zeros(0)), images, level)
            continue
        limits = bounds.get(name, (None, None))
        low, high = _ends(estimate, variances.get(name, float("nan")), counted, level, limits)
        if kind == "threshold" and images > 1:
            low -= max(float(np.nanmean(drawn[name])) - estimate, 0.0)
            low = low if limits[0] is None else max(low, limits[0])
        made[name] = Interval(estimate, low, high)
    return made
