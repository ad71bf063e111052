"""Eigen-CAM and Eigen-Grad-CAM against the ``grad-cam`` package."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.methods.base import min_max, upsample
from decomcam_bench.methods.spectral import EigenCAM, EigenGradCAM, first_component

from .conftest import plain_evidence

PLACES = [
    ("tiny-resnet", "layer1"),
    ("tiny-resnet", "layer3"),
    ("tiny-resnet", "layer4"),
    ("tiny-vit", "block1"),
    ("tiny-vit", "block2"),
    ("toyclip-resnet", "layer4"),
    ("toyclip-vit", "block5"),
]


def halves(evidence, products: torch.Tensor) -> list[torch.Tensor]:
    """Both signs of the first component, as finished maps (P, H, W) in [0, 1]."""
    maps, _ = first_component(products, "spatial")
    return [min_max(upsample((sign * maps).relu(), evidence.input_size, "bilinear"), (1, 2)) for sign in (1, -1)]


@pytest.mark.parametrize(("model", "layer"), PLACES)
@pytest.mark.parametrize("gradients", [False, True])
def test_equals_the_grad_cam_package_up_to_its_arbitrary_sign(
    clip_case, pgc_maps, model: str, layer: str, gradients: bool
) -> None:
    import pytorch_grad_cam

    case = clip_case(model)
    evidence = case.evidence(layer)
    method = EigenGradCAM() if gradients else EigenCAM()
    expected = pgc_maps(pytorch_grad_cam.EigenGradCAM if gradients else pytorch_grad_cam.EigenCAM, case, layer)
    answer = method.map(evidence)
    got = min_max(answer.maps(evidence.input_size), (1, 2)).numpy()
    products = evidence.activations * (evidence.gradients if gradients else 1)
    both = halves(evidence, products)
    for pair in range(3):
        np.testing.assert_allclose(got[pair], both[0][pair], atol=1e-5)
        nearest = min(np.abs(half[pair].numpy() - expected[pair]).max() for half in both)
        assert nearest < 1e-4
    same = type(method)(sign="library").map(evidence).maps(evidence.input_size)
    np.testing.assert_allclose(min_max(same, (1, 2)), expected, atol=1e-4)


@pytest.mark.parametrize("layer", ["layer2", "layer4"])
def test_spatial_sign_is_the_correction_of_seg_eigen_cam(clip_case, layer: str) -> None:
    correction = pytest.importorskip("pytorch_grad_cam.utils.svd_on_activations")
    if not hasattr(correction, "get_2d_projection_with_sign_correction"):
        pytest.skip("this grad-cam has no Seg-Eigen-CAM")
    activations = clip_case("tiny-resnet").evidence(layer).image_activations
    expected = correction.get_2d_projection_with_sign_correction(activations.numpy())
    got, exists = first_component(activations, "spatial")
    assert exists.all()
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_pairs_of_one_image_share_a_map() -> None:
    evidence, _ = plain_evidence()
    native = EigenCAM().map(evidence).native
    assert torch.equal(native[0], native[1])
    assert not torch.allclose(native[0], native[2])


def test_sign_has_no_halves() -> None:
    with pytest.raises(ConfigError, match=r"method\.sign=both"):
        EigenCAM(sign="both")
