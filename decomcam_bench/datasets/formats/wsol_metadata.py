"""Reads the metadata of wsolevaluation (Choe et al., CVPR 2020): one fact per line, comma-separated.

``image_ids.txt``, ``class_labels.txt``, ``image_sizes.txt`` and ``localization.txt``, whose boxes
are 0-based and inclusive: in ImageNet's files no far edge exceeds the width or height minus one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.base import Problem

FILES = ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")


@dataclass
class WsolMetadata:
    """The four files by image id, as strings that are judged when a sample is read.

    Attributes:
        folder: where they lie.
        ids: in the order of ``image_ids.txt``, repetitions included.
        labels, sizes: what follows the id in the line; two lines that contradict each other stand
            side by side, and are refused when the sample is read.
        boxes: all lines of an image, without the id.
    """

    folder: Path
    ids: list[str]
    labels: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    boxes: dict[str, list[str]] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path) -> WsolMetadata:
        """Read a metadata folder.

        Raises:
            DataError: when a file is missing or no text.
        """
        metadata = WsolMetadata(folder, _lines(folder / "image_ids.txt"))
        metadata.labels = _facts(_split(_lines(folder / "class_labels.txt")))
        metadata.sizes = _facts(_split(_lines(folder / "image_sizes.txt")))
        for name, rest in _split(_lines(folder / "localization.txt")):
            metadata.boxes.setdefault(name, []).append(rest)
        return metadata

    def label(self, image_id: str, classes: int = 1000) -> int:
        """The class of an image.

        Raises:
            ValueError: when it is missing or no class number.
        """
        text = self.labels.get(image_id, "")
        if not text.isdecimal() or int(text) >= classes:
            file = self.folder / "class_labels.txt"
            raise ValueError(f"{file}: '{image_id}' has the class '{text}', not 0 to {classes - 1}")
        return int(text)

    def size(self, image_id: str) -> tuple[int, int] | None:
        """(width, height) of an image, or None where the metadata do not state it.

        Raises:
            ValueError: when they are no two positive numbers.
        """
        if image_id not in self.sizes:
            return None
        parts = self.sizes[image_id].split(",")
        if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise ValueError(f"{self.folder / 'image_sizes.txt'}: '{image_id}' has the size '{self.sizes[image_id]}'")
        return int(parts[0]), int(parts[1])

    def orphans(self) -> list[Problem]:
        """Boxes of images that ``image_ids.txt`` does not list, as one problem."""
        listed = set(self.ids)
        strange = [name for name in self.boxes if name not in listed]
        if not strange:
            return []
        count = sum(len(self.boxes[name]) for name in strange)
        reason = f"{count} of its boxes belong to images that image_ids.txt does not list, the first to '{strange[0]}'"
        return [Problem(str(self.folder / "localization.txt"), "", reason)]

    def raw(self, image_id: str) -> tuple[str | None, str | None, list[str] | None]:
        """Label, size and boxes of an image as they stand in the files; None for what they do not state."""
        return self.labels.get(image_id), self.sizes.get(image_id), self.boxes.get(image_id)


def half_open(row: str) -> tuple[float, float, float, float]:
    """A line's box ``x0,y0,x1,y1`` (0-based, inclusive) as half-open pixels.

    Raises:
        ValueError: when it is no four numbers.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in row.split(","))
    except ValueError:
        raise ValueError(f"the box '{row}' is not four numbers") from None
    return x0, y0, x1 + 1, y1 + 1


def find_metadata(places: list[Path]) -> Path | None:
    """The first folder that holds all four files."""
    return next((place for place in places if all((place / name).is_file() for name in FILES)), None)


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error


def _facts(lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, fact in lines:
        found[name] = fact if found.get(name, fact) == fact else f"{found[name]} and {fact}"
    return found


def _split(lines: list[str]) -> list[tuple[str, str]]:
    return [(name, rest) for name, _, rest in (line.partition(",") for line in lines)]
