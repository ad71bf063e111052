"""Components against parts, by hand on small arrays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.reasons import failure
from decomcam_bench.datasets.base import ArrayMask, Part
from decomcam_bench.metrics.base import Fail, PairMap, Skip
from decomcam_bench.metrics.parts import PartAgreement, displaced, diversity, iou_at_levels, overlaps
from tests.metrics.conftest import pair, table

SIZE = 20


def _square(x: int, y: int, side: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[y : y + side, x : x + side] = True
    return mask


HEAD, TAIL, WING = _square(1, 1, 5), _square(13, 13, 5), _square(1, 14, 4)


def _pair(components: list[np.ndarray] | None, parts: list[np.ndarray], **more: object) -> PairMap:
    named = tuple(Part(f"part{i}", ArrayMask(mask)) for i, mask in enumerate(parts))
    stack = None if components is None else np.stack(components).astype(np.float32)
    return pair(np.ones((SIZE, SIZE)), [(0, 0, SIZE, SIZE)], components=stack, parts=named, **more)


def test_perfect_components_in_any_order() -> None:
    outcome = PartAgreement().evaluate(_pair([WING, HEAD, TAIL], [HEAD, TAIL, WING]))
    assert (outcome["pointing"], outcome["energy"], outcome["covered"]) == (1, 1, 1)
    np.testing.assert_allclose(outcome["iou"], 1)
    assert outcome["diversity"] == pytest.approx(1)
    assert (outcome["n_components"], outcome["n_parts"], outcome["n_couples"]) == (3, 3, 3)


def test_assignment_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    components, parts = random.random((3, SIZE, SIZE)).astype(np.float32), np.stack([HEAD, TAIL, WING])
    soft = np.empty((3, 3))
    for c, p in itertools.product(range(3), range(3)):
        m = components[c].astype(float) / components[c].max()
        soft[c, p] = np.minimum(m, parts[p]).sum() / np.maximum(m, parts[p]).sum()
    np.testing.assert_allclose(overlaps(components, parts)[0], soft, rtol=1e-6)
    best = max(itertools.permutations(range(3)), key=lambda order: sum(soft[c, p] for c, p in enumerate(order)))
    energy = np.mean([components[c][parts[p]].sum() / components[c].sum() for c, p in enumerate(best)])
    assert PartAgreement().evaluate(_pair(list(components), list(parts)))["energy"] == pytest.approx(energy, rel=1e-5)


def test_assignment_by_energy_may_differ() -> None:
    # The first component lies in the small part, which lies in the large one: energy 1 with both.
    small, large = _square(2, 2, 3), _square(0, 0, 18)
    components = [small * 1.0, large * 1.0]
    by_overlap = PartAgreement().evaluate(_pair(components, [large, small]))
    assert by_overlap["iou"][9] == pytest.approx(1)
    swapped = PartAgreement(assign_by="energy").evaluate(_pair([small * 1.0, _square(0, 0, 18) * 1.0], [large, small]))
    assert swapped["energy"] == pytest.approx((1 + 1) / 2)


def test_one_component_covers_one_part() -> None:
    outcome = PartAgreement().evaluate(_pair([HEAD], [HEAD, TAIL]))
    assert (outcome["pointing"], outcome["covered"], outcome["n_couples"]) == (1, 0.5, 1)
    assert np.isnan(outcome["diversity"])


def test_more_components_than_parts() -> None:
    outcome = PartAgreement().evaluate(_pair([TAIL, HEAD, WING], [HEAD]))
    assert (outcome["pointing"], outcome["energy"], outcome["n_couples"]) == (1, 1, 1)


def test_iou_levels_by_hand() -> None:
    component = np.zeros((SIZE, SIZE), np.float32)
    component[HEAD] = 2.0
    component[TAIL] = 1.0
    levels = iou_at_levels(component, HEAD)
    # Up to half of the maximum both squares are above, then the head alone.
    np.testing.assert_allclose(levels[:10], 0.5)
    np.testing.assert_allclose(levels[10:], 1.0)


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-126, 2.0**-60, 2.0**120])
def test_iou_levels_do_not_depend_on_the_scale(scale: float) -> None:
    component = (np.random.default_rng(0).integers(1, 256, (SIZE, SIZE)) / 256).astype(np.float32)
    expected = iou_at_levels(component, HEAD)
    np.testing.assert_array_equal(iou_at_levels((component * scale).astype(np.float32), HEAD), expected)


def test_iou_threshold_is_chosen_over_the_data_set() -> None:
    curves = [np.zeros(19), np.zeros(19)]
    curves[0][3], curves[0][10], curves[1][10] = 1.0, 0.6, 0.6
    scalars = dict.fromkeys(("pointing", "energy", "covered"), 0.5)
    floor = {f"{key}_floor": 0.1 for key in scalars}
    rows = [
        {**scalars, **floor, "diversity": d, "iou": c, "iou_floor": c / 2}
        for c, d in zip(curves, (0.4, np.nan), strict=True)
    ]
    values = PartAgreement().aggregate(table(rows))
    assert values["parts_iou"] == pytest.approx(0.6)
    assert values["parts_iou_floor"] == pytest.approx(0.3)
    assert values["parts_iou_threshold"] == pytest.approx(11 / 20)
    assert values["parts_pointing_floor"] == pytest.approx(0.1)
    # A pair with one component has no diversity and takes no part in its mean.
    assert values["parts_diversity"] == pytest.approx(0.4)
    assert list(values) == [column.name for column in PartAgreement().columns]


def test_diversity() -> None:
    same = np.stack([HEAD, HEAD]).astype(np.float32)
    assert diversity(same) == pytest.approx(0)
    half = np.stack([HEAD, HEAD | TAIL]).astype(np.float32)
    assert diversity(half) == pytest.approx(1 - 1 / np.sqrt(2))


def test_floor_is_far_below_and_repeats() -> None:
    own = [HEAD, TAIL, WING]
    outcomes = [PartAgreement(seed=seed).evaluate(_pair(own, own)) for seed in range(40)]
    assert np.mean([o["pointing_floor"] for o in outcomes]) < 0.4
    assert np.mean([o["energy_floor"] for o in outcomes]) < 0.4
    again = PartAgreement(seed=3).evaluate(_pair(own, own))
    assert again["energy_floor"] == outcomes[3]["energy_floor"]
    moved = displaced(np.stack(own).astype(np.float32), 1)
    assert moved.sum(axis=(1, 2)).tolist() == [25, 25, 16]


def test_points_stand_for_discs() -> None:
    component = np.zeros((SIZE, SIZE), np.float32)
    component[4, 7] = 1
    parts = (Part("beak", point=(7.5, 4.5)), Part("tail", point=(18.0, 18.0)), Part("hidden"))
    own = pair(np.ones((SIZE, SIZE)), [(0, 0, 20, 10)], components=component[None], parts=parts)
    metric = PartAgreement(point_radius=0.1)
    masks = metric.part_masks(own)
    assert len(masks) == 2
    # Radius 2: the pixels within two pixels' distance.
    assert masks[0].sum() == 13
    outcome = metric.evaluate(own)
    assert (outcome["pointing"], outcome["covered"]) == (1, 0.5)


def test_reasons() -> None:
    zero, metric = np.zeros((SIZE, SIZE)), PartAgreement()
    assert metric.evaluate(_pair([HEAD], [])) == Skip("no_parts")
    assert metric.evaluate(_pair([HEAD], [zero])) == Skip("no_visible_part")
    assert metric.evaluate(_pair([HEAD * np.nan], [zero])) == Skip("no_visible_part")
    assert metric.evaluate(_pair(None, [HEAD])) == Skip("no_components")
    for components, reason in ((zero, "zero_components"), (zero * np.nan, "non_finite_components")):
        missed = metric.evaluate(_pair([components], [HEAD]))
        assert (missed.reason, missed.values["n_parts"], missed.values["n_couples"]) == (reason, 1, 0)
        assert {missed.values[name] for name in ("pointing", "energy", "covered", "diversity")} == {0}
        assert not missed.values["iou"].any()
    small = metric.evaluate(_pair([HEAD], [HEAD[:10, :10]]))
    assert small == Fail(failure("bad_part_mask: mask of 10 x 10 pixels for an image of 20 x 20"))
    # A component of no mass and an empty part take no part.
    outcome = metric.evaluate(_pair([zero, HEAD], [HEAD, zero]))
    assert (outcome["n_components"], outcome["n_parts"], outcome["pointing"]) == (1, 1, 1)


@pytest.mark.parametrize(
    "options", [{"assign_by": "iou"}, {"point_radius": 0.0}, {"tolerance": -1.0}, {"seed": -1}, {"seed": 2**70}]
)
def test_bad_options(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        PartAgreement(**options)
