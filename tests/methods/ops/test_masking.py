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


def test_eight_bits_are_cut_downwards_and_exact_levels_stay() -> None:
    evidence, _ = plain_evidence()
    masker = Masker(evidence, 2.0, quantise=True)
    levels = torch.arange(256).float().view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255

    def back(images: torch.Tensor) -> torch.Tensor:
        return evidence._column(evidence.std) * masker.to_input(images) + evidence._column(evidence.mean)

    torch.testing.assert_close(back(levels), levels, atol=1e-6, rtol=0)
    torch.testing.assert_close(back(levels + 0.9 / 255), levels, atol=1e-6, rtol=0)


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
