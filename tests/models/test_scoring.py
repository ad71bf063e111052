"""Scores as models were trained to read them."""

import math

import pytest
import torch
from torch import nn

from decomcam_bench.models.clip import SCORES, TextBank, text_scores
from decomcam_bench.models.scoring import LogitScale

COSINES = torch.tensor([[0.3, -0.1, 0.2], [0.05, 0.04, -0.2]], dtype=torch.float64)


def weights(scale, bias=None):
    clip = nn.Module()
    clip.logit_scale = nn.Parameter(torch.tensor(scale))
    clip.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))
    return clip


def test_siglip_scores_are_the_sigmoid_that_it_was_trained_with():
    """The definition of the paper, in float64: sigma(t x.y + b)."""
    scale = LogitScale.of(weights(math.log(117.33), -12.93))
    logits = 117.33 * COSINES - 12.93
    torch.testing.assert_close(scale.scores(COSINES, "logits"), logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scale.scores(COSINES, "sigmoid"), 1 / (1 + torch.exp(-logits)), rtol=1e-5, atol=1e-9)
    expected = torch.exp(117.33 * COSINES) / torch.exp(117.33 * COSINES).sum(1, keepdim=True)
    torch.testing.assert_close(scale.scores(COSINES, "softmax"), expected, rtol=1e-5, atol=1e-9)
    assert scale.scores(COSINES, "cosine") is COSINES


@pytest.mark.parametrize("stored", [4.6052, 4.60517, 4.60546875])
def test_weights_at_clips_cap_score_with_exactly_100(stored):
    """4.60546875 is what OpenAI's half precision makes of ln(100)."""
    scale = LogitScale.of(weights(stored))
    assert scale == LogitScale(100.0, 0.0)
    assert torch.equal(scale.scores(COSINES, "softmax"), (100.0 * COSINES).softmax(1))
    assert torch.equal(scale.scores(COSINES, "logits"), 100.0 * COSINES)


def test_any_other_scale_is_the_models_own():
    assert LogitScale.of(weights(math.log(1 / 0.07))).scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert LogitScale.of(weights([4.0])).scale == pytest.approx(math.exp(4.0), rel=1e-5)


def test_every_score_of_features_follows_the_scale_of_the_bank():
    features = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    embeddings = nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    bank = TextBank(embeddings, torch.tensor([1.0, 2.0, 3.0]), scale=LogitScale(20.0, -3.0))
    cosine = nn.functional.normalize(features, dim=1) @ embeddings.T
    expected = {
        "cosine": cosine,
        "logits": 20 * cosine - 3,
        "sigmoid": (20 * cosine - 3).sigmoid(),
        "softmax": (20 * cosine).softmax(1),
        "dot": features @ (embeddings * bank.norms[:, None]).T,
    }
    assert set(expected) == set(SCORES)
    for kind, value in expected.items():
        torch.testing.assert_close(text_scores(features, bank, kind), value)
