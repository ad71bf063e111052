"""Intervals, permutations and Holm's correction: against scipy, full enumeration and simulation."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.metrics.aggregation import ImageSums
from decomcam_bench.metrics.bins import AccuracyBins
from decomcam_bench.metrics.boxes import MaxBoxAcc
from decomcam_bench.metrics.energy import Energy
from decomcam_bench.metrics.pointing import PointingGame
from decomcam_bench.metrics.pxap import PxAP
from decomcam_bench.stats import resampling
from decomcam_bench.stats.comparison import compare, holm, permutations_for, smallest_p
from decomcam_bench.stats.intervals import Interval, intervals, jackknife


def bootstrap(sums: ImageSums, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> dict[str, Interval]:
    return intervals(sums, dict.fromkeys(sums.kinds, (0, 1)), resamples, seed, level)


def _energy(values: np.ndarray, images: np.ndarray | None = None) -> pd.DataFrame:
    images = np.arange(len(values)) if images is None else images
    return pd.DataFrame({"image_id": [f"{i:05d}" for i in images], "class_id": range(len(values)), "energy": values})


def _hits(hit: np.ndarray, classes: np.ndarray, images: np.ndarray) -> pd.DataFrame:
    names = [f"{i:05d}" for i in images]
    return pd.DataFrame({"image_id": names, "class_id": classes, "hit": hit, "difficult": False})


def test_interval_of_a_mean_is_near_students() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    interval = bootstrap(Energy().image_sums(_energy(values)))["energy"]
    expected = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert interval.estimate == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx(expected, abs=6e-4)


def test_level_widens_the_interval() -> None:
    sums = Energy().image_sums(_energy(np.random.default_rng(0).random(100)))
    narrow, wide = bootstrap(sums, level=0.5)["energy"], bootstrap(sums, level=0.99)["energy"]
    assert wide.low < narrow.low < narrow.high < wide.high


def test_images_are_resampled_not_pairs() -> None:
    # Ten equal pairs an image: as uncertain as one pair an image.
    values = np.random.default_rng(1).random(80)
    one = bootstrap(Energy().image_sums(_energy(values)))["energy"]
    ten = bootstrap(Energy().image_sums(_energy(np.repeat(values, 10), np.repeat(np.arange(80), 10))))["energy"]
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high), abs=1e-12)


@pytest.mark.parametrize("images", [15, 120])
def test_coverage_of_a_mean_over_clusters(images: int) -> None:
    random, covered, trials = np.random.default_rng(2), 0, 300
    for trial in range(trials):
        pairs = random.integers(1, 4, images)
        shared = np.repeat(random.normal(0, 1, images), pairs)
        values = 1.0 + shared + random.normal(0, 1, pairs.sum())
        records = _energy(values, np.repeat(np.arange(images), pairs))
        interval = intervals(Energy().image_sums(records), None, 600, trial)["energy"]
        covered += interval.low <= 1.0 <= interval.high
    # 95 % within three standard errors; the smaller sample may lose one point more.
    slack = 3 * np.sqrt(0.95 * 0.05 / trials)
    assert 0.95 - slack - (0.01 if images < 30 else 0) <= covered / trials <= 0.95 + slack


def test_coverage_of_a_class_mean() -> None:
    random, covered, trials = np.random.default_rng(3), 0, 250
    chance = np.array([0.3, 0.5, 0.8])
    for trial in range(trials):
        classes = random.integers(0, 3, 240)
        hit = random.random(240) < chance[classes]
        sums = PointingGame().image_sums(_hits(hit, classes, np.arange(240)))
        interval = bootstrap(sums, 600, trial)["pointing"]
        covered += interval.low <= chance.mean() <= interval.high
    assert covered / trials == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / trials))


def test_coverage_of_the_best_threshold() -> None:
    random, covered, trials = np.random.default_rng(4), 0, 300
    # The chance of a hit at ten thresholds; the best one is 0.6.
    chance = np.array([0.1, 0.3, 0.5, 0.58, 0.6, 0.55, 0.4, 0.3, 0.2, 0.1])
    metric = MaxBoxAcc(name="m", threshold_step=0.1)
    for trial in range(trials):
        common = random.random((200, 1))
        best = np.where(common < chance, 0.9, 0.1)
        records = pd.DataFrame({"image_id": [f"{i}" for i in range(200)], "class_id": 0, "best_iou": list(best)})
        interval = bootstrap(metric.image_sums(records), 500, trial)["m"]
        covered += interval.low <= 0.6 <= interval.high
    assert covered / trials == pytest.approx(0.95, abs=3.5 * np.sqrt(0.95 * 0.05 / trials))


def test_coverage_of_the_best_of_many_thresholds_in_a_small_sample() -> None:
    cuts = np.arange(0, 1, 0.01)

    def best_iou(random: np.random.Generator, images: int) -> np.ndarray:
        """Each image has a threshold of its own at which its box is best."""
        centre, height = random.beta(2, 4, (images, 1)), random.beta(4, 2.5, (images, 1))
        return height * np.exp(-(((cuts - centre) / (0.1 + 0.3 * random.random((images, 1)))) ** 2))

    metric, covered, trials = MaxBoxAcc(name="m"), 0, 250
    truth = (best_iou(np.random.default_rng(99), 50_000) >= 0.5).mean(axis=0).max()
    for trial in range(trials):
        best = best_iou(np.random.default_rng(trial), 30)
        records = pd.DataFrame({"image_id": [f"{i}" for i in range(30)], "class_id": 0, "best_iou": list(best)})
        interval = bootstrap(metric.image_sums(records), 300, trial)["m"]
        assert interval.low <= interval.estimate <= interval.high
        covered += interval.low <= truth <= interval.high
    # By the bootstrap 0.884, with an allowance for the optimism of the choice 0.908; the standard error is 0.014.
    assert covered / trials > 0.93


def test_an_interval_of_threshold_metrics_holds_the_estimate_where_the_maximum_is_over_noise() -> None:
    records = pd.DataFrame({"image_id": [f"{i}" for i in range(500)], "class_id": 0})
    records["best_iou"] = list(np.random.default_rng(5).random((500, 100)))
    interval = bootstrap(MaxBoxAcc(name="m").image_sums(records), 2000)["m"]
    assert interval.low < interval.estimate < interval.high


def _best(random: np.random.Generator, images: int) -> pd.DataFrame:
    names = [f"{i:03d}" for i in range(images)]
    return pd.DataFrame({"image_id": names, "class_id": 0, "best_iou": list(random.random((images, 100)))})


def test_seeded() -> None:
    sums = MaxBoxAcc(name="m").image_sums(_best(np.random.default_rng(6), 50))
    first, again, other = bootstrap(sums, 500, 1), bootstrap(sums, 500, 1), bootstrap(sums, 500, 2)
    assert first == again
    assert first != other


def test_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BLOCK_WEIGHTS", 5000)
    blocks = list(resampling.weight_blocks(50, resampling.multinomial, 230, 0))
    assert [block.shape for block in blocks] == [(100, 50), (100, 50), (30, 50)]


def test_jackknife_of_a_mean_is_the_variance_of_a_mean() -> None:
    values = np.random.default_rng(20).random(37)
    sums = Energy().image_sums(_energy(values))
    assert jackknife(sums.sums, sums.combine)["energy"] == pytest.approx(values.var(ddof=1) / 37)
    many = np.random.default_rng(21).random(5000)
    sums = Energy().image_sums(_energy(many))
    assert jackknife(sums.sums, sums.combine)["energy"] == pytest.approx(many.var(ddof=1) / 5000, rel=0.12)


def test_jackknife_of_a_class_mean_is_that_of_its_strata() -> None:
    random = np.random.default_rng(22)
    classes, hit = np.arange(60) % 5, random.random(60) < 0.6
    sums = PointingGame().image_sums(_hits(hit, classes, np.arange(60)))
    expected = np.mean([hit[classes == c].var(ddof=1) / 12 for c in range(5)]) / 5
    # Leaving one of 12 out of a class: (59 / 60) of the stratified variance, to within 1 / 12.
    assert jackknife(sums.sums, sums.combine)["pointing"] == pytest.approx(expected, rel=0.1)


def test_a_share_of_all_hits_has_an_interval_of_a_width() -> None:
    hit, images = np.ones(24), np.arange(24)
    interval = bootstrap(PointingGame().image_sums(_hits(hit, images % 3, images)))["pointing"]
    quantile = stats.t.ppf(0.975, 23)
    assert (interval.low, interval.high) == (pytest.approx(24 / (24 + quantile**2)), 1.0)


def test_wilsons_ends_are_those_of_scipy_for_a_plain_share() -> None:
    hit = np.arange(2000) < 1700
    interval = bootstrap(PointingGame(aggregate_by="pair_mean").image_sums(_hits(hit, 0 * hit, np.arange(2000))))
    expected = stats.binomtest(1700, 2000).proportion_ci(method="wilson")
    assert (interval["pointing"].low, interval["pointing"].high) == pytest.approx(expected, abs=2e-4)


def test_a_number_without_variation_has_an_interval_of_no_width() -> None:
    interval = bootstrap(Energy().image_sums(_energy(np.full(20, 0.3))))["energy"]
    assert interval.low == interval.high == interval.estimate


@pytest.mark.parametrize("chance", [0.5, 0.8])
def test_coverage_of_a_class_mean_with_one_image_a_class(chance: float) -> None:
    """By the bootstrap 0.87 to 0.895: it never draws 37 % of the classes."""
    of_class, covered, trials = np.random.default_rng(23).beta(3 * chance, 3 * (1 - chance), 30), 0, 300
    for trial in range(trials):
        hit = np.random.default_rng(trial).random(30) < of_class
        interval = bootstrap(PointingGame().image_sums(_hits(hit, np.arange(30), np.arange(30))))["pointing"]
        covered += interval.low <= of_class.mean() <= interval.high
    assert covered / trials > 0.93


def test_coverage_of_a_share_near_one() -> None:
    """By the bootstrap an interval of no width in a quarter of the cases."""
    covered, trials = 0, 400
    for trial in range(trials):
        hit = np.random.default_rng(trial).random(12) < 0.9
        interval = bootstrap(PointingGame().image_sums(_hits(hit, 0 * hit, np.arange(12))))["pointing"]
        assert interval.high > interval.low
        covered += interval.low <= 0.9 <= interval.high
    assert covered / trials > 0.93


@pytest.mark.parametrize("peaks", [(0.4, 0.4), (0.3, 0.6)])
def test_size_of_the_test_of_the_best_threshold(peaks: tuple[float, float]) -> None:
    """By permutations 0.138 where the best thresholds differ: a mixture of two methods has no good one."""
    cuts, trials, rejected = np.arange(0, 1, 0.01), 160, 0

    def records(random: np.random.Generator, peak: float, common: np.ndarray) -> pd.DataFrame:
        top = 0.5 * common + 0.5 * random.uniform(0.3, 0.95, 60)
        best = top[:, None] * np.exp(-(((cuts - peak - random.normal(0, 0.12, (60, 1))) / 0.25) ** 2))
        return pd.DataFrame({"image_id": [f"{i}" for i in range(60)], "class_id": 0, "best_iou": list(best)})

    for trial in range(trials):
        random = np.random.default_rng(trial)
        common = random.uniform(0.3, 0.95, 60)
        both = [records(random, peak, common) for peak in peaks]
        made = compare(MaxBoxAcc(name="m"), *both, resamples=200, seed=trial)["m"]
        rejected += made.p < 0.05
        # The test and the interval agree.
        assert (made.p < 0.05) == (not made.low <= 0 <= made.high)
    assert rejected / trials == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / trials))


def test_four_images_can_never_be_significant() -> None:
    assert smallest_p(4) == 0.125
    far = [_energy(np.full(4, value) + np.arange(4) / 100) for value in (0.9, 0.1)]
    assert compare(Energy(), *far, resamples=2000)["energy"].p == pytest.approx(0.125, abs=0.03)
    best = [_best(np.random.default_rng(0), 4).assign(best_iou=[np.full(100, v)] * 4) for v in (0.9, 0.1)]
    assert compare(MaxBoxAcc(name="m"), *best, resamples=200)["m"].p == 0.125


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_have_no_interval(count: int) -> None:
    metric = Energy()
    interval = bootstrap(metric.image_sums(_energy(np.full(1, 0.5))))["energy"] if count else None
    if interval is not None:
        assert interval.estimate == 0.5
        assert np.isnan(interval.low)
        assert np.isnan(interval.high)
    made = compare(metric, _energy(np.full(count, 0.5)), _energy(np.full(0, 0.5)))
    assert (made["energy"].images, made["energy"].left_out) == (0, count)
    assert np.isnan(made["energy"].p)


def test_weights_of_a_resample_are_multinomial() -> None:
    random = np.random.Generator(np.random.SFC64(0))
    drawn = np.empty((4000, 6))
    resampling.multinomial(random, drawn)
    assert (drawn.sum(axis=1) == 6).all()
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(drawn.var(axis=0), 5 / 6, atol=0.08)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(-1 / 5, abs=0.06)


def test_wide_and_sparse_sums_give_the_same_as_the_definition() -> None:
    random = np.random.default_rng(8)
    rows = pd.DataFrame({"image_id": [f"{i:03d}" for i in range(40)], "class_id": np.arange(40) % 9})
    rows["object"] = list(random.integers(0, 50_000, (40, 101)))
    rows["background"] = list(random.integers(0, 50_000, (40, 101)))
    rows["hit"], rows["difficult"] = random.random(40) < 0.5, False
    for metric in (PxAP(), PointingGame()):
        sums = metric.image_sums(rows)
        (weights,) = resampling.weight_blocks(40, resampling.multinomial, 20, 3)
        dense = np.asarray(sums.sums.todense()) if not isinstance(sums.sums, np.ndarray) else sums.sums
        np.testing.assert_allclose(resampling.weighted(sums.sums, weights), weights @ dense, rtol=1e-6)


def test_permutation_is_that_of_all_swaps() -> None:
    random = np.random.default_rng(9)
    a, b = random.random(9) + 0.25, random.random(9)
    gaps = a - b
    swaps = [abs(np.mean(gaps * signs)) for signs in itertools.product((1, -1), repeat=9)]
    exact = np.mean([gap >= abs(gaps.mean()) - 1e-12 for gap in swaps])
    made = compare(Energy(), _energy(a), _energy(b), resamples=20_000)["energy"]
    assert made.difference == pytest.approx(gaps.mean())
    assert made.p == pytest.approx(exact, abs=4 * np.sqrt(exact / 20_000))


def test_permutation_recomputes_the_class_mean() -> None:
    random = np.random.default_rng(10)
    classes, images = np.array([0, 0, 0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 3, 3, 4, 5, 5])
    a, b = random.random(8) < 0.8, random.random(8) < 0.3
    records = [_hits(hit, classes, images) for hit in (a, b)]
    records = [frame.assign(class_id=classes + 2 * (frame.groupby("image_id").cumcount() > 0)) for frame in records]
    own = records[0]["class_id"].to_numpy()

    def mean(hit: np.ndarray) -> float:
        return float(np.mean([hit[own == c].mean() for c in np.unique(own)]))

    observed, every = mean(a) - mean(b), []
    for swap in itertools.product((False, True), repeat=6):
        swapped = np.array(swap)[images]
        every.append(mean(np.where(swapped, b, a)) - mean(np.where(swapped, a, b)))
    exact = np.mean([abs(gap) >= abs(observed) - 1e-12 for gap in every])
    made = compare(PointingGame(), *records, resamples=20_000)["pointing"]
    assert made.difference == pytest.approx(observed)
    assert made.p == pytest.approx(exact, abs=0.012)


def test_methods_with_other_best_thresholds_can_be_equal() -> None:
    # Each method is right at a threshold of its own; a swap would mix them and ruin both.
    first, second = np.tile([0.9, 0.1], (8, 1)), np.tile([0.1, 0.9], (8, 1))
    frames = [
        pd.DataFrame({"image_id": [f"{i}" for i in range(8)], "class_id": 0, "best_iou": list(best)})
        for best in (first, second)
    ]
    metric = MaxBoxAcc(name="m", threshold_step=0.5)
    made = compare(metric, *frames, resamples=2000)["m"]
    assert (made.difference, made.p) == (0.0, 1.0)


def test_equal_methods_have_p_one_and_no_false_alarms_in_general() -> None:
    random = np.random.default_rng(11)
    values = random.random(60)
    made = compare(Energy(), _energy(values), _energy(values), 200)["energy"]
    assert (made.difference, made.low, made.high, made.p) == (0, 0, 0, 1)
    p_values = [
        compare(Energy(), _energy(random.random(40)), _energy(random.random(40)), 199, seed)["energy"].p
        for seed in range(120)
    ]
    assert np.mean(np.array(p_values) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)
    assert min(p_values) >= 1 / 200


@pytest.mark.parametrize("shift", [5e-7, 1e-9])
def test_a_small_constant_difference_is_one(shift: float) -> None:
    values = np.random.default_rng(15).random(30)
    made = compare(Energy(), _energy(values + shift), _energy(values), 2000)["energy"]
    assert made.difference == pytest.approx(shift)
    assert made.p == 1 / 2001


def test_differences_that_differ_by_rounding_are_equal() -> None:
    # Every swap gives the same difference or its negative, each with other rounding.
    values = np.random.default_rng(16).random(40)
    values[0] += 0.1
    other = np.random.default_rng(16).random(40)
    assert compare(Energy(), _energy(values), _energy(other), 500)["energy"].p == 1.0
    # As do values of both signs that cancel.
    signed = np.where(np.arange(40) % 2, 1, -1) * np.repeat(np.random.default_rng(17).random(20), 2)
    tiny = signed.copy()
    tiny[0] += 1e-9
    assert compare(Energy(), _energy(tiny), _energy(signed), 500)["energy"].p == 1.0


def test_permutations_may_be_more_than_resamples() -> None:
    values = np.random.default_rng(18).random(60)
    made = compare(Energy(), _energy(values + 0.1), _energy(values), 100, permutations=9999)["energy"]
    assert made.p == 1e-4
    assert made.low == compare(Energy(), _energy(values + 0.1), _energy(values), 100)["energy"].low


def test_every_table_can_be_significant() -> None:
    assert permutations_for(1) == 10_000
    for tests in (1, 101, 500, 2000, 10_000):
        assert tests / (permutations_for(tests) + 1) < 0.05
        assert permutations_for(tests) <= 200_000


def _bins(overall: np.ndarray) -> pd.DataFrame:
    """Records of the accuracy-binned protocol, all predicted right; NaN where the map was lost."""
    rows = [{"correct": True, "insertion": v, "deletion": 0.0 * v, "overall": v} for v in overall]
    names = [{"image_id": f"{i:03d}", "class_id": 0, "class_name": "thing"} for i in range(len(overall))]
    return pd.DataFrame([{**name, **row} for name, row in zip(names, rows, strict=True)])


def test_a_value_that_one_side_lacks_is_compared_on_neither() -> None:
    values = np.linspace(0, 1, 20)
    some = np.where(np.arange(20) < 10, np.nan, values)
    made = compare(AccuracyBins(preset="decomcam"), _bins(some), _bins(values), 200)
    overall = made["accuracy_bins_overall"]
    assert (overall.difference, overall.p, overall.pairs, overall.left_out) == (0.0, 1.0, 10, 10)
    accuracy = made["accuracy_bins_accuracy"]
    assert (accuracy.difference, accuracy.pairs, accuracy.left_out) == (0.0, 20, 0)


def test_only_common_pairs_are_compared_and_the_rest_counted() -> None:
    a, b = _energy(np.array([0.1, 0.2, 0.3, 0.9])), _energy(np.array([0.5, 0.1, 0.2, 0.3]))
    a = a[a["class_id"] != 3]
    b = b[b["class_id"] != 0].sample(frac=1, random_state=0)
    made = compare(Energy(), a, b, 100)["energy"]
    assert (made.images, made.pairs, made.left_out) == (2, 2, 2)
    assert made.difference == pytest.approx((0.2 - 0.1 + 0.3 - 0.2) / 2)


def test_interval_of_the_difference_is_paired() -> None:
    random = np.random.default_rng(12)
    hard = random.random(300)
    made = compare(Energy(), _energy(hard + random.normal(0.02, 0.01, 300)), _energy(hard), 2000)["energy"]
    assert 0.017 < made.low < made.difference < made.high < 0.023


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, np.nan, 0.9]), [1.0, np.nan, 1.0])
    assert holm([]).shape == (0,)


def test_bad_numbers_are_refused() -> None:
    sums = Energy().image_sums(_energy(np.ones(5)))
    with pytest.raises(ConfigError, match="resamples=0"):
        bootstrap(sums, 0)
    with pytest.raises(ConfigError, match="level=95"):
        bootstrap(sums, level=95)


@pytest.mark.slow
def test_ten_thousand_resamples_of_fifty_thousand_records() -> None:
    random = np.random.default_rng(14)
    records = _hits(random.random(50_000) < 0.5, np.arange(50_000) % 80, np.arange(50_000))
    sums = PointingGame().image_sums(records)
    started = time.process_time()
    interval = bootstrap(sums, 10_000)["pointing"]
    assert time.process_time() - started < 10
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(50_000), rel=0.05)
