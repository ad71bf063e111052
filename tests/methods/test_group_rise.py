"""Group-CAM and RISE against plain loops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.methods.base import Evidence
from decomcam_bench.methods.group import GroupCAM, mirrored_blur
from decomcam_bench.methods.rise import RISE

from .conftest import plain_evidence, select


def plain_group_cam(evidence: Evidence, pair: int, groups: int) -> Tensor:
    """As the authors' loop, with OpenCV's blur (its REFLECT_101 border): (H, W)."""
    image = evidence.images[evidence.image_of[pair]].float()
    A, G = evidence.activations[pair], evidence.gradients[pair]
    height, width = evidence.input_size
    kernel = cv2.getGaussianKernel(51, 50.0, cv2.CV_64F)
    blurred = (
        torch.tensor(
            cv2.sepFilter2D(
                image.permute(1, 2, 0).double().numpy(), -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101
            )
        )
        .permute(2, 0, 1)
        .float()
    )
    baseline = float(evidence.score(blurred[None], torch.tensor([pair])))
    total = torch.zeros(height, width)
    for part in (G.mean((1, 2), keepdim=True) * A).chunk(groups, 0):
        saliency = part.sum(0).relu()
        level = np.percentile(saliency.numpy(), 70)
        saliency = torch.where(saliency > level, saliency, 0.0)
        up = F.interpolate(saliency[None, None], (height, width), mode="bilinear")[0, 0]
        if up.max() == up.min():
            continue
        mask = (up - up.min()) / (up.max() - up.min())
        masked = image * mask + blurred * (1 - mask)
        total += (float(evidence.score(masked[None], torch.tensor([pair]))) - baseline) * mask
    return total.relu()


@pytest.mark.parametrize("groups", [1, 4, 5, 32])
def test_group_cam_equals_a_plain_loop(groups: int) -> None:
    evidence, scorer = plain_evidence(size=(60, 56))
    answer = GroupCAM(groups=groups).map(evidence)
    assert scorer.largest <= evidence.batch_size
    for pair in range(3):
        expected = plain_group_cam(evidence, pair, groups)
        if pair in answer.failures:
            assert not expected.any()
        torch.testing.assert_close(
            answer.maps((60, 56))[pair], expected, atol=1e-4 * max(float(expected.max()), 1e-6), rtol=0
        )


@pytest.mark.parametrize(
    ("model", "layer"),
    [("tiny-resnet", "layer2"), ("tiny-resnet", "layer4"), ("tiny-vit", "block1"), ("tiny-vit", "block2")],
)
def test_group_cam_equals_a_plain_loop_on_clip(clip_case, model: str, layer: str) -> None:
    evidence = clip_case(model).evidence(layer, "cosine")
    answer = GroupCAM(groups=8).map(evidence)
    for pair in (0, 2):
        expected = plain_group_cam(evidence, pair, 8)
        atol = 2e-3 * max(float(expected.max()), 1e-4)
        torch.testing.assert_close(answer.maps(evidence.input_size)[pair], expected, atol=atol, rtol=0)


@pytest.mark.parametrize("shape", [(60, 31), (27, 90)])
def test_the_blur_is_opencvs(shape: tuple[int, int]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    kernel = cv2.getGaussianKernel(51, 50.0, cv2.CV_64F)
    theirs = cv2.sepFilter2D(image.double().numpy(), -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(mirrored_blur(image, 51, 50.0), theirs, atol=1e-5)


def test_the_blur_of_an_image_smaller_than_its_kernel() -> None:
    image = torch.rand(9, 5, generator=torch.Generator().manual_seed(0)).double().numpy()
    padded = np.pad(image, 25, mode="reflect")
    kernel = cv2.getGaussianKernel(51, 50.0, cv2.CV_64F)[:, 0]
    rows = np.stack([kernel @ padded[i : i + 51] for i in range(9)])
    theirs = np.stack([rows[:, j : j + 51] @ kernel for j in range(5)], 1)
    np.testing.assert_allclose(mirrored_blur(torch.tensor(image).float(), 51, 50.0), theirs, atol=1e-5)


def mirrored_upsampling(grid: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Linear upsampling with half-pixel centres by SciPy, mirrored about the outermost centres."""
    rows, columns = ((np.arange(side) + 0.5) * cells / side - 0.5 for side, cells in zip(size, grid.shape, strict=True))
    places = np.meshgrid(rows, columns, indexing="ij")
    return torch.tensor(map_coordinates(grid.astype(np.float64), places, order=1, mode="mirror")).float()


