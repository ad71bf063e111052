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
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
#: Interpolations that the weights of a model may ask for.
INTERPOLATIONS = tuple(_RESAMPLING)


@dataclass(frozen=True)
class Geometry:
    """Map images of one size to the model's input and back.

    Attributes:
        width, height: of the original image.
        size: side of the model's square input.
        mode: ``squash`` (both sides to ``size``, nothing lost, as gScoreCAM) or ``crop`` (shorter
            side to ``size``, centre crop, as CLIP's own preprocessing).
        interpolation: of resizing the image: ``bicubic``, ``bilinear`` or ``nearest``.
    """

    width: int
    height: int
    size: int
    mode: str = "squash"
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        check_choice("model.geometry", self.mode, MODES)

    @property
    def resized(self) -> tuple[int, int]:
        """Return (width, height) after resizing, before any crop; rounded as torchvision does."""
        if self.mode == "squash":
            return self.size, self.size
        short, long = sorted((self.width, self.height))
        longer = int(self.size * long / short)
        return (self.size, longer) if self.width <= self.height else (longer, self.size)

    @property
    def offset(self) -> tuple[int, int]:
        """Return (x, y) of the input's corner in the resized image, as torchvision's centre crop."""
        width, height = self.resized
        return round((width - self.size) / 2.0), round((height - self.size) / 2.0)

    @property
    def visible(self) -> tuple[float, float, float, float]:
        """Return the part of the original image that the model sees: (x0, y0, x1, y1) in original pixels."""
        (width, height), (x, y) = self.resized, self.offset
        scale_x, scale_y = self.width / width, self.height / height
        return x * scale_x, y * scale_y, (x + self.size) * scale_x, (y + self.size) * scale_y

    def to_input(self, image: np.ndarray) -> np.ndarray:
        """Return the model's input as uint8 (3, size, size), from RGB uint8 (height, width, 3)."""
        array = self._input_of(Image.fromarray(image), _RESAMPLING[self.interpolation])
        return np.ascontiguousarray(array.transpose(2, 0, 1))

    def map_to_input(self, saliency: np.ndarray) -> np.ndarray:
        """Bring a map (h, w) over the whole original image to the model's input: float32 (size, size).

        Resized and cropped as the image is, bilinearly; where it shrinks the filter widens.
        """
        picture = Image.fromarray(np.ascontiguousarray(saliency, dtype=np.float32))
        return np.asarray(self._input_of(picture, Image.Resampling.BILINEAR), dtype=np.float32)

    def _input_of(self, picture: Image.Image, resampling: Image.Resampling) -> np.ndarray:
        """Return the pixels (size, size, ...) that the model sees of a picture, resized."""
        (width, height), (x, y) = self.resized, self.offset
        if width * height > _LARGEST_STRIP:  # of a long strip resized as a whole, next to nothing is seen
            return np.asarray(picture.resize((self.size, self.size), resampling, box=self.visible))
        if picture.size != (width, height):
            picture = picture.resize((width, height), resampling)
        return np.asarray(picture)[y : y + self.size, x : x + self.size]

    def to_original(self, saliency: np.ndarray, mode: str = "bilinear") -> np.ndarray:
        """Return a map over the model's input in the pixels of the original image, by one interpolation.

        Args:
            saliency: (h, w), of any size: the model's input, or a method's own grid over it.
            mode: ``bilinear``, or ``bicubic`` with a = -0.75, as torch and OpenCV have them.

        Returns:
            float32 (height, width); pixels that the model never saw are 0.
        """
        values = np.asarray(saliency, dtype=np.float32)
        if saliency.shape == (self.height, self.width) and self.mode == "squash":
            return values
        if self.mode == "squash":
            kind = cv2.INTER_CUBIC if mode == "bicubic" else cv2.INTER_LINEAR
            return cv2.resize(values, (self.width, self.height), interpolation=kind)
        columns, rows = _axis(self, 0, saliency.shape[1], mode), _axis(self, 1, saliency.shape[0], mode)
        return columns.blend(rows.blend(values, 0), 1)

    def mask_to_input(self, mask: np.ndarray) -> np.ndarray:
        """Sample a bool mask (height, width) at input resolution: the original pixel under each centre."""
        (width, height), (x, y) = self.resized, self.offset
        centres = np.arange(self.size) + 0.5
        columns = np.clip(((centres + x) * self.width / width).astype(np.int64), 0, self.width - 1)
        rows = np.clip(((centres + y) * self.height / height).astype(np.int64), 0, self.height - 1)
        return mask[rows[:, None], columns[None, :]]


@dataclass(frozen=True)
class View:
    """How a model sees images of any size: the attributes of :class:`Geometry` that all of them share."""

    size: int
    mode: str = "squash"
    interpolation: str = "bicubic"

    def of(self, width: int, height: int) -> Geometry:
        """Return the geometry of images of one size."""
        return Geometry(width, height, self.size, self.mode, self.interpolation)


@dataclass(frozen=True)
class _Axis:
    """Hold the weights that bring one axis of a map back to the original pixels.

    Attributes:
        taps: int64 (k, n), the places of the map that each of n pixels is mixed of.
        weights: float32 (k, n).
        seen: bool (n,), pixels that the model saw.
    """

    taps: np.ndarray
    weights: np.ndarray
    seen: np.ndarray

    def blend(self, values: np.ndarray, axis: int) -> np.ndarray:
        shape = [1, 1]
        shape[axis] = len(self.seen)
        mixed = sum(
            values.take(places, axis) * weight.reshape(shape)
            for places, weight in zip(self.taps, self.weights, strict=True)
        )
        return np.where(self.seen.reshape(shape), mixed, np.float32(0))


@lru_cache(maxsize=256)
def _axis(geometry: Geometry, axis: int, length: int, mode: str) -> _Axis:
    original = (geometry.width, geometry.height)[axis]
    resized, offset = geometry.resized[axis], geometry.offset[axis]
    position = (np.arange(original) + 0.5) * resized / original - offset
    seen = (position >= 0) & (position < geometry.size)
    source = position * length / geometry.size - 0.5
    if mode != "bicubic":
        source = np.clip(source, 0, length - 1)
    lower = np.floor(source)
    offsets = np.arange(-1, 3) if mode == "bicubic" else np.arange(2)
    distance = np.abs(source - lower - offsets[:, None])
    weights = _cubic(distance) if mode == "bicubic" else 1 - distance
    taps = np.clip(lower + offsets[:, None], 0, length - 1).astype(np.int64)
    return _Axis(taps, weights.astype(np.float32), seen)


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Return the cubic convolution kernel (Keys 1981) at distances of at most 2."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    found: np.ndarray = np.where(distance <= 1, near, far)
    return found
