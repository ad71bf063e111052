"""Tell rows apart whose labels are the same though their cells differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from decomcam_bench.store.schema import IDENTITY, key_of
from decomcam_bench.store.store import Cell

#: The label that a difference is shown in, by the first word of its path in the identity; ``method`` otherwise.
_PLACES = {"dataset": "dataset", "prompts": "dataset", "model": "model", "precision": "model", "layer": "layer"}
#: Longest value that is shown; digests are cut.
_LONGEST = 12


def distinct_labels(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the labels of cells, with what differs added where two would be the same.

    Returns:
        One mapping from the names of :data:`~decomcam_bench.store.schema.IDENTITY` to labels per cell.
    """
    datasets = dataset_labels(cells)
    found = [
        {**{name: cell.labels[name] for name in IDENTITY}, "dataset": own}
        for cell, own in zip(cells, datasets, strict=True)
    ]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, own in enumerate(found):
        groups.setdefault(tuple(own.values()), []).append(place)
    for places in groups.values():
        if len(places) > 1:
            _tell_apart([cells[place] for place in places], [found[place] for place in places])
    return found


def dataset_labels(cells: Sequence[Cell]) -> list[str]:
    """Return the data set's label of each cell, with a digest where one label stands for several sets of pairs.

    Rows of one label are over the same pairs: they may be compared, and only they.
    """
    sets: dict[str, set[str]] = {}
    for cell in cells:
        sets.setdefault(str(cell.labels["dataset"]), set()).add(_digest(cell))
    return [
        f"{label}#{_digest(cell)[:6]}" if len(sets[label]) > 1 else label
        for cell in cells
        for label in [str(cell.labels["dataset"])]
    ]


def _digest(cell: Cell) -> str:
    """Return what tells the pairs of a cell from others of the same label."""
    return key_of({"dataset": cell.identity.get("dataset")})


def _tell_apart(cells: Sequence[Cell], labels: Sequence[dict[str, Any]]) -> None:
    leaves = [dict(_leaves(cell.identity)) for cell in cells]
    paths = dict.fromkeys(path for own in leaves for path in own)
    differing = [path for path in paths if len({str(own.get(path)) for own in leaves}) > 1]
    # An edited source says all that a reader needs; schema 1 named things otherwise, so its rows show their key.
    shown = [path for path in differing if path.endswith(".source")] or differing[:2]
    mixed = len({cell.info.schema for cell in cells}) > 1
    for cell, own, label in zip(cells, leaves, labels, strict=True):
        if mixed or not shown:
            label["method"] = _extended(label["method"], f"key={cell.key[:6]}")
            continue
        for path in shown:
            place = _PLACES.get(path.partition(".")[0], "method")
            value = str(own.get(path, "none"))
            short = value if len(value) <= _LONGEST else value[:6]
            label[place] = _extended(label[place], f"{path.rpartition('.')[2]}={short}")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}".lstrip("."))
    else:
        yield path, value


def _extended(label: Any, word: str) -> str:
    text = str(label)
    return f"{text[:-1]},{word}]" if text.endswith("]") else f"{text}[{word}]"
