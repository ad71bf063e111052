"""What an explanation consists of: one answer per setting, with maps and components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from decomcam_bench.models.geometry import Geometry


@dataclass(frozen=True)
class ComponentMaps:
    """The components (OSSMs) behind one map, in order of singular value, up to the last one present.

    Attributes:
        maps: float32 (q, H, W) at the model's input resolution, non-negative.
        weights, scores, differences, singular_values, explained: (q,); see
            :class:`~decomcam_bench.methods.base.Components`. None where the method has no such value.
    """

    maps: np.ndarray
    weights: np.ndarray
    scores: np.ndarray | None
    differences: np.ndarray | None
    singular_values: np.ndarray | None
    explained: np.ndarray | None


@dataclass(frozen=True)
class Answer:
    """The maps of one setting, one per text.

    Attributes:
        method, model, layer, rank: labels of the setting; the layer is empty and the rank None where the
            method has none.
        geometry: how the picture became the model's input.
        similarity: (T,), cosine similarity of the whole picture with each text.
        maps: float32 (T, H, W) at the model's input resolution, non-negative; zeros where the map failed.
        reasons: why each of the T maps failed; empty where it did not.
        components: the components of each of the T maps; None for methods that do not decompose.
    """

    method: str
    model: str
    layer: str
    rank: int | None
    geometry: Geometry
    similarity: np.ndarray
    maps: np.ndarray
    reasons: tuple[str, ...]
    components: tuple[ComponentMaps | None, ...]
