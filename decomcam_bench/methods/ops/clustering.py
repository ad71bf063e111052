"""k-means, batched, without a random start."""

from __future__ import annotations

import torch
from torch import Tensor


def farthest_first(points: Tensor, count: int, valid: Tensor) -> Tensor:
    """Indices (B, count) of points: the first, then each time the one farthest from those taken.

    Args:
        points: (B, n, d).
        count: at most n. Of points equally far the first is taken; with fewer different points than
            ``count`` some are taken twice.
        valid: bool (B, n), points that may be taken.
    """
    chosen = [valid.int().argmax(1)]
    nearest = torch.where(valid, torch.inf, -1.0).to(points.dtype)
    for _ in range(count - 1):
        latest = points.gather(1, chosen[-1][:, None, None].expand(-1, 1, points.shape[2]))
        nearest = torch.minimum(nearest, (points - latest).square().sum(2))
        chosen.append(nearest.argmax(1))
    return torch.stack(chosen, 1)


def cluster(points: Tensor, count: int, iterations: int, valid: Tensor) -> Tensor:
    """Lloyd's algorithm from :func:`farthest_first`: int64 labels (B, n).

    Stops early when no label of the batch changes, which changes nothing. A cluster that loses all
    its points keeps its centre.

    Args:
        points: (B, n, d) float64, finite.
        count: number of clusters, at least 1 and at most n.
        valid: bool (B, n), points that count; the labels of the others mean nothing.
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
    """The nearest centre (B, k, d) of each point, the first of equals: (B, n)."""
    distances = centres.square().sum(2)[:, None] - 2 * points @ centres.mT
    return distances.argmin(2)
