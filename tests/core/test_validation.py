"""Refused options are one line: key, value, the nearest valid value and all of them."""

from __future__ import annotations

import math

import pytest

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_at_least, check_choice, check_positive


def test_choices() -> None:
    check_choice("dataset.year", 2007, (2007, 2012))
    check_choice("precision", "fp16", {"fp32": 1, "fp16": 2})
    with pytest.raises(ConfigError) as caught:
        check_choice("dataset.split", "tets", ("test", "train"))
    assert str(caught.value) == "dataset.split=tets: no such choice (did you mean 'test'?); valid: test, train"
    with pytest.raises(ConfigError, match=r"^dataset\.year=1999: no such choice.*; valid: 2007, 2012$"):
        check_choice("dataset.year", 1999, (2007, 2012))


@pytest.mark.parametrize("value", [-1, math.inf, math.nan])
def test_bounds(value: float) -> None:
    check_at_least("method.threshold", 0, 0)
    check_positive("method.sigma", 0.5)
    with pytest.raises(ConfigError, match=r"^method\.threshold=.*at least 0$"):
        check_at_least("method.threshold", value, 0)
    with pytest.raises(ConfigError, match=r"^method\.sigma=.*above 0$"):
        check_positive("method.sigma", value)
