"""Segmentation: against the formulas of Chefer et al. written out, scikit-learn, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from decomcam_bench.metrics.base import Fail, Skip
from decomcam_bench.metrics.segmentation import Segmentation, average_precision
from tests.metrics.conftest import pair, table


def _reference(maps: list[np.ndarray], masks: list[np.ndarray]) -> dict[str, float]:
    """``imagenet_seg_eval.py`` (c3e578f): thresholds at the mean, sums over the data set, mAP over both classes."""
    correct, labelled, inter, union, precision = 0, 0, np.zeros(2), np.zeros(2), []
    for scores, mask in zip(maps, masks, strict=True):
        spread = scores.max() - scores.min()
        scaled = (scores - scores.min()) / spread if spread else np.full(scores.shape, np.nan)
        one, zero = scaled > scaled.mean(), scaled <= scaled.mean()
        predicted = np.argmax(np.stack([zero, one]).astype(float), axis=0)
        correct, labelled = correct + (predicted == mask).sum(), labelled + mask.size
        for label in (0, 1):
            inter[label] += ((predicted == label) & (mask == label)).sum()
            union[label] += ((predicted == label) | (mask == label)).sum()
        both = np.nan_to_num(np.concatenate([(1 - scaled).ravel(), scaled.ravel()]))
        precision.append(average_precision_score(np.concatenate([(~mask).ravel(), mask.ravel()]), both))
    return {"miou": (inter / union).mean(), "pixel_accuracy": correct / labelled, "ap": np.mean(precision)}


@pytest.mark.parametrize("failed", [False, True])
def test_equal_to_chefer_et_al(failed: bool) -> None:
    random = np.random.default_rng(0)
    maps = [np.round(random.random((20, 24)) * 9 / (1 + i)) for i in range(6)]
    masks = [random.random((20, 24)) < 0.1 * (i + 1) for i in range(6)]
    if failed:
        maps[2], maps[4] = maps[2] * 0, np.full((20, 24), np.nan)
    metric = Segmentation(name="s", region="mask", size=None, average_precision=True)
    outcomes = [metric.evaluate(pair(*given)) for given in zip(maps, [()] * 6, [[m] for m in masks], strict=True)]
    assert [isinstance(outcome, Fail) for outcome in outcomes] == [failed and i in (2, 4) for i in range(6)]
    rows = [dict(outcome.values) if isinstance(outcome, Fail) else outcome for outcome in outcomes]
    values = metric.aggregate(table(rows))
    zeros = [np.zeros((20, 24)) if np.isnan(one).any() else one for one in maps]
    for name, expected in _reference(zeros, masks).items():
        assert values[f"s_{name}"] == pytest.approx(expected, abs=1e-12), name


def test_average_precision_is_that_of_scikit_learn_with_ties() -> None:
    random = np.random.default_rng(1)
    for levels in (2, 5, 1000):
        scores, own = random.integers(0, levels, 300) / levels, random.random(300) < 0.3
        assert average_precision(scores, own) == pytest.approx(average_precision_score(own, scores), abs=1e-12)


def test_soft_and_best_iou_by_hand() -> None:
    scores, mask = np.array([[0.0, 0.5, 1.0, 0.25]]), np.array([[False, True, True, False]])
    metric = Segmentation(name="s", region="mask", size=None)
    outcome = metric.evaluate(pair(scores, masks=[mask]))
    assert outcome["soft_iou"] == pytest.approx(1.5 / 2.25)
    values = metric.aggregate(table([outcome]))
    # From above 0.25 up to 0.5 the two pixels of the object are drawn, and no other.
    assert values["s_best_iou"] == 1.0
    assert 0.25 < values["s_threshold"] <= 0.5
    assert "s_ap" not in values


def test_edges() -> None:
    metric = Segmentation(region="mask")
    assert metric.evaluate(pair(np.ones((4, 4)), [(0, 0, 2, 2)])) == Skip("no_mask")
    oracle = np.zeros((8, 8), bool)
    oracle[2:5, 3:6] = True
    perfect = metric.aggregate(table([metric.evaluate(pair(oracle, masks=[oracle]))]))
    assert perfect["segmentation_best_iou"] > 0.9
    exact = Segmentation(region="mask", size=None)
    perfect = exact.aggregate(table([exact.evaluate(pair(oracle, masks=[oracle]))]))
    assert (perfect["segmentation_miou"], perfect["segmentation_soft_iou"]) == (1.0, 1.0)
