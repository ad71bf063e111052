"""Flaws that every official copy has: they are listed, and do not make a copy unsound.

Each entry names where the flaw is reported. Add one only with such a source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class KnownFlaw:
    """One flaw, or one kind of flaws, of an official copy.

    Attributes:
        dataset: name of the data set.
        pattern: regular expression that the findings match.
        reason: what is wrong, in a few words.
        source: where it is reported.
        image_id: of the image that has it; empty for any.
        options: of the data set for which it holds; empty for all.
    """

    dataset: str
    pattern: str
    reason: str
    source: str
    image_id: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, dataset: Any, image_id: str, line: str) -> bool:
        """Return True if a finding of a data set is this flaw."""
        return (
            dataset.name == self.dataset
            and self.image_id in ("", image_id)
            and all(getattr(dataset, key, None) == value for key, value in self.options.items())
            and re.search(self.pattern, line) is not None
        )


_COCO_ZERO = "https://github.com/cocodataset/cocoapi/issues/355"
_TRAIN2017 = {"year": 2017, "split": "train"}

KNOWN_FLAWS: tuple[KnownFlaw, ...] = (
    KnownFlaw("coco", r"has no area$", "a box of height 0", _COCO_ZERO, "200365", _TRAIN2017),
    KnownFlaw("coco", r"has no area$", "a box of height 0", _COCO_ZERO, "550395", _TRAIN2017),
    KnownFlaw(
        "partimagenet", r"a polygon of [0-5] coordinates, which annToMask cannot read", "polygons of one or two points",
        "https://github.com/TACJu/PartImageNet/issues/7",
    ),
)  # fmt: skip


def known_flaw(dataset: Any, image_id: str, line: str, flaws: Sequence[KnownFlaw] | None = None) -> KnownFlaw | None:
    """Return the known flaw that a finding is, or None.

    Args:
        dataset: opened.
        image_id: of the image that the finding is about, or empty.
        line: the finding.
        flaws: the list; None for :data:`KNOWN_FLAWS`.
    """
    return next(
        (flaw for flaw in (KNOWN_FLAWS if flaws is None else flaws) if flaw.fits(dataset, image_id, line)), None
    )
