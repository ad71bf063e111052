"""DecomCAM against vectors of its official code, its own definition, and its promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError
from decomcam_bench.methods.base import Evidence, explained, upsample
from decomcam_bench.methods.components import component_weights
from decomcam_bench.methods.decomcam import DecomCAM

from .conftest import plain_evidence, select

FORMS = [name for name in registry.names("method") if name.startswith("decomcam")]
CASES = ("case1", "case4", "case5", "case6")


def form(name: str, **options: object) -> DecomCAM:
    return registry.build("method", {**registry.read("method", name), **options})


def official(golden: dict[str, np.ndarray], case: str) -> tuple[Evidence, list[torch.Tensor], int]:
    """The inputs of a case with its linear scorer, the images it scores, and the rank."""
    inputs = {name: torch.tensor(golden[f"{case}/{name}"]) for name in ("image", "activations", "gradients")}
    weights = torch.tensor(golden[f"{case}/score_weights"])
    scored: list[torch.Tensor] = []

    def score(images: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
        scored.append(images)
        return (images * weights).sum((1, 2, 3)) / 10

    evidence = Evidence(
        images=inputs["image"],
        image_of=torch.tensor([0]),
        image_activations=inputs["activations"],
        gradients_source=inputs["gradients"],
        score=score,
    )
    return evidence, scored, int(golden[f"{case}/n_components"])


def close(got: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_v25_equals_the_official_code(golden: dict[str, np.ndarray], case: str) -> None:
    evidence, scored, rank = official(golden, case)
    answer = form("decomcam_v25", channels=int(golden[f"{case}/p"])).explain(evidence, [rank])[rank]
    parts = answer.components
    assert parts is not None
    close(upsample(parts.native, evidence.input_size, "bicubic")[0], golden[f"{case}/ossm"])
    masked = golden[f"{case}/masked"].astype(np.float32)
    # The vectors are stored in half precision.
    np.testing.assert_allclose(torch.cat(scored)[: len(masked)], masked, atol=2e-3 * max(1, np.abs(masked).max()) / 2)
    np.testing.assert_allclose(parts.scores[0], golden[f"{case}/scores"], atol=1e-5)
    close(upsample(answer.native, evidence.input_size, "bicubic"), golden[f"{case}/cam"])
    close(answer.maps(evidence.input_size), golden[f"{case}/cam"].clip(0))


@pytest.mark.parametrize("case", CASES)
def test_v1_equals_the_official_code(golden: dict[str, np.ndarray], case: str) -> None:
    """The vectors give the score differences, so the scorer hands them out, from a baseline of its own."""
    evidence, _, rank = official(golden, case)
    differences = torch.tensor(golden[f"{case}/v1_score_differences"])
    answers = iter([*(differences + 0.2), torch.tensor(0.2)])
    evidence.score = lambda images, pair: torch.stack([next(answers) for _ in images])
    method = form("decomcam_v1", channels=int(golden[f"{case}/p"]))
    answer = method.explain(evidence, [rank])[rank]
    assert next(answers, None) is None
    close(answer.maps(evidence.input_size)[0], golden[f"{case}/v1_cam"])


@pytest.mark.parametrize("case", CASES[:3])
def test_the_paper_form_shares_ossms_and_masked_images(golden: dict[str, np.ndarray], case: str) -> None:
    evidence, scored, rank = official(golden, case)
    # The official code blurs by 10 pixels whatever the input; the paper's inputs have 224.
    method = DecomCAM(channels=int(golden[f"{case}/p"]), blur_sigma=10 * 224 / evidence.input_size[0])
    answer = method.explain(evidence, [rank])[rank]
    assert answer.components is not None
    ossm = golden[f"{case}/ossm"]
    close(upsample(answer.components.native, evidence.input_size, "bicubic")[0], ossm)
    masked = golden[f"{case}/masked"].astype(np.float32)
    np.testing.assert_allclose(torch.cat(scored)[: len(masked)], masked, atol=1e-3)
    scores = golden[f"{case}/scores"]
    weights = (scores - scores.min()) / (scores.max() - scores.min()) if rank > 1 else np.ones(1)
    np.testing.assert_allclose(answer.components.weights[0], weights, atol=1e-5)
    close(answer.maps(evidence.input_size)[0], (weights[:, None, None] * ossm).sum(0).clip(0))


def test_weights() -> None:
    d = torch.tensor([[3.0, -1.0, 1.0, 99.0], [2.0, 2.0, 2.0, 2.0], [5.0, 0.0, 0.0, 0.0], [-1.0, -2.0, -3.0, 0.0]])
    present = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]]).bool()
    minmax = [[1.0, 0.0, 0.5, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.0, 0.0]]
    assert component_weights(d, present, "minmax").tolist() == minmax
    e = np.exp([3.0, -1.0, 1.0])
    softmax = component_weights(d, present, "softmax")
    np.testing.assert_allclose(softmax[0], [*(np.array([3.0, -1.0, 1.0]) * e / e.sum()), 0], rtol=1e-5)
    np.testing.assert_allclose(softmax[2], [5.0, 0, 0, 0])
    threshold = [[1.0, 0.0, 1 / 3, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(component_weights(d, present, "threshold", 0.01), threshold, rtol=1e-6)


def test_weights_of_scores_that_are_equal_but_for_rounding() -> None:
    present = torch.ones(1, 3, dtype=torch.bool)
    assert component_weights(torch.tensor([[25.0, 25.00001, 24.99999]]), present, "minmax").tolist() == [[1, 1, 1]]
    apart = component_weights(torch.tensor([[25.0, 25.01, 25.02]]), present, "minmax")
    assert apart[0, 1] == pytest.approx(0.5, abs=1e-3)
    assert component_weights(torch.zeros(1, 3), present, "threshold").tolist() == [[0, 0, 0]]


def test_a_composition_that_hides_nothing_weighs_all_alike() -> None:
    """Without blur the convex sum is the picture itself, whatever the mask."""
    evidence, _ = plain_evidence()
    both = DecomCAM(blur_sigma=0, composition="convex").explain(evidence, [4])[4]
    assert both.components.weights.tolist() == [[1.0] * 4] * 3


def test_the_other_half_of_a_component_of_one_sign_is_left_out() -> None:
    """Without centring the first component of maps behind a ReLU has one sign; its other half is rounding."""
    evidence, _ = plain_evidence()
    evidence.gradients_source = evidence.gradients_source.abs()
    evidence.image_activations = torch.where(torch.arange(20).view(5, 4) % 7 == 0, 0.0, evidence.image_activations)
    answer = DecomCAM(sign="both", centring=False, channels=3).explain(evidence, [2])[2]
    assert answer.components.native[:, 0].flatten(1).any(1).all()
    assert not answer.components.native[:, 1].any()
    assert not answer.components.scores[:, 1].any()


@pytest.mark.parametrize("name", ["decomcam", "eigengradcam"])
def test_gradients_that_overflow_fail_their_pair_alone(name: str) -> None:
    evidence, _ = plain_evidence()
    evidence.gradients_source[1] *= 1e38
    evidence.image_activations = evidence.image_activations * 3
    assert evidence.gradients_source.isfinite().all()
    method = registry.build("method", registry.read("method", name))
    assert explained(method, evidence, [None])[None].failures == {1: "non_finite_map"}


@pytest.mark.parametrize("name", FORMS)
def test_ranks_share_scores_and_arithmetic(name: str) -> None:
    together, scorer = plain_evidence()
    many = form(name).explain(together, [1, 3, 5])
    baseline = int(form(name).baseline) * 2  # the blurred image is scored once for all texts
    assert scorer.scored == 5 * 3 + baseline
    for rank in (1, 3, 5):
        alone, scorer = plain_evidence()
        single = form(name).explain(alone, [rank])[rank]
        assert scorer.scored == rank * 3 + baseline
        assert torch.equal(single.native, many[rank].native)
        assert torch.equal(single.components.weights, many[rank].components.weights)
        assert torch.equal(single.components.scores, many[rank].components.scores)
        assert many[rank].components.native.shape[1] == rank
        assert single.failures == many[rank].failures


def test_none_is_the_default_rank() -> None:
    evidence, _ = plain_evidence(channels=40, grid=(6, 6))
    answers = DecomCAM().explain(evidence, [None, 10])
    assert torch.equal(answers[None].native, answers[10].native)
    with pytest.raises(ConfigError, match="rank=0"):
        DecomCAM().explain(evidence, [0])


def test_rank_above_the_possible_changes_nothing() -> None:
    evidence, scorer = plain_evidence(channels=3, grid=(5, 4))
    answers = DecomCAM().explain(evidence, [3, 20])
    assert scorer.scored == 3 * 3
    torch.testing.assert_close(answers[3].native, answers[20].native)
    parts = answers[20].components
    assert parts.native.shape[1] == 20
    assert not parts.weights[:, 3:].any()
    assert not parts.native[:, 3:].any()
    assert not answers[20].failures


def test_the_map_is_the_weighted_sum_of_upsampled_ossms() -> None:
    evidence, _ = plain_evidence()
    answer = DecomCAM().explain(evidence, [4])[4]
    size = evidence.input_size
    up = upsample(answer.components.native, size, "bicubic")
    expected = (answer.components.weights[..., None, None] * up).sum(1).relu()
    torch.testing.assert_close(answer.maps(size), expected, atol=1e-5, rtol=1e-5)


def test_both_halves_are_maps_of_their_own() -> None:
    evidence, scorer = plain_evidence()
    both = DecomCAM(sign="both").explain(evidence, [3])[3].components
    assert scorer.scored == 2 * 3 * 3
    one = DecomCAM().explain(evidence, [3])[3].components
    torch.testing.assert_close(both.native[:, ::2], one.native)
    assert not (both.native[:, ::2] * both.native[:, 1::2]).any()
    torch.testing.assert_close(both.singular_values[:, 1::2], one.singular_values)
    signed = both.native[:, ::2] - both.native[:, 1::2]
    torch.testing.assert_close(signed.flatten(2).sum(2), torch.zeros(3, 3), atol=1e-4, rtol=0)


def test_channel_sign_may_flip_a_component() -> None:
    evidence, _ = plain_evidence()
    spatial = DecomCAM().explain(evidence, [5])[5].components.native
    channel = DecomCAM(sign="channel").explain(evidence, [5])[5].components.native
    halves = DecomCAM(sign="both").explain(evidence, [5])[5].components.native.unflatten(1, (5, 2))
    flipped = (spatial - channel).abs().amax((2, 3)) > 1e-6
    assert flipped.any()
    assert not flipped.all()
    torch.testing.assert_close(channel, torch.where(flipped[..., None, None], halves[:, :, 1], halves[:, :, 0]))


def test_channels_kept_are_those_of_largest_mean_gradient() -> None:
    evidence, _ = plain_evidence()
    answer = DecomCAM(channels=4).explain(evidence, [3])[3]
    kept = evidence.gradients.mean((2, 3)).argsort(1, descending=True)[:, :4]
    for pair in range(3):
        one = select(evidence, [pair])
        one.image_activations = evidence.image_activations[:, kept[pair]]
        one.gradients_source = evidence.gradients[[pair]][:, kept[pair]]
        alone = DecomCAM(channels=100).explain(one, [3])[3]
        torch.testing.assert_close(alone.native[0], answer.native[pair], atol=1e-5, rtol=1e-5)


def test_options_reach_the_masks() -> None:
    """Each option of masking changes what is scored."""
    reference = None
    for options in (
        {},
        {"blur_sigma": 30.0},
        {"scale_blur": False},
        {"truncate": 0.5, "blur_sigma": 30.0},
        {"composition": "convex"},
        {"space": "normalised"},
        {"quantise": True},
        {"centring": False},
        {"channels": 2},
        {"channel_weights": "gradcam++"},
    ):
        evidence, scorer = plain_evidence()
        DecomCAM(**options).explain(evidence, [2])
        seen = scorer.images[0]
        if reference is None:
            reference = seen
        else:
            assert not torch.allclose(seen, reference, atol=1e-6), options


def test_every_weight_below_the_threshold_is_a_reason_not_a_blank_map() -> None:
    evidence, _ = plain_evidence()
    answer = replace(form("decomcam_v25"), threshold=1e6).explain(evidence, [3])[3]
    assert answer.failures == {0: "zero_map", 1: "zero_map", 2: "zero_map"}


def test_a_score_that_is_not_finite_fails_its_pair_alone() -> None:
    evidence, scorer = plain_evidence()
    expected = DecomCAM().explain(evidence, [3])[3]

    def broken(images: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
        return torch.where(pair == 1, torch.nan, scorer.score(images, pair))

    evidence.score = broken
    answer = DecomCAM().explain(evidence, [3])[3]
    assert answer.failures == {1: "non_finite_score"}
    assert not answer.native[1].any()
    assert answer.components.scores.isfinite().all()
    torch.testing.assert_close(answer.native[[0, 2]], expected.native[[0, 2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sign": "spacial"}, "method.sign=spacial.*did you mean 'spatial'"),
        ({"weighting": "max"}, "method.weighting=max"),
        ({"channels": 0}, "method.channels=0"),
        ({"channel_weights": "x"}, "method.channel_weights=x"),
        ({"composition": "min"}, "method.composition=min"),
        ({"space": "rgb"}, "method.space=rgb"),
        ({"blur_sigma": -1.0}, "method.blur_sigma=-1"),
        ({"threshold": -0.1}, "method.threshold=-0.1"),
        ({"score": "probability"}, "method.score=probability"),
        ({"quantise": True, "space": "normalised"}, "method.quantise=true"),
    ],
)
def test_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DecomCAM(**options)
