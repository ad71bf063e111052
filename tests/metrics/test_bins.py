"""The accuracy-binned protocol, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.engine.records import record
from decomcam_bench.metrics.base import Fail, Outcome, Skip
from decomcam_bench.metrics.bins import AccuracyBins, accuracy_bin, bin_table
from decomcam_bench.store.reader import evaluated
from tests.metrics.conftest import Counting, batch, table

_NAN = float("nan")


def _records(classes: dict[int, list[float | None]]) -> list[dict]:
    """For each class a list of insertions, None where the prediction was wrong; deletion is 0.1."""
    return [
        {
            "class_id": class_id,
            "correct": value is not None,
            "insertion": _NAN if value is None else value,
            "deletion": _NAN if value is None else 0.1,
            "overall": _NAN if value is None else value - 0.1,
        }
        for class_id, values in classes.items()
        for value in values
    ]


CLASSES = {0: [0.5, 0.7, 0.9, None], 1: [0.2, None], 2: [0.8, 0.6, 0.4, 0.2], 3: [None, None], 4: [0.4, 0.6, 0.2, None]}


def test_bins_by_hand() -> None:
    rows = bin_table(table(_records(CLASSES)))
    # Classes 0 and 4 have accuracy 0.75, class 1 0.5, class 2 1.0 (the last bin), class 3 0.
    assert rows["classes"].tolist() == [1, 0, 0, 0, 0, 1, 0, 2, 0, 1]
    assert rows["pairs"].tolist() == [2, 0, 0, 0, 0, 2, 0, 8, 0, 4]
    assert rows["correct"].tolist() == [0, 0, 0, 0, 0, 1, 0, 6, 0, 4]
    assert rows["centre"].tolist() == pytest.approx([0.05 + 0.1 * i for i in range(10)])
    assert rows["insertion"][7] == pytest.approx((0.5 + 0.7 + 0.9 + 0.4 + 0.6 + 0.2) / 6)
    assert rows["overall"][9] == pytest.approx(0.4)
    assert np.isnan(rows["insertion"][0])
    assert np.isnan(rows["insertion"][1])


def test_columns_equal_the_table() -> None:
    records = table(_records(CLASSES))
    metric = AccuracyBins(preset="decomcam")
    values, rows = metric.aggregate(records), bin_table(records)
    for curve in ("insertion", "deletion", "overall"):
        np.testing.assert_allclose([values[f"accuracy_bins_{curve}_{i}"] for i in range(10)], rows[curve])
        assert values[f"accuracy_bins_{curve}"] == pytest.approx(records[curve].mean())
    assert values["accuracy_bins_accuracy"] == pytest.approx(11 / 16)
    assert list(values) == [column.name for column in metric.columns]


def test_every_share_of_ten_falls_into_its_bin() -> None:
    hits = np.arange(11.0)
    assert accuracy_bin(hits, np.full(11, 10.0)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert accuracy_bin(np.array([7.0, 0.0]), np.array([100.0, 0.0])).tolist() == [0, -1]


def test_wrong_predictions_are_counted_and_not_scored() -> None:
    images = torch.eye(2).view(2, 1, 1, 2).expand(2, 3, 1, 2).contiguous()
    model = Counting(torch.eye(2).view(2, 1, 1, 2).expand(2, 3, 1, 2))
    metric = AccuracyBins(preset="decomcam")
    right, wrong = metric.evaluate_batch(batch(torch.rand(2, 1, 2), images, model, [0, 0]))
    assert right["correct"] is True
    assert wrong == Skip("misclassified", {"correct": False})
    assert record(wrong, metric) == {"status": "skipped", "reason": "misclassified", "detail": "", "correct": False}


def _sealed(outcomes: list[Outcome], metric: AccuracyBins) -> pd.DataFrame:
    """What is read back of records: those that the numbers follow from."""
    return evaluated(table([record(outcome, metric) for outcome in outcomes]), metric)


def test_accuracy_does_not_depend_on_the_maps() -> None:
    images = torch.eye(2).view(2, 1, 1, 2).repeat(2, 3, 1, 1)
    model = Counting(torch.eye(2).view(2, 1, 1, 2).expand(2, 3, 1, 2))
    metric, maps, classes = AccuracyBins(preset="decomcam"), torch.rand(4, 1, 2), [0, 0, 0, 1]
    every = metric.evaluate_batch(batch(maps, images, model, classes))
    failed = torch.tensor([True, True, False, False])
    some = metric.evaluate_batch(batch(maps, images, model, classes, valid=~failed, failed=failed))
    assert (some[0].reason, some[0].values["correct"]) == ("zero_map", True)
    assert some[1] == Skip("misclassified", {"correct": False})
    worst = metric.aggregate(_sealed(some, metric))
    every_value = [some[0].values["overall"], some[2]["overall"], some[3]["overall"]]
    assert worst["accuracy_bins_overall"] == pytest.approx(np.mean(every_value))
    metric = AccuracyBins(preset="decomcam", failure="drop")
    whole, part = (metric.aggregate(_sealed(outcomes, metric)) for outcomes in (every, some))
    assert part["accuracy_bins_accuracy"] == whole["accuracy_bins_accuracy"] == 0.75
    assert part["accuracy_bins_overall"] == pytest.approx(np.mean([some[2]["overall"], some[3]["overall"]]))
    assert bin_table(_sealed(some, metric))["correct"].sum() == 2
    # A map that is not finite is none; without scores of the image nothing is known.
    lost = metric.evaluate_batch(batch(maps * _NAN, images, model, classes))
    assert (lost[0].reason, lost[0].values["correct"]) == ("non_finite_map", True)
    none = _sealed(lost, metric)
    assert metric.aggregate(none)["accuracy_bins_accuracy"] == 0.75
    assert np.isnan(metric.aggregate(none)["accuracy_bins_overall"])
    assert bin_table(none)["pairs"].sum() == 4
    unknown = batch(maps, images * _NAN, model, classes)
    assert metric.evaluate_batch(unknown) == [Fail("non_finite_score")] * 4


def test_options_that_contradict_the_protocol() -> None:
    with pytest.raises(ConfigError, match="only_correct"):
        AccuracyBins(only_correct=False)
    with pytest.raises(ConfigError, match="curves"):
        AccuracyBins(curves="deletion")
