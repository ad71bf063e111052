"""Writing figures and arrays, with refusals in one line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.explainer.figures import STYLE

SUFFIXES = (".png", ".svg", ".pdf")


def check_path(path: Path, suffixes: Sequence[str], option: str = "--out") -> None:
    """Refuse a file name that cannot be written as asked.

    Raises:
        ConfigError: for another suffix, a missing folder, or a folder instead of a file.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} {path}: the suffix must be one of {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {path.parent}; create it first")
    if path.is_dir():
        raise ConfigError(f"{option} {path}: this is a folder; name a file")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while writing ``path`` into a ConfigError of one line."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error}); name another file") from error


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure; the same figure gives the same bytes.

    Raises:
        ConfigError: for a suffix other than .png, .svg and .pdf, a missing folder, or a file that cannot
            be written.
    """
    check_path(path, SUFFIXES)
    kind = path.suffix.lower().removeprefix(".")
    stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with matplotlib.rc_context(STYLE), writing(path), warnings.catch_warnings():
        # A character that the font lacks is drawn as a box, which is warning enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, format=kind, dpi=dpi, metadata=stamp)
