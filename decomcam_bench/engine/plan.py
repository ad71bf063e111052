"""Plan the work: which cells a run has, what identifies them, and what they will cost.

Planning opens data sets and loads models (the key holds their fingerprints), but computes no map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from decomcam_bench.config import registry
from decomcam_bench.config.models import FOLDER
from decomcam_bench.config.settings import MetricChoice, RunConfig, Setting
from decomcam_bench.core.errors import ConfigError
from decomcam_bench.datasets.acquire.catalogue import variant_of
from decomcam_bench.datasets.base import Dataset
from decomcam_bench.datasets.subsets import Selection, select
from decomcam_bench.engine.evidence import PER_PAIR, check_needs
from decomcam_bench.engine.shelf import Shelf
from decomcam_bench.methods.base import Method
from decomcam_bench.metrics.base import Metric, ModelMetric
from decomcam_bench.models.base import ModelSource
from decomcam_bench.models.clip import ClipModel, Outline, Passes, TextBank, resolve_device
from decomcam_bench.models.geometry import View
from decomcam_bench.store.reader import cell_code, metric_code
from decomcam_bench.store.schema import CellInfo, MetricInfo, key_of, plain, shard_size
from decomcam_bench.store.store import MAPS, RECORDS, Store

_FLAT = "method={name} scores by a softmax over the texts, and {reason}; give another text, or method.score=logits"
_ANNOTATION = frozenset({"box", "mask"})
#: Difference of normalised text embeddings up to which texts are the same.
_SAME_TEXT = 1e-5
#: Options that say where something lies, not what it is.
PLACES = ("root", "cache_dir", "checkpoint")


@dataclass(frozen=True)
class PlannedMetric:
    """Hold a metric of a cell, resolved for the data set.

    Attributes:
        info: its description, from which its key follows.
        metric: the object.
        key: the hash of its identity.
        code: digest of the code that its values come from.
    """

    info: MetricInfo
    metric: Metric
    key: str
    code: str


@dataclass(frozen=True)
class PlannedCell:
    """Hold one cell of a run.

    Attributes:
        info: its description, from which its key follows.
        key: the hash of its identity.
        layer: canonical name; empty for a method that reads no layer.
        method: the object.
        rank: None for a method without one.
        metrics: in the order in which they were asked for.
        code: digest of the code that its maps come from.
    """

    info: CellInfo
    key: str
    layer: str
    method: Method
    rank: int | None
    metrics: tuple[PlannedMetric, ...]
    code: str

    def streams(self, save_maps: bool) -> list[str]:
        """Return what a run writes for the cell: records, maps, and the key of each metric."""
        return [RECORDS, *([MAPS] if save_maps else []), *(metric.key for metric in self.metrics)]


@dataclass
class Group:
    """Hold cells over the same images and the same model, which one sweep evaluates together."""

    dataset: Dataset
    selection: Selection
    source: ModelSource
    outline: Outline
    shelf: Shelf
    model_key: str
    precision: str
    cells: list[PlannedCell]
    seed: int

    @property
    def model(self) -> ClipModel:
        """The model, loaded when it is first asked for and after another one was in use."""
        return self.shelf.get(self.model_key, self.source, self.precision)

    @cached_property
    def bank(self) -> TextBank:
        """The texts of the data set, embedded by the model.

        Raises:
            ConfigError: if a method scores by a softmax over texts that the model cannot tell apart.
        """
        bank = self.model.text_bank(self.texts, empty=self.dataset.prompts.empty(self.dataset))
        for cell in self.cells:
            check_texts(cell.info.choices["method"], cell.method, bank)
        return bank

    @property
    def remarks(self) -> list[str]:
        """Lines about the model and the layers that are read of it."""
        layers = dict.fromkeys(cell.layer for cell in self.cells if cell.layer)
        return [*self.source.remarks(), *filter(None, map(self.outline.tower.remark, layers))]

    @property
    def label(self) -> str:
        return f"{self.dataset.name} x {self.source.name}"

    @property
    def view(self) -> View:
        """How the model sees images."""
        return self.source.view(self.outline.input_size)

    @cached_property
    def texts(self) -> Sequence[Sequence[str]]:
        """The texts of each class, templates filled in."""
        return self.dataset.prompts.texts(self.dataset)

    @property
    def images(self) -> int:
        return len(self.selection.indices)

    @property
    def shards(self) -> int:
        """Number of shards that its records are sealed in."""
        return -(-self.images // shard_size(self.images)) if self.images else 0

    def positions(self, shard: int) -> range:
        """Return the positions of the images of a shard in the run."""
        size = shard_size(self.images)
        return range(shard * size, min((shard + 1) * size, self.images))


@dataclass
class Plan:
    """Hold all groups of a run and the store that they write to."""

    groups: list[Group]
    store: Store
    config: RunConfig
    device: str

    @property
    def cells(self) -> list[PlannedCell]:
        return [cell for group in self.groups for cell in group.cells]


def make_plan(config: RunConfig) -> Plan:
    """Open data and outlines of models and list the cells, without repeating one; no model is loaded.

    Groups of the same model follow one another, so that each model is loaded once.

    Raises:
        UserError: when data, weights or a layer cannot be had, or an option is wrong.
    """
    device = resolve_device(config.keys.device)
    store = Store(config.keys.results)
    datasets: dict[str, Dataset] = {}
    sources: dict[str, tuple[ModelSource, dict[str, Any]]] = {}
    outlines: dict[str, Outline] = {}
    shelf = Shelf(device)
    groups: dict[str, Group] = {}
    for setting, choices in zip(config.settings, config.metrics, strict=True):
        dataset = _once(datasets, key_of(setting.dataset), lambda s=setting: registry.build("dataset", s.dataset))
        source, model_identity = _once(sources, key_of(setting.model), lambda s=setting: _source(s))
        model_key = key_of({"model": setting.model, "precision": setting.keys.precision})
        outline = _once(outlines, key_of(setting.model), source.outline)
        group_key = key_of(
            {"dataset": setting.dataset, "model": model_key, "limit": setting.keys.limit, "seed": setting.keys.seed}
        )
        if group_key not in groups:
            selection = select(dataset, setting.keys.limit)
            precision, seed = setting.keys.precision, setting.keys.seed
            groups[group_key] = Group(dataset, selection, source, outline, shelf, model_key, precision, [], seed)
        group = groups[group_key]
        if setting.keys.controls and not _possible(setting, dataset):
            continue
        cell = _plan_cell(setting, group, model_identity, choices)
        _add(group.cells, cell)
    order = list(dict.fromkeys(group.model_key for group in groups.values()))
    return Plan(sorted(groups.values(), key=lambda group: order.index(group.model_key)), store, config, device)


def _add(cells: list[PlannedCell], cell: PlannedCell) -> None:
    """Add a cell, or its metrics to the same cell."""
    for place, other in enumerate(cells):
        if other.key == cell.key:
            known = {metric.key for metric in other.metrics}
            more = tuple(metric for metric in cell.metrics if metric.key not in known)
            cells[place] = replace(other, metrics=other.metrics + more)
            return
    cells.append(cell)


def _once(cache: dict[str, Any], key: str, make: Any) -> Any:
    if key not in cache:
        cache[key] = make()
    return cache[key]


def _source(setting: Setting) -> tuple[ModelSource, dict[str, Any]]:
    source = registry.build("model", setting.model)
    return source, source.identity()


def _plan_cell(
    setting: Setting,
    group: Group,
    model_identity: Mapping[str, Any],
    choices: Sequence[MetricChoice],
) -> PlannedCell:
    method = _method(setting)
    layer = ""
    if method.uses_layer:
        tower = group.outline.tower
        layer = tower.canonical(setting.keys.layer or group.source.layer or tower.default_layer)
    check_needs(group.outline, method, layer)
    if _by_softmax(method):
        check_count(setting.method["name"], method, len({tuple(texts) for texts in group.texts}))
    rank = (setting.keys.rank or method.default_rank) if method.ranked else None
    keys = setting.keys
    dataset = group.dataset
    identity = {
        "dataset": {
            **registry.code_identity(type(dataset)),
            **dataset.identity,
            "fingerprint": dataset.fingerprint,
            "selection": group.selection.digest,
        },
        "prompts": dataset.prompt_identity,
        "model": {**registry.code_identity(type(group.source)), **model_identity},
        "layer": layer,
        "method": {
            **registry.code_identity(type(method)),
            "options": {name: plain(value) for name, value in method.identity.items()},
        },
        "rank": rank,
        "precision": keys.precision,
        "seed": keys.seed,
    }
    choices_by_group = {name: str(getattr(setting, name)["name"]) for name in ("dataset", "model", "method")}
    labels = {
        "dataset": _dataset_label(setting, group),
        "model": model_label(setting),
        "layer": layer,
        "method": method_label(setting),
        "rank": rank,
    }
    info = CellInfo(
        identity,
        labels,
        tuple(_repeat(setting)),
        choices_by_group,
        group.images,
        len(dataset),
        official_images(dataset),
        shard_size(group.images),
    )
    usable = _usable(choices, dataset)
    metrics = tuple(_plan_metric(choice, dataset, number) for number, choice in enumerate(usable))
    return PlannedCell(info, info.key, layer, method, rank, metrics, cell_code(choices_by_group, identity))


def method_label(setting: Setting) -> str:
    """Return the label of a method: its name, the options that differ from its YAML, and the seed."""
    return label(setting.method["name"], {**setting.changed["method"], **_nonzero(seed=setting.keys.seed)})


def _nonzero(**values: int | None) -> dict[str, int]:
    return {name: value for name, value in values.items() if value}


def _dataset_label(setting: Setting, group: Group) -> str:
    """Return the label of a data set: its options, its selection, and how much of the benchmark lies there."""
    dataset, selection, keys = group.dataset, group.selection, setting.keys
    changed = dict(setting.changed["dataset"])
    if changed.get("ids") is not None:
        count = len(selection.indices)
        changed["ids"] = dataset.image_id(selection.indices[0]) if count == 1 else f"{count}#{selection.digest[:6]}"
    if keys.limit and keys.limit < selection.available:
        changed["limit"] = keys.limit
    official = official_images(dataset)
    if official and len(dataset) != official:
        changed["images"] = f"{len(dataset)}/{official}"
    return label(setting.dataset["name"], changed)


def official_images(dataset: Dataset) -> int:
    """Return the number of images of the complete benchmark; 0 if none is known."""
    variant = variant_of(dataset)
    return variant.images if variant else 0


def _method(setting: Setting) -> Method:
    method = registry.build("method", setting.method)
    if not isinstance(method, Method):
        raise ConfigError(f"method.impl={setting.method['impl']}: no subclass of decomcam_bench.methods.base.Method")
    return method


def _possible(setting: Setting, dataset: Dataset) -> bool:
    """Return True if the data set has the annotation that a method reads; the oracle needs some."""
    method = _method(setting)
    return "object_masks" not in method.needs or bool(dataset.available & _ANNOTATION)


def _usable(choices: Sequence[MetricChoice], dataset: Dataset) -> list[MetricChoice]:
    """Return the metrics that the data set's annotation allows.

    Raises:
        ConfigError: for a metric that was asked for and needs what the data set does not have, or
            when none of the data set's own is left.
    """
    usable, refused = [], []
    for choice in choices:
        metric: Metric = registry.build("metric", choice.config).resolve(dataset)
        missing = sorted(metric.annotation - dataset.available)
        if not missing:
            usable.append(choice)
            continue
        refused.append(choice.config["name"])
        if choice.asked:
            raise ConfigError(
                f"metric={choice.config['name']}: needs a {missing[0]} for each target, and {dataset.name} has none "
                f"in this form; metrics that need no annotation: causal, deletion, insertion, average_drop, adcc"
            )
    if not usable:
        raise ConfigError(
            f"dataset={dataset.name}: has no {', '.join(sorted(_ANNOTATION - dataset.available))} in this form, which "
            f"{', '.join(refused)} need; ask for a metric that needs none: metric=causal"
        )
    return usable


def _plan_metric(choice: MetricChoice, dataset: Dataset, position: int) -> PlannedMetric:
    metric: Metric = registry.build("metric", choice.config).resolve(dataset)
    name = str(choice.config["name"])
    suffix = label(name, choice.changed).removeprefix(name)
    word = registry.word("metric", choice.config)
    own = [f"metric.impl={word}"] if ":" in word else []
    words = [*own, *(f"metric.{key}={_word(value)}" for key, value in sorted(choice.changed.items()))]
    info = MetricInfo.of(metric, name, suffix, words, position)
    return PlannedMetric(info, metric, info.key, "" if info.source else metric_code(name))


def label(name: str, changed: Mapping[str, Any]) -> str:
    """Return ``name[key=value,...]`` with the options that differ from the YAML; paths are left out.

    Of a folder of maps and of a file of ids the last name of the path is shown, of a list of ids their number, to tell
    rows apart. Other code is an option like others, unless the name is that of its class.
    """
    named = {key: Path(str(value)).name if key == "dir" else value for key, value in changed.items()}
    if str(named.get("impl", "")).rpartition(":")[2] == name:
        named.pop("impl", None)
    if "ids" in named:
        named["ids"] = Path(named["ids"]).name if isinstance(named["ids"], str) else f"{len(named['ids'])} ids"
    shown = [f"{key}={value}" for key, value in sorted(named.items()) if key not in PLACES]
    return f"{name}[{','.join(shown)}]" if shown else name


def check_count(name: str, method: Method, count: int) -> None:
    """Refuse a softmax over a single text.

    Raises:
        ConfigError: with what to do instead.
    """
    if count < 2 and _by_softmax(method):
        raise ConfigError(_FLAT.format(name=name, reason="there is a single one"))


def _by_softmax(method: Method) -> bool:
    return method.score == "softmax" and bool(method.needs & {"gradients", "score", "head"})


def check_texts(name: str, method: Method, bank: TextBank) -> None:
    """Refuse a softmax over texts that cannot differ.

    Raises:
        ConfigError: for a single text, or texts that are all the same to the model.
    """
    check_count(name, method, len(bank.embeddings))
    texts = bank.embeddings.float()
    if _by_softmax(method) and bool((texts - texts[:1]).abs().max() < _SAME_TEXT):
        raise ConfigError(_FLAT.format(name=name, reason="they are all the same to the model"))


def model_label(setting: Setting) -> str:
    """Return the label of the model of a setting, with the options and the precision that differ from the default."""
    changed = {key: value for key, value in setting.changed["model"].items() if key != "arch"}
    if setting.keys.precision != "fp32":
        changed["precision"] = setting.keys.precision
    name = str(setting.model["arch"] if setting.model["name"] == "openclip" else setting.model["name"])
    if name.startswith(FOLDER):
        name = FOLDER + Path(name.removeprefix(FOLDER)).name
    return label(name, changed)


def _repeat(setting: Setting) -> list[str]:
    """Return overrides that ask for this setting again, without the path of the data."""
    words = [f"{group}={registry.word(group, getattr(setting, group))}" for group in ("dataset", "model", "method")]
    for group, changed in setting.changed.items():
        named = {key: value for key, value in sorted(changed.items()) if key not in ("root", "dir")}
        words += [f"{group}.{key}={_word(value)}" for key, value in named.items()]
    for name in ("layer", "rank", "limit", "seed", "precision"):
        value = getattr(setting.keys, name)
        if value not in (None, 0, "fp32"):
            words.append(f"{name}={value}")
    return words


def _word(value: Any) -> str:
    """Return a value as an override writes it; a list is one value, not a sweep."""
    return "null" if value is None else str(value)


@dataclass
class Amount:
    """Count what a group has to do.

    Attributes:
        images: images to load.
        targeted: those of them with at least one pair.
        pairs: pairs.
        chunks: chunks of pairs that are evaluated together, see :func:`~decomcam_bench.engine.session.chunks`.
    """

    images: int = 0
    targeted: int = 0
    pairs: int = 0
    chunks: int = 0


def expected_passes(group: Group, open_cells: Sequence[PlannedCell], amount: Amount) -> Passes:
    """Return the passes that unfinished cells of a group need; those of metrics with a limit at most."""
    pairs, images = amount.pairs, amount.images
    total = Passes()
    if not open_cells:
        return total
    total.backbone = images
    shapes = group.outline.layer_shapes(cell.layer for cell in open_cells if cell.layer)
    half = group.model.precision != "fp32"
    if half and any(cell.method.full_precision and cell.layer for cell in open_cells):
        total.backbone += images
    gradients = {
        (cell.layer, cell.method.differentiated, half and cell.method.full_precision)
        for cell in open_cells
        if "gradients" in cell.method.needs
    }
    attentions = {(cell.layer, cell.method.differentiated) for cell in open_cells if "attentions" in cell.method.needs}
    total.backward = total.head = pairs * (len(gradients) + len(attentions))
    extra: set[tuple[object, ...]] = set()
    for cells in shared_cells(open_cells):
        first = cells[0]
        channels = shapes[first.layer][0] if first.layer else 0
        largest = max((cell.rank or 0 for cell in cells), default=0) or None
        cost = first.method.cost(largest, channels)
        passed = first.method.backbone_pass or (first.key,)
        if passed not in extra:
            extra.add(passed)
            total.backbone += (amount.targeted if first.method.needs & PER_PAIR else images) * cost.backbone
        if not first.method.needs & {"gradients", "attentions"}:
            total.backward += pairs * cost.backward
        total.head += pairs * cost.head
        total.method_scored += pairs * (cost.scored - cost.shared) + amount.targeted * cost.shared
    size = (group.outline.input_size, group.outline.input_size)
    for cell in open_cells:
        for planned in cell.metrics:
            if isinstance(planned.metric, ModelMetric):
                share = 1.0 if planned.metric.limit is None else min(1.0, planned.metric.limit / max(images, 1))
                total.metric_scored += round(pairs * share) * planned.metric.scored_per_pair(size)
                total.metric_scored += round(amount.chunks * share) * planned.metric.scored_per_batch(size)
    return total


def shared_cells(cells: Sequence[PlannedCell]) -> list[list[PlannedCell]]:
    """Group the cells that differ in rank alone, which a method explains in one go.

    Ranks of a method that are not nested share nothing, so each of its cells stands alone.
    """
    groups: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        shared = {**cell.info.identity, "rank": None} if cell.method.nested else cell.info.identity
        groups.setdefault(key_of(shared), []).append(cell)
    return list(groups.values())
