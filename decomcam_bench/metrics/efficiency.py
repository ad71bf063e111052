"""Efficiency: what a map costs.

Forward passes a pair are counted: the backbone pass of the image, as if the pair were alone, and one
for each image that the method scored for the pair, as if its cell had been computed alone. They may
differ from pair to pair, where a matrix has a lower rank than was asked for or channels are dead, and
are the same on every machine but where rounding decides what is dead. Pairs a second and peak memory
belong to a machine and are reported on request alone (``machine: true``).

Of maps that were kept without their passes, those of methods that score images fail.
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


@dataclass
class Efficiency(MapMetric):
    """Passes a pair; on request pairs a second and peak memory.

    Attributes:
        machine: report what belongs to the machine too.
    """

    id = "efficiency"

    machine: bool = False

    version: ClassVar[int] = 2
    tested: ClassVar[bool] = False

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "efficiency"
        passes = [
            Column(f"{name}_{kind}", "lower", 0.0, None, "passes a pair", detail=kind != "forward") for kind in _PASSES
        ]
        if not self.machine:
            return passes
        return [
            *passes,
            Column(f"{name}_pairs_per_second", "higher", 0.0, None, "pairs/s", detail=True, machine=True),
            Column(f"{name}_peak_mib", "lower", 0.0, None, "MiB", detail=True, machine=True),
        ]

    def evaluate(self, pair: PairMap) -> Outcome:
        """``forward``, ``head`` and ``backward`` passes; ``seconds`` and ``peak_mib`` on request.

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
            means = [ratio(totals[:, place], pairs) for place in range(len(_PASSES))]
            if self.machine:
                means += [ratio(pairs, totals[:, -2]), np.full(len(totals), peak)]
            return dict(zip(names, means, strict=True))

        return sum_by_image(records, values, combine, dict.fromkeys(names[: len(_PASSES)], "linear"))
