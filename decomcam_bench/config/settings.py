"""Compose the settings of a run from Hydra overrides: sweeps, defaults that follow a choice, checks.

Overrides come in three forms: a choice of a group (``method=decomcam,gradcam``), an option of the
chosen (``method.channels=50``, which reaches those that have it), and a plain key (``rank=1,5``).
Comma lists sweep. This module composes and checks; it opens no data and loads no model.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from decomcam_bench.config import registry
from decomcam_bench.config.chosen import Options
from decomcam_bench.config.command_file import read_blocks
from decomcam_bench.config.overrides import GROUPS, quoted
from decomcam_bench.core.errors import ConfigError, listed, unknown
from decomcam_bench.core.validation import check_choice


@dataclass(frozen=True)
class RunKeys:
    """Hold the plain keys. Those of a setting may sweep; the others hold for the whole run.

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
        save_maps: store the maps next to the records.
        controls: add the controls (floor and ceiling), and the first method on the model with random weights.
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


#: How a switch is written.
_SWITCHES = ("true", "false", "yes", "no", "on", "off", "1", "0")
#: Plain keys that are part of a setting, and so may take several values in one run.
SWEPT_KEYS = ("layer", "rank", "limit", "seed", "precision")


@dataclass(frozen=True)
class Setting:
    """Hold one combination of choices, before data and models are opened.

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
    """Hold one composed metric.

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
    """Hold all settings of a run, and for each data set (by position in ``settings``) its metrics."""

    settings: tuple[Setting, ...]
    metrics: tuple[tuple[MetricChoice, ...], ...]
    keys: RunKeys
    overrides: tuple[str, ...]


def load_config(overrides: Sequence[str] = ()) -> RunConfig:
    """Compose a run from overrides.

    Args:
        overrides: ``key=value`` as on the command line, and ``@FILE`` for those that a file lists.

    Raises:
        ConfigError: for anything that is not known, of the wrong type, or out of range.
    """
    blocks = [_compose(values) for values in read_blocks(overrides)]
    return RunConfig(
        tuple(setting for settings, _ in blocks for setting in settings),
        tuple(chosen for _, metrics in blocks for chosen in metrics),
        blocks[0][0][0].keys,
        tuple(overrides),
    )


def _compose(values: Mapping[str, list[Any]]) -> tuple[list[Setting], list[tuple[MetricChoice, ...]]]:
    """Return the settings that values by key ask for, each with its metrics."""
    key_sets = _key_sets(values)
    options = Options(values)
    settings: list[Setting] = []
    metrics: list[tuple[MetricChoice, ...]] = []
    datasets = options.variants("dataset", _words(values, "dataset", [_base()["dataset"]]))
    methods = options.variants("method", _words(values, "method", [_base()["method"]]))
    controls = key_sets[0].controls
    if controls:
        asked = {method["name"] for method, _ in methods}
        methods += options.variants(
            "method", [name for name in registry.controls("blind", "annotation") if name not in asked], preset=False
        )
    for dataset, dataset_changed in datasets:
        models = options.variants("model", _words(values, "model", [_default_model(dataset)]))
        names = _words(values, "metric", dataset.get("metrics") or ["pointing", "energy"])
        chosen = tuple(MetricChoice(*variant, "metric" in values) for variant in options.variants("metric", names))
        evaluated = list(itertools.product(models, methods))
        if controls:
            twins = {json.dumps(twin, sort_keys=True): (twin, changed) for twin, changed in map(untrained_twin, models)}
            evaluated += itertools.product(twins.values(), methods[:1])
        for ((model, model_changed), (method, method_changed)), keys in itertools.product(evaluated, key_sets):
            changed = {"dataset": dataset_changed, "model": model_changed, "method": method_changed}
            settings.append(Setting(dataset, model, method, keys, changed))
            metrics.append(chosen)
    options.check()
    return settings, metrics


def _key_sets(values: Mapping[str, list[Any]]) -> list[RunKeys]:
    """Return one set of plain keys for each combination of their values."""
    plain = {key: choices for key, choices in values.items() if key not in GROUPS and "." not in key}
    names = [field.name for field in fields(RunKeys)]
    for key, choices in values.items():
        if key in plain and key not in names:
            raise ConfigError(unknown("key", key, (*GROUPS, *names)))
        if "." not in key and any(isinstance(value, list | dict) for value in choices):
            shown = ",".join(map(str, choices[0])) if isinstance(choices[0], list) else "VALUE"
            raise ConfigError(f"{key}={choices[0]}: takes no brackets; write {key}={shown}")
        if key in plain and key not in SWEPT_KEYS and len(choices) > 1:
            raise ConfigError(f"{key}={','.join(map(str, choices))}: this key takes one value per run")
    combinations = itertools.product(*plain.values())
    return [_run_keys(dict(zip(plain, combination, strict=True))) for combination in combinations]


def _words(values: Mapping[str, Sequence[Any]], group: str, default: Sequence[str]) -> list[str]:
    """Return the names of the chosen of a group; a class alone, ``method.impl=module:Class``, is one too."""
    found = [str(word) for word in values.get(group) or values.get(f"{group}.impl") or default]
    if any(word in ("", "None") for word in found):
        names = listed(registry.names(group))
        raise ConfigError(f"{group}={','.join(found)}: an empty name; write one or several of {names}")
    return found


def _default_model(dataset: Mapping[str, Any]) -> str:
    """Return the model of a data set that names none: the embedded one draws, all others photograph."""
    return str(dataset.get("default_model") or ("toyclip" if dataset["name"] == "toybox" else "rn50"))


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
    """Return the twin of a model with random weights, and what differs from its YAML."""
    config, changed = model
    options = getattr(registry.implementation("model", config["impl"]), "untrained", {})
    others = {key: value for key, value in changed.items() if key not in options}
    return {**config, **options}, {**others, **{key: value for key, value in options.items() if value}}


def resolved(config: RunConfig) -> str:
    """Return the resolved configuration as YAML, for people."""
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


def _run_keys(values: Mapping[str, Any]) -> RunKeys:
    """Check types against :class:`RunKeys` on top of ``configs/config.yaml``."""
    base = {name: value for name, value in _base().items() if name not in GROUPS}
    for key, value in values.items():
        if isinstance(getattr(RunKeys, key), bool) and str(value).lower() not in _SWITCHES:
            raise ConfigError(f"{key}={value}: must be true or false")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunKeys), base, dict(values))
        return RunKeys(**OmegaConf.to_container(merged))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        key = str(error.full_key or error.key)
        raise ConfigError(f"{key}={values.get(key)}: {registry.type_words(error)}") from error


@cache
def _base() -> dict[str, Any]:
    """Return ``configs/config.yaml``: default choices and plain keys."""
    return {str(key): value for key, value in dict(OmegaConf.load(registry.config_folder() / "config.yaml")).items()}
