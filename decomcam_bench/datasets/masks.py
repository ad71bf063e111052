"""Masks in image files: binary, soft, transparent, palette and instance-id pictures.

A mask file marks the object in one of several ways, which are told apart by its content:

* two values: the brighter one is the object (0/1, 0/255, 1-bit, 16-bit, a palette's colours);
* values in between along the edges (JPEG noise, anti-aliasing): at least half of the largest value;
* transparency that varies (a cut-out): at least half opaque;
* areas of several values (instance or class ids): ``mask_value`` has to say which one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from decomcam_bench.datasets.images import MAX_PIXELS, image_size

#: Values within this share of the largest value count as an end of the range, not as in between.
END_SHARE = 0.1
#: A picture whose pixels have more different colours than this is a photograph, not a mask.
MAX_COLOURS = 1024
#: Share of in-between pixels inside constant areas from which a picture is one of ids.
FLAT_SHARE = 0.5


@dataclass(frozen=True)
class NoMask:
    """Stands in for the mask of an instance that has none, next to instances that have one."""

    height: int
    width: int

    digest = b"no mask"

    def decode(self) -> np.ndarray:
        """Return an empty mask, bool (height, width)."""
        return np.zeros((self.height, self.width), dtype=bool)


@dataclass(frozen=True)
class ImageMask:
    """A mask in an image file or a ``.npy`` array.

    Attributes:
        file: the picture.
        value: the grey value or palette index of the object; None to find the object as described
            in the module.
    """

    file: Path
    value: int | None = None

    def decode(self) -> np.ndarray:
        """Return the mask, bool (height, width).

        Raises:
            ValueError: if the file cannot be read, or holds ids and no ``value`` is set.
        """
        try:
            pixels = read_mask_pixels(self.file)
        except ValueError:
            raise
        except Exception as error:  # whatever a damaged file makes Pillow raise
            raise ValueError(f"{self.file}: not a readable mask ({error})") from error
        try:
            return pixels.mask() if self.value is None else pixels.of_value(self.value)
        except ValueError as error:
            raise ValueError(f"{self.file}: {error}") from None

    @property
    def digest(self) -> bytes:
        """Content, for the fingerprint."""
        content = self.file.read_bytes() if self.file.is_file() else b""
        return content if self.value is None else f"{self.value}:".encode() + content


@dataclass(frozen=True)
class ValueMask:
    """The pixels of one value in a label picture, whose palette indices or grey values are ids.

    Attributes:
        file: the label picture.
        value: id of the class or instance.
        size: (width, height) that the picture must have.
    """

    file: Path
    value: int
    size: tuple[int, int]

    def decode(self) -> np.ndarray:
        """Return the mask, bool (height, width).

        Raises:
            ValueError: if the picture cannot be read or is of another size.
        """
        return np.asarray(read_labels(self.file, self.size) == self.value)

    @property
    def digest(self) -> bytes:
        """Content, for the fingerprint."""
        return f"{self.value}:".encode() + (self.file.read_bytes() if self.file.is_file() else b"")


def read_labels(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a label picture as ids.

    Args:
        file: a palette or grey picture (8 or 16 bits).
        size: (width, height) that it must have.

    Returns:
        Integers (height, width).

    Raises:
        ValueError: if it cannot be read, is of another size, or is in colour.
    """
    try:
        with Image.open(file) as image:
            if image.size != size:
                found = f"{image.width} x {image.height}"
                raise ValueError(f"the label picture has {found} pixels, its image {size[0]} x {size[1]}")
            if image.mode in ("1", "L", "P", "I", "I;16", "I;16B"):
                return np.asarray(image).astype(np.int64)
            channels = np.asarray(image.convert("RGB")).astype(np.int64)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    except Exception as error:  # whatever a damaged file makes Pillow raise
        raise ValueError(f"{file}: not a readable label picture ({error})") from error
    if (channels != channels[:, :, :1]).any():
        raise ValueError(f"{file}: a label picture in colour; save palette indices or grey values")
    return channels[:, :, 0]


