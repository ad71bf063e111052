"""From Hydra overrides to the settings of a run: sweeps, defaults that follow a choice, checks.

Overrides come in three forms: a choice of a group (``method=decomcam,gradcam``), an option of the
chosen (``method.channels=50``, which reaches those that have it), and a plain key (``rank=1,5``).
Comma lists sweep. This module composes and checks; it opens no data and loads no model.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from decomcam_bench.config import registry
from decomcam_bench.config.overrides import GROUPS, quoted, read_overrides
from decomcam_bench.core.errors import ConfigError, did_you_mean, unknown
from decomcam_bench.core.validation import check_choice

#: Methods that know nothing of the model, and the annotated region itself: floor and ceiling.
CONTROLS = ("random", "center", "oracle")


@dataclass(frozen=True)
class RunKeys:
    """The plain keys. Those of a setting may sweep; the others hold for the whole run.

    Attributes:
        layer: where CLIP is explained; None for the model's own choice.
        rank: number of components; None for the method's own choice.
        limit: first N images of the data set, or None.
        seed: of methods that draw at random.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: most images, and most pairs, through the model at a time.
        workers: processes that decode images; None to choose from the cores.
        results: root of the store.
        strict: stop at the first bad image or annotation.
        save_maps: keep the maps beside the records.
        controls: add :data:`CONTROLS`, and the first method on the model with random weights.
    """

    layer: str | None = None
    rank: int | None = None
    limit: int | None = None
    seed: int = 0
    precision: str = "fp32"
    device: str = "auto"
    batch_size: int = 32
    workers: int | None = None
    results: str = "results"
    strict: bool = False
    save_maps: bool = False
    controls: bool = False

    def __post_init__(self) -> None:
        for name, low in (("rank", 1), ("limit", 1), ("batch_size", 1), ("workers", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name}={value}: must be at least {low}")
        check_choice("precision", self.precision, ("fp32", "fp16", "bf16"))
        if not self.results:
            raise ConfigError("results=: name a folder for the store")


#: Plain keys that are part of a setting, and so may take several values in one run.
SWEPT_KEYS = ("layer", "rank", "limit", "seed", "precision")


@dataclass(frozen=True)
class Setting:
    """One combination of choices, before data and models are looked at.

    ``dataset``, ``model`` and ``method`` are composed configurations: ``name``, ``impl`` and options.
    ``changed`` names, by group, the options that an override set.
    """

    dataset: Mapping[str, Any]
    model: Mapping[str, Any]
    method: Mapping[str, Any]
    keys: RunKeys
    changed: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class MetricChoice:
    """One composed metric.

    Attributes:
        config: ``name``, ``impl`` and options.
        changed: options that an override set.
        asked: named by an override, not by the data set.
    """

    config: Mapping[str, Any]
    changed: Mapping[str, Any]
    asked: bool = True


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run, and for each data set (by position in ``settings``) its metrics."""

    settings: tuple[Setting, ...]
    metrics: tuple[tuple[MetricChoice, ...], ...]
    keys: RunKeys
    overrides: tuple[str, ...]


