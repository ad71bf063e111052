"""Gather the records of one shard of all cells that lack something of it, and seal them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from decomcam_bench.core.errors import StrictError
from decomcam_bench.core.reasons import Reason
from decomcam_bench.datasets.base import Problem
from decomcam_bench.engine.records import Row, frame
from decomcam_bench.engine.state import CellState
from decomcam_bench.store.maps import pack
from decomcam_bench.store.store import MAPS, RECORDS, Shard, seal


@dataclass
class Sealed:
    """Tell what sealing a shard brought to light.

    Attributes:
        failures: rows of pairs that failed: of maps once per cell, of masks that cannot be decoded once in all.
        unusable: annotations that were left out though their pair was evaluated without them.
    """

    failures: list[Row] = field(default_factory=list)
    unusable: list[Problem] = field(default_factory=list)


class ShardWriter:
    """Collect the records of one shard and seal them.

    Args:
        cells: of the group; those that miss nothing of the shard are left alone.
        number: of the shard.
        strict: refuse to seal a mask that cannot be decoded.
        input_size: side of the model's input in pixels.
    """

    def __init__(self, cells: Sequence[CellState], number: int, strict: bool, input_size: int) -> None:
        self.number, self.strict, self.input_size = number, strict, input_size
        self.cells = [cell for cell in cells if cell.missing(number)]
        self.records: dict[str, list[Row]] = {cell.plan.key: [] for cell in self.cells}
        self.values: dict[tuple[str, str], list[Row]] = {
            (cell.plan.key, metric.key): [] for cell in self.cells for metric in cell.plan.metrics
        }
        self.maps: dict[str, list[tuple[int, int, str, np.ndarray, int]]] = {cell.plan.key: [] for cell in self.cells}
        self.without_map: dict[str, list[tuple[int, int]]] = {cell.plan.key: [] for cell in self.cells}
        self.channels: dict[str, int] = {}
        self.unusable: list[Problem] = []

    def seal(self) -> Sealed:
        """Write every stream that is missing.

        Raises:
            StrictError: with ``strict``, for a mask that cannot be decoded; nothing is written.
            StoreError: when the store cannot be written.
        """
        bad_masks = self._bad_masks()
        if self.strict and bad_masks:
            first = bad_masks[min(bad_masks)]
            raise StrictError(f"{first['image_id']}, {first['class_name']}: {first['reason']}: {first['detail']}")
        made = Sealed(list(bad_masks.values()), self.unusable)
        written: list[tuple[CellState, str]] = []
        shards: list[Shard] = []
        for cell in self.cells:
            code = {metric.key: metric.code for metric in cell.plan.metrics}
            for stream in cell.missing(self.number):
                shards.append(self._shard(cell, stream, code.get(stream, cell.plan.code)))
                written.append((cell, stream))
            if RECORDS in cell.missing(self.number):
                rows = self.records[cell.plan.key]
                made.failures += [r for r in rows if r["status"] == "failed" and r["reason"] != Reason.BAD_MASK]
        seal(shards)
        for cell, stream in written:
            cell.mark(stream, self.number)
        return made

    def _shard(self, cell: CellState, stream: str, code: str) -> Shard:
        key = cell.plan.key
        if stream != MAPS:
            rows = self.records[key] if stream == RECORDS else self.values[key, stream]
            return Shard(cell.cell, stream, self.number, frame(rows), code)
        size = (self.input_size, self.input_size)
        arrays = pack(self.maps[key], self.without_map[key], size, self.channels.get(key, 0))
        return Shard(cell.cell, stream, self.number, arrays, code)

    def _bad_masks(self) -> dict[tuple[int, int], Row]:
        """Return the pairs whose mask could not be decoded, by position and class: once, for all cells and metrics."""
        return {
            (row["position"], row["class_id"]): row
            for rows in (*self.records.values(), *self.values.values())
            for row in rows
            if row["status"] == "failed" and row["reason"] == Reason.BAD_MASK
        }
