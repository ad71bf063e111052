"""Non-negative factorisation against scikit-learn's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from decomcam_bench.methods.ops.factorization import factorize, nndsvd

sklearn_decomposition = pytest.importorskip("sklearn.decomposition")


def matrices(seed: int = 0, shape: tuple[int, ...] = (3, 20, 30)) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=g, dtype=torch.float64) + 0.3).relu()


def error(X: np.ndarray, W: np.ndarray, H: np.ndarray) -> float:  # noqa: N803
    return float(np.square(X - W @ H).sum())


@pytest.mark.parametrize("rank", [1, 2, 5, 20])
@pytest.mark.parametrize("iterations", [1, 7, 60])
def test_the_same_steps_as_scikit_learn_from_the_same_start(rank: int, iterations: int) -> None:
    X = matrices()
    start_w, start_h = nndsvd(X, rank)
    W, H = factorize(X, rank, iterations)
    for b in range(3):
        model = sklearn_decomposition.NMF(rank, init="custom", solver="cd", tol=0, max_iter=iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = model.fit_transform(X[b].numpy(), W=start_w[b].numpy().copy(), H=start_h[b].numpy().copy())
        np.testing.assert_allclose(W[b], theirs, atol=1e-8)
        np.testing.assert_allclose(H[b], model.components_, atol=1e-8)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_objective_is_no_worse_than_scikit_learns_own(rank: int) -> None:
    X = matrices(3)
    W, H = factorize(X, rank, 200)
    assert (W >= 0).all()
    assert (H >= 0).all()
    for b in range(3):
        model = sklearn_decomposition.NMF(rank, init="nndsvd", max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = model.fit_transform(X[b].numpy())
        assert error(X[b].numpy(), W[b].numpy(), H[b].numpy()) <= 1.01 * error(X[b].numpy(), theirs, model.components_)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_the_start_is_that_of_scikit_learn(shape: tuple[int, int]) -> None:
    from sklearn.decomposition._nmf import _initialize_nmf

    X = matrices(1, (1, *shape))
    W, H = nndsvd(X, 6)
    their_w, their_h = _initialize_nmf(X[0].numpy(), 6, init="nndsvd", random_state=0)
    # Theirs cuts what is below 1e-6.
    np.testing.assert_allclose(W[0], their_w, atol=1e-4)
    np.testing.assert_allclose(H[0], their_h, atol=1e-4)


def test_an_exact_product_is_found() -> None:
    g = torch.Generator().manual_seed(2)
    X = torch.rand(1, 15, 2, generator=g, dtype=torch.float64) @ torch.rand(1, 2, 9, generator=g, dtype=torch.float64)
    W, H = factorize(X, 2, 2000)
    assert float((X - W @ H).abs().max()) < 1e-3


def test_a_matrix_does_not_depend_on_its_batch() -> None:
    X = matrices(4)
    W, H = factorize(X, 4, 50)
    alone_w, alone_h = factorize(X[1:2], 4, 50)
    torch.testing.assert_close(W[1:2], alone_w, atol=1e-9, rtol=0)
    torch.testing.assert_close(H[1:2], alone_h, atol=1e-9, rtol=0)


def test_zeros_and_lower_rank() -> None:
    X = torch.zeros(2, 6, 5, dtype=torch.float64)
    X[1] = torch.arange(1, 7)[:, None] * torch.ones(5)
    W, H = factorize(X, 3, 50)
    assert W.isfinite().all()
    assert H.isfinite().all()
    assert not W[0].any()
    torch.testing.assert_close(W[1] @ H[1], X[1])
