"""The work plan: which cells a run has, what identifies them, and what they will cost.

Planning opens data sets and loads models (the key holds their fingerprints), but computes no map.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from decomcam_bench.config import registry
from decomcam_bench.config.settings import MetricChoice, RunConfig, Setting
from decomcam_bench.core.errors import ConfigError
from decomcam_bench.datasets.base import Dataset
from decomcam_bench.datasets.subsets import Selection, select
from decomcam_bench.engine.evidence import check_needs
from decomcam_bench.methods.base import Method
from decomcam_bench.metrics.base import Metric, ModelMetric
from decomcam_bench.models.base import ModelSource, hash_file
from decomcam_bench.models.clip import ClipModel, Passes, TextBank, resolve_device
from decomcam_bench.store.maps import suffices
from decomcam_bench.store.store import RECORDS, Cell, Store, key_of, part_size

#: Raised when preprocessing, towers or geometry change what a map is.
MODEL_VERSION = 2
_ANNOTATION = frozenset({"box", "mask"})
#: Difference of normalised text embeddings up to which texts are the same.
_SAME_TEXT = 1e-5
#: Options that say where something lies, not what it is.
PLACES = ("root", "cache_dir", "ids", "checkpoint")


@dataclass(frozen=True)
class PlannedMetric:
    """A metric of a cell: resolved for the data set, with its key and the labels of its columns."""

    key: str
    metric: Metric
    content: Mapping[str, Any]


@dataclass
class PlannedCell:
    """One cell of a run.

    Attributes:
        layer: canonical name; empty for a method that reads no layer.
        rank: None for a method without one.
        done: part numbers that the store already has, by stream.
        kept: part numbers whose maps the store has kept.
    """

    identity: Mapping[str, Any]
    display: Mapping[str, Any]
    layer: str
    method: Method
    rank: int | None
    metrics: list[PlannedMetric]
    cell: Cell | None = None
    done: dict[str, set[int]] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)

    @property
    def key(self) -> str:
        return key_of(self.identity)

    def streams(self, save_maps: bool) -> list[str]:
        return [RECORDS, *(["maps"] if save_maps else []), *(metric.key for metric in self.metrics)]

    def from_kept(self, part: int, save_maps: bool) -> bool:
        """Whether all that is missing of ``part`` follows from its kept maps, without the model."""
        missing = self.missing(part, save_maps)
        wanted = {metric.key: metric.metric for metric in self.metrics}
        return (
            all(stream in wanted and suffices(wanted[stream]) for stream in missing)
            and part in self.done.get(RECORDS, set())
            and part in self.kept
        )

    def to_compute(self, part: int, save_maps: bool) -> bool:
        """Whether something of ``part`` is missing that takes the model."""
        return bool(self.missing(part, save_maps)) and not self.from_kept(part, save_maps)

    def missing(self, part: int, save_maps: bool) -> list[str]:
        """Streams without part ``part``."""
        return [stream for stream in self.streams(save_maps) if part not in self.done.get(stream, set())]


@dataclass
class Group:
    """Cells over the same images and the same model: one sweep evaluates them together."""

    dataset: Dataset
    selection: Selection
    source: ModelSource
    model: ClipModel
    bank: TextBank
    cells: list[PlannedCell]
    seed: int

    @property
    def label(self) -> str:
        return f"{self.dataset.name} x {self.source.name}"

    @property
    def images(self) -> int:
        return len(self.selection.indices)

    @property
    def parts(self) -> int:
        """Number of parts that its records are sealed in."""
        return -(-self.images // part_size(self.images)) if self.images else 0


@dataclass
class Plan:
    """All groups of a run and the store that they write to."""

    groups: list[Group]
    store: Store
    config: RunConfig
    device: str

    @property
    def cells(self) -> list[PlannedCell]:
        return [cell for group in self.groups for cell in group.cells]


def make_plan(config: RunConfig) -> Plan:
    """Opens data and models and lists the cells, without repeating one.

    Raises:
        UserError: when data, weights or a layer cannot be had, or an option is wrong.
    """
    device = resolve_device(config.keys.device)
    store = Store(config.keys.results)
    datasets: dict[str, Dataset] = {}
    sources: dict[str, tuple[ModelSource, dict[str, Any]]] = {}
    models: dict[str, ClipModel] = {}
    groups: dict[str, Group] = {}
    for setting, choices in zip(config.settings, config.metrics, strict=True):
        dataset = _once(datasets, key_of(setting.dataset), lambda s=setting: registry.build("dataset", s.dataset))
        source, model_identity = _once(sources, key_of(setting.model), lambda s=setting: _source(s))
        model_key = key_of({"model": setting.model, "precision": setting.keys.precision})
        model = _once(models, model_key, lambda s=setting, m=source: m.load(device, s.keys.precision))
        group_key = key_of(
            {"dataset": setting.dataset, "model": model_key, "limit": setting.keys.limit, "seed": setting.keys.seed}
        )
        if group_key not in groups:
            selection = select(dataset, setting.keys.limit)
            bank = model.text_bank(dataset.prompts.texts(dataset), empty=dataset.prompts.empty(dataset))
            groups[group_key] = Group(dataset, selection, source, model, bank, [], setting.keys.seed)
        group = groups[group_key]
        if setting.keys.controls and not _possible(setting, dataset):
            continue
        cell = _plan_cell(setting, group, model_identity, choices, store)
        known = next((other for other in group.cells if other.key == cell.key), None)
        if known is None:
            group.cells.append(cell)
        else:
            known.metrics += [m for m in cell.metrics if m.key not in {other.key for other in known.metrics}]
    return Plan(list(groups.values()), store, config, device)


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
    store: Store,
) -> PlannedCell:
    method = _method(setting)
    layer = ""
    if method.uses_layer:
        layer = group.model.tower.canonical(setting.keys.layer or group.source.layer or group.model.tower.default_layer)
    check_needs(group.model, method, layer)
    check_texts(setting.method["name"], method, group.bank)
    rank = (setting.keys.rank or method.default_rank) if method.ranked else None
    keys = setting.keys
    identity = {
        "dataset": {
            **group.dataset.identity,
            "version": group.dataset.version,
            "fingerprint": group.dataset.fingerprint,
            "selection": group.selection.digest,
        },
        "prompts": group.dataset.prompt_identity,
        "model": {**model_identity, "version": MODEL_VERSION},
        "layer": layer,
        "method": {
            **_implementation(setting.method["impl"], method),
            **{name: _plain(value) for name, value in method.identity.items()},
        },
        "rank": rank,
        "precision": keys.precision,
        "seed": keys.seed,
    }
    seed = {"seed": keys.seed} if keys.seed else {}
    limit = {"limit": keys.limit} if keys.limit and keys.limit < group.selection.available else {}
    display = {
        "dataset": label(setting.dataset["name"], {**setting.changed["dataset"], **limit}),
        "model": model_label(setting),
        "layer": layer,
        "method": label(setting.method["name"], {**setting.changed["method"], **seed}),
        "rank": rank,
        "overrides": _repeat(setting),
    }
    usable = _usable(choices, group.dataset)
    metrics = [_plan_metric(choice, group.dataset, number) for number, choice in enumerate(usable)]
    planned = PlannedCell(identity, display, layer, method, rank, metrics)
    planned.cell = store.cell(planned.key)
    if planned.cell is not None:
        streams = planned.streams(keys.save_maps)
        planned.done = {stream: planned.cell.sealed(stream) for stream in streams}
        planned.kept = planned.cell.sealed("maps")
    return planned


def _method(setting: Setting) -> Method:
    method = registry.build("method", setting.method)
    if not isinstance(method, Method):
        raise ConfigError(f"method.impl={setting.method['impl']}: no subclass of decomcam_bench.methods.base.Method")
    return method


def _possible(setting: Setting, dataset: Dataset) -> bool:
    """Whether the data set has what a method reads of its annotation; the oracle needs some."""
    method = _method(setting)
    return "object_masks" not in method.needs or bool(dataset.available & _ANNOTATION)


def _usable(choices: Sequence[MetricChoice], dataset: Dataset) -> list[MetricChoice]:
    """The metrics that the data set's annotation allows.

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
    options = {f.name: _plain(getattr(metric, f.name)) for f in fields(metric) if f.init and f.name != "name"}
    identity = {**_implementation(choice.config["impl"], metric), **options}
    suffix = label(choice.config["name"], choice.changed).removeprefix(choice.config["name"])
    word = registry.word("metric", choice.config)
    own = [f"metric.impl={word}"] if ":" in word else []
    content = {
        "identity": identity,
        "name": choice.config["name"],
        "config": {**choice.config, **options},
        "overrides": [*own, *(f"metric.{key}={_word(value)}" for key, value in sorted(choice.changed.items()))],
        "position": position,
        "columns": [
            {**{f.name: getattr(column, f.name) for f in fields(column)}, "label": column.name + suffix}
            for column in metric.columns
        ],
    }
    return PlannedMetric(key_of(identity), metric, content)


