"""The story of a run: plan, then for each batch of images evidence, maps, values, sealed records."""

from __future__ import annotations

import dataclasses
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decomcam_bench.config.settings import RunConfig, RunKeys
from decomcam_bench.core.errors import StrictError, UserError
from decomcam_bench.core.progress import progress
from decomcam_bench.datasets.acquire.plausibility import count_findings
from decomcam_bench.datasets.base import Problem, printable
from decomcam_bench.engine.estimate import warn_if_long
from decomcam_bench.engine.evidence import Batch, EvidenceMaker
from decomcam_bench.engine.loading import Loaded, feed
from decomcam_bench.engine.plan import Group, Plan, PlannedCell, PlannedMetric, chunks, make_plan, shared_cells
from decomcam_bench.engine.records import Row, frame, judged, pair_row, record, view_of
from decomcam_bench.engine.rescore import remeasure
from decomcam_bench.engine.strict import BAD_MASK, left_out_before, refuse_masks, refuse_sealed
from decomcam_bench.methods.base import Components, Explanation, explained
from decomcam_bench.metrics.base import Fail, MapMetric, ModelMetric, PairBatch, PairMap, Skip, Work
from decomcam_bench.models.clip import Passes
from decomcam_bench.models.geometry import Geometry
from decomcam_bench.store.maps import pack, work_of
from decomcam_bench.store.store import RECORDS, part_size, seal


@dataclass
class RunResult:
    """What a run did.

    Attributes:
        keys: of all its cells, finished before or now.
        results: root of the store.
        numbers: labels of the columns that its metrics report by default.
        computed_images: images that were evaluated now.
        passes: forward and backward passes by purpose, this run alone.
        seconds: wall time of the evaluation.
        new_failures: pairs that failed now, by reason: maps once a cell, masks that cannot be decoded once.
        unusable: annotations left out though their pair was evaluated without them, now or before, and
            those of no image at all; each with its file and reason. ``data verify`` shows them too.
        findings: what ``data verify`` finds doubtful though it can be read, counted by kind.
        remarks: what is worth knowing of the data sets without anything being wrong.
    """

    keys: list[str]
    results: str = "results"
    numbers: tuple[str, ...] = ()
    computed_images: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    new_failures: dict[str, int] = field(default_factory=dict)
    unusable: list[str] = field(default_factory=list)
    findings: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def run(config: RunConfig) -> RunResult:
    """Evaluates what the store does not have yet and seals it, part by part.

    Raises:
        UserError: when something that the user can mend stops the run; sealed parts are kept.
    """
    plan = make_plan(config)
    warn_if_long(plan)
    return execute(plan)


def _labels(plan: Plan) -> tuple[str, ...]:
    columns = [column for cell in plan.cells for metric in cell.metrics for column in metric.content["columns"]]
    return tuple(dict.fromkeys(str(column["label"]) for column in columns if not column.get("detail")))


def execute(plan: Plan) -> RunResult:
    """Executes a plan on this machine."""
    keys = plan.config.keys
    began = time.monotonic()
    result = RunResult([cell.key for cell in plan.cells], keys.results, _labels(plan))
    _be_repeatable()
    for group in plan.groups:
        if keys.strict:
            refuse_sealed(group)
        _note_unusable(group.dataset.problems, keys.strict, result)
        _note_unusable(left_out_before(group, keys.save_maps), False, result)
        _note_findings(group, result)
        parts = _open_parts(group, keys)
        if not parts:
            continue
        for cell in group.cells:
            cell.cell = plan.store.create(cell.identity, cell.display, group.images)
            for position, metric in enumerate(cell.metrics):
                plan.store.describe_metric(cell.cell, metric.key, {**metric.content, "position": position})
        busy = [cell for cell in group.cells if any(cell.missing(part, keys.save_maps) for part in parts)]
        with plan.store.locked([cell.cell for cell in busy if cell.cell]):
            for cell in busy:
                assert cell.cell is not None
                cell.done = {stream: cell.cell.sealed(stream) for stream in cell.streams(keys.save_maps)}
                cell.kept = cell.cell.sealed("maps")
            try:
                remeasured = remeasure(group, keys.save_maps)
                if remeasured and keys.strict:
                    refuse_masks(group)
                result.computed_images += remeasured
                _sweep(group, keys, result)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"batch_size={keys.batch_size}: the device is out of memory; finished parts are kept, "
                    f"run again with a smaller batch_size"
                ) from error
    result.seconds = time.monotonic() - began
    if result.computed_images:
        result.passes = result.passes or Passes().as_dict()
        plan.store.write_run(_run_record(plan, result))
    return result