@dataclass(frozen=True)
class MaskPixels:
    """A decoded mask file.

    Attributes:
        values: raw grey values or palette indices, (height, width); None for a picture in colour.
        brightness: float64 (height, width), what tells the object from the background.
        colours: number of different colours among the opaque pixels, counted up to a limit.
        alpha: float64 (height, width) in 0..1, or None where transparency does not vary.
        lossy: the format blurs edges and adds noise (JPEG).
    """

    values: np.ndarray | None
    brightness: np.ndarray
    colours: int
    alpha: np.ndarray | None
    lossy: bool = False

    def mask(self) -> np.ndarray:
        """Return the object, bool (height, width).

        Raises:
            ValueError: for a picture of ids, or a photograph.
        """
        if self.alpha is not None:
            return self.alpha >= 0.5
        if self.colours > MAX_COLOURS:
            raise ValueError("this is a photograph, not a mask; name a black-and-white picture of the object")
        high = float(self.brightness.max(initial=0.0))
        levels = np.unique(self.brightness)
        if len(levels) <= 2:
            return self.brightness >= high if len(levels) == 2 else self.brightness > 0
        if self._holds_ids(high):
            shown = ", ".join(f"{value:g}" for value in np.unique(self._ids())[:8])
            raise ValueError(
                f"holds areas of several values ({shown}); set dataset.mask_value=N, or a column mask_value, "
                "for the one that is the object"
            )
        return self.brightness >= high / 2

    def of_value(self, value: int) -> np.ndarray:
        """Return the pixels of one raw value, bool (height, width).

        Raises:
            ValueError: for a picture in colour, which has no such values.
        """
        if self.values is None:
            raise ValueError("mask_value needs grey values or palette indices, and this picture is in colour")
        return np.asarray(self.values == value)

    def between_share(self) -> float:
        """Return the share of pixels whose value is near neither end of the range."""
        if self.alpha is not None:
            return float(((self.alpha > END_SHARE) & (self.alpha < 1 - END_SHARE)).mean())
        return float(self._between(float(self.brightness.max(initial=0.0))).mean())

    def _ids(self) -> np.ndarray:
        return self.brightness if self.values is None else self.values

    def _between(self, high: float) -> np.ndarray:
        return (self.brightness > END_SHARE * high) & (self.brightness < (1 - END_SHARE) * high)

    def _holds_ids(self, high: float) -> bool:
        """Return True if in-between values form constant areas, as ids do and soft edges do not."""
        lossless = (self.brightness > self.brightness.min()) & (self.brightness < high)
        between = self._between(high) if self.lossy else lossless
        if not between.any():
            return False
        ids = self._ids()
        flat = np.zeros(between.shape, dtype=bool)
        if min(between.shape) >= 3:
            middle = ids[1:-1, 1:-1]
            same = [
                ids[dy : ids.shape[0] - 2 + dy, dx : ids.shape[1] - 2 + dx] == middle
                for dy in range(3)
                for dx in range(3)
            ]
            flat[1:-1, 1:-1] = np.logical_and.reduce(same)
        return float((flat & between).sum()) > FLAT_SHARE * float(between.sum())


def read_mask_pixels(file: Path) -> MaskPixels:
    """Decode a mask file.

    Raises:
        ValueError: if it is too large, or no array of numbers.
        Exception: whatever Pillow raises for a damaged file.
    """
    if file.suffix.lower() == ".npy":
        return _from_array(_load_array(file))
    with Image.open(file) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{file}: more than {MAX_PIXELS:,} pixels")
        alpha, lossy = _alpha(image), image.format == "JPEG"
        if image.mode in ("1", "L", "I", "I;16", "I;16B", "F"):
            return _from_array(np.asarray(image), alpha, lossy)
        values = np.asarray(image) if image.mode == "P" else None
        channels = np.asarray(image.convert("RGB"))
    packed = (channels.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(axis=2)
    if values is None and (channels == channels[:, :, :1]).all():
        values = channels[:, :, 0]
    opaque = packed if alpha is None else packed[alpha >= 0.5]
    brightness = channels.max(axis=2).astype(np.float64)
    if values is not None and len(np.unique(packed)) > 2:
        brightness = values.astype(np.float64)  # ids; their colours only help the eye
    return MaskPixels(values, brightness, len(np.unique(opaque)) if values is None else 0, alpha, lossy)


def mask_size(file: Path) -> tuple[int, int]:
    """Return (width, height) of a mask file.

    Raises:
        FileNotFoundError, ValueError: if it is missing or cannot be read.
    """
    if file.suffix.lower() == ".npy":
        height, width = _load_array(file).shape
        return width, height
    return image_size(file)


def bounding_box(array: np.ndarray) -> tuple[float, float, float, float] | None:
    """Return the smallest half-open box (x0, y0, x1, y1) round the true pixels, or None without any."""
    rows, columns = np.flatnonzero(array.any(axis=1)), np.flatnonzero(array.any(axis=0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1


def _load_array(file: Path) -> np.ndarray:
    try:
        array = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such image") from None
    except Exception as error:  # NumPy raises whatever a damaged file makes it raise
        raise ValueError(f"{file}: not a readable array ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "biuf" or not array.size:
        raise ValueError(f"{file}: not an array (height, width) of numbers")
    return array


def _from_array(values: np.ndarray, alpha: np.ndarray | None = None, lossy: bool = False) -> MaskPixels:
    brightness = values.astype(np.float64)
    if not np.isfinite(brightness).all():
        raise ValueError("the mask holds values that are not finite")
    return MaskPixels(values, brightness, 0, alpha, lossy)


def _alpha(image: Image.Image) -> np.ndarray | None:
    """Return opacity in 0..1 where it varies, or None."""
    if image.mode not in ("LA", "RGBA", "La", "RGBa", "PA") and "transparency" not in image.info:
        return None
    if image.mode in ("1", "L", "I", "I;16", "F"):
        return None
    alpha = np.asarray(image.convert("RGBA"))[:, :, 3]
    return alpha / 255.0 if alpha.min() < alpha.max() else None
