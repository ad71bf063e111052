"""Reads image files of any colour mode as RGB bytes, in the orientation in which they are stored.

EXIF orientation is ignored on purpose: the annotations of all six benchmarks refer to the stored
pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

#: Most pixels that an image may have; beyond that it is taken for a decompression bomb.
MAX_PIXELS = 100_000_000


def read_image(file: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes an image.

    Grey, palette, CMYK and YCbCr become RGB; 16-bit grey is scaled to 8 bits; alpha is dropped,
    as CLIP's preprocessing does. The first frame of an animation counts.

    Args:
        file: the image.
        size: (width, height) that its annotation states, if any.

    Returns:
        uint8 (height, width, 3), writable.

    Raises:
        FileNotFoundError: when the file is missing.
        ValueError: when it cannot be decoded, is too large, or is not of the stated size.
    """
    with _opened(file) as image:
        if size is not None and image.size != size:
            raise ValueError(f"{file}: {_sides(image.size)} pixels, but its annotation says {_sides(size)}")
        try:
            image.load()
            return _rgb(image)
        except Exception as error:  # Pillow's plug-ins raise whatever a damaged file makes them raise
            raise ValueError(f"{file}: cannot be decoded ({_first_line(error)})") from error


def image_size(file: Path) -> tuple[int, int]:
    """(width, height) from the header of an image file; decodes no pixels.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_image`.
    """
    with _opened(file) as image:
        return image.size


def _opened(file: Path) -> Image.Image:
    """The image with its header read.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_image`.
    """
    try:
        image = Image.open(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such image") from None
    except Exception as error:
        empty = file.is_file() and file.stat().st_size == 0
        reason = "the file is empty" if empty else _first_line(error)
        raise ValueError(f"{file}: not a readable image ({reason})") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{file}: {_sides(image.size)} pixels are more than the {MAX_PIXELS:,} allowed")
    return image


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("grey values outside 16 bits")
        grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    image.info.pop("transparency", None)  # or Pillow warns of what alpha is dropped here
    return np.array(image.convert("RGB"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