def _note_unusable(problems: Iterable[Problem], strict: bool, result: RunResult) -> None:
    """Remembers annotations that no record can name; with ``strict`` the first one ends the run."""
    lines = [str(problem) for problem in problems]
    if strict and lines:
        raise StrictError(lines[0])
    result.unusable = list(dict.fromkeys([*result.unusable, *lines]))


def _note_findings(group: Group, result: RunResult) -> None:
    """Count what is doubtful about a data set; groups that share a data set repeat its counts."""
    counts = count_findings(group.dataset, group.selection.indices)
    for kind, count in counts.items():
        result.findings[kind] = max(result.findings.get(kind, 0), count)
    result.remarks = list(dict.fromkeys([*result.remarks, *map(printable, group.dataset.remarks)]))


def _be_repeatable() -> None:
    """Plain float32 and deterministic kernels: the same run gives the same bits on one machine."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _open_parts(group: Group, keys: RunKeys) -> list[int]:
    """Parts that some cell still misses."""
    return [part for part in range(group.parts) if any(cell.missing(part, keys.save_maps) for cell in group.cells)]


def _sweep(group: Group, keys: RunKeys, result: RunResult) -> None:
    """One pass over the images of a group, part by part."""
    size = part_size(group.images)
    parts = _open_parts(group, keys)
    if not parts:
        return
    batches, owner = [], []
    for part in parts:
        positions = range(part * size, min((part + 1) * size, group.images))
        for start in range(positions.start, positions.stop, keys.batch_size):
            batches.append(range(start, min(start + keys.batch_size, positions.stop)))
            owner.append(part)
    loaded = feed(
        group.dataset,
        [[group.selection.indices[position] for position in batch] for batch in batches],
        group.model.input_size,
        group.source.geometry,
        keys.workers,
    )
    before = group.model.passes.as_dict()
    total = sum(len(batch) for batch in batches)
    with ThreadPoolExecutor(1) as beside, progress(total, group.label) as bar:
        part_work: _Part | None = None
        for number, (batch, images) in enumerate(zip(batches, loaded, strict=True)):
            if part_work is None:
                part_work = _Part(group, owner[number], keys, beside, bar.set_postfix_str)
            part_work.evaluate(list(batch), images)
            if number + 1 == len(batches) or owner[number + 1] != owner[number]:
                part_work.seal(result)
                part_work = None
            bar.update(len(batch))
    result.computed_images += total
    for name, count in group.model.passes.as_dict().items():
        result.passes[name] = result.passes.get(name, 0) + count - before[name]


class _Part:
    """The records of one part of all cells that miss something of it, in the making."""

    def __init__(
        self, group: Group, number: int, keys: RunKeys, beside: ThreadPoolExecutor, tell: Callable[[str], None]
    ) -> None:
        self.group, self.number, self.keys, self.beside, self.tell = group, number, keys, beside, tell
        self.cells = [cell for cell in group.cells if cell.missing(number, keys.save_maps)]
        self.rows: dict[str, list[Row]] = {cell.key: [] for cell in self.cells}
        self.values: dict[tuple[str, str], list[Row]] = {
            (cell.key, metric.key): [] for cell in self.cells for metric in cell.metrics
        }
        self.maps: dict[str, list[tuple[int, int, str, np.ndarray, int]]] = {cell.key: [] for cell in self.cells}
        self.without: dict[str, list[tuple[int, int]]] = {cell.key: [] for cell in self.cells}
        self.channels: dict[str, int] = {}
        self.unusable: list[Problem] = []
        self.pending: list[Future[None]] = []
        self.maker = EvidenceMaker(group.model, group.bank, keys.batch_size, group.seed)
        self.layers = sorted({cell.layer for cell in self.cells if cell.layer})

    def evaluate(self, positions: Sequence[int], images: Sequence[Loaded]) -> None:
        """Evaluates all pairs of a batch of images for all cells."""
        good: list[tuple[int, Loaded]] = []
        for position, image in zip(positions, images, strict=True):
            self._note_lost(position, image)
            if not image.error:
                good.append((position, image))
        if not good:
            return
        model = self.group.model
        pixels = np.stack([image.pixels for _, image in good if image.pixels is not None])
        tensors = model.prepare(torch.from_numpy(pixels))
        backbone = model.backbone(tensors, self.layers)
        pairs = [
            (slot, position, target)
            for slot, (position, image) in enumerate(good)
            for target in image.sample.targets
            if self.group.selection.keeps(image.sample, target)
        ]
        geometries = [
            Geometry(image.sample.width, image.sample.height, model.input_size, self.group.source.geometry)
            for _, image in good
        ]
        for span in chunks([slot for slot, _, _ in pairs], self.keys.batch_size):
            chunk = pairs[span.start : span.stop]
            batch = Batch(
                tensors,
                backbone,
                torch.tensor([slot for slot, _, _ in chunk], device=model.device),
                torch.tensor([target.class_id for _, _, target in chunk], device=model.device),
                [image.sample.image_id for _, image in good],
                [target for _, _, target in chunk],
                geometries,
                self.group.dataset.region,
            )
            rows = [
                pair_row(position, good[slot][1].sample.image_id, target.class_id, target.class_name)
                for slot, position, target in chunk
            ]
            classes = [tuple(t.class_id for t in image.sample.targets) for _, image in good]
            self._explain(batch, rows, [classes[slot] for slot, _, _ in chunk])

    def _note_lost(self, position: int, image: Loaded) -> None:
        """Records of pairs that cannot be evaluated because their image or annotation is bad."""
        sample = image.sample
        lost: list[Row] = []
        if image.error:
            kept = [t for t in sample.targets if self.group.selection.keeps(sample, t)]
            named = [(t.class_id, t.class_name) for t in kept]
            if not sample.targets and not sample.lost:
                named = [(-1, "")]
            lost = [pair_row(position, sample.image_id, *who, status="failed", reason=image.error) for who in named]
        lost += [
            pair_row(position, sample.image_id, p.class_id, p.class_name, status="failed", reason=str(p))
            for p in sample.lost
        ]
        if self.keys.strict and image.flaw:
            raise StrictError(image.flaw)
        self.unusable += [problem for problem in sample.problems if not problem.pair_lost]
        for cell in self.cells:
            self.rows[cell.key] += [dict(row) for row in lost]
            for metric in cell.metrics:
                if metric.metric.limit is None or position < metric.metric.limit:
                    self.values[cell.key, metric.key] += [dict(row) for row in lost]

    def _explain(self, batch: Batch, rows: list[Row], classes: list[tuple[int, ...]]) -> None:
        """Maps and values of one chunk of pairs for all cells; what cells share is computed once."""
        evidences: dict[tuple[str, str, str], Any] = {}
        for cells in shared_cells(self.cells):
            first = cells[0]
            self.tell(" ".join(filter(None, (str(first.display["method"]), first.layer))))
            share = _shared_evidence(first)
            if share not in evidences:
                needs = [c.method.needs for c in self.cells if _shared_evidence(c) == share]
                layer, kind, slope = share
                evidences[share] = self.maker.evidence(batch, layer, kind, frozenset().union(*needs), slope)
            stopwatch = _Stopwatch(self.group.model.device)
            with torch.no_grad():
                explanations = explained(first.method, evidences[share], [cell.rank for cell in cells])
            seconds, peak = stopwatch.stop()
            channels = evidences[share].image_activations.shape[1]
            for cell in cells:
                self.channels[cell.key] = channels
                explanation, cost = explanations[cell.rank], cell.method.cost(cell.rank, channels)
                works = [
                    dataclasses.replace(work_of(exact), seconds=seconds / len(batch), peak_mib=peak)
                    for exact in explanation.costs(cost)
                ]
                self._measure(cell, batch, rows, classes, explanation, works)

    def _measure(
        self,
        cell: PlannedCell,
        batch: Batch,
        rows: list[Row],
        classes: list[tuple[int, ...]],
        explanation: Explanation,
        works: list[Work],
    ) -> None:
        size = (self.group.model.input_size, self.group.model.input_size)
        # In float32 before upsampling, as maps are kept, so that those read back are the same.
        explanation = dataclasses.replace(explanation, native=explanation.native.detach().float())
        maps = explanation.maps(size)
        reasons = _reasons(maps, explanation)
        valid = torch.tensor([not reason for reason in reasons], device=maps.device)
        maps = torch.where(valid[:, None, None], maps, 0.0)
        for row, reason in zip(rows, reasons, strict=True):
            self.rows[cell.key].append({**row, "status": "failed" if reason else "ok", "reason": printable(reason)})
        if self.keys.save_maps:
            native = explanation.native.cpu().numpy()
            self.maps[cell.key] += [
                (row["position"], row["class_id"], explanation.mode, native[p], works[p].forward)
                for p, row in enumerate(rows)
                if not reasons[p]
            ]
            self.without[cell.key] += [(row["position"], row["class_id"]) for p, row in enumerate(rows) if reasons[p]]
        by_map = [m for m in cell.metrics if isinstance(m.metric, MapMetric)]
        if by_map:
            parts = explanation.components if any("components" in m.metric.needs for m in by_map) else None
            views = self._views(batch, maps.cpu().numpy(), classes, explanation, parts, works)
            self.pending.append(self.beside.submit(self._look, cell, by_map, rows, reasons, views))
        for planned in cell.metrics:
            if isinstance(planned.metric, ModelMetric):
                self._model_metric(cell, planned, batch, rows, reasons, maps, valid, explanation)

    def _views(
        self,
        batch: Batch,
        maps: np.ndarray,
        classes: list[tuple[int, ...]],
        explanation: Explanation,
        parts: Components | None,
        works: list[Work],
    ) -> list[PairMap]:
        native = explanation.native.cpu().numpy()
        components = None if parts is None else parts.native.detach().float().cpu().numpy()
        views = []
        for pair, (image, target) in enumerate(zip(batch.image_of.tolist(), batch.targets, strict=True)):
            geometry = batch.geometries[image]
            view = view_of(geometry, maps[pair], target, classes[pair], works[pair], native[pair], explanation.mode)
            if components is not None and parts is not None:
                view.components, view.component_mode = components[pair], parts.mode
            view.foreign = explanation.foreign.get(pair)
            views.append(view)
        return views

    def _look(
        self, cell: PlannedCell, metrics: list[PlannedMetric], rows: list[Row], reasons: list[str], views: list[PairMap]
    ) -> None:
        """Metrics of the maps alone; runs beside the device's work."""
        for planned in metrics:
            metric = planned.metric
            assert isinstance(metric, MapMetric)
            for row, reason, view in zip(rows, reasons, views, strict=True):
                if metric.limit is None or row["position"] < metric.limit:
                    outcome = judged(metric, view, reason)
                    self.values[cell.key, planned.key].append({**row, **record(outcome, metric)})

    def _model_metric(
        self,
        cell: PlannedCell,
        planned: PlannedMetric,
        batch: Batch,
        rows: list[Row],
        reasons: list[str],
        maps: Tensor,
        valid: Tensor,
        explanation: Explanation,
    ) -> None:
        metric, model, bank = planned.metric, self.group.model, self.group.bank
        assert isinstance(metric, ModelMetric)
        asked = [p for p, row in enumerate(rows) if metric.limit is None or row["position"] < metric.limit]
        if not asked:
            return
        wanted = torch.zeros_like(valid)
        wanted[torch.tensor(asked, device=valid.device)] = True
        pair_batch = PairBatch(
            maps=maps,
            images=batch.images[batch.image_of],
            class_ids=batch.class_ids,
            similarity=lambda images, pair: model.embed(images, "metric_scored") @ bank.embeddings.T,
            image_similarity=(batch.backbone.embeddings @ bank.embeddings.T)[batch.image_of],
            valid=valid & wanted,
            failed=~valid & wanted,
            text_norms=bank.norms,
            scale=bank.scale,
            mean=model.mean,
            std=model.std,
            remap=self.maker.remap(batch, cell.layer, cell.method, cell.rank),
            components=explanation.components,
            batch_size=self.keys.batch_size,
        )
        with torch.no_grad():
            outcomes = metric.evaluate_batch(pair_batch)
        for p in asked:
            outcome = outcomes[p]
            if reasons[p] and not isinstance(outcome, Skip):
                values = outcome.values if isinstance(outcome, Fail) else {}
                outcome = Fail(reasons[p], values or metric.worst())
            self.values[cell.key, planned.key].append({**rows[p], **record(outcome, metric)})

    def seal(self, result: RunResult) -> None:
        """Waits for the metrics beside, then writes every stream that is missing."""
        for future in self.pending:
            future.result()
        bad_masks = self._bad_masks()
        if self.keys.strict and bad_masks:
            first = bad_masks[min(bad_masks)]
            raise StrictError(f"{first['image_id']}, {first['class_name']}: {first['reason']}")
        writes: list[Any] = []
        for cell in self.cells:
            assert cell.cell is not None
            for stream in cell.missing(self.number, self.keys.save_maps):
                if stream == "maps":
                    side = self.group.model.input_size
                    channels = self.channels.get(cell.key, 0)
                    arrays = pack(self.maps[cell.key], self.without[cell.key], (side, side), channels)
                    writes.append((cell.cell, stream, self.number, arrays))
                    continue
                rows = self.rows[cell.key] if stream == RECORDS else self.values[cell.key, stream]
                writes.append((cell.cell, stream, self.number, frame(rows)))
                if stream == RECORDS:
                    for row in rows:
                        if row["status"] == "failed" and not row["reason"].startswith(BAD_MASK):
                            result.new_failures[row["reason"]] = result.new_failures.get(row["reason"], 0) + 1
        for row in bad_masks.values():
            result.new_failures[row["reason"]] = result.new_failures.get(row["reason"], 0) + 1
        seal(writes)
        _note_unusable(self.unusable, False, result)
        for cell, stream, number, _ in writes:
            next(c for c in self.cells if c.cell is cell).done.setdefault(stream, set()).add(number)

    def _bad_masks(self) -> dict[tuple[int, int], Row]:
        """Pairs whose mask could not be decoded, by position and class: once, for all cells and metrics."""
        return {
            (row["position"], row["class_id"]): row
            for rows in (*self.rows.values(), *self.values.values())
            for row in rows
            if row["status"] == "failed" and row["reason"].startswith(BAD_MASK)
        }


