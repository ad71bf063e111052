"""Add metrics to a finished cell from its saved maps: no image is read, and the model does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from decomcam_bench.core.errors import StoreError
from decomcam_bench.core.reasons import Failure, Reason
from decomcam_bench.engine.plan import Group, PlannedMetric
from decomcam_bench.engine.records import PAIR, Row, frame, judged, record, view_of
from decomcam_bench.engine.state import CellState
from decomcam_bench.metrics.base import Fail, MapMetric, PairMap, Work
from decomcam_bench.store.maps import CHUNK, SavedMaps, read_maps, work_of
from decomcam_bench.store.store import RECORDS, Shard, seal


def rescore(group: Group, cells: Sequence[CellState]) -> int:
    """Seal the shards of metrics that follow from saved maps.

    Returns:
        The number of images of these shards.

    Raises:
        StoreError: when saved maps are damaged or do not belong to their records.
    """
    images = 0
    for shard in range(group.shards):
        chosen = [cell for cell in cells if cell.missing(shard) and cell.from_saved(shard)]
        for cell in chosen:
            missing = cell.missing(shard)
            metrics = [planned for planned in cell.plan.metrics if planned.key in missing]
            records, saved = cell.cell.read_shard(RECORDS, shard), read_maps(cell.cell, shard)
            rows = score_saved(group, cell, metrics, records, saved)
            seal([Shard(cell.cell, m.key, shard, frame(rows[m.key]), m.code) for m in metrics])
            for metric in metrics:
                cell.mark(metric.key, shard)
        images += len(group.positions(shard)) if chosen else 0
    return images


def score_saved(
    group: Group, cell: CellState, metrics: Sequence[PlannedMetric], records: pd.DataFrame, saved: SavedMaps
) -> dict[str, list[Row]]:
    """Return rows of metrics of one shard, by metric key, exactly as a run that computes the maps writes them.

    Raises:
        StoreError: when records and maps do not belong together.
    """
    place = {pair: i for i, pair in enumerate(zip(saved.image_index.tolist(), saved.class_id.tolist(), strict=True))}
    values: dict[str, list[Row]] = {planned.key: [] for planned in metrics}
    cost = cell.plan.method.cost(cell.plan.rank, saved.channels)
    # Maps saved by older versions lack pass counts; for methods that score images the cost is an upper bound only.
    work = work_of(cost) if saved.forward is not None or not cost.scored else None
    rows = [{str(name): value for name, value in row.items()} for row in records[list(PAIR)].to_dict("records")]
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        try:
            chosen = [place[row["position"], row["class_id"]] for row in chunk if row["status"] == "ok"]
        except KeyError as error:
            raise StoreError(
                f"{cell.cell.folder}: no saved map of pair {error}; delete its folder maps and run with save_maps=true"
            ) from error
        maps = iter(zip(saved.at_input(chosen, torch.device(group.shelf.device)), saved.native[chosen], strict=True))
        works = iter([replace(work, forward=int(saved.forward[i])) if work and saved.forward is not None else work
                      for i in chosen])  # fmt: skip
        for row in chunk:
            failed = Failure(Reason(row["reason"]), row["detail"]) if row["status"] == "failed" else None
            view = None
            if failed is None:
                view = _view(group, row, *next(maps), saved.mode, next(works))
                view.foreign = cell.plan.method.foreign_map(row["image_id"], row["class_name"], saved.size)
            elif (row["position"], row["class_id"]) in saved.without_map:
                view = _view(group, row, np.zeros(saved.size, np.float32), None, "none", work)
            for planned in metrics:
                metric = planned.metric
                assert isinstance(metric, MapMetric)
                if metric.limit is None or row["position"] < metric.limit:
                    outcome = Fail(failed or Reason.ZERO_MAP) if view is None else judged(metric, view, failed)
                    values[planned.key].append({**row, **record(outcome, metric)})
    return values


def _view(
    group: Group, row: Row, saliency: np.ndarray, native: np.ndarray | None, mode: str, work: Work | None
) -> PairMap:
    sample = group.dataset.sample(group.selection.indices[row["position"]])
    target = next(target for target in sample.targets if target.class_id == row["class_id"])
    geometry = group.view.of(sample.width, sample.height)
    classes = tuple(t.class_id for t in sample.targets)
    return view_of(geometry, saliency, target, classes, work, native, mode)
