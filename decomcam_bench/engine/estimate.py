"""Estimate what a run would do: cells, pairs, passes by kind, what is done already, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from decomcam_bench.core.console import log
from decomcam_bench.engine.plan import Amount, Group, Plan, PlannedCell, expected_passes
from decomcam_bench.engine.session import chunks
from decomcam_bench.engine.state import CellState, states
from decomcam_bench.models.clip import Outline, Passes
from decomcam_bench.store.store import RECORDS

#: Assumed speed where the store has no run to learn from, in floating-point operations a second.
_NOMINAL = {"cpu": 2.0e10, "cuda": 1.0e13}
#: Seconds beyond which a run says how long it takes before it starts.
LONG = 600.0
#: Images of a data set that are looked at for a rough estimate.
_PROBED = 32


def count(group: Group, batch_size: int) -> list[Amount]:
    """Return images, pairs and batches of pairs of each shard of a group."""
    amounts = []
    for shard in range(group.shards):
        amount = Amount()
        indices = [group.selection.indices[position] for position in group.positions(shard)]
        for start in range(0, len(indices), batch_size):
            samples = [group.dataset.sample(index) for index in indices[start : start + batch_size]]
            owners = [
                slot
                for slot, sample in enumerate(samples)
                for target in sample.targets
                if group.selection.keeps(sample, target)
            ]
            amount.images += len(samples)
            amount.targeted += len(set(owners))
            amount.pairs += len(owners)
            amount.chunks += len(chunks(owners, batch_size))
        amounts.append(amount)
    return amounts


def _sum(amounts: Iterable[Amount]) -> Amount:
    total = Amount()
    for amount in amounts:
        total.images += amount.images
        total.targeted += amount.targeted
        total.pairs += amount.pairs
        total.chunks += amount.chunks
    return total


@dataclass(frozen=True)
class Estimate:
    """Tell what a run would do.

    Attributes:
        device, store: of the run.
        groups: one per data set and model: ``label``, ``images``, ``pairs``, ``shards``, and its ``cells`` with
            ``key``, ``method``, ``layer``, ``rank``, ``metrics`` and ``state``.
        passes: forward and backward passes to do, by kind.
        seconds: estimated time.
        basis: what the time is estimated from.
    """

    device: str
    store: str
    groups: tuple[dict[str, Any], ...]
    passes: dict[str, int]
    seconds: float
    basis: str

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Return the estimate as lines for a terminal."""
        cells = sum(len(group["cells"]) for group in self.groups)
        lines = [f"{cells} {'cell' if cells == 1 else 'cells'}, device {self.device}, store {self.store}"]
        for group in self.groups:
            amounts = ", ".join(f"{group[name]} {name}" for name in ("images", "pairs", "shards"))
            lines.append(f"\n{group['label']}: {amounts}")
            for cell in group["cells"]:
                name = " ".join(
                    filter(None, [cell["method"], cell["layer"], f"rank {cell['rank']}" if cell["rank"] else ""])
                )
                lines.append(f"  {cell['key']}  {name}: {', '.join(cell['metrics'])}; {cell['state']}")
        lines.append("\nforward and backward passes to do:")
        lines += [f"  {name.replace('_', '-'):14} {count}" for name, count in self.passes.items()]
        lines.append(f"estimated time: {duration(self.seconds)} ({self.basis})")
        return "\n".join(lines) + "\n"


def describe(plan: Plan) -> str:
    """Return the plan as text; nothing is computed."""
    return estimate(plan).text()


def estimate(plan: Plan) -> Estimate:
    """Return what a plan would compute and how long that takes; nothing is computed."""
    total, seconds = Passes(), 0.0
    groups = []
    for group in plan.groups:
        by_shard = count(group, plan.config.keys.batch_size)
        everything = _sum(by_shard)
        cells = states(group, plan.store, plan.config.keys.save_maps)
        about = {"images": everything.images, "pairs": everything.pairs, "shards": group.shards}
        groups.append({"label": group.label, **about, "cells": [_cell(cell, group.shards) for cell in cells]})
        todo, working = _to_compute(group, cells)
        passes = expected_passes(group, working, _sum(by_shard[shard] for shard in todo))
        for name, value in passes.as_dict().items():
            setattr(total, name, getattr(total, name) + value)
        seconds += _seconds(plan, group.outline, passes)
    return Estimate(plan.device, str(plan.store.root), tuple(groups), total.as_dict(), seconds, _basis(plan))


