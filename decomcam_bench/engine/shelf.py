"""One model in memory at a time."""

from __future__ import annotations

import gc

import torch

from decomcam_bench.models.base import ModelSource
from decomcam_bench.models.clip import ClipModel


class Shelf:
    """Hold the model in use; another one is loaded in its place.

    Args:
        device: of all models.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._key = ""
        self._model: ClipModel | None = None

    def get(self, key: str, source: ModelSource, precision: str) -> ClipModel:
        """Return the model of a source, loaded unless it is the one in use.

        Args:
            key: of the source with its options and the precision.

        Raises:
            ModelError: if its weights cannot be had.
        """
        if self._model is None or key != self._key:
            self._model = None
            gc.collect()
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()
            self._model, self._key = source.load(self.device, precision), key
        return self._model