def _implementation(path: str, made: Method | Metric) -> dict[str, Any]:
    """What identifies the code: its version; for code from elsewhere, its source file too."""
    identity: dict[str, Any] = {"impl": path, "version": made.version}
    if not path.startswith("decomcam_bench."):
        source = inspect.getsourcefile(type(made))
        identity["source"] = hash_file(source) if source else ""
    return identity


def _plain(value: Any) -> Any:
    """Tuples as lists, so that an identity is the same before and after JSON."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    raise ConfigError(f"an option of type {type(value).__name__} cannot be part of a cell key")


def label(name: str, changed: Mapping[str, Any]) -> str:
    """``name[key=value,...]`` with the options that differ from the YAML; places left out.

    Of a folder of maps the last part of its path is shown, to tell rows apart. Other code is an option
    like others, unless the name is that of its class.
    """
    named = {key: Path(str(value)).name if key == "dir" else value for key, value in changed.items()}
    if str(named.get("impl", "")).rpartition(":")[2] == name:
        named.pop("impl", None)
    shown = [f"{key}={value}" for key, value in sorted(named.items()) if key not in PLACES]
    return f"{name}[{','.join(shown)}]" if shown else name


def check_texts(name: str, method: Method, bank: TextBank) -> None:
    """Refuses a softmax over texts that cannot differ.

    Raises:
        ConfigError: for a single text, or texts that are all the same to the model.
    """
    if method.score != "softmax" or not method.needs & {"gradients", "score", "head"}:
        return
    texts = bank.embeddings.float()
    if len(texts) < 2 or bool((texts - texts[:1]).abs().max() < _SAME_TEXT):
        reason = "there is a single one" if len(texts) < 2 else "they are all the same to the model"
        raise ConfigError(
            f"method={name} scores by a softmax over the texts, and {reason}; give another text, or method.score=logits"
        )


def model_label(setting: Setting) -> str:
    """The model of a setting, with the options and the precision that differ from the default."""
    changed = {key: value for key, value in setting.changed["model"].items() if key != "arch"}
    if setting.keys.precision != "fp32":
        changed["precision"] = setting.keys.precision
    return label(setting.model["arch"] if setting.model["name"] == "openclip" else setting.model["name"], changed)


def _repeat(setting: Setting) -> list[str]:
    """Overrides that ask for this setting again; the path of a data root is left to the reader."""
    words = [f"{group}={registry.word(group, getattr(setting, group))}" for group in ("dataset", "model", "method")]
    for group, changed in setting.changed.items():
        kept = {key: value for key, value in sorted(changed.items()) if key not in ("root", "dir")}
        words += [f"{group}.{key}={_word(value)}" for key, value in kept.items()]
    for name in ("layer", "rank", "limit", "seed", "precision"):
        value = getattr(setting.keys, name)
        if value not in (None, 0, "fp32"):
            words.append(f"{name}={value}")
    return words


def _word(value: Any) -> str:
    """A value as an override writes it; a list is one value, not a sweep."""
    return "null" if value is None else str(value)


@dataclass
class Amount:
    """How much a group has to do.

    Attributes:
        images: images to load.
        targeted: those of them with at least one pair.
        pairs: pairs.
        chunks: chunks of pairs that are evaluated together, see :func:`chunks`.
    """

    images: int = 0
    targeted: int = 0
    pairs: int = 0
    chunks: int = 0


def chunks(image_of: Sequence[int], batch_size: int) -> list[range]:
    """Split pairs into chunks to evaluate together.

    The pairs of an image stay together, so that what does not depend on the text is computed once for
    them: a chunk has at most ``batch_size`` pairs, or all those of a single image.

    Args:
        image_of: the image of each pair, ascending.
    """
    starts = [p for p, image in enumerate(image_of) if p == 0 or image_of[p - 1] != image]
    ends = [*starts[1:], len(image_of)]
    spans: list[range] = []
    for start, end in zip(starts, ends, strict=False):
        if spans and end - spans[-1].start <= batch_size:
            spans[-1] = range(spans[-1].start, end)
        else:
            spans.append(range(start, end))
    return spans


def expected_passes(group: Group, amount: Amount, save_maps: bool = False) -> Passes:
    """Passes that the unfinished cells of a group need; those of metrics with a limit at most."""
    pairs, images = amount.pairs, amount.images
    open_cells = [cell for cell in group.cells if any(cell.to_compute(p, save_maps) for p in range(group.parts))]
    total = Passes()
    if not open_cells:
        return total
    total.backbone = images
    shapes = group.model.layer_shapes()
    gradients = {(cell.layer, cell.method.differentiated) for cell in open_cells if "gradients" in cell.method.needs}
    attentions = {(cell.layer, cell.method.differentiated) for cell in open_cells if "attentions" in cell.method.needs}
    total.backward = total.head = pairs * (len(gradients) + len(attentions))
    for cells in shared_cells(open_cells):
        first = cells[0]
        channels = shapes[first.layer][0] if first.layer else 0
        largest = max((cell.rank or 0 for cell in cells), default=0) or None
        cost = first.method.cost(largest, channels)
        total.backbone += images * cost.backbone
        total.head += pairs * cost.head
        total.method_scored += pairs * (cost.scored - cost.shared) + amount.targeted * cost.shared
    size = (group.model.input_size, group.model.input_size)
    for cell in open_cells:
        for planned in cell.metrics:
            if isinstance(planned.metric, ModelMetric):
                share = 1.0 if planned.metric.limit is None else min(1.0, planned.metric.limit / max(images, 1))
                total.metric_scored += round(pairs * share) * planned.metric.scored_per_pair(size)
                total.metric_scored += round(amount.chunks * share) * planned.metric.scored_per_batch(size)
    return total


def shared_cells(cells: Sequence[PlannedCell]) -> list[list[PlannedCell]]:
    """Cells that differ in rank alone, together: a method explains them in one go.

    Ranks of a method that are not nested share nothing, so each of its cells stands alone.
    """
    groups: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        shared = {**cell.identity, "rank": None} if cell.method.nested else cell.identity
        groups.setdefault(key_of(shared), []).append(cell)
    return list(groups.values())
