"""Geometry against torchvision's preprocessing and torch's interpolation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.models import geometry
from decomcam_bench.models.geometry import Geometry

SIZES = [(500, 375), (375, 500), (224, 224), (31, 97), (640, 201), (1, 1)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_crop_equals_torchvision(width, height):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = CenterCrop(64)(Resize(64, InterpolationMode.BICUBIC)(Image.fromarray(image)))
    found = Geometry(width, height, 64, "crop").to_input(image)
    np.testing.assert_array_equal(found, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize(("width", "height"), [(3000, 20), (640, 201), (201, 640)])
def test_a_long_strip_is_cut_before_it_is_resized(monkeypatch, width, height):
    coarse = np.random.default_rng(0).integers(40, 216, (5, 40, 3), dtype=np.uint8)  # no overshoot that is cut off
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    shape = Geometry(width, height, 64, "crop")
    whole = shape.to_input(image).astype(int), shape.map_to_input(image[:, :, 0] / 255)
    monkeypatch.setattr(geometry, "_LARGEST_STRIP", 0)
    assert np.abs(shape.to_input(image) - whole[0]).max() <= 1
    np.testing.assert_allclose(shape.map_to_input(image[:, :, 0] / 255), whole[1], atol=1e-4)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_squash_back_equals_torch(width, height):
    saliency = np.random.default_rng(1).random((64, 64), dtype=np.float32)
    expected = F.interpolate(
        torch.from_numpy(saliency)[None, None], size=(height, width), mode="bilinear", align_corners=False
    )[0, 0]
    found = Geometry(width, height, 64).to_original(saliency)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_crop_back_puts_a_linear_ramp_where_it_was():
    geometry = Geometry(400, 200, 100, "crop")
    assert geometry.visible == (100.0, 0.0, 300.0, 200.0)
    ramp = np.broadcast_to(100 + (np.arange(100, dtype=np.float32) + 0.5) * 2, (100, 100))
    back = geometry.to_original(ramp)
    centres = np.arange(400) + 0.5
    np.testing.assert_allclose(back[50, 102:298], centres[102:298], rtol=1e-6)
    assert not back[:, :100].any()
    assert not back[:, 300:].any()


def test_crop_and_squash_agree_on_square_images():
    saliency = np.random.default_rng(2).random((32, 32), dtype=np.float32)
    squash, crop = (Geometry(75, 75, 32, mode).to_original(saliency) for mode in ("squash", "crop"))
    np.testing.assert_allclose(squash, crop, atol=1e-5)


def test_mask_to_input_takes_the_pixel_under_each_centre():
    mask = np.zeros((4, 8), dtype=bool)
    mask[:, 6:] = True
    assert Geometry(8, 4, 4).mask_to_input(mask)[:, 3].all()
    assert not Geometry(8, 4, 4, "crop").mask_to_input(mask).any()


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="squash, crop"):
        Geometry(8, 4, 4, "stretch")
