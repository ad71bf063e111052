"""Efficiency, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from decomcam_bench.metrics.base import Fail, Work
from decomcam_bench.metrics.efficiency import Efficiency
from tests.metrics.conftest import pair, table


def _outcome(metric: Efficiency, work: Work | None) -> object:
    return metric.evaluate(dataclasses.replace(pair(np.ones((2, 2))), work=work))


def test_passes_are_exact_and_nothing_of_the_machine_is_shown() -> None:
    metric = Efficiency(name="efficiency")
    rows = [_outcome(metric, Work(11, 1, 1, 0.5, 100.0)), _outcome(metric, Work(12, 1, 1, 0.5, 100.0))]
    assert rows[0] == {"forward": 11, "head": 1, "backward": 1}
    assert metric.aggregate(table(rows)) == {
        # Head passes count as whole ones, a gradient as two.
        "efficiency": 11.5 + 1 + 2,
        "efficiency_forward": 11.5,
        "efficiency_head": 1.0,
        "efficiency_backward": 1.0,
    }
    assert not any(column.machine for column in metric.columns)


def test_time_and_memory_on_request() -> None:
    metric = Efficiency(machine=True)
    rows = [_outcome(metric, Work(11, 1, 1, 0.5, 100.0)), _outcome(metric, Work(11, 1, 1, 1.5, 300.0))]
    values = metric.aggregate(table(rows))
    assert values["efficiency_pairs_per_second"] == pytest.approx(1.0)
    assert values["efficiency_peak_mib"] == 300
    machine = [column for column in metric.columns if column.machine]
    assert [column.name for column in machine] == ["efficiency_pairs_per_second", "efficiency_peak_mib"]
    assert all(column.detail for column in machine)


def test_reasons() -> None:
    assert _outcome(Efficiency(), None) == Fail("work_not_recorded")
    assert _outcome(Efficiency(machine=True), Work(1)) == Fail("machine_not_measured")
