"""The decomposition against scikit-learn's PCA and a float64 definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decomcam_bench.methods.ops.decomposition import decompose


def by_definition(X: np.ndarray, centred: bool, sign: str) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803
    """Component maps (q, M) and singular values by NumPy's float64 SVD."""
    X = X.astype(np.float64)
    X = X - X.mean(0) if centred else X
    U, S, Vt = np.linalg.svd(X, full_matrices=False)
    decisive = U if sign != "channel" else Vt.T
    signs = np.sign(decisive[np.abs(decisive).argmax(0), range(len(S))])
    return (U * S * signs).T, S


@pytest.mark.parametrize("shape", [(49, 100), (49, 30), (20, 20), (9, 500), (144, 100)])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("sign", ["spatial", "channel"])
def test_equals_the_definition(shape: tuple[int, int], centred: bool, sign: str) -> None:
    X = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32) + 0.2
    rank = min(8, min(shape) - 1)
    parts = decompose(torch.tensor(X), rank, centred, sign)
    for pair in range(3):
        maps, singular = by_definition(X[pair], centred, sign)
        np.testing.assert_allclose(parts.maps[pair], maps[:rank], atol=1e-4 * np.abs(maps).max())
        np.testing.assert_allclose(parts.singular_values[pair], singular[:rank], rtol=1e-6)
        np.testing.assert_allclose(parts.explained[pair], (singular**2 / (singular**2).sum())[:rank], rtol=1e-5)
        assert parts.exists[pair].all()


@pytest.mark.parametrize("shape", [(49, 100), (100, 49)])
def test_equals_scikit_learn(shape: tuple[int, int]) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    X = np.random.default_rng(1).gamma(1.0, size=shape).astype(np.float32)
    pca = decomposition.PCA(6, svd_solver="full").fit(X.astype(np.float64))
    expected = pca.transform(X.astype(np.float64))
    parts = decompose(torch.tensor(X)[None], 6, sign="channel")
    # The sign rule of scikit-learn depends on its version; the rule itself is tested above.
    signs = np.sign((expected * parts.maps[0].numpy().T).sum(0))
    np.testing.assert_allclose(parts.maps[0].T, expected * signs, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(parts.singular_values[0], pca.singular_values_, rtol=1e-5)
    np.testing.assert_allclose(parts.explained[0], pca.explained_variance_ratio_, rtol=1e-5)


def test_sign_rule_of_recent_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn")
    if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 5):
        pytest.skip("scikit-learn decides signs on the channels from 1.5 on")
    from sklearn.decomposition import PCA

    X = np.random.default_rng(2).gamma(1.0, size=(49, 60))
    expected = PCA(5, svd_solver="full").fit_transform(X).T
    parts = decompose(torch.tensor(X)[None], 5, sign="channel")
    np.testing.assert_allclose(parts.maps[0], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_lower_rank_gives_zero_components(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(shape[0], 3)) @ rng.normal(size=(3, shape[1]))
    parts = decompose(torch.tensor(X, dtype=torch.float32)[None], 6, centred=False)
    assert parts.exists[0].tolist() == [True] * 3 + [False] * 3
    assert not parts.maps[0, 3:].any()
    assert not parts.singular_values[0, 3:].any()
    assert not parts.explained[0, 3:].any()


def test_rank_above_the_possible() -> None:
    X = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    parts = decompose(X, 7)
    assert parts.maps.shape == (2, 7, 4)
    assert parts.exists.tolist() == [[True] * 3 + [False] * 4] * 2
    assert parts.explained.sum(1) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("X", [torch.zeros(1, 6, 4), torch.full((1, 6, 4), 3.0), torch.ones(1, 1, 5)])
def test_nothing_to_decompose(X: torch.Tensor) -> None:  # noqa: N803
    parts = decompose(X, 2)
    assert not parts.exists.any()
    assert not parts.maps.any()
    assert parts.explained.isfinite().all()


def test_a_constant_matrix_has_one_component_without_centring() -> None:
    parts = decompose(torch.full((1, 6, 4), 3.0), 2, centred=False)
    assert parts.exists.tolist() == [[True, False]]
    assert parts.maps[0, 0] == pytest.approx([6.0] * 6, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 9), st.booleans(), st.integers(0, 10_000))
def test_components_are_those_of_a_decomposition(m: int, c: int, rank: int, centred: bool, seed: int) -> None:
    X = torch.randn(2, m, c, generator=torch.Generator().manual_seed(seed))
    parts = decompose(X, rank, centred)
    gram = (parts.maps @ parts.maps.mT).numpy()
    # Components are orthogonal, and as long as their singular values.
    squares = parts.singular_values.square().numpy()
    np.testing.assert_allclose(gram, [np.diag(s) for s in squares], atol=1e-4 * max(1.0, squares.max()))
    assert (parts.singular_values.diff(dim=1) <= 1e-6).all()
    assert (parts.explained.sum(1) <= 1 + 1e-5).all()
    # Its largest entry is positive.
    peak = parts.maps.gather(2, parts.maps.abs().argmax(2, keepdim=True))
    assert (peak >= 0).all()


def test_the_rank_asked_for_does_not_change_a_component() -> None:
    for shape in ((2, 30, 50), (2, 50, 30)):
        X = torch.randn(shape, generator=torch.Generator().manual_seed(4))
        assert torch.equal(decompose(X, 2).maps, decompose(X, 9).maps[:, :2])
