"""Tell what of a plan the store has already, and what is still to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from decomcam_bench.core.reasons import PASSING
from decomcam_bench.engine.plan import Group, PlannedCell
from decomcam_bench.store.maps import suffices
from decomcam_bench.store.store import MAPS, RECORDS, Cell, Store


@dataclass
class CellState:
    """Hold how far a cell is.

    Attributes:
        plan: the cell as planned.
        save_maps: True if its maps are wanted.
        stored: the cell in the store, or None where it is not there yet.
        done: numbers of sealed shards, by stream.
        saved: numbers of the shards whose maps are in the store.
    """

    plan: PlannedCell
    save_maps: bool
    stored: Cell | None = None
    done: dict[str, set[int]] = field(default_factory=dict)
    saved: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, plan: PlannedCell, store: Store, save_maps: bool) -> CellState:
        """Return what a store has of a cell."""
        state = cls(plan, save_maps, store.cell(plan.key))
        state.look()
        return state

    def look(self) -> None:
        """Look into the store again."""
        if self.stored is not None:
            self.done = {name: self.stored.sealed(name) for name in self.plan.streams(self.save_maps)}
            self.saved = self.stored.sealed(MAPS)

    @property
    def cell(self) -> Cell:
        """The stored cell.

        Raises:
            LookupError: before it has been created.
        """
        if self.stored is None:
            raise LookupError(f"cell {self.plan.key} has not been created")
        return self.stored

    def missing(self, shard: int) -> list[str]:
        """Return the streams without a shard."""
        return [name for name in self.plan.streams(self.save_maps) if shard not in self.done.get(name, set())]

    def from_saved(self, shard: int) -> bool:
        """Return True if all that is missing of a shard follows from its saved maps, without the model."""
        wanted = {metric.key: metric.metric for metric in self.plan.metrics}
        return (
            all(name in wanted and suffices(wanted[name]) for name in self.missing(shard))
            and shard in self.done.get(RECORDS, set())
            and shard in self.saved
        )

    def to_compute(self, shard: int) -> bool:
        """Return True if something of a shard is missing that takes the model."""
        return bool(self.missing(shard)) and not self.from_saved(shard)

    def mark(self, stream: str, shard: int) -> None:
        """Note that a shard was sealed."""
        self.done.setdefault(stream, set()).add(shard)

    def reopen(self, shards: Iterable[int]) -> None:
        """Forget shards, so that they are computed again and replaced."""
        chosen = set(shards)
        self.done = {name: numbers - chosen for name, numbers in self.done.items()}
        self.saved -= chosen

    def failed(self, passing_only: bool) -> dict[int, list[int]]:
        """Return the image positions of failed pairs by sealed shard.

        Args:
            passing_only: only failures whose cause can have gone, such as a missing file.
        """
        found: dict[int, list[int]] = {}
        for shard in sorted(self.done.get(RECORDS, ())):
            records = self.cell.read_shard(RECORDS, shard, ("position", "status", "reason").__contains__)
            bad = records[records["status"] == "failed"]
            if passing_only:
                bad = bad[bad["reason"].isin([str(reason) for reason in PASSING])]
            if len(bad):
                found[shard] = sorted({int(position) for position in bad["position"]})
        return found


def states(group: Group, store: Store, save_maps: bool) -> list[CellState]:
    """Return what a store has of each cell of a group."""
    return [CellState.of(cell, store, save_maps) for cell in group.cells]


def open_shards(group: Group, cells: Sequence[CellState]) -> list[int]:
    """Return the shards that some cell lacks."""
    return [shard for shard in range(group.shards) if any(cell.missing(shard) for cell in cells)]
