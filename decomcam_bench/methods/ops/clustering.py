"""k-means, batched and deterministic: no random start, and ties broken by order rather than by rounding."""

from __future__ import annotations

import torch
from torch import Tensor

#: Squared distances between unit vectors that differ by less are equal. Maps that do not overlap are all at
#: distance 2 from one another; which of them a rounding error puts ahead must not decide.
_TIE = 1e-5


def farthest_first(points: Tensor, count: int, valid: Tensor) -> Tensor:
    """Return indices (B, count) of points: the first, then repeatedly the one farthest from those taken.

    Args:
        points: (B, n, d), of unit length or zero.
        count: at most n. Among equally distant points the first is taken; with fewer distinct points
            than ``count`` some are taken twice.
        valid: bool (B, n), points that may be taken.
    """
    chosen = [valid.int().argmax(1)]
    nearest = torch.where(valid, torch.inf, -1.0).to(points.dtype)
    for _ in range(count - 1):
        latest = points.gather(1, chosen[-1][:, None, None].expand(-1, 1, points.shape[2]))
        nearest = torch.minimum(nearest, (points - latest).square().sum(2))
        chosen.append(_first(nearest >= nearest.amax(1, keepdim=True) - _TIE))
    return torch.stack(chosen, 1)


def cluster(points: Tensor, count: int, iterations: int, valid: Tensor) -> Tensor:
    """Run Lloyd's algorithm from :func:`farthest_first`; return int64 labels (B, n).

    Stops early when no label of the batch changes, which does not affect the result. A cluster that
    loses all its points keeps its centre.

    Args:
        points: (B, n, d) float64, finite, of unit length or zero.
        count: number of clusters, at least 1 and at most n.
        valid: bool (B, n), points that count; the labels of the others are meaningless.
    """
    start = farthest_first(points, count, valid)
    centres = points.gather(1, start[..., None].expand(-1, -1, points.shape[2]))
    labels = _nearest(points, centres)
    for _ in range(iterations):
        members = torch.nn.functional.one_hot(labels, count).to(points.dtype) * valid[..., None]
        sizes = members.sum(1)[..., None]
        centres = torch.where(sizes > 0, members.mT @ points / sizes.clamp_min(1), centres)
        moved = _nearest(points, centres)
        if torch.equal(moved[valid], labels[valid]):
            break
        labels = moved
    return labels


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Return the nearest centre (B, k, d) of each point, the first of equals: (B, n)."""
    distances = centres.square().sum(2)[:, None] - 2 * points @ centres.mT
    return _first(distances <= distances.amin(2, keepdim=True) + _TIE)


def _first(where: Tensor) -> Tensor:
    """Return the first true position along the last axis."""
    return where.int().argmax(-1)
