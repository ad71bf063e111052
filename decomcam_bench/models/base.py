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
from decomcam_bench.models.clip import ClipModel, Outline
from decomcam_bench.models.geometry import MODES, View


@dataclass
class ModelSource(abc.ABC):
    """Where a model comes from.

    Attributes:
        geometry: ``squash`` or ``crop``, see :class:`~decomcam_bench.models.geometry.Geometry`.
        layer: the layer used if ``layer=null``; empty for the tower's own default.
        id: stable name of the class in cell keys, whatever file holds it; the class's name if empty.
        version: part of the cell key; bump it when preprocessing, towers or geometry change the maps.
        geometries: valid values of ``geometry``.
        untrained: options that give the same architecture random weights.
    """

    name: str = ""
    geometry: str = "squash"
    layer: str = ""

    id: ClassVar[str] = ""
    version: ClassVar[int] = 2
    geometries: ClassVar[tuple[str, ...]] = MODES
    untrained: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        check_choice("model.geometry", self.geometry, self.geometries)

    @property
    def mode(self) -> str:
        """How images become square: ``squash`` or ``crop``."""
        return self.geometry

    @property
    def resampling(self) -> str:
        """Interpolation of resized images: ``bicubic``, ``bilinear`` or ``nearest``."""
        return "bicubic"

    def view(self, size: int) -> View:
        """Return how the model sees images, given the side of its input."""
        return View(size, self.mode, self.resampling)

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what decides the maps: architecture, hash of the weights, preprocessing. Reads the weights file.

        Raises:
            ModelError: if the architecture is unknown or the weights cannot be had.
        """

    @abc.abstractmethod
    def load(self, device: str, precision: str) -> ClipModel:
        """Load the model onto a device. Raises as :meth:`identity`."""

    def outline(self) -> Outline:
        """Return the image tower and its input size, for planning; takes no weights where the class can do without.

        Raises:
            ModelError: if the architecture is unknown or not supported.
        """
        model = self.load("cpu", "fp32")
        model.clip.to("meta")
        return Outline(model.tower, model.input_size, model.name)

    def remarks(self) -> list[str]:
        """Return lines for the user about choices that were made for want of information."""
        return []


def hash_file(path: str | Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
