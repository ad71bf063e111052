"""Report bad data that earlier runs recorded, and abort on it when ``strict=true``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from decomcam_bench.core.errors import StrictError
from decomcam_bench.core.reasons import Reason
from decomcam_bench.datasets.base import Problem
from decomcam_bench.engine.loading import Loaded, load
from decomcam_bench.engine.plan import Group
from decomcam_bench.engine.state import CellState
from decomcam_bench.store.store import MAPS, RECORDS

_COLUMNS = ("position", "class_id", "class_name", "status", "reason")


def left_out_before(group: Group, cells: Sequence[CellState]) -> Iterator[Problem]:
    """Yield the annotations left out of images that this run does not evaluate, so that each run reports them."""
    for shard in range(group.shards):
        if any(cell.to_compute(shard) for cell in cells):
            continue
        for position in group.positions(shard):
            sample = group.dataset.sample(group.selection.indices[position])
            yield from (problem for problem in sample.problems if not problem.pair_lost)


def refuse_sealed(group: Group, cells: Sequence[CellState]) -> None:
    """Abort at what an earlier run that was not strict recorded and passed over.

    The records say where a pair failed; images that failed are read again, so that one which was
    mended meanwhile is not held against the run.

    Raises:
        StrictError: for the first image or annotation of a sealed shard that cannot be used.
    """
    for problem in group.dataset.problems:
        raise StrictError(str(problem))
    for shard in range(group.shards):
        cell = next((c for c in cells if c.stored and shard in c.done.get(RECORDS, ())), None)
        if cell is None:
            continue
        records = cell.cell.read_shard(RECORDS, shard, _COLUMNS.__contains__)
        failed = set(records.loc[records["status"] == "failed", "position"])
        for position in group.positions(shard):
            index = group.selection.indices[position]
            if position in failed:
                image = load(group.dataset, index, group.view)
            else:
                image = Loaded(index, group.dataset.sample(index), None)
            flaw = image.sample.error or image.flaw
            if flaw:
                raise StrictError(flaw)
    refuse_masks(group, cells)


def refuse_masks(group: Group, cells: Sequence[CellState]) -> None:
    """Abort at a mask that a sealed metric or control could not decode, and that still cannot be decoded.

    Raises:
        StrictError: for the first such pair of a cell.
    """
    for cell in cells:
        sealed = [(name, shard) for name, shards in cell.done.items() if name != MAPS for shard in sorted(shards)]
        for stream, shard in sealed if cell.stored else ():
            records = cell.cell.read_shard(stream, shard, _COLUMNS.__contains__)
            bad = records[records["reason"] == str(Reason.BAD_MASK)]
            for row in bad.to_dict("records"):
                sample = group.dataset.sample(group.selection.indices[row["position"]])
                target = next((t for t in sample.targets if t.class_id == row["class_id"]), None)
                try:
                    _ = target and target.object_mask()
                except ValueError as error:
                    raise StrictError(f"{sample.image_id}, {row['class_name']}: {Reason.BAD_MASK}: {error}") from error
