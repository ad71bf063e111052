"""What the sets of labelled ImageNet images share: class names, and boxes from wsolevaluation's metadata."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from decomcam_bench.datasets.base import Problem, Sample
from decomcam_bench.datasets.benchmarks.imagenet_wnids import WNIDS
from decomcam_bench.datasets.files import FileDataset, Gathering, check_classes, unique_ids
from decomcam_bench.datasets.formats.wsol_metadata import WsolMetadata, half_open
from decomcam_bench.datasets.images import image_size
from decomcam_bench.datasets.prompts import imagenet_names


@dataclass
class LabelledImages(FileDataset):
    """One target an image: its label. A subclass finds the files and calls :meth:`_enlist`.

    Attributes:
        classes: names of the first classes, for another set in this layout; None for ImageNet's.
    """

    names: str = "clip"
    classes: list[str] | None = None

    version: ClassVar[int] = 2
    name_choices: ClassVar[tuple[str, ...]] = ("clip", "wnid")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._class_names = check_classes(self.classes) or imagenet_names()
        self._metadata: WsolMetadata | None = None

    def _enlist(self, listed: list[str], shown: list[str]) -> None:
        """Takes the images in their order: as the metadata, if any, list them, and as ids show them."""
        self._listed, self._shown = listed, shown
        self._image_ids, self._repeated = unique_ids(shown)
        self._problems = self._metadata.orphans() if self._metadata else []

    @property
    def class_names(self) -> Sequence[str]:
        """CLIP's names; ImageNet itself names its classes by WordNet ids."""
        return self._class_names

    def worded(self, names: str) -> Sequence[str]:
        return WNIDS[: len(self._class_names)] if names == "wnid" else self._class_names

    @property
    def problems(self) -> Sequence[Problem]:
        return self._problems

    def __len__(self) -> int:
        return len(self._listed)

    def image_id(self, index: int) -> str:
        return self._image_ids[index]

    def _read(self, index: int) -> Sample:
        image_id = self._image_ids[index]
        if self._repeated[index]:
            return Sample(image_id, 0, 0, (), f"{self._shown[index]}: listed more than once")
        try:
            return self._from_files(index) if self._metadata is None else self._from_metadata(index, self._metadata)
        except (ValueError, OSError) as error:
            return Sample(image_id, 0, 0, (), str(error))

    def _from_metadata(self, index: int, metadata: WsolMetadata) -> Sample:
        listed = self._listed[index]
        label = metadata.label(listed, len(self._class_names))
        name = self._class_names[label]
        width, height = metadata.size(listed) or image_size(self.image_file(index))
        file = str(metadata.folder / "localization.txt")
        gathering = Gathering(file, self._image_ids[index], width, height, inclusive=True)
        reason = self._misplaced(index, label)
        if reason:
            gathering.refuse(reason, label, name)
        else:
            add_boxes(gathering, label, name, metadata.boxes.get(listed, []))
        return gathering.sample()

    @abc.abstractmethod
    def _from_files(self, index: int) -> Sample:
        """Annotations of an image without the metadata.

        Raises:
            ValueError, OSError: when they cannot be read.
        """

    @abc.abstractmethod
    def _misplaced(self, index: int, label: int) -> str:
        """Why the folder of an image contradicts its label, or an empty string."""


def add_boxes(gathering: Gathering, label: int, name: str, rows: list[str]) -> None:
    """Adds the boxes of an image from wsolevaluation's lines; an image without one is noted."""
    for row in rows:
        try:
            gathering.add(label, name, half_open(row), label=gathering.image_id)
        except ValueError as error:
            gathering.refuse(f"{gathering.image_id}: {error}", label, name)
    if not rows:
        gathering.refuse(f"no box for '{gathering.image_id}'", label, name)
