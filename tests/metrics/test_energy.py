"""Energy-based pointing game, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.metrics.base import Fail, Skip
from decomcam_bench.metrics.energy import Energy
from tests.metrics.conftest import pair, table


def test_share_of_mass_in_box_rows_are_y() -> None:
    # x0, y0, x1, y1 = 3, 0, 5, 1: columns 3 and 4 of row 0, mass 3 + 4 of 0 + ... + 9.
    values = np.arange(10).reshape(2, 5)
    assert Energy().evaluate(pair(values, [(3, 0, 5, 1)]))["energy"] == pytest.approx(7 / 45)


def test_overlapping_boxes_count_once_and_difficult_ones_count() -> None:
    own = pair(np.ones((4, 4)), [(0, 0, 2, 2), (1, 1, 3, 3)], difficult=[True, True])
    assert Energy().evaluate(own)["energy"] == pytest.approx(7 / 16)


def test_mask_region() -> None:
    mask = np.eye(4, dtype=bool)
    assert Energy(region="mask").evaluate(pair(np.eye(4) + 1, masks=[mask]))["energy"] == pytest.approx(8 / 20)
    assert Energy(region="mask").evaluate(pair(np.ones((4, 4)), [(0, 0, 1, 1)])) == Skip("no_mask")


def test_single_object_protocol() -> None:
    metric, ones = Energy(objects="single"), np.ones((4, 4))
    assert metric.evaluate(pair(ones, [(0, 0, 1, 1), (2, 2, 3, 3)])) == Skip("several_objects")
    assert metric.evaluate(pair(ones, [(0, 0, 4, 2)])) == Skip("large_object")
    assert metric.evaluate(pair(ones, [(0, 0, 3, 2)]))["energy"] == pytest.approx(6 / 16)


def test_float64_sums_of_many_pixels() -> None:
    large = np.full((1000, 1200), 0.1, dtype=np.float32)
    assert Energy().evaluate(pair(large, [(0, 0, 600, 1000)]))["energy"] == pytest.approx(0.5, abs=1e-12)


def test_the_same_map_anywhere_in_memory_gives_the_same_bits() -> None:
    values = np.random.default_rng(0).random((425, 640)).astype(np.float32) ** 4
    found = set()
    for offset in range(64):
        somewhere = np.empty(values.size + 64, np.float32)[offset:][: values.size].reshape(values.shape)
        somewhere[:] = values
        found.add(Energy().evaluate(pair(somewhere, [(90, 50, 300, 400)]))["energy"])
    assert len(found) == 1


def test_all_of_the_mass_is_never_more_than_all() -> None:
    random = np.random.default_rng(0)
    maps = [random.random((random.integers(1, 60), random.integers(1, 60))).astype(np.float32) for _ in range(300)]
    found = [Energy().evaluate(pair(own, [(0, 0, 60, 60)]))["energy"] for own in maps]
    assert max(found) == 1.0
    assert min(found) > 1 - 1e-12


def test_edges() -> None:
    metric = Energy()
    assert metric.evaluate(pair(np.zeros((3, 3)), [(0, 0, 2, 2)])) == Fail("zero_map", {"energy": 0.0})
    assert metric.evaluate(pair(np.full((3, 3), np.inf), [(0, 0, 2, 2)])) == Fail("non_finite_map", {"energy": 0.0})
    assert metric.evaluate(pair(np.ones((3, 3)), [(5, 5, 9, 9)])) == Skip("empty_region")
    assert metric.evaluate(pair([[0.5]], [(0, 0, 1, 1)]))["energy"] == 1.0


def test_mean_over_pairs_resolve_and_options() -> None:
    assert Energy(name="energy").aggregate(table([{"energy": 0.25}, {"energy": 0.75}, {"energy": 0.8}])) == {
        "energy": pytest.approx(0.6)
    }
    assert Energy().resolve(SimpleNamespace(region="mask")).region == "mask"
    with pytest.raises(ConfigError, match="all, single"):
        Energy(objects="one")
