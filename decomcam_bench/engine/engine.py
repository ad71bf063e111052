"""Run a plan: compute evidence, maps and values for each batch of images, and seal the records."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from decomcam_bench.config.settings import RunConfig, RunKeys
from decomcam_bench.core.errors import StrictError, UserError
from decomcam_bench.core.progress import progress
from decomcam_bench.core.reasons import Failure, Reason
from decomcam_bench.datasets.acquire.plausibility import count_findings
from decomcam_bench.datasets.base import Problem, printable
from decomcam_bench.engine.estimate import warn_if_long
from decomcam_bench.engine.evaluate import Evaluator
from decomcam_bench.engine.loading import load, load_batches
from decomcam_bench.engine.plan import Group, Plan, make_plan
from decomcam_bench.engine.rescore import rescore
from decomcam_bench.engine.shard import Sealed, ShardWriter
from decomcam_bench.engine.state import CellState, open_shards, states
from decomcam_bench.engine.strict import left_out_before, refuse_masks, refuse_sealed
from decomcam_bench.models.clip import Passes
from decomcam_bench.store.schema import RunInfo


@dataclass
class RunResult:
    """Tell what a run did.

    Attributes:
        keys: of all its cells, finished before or now.
        results: root of the store.
        numbers: labels of the columns that its metrics report by default.
        computed_images: images that were evaluated now.
        passes: forward and backward passes by purpose, this run alone.
        seconds: wall time of the evaluation.
        new_failures: pairs that failed now, by reason: maps once per cell, masks that cannot be decoded once.
        unusable: annotations left out though their pair was evaluated without them, now or before, and
            those of no image at all; each with its file and reason. ``data verify`` shows them too.
        findings: what ``data verify`` finds doubtful though it can be read, counted by kind.
        remarks: what is worth knowing of the data sets and models without anything being wrong.
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


def run(config: RunConfig, fresh: bool = False, retry_failed: bool = False) -> RunResult:
    """Evaluate what the store does not have yet and seal it, shard by shard.

    Args:
        config: of the run.
        fresh: compute its cells again, whatever the store has of them.
        retry_failed: compute shards again in which a pair failed; without it only those whose cause has gone.

    Raises:
        UserError: when something that the user can mend stops the run; sealed shards are kept.
    """
    plan = make_plan(config)
    warn_if_long(plan)
    return execute(plan, fresh, retry_failed)


def _labels(plan: Plan) -> tuple[str, ...]:
    columns = [column for cell in plan.cells for metric in cell.metrics for column in metric.info.columns]
    return tuple(dict.fromkeys(column.label for column in columns if not column.detail))


def execute(plan: Plan, fresh: bool = False, retry_failed: bool = False) -> RunResult:
    """Execute a plan on this machine; the plan itself stays as it is. See :func:`run`."""
    keys = plan.config.keys
    began = time.monotonic()
    result = RunResult([cell.key for cell in plan.cells], keys.results, _labels(plan))
    _be_repeatable()
    for group in plan.groups:
        cells = states(group, plan.store, keys.save_maps)
        if keys.strict:
            refuse_sealed(group, cells)
        _note_unusable(group.dataset.problems, keys.strict, result)
        _reopen(group, cells, fresh, retry_failed)
        _note_unusable(left_out_before(group, cells), False, result)
        _note_findings(group, result)
        shards = open_shards(group, cells)
        if not shards:
            continue
        for cell in cells:
            cell.stored = plan.store.create(cell.plan.info)
            for position, metric in enumerate(cell.plan.metrics):
                plan.store.describe_metric(cell.cell, dataclasses.replace(metric.info, position=position))
        busy = [cell for cell in cells if any(cell.missing(shard) for shard in shards)]
        with plan.store.locked([cell.cell for cell in busy]):
            for cell in busy:
                cell.look()
            _reopen(group, busy, fresh, retry_failed)
            try:
                rescored = rescore(group, cells)
                if rescored and keys.strict:
                    refuse_masks(group, cells)
                result.computed_images += rescored
                _sweep(group, cells, keys, result)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"batch_size={keys.batch_size}: the device is out of memory; finished shards are kept, "
                    f"run again with a smaller batch_size"
                ) from error
    result.seconds = time.monotonic() - began
    if result.computed_images:
        result.passes = result.passes or Passes().as_dict()
        plan.store.write_run(_run_info(plan, result))
    return result


