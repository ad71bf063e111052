"""Checks of method parameters that several methods share; each raises a one-line ConfigError."""

from __future__ import annotations

import math
from collections.abc import Sequence

from decomcam_bench.errors import ConfigError, did_you_mean


def check_choice(key: str, value: str, valid: Sequence[str]) -> None:
    """Refuses a ``value`` that is none of ``valid``.

    Raises:
        ConfigError: naming the key, the value and the valid ones.
    """
    if value not in valid:
        raise ConfigError(f"method.{key}={value}{did_you_mean(str(value), valid)}; valid: {', '.join(valid)}")


def check_at_least(key: str, value: float, low: float) -> None:
    """Refuses a number below ``low``, an infinite one, or NaN.

    Raises:
        ConfigError: naming the key, the value and the bound.
    """
    if not (math.isfinite(value) and value >= low):
        raise ConfigError(f"method.{key}={value}: must be a finite number of at least {low}")


def check_positive(key: str, value: float) -> None:
    """Refuses a number that is not above zero, an infinite one, or NaN.

    Raises:
        ConfigError: naming the key and the value.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"method.{key}={value}: must be a finite number above 0")
