"""Efficiency: what a map costs.

Passes per pair are counted. *Forward* passes are the backbone pass of the image, as if the pair were alone, and one
for each image that the method scored for the pair, as if its cell had been computed alone. *Head* passes run what
follows the layer alone; *backward* passes are gradients. ``efficiency`` is all of them in forward equivalents:
``forward + head + 2 backward``, since a gradient takes about twice the pass that it follows. A head pass counts as a
whole one, which is an upper bound at late layers. Passes may differ from pair to pair, where a matrix has a lower
rank than was asked for or channels are dead, and are the same on every machine but where rounding decides what is
dead. Pairs per second and peak memory belong to a machine and are reported on request alone (``machine: true``).

Pairs whose passes are not known have no value: maps that were saved without them, of methods that score images. A
pair whose map failed cost its passes all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from decomcam_bench.core.reasons import Reason
from decomcam_bench.metrics.aggregation import ImageSums, Totals, ratio, sum_by_image
from decomcam_bench.metrics.base import Column, Fail, MapMetric, Outcome, PairMap, Value

_PASSES = ("forward", "head", "backward")
#: What one pass of each kind counts in forward passes: a gradient takes about twice the pass that it follows.
_EQUIVALENT = {"forward": 1.0, "head": 1.0, "backward": 2.0}


@dataclass
class Efficiency(MapMetric):
    """Count passes per pair; on request pairs per second and peak memory.

    Attributes:
        machine: report what belongs to the machine too.
    """

    id = "efficiency"

    machine: bool = False

    version: ClassVar[int] = 3
    tested: ClassVar[bool] = False

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "efficiency"
        passes = [
            Column(f"{name}_{kind}", "lower", 0.0, None, "passes a pair", detail=kind != "forward") for kind in _PASSES
        ]
        passes = [Column(name, "lower", 0.0, None, "forward equivalents"), *passes]
        if not self.machine:
            return passes
        return [
            *passes,
            Column(f"{name}_pairs_per_second", "higher", 0.0, None, "pairs/s", detail=True, machine=True),
            Column(f"{name}_peak_mib", "lower", 0.0, None, "MiB", detail=True, machine=True),
        ]

    def evaluate(self, pair: PairMap) -> Outcome:
        """Return ``forward``, ``head`` and ``backward`` passes; ``seconds`` and ``peak_mib`` on request.

        Failed: ``work_not_recorded``, ``machine_not_measured``.
        """
        work = pair.work
        if work is None:
            return Fail(Reason.WORK_NOT_RECORDED)
        passes = {kind: getattr(work, kind) for kind in _PASSES}
        if not self.machine:
            return passes
        if work.seconds is None or work.peak_mib is None:
            return Fail(Reason.MACHINE_NOT_MEASURED)
        return {**passes, "seconds": work.seconds, "peak_mib": work.peak_mib}

    def missed(self, values: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return what the failed map took: the passes were spent all the same."""
        return values

    def image_sums(self, records: pd.DataFrame) -> ImageSums:
        """Sums of the passes and of the seconds, and pairs; the peak is that of the whole run."""
        kinds = [*_PASSES, "seconds"] if self.machine else list(_PASSES)
        values = np.stack(
            [records[kind].to_numpy(dtype=np.float64) for kind in kinds] + [np.ones(len(records))], axis=1
        )
        peak = float(records["peak_mib"].max()) if self.machine else float("nan")
        names = [column.name for column in self.columns]

        def combine(totals: Totals) -> dict[str, np.ndarray]:
            pairs = totals[:, -1]
            everything = sum(totals[:, place] * _EQUIVALENT[kind] for place, kind in enumerate(_PASSES))
            means = [ratio(np.asarray(everything), pairs)]
            means += [ratio(totals[:, place], pairs) for place in range(len(_PASSES))]
            if self.machine:
                means += [ratio(pairs, totals[:, -2]), np.full(len(totals), peak)]
            return dict(zip(names, means, strict=True))

        return sum_by_image(records, values, combine, dict.fromkeys(names[: len(_PASSES) + 1], "linear"))
