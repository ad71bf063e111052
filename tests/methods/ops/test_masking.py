"""Blur and masked images against SciPy and hand computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.methods.decomcam import DecomCAM
from decomcam_bench.methods.ops.masking import Masker, blur_width, check_masking, gaussian_blur
from decomcam_bench.methods.rise import RISE
from tests.methods.conftest import plain_evidence


@pytest.mark.parametrize(("sigma", "truncate"), [(0.0, 4), (0.4, 4), (3, 4), (10, 4), (10, 100), (25, 4), (2, 0.5)])
def test_blur_equals_scipy(sigma: float, truncate: float) -> None:
    images = torch.rand(2, 3, 21, 34, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), truncate=truncate)
    np.testing.assert_allclose(gaussian_blur(images, sigma, truncate), expected, atol=1e-6)


def test_blur_width() -> None:
    assert blur_width(10, True, 224) == 10
    assert blur_width(10, True, 112) == 5
    assert blur_width(10, False, 112) == 10


@pytest.mark.parametrize("composition", ["max", "convex"])
@pytest.mark.parametrize("space", ["pixel", "normalised"])
def test_composition(composition: str, space: str) -> None:
    evidence, _ = plain_evidence()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (evidence.mean, evidence.std))
    masker = Masker(evidence, 2.0, composition=composition, space=space)
    mask = torch.rand(1, 24, 20, generator=torch.Generator().manual_seed(1))
    got = masker.to_input(masker.compose(mask, evidence.image_of[[2]]))[0]
    image = evidence.images[1] if space == "normalised" else evidence.images[1] * std + mean
    blurred = torch.tensor(gaussian_filter(image.numpy(), (0, 2, 2)))
    parts = image * mask, blurred * (1 - mask)
    expected = torch.maximum(*parts) if composition == "max" else parts[0] + parts[1]
    expected = expected if space == "normalised" else (expected - mean) / std
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_eight_bits_are_those_of_the_official_code() -> None:
    """Single-precision pixels, multiplied by 255 in double precision, cut by NumPy."""
    evidence, _ = plain_evidence(size=(16, 16))
    levels = torch.arange(256).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    evidence.images = evidence.normalise(levels.float() / 255)
    masker = Masker(evidence, 2.0, quantise=True)
    mask = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(1))
    mask[:, ::2] = 1
    got = masker.to_input(masker.compose(mask, torch.tensor([0, 1])))
    pixels = levels[0].numpy().astype(np.uint8).astype(np.float32) / np.float32(255)
    blurred = np.stack([gaussian_filter(channel, 2.0) for channel in pixels]).astype(np.float64)
    for number in range(2):
        m = mask[number].numpy()
        expected = np.uint8(np.maximum(pixels * m, blurred * (1 - m)) * 255)
        back = (got[number] * evidence._column(evidence.std)[0] + evidence._column(evidence.mean)[0]) * 255
        np.testing.assert_allclose(back, expected, atol=1e-3)


def test_a_mask_of_ones_keeps_and_of_zeros_blurs() -> None:
    evidence, _ = plain_evidence()
    masker = Masker(evidence, 2.0)
    pair = torch.tensor([1])
    kept = masker.to_input(masker.compose(torch.ones(1, 24, 20), evidence.image_of[pair]))
    torch.testing.assert_close(kept, evidence.images[:1], atol=1e-5, rtol=0)
    hidden = masker.to_input(masker.compose(torch.zeros(1, 24, 20), evidence.image_of[pair]))
    torch.testing.assert_close(hidden, masker.all_blurred(pair))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("min", "pixel", 1.0, 4.0), "composition=min"),
        (("max", "pixels", 1.0, 4.0), "space=pixels"),
        (("max", "pixel", -1.0, 4.0), "blur_sigma=-1.0"),
        (("max", "pixel", float("nan"), 4.0), "blur_sigma=nan"),
        (("max", "pixel", 1.0, 0.0), "truncate=0.0"),
    ],
)
def test_out_of_range(options: tuple[str, str, float, float], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        check_masking(*options)


def test_kernels_without_end_are_refused() -> None:
    for options in ({"blur_sigma": 1e300}, {"truncate": 1e9}):
        with pytest.raises(ConfigError, match="their product must be at most 100000"):
            DecomCAM(**options)
    with pytest.raises(ConfigError, match=r"method.grid=100000: must be at most 1000"):
        RISE(grid=100_000)
