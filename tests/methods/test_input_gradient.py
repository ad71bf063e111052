"""Pixel attributions against their formulas; the packages' numbers are in tests/parity."""

from __future__ import annotations

import pytest
import torch

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.methods.attention import AttentionRollout, RawAttention
from decomcam_bench.methods.input_gradient import IntegratedGradients, SmoothGrad, gauss_legendre
from tests.parity.subjects import SIDE, TEXT_OF, Subject

from .conftest import plain_evidence


def test_smoothgrad_is_the_mean_over_noisy_copies() -> None:
    evidence, scorer = plain_evidence()
    method = SmoothGrad(samples=5, noise=0.2)
    maps = method.map(evidence).maps((24, 20))
    for pair in range(3):
        image = evidence.images[evidence.image_of[pair]]
        total = torch.zeros_like(image)
        for number in range(5):
            noise = SmoothGrad.noise_of(evidence.seeds[pair], number, tuple(image.shape))
            noisy = image + 0.2 * (image.max() - image.min()) * noise
            total += scorer.image_weights[pair] * noisy.cos()
        torch.testing.assert_close(maps[pair], (total / 5).abs().sum(0))
    quiet = SmoothGrad(samples=3, noise=0).map(evidence).maps((24, 20))
    one = SmoothGrad(samples=1, noise=0).map(evidence).maps((24, 20))
    torch.testing.assert_close(quiet, one)


def test_integrated_gradients_add_up_to_the_difference_of_the_scores() -> None:
    """The gradient of the scorer is w cos(x): attributions are w (sin(x) - sin(x')), all known exactly."""
    evidence, scorer = plain_evidence()
    maps = IntegratedGradients(steps=20, baseline="black").map(evidence).maps((24, 20))
    black = evidence.normalise(torch.zeros_like(evidence.images))
    for pair in range(3):
        image = int(evidence.image_of[pair])
        exact = scorer.image_weights[pair] * (evidence.images[image].sin() - black[image].sin())
        torch.testing.assert_close(maps[pair], exact.abs().sum(0), atol=1e-5, rtol=1e-4)
    assert float(gauss_legendre(7)[1].sum()) == pytest.approx(1)


def test_signed_attributions_keep_their_positive_part() -> None:
    evidence, scorer = plain_evidence()
    maps = IntegratedGradients(steps=20, channels="positive").map(evidence).maps((24, 20))
    exact = (scorer.image_weights[0] * evidence.images[0].sin()).sum(0).relu()
    torch.testing.assert_close(maps[0], exact, atol=1e-5, rtol=1e-4)


def test_raw_attention_is_that_of_torchs_own_module() -> None:
    subject = Subject.of("vit")
    answer = subject.explain(RawAttention(block=2))
    visual = subject.model.clip.visual
    with torch.no_grad():
        x = visual._embeds(subject.images)
        for block in visual.transformer.resblocks[:2]:
            x = block(x)
        block = visual.transformer.resblocks[2]
        read = block.ln_1(x)
        _, weights = block.attn(read, read, read, need_weights=True, average_attn_weights=True)
    torch.testing.assert_close(answer.native, weights[:, 0, 1:].reshape(len(TEXT_OF), 6, 6), atol=1e-6, rtol=1e-4)
    assert answer.maps((SIDE, SIDE)).shape == (4, SIDE, SIDE)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (RawAttention(block=7), "method.block=7: the tower has 7 blocks"),
        (AttentionRollout(first=7), "method.first=7: the tower has 7 blocks"),
    ],
)
def test_a_block_that_is_not_there(method: RawAttention | AttentionRollout, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Subject.of("vit").explain(method)
