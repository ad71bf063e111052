"""How sure a number is: intervals by bootstrap over images, and paired comparisons.

The unit is the image, since the pairs of one image are not independent. Every aggregate (a class
mean, the best threshold of the data set) is recomputed for every resample: a metric gives sums over
images (:class:`decomcam_bench.metrics.aggregation.ImageSums`), a resample is a vector of image weights, and
all of them together are one matrix product, cut into blocks of bounded memory. Results depend on
the seed alone, not on the machine's memory or cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse, stats
from threadpoolctl import threadpool_limits

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.metrics.aggregation import Combine, ImageSums
from decomcam_bench.metrics.base import Metric

RESAMPLES = 10_000
#: Permutations of a table where no number is asked for: at least the first, then for every test as many that
#: Holm's correction leaves a smallest p of 0.01, at most the last.
_PERMUTATIONS_LOW, _PERMUTATIONS_A_TEST, _PERMUTATIONS_HIGH = 10_000, 100, 200_000
LEVEL = 0.95
#: Weights of a block, images x resamples: 32 MiB in float32.
_BLOCK_WEIGHTS = 8_000_000
_CACHED_DRAWS = 50_000
#: Whole numbers below this are exact in float32.
_EXACT_FLOAT32 = 2.0**24
#: Rounding of a number of the data set, as a share of its magnitude, by the precision of its sums.
_ROUNDING: dict[type, float] = {np.float64: 1e-12, np.float32: 1e-6}
#: Columns of sums from which on the matrix product dominates.
_WIDE = 64

Sums: TypeAlias = np.ndarray | sparse.csr_matrix


@dataclass(frozen=True)
class Interval:
    """An estimate and where its true value lies with probability ``level``."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A method against the reference method on the same pairs.

    Attributes:
        difference: method - reference.
        low, high: bootstrap interval of the difference.
        p: two-sided, by permutation; NaN where there is nothing to compare.
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


#: From a generator and a block float32 or float64 (resamples, images) to be filled with weights.
Draw = Callable[[np.random.Generator, np.ndarray], None]


def _multinomial(random: np.random.Generator, block: np.ndarray) -> None:
    """How often each image is drawn in as many draws with replacement as there are images."""
    rows, images = block.shape
    # Few enough draws at a time to stay in the cache, which is twice as fast as a whole block.
    slab = max(1, _CACHED_DRAWS // images)
    for start in range(0, rows, slab):
        part = block[start : start + slab]
        drawn = random.integers(0, images, size=part.shape, dtype=np.uint32)
        drawn += np.arange(len(part), dtype=np.uint32)[:, None] * np.uint32(images)
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)


