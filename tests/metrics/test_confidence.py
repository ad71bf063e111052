"""Drop, increase, coherency, complexity, ADCC: against the grad-cam package's parts and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.metrics.base import Fail
from decomcam_bench.metrics.confidence import ADCC, ConfidenceDrop, adcc, pearson
from tests.metrics.conftest import Counting, batch, table


def _case(pairs: int = 5) -> tuple[torch.Tensor, torch.Tensor, Counting, list[int]]:
    random = torch.Generator().manual_seed(3)
    images = torch.randn(pairs, 3, 12, 12, generator=random)
    maps = torch.rand(pairs, 12, 12, generator=random)
    weights = torch.randn(4, 3, 12, 12, generator=random) / 1000
    return maps, images, Counting(weights), [0, 1, 2, 3, 0][:pairs]


def _unit(maps: torch.Tensor) -> torch.Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def test_absolute_drop_and_increase_equal_the_grad_cam_package() -> None:
    package = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    maps, images, model, classes = _case()

    def network(x: torch.Tensor) -> torch.Tensor:
        return (100 * model(x, torch.zeros(len(x)))).softmax(dim=1)

    targets = [lambda output, c=c: output[c] for c in classes]
    unit = _unit(maps).numpy()
    drop = package.DropInConfidence()(images, unit, targets, network)
    rise = package.IncreaseInConfidence()(images, unit, targets, network)
    outcomes = ConfidenceDrop(drop="absolute").evaluate_batch(batch(maps, images, model, classes, batch_size=2))
    np.testing.assert_allclose([o["drop"] for o in outcomes], drop, atol=1e-6)
    np.testing.assert_array_equal([o["increase"] for o in outcomes], rise)
    relative = ConfidenceDrop().evaluate_batch(batch(maps, images, model, classes))
    np.testing.assert_allclose([o["drop"] for o in relative], [o["drop"] / o["whole"] for o in outcomes], rtol=1e-6)


def test_coherency_and_complexity_equal_the_grad_cam_package() -> None:
    package = pytest.importorskip("pytorch_grad_cam.metrics.arcc")
    maps, images, model, classes = _case()

    def remap(x: torch.Tensor) -> torch.Tensor:
        return (x.mean(dim=1) * 3 + 1).relu()

    outcomes = ADCC().evaluate_batch(batch(maps, images, model, classes, remap=remap))
    unit = _unit(maps)
    expected = package.Coherency()(
        images, unit.numpy(), None, None, lambda input_tensor, targets: remap(input_tensor).numpy()
    )
    np.testing.assert_allclose([o["coherency"] for o in outcomes], expected, atol=1e-5)
    np.testing.assert_allclose([o["complexity"] for o in outcomes], package.Complexity()(unit.numpy()), atol=1e-6)
    for o in outcomes:
        terms = (o["coherency"], 1 - o["complexity"], 1 - o["drop"])
        assert o["adcc"] == pytest.approx(3 / sum(1 / term for term in terms))


def test_adcc_by_hand_and_at_its_limits() -> None:
    arrays = np.array([0.0, 1.0, 0.5]), np.array([1.0, 0.5, 0.5]), np.array([0.0, 0.2, 0.5])
    np.testing.assert_allclose(adcc(*arrays), [1.0, 0.0, 0.5])


def test_pearson_is_numpys_and_zero_for_constants() -> None:
    a, b = torch.rand(2, 5, 6), torch.rand(2, 5, 6)
    expected = [np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(pearson(a, b), expected, atol=1e-6)
    assert pearson(a, torch.ones(2, 5, 6)).tolist() == [0, 0]


def test_confidence_of_the_top_class() -> None:
    maps, images, model, _ = _case()
    own = batch(maps, images, model, [0] * 5)
    outcomes = ConfidenceDrop(confidence="top").evaluate_batch(own)
    top = (100 * own.image_similarity).softmax(dim=1).amax(dim=1)
    np.testing.assert_allclose([o["whole"] for o in outcomes], top, rtol=1e-6)


def test_keep_mutes_the_lower_pixels() -> None:
    maps = torch.arange(16.0).view(1, 4, 4)
    shown = ConfidenceDrop(keep=0.5).visible(maps)
    assert (shown.flatten()[:8] == 0).all()
    torch.testing.assert_close(shown.flatten()[8:], maps.flatten()[8:] / 15)


def test_one_scored_image_a_pair() -> None:
    maps, images, model, classes = _case()
    metric = ConfidenceDrop()
    metric.evaluate_batch(batch(maps, images, model, classes, valid=torch.tensor([True, False, True, True, True])))
    assert model.scored == 4 * metric.scored_per_pair((12, 12))


def test_reasons() -> None:
    maps, images, model, classes = _case()
    maps[1, 0, 0] = float("inf")
    valid = torch.tensor([True, True, False, True, True])
    outcomes = ConfidenceDrop().evaluate_batch(batch(maps, images, model, classes, valid=valid))
    assert [outcome.reason for outcome in outcomes[1:3]] == ["non_finite_map", "zero_map"]
    # A pair that nobody asked for has no value; one whose method failed loses all of its confidence.
    assert outcomes[2].values == {}
    failed = torch.tensor([False, False, True, False, False])
    own = batch(maps, images, model, classes, valid=valid, failed=failed)
    for outcome in ConfidenceDrop().evaluate_batch(own)[1:3]:
        assert (outcome.values["drop"], outcome.values["increase"]) == (1.0, False)
    for outcome in ConfidenceDrop(drop="absolute").evaluate_batch(own)[1:3]:
        assert outcome.values["drop"] == outcome.values["whole"] > 0
    outcomes = ADCC().evaluate_batch(batch(maps, images, model, classes, valid=valid))
    assert outcomes == [Fail("no_remap")] * 5

    def broken(x: torch.Tensor) -> torch.Tensor:
        return torch.full((5, 12, 12), float("nan"))

    outcomes = ADCC().evaluate_batch(batch(maps, images, model, classes, valid=valid, remap=broken))
    assert outcomes[0].reason == "non_finite_masked_map"
    assert {name: outcomes[0].values[name] for name in ("adcc", "coherency", "complexity", "drop")} == {
        "adcc": 0.0,
        "coherency": 0.0,
        "complexity": 1.0,
        "drop": 1.0,
    }


def test_constant_map_hides_the_image() -> None:
    _, images, model, classes = _case()
    outcomes = ADCC().evaluate_batch(
        batch(torch.ones(5, 12, 12), images, model, classes, remap=lambda x: x.mean(dim=1))
    )
    assert outcomes[0]["complexity"] == 0
    assert outcomes[0]["coherency"] == 0.5
    assert outcomes[0]["masked"] == pytest.approx(0.25)


def test_a_share_of_a_cosine_is_refused_and_a_difference_of_cosines_reaches_two() -> None:
    for metric in (ConfidenceDrop, ADCC):
        with pytest.raises(ConfigError, match=r"drop=relative, metric\.score=cosine"):
            metric(score="cosine")
    drop, increase = ConfidenceDrop(drop="absolute", score="cosine").columns
    assert (drop.low, drop.high, increase.high) == (0.0, 2.0, 1.0)


def test_means_and_options() -> None:
    rows = table([{"drop": 0.2, "increase": False}, {"drop": 0.0, "increase": True}])
    assert ConfidenceDrop(name="average_drop").aggregate(rows) == {
        "average_drop": pytest.approx(0.1),
        "average_increase": 0.5,
    }
    with pytest.raises(ConfigError, match="relative"):
        ADCC(drop="absolute")
    with pytest.raises(ConfigError, match="keep=0"):
        ConfidenceDrop(keep=0.0)
