"""What the tests of the metrics share: reference vectors, small pairs, records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from decomcam_bench.datasets.base import ArrayMask, Target
from decomcam_bench.metrics.base import PairBatch, PairMap

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """Inputs and outputs of the reference implementations; ``rise/*`` of two images."""
    with np.load(DATA / "metrics_reference.npz") as file:
        return dict(file)


def pair(
    saliency: Any,
    boxes: Iterable[Sequence[float]] = (),
    masks: Iterable[np.ndarray] = (),
    class_id: int = 0,
    image_classes: tuple[int, ...] = (),
    components: np.ndarray | None = None,
    **target: Any,
) -> PairMap:
    """A pair whose map is already in the pixels of the original image."""
    array = np.asarray(saliency, dtype=np.float32)
    own = Target.of(class_id, "thing", boxes, masks=tuple(ArrayMask(np.asarray(m, bool)) for m in masks), **target)
    return PairMap(array, lambda a: a, own, array.shape[1], array.shape[0], image_classes, components)


def single_peak(height: int, width: int, x: int, y: int) -> np.ndarray:
    """A map that is 1 at (x, y) and 0 elsewhere."""
    array = np.zeros((height, width), dtype=np.float32)
    array[y, x] = 1
    return array


def table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Records: one image a row and class 0 unless given."""
    return pd.DataFrame(
        [{"image_id": f"{i:05d}", "class_id": 0, "class_name": "thing", **r} for i, r in enumerate(rows)]
    )


class Counting:
    """A model of K linear scores, cosines in the eyes of the metric, that counts its images."""

    def __init__(self, weights: torch.Tensor, own: Callable[[torch.Tensor], torch.Tensor] = lambda x: x) -> None:
        self.weights, self.own, self.scored, self.batches = weights.flatten(1), own, 0, []

    def __call__(self, images: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
        assert len(images) == len(pair)
        self.scored += len(images)
        self.batches.append(len(images))
        return self.own(images.flatten(1).float() @ self.weights.T)


def batch(maps: torch.Tensor, images: torch.Tensor, model: Counting, classes: Sequence[int], **more: Any) -> PairBatch:
    """A batch in which every pair has an image of its own and a valid map."""
    similarity = model.own(images.flatten(1).float() @ model.weights.T)
    more = {"valid": torch.ones(len(maps), dtype=torch.bool), **more}
    return PairBatch(maps, images, torch.tensor(classes), model, similarity, **more)
