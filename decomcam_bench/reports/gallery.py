"""Pictures of a report: maps of several methods beside each other, those that were kept, or recomputed.

Which pairs are shown follows from the records: where the method in focus does best, where it does
worst, and where the methods disagree most.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment

from decomcam_bench.config import registry
from decomcam_bench.config.overrides import GROUPS
from decomcam_bench.config.settings import RunConfig, load_config
from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.core.reasons import Reason, Why
from decomcam_bench.datasets.base import Target
from decomcam_bench.engine.loading import Loaded, load_batches
from decomcam_bench.engine.plan import Group, PlannedCell, make_plan
from decomcam_bench.engine.session import ModelSession
from decomcam_bench.engine.session import Picture as Shown
from decomcam_bench.explainer.overlay import blend, faded
from decomcam_bench.methods.base import Explanation
from decomcam_bench.metrics.parts import overlaps
from decomcam_bench.models.geometry import Geometry
from decomcam_bench.store.maps import SavedMaps, read_maps
from decomcam_bench.store.reader import evaluated, metric_of, metric_records, metrics_of
from decomcam_bench.store.schema import shard_size
from decomcam_bench.store.store import MAPS, Cell, Store
from decomcam_bench.tables.cells import is_complete

#: Longest side of a picture, in pixels.
SIDE = 192
_FOCUS = "decomcam"
#: Decompositions whose components are shown beside each other.
_MOST_DECOMPOSITIONS = 4
#: Options of a choice that say which code or which file is meant.
_NAMING = ("impl", "root", "dir", "cache_dir", "checkpoint", "results")


@dataclass(frozen=True)
class Picture:
    """One picture with what stands under it; ``source`` is a data URL."""

    source: str
    caption: str
    note: str = ""


@dataclass
class Strip:
    """A row of the gallery: the annotated image, then one picture a method (or component)."""

    title: str
    pictures: list[Picture]


@dataclass
class Gallery:
    """Pictures of one data set and model.

    Attributes:
        shown_by: the value that pairs were chosen by.
        rows: heading -> strips.
        components: strips of component maps.
        note: why there are none.
    """

    shown_by: str = ""
    rows: dict[str, list[Strip]] = field(default_factory=dict)
    components: list[Strip] = field(default_factory=list)
    note: str = ""


def pair_values(cell: Cell) -> dict[str, pd.Series]:
    """Values of every pair that a gallery can be ordered by, by column label: (position, class_id) -> value."""
    found: dict[str, pd.Series] = {}
    for key, content in metrics_of(cell).items():
        if not is_complete(cell, key):
            continue
        records = evaluated(metric_records(cell, key))
        metric = metric_of(content)
        labels = {described.name: described.label for described in content.columns}
        for column in metric.columns:
            if column.name not in labels:
                continue
            name = column.value or ("hit" if "hit" in records else column.name)
            if name in records and column.direction != "none" and not column.machine and records[name].ndim == 1:
                series = records.set_index(["position", "class_id"])[name]
                if series.dtype != object and len(series):
                    sign = -1.0 if column.direction == "lower" else 1.0
                    found.setdefault(labels[column.name], series.astype(float) * sign)
                if not column.value:
                    break
    return found


def pick(values: Mapping[str, pd.Series], focus: str, each: int) -> dict[str, list[tuple[int, int]]]:
    """Pairs to show, by heading.

    Args:
        values: of each method, higher is better, on the same pairs.
        focus: the method whose best and worst pairs are shown.
        each: pairs a heading; a pair is shown once.
    """
    table = pd.DataFrame(dict(values)).dropna()
    if not len(table):
        return {}
    spread = table.max(axis=1) - table.min(axis=1)
    orders = {
        "worst": table[focus].sort_values(kind="stable").index,
        "largest disagreement": spread.sort_values(ascending=False, kind="stable").index,
        "best": table[focus].sort_values(ascending=False, kind="stable").index,
    }
    if len(values) < 2:
        del orders["largest disagreement"]
    taken: set[Any] = set()
    picked = {}
    for heading, order in orders.items():
        own = [pair for pair in order if pair not in taken][:each]
        taken.update(own)
        picked[heading] = [(int(position), int(class_id)) for position, class_id in own]
    return picked


def make_gallery(cells: Sequence[Cell], overrides: Sequence[str] = (), each: int = 3, most_methods: int = 7) -> Gallery:
    """The gallery of cells over the same images and model.

    Args:
        overrides: appended to the cells' own, e.g. ``dataset.root=DIR`` or ``device=cuda``.
        each: pairs a heading.
        most_methods: pictures beside the annotated one.
    """
    values = {cell.key: pair_values(cell) for cell in cells}
    label = choose_label(list(values.values()))
    if label is None:
        return Gallery(note="no metric of these cells has a value for each pair to choose pictures by")
    shown = _one_a_method([cell for cell in cells if label in values[cell.key]])[:most_methods]
    decompositions = _one_a_method([cell for cell in cells if cell.labels["rank"]])[:_MOST_DECOMPOSITIONS]
    gallery = Gallery(label)
    try:
        group, planned = _plan(list({cell.key: cell for cell in (*shown, *decompositions)}.values()), overrides)
    except DataError as error:
        gallery.note = f"the data set is not there: {error}"
        return gallery
    shown = [cell for cell in shown if cell.key in planned]
    if not shown:
        gallery.note = "the data set, the model or a method has changed since these records were made"
        return gallery
    by_method = {cell.key: values[cell.key][label] for cell in shown}
    focus = shown[0]
    picked = pick(by_method, focus.key, each)
    if not picked:
        gallery.note = f"no pair has a value of {label} for every method"
        return gallery
    positions = sorted({position for pairs in picked.values() for position, _ in pairs})
    explained = _explain(group, planned, positions, Store(cells[0].folder.parents[1]))
    for heading, pairs in picked.items():
        gallery.rows[heading] = [
            _strip(explained[pair], shown, {c.key: by_method[c.key].get(pair) for c in shown})
            for pair in pairs
            if pair in explained
        ]
    own = [cell for cell in decompositions if cell.key in planned]
    firsts = [explained[pairs[0]] for pairs in picked.values() if pairs and pairs[0] in explained]
    for number, one in enumerate(firsts):
        # Other decompositions stand beside the first for one pair alone: a page has to stay small.
        strips = (_components(one, cell) for cell in (own if number == 0 else own[:1]))
        gallery.components += [strip for strip in strips if strip]
    return gallery


def choose_label(values: Sequence[Mapping[str, Any]]) -> str | None:
    """What pairs are chosen by: energy, else pointing, else what most cells have; None where no cell has any.

    Args:
        values: of each cell, by label.
    """
    having = Counter(label for own in values for label in own)
    for word in ("energy", "pointing", ""):
        labels = [label for label in having if label.startswith(word)]
        if labels:
            return max(labels, key=having.__getitem__)
    return None


def _one_a_method(cells: Sequence[Cell]) -> list[Cell]:
    """One cell a method, DecomCAM first and controls last; of several ranks the method's own choice."""
    found: dict[str, Cell] = {}
    for cell in sorted(cells, key=lambda cell: not _own_choice(cell)):
        found.setdefault(str(cell.labels["method"]), cell)

    controls = registry.controls()

    def order(cell: Cell) -> tuple[bool, bool]:
        name = str(cell.labels["method"])
        return name in controls, not name.startswith(_FOCUS)

    return sorted(found.values(), key=order)


