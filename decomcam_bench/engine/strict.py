"""What sealed parts say of bad data: told again by every run, and refused with ``strict=true``."""

from __future__ import annotations

from collections.abc import Iterator

from decomcam_bench.core.errors import StrictError
from decomcam_bench.datasets.base import Problem
from decomcam_bench.engine.loading import Loaded, load
from decomcam_bench.engine.plan import Group
from decomcam_bench.store.store import RECORDS, part_size

#: How the reason of a pair begins whose mask cannot be decoded.
BAD_MASK = "bad_mask: "
_MASK_COLUMNS = ("position", "class_id", "class_name", "reason")


def left_out_before(group: Group, save_maps: bool) -> Iterator[Problem]:
    """Annotations left out of images that this run does not evaluate, so that each run tells of them."""
    size = part_size(group.images)
    for part in range(group.parts):
        if any(cell.to_compute(part, save_maps) for cell in group.cells):
            continue
        for index in group.selection.indices[part * size : (part + 1) * size]:
            yield from (problem for problem in group.dataset.sample(index).problems if not problem.pair_lost)


def refuse_sealed(group: Group) -> None:
    """Ends a strict run at what an earlier one that was not strict has recorded and gone past.

    The records say where a pair failed; images that failed are read again, so that one which was
    mended meanwhile is not held against the run.

    Raises:
        StrictError: for the first image or annotation of a sealed part that cannot be used.
    """
    for problem in group.dataset.problems:
        raise StrictError(str(problem))
    size = part_size(group.images)
    for part in range(group.parts):
        cell = next((c for c in group.cells if c.cell and part in c.done.get(RECORDS, ())), None)
        if cell is None:
            continue
        assert cell.cell is not None
        records = cell.cell.read_part(RECORDS, part)
        failed = set(records.loc[records["status"] == "failed", "position"])
        for position in range(part * size, min((part + 1) * size, group.images)):
            index = group.selection.indices[position]
            if position in failed:
                image = load(group.dataset, index, group.model.input_size, group.source.geometry)
            else:
                sample = group.dataset.sample(index)
                image = Loaded(index, sample, None, sample.error)
            if image.flaw:
                raise StrictError(image.flaw)
    refuse_masks(group)


def refuse_masks(group: Group) -> None:
    """Ends a strict run at a mask that a sealed metric or control could not decode, and that still cannot be.

    Raises:
        StrictError: for the first such pair of a cell.
    """
    for cell in group.cells:
        sealed = [(name, part) for name, parts in cell.done.items() if name != "maps" for part in sorted(parts)]
        for stream, part in sealed if cell.cell else ():
            assert cell.cell is not None
            records = cell.cell.read_part(stream, part, _MASK_COLUMNS.__contains__)
            bad = records[records["reason"].str.startswith(BAD_MASK)]
            for row in bad.to_dict("records"):
                sample = group.dataset.sample(group.selection.indices[row["position"]])
                target = next((t for t in sample.targets if t.class_id == row["class_id"]), None)
                try:
                    _ = target and target.object_mask()
                except ValueError as error:
                    raise StrictError(f"{sample.image_id}, {row['class_name']}: {BAD_MASK}{error}") from error