def _coins(random: np.random.Generator, block: np.ndarray) -> None:
    """0 or 1 with equal probability."""
    raw = np.frombuffer(random.bytes(-(-block.size // 8)), dtype=np.uint8)
    block[:] = np.unpackbits(raw, count=block.size).reshape(block.shape)


def _is_exact(sums: Sums) -> bool:
    """Whether float32 holds every weighted sum without rounding."""
    data = sums.data if isinstance(sums, sparse.csr_matrix) else sums
    whole = bool(np.equal(np.mod(data, 1), 0).all())
    # A resample may draw the heaviest image every time.
    heaviest = float(np.abs(data).max()) * sums.shape[0] if data.size else 0.0
    return whole and heaviest < _EXACT_FLOAT32


def _precision(sums: Sums) -> type:
    """float32 where it is exact, or where rounding (1e-6 of a total) is far below the noise of
    resampling and the product is a large one; float64 otherwise."""
    wide = isinstance(sums, np.ndarray) and sums.shape[1] > _WIDE
    return np.float32 if wide or _is_exact(sums) else np.float64


def _weighted_totals(sums: Sums, draw: Draw, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks float64 (r, k) of weighted sums over images, ``resamples`` rows in all."""
    images = sums.shape[0]
    dtype = _precision(sums)
    transposed = sums.T.tocsr().astype(dtype) if isinstance(sums, sparse.csr_matrix) else None
    values: Sums = sums.astype(dtype)
    rows = max(1, min(resamples, _BLOCK_WEIGHTS // max(1, images)))
    starts = range(0, resamples, rows)
    for start, child in zip(starts, np.random.SeedSequence(seed).spawn(len(starts)), strict=True):
        random = np.random.Generator(np.random.SFC64(child))
        weights = np.empty((min(rows, resamples - start), images), dtype=dtype)
        draw(random, weights)
        totals = weights @ values if transposed is None else np.ascontiguousarray((transposed @ weights.T).T)
        yield totals.astype(np.float64)


def _over_blocks(blocks: Iterator[np.ndarray], combine: Combine) -> dict[str, np.ndarray]:
    # Threads of the matrix product that wait for a busy core cost more than they bring: the
    # product is no slower than the drawing, and ten times slower on a shared machine with threads.
    with threadpool_limits(1, user_api="blas"):
        parts = [combine(block) for block in blocks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_resampling(resamples: int, seed: int = 0, level: float = LEVEL) -> None:
    """Refuses what cannot be resampled.

    Raises:
        ConfigError: naming the value.
    """
    if seed < 0:
        raise ConfigError(f"seed={seed}: must be at least 0")
    if resamples < 1:
        raise ConfigError(f"resamples={resamples}: must be at least 1")
    if not 0 < level < 1:
        raise ConfigError(f"level={level}: must lie between 0 and 1")


def _interval(estimate: float, resampled: np.ndarray, images: int, level: float) -> Interval:
    """Expanded percentile interval (Hesterberg 2015, section 4): the percentiles of the bootstrap are
    moved out by sqrt(n / (n - 1)) and Student's t, since resampling n images varies too little.
    They are also moved by the bootstrap's bias, 0 for a mean: the best of many thresholds is higher
    in every resample, and without this the interval may lie wholly above the estimate. The estimate
    itself is the best of many, too high by about as much, so the end on that side is moved once more;
    the interval still holds the estimate.

    Measured coverage of 95 % intervals of MaxBoxAcc with 100 thresholds: 0.91 to 0.93, 0.94 and 0.96 at 30, 100 and
    300 images where its true value is 0.37; 0.84 and 0.92 at 30 and 100 images where it is 0.91. Near 0 or 1 a
    small sample may hold no miss (or no hit) at all, and then no resample does: the interval is a point.

    Resamples in which the number is undefined (no pair of a subset was drawn) are left out.
    """
    known = resampled[~np.isnan(resampled)]
    if images < 2 or not len(known) or np.isnan(estimate):
        return Interval(estimate, float("nan"), float("nan"))
    tail = stats.norm.cdf(np.sqrt(images / (images - 1)) * stats.t.ppf((1 - level) / 2, images - 1))
    bias = float(known.mean()) - estimate
    low, high = np.quantile(known, [tail, 1 - tail]) - bias
    return Interval(estimate, float(low) - max(bias, 0.0), float(high) - min(bias, 0.0))


def bootstrap(sums: ImageSums, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL) -> dict[str, Interval]:
    """Intervals of a metric's columns by resampling images.

    Args:
        sums: of the metric, from :meth:`Metric.image_sums`.
        resamples: number of resamples.
        seed: equal seeds give equal intervals.
        level: probability that the interval is to hold.

    Returns:
        One interval a column; its ends are NaN for fewer than two images.

    Raises:
        ConfigError: for a number of resamples below 1, a negative seed, or a level outside (0, 1).
    """
    check_resampling(resamples, seed, level)
    estimates = sums.aggregate()
    images = len(sums.image_ids)
    if images < 2:
        return {name: _interval(value, np.zeros(0), images, level) for name, value in estimates.items()}
    resampled = _over_blocks(_weighted_totals(sums.sums, _multinomial, resamples, seed), sums.combine)
    return {name: _interval(estimates[name], values, images, level) for name, values in resampled.items()}


def _common(records: pd.DataFrame, reference: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Both sets of records, cut to the pairs that both have, in one order; pairs left out."""
    keys = ["image_id", "class_id"]
    left, right = (frame.set_index(keys).sort_index() for frame in (records, reference))
    shared = left.index.intersection(right.index).sort_values()
    left_out = len(left) + len(right) - 2 * len(shared)
    return left.loc[shared].reset_index(), right.loc[shared].reset_index(), left_out


def compare(
    metric: Metric,
    records: pd.DataFrame,
    reference: pd.DataFrame,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    permutations: int | None = None,
) -> dict[str, Comparison]:
    """Compares two methods on the pairs of which both have a value.

    The interval resamples images, the same for both methods. The p-value swaps the two methods
    image by image at random and recomputes the aggregate of both: ``(1 + number of permutations
    whose difference is at least as large) / (1 + permutations)``, two-sided.

    Args:
        metric: whose aggregate is compared.
        records: of the method: ``image_id``, ``class_id`` and the metric's values, one row a pair.
        reference: of the reference method.
        permutations: of the p-value; as many as ``resamples`` by default.

    Returns:
        One comparison a column.
    """
    check_resampling(resamples, seed, level)
    permutations = resamples if permutations is None else permutations
    ours, theirs, left_out = _common(records, reference)
    if not len(ours):
        nan = float("nan")
        none = Comparison(nan, nan, nan, nan, images=0, pairs=0, left_out=left_out)
        return {column.name: none for column in metric.columns}
    ours, theirs, shared = _blanked(metric, ours, theirs)
    first, second = metric.image_sums(ours), metric.image_sums(theirs)
    value_of = {column.name: column.value for column in metric.columns}
    images, width = len(first.image_ids), first.sums.shape[1]
    base = second.aggregate()
    own = first.aggregate()
    estimates = {name: value - base[name] for name, value in own.items()}

    def difference(totals: np.ndarray) -> dict[str, np.ndarray]:
        a, b = first.combine(totals[:, :width]), second.combine(totals[:, width:])
        return {name: a[name] - b[name] for name in a}

    both = _stack(first.sums, second.sums)
    gap = second.sums - first.sums
    total = [np.asarray(part.sums.sum(axis=0)).reshape(1, -1) for part in (first, second)]

    def swapped(totals: np.ndarray) -> dict[str, np.ndarray]:
        return difference(np.concatenate([total[0] + totals, total[1] - totals], axis=1))

    resampled = _over_blocks(_weighted_totals(both, _multinomial, resamples, seed), difference)
    permuted = _over_blocks(_weighted_totals(gap, _coins, permutations, seed), swapped)
    rounding = _ROUNDING[np.float64 if _is_exact(gap) else _precision(gap)]
    comparisons = {}
    for name, estimate in estimates.items():
        interval = _interval(estimate, resampled[name], images, level)
        p = _p_value(estimate, permuted[name], rounding * max(abs(own[name]), abs(base[name])))
        pairs, lost = shared.get(value_of[name], (len(ours), 0))
        comparisons[name] = Comparison(estimate, interval.low, interval.high, p, images, pairs, left_out + lost)
    return comparisons


def _blanked(
    metric: Metric, ours: pd.DataFrame, theirs: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, tuple[int, int]]]:
    """Records of the same pairs, in which a value that one side lacks is lacking on both.

    Returns:
        Both, and for each value that may be lacking: pairs of which both have it, and of which one has it.
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


def _stack(a: Sums, b: Sums) -> Sums:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.concatenate([a, b], axis=1)
    return sparse.hstack([a, b], format="csr")


def _p_value(estimate: float, permuted: np.ndarray, rounding: float) -> float:
    """Two-sided p of a difference among its permutations; NaN where it is undefined.

    Args:
        rounding: differences that are equal in exact arithmetic may be so much apart, and count as equal.
    """
    if np.isnan(estimate):
        return float("nan")
    sizes = np.abs(permuted[~np.isnan(permuted)])
    # Where positive and negative values cancel, the differences are larger than what they are the difference of.
    slack = max(rounding, _ROUNDING[np.float64] * float(sizes.max(initial=0.0)))
    return (1 + int((sizes >= abs(estimate) - slack).sum())) / (1 + len(sizes))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's (1979) step-down correction of the p-values of one table.

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
    """Permutations of each test that let a table of so many differences be significant after Holm's correction."""
    return min(max(_PERMUTATIONS_LOW, _PERMUTATIONS_A_TEST * tests), _PERMUTATIONS_HIGH)


def compare_table(
    metric: Metric,
    records: Mapping[str, pd.DataFrame],
    reference: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Compares every method of a table with one of them, Holm's correction over the table.

    Args:
        metric: whose columns are compared; those that have no better and worse are left out, and
            so are all of a metric that is not ``tested``.
        records: of each method by its name.
        reference: the name of the method to compare with.

    Returns:
        One row a method and column: ``method``, ``column``, ``difference``, ``low``, ``high``,
        ``p``, ``p_holm``, ``images``, ``pairs``, ``left_out``.

    Raises:
        ConfigError: when the reference is not among the methods.
    """
    if reference not in records:
        raise ConfigError(f"reference method '{reference}' is not in the table; valid: {', '.join(records)}")
    judged = [column.name for column in metric.columns if metric.tested and column.direction != "none"]
    rows = []
    for method, own in records.items():
        if method == reference:
            continue
        made = compare(metric, own, records[reference], resamples, seed, level)
        rows += [{"method": method, "column": column, **vars(made[column])} for column in judged]
    names = ["method", "column", "difference", "low", "high", "p", "images", "pairs", "left_out"]
    table = pd.DataFrame(rows, columns=names)
    table.insert(6, "p_holm", holm(table["p"].to_list()))
    return table