def _to_compute(group: Group, cells: Sequence[CellState]) -> tuple[list[int], list[PlannedCell]]:
    """Return the shards of which something is missing that takes the model, and the cells that miss it."""
    todo = [shard for shard in range(group.shards) if any(cell.to_compute(shard) for cell in cells)]
    return todo, [cell.plan for cell in cells if any(cell.to_compute(shard) for shard in todo)]


def _cell(cell: CellState, shards: int) -> dict[str, Any]:
    """Return a cell of the plan and how far it is."""
    missing = sum(bool(cell.missing(shard)) for shard in range(shards))
    state = "done" if not missing else f"{shards - missing} of {shards} shards done"
    if missing and not any(cell.to_compute(shard) for shard in range(shards)):
        state += " (metrics to add to saved maps, without the model)"
    elif missing and len(cell.done.get(RECORDS, ())) == shards:
        state += " (maps known, metrics to add)"
    plan = cell.plan
    labels = {"method": plan.info.labels["method"], "layer": plan.layer, "rank": plan.rank}
    return {"key": plan.key, **labels, "metrics": [metric.info.name for metric in plan.metrics], "state": state}


def rough_seconds(plan: Plan) -> float:
    """Return about how long a run takes, from a few images of each data set."""
    seconds, batch_size = 0.0, plan.config.keys.batch_size
    for group in plan.groups:
        todo, working = _to_compute(group, states(group, plan.store, plan.config.keys.save_maps))
        if not todo:
            continue
        indices = group.selection.indices[:: max(1, group.images // _PROBED)]
        samples = [group.dataset.sample(index) for index in indices]
        counts = [sum(group.selection.keeps(sample, target) for target in sample.targets) for sample in samples]
        images = group.images * len(todo) // group.shards
        scale = images / len(samples)
        pairs = round(sum(counts) * scale)
        amount = Amount(images, round(sum(map(bool, counts)) * scale), pairs, -(-pairs // batch_size))
        seconds += _seconds(plan, group.outline, expected_passes(group, working, amount))
    return seconds


def warn_if_long(plan: Plan) -> None:
    """Warn before a run starts that it takes long."""
    seconds = rough_seconds(plan)
    if seconds > LONG:
        log.warning(
            "this run will take about %s (%s); --dry-run shows the plan, limit=20 takes a first look",
            duration(seconds),
            _basis(plan),
        )


def _images_of(passes: Mapping[str, int]) -> int:
    return passes.get("backbone", 0) + passes.get("method_scored", 0) + passes.get("metric_scored", 0)


def _measured(plan: Plan) -> float | None:
    """Return the images per second through the model in the store's last run on the same kind of device."""
    keys = {cell.key for cell in plan.cells}
    kind = plan.device.partition(":")[0]
    for past in reversed(plan.store.runs()):
        same_kind = str(past.device).partition(":")[0] == kind
        if same_kind and keys & set(past.cells) and past.seconds > 0:
            return float(_images_of(past.passes) / past.seconds)
    return None


def _seconds(plan: Plan, outline: Outline, passes: Passes) -> float:
    images = _images_of(passes.as_dict())
    rate = _measured(plan)
    if rate:
        return images / rate
    blank = torch.zeros(1, 3, outline.input_size, outline.input_size, device=outline.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outline.tower.forward(blank, ())
    return float(images * counter.get_total_flops() / _NOMINAL[plan.device.partition(":")[0]])


def _basis(plan: Plan) -> str:
    if _measured(plan):
        return "from the speed of an earlier run in this store"
    return "rough: from the network's size and a nominal speed; the progress bar knows better"


def duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
