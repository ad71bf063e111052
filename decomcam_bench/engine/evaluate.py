"""Evaluate batches of images for all cells of a group: maps, then the values of their metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decomcam_bench.config.settings import RunKeys
from decomcam_bench.core.errors import StrictError
from decomcam_bench.core.reasons import Failure, Reason
from decomcam_bench.datasets.base import Target
from decomcam_bench.engine.evidence import Batch
from decomcam_bench.engine.loading import Loaded
from decomcam_bench.engine.plan import Group, PlannedCell, PlannedMetric, shared_cells
from decomcam_bench.engine.records import Row, judged, pair_row, record, view_of
from decomcam_bench.engine.session import ModelSession, Picture
from decomcam_bench.engine.shard import ShardWriter
from decomcam_bench.engine.state import CellState
from decomcam_bench.methods.base import Components, Explanation
from decomcam_bench.metrics.base import Fail, MapMetric, Metric, ModelMetric, PairBatch, PairMap, Retext, Skip, Work
from decomcam_bench.models.clip import TextBank
from decomcam_bench.store.maps import work_of

#: A word that means nothing, for the text that no map should follow.
NONSENSE = "vorzelque"


@dataclass
class Pairs:
    """Hold the pairs of one batch: what every record says of them, and the classes and targets of their images."""

    batch: Batch
    rows: list[Row]
    classes: list[tuple[int, ...]]
    targets: list[tuple[Target, ...]]


class Evaluator:
    """Evaluate one shard of a group.

    Args:
        group: of cells over the same images.
        writer: takes the records.
        keys: of the run.
        thread: for metrics of maps alone, while the device works.
        tell: called with the name of what is done now.
    """

    def __init__(
        self, group: Group, writer: ShardWriter, keys: RunKeys, thread: ThreadPoolExecutor, tell: Callable[[str], None]
    ) -> None:
        self.group, self.writer, self.keys, self.thread, self.tell = group, writer, keys, thread, tell
        self.cells = writer.cells
        self.session = ModelSession(
            group.model, group.bank, group.view, group.dataset.region, keys.batch_size, group.seed
        )
        plans = [cell.plan for cell in self.cells]
        places = {id(plan): place for place, plan in enumerate(plans)}
        self.sharing = [[places[id(plan)] for plan in cells] for cells in shared_cells(plans)]
        self.pending: list[Future[None]] = []
        self.odd_texts: TextBank | None = None

    def evaluate(self, positions: Sequence[int], images: Sequence[Loaded]) -> None:
        """Evaluate all pairs of a batch of images for all cells."""
        good: list[tuple[int, Picture, tuple[int, ...]]] = []
        for position, image in zip(positions, images, strict=True):
            self._note_lost(position, image)
            if image.pixels is not None:
                sample = image.sample
                chosen = tuple(t for t in sample.targets if self.group.selection.keeps(sample, t))
                picture = Picture(sample.image_id, image.pixels, sample.width, sample.height, chosen)
                good.append((position, picture, tuple(t.class_id for t in sample.targets)))
        layers = {cell.plan.layer for cell in self.cells}
        for slots, batch in self.session.batches([picture for _, picture, _ in good], layers):
            rows = [
                pair_row(good[slot][0], good[slot][1].image_id, target.class_id, target.class_name)
                for slot, target in zip(slots, batch.targets, strict=True)
            ]
            targets = [good[slot][1].targets for slot in slots]
            self._explain(Pairs(batch, rows, [good[slot][2] for slot in slots], targets))

    def finish(self) -> None:
        """Wait for the metrics of the other thread."""
        for future in self.pending:
            future.result()

    def _note_lost(self, position: int, image: Loaded) -> None:
        """Record the pairs that cannot be evaluated because their image or annotation is bad."""
        sample = image.sample
        if self.keys.strict and image.flaw:
            raise StrictError(image.flaw)
        lost: list[Row] = []
        if image.failed:
            named = [(t.class_id, t.class_name) for t in sample.targets if self.group.selection.keeps(sample, t)]
            if not sample.targets and not sample.lost:
                named = [(-1, "")]
            lost = [pair_row(position, sample.image_id, *who, image.failed) for who in named]
        lost += [
            pair_row(position, sample.image_id, p.class_id, p.class_name, Failure(Reason.BAD_ANNOTATION, str(p)))
            for p in sample.lost
        ]
        self.writer.unusable += [problem for problem in sample.problems if not problem.pair_lost]
        for cell in self.cells:
            self.writer.records[cell.plan.key] += [dict(row) for row in lost]
            for metric in cell.plan.metrics:
                if _within(metric.metric, position):
                    self.writer.values[cell.plan.key, metric.key] += [dict(row) for row in lost]

    def _explain(self, pairs: Pairs) -> None:
        """Make maps and values of a batch of pairs for all cells."""
        plans = [cell.plan for cell in self.cells]
        names = {id(plan): " ".join(filter(None, (str(plan.info.labels["method"]), plan.layer))) for plan in plans}
        answers = self.session.answers(pairs.batch, plans, self.sharing, lambda plan: self.tell(names[id(plan)]))
        for answer in answers:
            for place in answer.requests:
                cell = self.cells[place]
                explanation = answer.by_rank[cell.plan.rank]
                self.writer.channels[cell.plan.key] = answer.channels
                cost = cell.plan.method.cost(cell.plan.rank, answer.channels)
                seconds = answer.seconds / len(pairs.batch)
                works = [
                    dataclasses.replace(work_of(exact), seconds=seconds, peak_mib=answer.peak_mib)
                    for exact in explanation.costs(cost)
                ]
                self._measure(cell, pairs, explanation, works)

    def _measure(self, cell: CellState, pairs: Pairs, explanation: Explanation, works: list[Work]) -> None:
        """Record the maps of a cell and hand them to its metrics."""
        maps, failures = self.session.maps(explanation)
        self._note_maps(cell, pairs.rows, explanation, failures, works)
        metrics = cell.plan.metrics
        by_map = [m for m in metrics if isinstance(m.metric, MapMetric)]
        if by_map:
            components = explanation.components if any("components" in m.metric.needs for m in by_map) else None
            views = _views(pairs, maps.cpu().numpy(), explanation, components, works)
            self.pending.append(self.thread.submit(self._look, cell, by_map, pairs.rows, failures, views))
        for planned in metrics:
            if isinstance(planned.metric, ModelMetric):
                self._model_metric(cell, planned, pairs, failures, maps, explanation)

    def _note_maps(
        self,
        cell: CellState,
        rows: Sequence[Row],
        explanation: Explanation,
        failures: Sequence[Failure | None],
        works: Sequence[Work],
    ) -> None:
        key, writer = cell.plan.key, self.writer
        for row, failed in zip(rows, failures, strict=True):
            who = (row["position"], row["image_id"], row["class_id"], row["class_name"])
            writer.records[key].append(pair_row(*who, failed))
        if not self.keys.save_maps:
            return
        native = explanation.native.cpu().numpy()
        for pair, (row, failed) in enumerate(zip(rows, failures, strict=True)):
            place = (row["position"], row["class_id"])
            if failed:
                writer.without_map[key].append(place)
            else:
                writer.maps[key].append((*place, explanation.mode, native[pair], works[pair].forward))

    def _retext(self, plan: PlannedCell, pairs: Pairs) -> Retext | None:
        """Return what makes maps of the same pairs with other texts, for a method that can be run again."""
        if not plan.method.repeatable:
            return None
        batch, model = pairs.batch, self.group.model
        others = [_other_of(t, several) for t, several in zip(batch.targets, pairs.targets, strict=True)]
        classes = len(self.group.bank.embeddings)
        absent = [_absent_of(t.class_id, seen, classes) for t, seen in zip(batch.targets, pairs.classes, strict=True)]
        nothing = Target.of(0, "", [])

        def maps(text: str) -> Tensor:
            maker = self.session.maker
            if text == "other":
                targets = [other or own for other, own in zip(others, batch.targets, strict=True)]
                return maker.retext(batch, plan, targets, [target.class_id for target in targets])
            blank = [nothing] * len(batch)
            if text == "absent":
                return maker.retext(batch, plan, blank, absent)
            if self.odd_texts is None:
                templates = self.group.dataset.prompts.templates
                own = model.text_bank([[one.replace("{}", NONSENSE) for one in templates], [""]])
                self.odd_texts = self.group.bank.joined(own)
            return maker.retext(batch, plan, blank, [classes + (text == "empty")] * len(batch), self.odd_texts)

        return Retext(maps, batch.object_masks, [other is not None for other in others])

    def _look(
        self,
        cell: CellState,
        metrics: Sequence[PlannedMetric],
        rows: Sequence[Row],
        failures: Sequence[Failure | None],
        views: Sequence[PairMap],
    ) -> None:
        """Evaluate metrics of the maps alone; runs next to the device's work."""
        for planned in metrics:
            metric = planned.metric
            assert isinstance(metric, MapMetric)
            for row, failed, view in zip(rows, failures, views, strict=True):
                if _within(metric, row["position"]):
                    outcome = judged(metric, view, failed)
                    self.writer.values[cell.plan.key, planned.key].append({**row, **record(outcome, metric)})

    def _model_metric(
        self,
        cell: CellState,
        planned: PlannedMetric,
        pairs: Pairs,
        failures: Sequence[Failure | None],
        maps: Tensor,
        explanation: Explanation,
    ) -> None:
        """Evaluate a metric that runs the model."""
        metric, model, bank, batch, plan = planned.metric, self.group.model, self.group.bank, pairs.batch, cell.plan
        assert isinstance(metric, ModelMetric)
        asked = [p for p, row in enumerate(pairs.rows) if _within(metric, row["position"])]
        if not asked:
            return
        wanted = torch.zeros(len(maps), dtype=torch.bool, device=maps.device)
        wanted[asked] = True
        valid = torch.tensor([failed is None for failed in failures], device=maps.device)
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
            remap=self.session.maker.remap(batch, plan.layer, plan.method, plan.rank),
            components=explanation.components,
            batch_size=self.keys.batch_size,
            retext=self._retext(plan, pairs) if "retext" in metric.needs else None,
        )
        with torch.no_grad():
            outcomes = metric.evaluate_batch(pair_batch)
        for p in asked:
            outcome, failed = outcomes[p], failures[p]
            if failed and not isinstance(outcome, Skip):
                values = outcome.values if isinstance(outcome, Fail) else {}
                outcome = Fail(failed, values or metric.worst())
            self.writer.values[plan.key, planned.key].append({**pairs.rows[p], **record(outcome, metric)})