def _own_choice(cell: Cell) -> bool:
    """Whether a cell has the rank and the layer that nobody had to name."""
    described = cell.identity["method"]
    method = registry.installed("method", str(described.get("id", "")), cell.info.choices.get("method", ""))
    usual = getattr(method, "default_rank", None)
    return cell.identity["rank"] == usual and not any(str(word).startswith("layer=") for word in cell.info.overrides)


def _harmless(cell: Cell) -> list[str]:
    """Return the overrides of a stored cell without those that name code or a place: a store may be somebody else's.

    Raises:
        ConfigError: for a cell of code from outside the package.
    """
    words = [word for word in cell.info.overrides if word.partition("=")[0].rpartition(".")[2] not in _NAMING]
    pairs = [word.partition("=") for word in cell.info.overrides]
    if any(key.endswith(".impl") or (key in GROUPS and ":" in value) for key, _, value in pairs):
        name = str(cell.labels["method"])
        raise ConfigError(f"{name} is code from outside the package, and a report imports none that a store names")
    return words


def _plan(cells: Sequence[Cell], overrides: Sequence[str]) -> tuple[Group, dict[str, PlannedCell]]:
    """What the cells are computed with now, by key; those are left out that have changed since."""
    configs = [load_config([*_harmless(cell), *overrides]) for cell in cells]
    joined = RunConfig(
        tuple(s for config in configs for s in config.settings),
        tuple(m for config in configs for m in config.metrics),
        # Of this store, wherever it lies, are the kept maps.
        replace(configs[0].keys, results=str(cells[0].folder.parents[1])),
        (),
    )
    plan = make_plan(joined)
    wanted = {cell.key for cell in cells}
    # Cells of other seeds are another group; the largest is shown.
    group = max(plan.groups, key=lambda group: sum(cell.key in wanted for cell in group.cells))
    return group, {cell.key: cell for cell in group.cells if cell.key in wanted}


