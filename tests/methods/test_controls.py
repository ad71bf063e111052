"""Controls against hand computation and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.methods.controls import Center, Edges, Oracle, Random

from .conftest import plain_evidence, select


def test_random_is_uniform_and_belongs_to_the_seed_of_the_pair() -> None:
    evidence, _ = plain_evidence(size=(64, 48))
    answer = Random().map(evidence)
    maps = answer.maps((64, 48))
    assert answer.mode == "none"
    assert maps.shape == (3, 64, 48)
    assert maps.mean() == pytest.approx(0.5, abs=0.01)
    assert maps.var() == pytest.approx(1 / 12, abs=0.003)
    assert not torch.equal(maps[0], maps[1])
    assert torch.equal(Random().map(select(evidence, [2, 0])).native, maps[[2, 0]])
    expected = torch.rand((64, 48), generator=torch.Generator().manual_seed(evidence.seeds[1]))
    assert torch.equal(maps[1], expected)


def test_random_takes_large_seeds_and_refuses_missing_ones() -> None:
    evidence, _ = plain_evidence()
    evidence.seeds = [2**64 - 1, -5, 2**70]
    assert Random().map(evidence).native.isfinite().all()
    evidence.seeds = [1]
    with pytest.raises(ValueError, match="1 seeds for 3 pairs"):
        Random().map(evidence)


def test_center_is_a_gaussian_about_the_middle() -> None:
    evidence, _ = plain_evidence(size=(9, 15))
    maps = Center(sigma=0.2).map(evidence).maps((9, 15))
    assert maps[2, 4, 7] == 1
    assert maps[0, 4, 10] == pytest.approx(np.exp(-0.5 * (3 / 15 / 0.2) ** 2))
    assert maps[0, 1, 7] == pytest.approx(np.exp(-0.5 * (3 / 9 / 0.2) ** 2))
    torch.testing.assert_close(maps, maps.flip(1, 2))
    with pytest.raises(ConfigError, match=r"method\.sigma=0"):
        Center(sigma=0)


def test_edges_equal_opencv() -> None:
    evidence, _ = plain_evidence(size=(24, 20))
    maps = Edges().map(evidence).maps((24, 20))
    pixels = evidence.pixels()
    for pair in range(3):
        gray = cv2.cvtColor(pixels[evidence.image_of[pair]].permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY)
        expected = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(gray, cv2.CV_32F, 0, 1, ksize=3))
        np.testing.assert_allclose(maps[pair], expected, atol=1e-4)


def test_a_uniform_picture_has_no_edges() -> None:
    evidence, _ = plain_evidence()
    evidence.images[1] = 0.37
    answer = Edges().map(evidence)
    assert answer.failures == {2: "zero_map"}
    assert answer.native[0].any()


def test_oracle_is_the_region_itself() -> None:
    evidence, _ = plain_evidence()
    masks = evidence.object_masks()
    masks[1] = False
    evidence.object_masks = lambda: masks
    answer = Oracle().map(evidence)
    assert answer.failures == {1: "empty_region"}
    assert torch.equal(answer.maps((24, 20)), masks.float())