def _other_of(target: Target, several: Sequence[Target]) -> Target | None:
    """Return the next target of another class of the same image, or None."""
    others = [other for other in several if other.class_id != target.class_id]
    later = [other for other in others if other.class_id > target.class_id]
    return next(iter(later or others), None)


def _absent_of(class_id: int, shown: Sequence[int], classes: int) -> int:
    """Return the next class that an image does not show; the class itself if it shows all."""
    return next((k % classes for k in range(class_id + 1, class_id + classes) if k % classes not in shown), class_id)


def _within(metric: Metric, position: int) -> bool:
    """Return True if a metric looks at the image at a position of the run."""
    return metric.limit is None or position < metric.limit


def _views(
    pairs: Pairs, maps: np.ndarray, explanation: Explanation, found: Components | None, works: Sequence[Work]
) -> list[PairMap]:
    """Return the pairs of a batch as metrics of maps see them."""
    batch, views = pairs.batch, []
    native = explanation.native.cpu().numpy()
    components = None if found is None else found.native.detach().float().cpu().numpy()
    for pair, (image, target) in enumerate(zip(batch.image_of.tolist(), batch.targets, strict=True)):
        geometry = batch.geometries[image]
        view = view_of(geometry, maps[pair], target, pairs.classes[pair], works[pair], native[pair], explanation.mode)
        if components is not None and found is not None:
            view.components, view.component_mode = components[pair], found.mode
        view.foreign = explanation.foreign.get(pair)
        views.append(view)
    return views
