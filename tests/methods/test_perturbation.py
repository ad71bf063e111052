"""Score-CAM's readings, gScoreCAM and Ablation-CAM against plain loops and the ``grad-cam`` package."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.methods.base import Evidence, min_max
from decomcam_bench.methods.perturbation import AblationCAM, GScoreCAM, ScoreCAM, ScoreCAMPlusPlus

from .conftest import plain_evidence

PAIR = torch.tensor([0])


def one_score(evidence: Evidence, image: Tensor, pair: int) -> float:
    return float(evidence.score(image[None], torch.tensor([pair])))


def resized(channel: Tensor, size: tuple[int, int], aligned: bool) -> Tensor:
    return F.interpolate(channel[None, None], size, mode="bilinear", align_corners=aligned)[0, 0]


def blurred_pixels(evidence: Evidence, image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    mean, std = (np.array(v)[:, None, None] for v in (evidence.mean, evidence.std))
    # Images have 8 bits per channel.
    pixels = np.round((image.numpy() * std + mean) * 255).astype(np.float32) / np.float32(255)
    return pixels, gaussian_filter(pixels, (0, 10, 10)).astype(np.float64)


def eight_bits(evidence: Evidence, pixels: np.ndarray) -> Tensor:
    mean, std = (np.array(v)[:, None, None] for v in (evidence.mean, evidence.std))
    return torch.tensor((np.floor(pixels * 255) / 255 - mean) / std, dtype=torch.float32)


def plain_score_cam(evidence: Evidence, pair: int, reading: str, plus: bool = False) -> Tensor:
    """Score-CAM as its readings are published, one channel after another; (H, W)."""
    number = int(evidence.image_of[pair])
    image, A = evidence.images[number], evidence.image_activations[number]
    size = evidence.input_size
    total = torch.zeros(size)
    scores = []
    if reading == "decomcam2023":
        pixels, blur = blurred_pixels(evidence, image)
        baseline = one_score(evidence, eight_bits(evidence, blur), pair)
    for k, channel in enumerate(A):
        if reading == "pgc":
            up = resized(channel, size, True)
            mask = (up - up.min()) / (up.max() - up.min() + 1e-8)
        elif reading == "torchcam":
            mask = resized((channel - channel.min()) / (channel.max() - channel.min() + 1e-8), size, False)
        else:
            up = resized(channel, size, False)
            if channel.max() == channel.min():
                continue
            if plus and (evidence.gradients[pair, k] * channel).max() <= 0:
                continue
            mask = (up - up.min()) / (up.max() - up.min())
        if reading == "decomcam2023":
            masked = eight_bits(evidence, np.maximum(pixels * mask.numpy(), blur * (1 - mask.numpy())))
        else:
            masked = image * mask
        score = one_score(evidence, masked, pair)
        if plus:
            total += score * up
        elif reading == "decomcam2023":
            total += math.exp(baseline - score) * up
        elif reading == "original":
            total += score * up
        else:
            scores.append(score)
    if reading in ("original", "decomcam2023"):
        return total.relu()
    if reading == "torchcam":
        whole = one_score(evidence, image, pair)
        scores = [score - whole for score in scores]
    weights = torch.tensor(scores).softmax(0)
    return resized((weights[:, None, None] * A).sum(0).relu(), size, False)


def agree(got: Tensor, expected: Tensor, quantised: bool = False) -> None:
    """To 1e-4 of the maximum; to 1e-3 where rounding may move a pixel by one of 256 levels."""
    torch.testing.assert_close(got, expected, atol=(1e-3 if quantised else 1e-4) * float(expected.max()), rtol=0)


@pytest.mark.parametrize("reading", ["pgc", "original", "torchcam", "decomcam2023"])
def test_score_cam_equals_a_plain_loop(reading: str) -> None:
    evidence, scorer = plain_evidence()
    answer = ScoreCAM(reading=reading).map(evidence)
    assert not answer.failures
    assert scorer.largest <= evidence.batch_size
    for pair in range(3):
        agree(answer.maps((24, 20))[pair], plain_score_cam(evidence, pair, reading), reading == "decomcam2023")


@pytest.mark.parametrize("reading", ["pgc", "original", "torchcam", "decomcam2023"])
@pytest.mark.parametrize(("model", "layer"), [("tiny-resnet", "layer2"), ("tiny-vit", "block1")])
def test_score_cam_equals_a_plain_loop_on_clip(clip_case, model: str, layer: str, reading: str) -> None:
    evidence = clip_case(model).evidence(layer, "softmax" if reading == "original" else "cosine")
    got = ScoreCAM(reading=reading).map(evidence).maps(evidence.input_size)
    for pair in (0, 2):
        agree(got[pair], plain_score_cam(evidence, pair, reading), reading == "decomcam2023")


def test_constant_channels() -> None:
    """They are left out where the reading leaves them out, and scored as an empty mask elsewhere."""
    for reading, scored in (("pgc", 12), ("torchcam", 12), ("original", 11), ("decomcam2023", 12)):
        evidence, scorer = plain_evidence(images=1, image_of=(0,))
        evidence.image_activations[0, 4] = 2.0
        answer = ScoreCAM(reading=reading).map(evidence)
        assert scorer.scored == scored
        if reading != "pgc":
            # Aligned interpolation of a constant leaves rounding, which the mask then stretches.
            agree(answer.maps((24, 20))[0], plain_score_cam(evidence, 0, reading), reading == "decomcam2023")


@pytest.mark.parametrize(
    ("model", "layer"), [("tiny-resnet", "layer2"), ("tiny-vit", "block2"), ("toyclip-resnet", "layer1")]
)
def test_score_cam_equals_the_grad_cam_package(clip_case, pgc_maps, model: str, layer: str) -> None:
    from pytorch_grad_cam import ScoreCAM as Theirs

    case = clip_case(model)
    evidence = case.evidence(layer)
    got = min_max(ScoreCAM().map(evidence).maps(evidence.input_size), (1, 2))
    np.testing.assert_allclose(got, pgc_maps(Theirs, case, layer), atol=1e-4)


def test_score_cam_plus_plus_equals_a_plain_loop() -> None:
    evidence, scorer = plain_evidence()
    evidence.gradients[1, 3] = -1.0
    evidence.image_activations[0, 3] = evidence.image_activations[0, 3].abs() + 0.1
    answer = ScoreCAMPlusPlus().map(evidence)
    assert scorer.scored < 3 * 12
    for pair in range(3):
        agree(answer.maps((24, 20))[pair], plain_score_cam(evidence, pair, "decomcam2023", plus=True), True)


@pytest.mark.parametrize("channels", [1, 5, 300])
def test_gscorecam_equals_a_plain_loop(channels: int) -> None:
    evidence, scorer = plain_evidence()
    answer = GScoreCAM(channels=channels).map(evidence)
    assert scorer.scored == 3 * min(channels, 12)
    assert scorer.largest <= evidence.batch_size
    for pair in range(3):
        image, A = evidence.images[evidence.image_of[pair]], evidence.activations[pair]
        scores = torch.zeros(12)
        for k in evidence.gradients[pair].mean((1, 2)).topk(min(channels, 12)).indices.tolist():
            up = resized(A[k], (24, 20), True)
            mask = (up - up.min()) / (up.max() - up.min() + 1e-6)
            scores[k] = one_score(evidence, image * mask, pair)
        cam = (scores.softmax(0)[:, None, None] * A).sum(0).relu()
        agree(answer.maps((24, 20))[pair], resized(cam, (24, 20), False))


def test_ablation_cam_equals_a_plain_loop() -> None:
    evidence, scorer = plain_evidence()
    answer = AblationCAM().map(evidence)
    assert scorer.scored == 0
    assert scorer.headed == 3 * 13
    assert scorer.largest <= evidence.batch_size
    for pair in range(3):
        A = evidence.activations[pair]
        pairs = torch.tensor([pair])
        whole = float(evidence.head(A[None], pairs))
        weights = []
        for k in range(12):
            without = A.clone()
            without[k] = 0
            weights.append((whole - float(evidence.head(without[None], pairs))) / whole)
        cam = (torch.tensor(weights)[:, None, None] * A).sum(0).relu()
        agree(answer.maps((24, 20))[pair], resized(cam, (24, 20), False))


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        # Random weights give tiny differences of scores, which single precision rounds too coarsely.
        ("double-resnet", "layer4"),
        ("double-vit", "block1"),
        ("double-vit", "block2"),
        ("toyclip-resnet", "layer1"),
        pytest.param("toyclip-resnet", "layer3", marks=pytest.mark.slow),
        ("toyclip-vit", "block5"),
    ],
)
def test_ablation_cam_equals_the_grad_cam_package(clip_case, pgc_maps, model: str, layer: str) -> None:
    from pytorch_grad_cam import AblationCAM as Theirs
    from pytorch_grad_cam.ablation_layer import AblationLayerVit

    case = clip_case(model)
    options: dict[str, object] = {"batch_size": 1}
    if model.endswith("vit"):
        options["ablation_layer"] = AblationLayerVit()
    evidence = case.evidence(layer)
    answer = AblationCAM(fill="pgc").map(evidence)
    got = min_max(answer.maps(evidence.input_size), (1, 2))
    np.testing.assert_allclose(got, pgc_maps(Theirs, case, layer, **options), atol=1e-4)


def test_a_score_of_zero_is_a_reason() -> None:
    evidence, _ = plain_evidence()
    head = evidence.head
    evidence.head = lambda activations, pair: torch.where(pair == 2, 0.0, head(activations, pair))
    answer = AblationCAM().map(evidence)
    assert answer.failures == {2: "zero_score"}


def test_the_scale_of_the_score_matters_to_score_cam(clip_case) -> None:
    case = clip_case("tiny-resnet")
    maps = [min_max(ScoreCAM().map(case.evidence("layer3", kind)).native, (1, 2)) for kind in ("logits", "cosine")]
    assert (maps[0] - maps[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScoreCAM(reading="torch-cam"), "method.reading=torch-cam.*'torchcam'"),
        (lambda: GScoreCAM(channels=0), "method.channels=0"),
        (lambda: AblationCAM(fill="one"), "method.fill=one"),
    ],
)
def test_out_of_range(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
