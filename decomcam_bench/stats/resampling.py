"""Weigh images at random: the resamples and permutations that intervals and tests are made of.

The unit is the image, since the pairs of one image are not independent. A metric gives sums over images
(:class:`decomcam_bench.metrics.aggregation.ImageSums`), a resample is a vector of image weights, and all of them
together are one matrix product, cut into blocks of bounded memory. Results depend on the seed alone, not on the
machine's memory or cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.metrics.aggregation import Combine

RESAMPLES = 10_000
LEVEL = 0.95
#: Weights of a block, images x resamples: 32 MiB in float32.
BLOCK_WEIGHTS = 8_000_000
_CACHED_DRAWS = 50_000
#: Whole numbers below this are exact in float32.
_EXACT_FLOAT32 = 2.0**24
#: Rounding of a number of the data set, as a share of its magnitude, by the precision of its sums.
_ROUNDING: dict[type, float] = {np.float64: 1e-12, np.float32: 1e-6}
#: Columns of sums from which on the matrix product dominates.
_WIDE = 64

Sums: TypeAlias = np.ndarray | sparse.csr_matrix
#: From a generator and a block float32 (resamples, images) to be filled with weights.
Draw = Callable[[np.random.Generator, np.ndarray], None]


def check_resampling(resamples: int, seed: int = 0, level: float = LEVEL) -> None:
    """Refuse what cannot be resampled.

    Raises:
        ConfigError: naming the value.
    """
    if seed < 0:
        raise ConfigError(f"seed={seed}: must be at least 0")
    if resamples < 1:
        raise ConfigError(f"resamples={resamples}: must be at least 1")
    if not 0 < level < 1:
        raise ConfigError(f"level={level}: must lie between 0 and 1")


def multinomial(random: np.random.Generator, block: np.ndarray) -> None:
    """Fill a block with how often each image is drawn in as many draws with replacement as there are images."""
    rows, images = block.shape
    # Few enough draws at a time to stay in the cache, which is twice as fast as a whole block.
    slab = max(1, _CACHED_DRAWS // images)
    for start in range(0, rows, slab):
        part = block[start : start + slab]
        drawn = random.integers(0, images, size=part.shape, dtype=np.uint32)
        drawn += np.arange(len(part), dtype=np.uint32)[:, None] * np.uint32(images)
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)


def coins(random: np.random.Generator, block: np.ndarray) -> None:
    """Fill a block with 0 or 1 with equal probability."""
    raw = np.frombuffer(random.bytes(-(-block.size // 8)), dtype=np.uint8)
    block[:] = np.unpackbits(raw, count=block.size).reshape(block.shape)


def is_exact(sums: Sums) -> bool:
    """Return whether float32 holds every weighted sum without rounding."""
    data = sums.data if isinstance(sums, sparse.csr_matrix) else sums
    whole = bool(np.equal(np.mod(data, 1), 0).all())
    # A resample may draw the heaviest image every time.
    heaviest = float(np.abs(data).max()) * sums.shape[0] if data.size else 0.0
    return whole and heaviest < _EXACT_FLOAT32


def precision(sums: Sums) -> type:
    """Return float32 where it is exact, or where rounding (1e-6 of a total) is far below the noise of resampling
    and the product is a large one; float64 otherwise."""
    wide = isinstance(sums, np.ndarray) and sums.shape[1] > _WIDE
    return np.float32 if wide or is_exact(sums) else np.float64


def rounding_of(sums: Sums) -> float:
    """Return the rounding of totals of these sums, as a share of their magnitude."""
    return _ROUNDING[np.float64 if is_exact(sums) else precision(sums)]


def weight_blocks(images: int, draw: Draw, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks float32 (r, images) of image weights, ``resamples`` rows in all."""
    rows = max(1, min(resamples, BLOCK_WEIGHTS // max(1, images)))
    starts = range(0, resamples, rows)
    for start, child in zip(starts, np.random.SeedSequence(seed).spawn(len(starts)), strict=True):
        weights = np.empty((min(rows, resamples - start), images), dtype=np.float32)
        draw(np.random.Generator(np.random.SFC64(child)), weights)
        yield weights


def weighted(sums: Sums, weights: np.ndarray) -> np.ndarray:
    """Return the totals float64 (r, k) of sums (images, k) under weights (r, images)."""
    dtype = precision(sums)
    if isinstance(sums, sparse.csr_matrix):
        return np.ascontiguousarray((sums.T.tocsr().astype(dtype) @ weights.T.astype(dtype)).T).astype(np.float64)
    return (weights.astype(dtype, copy=False) @ sums.astype(dtype)).astype(np.float64)


def resampled(
    parts: Sequence[tuple[Sums, Combine]], draw: Draw, resamples: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """Return the columns of several sums over the same images under the same random weights.

    Args:
        parts: sums (images, k) and what makes columns of their totals.
        draw: how images are weighed.
        resamples: number of weightings.
        seed: equal seeds give equal weights.

    Returns:
        For each part and column an array (resamples,).
    """
    made: list[list[dict[str, np.ndarray]]] = [[] for _ in parts]
    # Threads of the matrix product that wait for a busy core cost more than they bring: the product is no slower
    # than the drawing, and ten times slower on a shared machine with threads.
    with threadpool_limits(1, user_api="blas"):
        for weights in weight_blocks(parts[0][0].shape[0], draw, resamples, seed):
            for own, (sums, combine) in zip(made, parts, strict=True):
                own.append(combine(weighted(sums, weights)))
    return [{name: np.concatenate([block[name] for block in own]) for name in own[0]} for own in made]
