"""What a run would do: cells, pairs, passes by kind, what is done already, an estimate of time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.utils.flop_counter import FlopCounterMode

from decomcam_bench.engine.plan import Amount, Group, Plan, chunks, expected_passes
from decomcam_bench.models.clip import ClipModel, Passes
from decomcam_bench.store.store import RECORDS, part_size

#: Assumed speed where the store has no run to learn from, in floating-point operations a second.
_NOMINAL = {"cpu": 2.0e10, "cuda": 1.0e13}


def count(group: Group, batch_size: int) -> list[Amount]:
    """Images, pairs and chunks of each part of a group."""
    size = part_size(group.images)
    amounts = []
    for part in range(group.parts):
        amount = Amount()
        indices = group.selection.indices[part * size : (part + 1) * size]
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


def describe(plan: Plan) -> str:
    """The plan as text; nothing is computed."""
    save_maps, batch_size = plan.config.keys.save_maps, plan.config.keys.batch_size
    lines = [f"{len(plan.cells)} cells, device {plan.device}, store {plan.store.root}"]
    total, seconds = Passes(), 0.0
    for group in plan.groups:
        parts = group.parts
        by_part = count(group, batch_size)
        everything = _sum(by_part)
        lines.append(f"\n{group.label}: {everything.images} images, {everything.pairs} pairs, {parts} parts")
        for cell in group.cells:
            missing = sum(bool(cell.missing(part, save_maps)) for part in range(parts))
            maps = len(cell.done.get(RECORDS, ()))
            state = "done" if not missing else f"{parts - missing} of {parts} parts done"
            if missing and not any(cell.to_compute(part, save_maps) for part in range(parts)):
                state += " (metrics to add to kept maps, without the model)"
            elif missing and maps == parts:
                state += " (maps known, metrics to add)"
            rank = f" rank {cell.rank}" if cell.rank else ""
            layer = f" {cell.layer}" if cell.layer else ""
            metrics = ", ".join(str(metric.content["name"]) for metric in cell.metrics)
            lines.append(f"  {cell.key}  {cell.display['method']}{layer}{rank}: {metrics}; {state}")
        todo = {p for p in range(parts) if any(cell.to_compute(p, save_maps) for cell in group.cells)}
        passes = expected_passes(group, _sum(by_part[part] for part in todo), save_maps)
        for name, value in passes.as_dict().items():
            setattr(total, name, getattr(total, name) + value)
        seconds += _seconds(plan, group.model, passes)
    lines.append("\nforward and backward passes to do:")
    lines += [f"  {name.replace('_', '-'):14} {count}" for name, count in total.as_dict().items()]
    lines.append(f"estimated time: {_duration(seconds)} ({_basis(plan)})")
    return "\n".join(lines) + "\n"


def _images_of(passes: dict[str, int]) -> int:
    return passes.get("backbone", 0) + passes.get("method_scored", 0) + passes.get("metric_scored", 0)


def _measured(plan: Plan) -> float | None:
    """Images a second through the model in the store's last run on the same kind of device."""
    keys = {cell.key for cell in plan.cells}
    kind = plan.device.partition(":")[0]
    for past in reversed(plan.store.runs()):
        same_kind = str(past["device"]).partition(":")[0] == kind
        if same_kind and keys & set(past["cells"]) and past["seconds"] > 0:
            return _images_of(past["passes"]) / past["seconds"]
    return None


def _seconds(plan: Plan, model: ClipModel, passes: Passes) -> float:
    images = _images_of(passes.as_dict())
    rate = _measured(plan)
    if rate:
        return images / rate
    blank = torch.zeros(1, 3, model.input_size, model.input_size, device=model.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.tower.forward(blank, ())
    return images * counter.get_total_flops() / _NOMINAL[plan.device.partition(":")[0]]


def _basis(plan: Plan) -> str:
    if _measured(plan):
        return "from the speed of an earlier run in this store"
    return "rough: from the network's size and a nominal speed; the progress bar knows better"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