def load_config(overrides: Sequence[str] = ()) -> RunConfig:
    """Composes a run from Hydra overrides.

    Raises:
        ConfigError: for anything that is not known, of the wrong type, or out of range.
    """
    values = read_overrides(overrides)
    plain = {key: choices for key, choices in values.items() if key.partition(".")[0] not in GROUPS}
    names = [field.name for field in fields(RunKeys)]
    for key, choices in plain.items():
        if key not in names:
            raise ConfigError(unknown("key", key, (*GROUPS, *names)))
        if key not in SWEPT_KEYS and len(choices) > 1:
            raise ConfigError(f"{key}={','.join(map(str, choices))}: this key takes one value a run")
    key_sets = [_run_keys(combination) for combination in _product(plain)]

    options = {group: {k: v for k, v in values.items() if k.startswith(f"{group}.")} for group in GROUPS}
    reached: set[str] = set()
    datasets = _variants("dataset", _choices(values, "dataset", ["toybox"]), options["dataset"], reached)
    settings: list[Setting] = []
    metrics: list[tuple[MetricChoice, ...]] = []
    methods = _variants("method", _methods(values), options["method"], reached)
    if key_sets[0].controls:
        asked = {method["name"] for method, _ in methods}
        methods += _variants("method", [name for name in CONTROLS if name not in asked], {}, reached)
    for dataset, dataset_changed in datasets:
        model_names = _choices(values, "model", [dataset.get("default_model") or "toyclip"])
        model_options = dict(options["model"])
        model_names, model_options = _architectures(model_names, model_options)
        models = _variants("model", model_names, model_options, reached)
        metric_names = _choices(values, "metric", dataset.get("metrics") or ["pointing", "energy"])
        chosen = tuple(
            MetricChoice(config, changed, "metric" in values)
            for config, changed in _variants("metric", metric_names, options["metric"], reached)
        )
        evaluated = list(itertools.product(models, methods))
        if key_sets[0].controls:
            twins = {json.dumps(twin, sort_keys=True): (twin, changed) for twin, changed in map(untrained_twin, models)}
            evaluated += itertools.product(twins.values(), methods[:1])
        for ((model, model_changed), (method, method_changed)), keys in itertools.product(evaluated, key_sets):
            changed = {"dataset": dataset_changed, "model": model_changed, "method": method_changed}
            settings.append(Setting(dataset, model, method, keys, changed))
            metrics.append(chosen)
    for group in GROUPS:
        for key in options[group]:
            if key not in reached:
                default = map(str, values.get(f"{group}.impl", ["the default"]))
                chosen_names = ", ".join(_choices(values, group, [*default]))
                raise ConfigError(_no_such_option(group, key, chosen_names, values))
    return RunConfig(tuple(settings), tuple(metrics), key_sets[0], tuple(overrides))


def with_results(overrides: Sequence[str], results: str | Path | None) -> tuple[str, ...]:
    """Add the store as an override, unless the overrides name it.

    Raises:
        ConfigError: when the overrides name another store.
    """
    named = [word.partition("=")[2] for word in overrides if word.partition("=")[0] == "results"]
    if results is None or (named and named[-1] == str(results)):
        return tuple(overrides)
    if named:
        raise ConfigError(f"results={named[-1]}: the call also says results={str(results)!r}; name one store")
    return (*overrides, f"results={quoted(str(results))}")