@dataclass
class _Explained:
    image: np.ndarray
    target: Target
    geometry: Geometry
    image_id: str
    explanations: dict[str, tuple[Explanation, int]]
    input_size: tuple[int, int]

    def map(self, key: str) -> np.ndarray:
        explanation, pair = self.explanations[key]
        if pair in explanation.failures:
            return np.zeros(self.image.shape[:2], np.float32)
        return self.geometry.to_original(explanation.maps(self.input_size)[pair].float().cpu().numpy())


def _explain(
    group: Group, planned: Mapping[str, PlannedCell], positions: Sequence[int], store: Store
) -> dict[tuple[int, int], _Explained]:
    """Maps of all cells for the pairs of some images."""
    model, dataset = group.model, group.dataset
    indices = [group.selection.indices[position] for position in positions]
    session = ModelSession(model, group.bank, group.view, group.dataset.region, 16, group.seed)
    found: dict[tuple[int, int], _Explained] = {}
    images = load_batches(dataset, [[index] for index in indices], group.view, 0)
    saved = _Saved(store, group.images)
    size = (model.input_size, model.input_size)
    for position, (loaded,) in zip(positions, images, strict=True):
        if loaded.pixels is None:
            continue
        targets = [target for target in loaded.sample.targets if group.selection.keeps(loaded.sample, target)]
        if not targets:
            continue
        made = {key: one for key, cell in planned.items() if (one := saved.explanation(cell, position, targets))}
        left = {key: cell for key, cell in planned.items() if key not in made}
        if left:
            made |= _computed(session, loaded, tuple(targets), left)
        geometry = group.view.of(loaded.sample.width, loaded.sample.height)
        picture = dataset.load_image(loaded.index)
        for pair, target in enumerate(targets):
            found[position, target.class_id] = _Explained(
                picture,
                target,
                geometry,
                loaded.sample.image_id,
                {key: (explanation, pair) for key, explanation in made.items()},
                size,
            )
    return found


def _computed(
    session: ModelSession, loaded: Loaded, targets: tuple[Target, ...], cells: Mapping[str, PlannedCell]
) -> dict[str, Explanation]:
    """Return the explanations of one image by the keys of cells."""
    assert loaded.pixels is not None
    sample, keys, requests = loaded.sample, list(cells), list(cells.values())
    picture = Shown(sample.image_id, loaded.pixels, sample.width, sample.height, targets)
    # All pairs of an image stay together, so there is a single batch.
    ((_, batch),) = session.batches([picture], {cell.layer for cell in requests})
    return {
        keys[place]: found.by_rank[requests[place].rank]
        for found in session.answers(batch, requests)
        for place in found.requests
    }


