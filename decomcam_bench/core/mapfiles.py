"""Name, read and check saliency maps in files, one per (image, text) pair.

    DIR/<image id>__<class name>.npy     a 2-D array of real numbers
    DIR/<image id>__<class name>.npz     the same: its only array, or the one named "map"
    DIR/<image id>__<class name>.png     16-bit grey, read as value / 65535

Both names are percent-encoded: ASCII letters, digits and ``_.-~`` stay as they are and every other byte
of the UTF-8 text is written as ``%XX`` (:func:`urllib.parse.quote` with nothing safe), a slash
included. In the class name an underscore is written ``%5F`` where it comes first or follows another
one, and a name of more than 100 characters is cut to 80, ``+``, and 16 hexadecimal digits of its
SHA-256. A free text stands in place of a class name. Names carry the text and not its number, which
changes with the list of classes.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from decomcam_bench.core.errors import DataError

SUFFIXES = (".npy", ".npz", ".png")


#: Longest class name that is written out in a file name, and how much of a longer one.
LONGEST_NAME, CUT_NAME = 100, 80


def file_stem(image_id: str, class_name: str) -> str:
    """Return the file name of a pair's map, without its suffix.

    >>> file_stem("val/7.jpg", "traffic light")
    'val%2F7.jpg__traffic%20light'
    """
    name = re.sub(r"^_|(?<=_)_", "%5F", quote(class_name, safe="", errors="surrogatepass"))
    if len(name) > LONGEST_NAME:
        digest = hashlib.sha256(class_name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        name = f"{name[:CUT_NAME]}+{digest}"
    return f"{quote(image_id, safe='', errors='surrogatepass')}__{name}"


class MapMissingError(ValueError):
    """Report that a pair has no file."""


class MapMalformedError(ValueError):
    """Report that the file of a pair holds no map; the message says why."""


@dataclass
class MapFolder:
    """Read maps from a folder, which is listed once.

    Raises:
        DataError: when the folder cannot be read or holds no map at all.
    """

    path: Path
    files: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        try:
            names = sorted(entry.name for entry in self.path.iterdir() if entry.is_file())
        except OSError as error:
            raise DataError(
                f"method.dir={self.path}: cannot be read ({error.strerror}); name a folder of maps"
            ) from error
        self.files = {}
        for name in names:
            stem, dot, suffix = name.rpartition(".")
            if dot + suffix in SUFFIXES and "__" in stem:
                self.files.setdefault(stem, []).append(name)
        if not self.files:
            raise DataError(
                f"method.dir={self.path}: no map there; maps are named <image id>__<class name> with "
                f"{', '.join(SUFFIXES)}, `decomcam-bench data export-pairs` lists the names"
            )

    def digest(self) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of names and content of all maps; reads every file."""
        total = hashlib.sha256()
        for name in sorted(name for names in self.files.values() for name in names):
            content = hashlib.sha256()
            with open(self.path / name, "rb") as stream:
                while block := stream.read(1 << 20):
                    content.update(block)
            total.update(f"{len(name.encode())} {name} {content.hexdigest()}\n".encode())
        return total.hexdigest()[:16]

    def read(self, image_id: str, class_name: str) -> np.ndarray:
        """Return the map of a pair, float32 (h, w), finite.

        Raises:
            MapMissingError: if there is no file.
            MapMalformedError: if there are two, or the file holds something else.
            DataError: if the image's maps are named by class numbers, as older versions named them.
        """
        names = self.files.get(file_stem(image_id, class_name), [])
        if not names:
            self._refuse_numbers(image_id)
            raise MapMissingError
        if len(names) > 1:
            raise MapMalformedError(f"{' and '.join(names)} are there, one is wanted")
        try:
            data = (self.path / names[0]).read_bytes()
        except OSError as error:
            raise MapMalformedError(f"{names[0]} cannot be read ({error.strerror})") from error
        return checked(decode(data, names[0]), names[0])

    def _refuse_numbers(self, image_id: str) -> None:
        """Refuse maps that carry a class number, which another list of classes gives to another class."""
        prefix = file_stem(image_id, "")
        old = next((stem for stem in self.files if stem.startswith(prefix) and stem[len(prefix) :].isdecimal()), "")
        if old:
            raise DataError(
                f"method.dir={self.path}: '{self.files[old][0]}' names its class by a number, which moves when the "
                "list of classes changes; name maps <image id>__<class name>, as `data export-pairs` lists them"
            )


def decode(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of a file to an array, as stored.

    Raises:
        MapMalformedError: when it cannot be decoded.
    """
    try:
        if name.endswith(".png"):
            return _decode_png(data, name)
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if name.endswith(".npz"):
                raise MapMalformedError(f"{name} is a .npy under another name")
            return loaded
        with loaded:
            key = "map" if "map" in loaded.files else loaded.files[0] if len(loaded.files) == 1 else None
            if key is None:
                raise MapMalformedError(f"{name} holds {len(loaded.files)} arrays, none named 'map'")
            if not isinstance(loaded[key], np.ndarray):
                raise MapMalformedError(f"{name} holds no array")
            found: np.ndarray = loaded[key]
            return found
    except MapMalformedError:
        raise
    except Image.DecompressionBombError as error:
        raise MapMalformedError(f"{name} is too large a picture") from error
    except Exception as error:  # NumPy and Pillow raise whatever a damaged file makes them raise
        raise MapMalformedError(f"{name} cannot be decoded ({type(error).__name__})") from error


def _decode_png(data: bytes, name: str) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        # Depending on its version, Pillow opens 16-bit grey as I;16 or as I.
        if picture.mode not in ("I;16", "I;16B", "I"):
            raise MapMalformedError(f"{name} is not 16-bit grey (mode {picture.mode})")
        return np.asarray(picture).astype(np.float32) / np.float32(65535)


def checked(array: np.ndarray, name: str) -> np.ndarray:
    """Return an array as float32 (h, w).

    Raises:
        MapMalformedError: for one that is not two-dimensional, real, non-empty and finite.
    """
    if array.dtype.kind not in "fiub":
        raise MapMalformedError(f"{name} holds {array.dtype}, not real numbers")
    if array.ndim != 2 or not array.size:
        raise MapMalformedError(f"{name} has shape {array.shape}, not (height, width)")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(values).all():
        raise MapMalformedError(f"{name} is not finite in float32")
    return values
