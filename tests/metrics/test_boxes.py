"""Box accuracy: against wsolevaluation's and gScoreCAM's vectors, and by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.metrics import boxes
from decomcam_bench.metrics.base import Fail, Outcome, PairMap, Skip
from decomcam_bench.metrics.boxes import (
    MaxBoxAcc,
    MeanBestIoU,
    OtsuBoxAccuracy,
    boxes_at_thresholds,
    inclusive_iou,
    min_max,
    otsu_box,
    resized_boxes,
    thresholds,
)
from tests.metrics.conftest import pair, table

LEVELS = (0.3, 0.5, 0.7)


@pytest.fixture(scope="module")
def pairs(reference: dict[str, np.ndarray]) -> list[PairMap]:
    boxes = reference["boxes_flat"]
    return [pair(reference["maps"][i], boxes[boxes[:, 0] == i][:, 1:]) for i in range(12)]


@pytest.mark.parametrize(("version", "contours"), [(1, "largest"), (2, "all")])
def test_equal_to_wsolevaluation(
    reference: dict[str, np.ndarray], pairs: list[PairMap], version: int, contours: str
) -> None:
    metric = MaxBoxAcc(name="m", contours=contours, iou_levels=LEVELS)
    rows = [metric.evaluate(own) for own in pairs]
    best = np.stack([row["best_iou"] for row in rows])
    counts = np.stack([(best >= level).sum(axis=0) for level in LEVELS])
    np.testing.assert_array_equal(counts, reference[f"wsol/num_correct_v{version}"])
    values = metric.aggregate(table(rows))
    expected = reference[f"wsol/maxboxacc_v{version}"] / 100
    assert [values[f"m_{level}"] for level in (30, 50, 70)] == pytest.approx(expected, abs=1e-12)
    assert values["m"] == pytest.approx(expected.mean(), abs=1e-12)


def test_equal_to_gscorecam(reference: dict[str, np.ndarray], pairs: list[PairMap]) -> None:
    outcomes = [OtsuBoxAccuracy().evaluate(own) for own in pairs]
    np.testing.assert_array_equal([o["box"] for o in outcomes], reference["gscorecam/otsu_box"])
    np.testing.assert_array_equal([o["threshold"] for o in outcomes], reference["gscorecam/otsu_threshold"])


def _drawn(scores: np.ndarray, cut: float) -> tuple[list[list[int]], list[int]]:
    """Boxes at one threshold and that of the largest contour, drawn as the reference draws them."""
    image = (scores * 255).astype(np.uint8)
    above = (image > int(cut * image.max())).astype(np.uint8) * 255
    contours = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    height, width = scores.shape
    found = [cv2.boundingRect(contour) for contour in contours] or [(0, 0, 0, 0)]
    boxes = [[x, y, min(x + w, width - 1), min(y + h, height - 1)] for x, y, w, h in found]
    areas = [cv2.contourArea(contour) for contour in contours] or [0.0]
    return sorted(boxes), boxes[areas.index(max(areas))]


def _check_against_the_reference(scores: np.ndarray, cuts: np.ndarray) -> None:
    drawn = boxes_at_thresholds(scores, cuts)
    ends = [*drawn.starts[1:].tolist(), len(drawn.boxes)]
    for place, cut in enumerate(cuts):
        boxes, largest = _drawn(scores, cut)
        assert sorted(drawn.boxes[drawn.starts[place] : ends[place]].tolist()) == boxes
        assert drawn.starts[place] <= drawn.largest[place] < ends[place]
        assert drawn.boxes[drawn.largest[place]].tolist() == largest


@pytest.mark.parametrize("interpolation", [cv2.INTER_CUBIC, cv2.INTER_NEAREST])
@pytest.mark.parametrize("seed", range(3))
def test_boxes_of_all_thresholds_are_those_of_each(seed: int, interpolation: int) -> None:
    coarse = np.random.default_rng(seed).random((7, 9)) ** 3
    _check_against_the_reference(min_max(cv2.resize(coarse, (90, 70), interpolation=interpolation)), thresholds(0.01))


@pytest.mark.parametrize("levels", [2, 3, 256])
@pytest.mark.parametrize("sigma", [0, 0.6, 1.5])
def test_boxes_of_noise_with_holes_gaps_and_ties(sigma: float, levels: int) -> None:
    random = np.random.default_rng(0)
    for number in range(60):
        scores = random.random(tuple(random.integers(1, 30, 2)))
        scores = cv2.GaussianBlur(scores, (0, 0), sigma) if sigma else scores
        if number % 3 == 0:
            scores = scores + scores[:, ::-1]  # of two contours as large, the reference takes the first
        _check_against_the_reference(np.floor(min_max(scores) * levels) / levels, thresholds(0.1))


def test_holes_are_contours_and_the_largest_is_the_outer_one() -> None:
    ring = np.zeros((40, 40))
    ring[5:35, 5:35] = 1
    ring[10:30, 12:28] = 0
    drawn = boxes_at_thresholds(ring, np.array([0.5]))
    # The hole's border runs on the ring, one pixel outside the hole.
    assert sorted(map(tuple, drawn.boxes.tolist())) == [(5, 5, 35, 35), (11, 9, 29, 31)]
    assert drawn.boxes[drawn.largest[0]].tolist() == [5, 5, 35, 35]


def test_iou_takes_corners_as_inclusive() -> None:
    # [0, 1] x [0, 1] holds 4 pixels, [1, 2] x [0, 1] holds 4, they share 2.
    assert inclusive_iou(np.array([[0, 0, 1, 1]]), np.array([[1, 0, 2, 1]])) == pytest.approx(np.array([[2 / 6]]))
    assert inclusive_iou(np.array([[5, 5, 2, 2]]), np.array([[0, 0, 9, 9]])) == 0


def test_files_that_name_the_last_pixel_are_read_as_the_references_do() -> None:
    # The line 10,10,19,19 of wsolevaluation: 10 x 10 pixels. Drawn round rows 10..15, columns 10..16: [10, 10, 17, 16].
    scores = np.zeros((224, 224))
    scores[10:16, 10:17] = 1
    own = pair(scores, [(10, 10, 20, 20)], inclusive=True)
    assert own.target.corners.tolist() == [[10, 10, 19, 19]]
    assert MaxBoxAcc().evaluate(own)["best_iou"].max() == pytest.approx(8 * 7 / 100)
    assert OtsuBoxAccuracy().evaluate(own)["iou"] == pytest.approx(8 * 7 / 100)
    # COCO's x + w stays: 11 x 11 in the eyes of the references.
    assert OtsuBoxAccuracy().evaluate(pair(scores, [(10, 10, 20, 20)]))["iou"] == pytest.approx(8 * 7 / 121)


def test_boxes_are_truncated_at_the_new_size() -> None:
    box = np.array([[10.0, 20.0, 333.0, 374.0]])
    # 10 * 224 / 500 = 4.48, 20 * 224 / 375 = 11.95, 149.2, 223.4.
    assert resized_boxes(box, (375, 500), (224, 224)).tolist() == [[4, 11, 149, 223]]


def _hits(best: list[list[float]]) -> pd.DataFrame:
    return table([{"best_iou": np.array(row)} for row in best])


def test_threshold_is_chosen_over_the_data_set() -> None:
    # Each image has a threshold that suits it (0.5 or 0.0): per image the accuracy would be 1.
    metric = MaxBoxAcc(name="m", threshold_step=0.5)
    values = metric.aggregate(_hits([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8]]))
    assert values == {"m": pytest.approx(2 / 3), "m_50": pytest.approx(2 / 3), "m_50_threshold": 0.5}
    mean = MeanBestIoU(name="b", threshold_step=0.5).aggregate(_hits([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8]]))
    assert mean == {"b": pytest.approx(0.6), "b_threshold": 0.5}


def test_levels_choose_their_thresholds_apart() -> None:
    metric = MaxBoxAcc(name="m", threshold_step=0.5, iou_levels=(0.3, 0.7))
    values = metric.aggregate(_hits([[0.4, 0.0], [0.4, 0.8]]))
    assert values["m"] == pytest.approx((1 + 0.5) / 2)
    assert (values["m_30_threshold"], values["m_70_threshold"]) == (0.0, 0.5)


def test_levels_that_round_to_one_per_cent_have_columns_of_their_own() -> None:
    metric = MaxBoxAcc(name="m", iou_levels=(0.07, 0.501, 0.502))
    names = [column.name for column in metric.columns]
    assert names[:4] == ["m", "m_7", "m_50.1", "m_50.2"]
    assert list(metric.aggregate(_hits([[0.6] * 100]))) == names


def test_iou_exactly_at_the_level_is_a_hit() -> None:
    exact = np.array([[0, 0, 6, 0]]), np.array([[0, 0, 9, 0]])
    assert inclusive_iou(*exact)[0, 0] == 0.7
    assert MaxBoxAcc(name="m", threshold_step=0.5, iou_levels=(0.7,)).aggregate(_hits([[0.7, 0.0]]))["m"] == 1


def test_constant_map_draws_the_default_boxes() -> None:
    own = pair(np.full((50, 60), 0.3), [(10, 10, 30, 30)])
    assert (MaxBoxAcc().evaluate(own)["best_iou"] == 0).all()
    outcome = OtsuBoxAccuracy().evaluate(own)
    assert outcome["box"].tolist() == [0, 0, 1, 1]
    assert outcome["hit"] is False


def test_otsu_takes_the_largest_rectangle_not_the_largest_area() -> None:
    scores = np.zeros((40, 40), np.float32)
    scores[2:12, 2:12] = 1
    scores[np.arange(15, 38), np.arange(15, 38)] = 1
    assert otsu_box(scores)[0].tolist() == [15, 15, 38, 38]


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-120, 2.0**-60, 2.0**-30, 2.0**30, 2.0**120])
def test_otsu_does_not_depend_on_the_scale(scale: float) -> None:
    scores = (np.random.default_rng(0).integers(0, 256, (30, 40)) / 256).astype(np.float32)
    box, threshold = otsu_box(scores)
    scaled = otsu_box((scores * scale).astype(np.float32))
    assert (scaled[0].tolist(), scaled[1]) == (box.tolist(), threshold)


def test_otsu_hits_any_instance_and_reports_pairs() -> None:
    scores = np.zeros((40, 40), np.float32)
    scores[10:20, 10:20] = 1
    outcome = OtsuBoxAccuracy().evaluate(pair(scores, [(30, 30, 40, 40), (10, 10, 20, 20)]))
    assert outcome["hit"] is True
    assert outcome["iou"] == 1.0
    rows = table([{"class_id": 0, "hit": True}, {"class_id": 0, "hit": True}, {"class_id": 1, "hit": False}])
    values = OtsuBoxAccuracy().aggregate(rows)
    assert values == {"otsu_box": pytest.approx(2 / 3), "otsu_box_class_mean": pytest.approx(0.5)}


@pytest.mark.parametrize("metric", [MaxBoxAcc(), MaxBoxAcc(contours="largest"), MeanBestIoU(), OtsuBoxAccuracy()])
def test_edges(metric: MaxBoxAcc) -> None:
    def outcome(scores: np.ndarray, boxes: list[tuple[int, ...]]) -> Outcome:
        return metric.evaluate(pair(scores, boxes))

    ones = np.ones((8, 8))
    assert outcome(ones, []) == Skip("empty_region")
    assert outcome(ones, [(9, 9, 12, 12)]) == Skip("empty_region")
    for scores, reason in ((ones * np.nan, "non_finite_map"), (ones * 0, "zero_map")):
        missed = outcome(scores, [(0, 0, 4, 4)])
        assert isinstance(missed, Fail)
        assert missed.reason == reason
        # A box of the first pixel alone.
        found = missed.values["iou"] if isinstance(metric, OtsuBoxAccuracy) else np.max(missed.values["best_iou"])
        assert 0 < found < 0.2
    assert isinstance(outcome(np.array([[1.0]]), [(0, 0, 1, 1)]), dict)
    # Ties everywhere but one pixel.
    ones[3, 3] = 2
    assert isinstance(outcome(ones, [(0, 0, 4, 4)]), dict)


def test_the_map_is_taken_from_the_squashed_input_where_it_shows_the_whole_image() -> None:
    saliency = np.random.default_rng(0).random((224, 224)).astype(np.float32)
    own = pair(np.ones((90, 120)), [(0, 0, 60, 60)])
    squashed = PairMap(saliency, lambda a: cv2.resize(a, (120, 90)), own.target, 120, 90, whole_image=True)
    np.testing.assert_array_equal(squashed.at_size(224, 224), saliency.astype(np.float64))
    cropped = PairMap(saliency, lambda a: cv2.resize(a, (120, 90)), own.target, 120, 90)
    assert np.abs(cropped.at_size(224, 224) - saliency).max() > 0.1


def test_metrics_of_one_map_search_and_compare_contours_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    find, compare = cv2.findContoursLinkRuns, boxes.inclusive_iou
    monkeypatch.setattr(cv2, "findContoursLinkRuns", lambda *a: calls.append(1) or find(*a))
    monkeypatch.setattr(boxes, "inclusive_iou", lambda *a: calls.append(1) or compare(*a))
    own = pair(np.random.default_rng(1).random((30, 30)), [(0, 0, 9, 9)])
    MaxBoxAcc().evaluate(own)
    first = len(calls)
    MaxBoxAcc(contours="largest").evaluate(own)
    MeanBestIoU().evaluate(own)
    assert len(calls) == first > 0


@pytest.mark.parametrize(
    "options",
    [
        {"contours": "biggest"},
        {"size": 0},
        {"size": 1_000_000},
        {"threshold_step": 0.0},
        {"threshold_step": 1e-9},
        {"iou_levels": ()},
        {"iou_levels": (50.0,)},
        {"iou_levels": (0.5, 0.5)},
    ],
)
def test_bad_options(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        MaxBoxAcc(**options)


def _wsolevaluation(maps: list[np.ndarray], annotated: list[list[int]], contours: str) -> float:
    """``BoxEvaluator`` (96f4b88) written out: maps of zeros give the box (0, 0, 0, 0) and are counted."""
    hits = np.zeros(100)
    for scores, box in zip(maps, annotated, strict=True):
        good = np.isfinite(scores).all() and scores.max() > scores.min()
        scaled = (scores - scores.min()) / (scores.max() - scores.min()) if good else np.zeros_like(scores)
        for place, cut in enumerate(np.arange(0, 1, 0.01)):
            drawn, largest = _drawn(scaled, cut)
            boxes = np.array([largest] if contours == "largest" else drawn)
            hits[place] += inclusive_iou(boxes, np.array([box])).max() >= 0.5
    return float(100 * hits.max() / len(maps))


@pytest.mark.parametrize("contours", ["largest", "all"])
def test_maps_of_zeros_and_nan_are_misses_as_in_wsolevaluation(contours: str) -> None:
    random = np.random.default_rng(0)
    maps, annotated = [], []
    for _ in range(16):
        x, y = random.integers(0, 120, 2)
        blob = np.zeros((224, 224))
        blob[y : y + 80, x : x + 80] = 1
        maps.append(cv2.GaussianBlur(blob, (0, 0), 12) + 0.3 * cv2.resize(random.random((5, 5)), (224, 224)))
        annotated.append([int(x), int(y), int(x + 80), int(y + 80)])
    maps[3], maps[9], maps[12] = maps[3] * 0, maps[9] * np.nan, maps[12] * 0 + 7
    metric = MaxBoxAcc(name="m", contours=contours)
    rows = []
    for scores, box in zip(maps, annotated, strict=True):
        outcome = metric.evaluate(pair(scores, [box]))
        rows.append(dict(outcome.values) if isinstance(outcome, Fail) else outcome)
    expected = _wsolevaluation(maps, annotated, contours)
    assert 0 < expected < 100
    assert 100 * metric.aggregate(table(rows))["m"] == pytest.approx(expected, abs=1e-12)
