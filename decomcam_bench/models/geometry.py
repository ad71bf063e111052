"""How an original image becomes the model's square input, and how a map goes back.

Both ways use half-pixel centres: pixel i covers [i, i+1). A map is brought back by bilinear
interpolation (``align_corners=False``, as TorchRay), evaluated at the centre of each original pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from decomcam_bench.core.validation import check_choice

MODES = ("squash", "crop")
#: Pixels up to which a picture is resized as a whole before it is cropped, as CLIP's preprocessing does.
_LARGEST_STRIP = 20_000_000
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Geometry:
    """Geometry of one image size.

    Attributes:
        width, height: of the original image.
        size: side of the model's square input.
        mode: ``squash`` (both sides to ``size``, nothing lost, as gScoreCAM) or ``crop`` (shorter
            side to ``size``, centre crop, as CLIP's own preprocessing).
    """

    width: int
    height: int
    size: int
    mode: str = "squash"

    def __post_init__(self) -> None:
        check_choice("model.geometry", self.mode, MODES)

    @property
    def resized(self) -> tuple[int, int]:
        """(width, height) after resizing, before any crop; as torchvision rounds it."""
        if self.mode == "squash":
            return self.size, self.size
        short, long = sorted((self.width, self.height))
        longer = int(self.size * long / short)
        return (self.size, longer) if self.width <= self.height else (longer, self.size)

    @property
    def offset(self) -> tuple[int, int]:
        """(x, y) of the input's corner in the resized image; as torchvision's centre crop."""
        width, height = self.resized
        return round((width - self.size) / 2.0), round((height - self.size) / 2.0)

    @property
    def visible(self) -> tuple[float, float, float, float]:
        """The part of the original image that the model sees: (x0, y0, x1, y1), original pixels."""
        (width, height), (x, y) = self.resized, self.offset
        scale_x, scale_y = self.width / width, self.height / height
        return x * scale_x, y * scale_y, (x + self.size) * scale_x, (y + self.size) * scale_y

    def to_input(self, image: np.ndarray, interpolation: str = "bicubic") -> np.ndarray:
        """The model's input as uint8 (3, size, size), from RGB uint8 (height, width, 3)."""
        array = self._input_of(Image.fromarray(image), _RESAMPLING[interpolation])
        return np.ascontiguousarray(array.transpose(2, 0, 1))

    def map_to_input(self, saliency: np.ndarray) -> np.ndarray:
        """A map (h, w) over the whole original image at the model's input: float32 (size, size).

        Resized and cropped as the image is, bilinearly; where it shrinks the filter widens.
        """
        picture = Image.fromarray(np.ascontiguousarray(saliency, dtype=np.float32))
        return np.asarray(self._input_of(picture, Image.Resampling.BILINEAR), dtype=np.float32)

    def _input_of(self, picture: Image.Image, resampling: Image.Resampling) -> np.ndarray:
        """The pixels (size, size, ...) that the model sees of a picture, resized."""
        (width, height), (x, y) = self.resized, self.offset
        if width * height > _LARGEST_STRIP:  # of a long strip resized as a whole, next to nothing is seen
            return np.asarray(picture.resize((self.size, self.size), resampling, box=self.visible))
        if picture.size != (width, height):
            picture = picture.resize((width, height), resampling)
        return np.asarray(picture)[y : y + self.size, x : x + self.size]

    def to_original(self, saliency: np.ndarray) -> np.ndarray:
        """A map (H, W) in the pixels of the original image: float32 (height, width).

        Pixels that the model never saw get 0.
        """
        if saliency.shape == (self.height, self.width) and self.mode == "squash":
            return np.asarray(saliency, dtype=np.float32)
        if self.mode == "squash":
            return cv2.resize(
                np.asarray(saliency, dtype=np.float32), (self.width, self.height), interpolation=cv2.INTER_LINEAR
            )
        columns, rows = _axis(self, 0, saliency.shape[1]), _axis(self, 1, saliency.shape[0])
        part = rows.blend(np.asarray(saliency, dtype=np.float32), 0)
        return columns.blend(part, 1)

    def mask_to_input(self, mask: np.ndarray) -> np.ndarray:
        """A bool mask (height, width) at input resolution: the original pixel under each centre."""
        (width, height), (x, y) = self.resized, self.offset
        centres = np.arange(self.size) + 0.5
        columns = np.clip(((centres + x) * self.width / width).astype(np.int64), 0, self.width - 1)
        rows = np.clip(((centres + y) * self.height / height).astype(np.int64), 0, self.height - 1)
        return mask[rows[:, None], columns[None, :]]


@dataclass(frozen=True)
class _Axis:
    """Bilinear weights that bring one axis of a map back to the original pixels."""

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    seen: np.ndarray

    def blend(self, values: np.ndarray, axis: int) -> np.ndarray:
        shape = [1, 1]
        shape[axis] = len(self.weight)
        weight = self.weight.reshape(shape)
        mixed = values.take(self.lower, axis) * (1 - weight) + values.take(self.upper, axis) * weight
        return np.where(self.seen.reshape(shape), mixed, np.float32(0))


@lru_cache(maxsize=256)
def _axis(geometry: Geometry, axis: int, length: int) -> _Axis:
    original = (geometry.width, geometry.height)[axis]
    resized, offset = geometry.resized[axis], geometry.offset[axis]
    position = (np.arange(original) + 0.5) * resized / original - offset
    seen = (position >= 0) & (position < geometry.size)
    source = np.clip(position * length / geometry.size - 0.5, 0, length - 1)
    lower = np.floor(source).astype(np.int64)
    return _Axis(lower, np.minimum(lower + 1, length - 1), (source - lower).astype(np.float32), seen)
