"""Read what is to be explained: a picture, and the settings that overrides ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from decomcam_bench.config.settings import RunConfig, load_config
from decomcam_bench.core.errors import ConfigError, DataError, did_you_mean
from decomcam_bench.datasets.images import orientation, rgb, turned, upright

#: Keys of a run that mean something for a single picture.
KEYS = ("model", "method", "layer", "rank", "seed", "precision", "device", "batch_size")


def parse(overrides: Sequence[str]) -> RunConfig:
    """Return the settings that overrides ask for.

    Raises:
        ConfigError: for keys that make no sense for one picture, and as
            :func:`~decomcam_bench.config.settings.load_config`.
    """
    for word in overrides:
        key = word.partition("=")[0].lstrip("+").partition(".")[0]
        if key not in KEYS:
            raise ConfigError(f"explain takes no '{key}'{did_you_mean(key, KEYS)}; valid: {', '.join(KEYS)}")
    return load_config(overrides)


def load_picture(image: str | Path | np.ndarray | Image.Image) -> np.ndarray:
    """Return RGB bytes (height, width, 3), turned upright as a camera noted in the file.

    Raises:
        DataError: when it cannot be read, or an array is not of that kind.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise DataError(f"image: an array must be uint8 (height, width, 3), not {image.dtype} {image.shape}")
        return np.ascontiguousarray(image)
    try:
        if isinstance(image, Image.Image):
            image.load()  # which turns a TIFF already
            return turned(rgb(image.copy()), orientation(image))
        return upright(Path(image))
    except (OSError, ValueError) as error:
        raise DataError(f"{error}; give a picture that Pillow reads, such as JPEG or PNG") from error


def override_words(**choices: Any) -> list[str]:
    """Return keywords as words of the command line; lists sweep."""
    return [f"{key}={_word(value)}" for key, value in choices.items()]


def _word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(_word(item) for item in value) if isinstance(value, list | tuple) else str(value)
