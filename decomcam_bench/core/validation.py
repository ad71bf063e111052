"""Check options; each function refuses a value with a one-line ConfigError.

Keys are whole, as a user writes them on the command line: ``dataset.split``, ``method.sign``, ``precision``.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from decomcam_bench.core.errors import ConfigError, did_you_mean


def check_choice(key: str, value: object, valid: Collection[object]) -> None:
    """Refuse a ``value`` that is not one of ``valid``.

    Raises:
        ConfigError: naming the key, the value, the nearest valid one and all of them.
    """
    if value not in valid:
        names = [str(name) for name in valid]
        raise ConfigError(f"{key}={value}: no such choice{did_you_mean(str(value), names)}; valid: {', '.join(names)}")


def check_at_least(key: str, value: float, low: float) -> None:
    """Refuse a number below ``low``, an infinite one, or NaN.

    Raises:
        ConfigError: naming the key, the value and the bound.
    """
    if not (math.isfinite(value) and value >= low):
        raise ConfigError(f"{key}={value}: must be a finite number of at least {low}")


def check_positive(key: str, value: float) -> None:
    """Refuse a number that is not above zero, an infinite one, or NaN.

    Raises:
        ConfigError: naming the key and the value.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{key}={value}: must be a finite number above 0")
