"""Base of data sets that lie in files: where they are looked for, and how samples are put together."""

from __future__ import annotations

import abc
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.datasets.base import Dataset, Mask, Problem, Sample, Target, printable
from decomcam_bench.datasets.images import read_image
from decomcam_bench.datasets.masks import NoMask

#: Boxes may pass the border by less than this and are clipped without a record: official files
#: round to two decimals, and their far edges then exceed the image by fractions of a pixel.
BORDER_TOLERANCE = 0.5


def data_folder() -> Path:
    """Where data sets lie unless told otherwise: ``$DECOMCAM_BENCH_DATA``, or a user cache folder."""
    named = os.environ.get("DECOMCAM_BENCH_DATA")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "decomcam-bench" / "data"


def inside(folder: Path, name: str) -> Path:
    """The path of a file that a data set names, which must lie under ``folder``.

    Raises:
        ValueError: for a name that leads out of the folder.
    """
    path = folder / name
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"file name '{name}' leads out of {folder}, to which it must be relative")
    return path


@dataclass
class FileDataset(Dataset):
    """A data set under a root folder, whose samples are read once, when they are first asked for.

    Attributes:
        root: the folder; None for ``<data folder>/<folder>``.
        folder: name of its folder under the data folder, and of its ``data prepare`` command.
    """

    root: str | None = None

    folder: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._samples: dict[int, Sample] = {}

    @property
    def base(self) -> Path:
        """The folder that ``root`` names, or the default one."""
        return Path(self.root).expanduser() if self.root else data_folder() / self.folder

    def missing(self, what: str) -> DataError:
        """The error for a root without the needed files: the path looked at, and the remedy."""
        return DataError(
            f"{self.name or self.folder}: no {what} under {self.base}; "
            f"get it with 'decomcam-bench data prepare {self.folder} --root DIR', "
            "or name its folder with dataset.root=DIR"
        )

    def find(self, *names: str) -> Path:
        """The first of several files or folders that lies under the root, or one level off an existing one.

        Raises:
            DataError: when none is there; names the first.
        """
        above = [self.base.parent] if self.base.is_dir() else []
        for place in (self.base, self.base / self.folder, *above):
            for name in names:
                if (place / name).exists():
                    return place / name
        raise self.missing(names[0])

    def sample(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: no image number {index}")
        if index not in self._samples:
            self._samples[index] = self._read(index)
        return self._samples[index]

    def load_image(self, index: int) -> np.ndarray:
        sample = self.sample(index)
        return read_image(self.image_file(index), (sample.width, sample.height) if sample.width else None)

    @abc.abstractmethod
    def image_file(self, index: int) -> Path:
        """Path of the image.

        Raises:
            ValueError: when the data set names a file outside its folder.
        """

    @abc.abstractmethod
    def _read(self, index: int) -> Sample:
        """Annotations of an image; what cannot be read becomes the sample's error or problems."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_samples": {}}


def check_classes(names: Sequence[str] | None) -> tuple[str, ...]:
    """Class names that a configuration gives for a set in a benchmark's layout; empty for none.

    Raises:
        ConfigError: for an empty list or name, or one that occurs twice.
    """
    if names is None:
        return ()
    if not names or len(set(names)) != len(names) or not all(name.strip() for name in names):
        raise ConfigError(f"dataset.classes={list(names)}: give at least one name, each once")
    return tuple(names)


def fit_box(box: Sequence[float], width: int, height: int) -> tuple[tuple[float, float, float, float], str]:
    """Clip a half-open box (x0, y0, x1, y1) to its image.

    Returns:
        The box, and what was wrong with it: empty if it lies inside (to :data:`BORDER_TOLERANCE`),
        otherwise a reason. A box that is left without area raises instead.

    Raises:
        ValueError: for a box that is not finite, has no area, or lies outside the image.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    if not (math.isfinite(x0) and math.isfinite(y0) and math.isfinite(x1) and math.isfinite(y1)):
        raise ValueError(f"box {_shown(box)} is not finite")
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"box {_shown(box)} has no area")
    clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise ValueError(f"box {_shown(box)} lies outside the image of {width} x {height} pixels")
    if max(-x0, -y0, x1 - width, y1 - height) < BORDER_TOLERANCE:
        return clipped, ""
    return clipped, f"box {_shown(box)} passes the border of the image of {width} x {height} pixels and was clipped"


