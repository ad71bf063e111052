"""The model contract: a named choice that knows its identity and loads itself.

Subclasses are dataclasses; their fields are the options of their YAML under ``configs/model``.
"""

from __future__ import annotations

import abc
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from decomcam_bench.core.validation import check_choice
from decomcam_bench.models.clip import ClipModel
from decomcam_bench.models.geometry import MODES


@dataclass
class ModelSource(abc.ABC):
    """Where a model comes from.

    Attributes:
        geometry: ``squash`` or ``crop``, see :class:`~decomcam_bench.models.geometry.Geometry`.
        layer: the layer that ``layer=null`` means; empty for the tower's own default.
        id: stable name of the class in cell keys, whatever file holds it; the class's name if empty.
        version: bump it when preprocessing, towers or geometry change the maps: it is part of the cell key.
        untrained: options that give the same architecture random weights.
    """

    name: str = ""
    geometry: str = "squash"
    layer: str = ""

    id: ClassVar[str] = ""
    version: ClassVar[int] = 2
    untrained: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        check_choice("model.geometry", self.geometry, MODES)

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the maps: architecture, weights hash, geometry. Reads the weights file.

        Raises:
            ModelError: when the architecture is unknown or the weights cannot be had.
        """

    @abc.abstractmethod
    def load(self, device: str, precision: str) -> ClipModel:
        """The model on a device. Raises as :meth:`identity`."""


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file, its first 16 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
