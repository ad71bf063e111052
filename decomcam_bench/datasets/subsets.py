"""Which images and pairs of a data set a run looks at."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from decomcam_bench.datasets.base import Dataset, Sample, Target


@dataclass(frozen=True)
class Selection:
    """Chosen positions of a data set.

    Attributes:
        indices: positions in the data set, in the order of evaluation.
        available: how many there were before the limit.
        digest: hash of what was chosen, for the cell key.
    """

    indices: tuple[int, ...]
    available: int
    digest: str

    def keeps(self, sample: Sample, target: Target) -> bool:
        """Whether a pair of a chosen image is part of the subset."""
        return True


def select(dataset: Dataset, limit: int | None = None) -> Selection:
    """The chosen images; ``limit`` applies last."""
    indices = tuple(range(len(dataset)))
    chosen = indices[:limit]
    return Selection(chosen, len(indices), hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16])
