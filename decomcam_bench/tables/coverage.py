"""Say which numbers are over fewer pairs than the maps of their row, and why."""

from __future__ import annotations

from collections.abc import Sequence

from decomcam_bench.store.store import RECORDS, Store
from decomcam_bench.tables.cells import counts, measured, reasons


def fewer_pairs(results: str, keys: Sequence[str]) -> list[str]:
    """Return a phrase per metric and reason: ``pointing is over 60 of 66 pairs (6 difficult_only)``.

    Args:
        results: root of the store.
        keys: of the cells to look at; what cells have in common is said once.
    """
    store = Store(results)
    cells = [cell for key in keys if (cell := store.cell(key)) is not None]
    found: dict[str, None] = {}
    for own in measured(cells):
        for one in own:
            maps = one.cell.read(RECORDS, lambda name: name in ("status", "reason"))
            mapped, before = counts(maps)["n_evaluated"], reasons(maps)
            if one.counts["n_evaluated"] >= mapped:
                continue
            more = {reason: count - before.get(reason, 0) for reason, count in one.reasons.items()}
            why = ", ".join(f"{count} {reason}" for reason, count in more.items() if count > 0)
            label = one.content.columns[0].label
            if not why:  # the metric looks at the first images alone, as its limit says
                continue
            found[f"{label} is over {one.counts['n_evaluated']} of {mapped} pairs ({why})"] = None
    return list(found)
