"""Write files so that each appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from decomcam_bench.core.errors import StoreError

Writer = Callable[[BinaryIO], None]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a disk that is full or read-only into one line.

    Raises:
        StoreError: with the path, the cause and the remedy.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error}); make room or name another results folder"
        ) from error


def temporary(path: Path) -> Path:
    """Return the name under which a file is written before it is renamed."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def publish(files: Sequence[tuple[Path, Writer]]) -> None:
    """Write files, flush all of them to disk, then give each its name.

    Raises:
        StoreError: when one cannot be written; none of those that have no name yet is left behind.
    """
    written: list[Path] = []
    try:
        for path, write in files:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                written.append(path)
                with open(temporary(path), "wb") as stream:
                    write(stream)
                    stream.flush()
                    os.fsync(stream.fileno())
        for path in written:
            with writing(path):
                temporary(path).replace(path)
    except BaseException:
        for path in written:
            temporary(path).unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in written}:
        _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