def untrained_twin(model: tuple[dict[str, Any], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's twin with random weights, and what differs from its YAML."""
    config, changed = model
    options = getattr(registry.implementation("model", config["impl"]), "untrained", {})
    kept = {key: value for key, value in changed.items() if key not in options}
    return {**config, **options}, {**kept, **{key: value for key, value in options.items() if value}}


def resolved(config: RunConfig) -> str:
    """The resolved configuration as YAML, for people."""
    cells = []
    for setting, metrics in zip(config.settings, config.metrics, strict=True):
        cells.append(
            {
                "dataset": dict(setting.dataset),
                "model": dict(setting.model),
                "method": dict(setting.method),
                "metrics": [dict(metric.config) for metric in metrics],
                **{field.name: getattr(setting.keys, field.name) for field in fields(RunKeys)},
            }
        )
    return OmegaConf.to_yaml(OmegaConf.create(cells if len(cells) > 1 else cells[0]))


def _product(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def _run_keys(values: Mapping[str, Any]) -> RunKeys:
    """Checks types against :class:`RunKeys` on top of ``configs/config.yaml``."""
    base = {name: value for name, value in _compose({}).items() if name not in GROUPS}
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunKeys), base, dict(values))
        return RunKeys(**OmegaConf.to_container(merged))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        key = str(error.full_key or error.key)
        raise ConfigError(f"{key}={values.get(key)}: {str(error).splitlines()[0]}") from error


def _choices(values: Mapping[str, Sequence[Any]], group: str, default: Sequence[str]) -> list[str]:
    return [str(value) for value in values.get(group, default)]


def _methods(values: Mapping[str, Sequence[Any]]) -> list[str]:
    return _choices(values, "method", ["custom" if "method.impl" in values else "decomcam"])


def _architectures(names: Sequence[str], options: dict[str, list[Any]]) -> tuple[list[str], dict[str, list[Any]]]:
    """Lets ``model=ViT-B-16`` name an open_clip architecture without a YAML of its own."""
    known = registry.names("model")
    if all(name in known for name in names):
        return list(names), options
    import open_clip

    architectures = open_clip.list_models()
    for name in names:
        if name not in known and name not in architectures:
            near = did_you_mean(name, [*known, *architectures])
            raise ConfigError(
                f"unknown model '{name}'{near}; valid: {', '.join(known)}, or an architecture of open_clip "
                f"(`decomcam-bench list models` names them)"
            )
    if len(names) == 1:
        return ["openclip"], {"model.arch": [names[0]], **options}
    raise ConfigError("model: to sweep over open_clip architectures write model=openclip model.arch=A,B")


def _compose(choices: Mapping[str, str]) -> dict[str, Any]:
    """Hydra's composition of ``config.yaml`` with choices of groups."""
    return copy.deepcopy(_composed(tuple(choices.items())))


@cache
def _composed(choices: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    try:
        with initialize_config_dir(config_dir=str(registry.config_folder()), version_base="1.3"):
            config = compose("config", overrides=[f"{group}={name}" for group, name in choices])
        return {str(key): value for key, value in dict(OmegaConf.to_container(config)).items()}  # type: ignore[arg-type]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"configs: {str(error).splitlines()[0]}") from error


def _variants(
    group: str, names: Iterable[str], options: Mapping[str, Sequence[Any]], reached: set[str]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every chosen name with every combination of the options that it has, and what was changed."""
    variants = []
    for name in names:
        if name not in registry.names(group):
            raise ConfigError(unknown(group, name, registry.names(group)))
        base = _compose({group: name})[group]
        own = {key: choices for key, choices in options.items() if _has_option(group, base, options, key)}
        reached.update(own)
        for combination in _product(own):
            named = {key.partition(".")[2]: value for key, value in combination.items()}
            config = {**base, **named}
            # An option that is set to what it was has changed nothing: equal cells have equal labels.
            changed = {key: value for key, value in named.items() if key not in base or base[key] != value}
            if config.get("impl") == "???":
                raise ConfigError(f"{group}={name} needs {group}.impl=package.module:Class")
            if name == "custom" and group == "method":
                config["name"] = str(config["impl"]).rpartition(":")[2]
            if group == "dataset":
                registry.options(group, config)
            else:
                registry.build(group, config)
            variants.append((config, changed))
    return variants


def _has_option(group: str, base: Mapping[str, Any], options: Mapping[str, Sequence[Any]], key: str) -> bool:
    name = key.partition(".")[2]
    if name in base:
        return name not in registry.DESCRIPTIVE or name == "impl"
    path = options.get(f"{group}.impl", [base.get("impl")])[0]
    names = [field.name for field in fields(registry.implementation(group, str(path)))]
    return name in names and name not in registry.DESCRIPTIVE


def _no_such_option(group: str, key: str, chosen: str, values: Mapping[str, Sequence[Any]]) -> str:
    name = key.partition(".")[2]
    valid: list[str] = []
    own_code = f"{group}.impl" in values
    for choice in _choices(values, group, ["custom"] if own_code else registry.names(group)):
        config = registry.read(group, choice) if choice in registry.names(group) else {}
        impl = str(values.get(f"{group}.impl", [config.get("impl", "")])[0])
        own = [f.name for f in fields(registry.implementation(group, impl))] if ":" in impl else []
        valid += [option for option in (*config, *own) if option not in valid and option not in registry.DESCRIPTIVE]
    return f"{key}: {chosen} has no option '{name}'{did_you_mean(name, valid)}; valid: {', '.join(valid)}"
