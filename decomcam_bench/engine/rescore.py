"""Metrics added to a finished cell from its kept maps: no image is read, the model does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from decomcam_bench.core.errors import StoreError
from decomcam_bench.engine.plan import Group, PlannedCell, PlannedMetric
from decomcam_bench.engine.records import Row, frame, judged, pair_row, record, view_of
from decomcam_bench.metrics.base import Fail, MapMetric, PairMap, Work
from decomcam_bench.models.geometry import Geometry
from decomcam_bench.store.maps import CHUNK, KeptMaps, read_maps, work_of
from decomcam_bench.store.store import RECORDS, part_size, seal


def remeasure(group: Group, save_maps: bool) -> int:
    """Seals the parts of metrics that follow from kept maps.

    Returns:
        images of these parts.

    Raises:
        StoreError: when kept maps are damaged or do not belong to their records.
    """
    size, images = part_size(group.images), 0
    for part in range(group.parts):
        cells = [c for c in group.cells if c.missing(part, save_maps) and c.from_kept(part, save_maps)]
        for cell in cells:
            assert cell.cell is not None
            missing = cell.missing(part, save_maps)
            metrics = [planned for planned in cell.metrics if planned.key in missing]
            records, kept = cell.cell.read_part(RECORDS, part), read_maps(cell.cell, part)
            rows = measure_kept(group, cell, metrics, records, kept)
            seal([(cell.cell, key, part, frame(found)) for key, found in rows.items()])
            for key in rows:
                cell.done.setdefault(key, set()).add(part)
        images += min(size, group.images - part * size) if cells else 0
    return images


def measure_kept(
    group: Group, cell: PlannedCell, metrics: Sequence[PlannedMetric], records: pd.DataFrame, kept: KeptMaps
) -> dict[str, list[Row]]:
    """Rows of metrics of one part, by metric key, exactly as a run that computes the maps writes them.

    Raises:
        StoreError: when records and maps do not belong together.
    """
    assert cell.cell is not None
    place = {pair: i for i, pair in enumerate(zip(kept.image_index.tolist(), kept.class_id.tolist(), strict=True))}
    values: dict[str, list[Row]] = {planned.key: [] for planned in metrics}
    cost = cell.method.cost(cell.rank, kept.channels)
    # Of maps kept before their passes were, the cost is an upper bound of those that score images.
    work = work_of(cost) if kept.forward is not None or not cost.scored else None
    rows = [{**pair_row(0, "", 0, ""), **row} for row in records[list(pair_row(0, "", 0, ""))].to_dict("records")]
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        try:
            chosen = [place[row["position"], row["class_id"]] for row in chunk if row["status"] == "ok"]
        except KeyError as error:
            raise StoreError(
                f"{cell.cell.folder}: no kept map of pair {error}; delete its folder maps and run with save_maps=true"
            ) from error
        maps = iter(zip(kept.at_input(chosen, group.model.device), kept.native[chosen], strict=True))
        works = iter([replace(work, forward=int(kept.forward[i])) if work and kept.forward is not None else work
                      for i in chosen])  # fmt: skip
        for row in chunk:
            reason, view = row["reason"], None
            if row["status"] == "ok":
                view = _kept_view(group, row, *next(maps), kept.mode, next(works))
                view.foreign = cell.method.foreign_map(row["image_id"], row["class_name"], kept.size)
            elif (row["position"], row["class_id"]) in kept.without_map:
                view = _kept_view(group, row, np.zeros(kept.size, np.float32), None, "none", work)
            for planned in metrics:
                metric = planned.metric
                assert isinstance(metric, MapMetric)
                if metric.limit is None or row["position"] < metric.limit:
                    outcome = Fail(reason) if view is None else judged(metric, view, reason)
                    values[planned.key].append({**row, **record(outcome, metric)})
    return values


def _kept_view(
    group: Group, row: Row, saliency: np.ndarray, native: np.ndarray | None, mode: str, work: Work | None
) -> PairMap:
    sample = group.dataset.sample(group.selection.indices[row["position"]])
    target = next(target for target in sample.targets if target.class_id == row["class_id"])
    geometry = Geometry(sample.width, sample.height, group.model.input_size, group.source.geometry)
    classes = tuple(t.class_id for t in sample.targets)
    return view_of(geometry, saliency, target, classes, work, native, mode)