class _Saved:
    """Read maps that a run has saved, one shard of a cell at a time."""

    def __init__(self, store: Store, images: int) -> None:
        self.store = store
        self.size = shard_size(images)
        self.shards: dict[tuple[str, int], SavedMaps] = {}

    def explanation(self, cell: PlannedCell, position: int, targets: Sequence[Target]) -> Explanation | None:
        """Return the maps of an image's targets; None where they are to be computed, as components are."""
        shard = position // self.size
        stored = self.store.cell(cell.key)
        if stored is None or cell.rank is not None or shard not in stored.sealed(MAPS):
            return None
        # Images come in order of position.
        if (cell.key, shard) not in self.shards:
            self.shards = {key: maps for key, maps in self.shards.items() if key[1] == shard}
            self.shards[cell.key, shard] = read_maps(stored, shard)
        saved = self.shards[cell.key, shard]
        here = {int(saved.class_id[place]): place for place in np.flatnonzero(saved.image_index == position)}
        native = np.zeros((len(targets), *saved.native.shape[1:]), np.float32)
        failures: dict[int, Why] = {}
        for pair, target in enumerate(targets):
            if target.class_id in here:
                native[pair] = saved.native[here[target.class_id]]
            elif (position, target.class_id) in saved.without_map:
                failures[pair] = Reason.ZERO_MAP
            else:
                return None
        return Explanation(torch.from_numpy(native), saved.mode, failures=failures)


def _name(cell: Cell) -> str:
    return str(cell.labels["method"]) + (f" rank {cell.labels['rank']}" if cell.labels["rank"] else "")


def _strip(explained: _Explained, cells: Sequence[Cell], values: Mapping[str, Any]) -> Strip:
    pictures = [Picture(_annotated(explained), explained.target.class_name, "annotation")]
    for cell in cells:
        value = values[cell.key]
        note = "no map" if value is None or np.isnan(value) else f"{abs(value):.3f}"
        pictures.append(Picture(_overlay(explained.image, explained.map(cell.key)), _name(cell), note))
    return Strip(f"{explained.image_id}, {explained.target.class_name}", pictures)


def _components(explained: _Explained, cell: Cell) -> Strip | None:
    """The components of a decomposition by weight, with the annotated parts that they match best."""
    explanation, pair = explained.explanations[cell.key]
    components = explanation.components
    if components is None or pair in explanation.failures:
        return None
    maps = components.maps(explained.input_size)[pair].float().cpu().numpy()
    maps = np.stack([np.maximum(explained.geometry.to_original(one), 0) for one in maps])
    weights = components.weights[pair].float().cpu().numpy()
    parts = _matched(maps, explained.target)
    pictures = [
        Picture(_annotated(explained), explained.target.class_name, "annotation"),
        Picture(_overlay(explained.image, explained.map(cell.key)), _name(cell), "all components"),
    ]
    for number in np.argsort(-weights, kind="stable"):
        caption = f"H{number + 1}" + (f": {parts[int(number)]}" if int(number) in parts else "")
        pictures.append(Picture(_overlay(explained.image, maps[number]), caption, f"weight {weights[number]:.2f}"))
    return Strip(f"{explained.image_id}, {explained.target.class_name}", pictures)


def _matched(maps: np.ndarray, target: Target) -> dict[int, str]:
    """Component -> the part that the optimal assignment by overlap gives it."""
    visible = []
    for part in target.parts:
        try:
            mask = None if part.mask is None else np.asarray(part.mask.decode(), dtype=bool)
        except ValueError:
            continue
        if mask is not None and mask.any():
            visible.append((part.name, mask))
    usable = [number for number, one in enumerate(maps) if one.max() > 0]
    if not visible or not usable:
        return {}
    overlap, _ = overlaps(maps[usable].astype(np.float32), np.stack([mask for _, mask in visible]))
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return {
        usable[row]: f"{visible[column][0]} ({overlap[row, column]:.2f})"
        for row, column in zip(rows, columns, strict=True)
    }


def _small(image: np.ndarray) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image))
    scale = SIDE / max(picture.size)
    return picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.BILINEAR
    )


def _url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _annotated(explained: _Explained) -> str:
    picture = _small(explained.image)
    draw = ImageDraw.Draw(picture)
    scale = SIDE / max(explained.image.shape[:2])
    for box in np.asarray(explained.target.boxes, dtype=float):
        left, top, right, bottom = (float(value) * scale for value in box)
        if right > left and bottom > top:
            draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=(0, 230, 90), width=2)
    return _url(picture)


def _overlay(image: np.ndarray, saliency: np.ndarray) -> str:
    high = float(saliency.max())
    scaled = saliency / high if high > 0 else saliency
    mixed = blend(faded(image.astype(np.float64) / 255), np.asarray(scaled, dtype=np.float64))
    return _url(_small((mixed * 255).clip(0, 255).astype(np.uint8)))
