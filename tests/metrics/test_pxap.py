"""PxAP: against wsolevaluation's vector and numpy's own histogram, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.reasons import failure
from decomcam_bench.metrics.base import Fail, RegionMetric, Skip
from decomcam_bench.metrics.boxes import thresholds
from decomcam_bench.metrics.energy import Energy
from decomcam_bench.metrics.pointing import PointingGame
from decomcam_bench.metrics.pxap import PxAP, average_precision, bin_of
from tests.metrics.conftest import pair, table


def test_equal_to_wsolevaluation(reference: dict[str, np.ndarray]) -> None:
    boxes, metric = reference["boxes_flat"], PxAP(region="box")
    rows = [metric.evaluate(pair(reference["maps"][i], boxes[boxes[:, 0] == i][:, 1:])) for i in range(12)]
    assert metric.aggregate(table(rows))["pxap"] == pytest.approx(float(reference["wsol/pxap"]) / 100, abs=1e-9)


@pytest.mark.parametrize("step", [0.5, 0.3, 0.03, 0.01, 0.001])
def test_bins_are_those_of_a_search(step: float) -> None:
    edges = np.append(thresholds(step), 1.0)
    scores = np.concatenate([np.random.default_rng(0).random(5000), edges, np.nextafter(edges[1:], 0), [0.0, 1.0]])
    np.testing.assert_array_equal(bin_of(scores, edges), np.searchsorted(edges, scores, side="right") - 1)


def test_area_by_hand() -> None:
    # From the highest bin: 2 hits of 2 (recall 0.5), then 3 of 5 (0.75), then 4 of 9 (1).
    value = average_precision(np.array([[1.0, 1, 2]]), np.array([[3.0, 2, 0]]))
    assert value[0] == pytest.approx(0.5 * 1 + 0.25 * 3 / 5 + 0.25 * 4 / 9)


def test_perfect_map_and_no_object_pixel() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2:5, 3:7] = True
    metric = PxAP(region="mask", size=None)
    assert metric.aggregate(table([metric.evaluate(pair(mask, masks=[mask]))]))["pxap"] == 1.0
    assert np.isnan(average_precision(np.zeros((1, 3)), np.ones((1, 3))))[0]


def test_constant_map_scores_the_share_of_object_pixels() -> None:
    metric = PxAP(region="box", size=None)
    assert metric.aggregate(table([metric.evaluate(pair(np.ones((4, 4)), [(0, 0, 2, 2)]))]))["pxap"] == 0.25


def test_crowd_pixels_may_be_ignored() -> None:
    scores = np.arange(16, dtype=np.float32).reshape(4, 4)
    own = pair(scores, [(0, 0, 2, 4), (1, 0, 4, 4)], crowd=[False, True])
    counted = PxAP(region="box", size=None).evaluate(own)
    assert (counted["object"].sum(), counted["background"].sum()) == (16, 0)
    ignoring = PxAP(region="box", size=None, ignore="crowd").evaluate(own)
    assert (ignoring["object"].sum(), ignoring["background"].sum()) == (8, 0)
    alone = pair(scores, [(0, 0, 2, 4)], crowd=[True])
    assert PxAP(region="box", ignore="crowd").evaluate(alone) == Skip("only_ignored")
    # What is left out does not depend on the map.
    blank = pair(np.zeros((4, 4)), [(0, 0, 2, 4)], crowd=[True])
    assert PxAP(region="box", ignore="crowd").evaluate(blank) == Skip("only_ignored")


@pytest.mark.parametrize("metric", [PxAP(region="mask"), Energy(region="mask"), PointingGame(region="mask")])
@pytest.mark.parametrize("masks", [[(10, 10)], [(30, 40), (1, 40)]])
def test_a_mask_of_another_size_is_a_failure(metric: RegionMetric, masks: list[tuple[int, int]]) -> None:
    own = pair(np.ones((30, 40)), masks=[np.ones(shape) for shape in masks])
    outcome = metric.evaluate(own)
    height, width = masks[-1]
    assert outcome == Fail(failure(f"bad_mask: mask of {width} x {height} pixels for an image of 40 x 30"))


def test_edges_and_options() -> None:
    metric = PxAP(region="mask")
    assert metric.evaluate(pair(np.ones((4, 4)), [(0, 0, 2, 2)])) == Skip("no_mask")
    assert metric.evaluate(pair(np.ones((4, 4)), masks=[np.zeros((4, 4))])) == Skip("empty_region")
    missed = metric.evaluate(pair(np.full((4, 4), np.nan), masks=[np.eye(4)]))
    # As the reference has it, a map that cannot be read is 0 everywhere.
    assert missed.reason == "non_finite_map"
    assert missed.values["object"].tolist() == [224 * 56] + [0] * 100
    assert missed.values["background"].tolist() == [224 * 168] + [0] * 100
    with pytest.raises(ConfigError, match="none, crowd"):
        PxAP(ignore="difficult")
