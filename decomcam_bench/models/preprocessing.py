"""How pixels enter a model: the preprocessing that its weights were trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from decomcam_bench.core.errors import ConfigError, ModelError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.models.geometry import INTERPOLATIONS

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of one set of weights.

    Attributes:
        mean, std: normalisation of pixels in [0, 1], per channel.
        interpolation: ``bicubic``, ``bilinear`` or ``nearest``.
        resize_mode: open_clip's word for how images become square: ``squash``, ``shortest`` (then a centre crop), or
            ``longest`` (then padding).
    """

    mean: Triple = OPENAI_DATASET_MEAN
    std: Triple = OPENAI_DATASET_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> Preprocessing:
        """Read an open_clip preprocessing configuration; keys that it leaves out are open_clip's defaults.

        Args:
            config: the entry of a pretrained tag, or ``preprocess_cfg`` of an ``open_clip_config.json``.
            where: named in messages.

        Raises:
            ModelError: for a value that is no such setting.
        """
        given = {key: config[key] for key in ("mean", "std", "interpolation", "resize_mode") if config.get(key)}
        for key in ("mean", "std"):
            if key in given:
                given[key] = _triple(given[key], f"{where}: {key}={given[key]}")
        found = cls(**given)
        if found.interpolation not in INTERPOLATIONS:
            raise ModelError(f"{where}: interpolation={found.interpolation}: valid: {', '.join(INTERPOLATIONS)}")
        if found.resize_mode not in ("squash", "shortest", "longest"):
            raise ModelError(f"{where}: resize_mode={found.resize_mode}: valid: squash, shortest, longest")
        return found

    def changed(self, mean: Sequence[float] | None, std: Sequence[float] | None, interpolation: str) -> Preprocessing:
        """Return the preprocessing with options of the user in place of its own.

        Raises:
            ConfigError: for a value out of range.
        """
        found = self
        if mean is not None:
            found = replace(found, mean=_option("mean", mean))
        if std is not None:
            found = replace(found, std=_option("std", std))
        if interpolation:
            check_choice("model.interpolation", interpolation, INTERPOLATIONS)
            found = replace(found, interpolation=interpolation)
        return found

    def mode(self, geometry: str, name: str) -> str:
        """Return ``squash`` or ``crop`` for a ``geometry`` that may be ``own``.

        Raises:
            ModelError: for weights trained on padded images.
        """
        if geometry != "own":
            return geometry
        if self.resize_mode == "longest":
            raise ModelError(
                f"model {name}: model.geometry=own: its weights were trained on padded images (resize_mode=longest), "
                f"which is not supported; use model.geometry=squash or crop"
            )
        return "squash" if self.resize_mode == "squash" else "crop"

    def describe(self) -> str:
        """Return the options that ask for this normalisation."""
        return f"model.mean=[{_numbers(self.mean)}] model.std=[{_numbers(self.std)}]"


def agreed(candidates: Mapping[str, Preprocessing]) -> Preprocessing | None:
    """Return the preprocessing that all candidates share, their resize mode aside; None if they differ.

    Where they differ in the resize mode alone, it is that of the first.
    """
    found = list(candidates.values())
    same = {replace(one, resize_mode="") for one in found}
    return found[0] if len(same) == 1 else None


def _triple(value: Any, text: str) -> Triple:
    numbers = [float(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(numbers) != 3:
        raise ModelError(f"{text}: must be three numbers")
    return numbers[0], numbers[1], numbers[2]


def _option(key: str, value: Sequence[float]) -> Triple:
    if len(value) != 3 or (key == "std" and min(value) <= 0):
        kind = "three numbers above 0" if key == "std" else "three numbers"
        raise ConfigError(f"model.{key}={list(value)}: must be {kind}, one per channel")
    return float(value[0]), float(value[1]), float(value[2])


def _numbers(values: Triple) -> str:
    return ",".join(f"{value:.8g}" for value in values)
