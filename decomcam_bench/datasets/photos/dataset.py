"""The photographs that ship with the package: what each shows, and where.

``annotations.csv`` has the columns of ``dataset=custom``; ``CREDITS.md`` names author, source and licence of each.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.datasets.base import Sample
from decomcam_bench.datasets.files import FileDataset, Gathering, inside
from decomcam_bench.datasets.images import image_size

FOLDER = Path(__file__).parent


@dataclass
class Photos(FileDataset):
    """One target per class that a photograph shows, with a box per instance.

    Photographs of one's own are ``dataset=custom``, which reads the same format.
    """

    id = "photos"

    version: ClassVar[int] = 1
    folder: ClassVar[str] = "photos"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.root is not None:
            raise ConfigError(
                f"dataset.root={self.root}: photos ship with the package; use dataset=custom for your own"
            )
        self._rows: dict[str, list[tuple[str, list[float]]]] = {}
        with (FOLDER / "annotations.csv").open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                box = [float(row[name]) for name in ("x0", "y0", "x1", "y1")]
                self._rows.setdefault(row["image"], []).append((row["class"], box))
        self._images = list(self._rows)
        self._classes = sorted({name for rows in self._rows.values() for name, _ in rows})

    @property
    def base(self) -> Path:
        return FOLDER

    @property
    def class_names(self) -> Sequence[str]:
        return self._classes

    def __len__(self) -> int:
        return len(self._images)

    def image_id(self, index: int) -> str:
        return Path(self._images[index]).stem

    def image_file(self, index: int) -> Path:
        return inside(self.base, self._images[index])

    def _read(self, index: int) -> Sample:
        try:
            width, height = image_size(self.image_file(index))
        except (OSError, ValueError) as error:
            return Sample(self.image_id(index), 0, 0, (), str(error))
        gathering = Gathering(str(self.base / "annotations.csv"), self.image_id(index), width, height)
        for name, box in self._rows[self._images[index]]:
            gathering.add(self._classes.index(name), name, box)
        return gathering.sample()
