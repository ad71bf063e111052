"""toybox: the embedded benchmark, drawn when it is needed, with exact masks of objects and parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import ArrayMask, Dataset, Part, Sample, Target
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES, SCENE_VERSION, Scene, draw_scene

SIDE = 160
SPLITS = ("train", "val", "test")


@lru_cache(maxsize=16)
def _scene(split: str, index: int) -> Scene:
    """A scene; its annotation and its picture are usually asked for one after the other."""
    return draw_scene(split, index, SIDE)


@dataclass
class ToyBox(Dataset):
    """Scenes of one to three composite objects.

    Attributes:
        split: ``train``, ``val`` or ``test``; they never overlap.
        size: number of scenes.
    """

    id = "toybox"

    split: str = "test"
    size: int = 200

    region: ClassVar[str] = "mask"
    has_parts: ClassVar[bool] = True
    causal_preset: ClassVar[str] = "steps20"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.split", self.split, SPLITS)
        if self.size < 1:
            raise ConfigError(f"dataset.size={self.size}: the number of scenes must be at least 1")

    @property
    def class_names(self) -> Sequence[str]:
        return CLASS_NAMES

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "split": self.split, "size": self.size}

    @property
    def prompt_identity(self) -> dict[str, Any]:
        """Names and templates; the texts follow from them and the class names, which the fingerprint holds."""
        return {key: value for key, value in super().prompt_identity.items() if key != "texts"}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what decides the scenes; they need not be drawn for it."""
        decided = [SCENE_VERSION, SIDE, self.split, self.size, list(CLASS_NAMES)]
        return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self.size

    def image_id(self, index: int) -> str:
        return f"{self.split}_{index:06d}"

    def _drawn(self, index: int) -> Scene:
        if not 0 <= index < self.size:
            raise IndexError(f"toybox: no scene number {index}")
        return _scene(self.split, index)

    def load_image(self, index: int) -> np.ndarray:
        return self._drawn(index).image.copy()

    def sample(self, index: int) -> Sample:
        instances = self._drawn(index).instances
        targets = []
        for class_id in sorted({instance.class_id for instance in instances}):
            own = [instance for instance in instances if instance.class_id == class_id]
            parts: dict[str, np.ndarray] = {}
            for instance in own:
                for name, mask in instance.parts.items():
                    parts[name] = parts[name] | mask if name in parts else mask
            targets.append(
                Target.of(
                    class_id,
                    CLASS_NAMES[class_id],
                    [instance.box for instance in own],
                    masks=tuple(ArrayMask(instance.mask) for instance in own),
                    parts=tuple(Part(name, ArrayMask(mask)) for name, mask in parts.items()),
                )
            )
        return Sample(self.image_id(index), SIDE, SIDE, tuple(targets))