def _shown(box: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"


@dataclass
class Gathering:
    """Collect the annotations of one image by class, together with what is wrong with them.

    Attributes:
        file: named in the problems.
        image_id, width, height: of the image.
        inclusive: the file names the last pixel of a box; those that are added are half-open nevertheless.
    """

    file: str
    image_id: str
    width: int
    height: int
    inclusive: bool = False
    problems: list[Problem] = field(default_factory=list)
    _rows: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _ignored: dict[int, tuple[Mask, ...]] = field(default_factory=dict)
    _bad: dict[tuple[int, str], list[str]] = field(default_factory=dict)

    def add(
        self,
        class_id: int,
        class_name: str,
        box: Sequence[float] | None,
        difficult: bool = False,
        crowd: bool = False,
        mask: Any = None,
        parts: Iterable[Any] = (),
        text: str = "",
        label: str = "",
        ignored: tuple[Mask, ...] = (),
    ) -> None:
        """Add an instance; a box that does not fit is clipped or refused, and noted.

        Args:
            label: names the annotation in what is noted.
            ignored: masks of pixels that count neither as object nor as background.
        """
        prefix = f"{label}: " if label else ""
        if box is not None:
            try:
                box, reason = fit_box(box, self.width, self.height)
            except ValueError as error:
                self.refuse(f"{prefix}{error}", class_id, class_name)
                return
            if reason:
                self.note(f"{prefix}{reason}", class_id, class_name)
        self._names[class_id] = class_name
        self._rows.setdefault(class_id, []).append(
            {"box": box, "difficult": difficult, "crowd": crowd, "mask": mask, "parts": tuple(parts), "text": text}
        )
        self._ignored[class_id] = ignored

    def without_mask(self) -> list[tuple[int, str, int, int]]:
        """Return (class id, name, instances without a mask, instances) of the classes of which only some have one."""
        found = []
        for class_id, rows in self._rows.items():
            missing = sum(row["mask"] is None for row in rows)
            if 0 < missing < len(rows):
                found.append((class_id, self._names[class_id], missing, len(rows)))
        return found

    def note(self, reason: str, class_id: int = -1, class_name: str = "", file: str = "") -> None:
        """Note something that was wrong, in another file if one is named, without affecting its pair."""
        self.problems.append(Problem(file or self.file, self.image_id, reason, class_id, class_name))

    def refuse(self, reason: str, class_id: int = -1, class_name: str = "") -> None:
        """Note an instance that cannot be used; its pair is lost if no other instance is left."""
        self._bad.setdefault((class_id, class_name), []).append(reason)

    def sample(self, error: str = "") -> Sample:
        """Return the finished sample, with one target per class in ascending order."""
        targets = tuple(self._target(class_id) for class_id in sorted(self._rows))
        problems = list(self.problems)
        for (class_id, class_name), reasons in self._bad.items():
            for number, reason in enumerate(reasons):
                lost = number == 0 and class_id not in self._rows
                problems.append(Problem(self.file, self.image_id, reason, class_id, class_name, lost))
        return Sample(self.image_id, self.width, self.height, targets, error, tuple(problems))

    def _target(self, class_id: int) -> Target:
        rows = self._rows[class_id]
        boxed = [row for row in rows if row["box"] is not None]
        some = any(row["mask"] is not None for row in rows)
        masks = tuple(row["mask"] or NoMask(self.height, self.width) for row in rows) if some else ()
        return Target.of(
            class_id,
            self._names[class_id],
            [row["box"] for row in boxed],
            [row["difficult"] for row in boxed],
            [row["crowd"] for row in boxed],
            masks=masks,
            parts=tuple(part for row in rows for part in row["parts"]),
            text=rows[0]["text"],
            inclusive=self.inclusive,
            ignored=self._ignored.get(class_id, ()),
        )


def unique_ids(ids: Iterable[str]) -> tuple[list[str], list[bool]]:
    """Make ids printable and repeated ones distinct (``name#2``), and tell which entries are repetitions."""
    seen: dict[str, int] = {}
    unique, repeated = [], []
    for name in map(printable, ids):
        seen[name] = seen.get(name, 0) + 1
        repeated.append(seen[name] > 1)
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique, repeated
