"""ImageNet-Segmentation: 4,276 ImageNet images with a foreground mask each, in one MATLAB file.

Guillaumin, Küttel, Ferrari, ImageNet Auto-Annotation with Segmentation Propagation, IJCV 110, 2014;
the set that Chefer et al. (CVPR 2021) and later papers on explaining ViT and CLIP score. The file
``gtsegs_ijcv.mat`` (MATLAB 7.3, that is HDF5) holds the images, their masks and the WordNet id of each
image's class; reading it needs the package h5py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.datasets.base import Sample, Target
from decomcam_bench.datasets.benchmarks.imagenet_wnids import WNIDS, lemma
from decomcam_bench.datasets.files import FileDataset
from decomcam_bench.datasets.masks import bounding_box
from decomcam_bench.datasets.prompts import imagenet_names

FILE = "gtsegs_ijcv.mat"


@dataclass(frozen=True)
class _StoredMask:
    """A mask in the file, decoded when it is needed."""

    file: Path
    index: int

    def decode(self) -> np.ndarray:
        with _opened(self.file) as content:
            return _mask(content, self.file, self.index)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.decode().tobytes()).digest()


@dataclass
class ImageNetSegmentation(FileDataset):
    """One target per image: its class, with the foreground mask and the box round it.

    Attributes:
        names: ``clip`` (CLIP's names for classes of ILSVRC2012, WordNet's first word for the others) or ``wnid``.
    """

    names: str = "clip"

    id: ClassVar[str] = "imagenet_seg"
    region: ClassVar[str] = "mask"
    folder: ClassVar[str] = "imagenet_seg"
    name_choices: ClassVar[tuple[str, ...]] = ("clip", "wnid")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._file = self.base if self.base.is_file() else self.find(FILE)
        with _opened(self._file) as content:
            try:
                count = content["value/img"].shape[0]
                self._wnids = [_text(content, "value/target", index) for index in range(count)]
            except (KeyError, AttributeError, ValueError, OSError) as error:
                raise DataError(f"{self._file}: not the file of ImageNet-Segmentation ({error})") from error
        if not self._wnids:
            raise DataError(f"{self._file}: no image in it")
        self._classes = sorted(set(self._wnids))

    @property
    def class_names(self) -> Sequence[str]:
        """CLIP's names, or WordNet's first word; several synsets may share one."""
        known = dict(zip(WNIDS, imagenet_names(), strict=True))
        return tuple(known.get(wnid) or lemma(wnid) or wnid for wnid in self._classes)

    def worded(self, names: str) -> Sequence[str]:
        """``wnid``: the WordNet ids."""
        return tuple(self._classes) if names == "wnid" else self.class_names

    @cached_property
    def _names(self) -> Sequence[str]:
        return self.class_names

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the classes and of the size of the file; its masks are too many to decode them all."""
        content = repr((self._wnids, self._file.stat().st_size))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._wnids)

    def image_id(self, index: int) -> str:
        """The position in the file, from 0, with the class."""
        return f"{index:04d}_{self._wnids[index]}"

    def image_file(self, index: int) -> Path:
        """The file that holds all images."""
        return self._file

    def load_image(self, index: int) -> np.ndarray:
        """Return the image, RGB uint8 (height, width, 3).

        Raises:
            ValueError: if it is missing or no RGB picture.
        """
        with _opened(self._file) as content:
            return _image(content, self._file, index)

    def _read(self, index: int) -> Sample:
        try:
            with _opened(self._file) as content:
                mask = _mask(content, self._file, index)
                height, width = mask.shape
        except (DataError, ValueError) as error:
            return Sample(self.image_id(index), 0, 0, (), str(error))
        class_id = self._classes.index(self._wnids[index])
        box = bounding_box(mask)
        target = Target.of(
            class_id, self._names[class_id], [] if box is None else [box], masks=(_StoredMask(self._file, index),)
        )
        return Sample(self.image_id(index), width, height, (target,))


def _opened(file: Path) -> Any:
    """Open the file.

    Raises:
        ConfigError: without h5py.
        DataError: if it cannot be opened.
    """
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError("dataset=imagenet_seg needs the package h5py: pip install h5py") from None
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise DataError(f"{file}: not a MATLAB 7.3 file ({' '.join(str(error).split())})") from error


def _item(content: Any, key: str, index: int) -> Any:
    return content[content[key][index, 0]]


def _text(content: Any, key: str, index: int) -> str:
    return "".join(chr(int(code)) for code in np.asarray(_item(content, key, index)).ravel())


def _image(content: Any, file: Path, index: int) -> np.ndarray:
    """MATLAB stores arrays by column, so that HDF5 shows their axes in reverse."""
    try:
        pixels = np.asarray(_item(content, "value/img", index))
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{file}: image {index} cannot be read ({error})") from error
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3)
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"{file}: image {index} is of shape {pixels.shape} and type {pixels.dtype}, not RGB bytes")
    return np.ascontiguousarray(pixels.transpose(2, 1, 0))


def _mask(content: Any, file: Path, index: int) -> np.ndarray:
    try:
        cell = _item(content, "value/gt", index)
        values = np.asarray(content[cell[0, 0]] if cell.dtype == object else cell)
    except (KeyError, ValueError, OSError, IndexError) as error:
        raise ValueError(f"{file}: mask {index} cannot be read ({error})") from error
    if values.ndim != 2:
        raise ValueError(f"{file}: mask {index} is of shape {values.shape}")
    return np.ascontiguousarray(values.transpose(1, 0)) > 0