def _shared_evidence(cell: PlannedCell) -> tuple[str, str, str]:
    """Return what cells with the same evidence have in common: layer, score, and differentiated score."""
    return cell.layer, cell.method.score, cell.method.differentiated


class _Stopwatch:
    """Seconds and peak memory (MiB) of a block on a device; on the CPU the peak is the process's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        self.began = time.perf_counter()

    def stop(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            peak = torch.cuda.max_memory_allocated(self.device) / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return time.perf_counter() - self.began, peak


def _reasons(maps: Tensor, explanation: Explanation) -> list[str]:
    """Why each pair has no map, or an empty string."""
    finite = torch.isfinite(maps).flatten(1).all(dim=1).tolist()
    mass = maps.double().flatten(1).sum(dim=1).tolist()
    reasons = []
    for pair in range(len(maps)):
        reason = explanation.failures.get(pair, "")
        if not reason and not finite[pair]:
            reason = "map_not_finite"
        elif not reason and not mass[pair] > 0:
            reason = "map_zero_mass"
        reasons.append(reason)
    return reasons


def _run_record(plan: Plan, result: RunResult) -> dict[str, Any]:
    device = torch.cuda.get_device_name(plan.device) if plan.device != "cpu" else platform.processor() or "cpu"
    return {
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        "overrides": list(plan.config.overrides),
        "cells": result.keys,
        "images": result.computed_images,
        "seconds": result.seconds,
        "passes": result.passes,
        "device": plan.device,
        "device_name": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
