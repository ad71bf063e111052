"""Sums over images: every metric's aggregate is that of its records, however they are weighted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from decomcam_bench.config import registry
from decomcam_bench.metrics.aggregation import class_mean, mean_sums, ratio
from decomcam_bench.metrics.base import Metric

RANDOM = np.random.default_rng(5)


def records(pairs: int) -> pd.DataFrame:
    """Records that hold the values of every metric."""
    scalar = {
        name: RANDOM.random(pairs)
        for name in (
            *(
                "energy",
                "deletion",
                "insertion",
                "overall",
                "drop",
                "increase",
                "adcc",
                "coherency",
                "complexity",
                "ties",
                "specificity",
                "ssim_absent",
                "ssim_nonsense",
                "ssim_empty",
                "spearman_absent",
                "spearman_nonsense",
                "spearman_empty",
            ),
            *("pointing", "covered", "diversity", "pointing_floor", "energy_floor", "covered_floor"),
        )
    }
    counts = {name: RANDOM.integers(0, 9, pairs) for name in ("forward", "head", "backward")}
    flags = {name: RANDOM.random(pairs) < 0.6 for name in ("hit", "difficult", "correct")}
    arrays = {
        name: list(RANDOM.random((pairs, width))) for name, width in (("best_iou", 100), ("iou", 19), ("iou_floor", 19))
    }
    histograms = {name: list(RANDOM.integers(0, 9, (pairs, 101))) for name in ("object", "background")}
    scalar.update({name: RANDOM.random(pairs) for name in ("positive", "negative")})
    scalar.update({f"{name}_accuracy": RANDOM.random(pairs) for name in ("positive", "negative")})
    scalar["soft_iou"], scalar["ap"] = RANDOM.random(pairs), RANDOM.random(pairs)
    pixels = RANDOM.integers(0, 9, (pairs, 3)).cumsum(axis=1) + 10
    counts.update(both=pixels[:, 0], drawn=pixels[:, 1], region=pixels[:, 1] + 5, pixels=pixels[:, 2] + 40)
    arrays["above_object"] = [np.sort(RANDOM.integers(0, 9, 100))[::-1] for _ in range(pairs)]
    arrays["above"] = [own + int(RANDOM.integers(0, 9)) for own in arrays["above_object"]]
    classes = RANDOM.integers(0, 7, pairs)
    identity = {
        "image_id": [f"image{i:03d}" for i in RANDOM.integers(0, pairs // 2, pairs)],
        "class_id": classes,
        "class_name": [f"class{c}" for c in classes],
    }
    return pd.DataFrame({**identity, **scalar, **counts, **flags, **arrays, **histograms})


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return records(60)


@pytest.fixture(params=registry.names("metric"))
def metric(request: pytest.FixtureRequest) -> Metric:
    return registry.build("metric", registry.read("metric", request.param))


def test_aggregate_has_the_columns_within_their_range(metric: Metric, rows: pd.DataFrame) -> None:
    values = metric.aggregate(rows)
    assert list(values) == [column.name for column in metric.columns]
    for column in metric.columns:
        if not np.isnan(values[column.name]):
            assert column.low is None or values[column.name] >= column.low - 1e-12
            assert column.high is None or values[column.name] <= column.high + 1e-12


def test_weights_are_repetitions_of_the_image(metric: Metric, rows: pd.DataFrame) -> None:
    sums = metric.image_sums(rows)
    weights = np.random.default_rng(1).integers(0, 4, len(sums.image_ids))
    weighted = sums.combine(np.asarray(weights[None, :] @ sums.sums).reshape(1, -1))
    copies = []
    for image, weight in zip(sums.image_ids, weights, strict=True):
        own = rows[rows["image_id"] == image]
        copies += [own.assign(image_id=f"{image}_{copy}") for copy in range(weight)]
    expected = metric.aggregate(pd.concat(copies))
    for name, value in expected.items():
        assert weighted[name][0] == pytest.approx(value, nan_ok=True, abs=1e-12)


def test_order_of_the_records_does_not_matter(metric: Metric, rows: pd.DataFrame) -> None:
    shuffled = rows.sample(frac=1, random_state=3)
    for name, value in metric.aggregate(rows).items():
        assert metric.aggregate(shuffled)[name] == pytest.approx(value, nan_ok=True, abs=1e-12)


def test_no_record_is_nan(metric: Metric, rows: pd.DataFrame) -> None:
    values = metric.aggregate(rows.iloc[:0])
    assert list(values) == [column.name for column in metric.columns]
    assert all(np.isnan(value) for value in values.values())


def test_every_metric_says_what_it_is(metric: Metric) -> None:
    shown = [column for column in metric.columns if not column.detail]
    assert shown
    assert all(column.direction in ("higher", "lower", "none") and column.unit for column in metric.columns)
    assert len({column.name for column in metric.columns}) == len(metric.columns)


@pytest.mark.parametrize("name", registry.names("metric"))
def test_every_yaml_writes_its_defaults_out(name: str) -> None:
    config = registry.read("metric", name)
    built = registry.build("metric", config)
    own = {key for key in vars(built) if key not in ("name", "n_classes")}
    assert own == set(config) - set(registry.DESCRIPTIVE)


def test_values_that_are_not_known_take_no_part() -> None:
    rows = pd.DataFrame({"image_id": ["a", "a", "b"], "x": [1.0, np.nan, 0.0], "y": [np.nan] * 3})
    values = mean_sums(rows, {"mean_x": "x", "mean_y": "y"}).aggregate()
    assert values["mean_x"] == 0.5
    assert np.isnan(values["mean_y"])


def test_class_mean_and_ratio() -> None:
    hits, counts = np.array([[1.0, 0, 3], [0, 0, 0]]), np.array([[2.0, 0, 3], [0, 0, 0]])
    np.testing.assert_allclose(class_mean(hits, counts, None), [0.75, np.nan])
    np.testing.assert_allclose(class_mean(hits, counts, 3), [0.5, np.nan])
    np.testing.assert_allclose(ratio(np.array([1.0, 2.0]), np.array([4.0, 0.0])), [0.25, np.nan])
