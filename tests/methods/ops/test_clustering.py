"""k-means against scikit-learn's, from the same centres."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decomcam_bench.methods.ops.clustering import cluster, farthest_first

sklearn_cluster = pytest.importorskip("sklearn.cluster")


def points(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_farthest_first(data: np.ndarray, count: int) -> list[int]:
    taken = [0]
    while len(taken) < count:
        gaps = [min(float(((p - data[t]) ** 2).sum()) for t in taken) for p in data]
        taken.append(int(np.argmax(gaps)))
    return taken


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_equals_scikit_learn(count: int) -> None:
    data = points()
    every = torch.ones(3, 40, dtype=torch.bool)
    starts, labels = farthest_first(data, count, every), cluster(data, count, 300, every)
    for b in range(3):
        assert starts[b].tolist() == plain_farthest_first(data[b].numpy(), count)
        theirs = sklearn_cluster.KMeans(
            count, init=data[b, starts[b]].numpy(), n_init=1, max_iter=300, tol=0, algorithm="lloyd"
        ).fit(data[b].numpy())
        assert labels[b].tolist() == theirs.labels_.tolist()


def test_a_set_does_not_depend_on_its_batch() -> None:
    data = points(1)
    every = torch.ones(3, 40, dtype=torch.bool)
    assert torch.equal(cluster(data, 5, 100, every)[1:2], cluster(data[1:2], 5, 100, every[1:2]))


def test_points_that_do_not_count_change_nothing() -> None:
    data = points(2)
    valid = torch.ones(3, 40, dtype=torch.bool)
    valid[:, ::3] = False
    got = cluster(data, 4, 100, valid)[valid].view(3, -1)
    kept = data[valid].view(3, -1, 6)
    assert torch.equal(got, cluster(kept, 4, 100, torch.ones(kept.shape[:2], dtype=torch.bool)))


def test_equal_points() -> None:
    labels = cluster(torch.ones(2, 5, 3, dtype=torch.float64), 3, 10, torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(labels, torch.zeros(2, 5, dtype=torch.int64))
