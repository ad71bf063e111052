"""Pointing game: against TorchRay's vectors, and by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.reasons import failure
from decomcam_bench.metrics.base import Fail, Skip
from decomcam_bench.metrics.pointing import PointingGame, hits_region, share_of_hits
from tests.metrics.conftest import pair, single_peak, table


def test_hits_and_class_mean_equal_torchray(reference: dict[str, np.ndarray]) -> None:
    metric, rows = PointingGame(), []
    by_map = {i: reference["boxes_flat"][reference["boxes_flat"][:, 0] == i][:, 1:] for i in range(12)}
    for place, (u, v) in enumerate(reference["torchray/points_uv"]):
        class_id = int(reference["torchray/class"][place])
        boxes = by_map[int(reference["torchray/map_index"][place])]
        outcome = metric.evaluate(pair(single_peak(224, 224, u, v), boxes, class_id=class_id))
        assert outcome["hit"] == (reference["torchray/hits"][place] > 0)
        rows.append({"class_id": class_id, **outcome})
    values = metric.aggregate(table(rows))
    assert values["pointing"] == pytest.approx(float(reference["torchray/accuracy"]), abs=1e-12)
    hits = reference["torchray/hits"] > 0
    assert values["pointing_pair_mean"] == pytest.approx(hits.mean(), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 29), st.integers(0, 19), st.floats(0, 12), st.integers(0, 2**32 - 1))
def test_hit_is_its_definition(x: int, y: int, tolerance: float, seed: int) -> None:
    region = np.random.default_rng(seed).random((20, 30)) < 0.02
    rows, columns = np.nonzero(region)
    near = (columns - x) ** 2 + (rows - y) ** 2 < tolerance**2
    assert hits_region((x, y), region, tolerance) == bool(near.any() or region[y, x])


@pytest.mark.parametrize(("distance", "hit"), [(14, True), (15, False)])
def test_tolerance_is_strict(distance: int, hit: bool) -> None:
    # The box's last column is 29; the point lies `distance` columns to its right.
    outcome = PointingGame().evaluate(pair(single_peak(50, 80, 29 + distance, 20), [(10, 10, 30, 30)]))
    assert outcome["hit"] == hit


def test_no_tolerance_asks_for_the_inside() -> None:
    metric = PointingGame(tolerance=0)
    assert metric.evaluate(pair(single_peak(9, 9, 4, 4), [(2, 2, 5, 5)]))["hit"] == 1
    assert metric.evaluate(pair(single_peak(9, 9, 5, 4), [(2, 2, 5, 5)]))["hit"] == 0


def test_any_instance_counts_and_difficult_ones_stay() -> None:
    peak = single_peak(40, 40, 35, 35)
    outcome = PointingGame(tolerance=0).evaluate(pair(peak, [(0, 0, 5, 5), (33, 33, 40, 40)], difficult=[False, True]))
    assert outcome["hit"] == 1


def test_a_pair_of_difficult_objects_alone_is_skipped() -> None:
    own = {"boxes": [(0, 0, 5, 5)], "difficult": [True]}
    assert PointingGame().evaluate(pair(single_peak(9, 9, 1, 1), **own)) == Skip("difficult_only")
    assert PointingGame(skip_difficult_only=False).evaluate(pair(single_peak(9, 9, 1, 1), **own))["hit"] == 1


def test_mask_and_box_differ() -> None:
    mask = np.zeros((9, 9), bool)
    mask[0, 0] = mask[8, 8] = True
    own = pair(single_peak(9, 9, 4, 4), [(0, 0, 9, 9)], [mask])
    assert PointingGame(tolerance=0, region="box").evaluate(own)["hit"] == 1
    assert PointingGame(tolerance=0, region="mask").evaluate(own)["hit"] == 0


def test_of_equal_maxima_the_share_that_hits_counts_and_the_first_on_request() -> None:
    tied = np.zeros((6, 6), np.float32)
    tied[1, 4] = tied[2, 0] = tied[5, 5] = 1
    own = pair(tied, [(0, 2, 6, 6)])
    outcome = PointingGame(tolerance=0).evaluate(own)
    assert (outcome["x"], outcome["y"], outcome["tied"]) == (4, 1, 3)
    assert outcome["hit"] == pytest.approx(2 / 3)
    assert PointingGame(tolerance=0, ties="first").evaluate(own)["hit"] == 0


def test_a_plateau_does_not_favour_the_top_left() -> None:
    plateau = np.zeros((20, 20), np.float32)
    plateau[:, 5:15] = 1
    corners = PointingGame(tolerance=0), [(5, 0, 15, 10)], [(5, 10, 15, 20)]
    assert [corners[0].evaluate(pair(plateau, boxes))["hit"] for boxes in corners[1:]] == [0.5, 0.5]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.floats(0, 12), st.integers(0, 2**32 - 1))
def test_share_of_hits_is_the_mean_of_the_hits_of_each_peak(count: int, tolerance: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    region = random.random((20, 30)) < 0.02
    region[3, 4] = True
    peaks = np.stack([random.integers(0, 20, count), random.integers(0, 30, count)], axis=1)
    each = [hits_region((int(x), int(y)), region, tolerance) for y, x in peaks]
    assert share_of_hits(peaks, region, tolerance) == pytest.approx(np.mean(each))


def test_class_mean_and_absent_classes() -> None:
    # Class 0: 1 of 2; class 1: 1 of 1; classes 2 and 3 do not occur.
    rows = table(
        [
            {"class_id": 0, "hit": True, "difficult": False},
            {"class_id": 0, "hit": False, "difficult": True},
            {"class_id": 1, "hit": True, "difficult": True},
        ]
    )
    dataset = SimpleNamespace(region="box", class_names=["a", "b", "c", "d"])
    assert PointingGame().resolve(dataset).aggregate(rows)["pointing"] == pytest.approx(0.75)
    zero = PointingGame(absent_classes="zero").resolve(dataset)
    assert zero.n_classes == 4
    assert zero.aggregate(rows)["pointing"] == pytest.approx(1.5 / 4)
    values = PointingGame(name="p", aggregate_by="pair_mean").resolve(dataset).aggregate(rows)
    assert values == {"p": pytest.approx(2 / 3), "p_class_mean": pytest.approx(0.75), "p_difficult": pytest.approx(0.5)}


def test_difficult_subset_is_small_object_and_distractor() -> None:
    def difficult(rows: int, classes: tuple[int, ...]) -> bool:
        own = pair(np.ones((10, 10)), [(0, 0, 10, rows)], image_classes=classes)
        return PointingGame().evaluate(own)["difficult"]

    assert not difficult(2, (0,))
    assert difficult(2, (0, 3))
    assert not difficult(3, (0, 3))


def test_resolve_follows_the_data_set_unless_told() -> None:
    dataset = SimpleNamespace(region="mask", class_names=["a"])
    assert PointingGame().resolve(dataset).region == "mask"
    assert PointingGame(region="box").resolve(dataset).region == "box"


def test_edges_are_named_reasons() -> None:
    metric, ones = PointingGame(), np.ones((8, 8))
    assert metric.evaluate(pair(ones, [(20, 20, 30, 30)])) == Skip("empty_region")
    assert metric.evaluate(pair(ones, [(-9, -9, 0, 0)])) == Skip("empty_region")
    assert metric.evaluate(pair(ones)) == Skip("empty_region")
    masked = PointingGame(region="mask")
    assert masked.evaluate(pair(ones, [(0, 0, 3, 3)])) == Skip("no_mask")
    assert masked.evaluate(pair(ones, masks=[np.zeros((8, 8))])) == Skip("empty_region")
    miss = {"hit": 0.0, "difficult": False}
    assert metric.evaluate(pair(ones * np.nan, [(0, 0, 3, 3)])) == Fail("non_finite_map", miss)
    assert metric.evaluate(pair(ones * 0, [(0, 0, 3, 3)])) == Fail("zero_map", miss)
    # A constant map points everywhere; one pixel is an image too.
    assert metric.evaluate(pair(ones, [(0, 0, 3, 3)]))["x"] == 0
    assert metric.evaluate(pair([[2.0]], [(0, 0, 1, 1)]))["hit"] == 1


def test_a_mask_that_cannot_be_decoded_is_a_failure() -> None:
    class Broken:
        def decode(self) -> np.ndarray:
            raise ValueError("polygon of two points")

    own = pair(np.ones((4, 4)), [(0, 0, 2, 2)])
    object.__setattr__(own.target, "masks", (Broken(),))
    assert PointingGame(region="mask").evaluate(own) == Fail(failure("bad_mask: polygon of two points"))


def test_no_record_is_nan() -> None:
    values = PointingGame().aggregate(pd.DataFrame({"image_id": [], "class_id": [], "hit": [], "difficult": []}))
    assert all(np.isnan(value) for value in values.values())


@pytest.mark.parametrize(
    ("options", "word"),
    [({"tolerance": -1}, "tolerance=-1"), ({"region": "boxes"}, "box, mask"), ({"absent_classes": "x"}, "zero")],
)
def test_bad_options_name_key_and_valid_values(options: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        PointingGame(**options)