def _reopen(group: Group, cells: Sequence[CellState], fresh: bool, retry_failed: bool) -> None:
    """Forget the shards that are to be computed again: all, or those with failures that may not happen now."""
    mended: dict[int, bool] = {}

    def can_go(position: int) -> bool:
        if position not in mended:
            index = group.selection.indices[position]
            mended[position] = not load(group.dataset, index, group.view).error
        return mended[position]

    for cell in cells:
        if fresh:
            cell.reopen(range(group.shards))
        elif cell.stored is not None:
            failed = cell.failed(passing_only=not retry_failed)
            cell.reopen(shard for shard, where in failed.items() if retry_failed or any(map(can_go, where)))


def _note_unusable(problems: Iterable[Problem], strict: bool, result: RunResult) -> None:
    """Remember annotations that no record can name; with ``strict`` the first one ends the run."""
    lines = [str(problem) for problem in problems]
    if strict and lines:
        raise StrictError(lines[0])
    result.unusable = list(dict.fromkeys([*result.unusable, *lines]))


def _note_findings(group: Group, result: RunResult) -> None:
    """Count what is doubtful about a data set; groups that share a data set repeat its counts."""
    counts = count_findings(group.dataset, group.selection.indices)
    for kind, count in counts.items():
        result.findings[kind] = max(result.findings.get(kind, 0), count)
    result.remarks = list(dict.fromkeys([*result.remarks, *map(printable, [*group.dataset.remarks, *group.remarks])]))


def _be_repeatable() -> None:
    """Ask for plain float32 and deterministic kernels: the same run gives the same bits on one machine."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _sweep(group: Group, cells: Sequence[CellState], keys: RunKeys, result: RunResult) -> None:
    """Pass over the images of a group once, shard by shard."""
    batches, owner = [], []
    for shard in open_shards(group, cells):
        positions = group.positions(shard)
        for start in range(positions.start, positions.stop, keys.batch_size):
            batches.append(range(start, min(start + keys.batch_size, positions.stop)))
            owner.append(shard)
    if not batches:
        return
    loaded = load_batches(
        group.dataset,
        [[group.selection.indices[position] for position in batch] for batch in batches],
        group.view,
        keys.workers,
    )
    before = group.model.passes.as_dict()
    total = sum(len(batch) for batch in batches)
    with ThreadPoolExecutor(1) as thread, progress(total, group.label) as bar:
        work: ShardWriter | None = None
        for number, (batch, images) in enumerate(zip(batches, loaded, strict=True)):
            if work is None:
                work = ShardWriter(cells, owner[number], keys.strict, group.outline.input_size)
                evaluator = Evaluator(group, work, keys, thread, bar.set_postfix_str)
            evaluator.evaluate(list(batch), images)
            if number + 1 == len(batches) or owner[number + 1] != owner[number]:
                evaluator.finish()
                _note_sealed(work.seal(), result)
                work = None
            bar.update(len(batch))
    result.computed_images += total
    for name, count in group.model.passes.as_dict().items():
        result.passes[name] = result.passes.get(name, 0) + count - before[name]


def _note_sealed(sealed: Sealed, result: RunResult) -> None:
    for row in sealed.failures:
        why = str(Failure(Reason(row["reason"]), row["detail"]))
        result.new_failures[why] = result.new_failures.get(why, 0) + 1
    _note_unusable(sealed.unusable, False, result)


def _run_info(plan: Plan, result: RunResult) -> RunInfo:
    device = torch.cuda.get_device_name(plan.device) if plan.device != "cpu" else platform.processor() or "cpu"
    return RunInfo(
        time.strftime("%Y-%m-%d %H:%M:%S"),
        plan.config.overrides,
        tuple(result.keys),
        result.computed_images,
        result.seconds,
        result.passes,
        plan.device,
        device,
        torch.get_num_threads(),
        str(torch.__version__),
        platform.python_version(),
    )
