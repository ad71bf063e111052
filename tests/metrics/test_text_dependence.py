"""Dependence on the text: similarities against scipy and their definition, specificity by hand and in a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from decomcam_bench.metrics.base import Fail, Retext
from decomcam_bench.metrics.text_dependence import TextDependence, share_on, spearman, ssim
from tests.metrics.conftest import Counting, batch


def _by_definition(x: np.ndarray, y: np.ndarray) -> float:
    def blur(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float(((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def test_ssim_is_its_definition() -> None:
    maps = np.random.default_rng(0).random((4, 30, 41))
    found = ssim(torch.tensor(maps[:2]), torch.tensor(maps[2:]))
    expected = [_by_definition(maps[i], maps[i + 2]) for i in range(2)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert ssim(torch.tensor(maps), torch.tensor(maps)).tolist() == [1.0] * 4


def test_spearman_is_that_of_scipy_with_ties_and_0_for_a_constant_map() -> None:
    maps = np.random.default_rng(1).integers(0, 4, (4, 9, 7)).astype(float)
    found = spearman(maps[:2], maps[2:])
    expected = [spearmanr(maps[i].ravel(), maps[i + 2].ravel()).statistic for i in range(2)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert spearman(np.ones((1, 9, 7)), maps[:1]).tolist() == [0.0]


def test_share_on_an_object() -> None:
    maps = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]])
    region = torch.tensor([[[True, False]], [[True, True]]])
    assert share_on(maps, region).tolist() == [0.25, 0.0]


def test_values_of_a_blind_and_of_a_reading_method() -> None:
    left, right = torch.zeros(1, 12, 12), torch.zeros(1, 12, 12)
    left[:, :, :4], right[:, :, 8:] = 1, 1
    model = Counting(torch.randn(2, 3, 12, 12))
    images = torch.randn(1, 3, 12, 12)

    def outcome(other: torch.Tensor, several: bool = True, **more: object):  # type: ignore[no-untyped-def]
        own = batch(left, images, model, [0], **more)
        own.retext = Retext(lambda text: other, lambda: left > 0, [several])
        return TextDependence().evaluate_batch(own)[0]

    blind, reading = outcome(left), outcome(right)
    assert (blind["specificity"], blind["ssim_absent"], blind["spearman_empty"]) == (0.0, 1.0, pytest.approx(1))
    assert (reading["energy"], reading["specificity"]) == (1.0, 1.0)
    assert reading["ssim_nonsense"] < 0.3
    assert np.isnan(outcome(right, several=False)["specificity"])
    # A method that fails is taken as one that does not read the text.
    none = torch.tensor([False])
    failed = outcome(right, valid=none, failed=~none)
    assert isinstance(failed, Fail)
    assert (failed.values["specificity"], failed.values["ssim_absent"]) == (0.0, 1.0)
    assert TextDependence().evaluate_batch(batch(left, images, model, [0])) == [Fail("no_remap")]


def test_text_blind_methods_have_no_specificity_and_the_oracle_all(bench, tmp_path) -> None:
    words = ("limit=2", "method=eigencam,edges,center,oracle", "metric=text_dependence")
    _, table = bench(tmp_path, *words)
    found = table.set_index("method")["text_dependence_specificity"]
    assert found[["eigencam", "edges", "center"]].tolist() == [0.0, 0.0, 0.0]
    assert found["oracle"] == 1.0
    assert table.set_index("method").loc["center", "text_dependence_ssim_nonsense"] == 1.0