def masks_of(method: RISE, seed: int, size: tuple[int, int]) -> Tensor:
    return torch.cat(list(method.batches(seed, size, 1000)))


def test_masks_are_upsampled_grids_cut_at_a_random_place() -> None:
    """The grid and the place are drawn again here, in the order that the masks draw them."""
    method = RISE(masks=5, grid=3, probability=0.4)
    size = (16, 14)
    generator = torch.Generator().manual_seed(11)
    grids = (torch.rand(5, 3, 3, generator=generator) < 0.4).float()
    rows = torch.randint(0, 6, (5,), generator=generator)
    columns = torch.randint(0, 5, (5,), generator=generator)
    got = masks_of(method, 11, size)
    for i in range(5):
        # Cells of ceil(16/3) = 6 by ceil(14/3) = 5 pixels, one more than covers the picture.
        up = mirrored_upsampling(grids[i].numpy(), (24, 20))
        y, x = int(rows[i]), int(columns[i])
        torch.testing.assert_close(got[i], up[y : y + 16, x : x + 14], atol=1e-6, rtol=0)


def test_rise_equals_a_plain_loop() -> None:
    evidence, scorer = plain_evidence()
    method = RISE(masks=30, grid=4, probability=0.3)
    answer = method.map(evidence)
    assert scorer.scored == 60  # once for both texts of the first image
    assert scorer.largest <= evidence.batch_size
    for pair in range(3):
        total = torch.zeros(24, 20)
        for mask in masks_of(method, evidence.image_seeds[evidence.image_of[pair]], (24, 20)):
            image = evidence.images[evidence.image_of[pair]] * mask
            total += float(evidence.score(image[None], torch.tensor([pair]))) * mask
        expected = (total / 30 / 0.3).relu()
        torch.testing.assert_close(answer.maps((24, 20))[pair], expected, atol=1e-4 * float(expected.max()), rtol=0)


@pytest.mark.parametrize("model", ["tiny-resnet", "tiny-vit"])
def test_rise_equals_a_plain_loop_on_clip(clip_case, model: str) -> None:
    case = clip_case(model)
    evidence = case.evidence("layer4" if model.endswith("resnet") else "block2", "softmax")
    evidence.image_seeds = [1, 2]
    method = RISE(masks=12)
    got = method.map(evidence).maps(evidence.input_size)
    for pair in (0, 2):
        masks = masks_of(method, evidence.image_seeds[evidence.image_of[pair]], evidence.input_size)
        images = case.images[case.image_of[pair]] * masks[:, None]
        features = F.normalize(case.model.clip.visual(images).float(), dim=1)
        shares = (100 * features @ case.bank.embeddings.T).softmax(1)[:, case.class_ids[pair]]
        expected = torch.einsum("m,mhw->hw", shares, masks) / 12 / 0.5
        torch.testing.assert_close(got[pair], expected, atol=1e-4 * float(expected.max()), rtol=0)


def test_masks_of_a_pair_are_its_own_and_do_not_depend_on_batches() -> None:
    evidence, _ = plain_evidence()
    whole = RISE(masks=20).map(evidence)
    small, _ = plain_evidence(batch_size=3)
    torch.testing.assert_close(RISE(masks=20).map(small).native, whole.native)
    alone = RISE(masks=20).map(select(plain_evidence()[0], [2]))
    assert torch.equal(alone.native[0], whole.native[2])
    assert not torch.equal(masks_of(RISE(masks=20), 1, (24, 20)), masks_of(RISE(masks=20), 2, (24, 20)))


def test_a_score_that_is_not_finite_fails_its_pair_alone() -> None:
    evidence, scorer = plain_evidence()
    evidence.score_images = lambda images, image: torch.where(
        torch.arange(3) == 1, torch.nan, scorer.score_images(images, image)
    )
    answer = RISE(masks=8).map(evidence)
    assert answer.failures == {1: "non_finite_score"}
    assert answer.native.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RISE(masks=0), "method.masks=0"),
        (lambda: RISE(grid=0), "method.grid=0"),
        (lambda: RISE(probability=0), "method.probability=0"),
        (lambda: GroupCAM(groups=0), "method.groups=0"),
        (lambda: GroupCAM(percentile=100), "method.percentile=100"),
        (lambda: GroupCAM(blur_size=50), "method.blur_size=50: must be odd"),
    ],
)
def test_out_of_range(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
