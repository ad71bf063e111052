"""Read image files of any colour mode as RGB bytes, in the orientation in which they are stored.

EXIF orientation is ignored on purpose: the annotations of all six benchmarks refer to the stored
pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

#: Most pixels that an image may have; beyond that it is taken for a decompression bomb.
MAX_PIXELS = 100_000_000
_ORIENTATION, _WIDTH, _LENGTH = 0x0112, 0x0100, 0x0101
#: What turns stored pixels upright, by EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = {**_TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def read_image(file: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image.

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
        stored = _stored_size(image)
        if size is not None and stored != size:
            raise ValueError(f"{file}: {_sides(stored)} pixels, but its annotation says {_sides(size)}")
        # Pillow turns TIFF upright, and forgets that it was to be turned.
        turn = orientation(image) if image.format == "TIFF" else 1
        try:
            image.load()
            pixels = rgb(image)
            if turn in _BACK and orientation(image) != turn:
                pixels = np.array(Image.fromarray(pixels).transpose(_BACK[turn]))
            return pixels
        except Exception as error:  # Pillow's plug-ins raise whatever a damaged file makes them raise
            raise ValueError(f"{file}: cannot be decoded ({_first_line(error)})") from error


def image_size(file: Path) -> tuple[int, int]:
    """Return (width, height) from the header of an image file, without decoding pixels.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_image`.
    """
    with _opened(file) as image:
        return _stored_size(image)


def upright_size(file: Path) -> tuple[int, int]:
    """Return (width, height) as :func:`image_size`, of the image turned as the camera noted in the file.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_image`.
    """
    with _opened(file) as image:
        width, height = _stored_size(image)
        return (height, width) if orientation(image) in (5, 6, 7, 8) else (width, height)


def upright(file: Path) -> np.ndarray:
    """As :func:`read_image`, turned as the camera noted in the file."""
    with _opened(file) as image:
        turn = orientation(image)
    return turned(read_image(file), turn)


def orientation_of(file: Path) -> int:
    """Return the EXIF orientation of an image file, 1 (upright) where there is none.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_image`.
    """
    with _opened(file) as image:
        return orientation(image)


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or the metadata is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # whatever a damaged block makes Pillow raise; the pixels may be sound
        return 1


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Pixels (height, width, 3) turned upright from an EXIF orientation."""
    return np.array(Image.fromarray(pixels).transpose(_TURNS[turn])) if turn in _TURNS else pixels


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of the pixels as they are stored; Pillow gives that of a TIFF as it will turn it."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return int(tags.get(_WIDTH, image.width)), int(tags.get(_LENGTH, image.height))


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


def rgb(image: Image.Image) -> np.ndarray:
    """RGB bytes (height, width, 3) of a decoded image of any mode; see :func:`read_image`.

    Raises:
        ValueError: for grey values outside 16 bits, or floating-point ones.
    """
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
