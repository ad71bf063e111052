"""Decompositions beside DecomCAM's: one pair at a time, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.methods.base import Evidence
from decomcam_bench.methods.components import (
    ChannelClusters,
    DeepFeatureFactorization,
    ScoredComponents,
    TopChannels,
)

from .conftest import plain_evidence

METHODS = (DeepFeatureFactorization, TopChannels, ChannelClusters)


def plain_components(method: ScoredComponents, evidence: Evidence, pair: int, rank: int) -> list[np.ndarray]:
    """Component maps (h, w) of a pair by scikit-learn, or by hand."""
    A = evidence.activations[pair].double().numpy()
    if isinstance(method, DeepFeatureFactorization):
        from sklearn.decomposition import NMF

        from decomcam_bench.methods.ops.factorization import nndsvd

        X = A.reshape(len(A), -1).T
        X = np.maximum(X, 0) if method.negative == "relu" else X - X.min(0)
        W, H = (x[0].numpy().copy() for x in nndsvd(torch.tensor(X)[None], rank))
        model = NMF(rank, init="custom", solver="cd", tol=0, max_iter=method.iterations)
        W = model.fit_transform(X, W=W, H=H)
        maps = [W[:, k] * np.linalg.norm(model.components_[k]) for k in range(rank)]
        maps.sort(key=lambda m: -np.linalg.norm(m))
        return [m.reshape(A.shape[1:]) for m in maps]
    weights = evidence.gradients[pair].mean((1, 2)).numpy()
    order = sorted(range(len(A)), key=lambda k: -weights[k])
    class_maps = [weights[k] * A[k] for k in order]
    if isinstance(method, TopChannels):
        return [np.maximum(m, 0) for m in class_maps[:rank]]
    from sklearn.cluster import KMeans

    class_maps = [m for m in class_maps[: method.channels] if m.any()]
    shapes = np.stack([m.ravel() / np.linalg.norm(m) for m in class_maps])
    taken = [0]
    while len(taken) < rank:
        taken.append(int(np.argmax([min(((s - shapes[t]) ** 2).sum() for t in taken) for s in shapes])))
    labels = KMeans(rank, init=shapes[taken], n_init=1, tol=0).fit(shapes).labels_
    sums = [np.maximum(sum(m for m, own in zip(class_maps, labels, strict=True) if own == c), 0) for c in range(rank)]
    return sorted(sums, key=lambda m: -np.linalg.norm(m))


def plain_map(evidence: Evidence, pair: int, components: list[np.ndarray], sigma: float) -> Tensor:
    """Score each component as an OSSM is, then weigh and sum up, (H, W)."""
    mean, std = (np.array(v)[:, None, None] for v in (evidence.mean, evidence.std))
    pixels = evidence.images[evidence.image_of[pair]].numpy() * std + mean
    blurred = gaussian_filter(pixels, (0, sigma, sigma))
    present = [m for m in components if m.any()]
    scores, maps = [], []
    for m in present:
        up = F.interpolate(torch.tensor(m, dtype=torch.float32)[None, None], evidence.input_size, mode="bicubic")[0, 0]
        mask = ((up - up.min()) / (up.max() - up.min())).numpy()
        masked = (np.maximum(pixels * mask, blurred * (1 - mask)) - mean) / std
        scores.append(float(evidence.score(torch.tensor(masked, dtype=torch.float32)[None], torch.tensor([pair]))))
        maps.append(up)
    low, high = min(scores), max(scores)
    weights = [(s - low) / (high - low) if high > low else 1.0 for s in scores]
    return sum(w * m for w, m in zip(weights, maps, strict=True)).relu()


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_equals_a_plain_loop(kind: type[ScoredComponents], rank: int) -> None:
    evidence, _ = plain_evidence()
    method = kind()
    answer = method.explain(evidence, [rank])[rank]
    sigma = 10 * evidence.input_size[0] / 224
    for pair in range(3):
        components = plain_components(method, evidence, pair, rank)
        expected = plain_map(evidence, pair, components, sigma)
        got = answer.maps(evidence.input_size)[pair]
        torch.testing.assert_close(got, expected, atol=2e-4 * float(expected.max()), rtol=0)
        torch.testing.assert_close(
            answer.components.native[pair], torch.tensor(np.stack(components)).float(), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize(
    ("model", "layer"), [("tiny-resnet", "layer2"), ("tiny-resnet", "layer4"), ("tiny-vit", "block1")]
)
def test_equals_a_plain_loop_on_clip(clip_case, kind: type[ScoredComponents], model: str, layer: str) -> None:
    evidence = clip_case(model).evidence(layer, "cosine")
    method = kind()
    answer = method.explain(evidence, [3])[3]
    for pair in (0, 2):
        components = plain_components(method, evidence, pair, 3)
        np.testing.assert_allclose(
            answer.components.native[pair], np.stack(components), atol=1e-4 * np.max(components), rtol=0
        )


@pytest.mark.parametrize("kind", METHODS)
def test_several_ranks_equal_each_alone(kind: type[ScoredComponents]) -> None:
    evidence, scorer = plain_evidence()
    together = kind().explain(evidence, [1, 4, None])
    spent = scorer.scored
    for rank in (1, 4, None):
        alone = kind().explain(plain_evidence()[0], [rank])[rank]
        assert torch.equal(together[rank].native, alone.native)
    channels = 12
    costs = [kind().cost(rank, channels).scored for rank in (1, 4, None)]
    assert spent <= 3 * (max(costs) if kind.nested else sum(costs))


def test_shifted_activations_are_those_of_the_grad_cam_package() -> None:
    """Only the shift is compared: the package starts at random."""
    evidence, _ = plain_evidence()
    evidence.image_activations = evidence.image_activations - 0.4
    method = DeepFeatureFactorization(negative="shift")
    answer = method.explain(evidence, [3])[3]
    for pair in range(3):
        components = plain_components(method, evidence, pair, 3)
        np.testing.assert_allclose(answer.components.native[pair], np.stack(components), atol=1e-4)


def test_components_are_measured_by_the_parts_metric() -> None:
    """They come in the same shape as DecomCAM's, padded to the rank, at input resolution."""
    evidence, _ = plain_evidence(channels=3)
    for kind in METHODS:
        components = kind().explain(evidence, [7])[7].components
        assert components.native.shape == (3, 7, 5, 4)
        assert components.weights.shape == components.scores.shape == (3, 7)
        assert components.maps((24, 20)).shape == (3, 7, 24, 20)
        assert not components.native[:, 3:].any()
        assert not components.weights[:, 3:].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepFeatureFactorization(negative="cut"), "method.negative=cut"),
        (lambda: DeepFeatureFactorization(iterations=0), "method.iterations=0"),
        (lambda: ChannelClusters(channels=0), "method.channels=0"),
        (lambda: TopChannels(weighting="mean"), "method.weighting=mean"),
        (lambda: TopChannels(channel_weights="grad"), "method.channel_weights=grad"),
        (lambda: TopChannels().explain(plain_evidence()[0], [0]), "rank=0"),
    ],
)
def test_out_of_range(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
