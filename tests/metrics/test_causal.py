"""Deletion and insertion: against RISE's vectors, a pixel-by-pixel definition, and by hand."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError
from decomcam_bench.metrics.base import Fail, Skip
from decomcam_bench.metrics.causal import (
    Causal,
    area_under,
    blur,
    changed_pixels,
    class_scores,
    pixel_ranks,
    tied_points,
)
from tests.metrics.conftest import Counting, batch, table


@pytest.fixture(scope="module")
def rise_model(reference: dict[str, np.ndarray]) -> Counting:
    small = torch.tensor(reference["rise/linear_weights_8x8"])
    full = small.repeat_interleave(28, 2).repeat_interleave(28, 3) / (28 * 28 * 3 * 64) * 30
    # The metric multiplies cosines by 100 before the softmax.
    return Counting(full, lambda scores: scores / 100)


@pytest.mark.parametrize("step", [224, 1792])
def test_equal_to_rise(reference: dict[str, np.ndarray], rise_model: Counting, step: int) -> None:
    images = torch.tensor(reference["rise/images"])
    own = batch(torch.tensor(reference["maps"][:2]), images, rise_model, [0, 0])
    own.class_ids = own.image_similarity.argmax(dim=1)
    outcomes = Causal(preset="rise", step=step).evaluate_batch(own)
    for mode, name in (("del", "deletion"), ("ins", "insertion")):
        for place, outcome in enumerate(outcomes):
            curve, area = (
                reference[f"rise/{mode}_step{step}_scores"][place],
                reference[f"rise/{mode}_step{step}_auc"][place],
            )
            np.testing.assert_allclose(outcome[f"{name}_curve"], curve, atol=1e-5)
            assert outcome[name] == pytest.approx(area, abs=1e-5)
            assert outcome["overall"] == outcome["insertion"] - outcome["deletion"]


def test_blur_is_rises_kernel(reference: dict[str, np.ndarray]) -> None:
    point = torch.zeros(1, 3, 31, 31)
    point[0, :, 15, 15] = 1
    kernel = torch.tensor(reference["rise/insertion_blur_kernel"])
    np.testing.assert_allclose(blur(point, 11, 5.0)[0, 0, 10:21, 10:21], kernel, atol=1e-7)
    # Zero-padded: a corner keeps less of a constant image.
    assert blur(torch.ones(1, 3, 31, 31), 11, 5.0)[0, 0, 0, 0] < 0.5
    assert blur(torch.ones(1, 3, 31, 31), 11, 5.0)[0, 0, 15, 15] == pytest.approx(1.0, abs=1e-6)


def test_large_blur_has_unit_sum() -> None:
    assert blur(torch.ones(1, 3, 120, 120), 51, 50.0)[0, 0, 60, 60] == pytest.approx(1.0, abs=1e-5)


def test_random_orders_move_equal_pixels_alone() -> None:
    maps = torch.tensor([[[0.0, 2.0, 0.0], [2.0, 5.0, 0.0]]])
    for order in range(5):
        ranks = pixel_ranks(maps, order)[0]
        assert ranks[4] == 0
        assert set(ranks[[1, 3]].tolist()) == {1, 2}
        assert set(ranks[[0, 2, 5]].tolist()) == {3, 4, 5}
        assert torch.equal(pixel_ranks(maps.expand(2, -1, -1), order)[1], ranks)
    assert len({tuple(pixel_ranks(maps, order)[0].tolist()) for order in range(5)}) > 1


def test_points_between_equal_pixels_are_those_whose_order_matters() -> None:
    matters, share = tied_points(torch.tensor([[[9.0, 5, 5, 2, 0, 0, 0, 0]]]), torch.arange(9))
    assert matters.tolist() == [[False, False, True, False, False, True, True, True, False]]
    assert share.tolist() == [6 / 8]


def test_curve_is_the_mean_over_orders_of_equal_pixels() -> None:
    random = torch.Generator().manual_seed(3)
    image, model = torch.randn(1, 3, 1, 4, generator=random), Counting(torch.randn(2, 3, 1, 4, generator=random) / 99)
    saliency = torch.tensor([[[7.0, 0, 0, 0]]])
    options = {"preset": "steps20", "curves": "deletion", "steps": 4}
    expected = np.zeros(5)
    for order in itertools.permutations([1, 2, 3]):
        for count in range(5):
            made = image.clone()
            made[..., [0, *order][:count]] = 0
            score = class_scores(model(made, torch.zeros(1)), "softmax", None)[0, 0]
            expected[count] += float(score) / 6
    (outcome,) = Causal(orders=64, **options).evaluate_batch(batch(saliency, image, model, [0]))
    # The same number of pixels, 64 of the orders: the mean of so many draws is this near.
    np.testing.assert_allclose(outcome["deletion_curve"], expected, atol=0.06)
    np.testing.assert_allclose(outcome["deletion_curve"][[0, 1, 4]], expected[[0, 1, 4]], atol=1e-6)
    assert outcome["ties"] == 0.75


def test_the_order_of_exact_zeros_decides_nothing() -> None:
    # Class 0 looks at the upper half of a grey image, class 1 at the lower one.
    images, weights = torch.ones(1, 3, 16, 16), torch.zeros(2, 3, 16, 16)
    weights[0, :, :8] = weights[1, :, 8:] = 1e-4
    saliency = torch.zeros(1, 16, 16)
    saliency[0, 6:10, 6:10] = torch.rand(4, 4, generator=torch.Generator().manual_seed(5))
    flipped = batch(saliency.flip(1), images, Counting(weights.flip(2)), [0])
    model = Counting(weights)
    for ties, apart in (("raster", True), ("mean", False)):
        metric = Causal(preset="steps20", curves="deletion", ties=ties, orders=16)
        (one,), (two,) = (metric.evaluate_batch(b) for b in (batch(saliency, images, model, [0]), flipped))
        assert (abs(one["deletion"] - two["deletion"]) > 0.1) == apart


@pytest.mark.parametrize("name", ["causal_decomcam", "accuracy_bins"])
def test_presets_of_the_decomcam_authors_are_their_settings(name: str) -> None:
    """``CausalMetric`` (6272700): texts that are not normalised, and ``(sum - first / 2 - last / 2) / (n - 1)``."""
    random = torch.Generator().manual_seed(8)
    images, maps = torch.randn(3, 3, 9, 9, generator=random), torch.rand(3, 9, 9, generator=random)
    model = Counting(torch.randn(4, 3, 9, 9, generator=random) / 3000)
    norms = torch.tensor([9.0, 11.0, 10.0, 8.5])
    metric = registry.build("metric", {**registry.read("metric", name), "step": 300})
    own = batch(maps, images, model, [0, 0, 0], text_norms=norms)
    own.class_ids = (100 * own.image_similarity * norms).argmax(dim=1)
    for place, outcome in enumerate(metric.evaluate_batch(own)):
        order = maps[place].flatten().argsort(descending=True)
        image, zeros = images[place], torch.zeros_like(images[place])
        for curve, base, other in (("deletion", image, zeros), ("insertion", zeros, image)):
            scores = []
            for count in metric.points((9, 9)):
                made = base.clone().flatten(1)
                made[:, order[:count]] = other.flatten(1)[:, order[:count]]
                logits = 100 * model(made.view(1, 3, 9, 9), torch.zeros(1)) * norms
                scores.append(float(logits.softmax(dim=1)[0, own.class_ids[place]]))
            area = (sum(scores) - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1)
            assert outcome[curve] == pytest.approx(area, abs=1e-6)


def test_a_failed_pair_scores_what_a_map_without_information_scores() -> None:
    random = torch.Generator().manual_seed(6)
    images, model = torch.randn(2, 3, 8, 8, generator=random), Counting(torch.randn(2, 3, 8, 8, generator=random) / 99)
    maps = torch.zeros(2, 8, 8)
    failed = torch.tensor([True, False])
    outcomes = Causal(preset="steps20").evaluate_batch(
        batch(maps, images[:1].expand(2, -1, -1, -1), model, [0, 0], valid=~failed, failed=failed)
    )
    assert (outcomes[0].reason, outcomes[1]["ties"]) == ("zero_map", 1.0)
    assert outcomes[0].values["deletion"] == pytest.approx(outcomes[1]["deletion"], abs=1e-7)


def test_ranks_descend_and_ties_go_by_position_on_request() -> None:
    assert pixel_ranks(torch.tensor([[[0.0, 2.0], [2.0, 5.0]]])).tolist() == [[3, 1, 2, 0]]
    assert pixel_ranks(torch.zeros(1, 2, 3)).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_points_of_the_presets_at_224() -> None:
    def points(preset: str) -> np.ndarray:
        return Causal(preset=preset).points((224, 224))

    assert len(points("rise")) == 225
    assert len(points("groupcam")) == 113
    assert len(points("decomcam")) == 12
    assert points("decomcam")[-1] - points("decomcam")[-2] == 896
    assert len(points("steps20")) == 21
    assert (np.diff(points("rise")) == 224).all()


def test_a_step_is_kept_in_rows_at_other_sizes() -> None:
    assert (np.diff(Causal(preset="rise").points((160, 160))) == 160).all()
    assert len(Causal(preset="rise", step=1792).points((384, 384))) == 49
    assert Causal(preset="rise", steps=5).points((10, 10)).tolist() == [0, 20, 40, 60, 80, 100]


def test_changed_pixels_with_a_short_last_step() -> None:
    assert changed_pixels(10, 4, 0).tolist() == [0, 4, 8, 10]
    assert changed_pixels(3, 0, 20).tolist() == [0, 1, 2, 3]
    assert changed_pixels(1, 224, 0).tolist() == [0, 1]


def test_area_over_true_fractions_differs_from_even_spacing() -> None:
    # Points at 0, 0.4, 0.8 and 1: 0.4 * (1 + 0.5) / 2 + 0.4 * (0.5 + 0.25) / 2 + 0.2 * (0.25 + 0) / 2.
    curve = np.array([1, 0.5, 0.25, 0])
    assert area_under(curve, np.array([0, 0.4, 0.8, 1])) == pytest.approx(0.475)
    assert area_under(curve, np.linspace(0, 1, 4)) == pytest.approx((1.75 - 0.5) / 3)


def _by_definition(metric: Causal, image: torch.Tensor, saliency: torch.Tensor, model: Counting, own: int) -> dict:
    """One image at a time, one pixel list at a time."""
    order = sorted(range(saliency.numel()), key=lambda i: (-float(saliency.flatten()[i]), i))
    start = blur(image[None], metric.blur_size, metric.blur_sigma)[0] if metric.blur_size else torch.zeros_like(image)
    curves: dict[str, list[float]] = {"deletion": [], "insertion": []}
    for count in metric.points(tuple(image.shape[-2:])):
        for name, base, other in (("deletion", image, torch.zeros_like(image)), ("insertion", start, image)):
            made = base.clone().flatten(1)
            made[:, order[:count]] = other.flatten(1)[:, order[:count]]
            scores = class_scores(model(made.view(1, *image.shape), torch.zeros(1)), metric.score, None)
            curves[name].append(float(scores[0, own]))
    return curves


@pytest.mark.parametrize("score", ["softmax", "cosine"])
@pytest.mark.parametrize("preset", ["steps20", "decomcam"])
def test_equal_to_its_definition_in_small_batches(preset: str, score: str) -> None:
    random = torch.Generator().manual_seed(1)
    images, maps = torch.randn(3, 3, 6, 8, generator=random), torch.rand(3, 6, 8, generator=random)
    maps[0, :3] = 0
    model = Counting(torch.randn(4, 3, 6, 8, generator=random) / 1000)
    step = {} if preset == "steps20" else {"step": 200}
    blur_size = 3 if preset == "steps20" else 0
    metric = Causal(preset=preset, score=score, blur_size=blur_size, only_correct=False, ties="raster", **step)
    outcomes = metric.evaluate_batch(batch(maps, images, model, [1, 0, 3], batch_size=7))
    assert max(model.batches) <= 7
    for place, own in enumerate([1, 0, 3]):
        expected = _by_definition(metric, images[place], maps[place], model, own)
        for name, curve in expected.items():
            np.testing.assert_allclose(outcomes[place][f"{name}_curve"], curve, atol=1e-6)


@pytest.mark.parametrize("curves", ["deletion", "insertion", "both"])
@pytest.mark.parametrize("blur_size", [0, 3])
def test_scored_images_are_as_planned(curves: str, blur_size: int) -> None:
    model = Counting(torch.randn(2, 3, 8, 8))
    metric = Causal(preset="steps20", curves=curves, blur_size=blur_size, orders=1)
    metric.evaluate_batch(batch(torch.rand(3, 8, 8), torch.randn(3, 3, 8, 8), model, [0, 1, 1]))
    assert model.scored == 3 * metric.scored_per_pair((8, 8)) + metric.scored_per_batch((8, 8))
    # The whole image is known, so each curve costs its 19 inner points.
    assert metric.scored_per_pair((8, 8)) == 19 * len(metric.curve_names) + (blur_size > 0 and curves != "deletion")


def test_curves_share_their_ends() -> None:
    model = Counting(torch.randn(2, 3, 8, 8))
    (outcome,) = Causal(preset="steps20", blur_size=0).evaluate_batch(
        batch(torch.rand(1, 8, 8), torch.randn(1, 3, 8, 8), model, [0])
    )
    assert outcome["deletion_curve"][0] == outcome["insertion_curve"][-1]
    assert outcome["deletion_curve"][-1] == outcome["insertion_curve"][0]


def test_only_correct_skips_by_reason() -> None:
    images = torch.eye(2).view(2, 1, 1, 2).expand(2, 3, 1, 2).contiguous()
    model = Counting(torch.eye(2).view(2, 1, 1, 2).expand(2, 3, 1, 2))
    outcomes = Causal(preset="decomcam").evaluate_batch(batch(torch.rand(2, 1, 2), images, model, [0, 0]))
    assert outcomes[0]["deletion_curve"][0] > 0.5
    assert outcomes[1] == Skip("misclassified")
    # Left out by the protocol, whether the method gave a map or not.
    none = batch(torch.rand(2, 1, 2), images, model, [0, 0], valid=torch.zeros(2, dtype=torch.bool))
    assert Causal(preset="decomcam").evaluate_batch(none) == [Fail("zero_map"), Skip("misclassified")]
    none.failed = ~none.valid
    assert Causal(preset="decomcam").evaluate_batch(none)[1] == Skip("misclassified")


def test_unnormalised_texts_multiply_the_cosine() -> None:
    cosine, norms = torch.tensor([[0.3, 0.31]]), torch.tensor([10.0, 9.0])
    expected = torch.tensor([[300.0, 279.0]]).softmax(dim=1)
    torch.testing.assert_close(class_scores(cosine, "unnormalised", norms), expected)
    torch.testing.assert_close(class_scores(cosine, "softmax", norms), (100 * cosine).softmax(dim=1))
    with pytest.raises(ConfigError, match="no norms"):
        class_scores(cosine, "unnormalised", None)


def test_pairs_nobody_asked_for_cost_nothing_and_nan_maps_are_zeros() -> None:
    maps = torch.rand(3, 4, 4)
    maps[1, 0, 0] = float("nan")
    model = Counting(torch.randn(2, 3, 4, 4))
    own = batch(maps, torch.randn(3, 3, 4, 4), model, [0, 0, 0], valid=torch.tensor([True, True, False]))
    outcomes = Causal(preset="steps20", curves="deletion", orders=1).evaluate_batch(own)
    assert [outcome.reason for outcome in outcomes[1:]] == ["non_finite_map", "zero_map"]
    assert outcomes[2].values == {}
    zeros = batch(maps[1:2] * 0, own.images[1:2], model, [0])
    zeros.maps = torch.zeros(1, 4, 4)
    assert outcomes[1].values["deletion"] == pytest.approx(
        Causal(preset="steps20", curves="deletion", orders=1).evaluate_batch(zeros)[0]["deletion"], abs=1e-7
    )


def test_constant_map_and_one_pixel_image() -> None:
    model = Counting(torch.randn(2, 3, 4, 4))
    (outcome,) = Causal(preset="steps20").evaluate_batch(
        batch(torch.ones(1, 4, 4), torch.randn(1, 3, 4, 4), model, [0])
    )
    assert np.isfinite(outcome["deletion_curve"]).all()
    model = Counting(torch.randn(2, 3, 1, 1))
    (outcome,) = Causal(preset="rise").evaluate_batch(batch(torch.ones(1, 1, 1), torch.randn(1, 3, 1, 1), model, [0]))
    assert len(outcome["insertion_curve"]) == 2


def test_resolve_and_overrides() -> None:
    assert Causal().resolve(SimpleNamespace(causal_preset="steps20")).steps == 20
    resolved = Causal(step=1792, blur_size=0).resolve(SimpleNamespace(causal_preset="rise"))
    assert (resolved.preset, resolved.step, resolved.blur_size, resolved.only_correct) == ("rise", 1792, 0, False)
    with pytest.raises(ConfigError, match="resolve"):
        Causal().evaluate_batch(
            batch(torch.ones(1, 2, 2), torch.ones(1, 3, 2, 2), Counting(torch.ones(2, 3, 2, 2)), [0])
        )


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "steps20", "step": 10},
        {"preset": "rise", "steps": 7},
        {"preset": "rise", "blur_size": 0},
        {"preset": "decomcam", "blur_size": 5, "blur_sigma": 2.0},
    ],
)
def test_a_filled_in_metric_can_be_built_again(options: dict) -> None:
    metric = Causal(**options)
    assert dataclasses.replace(metric) == metric


def test_mean_over_pairs_and_directions() -> None:
    metric = Causal(preset="rise")
    values = metric.aggregate(table([{"deletion": 0.1, "insertion": 0.5, "overall": 0.4, "ties": 0.5}] * 3))
    expected = {"deletion": 0.1, "insertion": 0.5, "overall": 0.4, "causal_ties": 0.5}
    assert values == {name: pytest.approx(value) for name, value in expected.items()}
    assert [column.direction for column in metric.columns] == ["lower", "higher", "higher", "none"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"preset": "risen"}, "did you mean 'rise'"),
        ({"preset": "rise", "step": -1}, "step=-1"),
        ({"preset": "rise", "step": 0}, "steps=0"),
        ({"step": 10, "steps": 10}, "step=10, metric.steps=10: choose one"),
        ({"preset": "steps20", "step": 10, "steps": 10}, "choose one"),
        ({"preset": "decomcam", "blur_size": 11}, r"blur_size=11: preset decomcam .* metric.blur_sigma too"),
        ({"preset": "decomcam", "blur_sigma": -3.0}, r"blur_sigma=-3.0: .* metric.blur_size too"),
        ({"preset": "rise", "blur_size": 0, "blur_sigma": 3.0}, r"blur_sigma=3.0: .* metric.blur_size too"),
        ({"preset": "rise", "blur_sigma": -3.0}, "positive"),
        ({"blur_size": 4}, "odd"),
        ({"blur_size": 5, "blur_sigma": 0.0}, "positive"),
        ({"score": "logit"}, "softmax, sigmoid, logits, cosine, unnormalised"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_bad_options(options: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Causal(**options)


@pytest.mark.gpu
def test_same_on_the_gpu() -> None:
    random = torch.Generator().manual_seed(2)
    images, maps = torch.randn(4, 3, 32, 32, generator=random), torch.rand(4, 32, 32, generator=random)
    weights = torch.randn(4, 3, 32, 32, generator=random) / 1000
    results = []
    for device in ("cpu", "cuda"):
        own = batch(maps.to(device), images.to(device), Counting(weights.to(device)), [0, 1, 2, 3])
        own.class_ids = own.class_ids.to(device)
        results.append(Causal(preset="steps20").evaluate_batch(own))
    for cpu, cuda in zip(*results, strict=True):
        np.testing.assert_allclose(cpu["deletion_curve"], cuda["deletion_curve"], atol=1e-4)


def test_even_spacing_gives_the_short_last_step_a_full_trapezoid() -> None:
    random = torch.Generator().manual_seed(4)
    own = torch.rand(1, 5, 5, generator=random), torch.randn(1, 3, 5, 5, generator=random)
    model = Counting(torch.randn(2, 3, 5, 5, generator=random) / 100)
    # 8 pixels a step: points at 0, 8, 16, 24 and 25 of 25.
    options = {"preset": "rise", "step": 358, "curves": "deletion"}
    (even,) = Causal(area="even", **options).evaluate_batch(batch(*own, model, [0]))
    (true,) = Causal(**options).evaluate_batch(batch(*own, model, [0]))
    curve = even["deletion_curve"].astype(np.float64)
    assert len(curve) == 5
    assert even["deletion"] == pytest.approx((curve.sum() - curve[0] / 2 - curve[-1] / 2) / 4)
    assert true["deletion"] == pytest.approx(np.dot(np.diff([0, 8, 16, 24, 25]) / 25, (curve[1:] + curve[:-1]) / 2))
