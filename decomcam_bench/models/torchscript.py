"""Tensors of a TorchScript archive, read without running anything of it.

OpenAI distributes CLIP as TorchScript (``RN50.pt``): a zip with code, a pickle of the module and the raw tensors. Only
the pickle's structure and the raw bytes are read here. Classes in it become plain holders of attributes, no function
but the one that makes a tensor is called, and the code is never looked at.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class ArchiveError(Exception):
    """A file that is no TorchScript archive, or holds what cannot be read safely; the message says what."""


#: Storage classes of a pickle and what they hold.
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Module:
    """What is left of a scripted module: its attributes."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state) if isinstance(state, dict) else {}


def is_archive(path: Path) -> bool:
    """Return whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())


def read_archive(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the module in a TorchScript archive by their dotted names.

    Raises:
        ArchiveError: for anything but a module of tensors, modules and plain values.
    """
    with zipfile.ZipFile(path) as archive:
        data = next((name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl"), None)
        if data is None:
            raise ArchiveError("it has no data.pkl")
        with archive.open(data) as stream:
            root = _Unpickler(stream, archive, data.removesuffix("data.pkl")).load()
    if not isinstance(root, _Module):
        raise ArchiveError(f"its root is a {type(root).__name__}, not a module")
    return dict(_tensors(root, ""))


def _tensors(module: _Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")


class _Unpickler(pickle.Unpickler):
    """Reads what TorchScript writes, and refuses every other name."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream)
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle":
            return _plain
        raise ArchiveError(f"it names {module}.{name}, which is not read")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ArchiveError(f"it holds a '{kind}', which is not read")
        if key not in self.storages:
            raw = self.archive.read(f"{self.folder}data/{key}")
            if len(raw) < int(count) * dtype.itemsize:
                raise ArchiveError(f"its storage {key} is cut short")
            self.storages[key] = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _rebuilt(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """Return the tensor that lies in a storage at an offset."""
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _plain(*values: Any) -> Any:
    """Return a list or a value as it stands, where TorchScript tags its type."""
    return values[0] if values else None
